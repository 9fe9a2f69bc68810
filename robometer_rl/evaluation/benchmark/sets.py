"""The episodes of a benchmark: recorded where a simulator makes them, read where somebody has published them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from robometer_rl.collecting.collect import CollectConfig, collect
from robometer_rl.data.published import published
from robometer_rl.data.reading import SourceError
from robometer_rl.data.trajectories import Described
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.data.verified import open_verified
from robometer_rl.evaluation.benchmark.definitions import Benchmark, Recordings
from robometer_rl.evaluation.published.questions import Dataset
from robometer_rl.formats.opening import IN_PLACE, open_episodes

__all__ = ["benchmark_sets", "manifest_of_episodes"]

logger = logging.getLogger(__name__)


def benchmark_sets(
    benchmark: Benchmark, data: Sequence[str], folder: Path, limit: int | None = None, workers: int = 2
) -> list[Dataset]:
    """The sets that a benchmark is about, each named.

    Args:
        benchmark: Which one.
        data: Places of its data, as `robometer_rl.formats.opening.open_episodes` takes them; of one whose data is
            recorded, none.
        folder: Where recordings go, and are kept.
        limit: Only so many tasks of each set, the first by name.
        workers: Processes that record.

    Raises:
        ValueError: Data where none is wanted, none where it is, or none that the benchmark is about.
        SourceError: There is no published data at a place, or nothing of it that is wanted.
        StoreError: There is no store at a place.
        ImportError: The simulator is not installed.
    """
    if benchmark.recordings:
        if data:
            raise ValueError(f"the benchmark {benchmark.name} records its own episodes; got the data {', '.join(data)}")
        return [_recorded(name, each, folder / name, limit, workers) for name, each in benchmark.recordings.items()]
    found = list(_published(benchmark, data) if benchmark.group else _given(benchmark, data))
    return [_limited(each, limit) for each in found]


def _recorded(name: str, recordings: Recordings, folder: Path, limit: int | None, workers: int) -> Dataset:
    tasks = tuple(sorted(recordings.tasks)[:limit])
    config = CollectConfig(
        output=folder,
        tasks=tasks,
        episodes=recordings.episodes,
        split=recordings.split,
        seed=recordings.seed,
        size=recordings.size,
        frame_interval=recordings.frame_interval,
        workers=workers,
    )
    collect(config)
    # A run with another limit may have left more.
    found = open_verified(folder, lambda each: each.metadata["environment"] in tasks)
    return Dataset((name,), tuple(found.trajectories))


def _published(benchmark: Benchmark, data: Sequence[str]) -> Iterator[Dataset]:
    """The sets of a group of published collections, as far as they are there."""
    assert benchmark.group is not None
    missing: list[str] = []
    found = 0
    for entry in published().groups[benchmark.group]["eval"]:
        keys = (entry,) if isinstance(entry, str) else entry
        try:
            episodes = open_episodes(data or (IN_PLACE,), _of_robots, keys).trajectories
        except SourceError as error:
            missing.append(str(error))
            continue
        found += 1
        yield Dataset(keys, tuple(episodes))
    if not found:
        raise SourceError(
            f"no set of the benchmark {benchmark.name} is there: {missing[0]}; get them with `robometer-rl data "
            f"download {benchmark.group}`, and say where they lie, as in --data {IN_PLACE}processed_datasets"
        )
    if missing:
        logger.warning("%d sets of %s are not there and left out: %s", len(missing), benchmark.name, missing[0])


def _given(benchmark: Benchmark, data: Sequence[str]) -> Iterator[Dataset]:
    """One set per place."""
    if not data:
        raise ValueError(
            f"the benchmark {benchmark.name} needs its data, which this package does not bring: --data with a store "
            "that `robometer-rl data import` made, rbm:FOLDER or roboreward:FOLDER"
        )
    for place in data:
        episodes = open_episodes(
            (place,), lambda each: _of_robots(each) and benchmark.split in (None, each.split)
        ).trajectories
        if not episodes:
            of = f" of the split {benchmark.split}" if benchmark.split else ""
            raise ValueError(f"{place} has no episodes of robots{of}, which the benchmark {benchmark.name} is about")
        name = benchmark.name if len(data) == 1 else f"{benchmark.name} {place.partition(':')[2] or place}"
        yield Dataset((name,), tuple(episodes))


def _of_robots(episode: Described) -> bool:
    return episode.is_robot


def _limited(dataset: Dataset, limit: int | None) -> Dataset:
    tasks = set(sorted({each.task for each in dataset.episodes})[:limit])
    return Dataset(dataset.names, tuple(each for each in dataset.episodes if each.task in tasks))


def manifest_of_episodes(episodes: Sequence[Trajectory]) -> str:
    """SHA-256 of ids, tasks, numbers of frames and the frame of first success, in the order of the ids."""
    listed = sorted((each.id, each.task, len(each), each.success_index) for each in episodes)
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
