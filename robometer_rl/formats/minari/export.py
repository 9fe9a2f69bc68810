"""``robometer-rl data export minari``: a store as a Minari data set, for what reads such.

A trajectory of T frames is an episode of T - 1 steps, the first frame being that of the reset:

===================== =================================================================================================
observations          Its frames, without loss: uint8 (T, H, W, 3)
actions               0: a store holds no actions, and Minari asks for some; the space has one action
rewards               1 for a step after which the task is done, else 0
terminations          Whether the task is done at the end
truncations           Whether it is not
infos                 ``success``, and ``state``, ``progress`` and ``distance`` where all trajectories have them
episode               ``task``, ``seed``, and what the store knows besides: ``quality_label``, ``data_source``, ...
===================== =================================================================================================

Where nobody judged single frames, a ``successful`` run is done in its last one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import tyro
from rich.progress import Progress

from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.extras import require
from robometer_rl.files import check_destination, new_directory
from robometer_rl.formats.exporting import chosen, common_shape, images, success_of
from robometer_rl.report.terminal import open_console

__all__ = ["MinariExportConfig", "export_minari"]

logger = logging.getLogger(__name__)

_PER_FRAME: Final = ("state", "progress", "distance")
_FACTS: Final = ("quality_label", "data_source", "partial_success", "skill", "split", "source", "is_robot")


@dataclass(frozen=True)
class MinariExportConfig:
    """Writes a store as a Minari data set, whose actions are all 0.

    Attributes:
        path: Directory of the store.
        output: Directory of the new data set; its name ends in a version, as in drawers-v0.
        split: Only trajectories of these splits; of all if none is named.
        data_sources: Only trajectories of these data sources; of all if none is named.
    """

    path: tyro.conf.Positional[Path]
    output: tyro.conf.Positional[Path]
    split: tuple[str, ...] = ()
    data_sources: tuple[str, ...] = ()


def export_minari(config: MinariExportConfig) -> int:
    """Writes the data set, which appears when it is whole. One episode must fit into memory.

    Returns:
        How many episodes it holds.

    Raises:
        StoreError: There is no store, none of its trajectories is wanted, or one is damaged.
        ValueError: Frames of several sizes, or a name that Minari does not take.
        FileExistsError: Something is at ``output``.
        ImportError: Minari is not installed.
    """
    names = require("minari.dataset.minari_dataset", "minari")
    try:
        names.parse_dataset_id(config.output.name)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{config.output} cannot be the directory of a Minari data set: its name must end in a version, as in "
            "drawers-v0"
        ) from error
    store, splits = chosen(config.path, config.split, config.data_sources)
    ids = list(splits)
    shape, infos = _in_common(store, ids)
    check_destination(config.output)
    with new_directory(config.output) as directory:
        _write(directory, config.output.name, store, ids, shape, infos)
    open_console().print(
        f"{len(ids)} episodes in {config.output}; next: robometer-rl relabel {config.output} gives them rewards",
        soft_wrap=True,
    )
    return len(ids)


def _in_common(store: TrajectoryStore, ids: Sequence[str]) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Height and width of all frames, and the names of what all trajectories know of every frame."""
    sizes: Counter[tuple[int, int]] = Counter()
    shapes: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for trajectory in (store[name] for name in ids):
        _, height, width, _ = trajectory.frames.shape
        sizes[height, width] += 1
        for name in _PER_FRAME:
            if (values := getattr(trajectory, name)) is not None:
                shapes[name, values.shape[1:]] += 1
    common = {name for (name, _), count in shapes.items() if count == len(ids)}
    left = sorted({name for name, _ in shapes} - common)
    if left:
        logger.warning("%s: left out, since not all trajectories have them in one shape", ", ".join(left))
    return common_shape(sizes), tuple(name for name in _PER_FRAME if name in common)


def _write(
    directory: Path, name: str, store: TrajectoryStore, ids: Sequence[str], shape: tuple[int, int], infos: Sequence[str]
) -> None:
    spaces = require("gymnasium", "minari").spaces
    storage = require("minari.dataset.minari_storage", "minari").MinariStorage.new(
        directory / "data",
        spaces.Box(0, 255, (*shape, 3), np.uint8),
        spaces.Discrete(1),
        data_format="hdf5",
        jpeg_encoding=False,
    )
    with Progress(console=open_console(stderr=True), transient=True) as progress:
        shown = enumerate(progress.track(ids, description="writing episodes"))
        storage.update_episodes(_episode(number, store[each], infos) for number, each in shown)
    storage.update_episode_metadata(_facts(store[each]) for each in ids)
    storage.update_metadata(
        {"dataset_id": name, "minari_version": version("minari"), "dataset_size": storage.get_size()}
    )


def _episode(number: int, trajectory: Trajectory, infos: Sequence[str]) -> Any:
    success = success_of(trajectory)
    steps = len(trajectory) - 1
    last = np.arange(steps) == steps - 1
    return require("minari.data_collector.episode_buffer", "minari").EpisodeBuffer(
        id=number,
        seed=trajectory.seed,
        observations=list(images(trajectory)),
        actions=[0] * steps,
        rewards=success[1:].astype(np.float64).tolist(),
        terminations=(last & success[-1]).tolist(),
        truncations=(last & ~success[-1]).tolist(),
        infos={"success": success.tolist(), **{name: list(getattr(trajectory, name)) for name in infos}},
    )


def _facts(trajectory: Trajectory) -> dict[str, Any]:
    """What HDF5 can keep as attributes of an episode."""
    facts = {name: getattr(trajectory, name) for name in _FACTS}
    known = {name: value for name, value in facts.items() if value is not None}
    return {"task": trajectory.task, "trajectory_id": trajectory.id, **known}
