"""A small dataset of every format, made by the library that it belongs to, for tests that hold for all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from robometer_rl.formats.dataset import DatasetOptions, Labels, LabelWriter, RelabelDataset, WriteMode
from robometer_rl.formats.table import open_dataset
from robometer_rl.relabeling.commands import relabel
from robometer_rl.relabeling.engine import Labeller
from robometer_rl.video import write_video
from tests.formats.hdf5 import aloha_files, maniskill_files
from tests.library import ROOT
from tests.relabeling.episodes import TASK, record, write_npz

FIXTURES = ROOT / "tests" / "fixtures"
OUTPUT = "labelled-v1"
"""A name that every format accepts."""


@dataclass(frozen=True)
class Kind:
    """A way to label a dataset.

    Attributes:
        make: Makes a dataset of about so many episodes at a path.
        cameras: Cameras to be shown.
        mode: How labels are written.
    """

    make: Callable[[Path, int], None]
    cameras: tuple[str, ...] = ()
    mode: WriteMode = "copy"

    def open(self, path: Path) -> tuple[RelabelDataset, LabelWriter]:
        """The dataset, and what writes its labels beside it, or to it."""
        kind, dataset = open_dataset(DatasetOptions(path, self.cameras, (TASK,)))
        return dataset, kind.writer(dataset, self.mode, None if self.mode == "in_place" else path.with_name(OUTPUT))

    def run(self, path: Path, labeller: Labeller, **options: Any) -> Labels | None:
        """Labels the dataset."""
        dataset, writer = self.open(path)
        return relabel(dataset, labeller, writer, **options)

    def output(self, path: Path) -> Path:
        """Where its labels go."""
        return path if self.mode == "in_place" else path.with_name(OUTPUT)


def make_npz(path: Path, episodes: int) -> None:
    write_npz(path, {f"{number:03d}": record(number % 9 + 1, number) for number in range(episodes)})


def make_videos(path: Path, episodes: int) -> None:
    path.mkdir()
    for number in range(min(episodes, 3)):
        write_video(path / f"take_{number}.mp4", record(number + 3, number, size=32).cameras["front"], fps=10)


def make_hdf5(path: Path, episodes: int) -> None:
    shutil.copy(next((FIXTURES / "libero_hdf5").glob("*.hdf5")), path)


def make_lerobot(path: Path, episodes: int) -> None:
    shutil.copytree(FIXTURES / "lerobot_v30", path)


def make_maniskill(path: Path, episodes: int) -> None:
    maniskill_files.record(path)


def make_aloha(path: Path, episodes: int) -> None:
    path.mkdir()
    for number in range(min(episodes, 3)):
        aloha_files.record(path / f"episode_{number}.hdf5", compress=number == 1)


def make_sb3(path: Path, episodes: int) -> None:
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.common.save_util import save_to_pkl

    recorded = [record(number % 9 + 1, number) for number in range(episodes)]
    size = sum(each.num_steps for each in recorded)
    buffer = ReplayBuffer(size + 1, spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Discrete(2))
    for each in recorded:
        frames = each.cameras["front"]
        for t in range(each.num_steps):
            done = np.array([t == each.num_steps - 1])
            buffer.add(frames[t], frames[t + 1], np.zeros((1, 1)), each.rewards[t : t + 1], done, [{}])
    save_to_pkl(path, buffer)


def make_minari(path: Path, episodes: int, data_format: str = "hdf5", size: int = 16) -> None:
    """Keeps its episodes in ``path`` itself, not in Minari's own place."""
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    space = spaces.Box(0, 255, (size, size, 3), np.uint8)
    data = path / "data"
    data.mkdir(parents=True)
    actions = spaces.Discrete(2)
    storage = MinariStorage.new(data, space, actions, data_format=data_format, jpeg_encoding=False)
    storage.update_metadata({"dataset_id": "arm/reach-v0", "minari_version": version("minari")})
    for number in range(min(episodes, 6)):
        recorded = record(number + 1, number, size=size)
        steps = recorded.num_steps
        storage.update_episodes(
            [
                EpisodeBuffer(
                    id=number,
                    seed=number,
                    observations=list(recorded.cameras["front"]),
                    actions=[0] * steps,
                    rewards=recorded.rewards.tolist(),
                    terminations=[False] * (steps - 1) + [True],
                    truncations=[False] * steps,
                    infos={"success": [False] * (steps + 1)},
                )
            ]
        )


def make_minari_arrow(path: Path, episodes: int) -> None:
    make_minari(path, episodes, "arrow")


KINDS: Mapping[str, Kind] = {
    "npz": Kind(make_npz),
    "npz_jsonl": Kind(make_npz, mode="jsonl"),
    "videos": Kind(make_videos, mode="sidecar"),
    "lerobot": Kind(make_lerobot, ("observation.images.top",)),
    "lerobot_sidecar": Kind(make_lerobot, ("observation.images.top",), "sidecar"),
    "hdf5": Kind(make_hdf5, ("agentview_rgb",)),
    "hdf5_in_place": Kind(make_hdf5, ("agentview_rgb",), "in_place"),
    "maniskill": Kind(make_maniskill),
    "aloha": Kind(make_aloha, ("cam_high",)),
    "minari": Kind(make_minari),
    "minari_arrow": Kind(make_minari_arrow),
    "sb3": Kind(make_sb3),
    "sb3_in_place": Kind(make_sb3, mode="in_place"),
}
"""By a name for tests."""

SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys(("hdf5", "hdf5_in_place"), ".hdf5"),
    **dict.fromkeys(("sb3", "sb3_in_place"), ".pkl"),
    "maniskill": ".h5",
}


def make(name: str, folder: Path, episodes: int = 7) -> Path:
    """Makes a dataset of a kind in a folder of its own, and returns its path."""
    folder.mkdir(parents=True)
    path = folder / f"data-v0{SUFFIXES.get(name, '')}"
    KINDS[name].make(path, episodes)
    return path


def content(path: Path) -> dict[str, bytes]:
    """All files, by their path below ``path``."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}
