"""``robometer-rl data export minari``: a store as a Minari data set, for what reads such.

A trajectory of T frames is an episode of T - 1 steps, the first frame being that of the reset:

===================== =================================================================================================
observations          Its frames, without loss: uint8 (T, H, W, 3)
actions               Its actions, where all trajectories have some of one width: those that lead to a frame. Else 0,
                      since Minari asks for some; the space has one action then
rewards               1 for a step after which the task is done, else 0
terminations          Whether the task is done at the end
truncations           Whether it is not
infos                 ``success``, and ``state``, ``proprioception``, ``progress`` and ``distance`` where all have them
episode               ``task``, ``seed``, and what the store knows besides: ``quality_label``, ``data_source``, ...
===================== =================================================================================================

Where nobody judged single frames, a ``successful`` run is done in its last one. Stores know no bounds of actions: their
space is a box without any, of float32 where that holds them exactly, or as many discrete actions as the source had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.progress import Progress

from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import DISCRETE_ACTIONS, Trajectory
from robometer_rl.extras import require
from robometer_rl.files import check_destination, new_directory
from robometer_rl.formats.exporting import Fields, chosen, common_shape, images, success_of
from robometer_rl.report.terminal import open_console

__all__ = ["MinariExportConfig", "export_minari"]

_PER_FRAME: Final = ("state", "proprioception", "progress", "distance")
_FACTS: Final = ("quality_label", "data_source", "partial_success", "skill", "split", "source", "is_robot")


@dataclass(frozen=True)
class MinariExportConfig:
    """Writes a store as a Minari data set; actions are all 0 unless all trajectories have some.

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
    common = _in_common(store, ids)
    check_destination(config.output)
    with new_directory(config.output) as directory:
        _write(directory, config.output.name, store, ids, common)
    open_console().print(
        f"{len(ids)} episodes in {config.output}; next: robometer-rl relabel {config.output} gives them rewards",
        soft_wrap=True,
    )
    return len(ids)


class _Common(NamedTuple):
    """What all trajectories have in common.

    Attributes:
        shape: Height and width of the frames.
        infos: Names of what they know of every frame.
        actions: The space of their actions; None if not all have some of one width.
    """

    shape: tuple[int, int]
    infos: tuple[str, ...]
    actions: Any


def _in_common(store: TrajectoryStore, ids: Sequence[str]) -> _Common:
    spaces = require("gymnasium", "minari").spaces
    sizes: Counter[tuple[int, int]] = Counter()
    choices: Counter[int | None] = Counter()
    fields, is_single = Fields("actions", *_PER_FRAME), True
    for trajectory in (store[name] for name in ids):
        _, height, width, _ = trajectory.frames.shape
        sizes[height, width] += 1
        fields.add(trajectory)
        if trajectory.actions is not None:
            choices[_choices(trajectory)] += 1
            is_single &= np.array_equal(trajectory.actions, trajectory.actions.astype(np.float32))
    found = fields.common()
    shape = found.pop("actions", None)
    actions = None if shape is None else spaces.Box(-np.inf, np.inf, shape, np.float32 if is_single else np.float64)
    if actions is not None and len(choices) == 1 and (count := next(iter(choices))) is not None:
        actions = spaces.Discrete(count)
    return _Common(common_shape(sizes), tuple(found), actions)


def _choices(trajectory: Trajectory) -> int | None:
    """Of how many actions each of a trajectory is chosen, as its metadata say; None if its actions are not of that."""
    count, actions = trajectory.metadata.get(DISCRETE_ACTIONS), trajectory.actions
    if not isinstance(count, int) or actions is None or actions.shape[1] != 1:
        return None
    return count if np.isin(actions, np.arange(count)).all() else None


def _write(directory: Path, name: str, store: TrajectoryStore, ids: Sequence[str], common: _Common) -> None:
    spaces = require("gymnasium", "minari").spaces
    storage = require("minari.dataset.minari_storage", "minari").MinariStorage.new(
        directory / "data",
        spaces.Box(0, 255, (*common.shape, 3), np.uint8),
        common.actions or spaces.Discrete(1),
        data_format="hdf5",
        jpeg_encoding=False,
    )
    with Progress(console=open_console(stderr=True), transient=True) as progress:
        shown = enumerate(progress.track(ids, description="writing episodes"))
        storage.update_episodes(_episode(number, store[each], common) for number, each in shown)
    storage.update_episode_metadata(_facts(store[each]) for each in ids)
    storage.update_metadata(
        {"dataset_id": name, "minari_version": version("minari"), "dataset_size": storage.get_size()}
    )


def _episode(number: int, trajectory: Trajectory, common: _Common) -> Any:
    success = success_of(trajectory)
    steps = len(trajectory) - 1
    last = np.arange(steps) == steps - 1
    return require("minari.data_collector.episode_buffer", "minari").EpisodeBuffer(
        id=number,
        seed=trajectory.seed,
        observations=list(images(trajectory)),
        actions=list(_actions(trajectory, common.actions)),
        rewards=success[1:].astype(np.float64).tolist(),
        terminations=(last & success[-1]).tolist(),
        truncations=(last & ~success[-1]).tolist(),
        infos={"success": success.tolist(), **{name: list(getattr(trajectory, name)) for name in common.infos}},
    )


def _actions(trajectory: Trajectory, space: Any) -> NDArray[Any]:
    """(T - 1, ...) those that lead to a frame."""
    steps = len(trajectory) - 1
    if space is None or trajectory.actions is None:
        return np.zeros(steps, np.int64)
    return trajectory.actions[:steps].astype(space.dtype).reshape(steps, *space.shape)


def _facts(trajectory: Trajectory) -> dict[str, Any]:
    """What HDF5 can keep as attributes of an episode."""
    facts = {name: getattr(trajectory, name) for name in _FACTS}
    known = {name: value for name, value in facts.items() if value is not None}
    return {"task": trajectory.task, "trajectory_id": trajectory.id, **known}
