"""``robometer-rl data export rbm``: a store as a repository of videos, which the reference's own code reads.

::

    OUT/README.md                                  card, by which ``load_dataset(OUT, SUBSET)`` finds the rows
    OUT/SUBSET/train-00000-of-00001.parquet        one row per trajectory
    OUT/SUBSET/batch_0000/trajectory_0000.mp4      its frames, a thousand to a folder

A row has the columns of the published repositories: id, task, lang_vector, data_source, frames, is_robot,
quality_label and partial_success. There are none for what is known of single frames, splits, paraphrases and metadata,
which stay behind. ``lang_vector`` is zero; the reference's preprocessing does not read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any, Final

import tyro
from rich.progress import Progress

from robometer_rl.data.frame_files import link_file
from robometer_rl.data.store import StoredFrames, TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.extras import require
from robometer_rl.files import check_destination, new_directory, write_text
from robometer_rl.formats.exporting import chosen, images, stated_rate
from robometer_rl.ranges import require_numbers
from robometer_rl.report.terminal import open_console
from robometer_rl.video import write_video

__all__ = ["RbmExportConfig", "export_rbm"]

_LANG_VECTOR: Final = 384  # of all-MiniLM-L6-v2
_PER_FOLDER: Final = 1000
_PER_FILE: Final = 100_000  # rows
_SUBSET_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789_-."


@dataclass(frozen=True)
class RbmExportConfig:
    """Writes a store as a repository of videos in the published layout.

    Attributes:
        path: Directory of the store.
        output: Directory of the new repository; its name is that of the repository on the Hub.
        subset: Name of the subset, in small letters.
        split: Only trajectories of these splits; of all if none is named. The layout has one split, train.
        fps: Frames per second of videos whose source does not say.
        data_sources: Only trajectories of these data sources; of all if none is named.
    """

    path: tyro.conf.Positional[Path]
    output: tyro.conf.Positional[Path]
    subset: str = "default"
    split: tuple[str, ...] = ()
    fps: float = 10.0
    data_sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_numbers(self, "(0, 1000]", "fps")
        if not self.subset or self.subset[0] == "." or set(self.subset) - set(_SUBSET_LETTERS):
            raise ValueError(f"got the subset {self.subset!r}; expected small letters, digits, '_', '-' and '.'")


def export_rbm(config: RbmExportConfig) -> int:
    """Writes the repository, which appears when it is whole.

    Videos that a store keeps as they came are linked where the file system can; other frames are encoded as H.264,
    which is not without loss.

    Returns:
        How many trajectories it holds.

    Raises:
        StoreError: There is no store, none of its trajectories is wanted, or one is damaged.
        FileExistsError: Something is at ``output``.
        ImportError: datasets is not installed.
    """
    store, wanted = chosen(config.path, config.split, config.data_sources)
    ids = list(wanted)
    schema = _features().arrow_schema
    check_destination(config.output)
    with new_directory(config.output) as directory:
        (directory / config.subset).mkdir()
        files = ceil(len(ids) / _PER_FILE)
        rows = _rows(store, ids, directory, config)
        for number in range(files):
            part = list(islice(rows, _PER_FILE))
            name = f"train-{number:05d}-of-{files:05d}.parquet"
            table = require("pyarrow", "data").Table.from_pylist(part, schema)
            require("pyarrow.parquet", "data").write_table(table, directory / config.subset / name)
        write_text(directory / "README.md", _card(config.subset))
    open_console().print(
        f"{len(ids)} trajectories in {config.output}; to share them: hf upload-large-folder OWNER/NAME {config.output} "
        "--repo-type dataset",
        soft_wrap=True,
    )
    return len(ids)


def _features() -> Any:
    datasets = require("datasets", "data")
    text = datasets.Value("string")
    return datasets.Features(
        {
            "id": text,
            "task": text,
            "lang_vector": datasets.List(datasets.Value("float32")),
            "data_source": text,
            "frames": text,
            "is_robot": datasets.Value("bool"),
            "quality_label": text,
            "partial_success": datasets.Value("float32"),
        }
    )


def _rows(
    store: TrajectoryStore, ids: Sequence[str], directory: Path, config: RbmExportConfig
) -> Iterator[dict[str, Any]]:
    """The rows, whose videos are written on the way."""
    with Progress(console=open_console(stderr=True), transient=True) as progress:
        for number, name in enumerate(progress.track(ids, description="writing videos")):
            trajectory = store[name]
            video = f"{config.subset}/batch_{number // _PER_FOLDER:04d}/trajectory_{number:04d}.mp4"
            (directory / video).parent.mkdir(exist_ok=True)
            _write(directory / video, trajectory, config.fps)
            yield {
                "id": trajectory.id,
                "task": trajectory.task,
                "lang_vector": [0.0] * _LANG_VECTOR,
                "data_source": trajectory.data_source,
                "frames": video,
                "is_robot": trajectory.is_robot,
                "quality_label": trajectory.quality_label,
                "partial_success": trajectory.partial_success,
            }


def _write(path: Path, trajectory: Trajectory, fps: float) -> None:
    frames = trajectory.frames
    assert isinstance(frames, StoredFrames)
    kept = frames.whole_video()
    if kept is not None and Path(str(kept)).suffix == ".mp4":
        link_file(path, kept)
        return
    write_video(path, images(trajectory), stated_rate(trajectory.metadata) or fps)


def _card(subset: str) -> str:
    """The page of the repository: only what its readers need to find the rows."""
    return f"""---
configs:
- config_name: {subset}
  data_files:
  - split: train
    path: {subset}/train-*
tags:
- robotics
- reward-model
---

Trajectories in the layout of Robometer's training data: rows in Parquet, and the videos that they name beside them.
"""
