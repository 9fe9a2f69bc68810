"""Recorded episodes of whatever data set: what a list says of them, which of them are listed, and in which order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.flags import Flag, data_name
from robometer_rl.data.reading import EPISODE_DAMAGE, SourceError, Unreadable, unreadable
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.formats.conventions import views_of
from robometer_rl.formats.dataset import DatasetOptions, Labels, RecordedEpisode, RelabelDataset, StoredLabels
from robometer_rl.formats.label_lines import default_lines, read_label_lines
from robometer_rl.formats.rbm.reader import RbmConfig, read_rbm
from robometer_rl.formats.table import open_dataset
from robometer_rl.formats.trajectories import tiled
from robometer_rl.frames import FrameSequence
from robometer_rl.studio.notes import Said

__all__ = [
    "ORDERS",
    "OUTCOMES",
    "UNKNOWN",
    "Entry",
    "Episode",
    "Episodes",
    "Library",
    "Wanted",
    "chosen",
    "disagreement",
    "open_episodes_of",
]

UNKNOWN: Final = "not known"
"""Outcome of an episode of which nobody says how it ended."""

OUTCOMES: Final = (*get_args(QualityLabel), UNKNOWN)

_TRUE_PROGRESS: Final = {"successful": 1.0, "failure": 0.0}


@dataclass(frozen=True)
class Entry:
    """What a list says of an episode, without its frames.

    Attributes:
        key: Its name in the data set.
        task: The instruction.
        outcome: ``successful``, ``suboptimal``, ``failure`` or `UNKNOWN`.
        source: Where it comes from: the data source of a trajectory.
        frames: How many.
        partial_success: Graded outcome in [0, 1], where somebody has graded it.
        origin: Where it was recorded, see `Trajectory.source`; None where nobody says.
    """

    key: str
    task: str
    outcome: str
    source: str
    frames: int
    partial_success: float | None = None
    origin: str | None = None

    @property
    def about(self) -> str:
        """What answers of people are about."""
        return self.key


@dataclass(frozen=True, eq=False)
class Episode:
    """An episode to be shown.

    Attributes:
        entry: What the list says.
        cameras: (T, H, W, 3) RGB of each camera.
        true_success: (T,) bool; None if it is not known.
        true_progress: (T,) in [0, 1]; None if it is not known.
        tiled: Whether its pictures show several cameras, see `robometer_rl.tiles`.
        fps: Frames per second of the recording; None where nobody says.
        task_rewards: (T - 1,) or (T,) the rewards that were recorded; None if there are none.
        labels: What relabelling has written into the data set, or beside it.
    """

    entry: Entry
    cameras: Mapping[str, FrameSequence]
    true_success: NDArray[np.bool_] | None = None
    true_progress: NDArray[np.float32] | None = None
    tiled: bool = False
    fps: float | None = None
    task_rewards: NDArray[np.float64] | None = None
    labels: StoredLabels | None = None

    @property
    def frames(self) -> FrameSequence:
        """Of the first camera, which models are shown."""
        return next(iter(self.cameras.values()))


class Episodes:
    """A data set that can be browsed.

    Args:
        name: What pages call it.
        keys: Of its episodes, in its own order.
        entry: What the list says of an episode; it may take its time.
        read: Opens an episode.
        skipped: What is known not to be readable.

    Attributes:
        entries: Those that have been listed until now.
        skipped: Those that cannot be read.
    """

    def __init__(
        self,
        name: str,
        keys: Sequence[str],
        entry: Callable[[str], Entry],
        read: Callable[[str], Episode],
        skipped: Sequence[Unreadable] = (),
    ) -> None:
        self.name, self.keys = name, keys
        self.entries: list[Entry] = []
        self.skipped = list(skipped)
        self._entry, self._read = entry, read
        self._listed = 0
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[int]:
        """Lists what has not been listed yet, and says after each episode how many have been."""
        while self._listed < len(self.keys):
            with self._lock:
                if self._listed < len(self.keys):  # two pages may list at the same time
                    self._list(self.keys[self._listed])
                    self._listed += 1
            yield self._listed

    def _list(self, key: str) -> None:
        try:
            self.entries.append(self._entry(key))
        except EPISODE_DAMAGE as error:
            self.skipped.append(unreadable(key, error))

    def episode(self, key: str) -> Episode:
        """The episode called ``key``.

        Raises:
            ValueError: There is none, or it is damaged.
        """
        if key not in self.keys:
            raise ValueError(f"{self.name} has no episode {key!r}; choose one of the list")
        try:
            return self._read(key)
        except EPISODE_DAMAGE as error:
            raise ValueError(f"{key}: {unreadable(key, error).reason}") from error


class Library:
    """The data sets among what the studio was given, opened when they are first looked at.

    Args:
        places: Where they are.
        cameras: Those that are shown, of data sets that have several.
        tile: Whether they are shown in one picture, the first on top.
        tasks: The instruction of every episode, or several ways to say it, in place of those that data sets hold;
            stores and published data keep theirs.
    """

    def __init__(
        self,
        places: Sequence[Path],
        cameras: tuple[str, ...] = (),
        tile: bool = False,
        tasks: tuple[str, ...] = (),
    ) -> None:
        self._places = {data_name(place): place for place in places}
        self._shown = cameras, tile, tasks
        self._opened: dict[str, Episodes] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the places, whether they are data sets or not."""
        return tuple(self._places)

    def get(self, name: str | None) -> Episodes:
        """The data set called ``name``.

        Raises:
            ValueError: It is none that was given, or cannot be opened.
        """
        if name not in self._places:
            raise ValueError(f"no data set is chosen; the studio has {', '.join(self._places) or 'none: give --data'}")
        with self._lock:
            if name not in self._opened:
                self._opened[name] = open_episodes_of(self._places[name], *self._shown)
            return self._opened[name]


def open_episodes_of(
    path: Path, cameras: tuple[str, ...] = (), tile: bool = False, tasks: tuple[str, ...] = ()
) -> Episodes:
    """Opens a store, published data of Robometer, or a data set of any format that ``robometer-rl relabel`` labels.

    Args:
        path: Where it is.
        cameras: Those that are shown, of data sets that have several.
        tile: Whether they are shown in one picture. Stores and published data have one video of each episode, which
            is tiled or is not.
        tasks: The instruction of every episode, in place of those that the data set holds.

    Raises:
        SourceError: It is none of these, or has one camera that is to be tiled.
        StoreError: A store of another version.
    """
    if (path / "store.json").is_file():
        return _of_store(path)
    try:
        _, dataset = open_dataset(DatasetOptions(path, cameras, tasks, tile=tile))
    except SourceError as reason:
        try:
            return _of_published(path)
        except SourceError:
            raise reason from None
    views_of(path, dataset.cameras, tile)  # raises if there is nothing to tile
    return _of_dataset(data_name(path), dataset)


def _of_store(path: Path) -> Episodes:
    store = TrajectoryStore.open(path)
    columns = store.columns("task", "quality_label", "data_source", "frames_shape", "partial_success", "source")
    rows = zip(*(columns[name] for name in columns), strict=True)
    entries = {
        key: Entry(key, task, quality, source, shape[0], grade, origin)
        for key, task, quality, source, shape, grade, origin in rows
    }

    def entry(key: str) -> Entry:
        # A row that is left out of the columns is damaged: reading it says how.
        return entries[key] if key in entries else _entry_of(store[key])

    return Episodes(data_name(path), store.ids(), entry, lambda key: _of_trajectory(store[key]))


def _of_published(path: Path) -> Episodes:
    found: dict[str, Trajectory | Unreadable] = {}
    for each in read_rbm(RbmConfig(path)):
        found[each.id if isinstance(each, Trajectory) else each.name] = each

    def trajectory(key: str) -> Trajectory:
        each = found[key]
        if isinstance(each, Unreadable):
            raise ValueError(each.reason)
        return each

    return Episodes(
        data_name(path),
        tuple(found),
        lambda key: _entry_of(trajectory(key)),
        lambda key: _of_trajectory(trajectory(key)),
    )


def _entry_of(each: Trajectory) -> Entry:
    return Entry(each.id, each.task, each.quality_label, each.data_source, len(each), each.partial_success, each.source)


def _of_trajectory(each: Trajectory) -> Episode:
    # Without a frame rate: what a store holds may be every so many frames of a recording.
    return Episode(_entry_of(each), {"video": each.frames}, each.success, each.progress, each.tiled)


def _of_dataset(name: str, dataset: RelabelDataset) -> Episodes:
    @cache
    def lines() -> Labels | None:
        path = default_lines(dataset.options.path)
        return read_label_lines(path) if path.is_file() else None

    def beside(key: str) -> StoredLabels | None:
        found = lines()
        if found is None or key not in found.episodes:
            return None
        return StoredLabels(found.episodes[key], found.provenance)

    def entry(key: str) -> Entry:
        return _entry_of_recorded(name, dataset.episode(key))

    def read(key: str) -> Episode:
        recorded = dataset.episode(key)
        if dataset.options.tile:
            recorded = tiled(recorded)
        fps = recorded.facts.get("metadata", {}).get("fps")
        known = float(fps) if isinstance(fps, int | float) and 0 < fps < float("inf") else None
        return Episode(
            _entry_of_recorded(name, recorded),
            recorded.cameras,
            recorded.success_of_frames,
            tiled=dataset.options.tile,
            fps=known,
            task_rewards=recorded.task_rewards,
            labels=dataset.stored_labels(key) or beside(key),
        )

    return Episodes(name, tuple(dataset.keys), entry, read, dataset.skipped)


def _entry_of_recorded(name: str, recorded: RecordedEpisode) -> Entry:
    stated = {None: UNKNOWN, True: "successful", False: "failure"}[recorded.success]
    outcome = recorded.facts.get("quality_label") or stated
    return Entry(
        recorded.key,
        recorded.tasks[0],
        outcome,
        name,
        recorded.num_frames,
        recorded.facts.get("partial_success"),
        recorded.facts.get("source"),
    )


def disagreement(entry: Entry, said: Said | None) -> float:
    """How far the last progress that a model saw is from the outcome; NaN where one of them is not known.

    The outcome is the grade, where there is one, else 1 for a success and 0 for a failure.
    """
    truth = entry.partial_success if entry.partial_success is not None else _TRUE_PROGRESS.get(entry.outcome)
    return float("nan") if said is None or truth is None else abs(said.progress[-1] - truth)


def _paid_for_failing(entry: Entry, said: Said | None) -> float:
    """What an episode that is no success was paid."""
    return float("nan") if said is None or entry.outcome in ("successful", UNKNOWN) else said.paid


ORDERS: Final[Mapping[str, Callable[[Entry, Said | None], float] | None]] = {
    "as recorded": None,
    "paid most although it failed": _paid_for_failing,
    "furthest from its outcome": disagreement,
    "longest": lambda entry, _: entry.frames,
    "shortest": lambda entry, _: -entry.frames,
}
"""What a list can be ordered by: the value of an episode, the largest first; those without one come last."""


@dataclass(frozen=True)
class Wanted:
    """Which episodes are listed; what is empty does not restrict anything.

    Attributes:
        task: Of this instruction.
        outcome: Of this outcome.
        source: Of this source.
        text: With this in their name or instruction.
        least: With so many frames at least.
        most: With so many frames at most; 0 for any.
        flagged: Only flagged ones.
    """

    task: str = ""
    outcome: str = ""
    source: str = ""
    text: str = ""
    least: int = 0
    most: int = 0
    flagged: bool = False

    def fits(self, entry: Entry, flag: Flag | None) -> bool:
        """Whether an episode is one of them."""
        return (
            self.task in ("", entry.task)
            and self.outcome in ("", entry.outcome)
            and self.source in ("", entry.source)
            and self.text.casefold() in f"{entry.key}\n{entry.task}".casefold()
            and self.least <= entry.frames <= (self.most or entry.frames)
            and (not self.flagged or (flag is not None and flag.flagged))
        )


def chosen(
    entries: Sequence[Entry], wanted: Wanted, order: str, said: Mapping[str, Said], flags: Mapping[str, Flag]
) -> list[Entry]:
    """The entries that are wanted, in one of `ORDERS`.

    Args:
        entries: All there are.
        wanted: Which of them.
        order: A key of `ORDERS`.
        said: What a model said of some, by key.
        flags: Flags of some, by key.
    """
    found = [entry for entry in entries if wanted.fits(entry, flags.get(entry.key))]
    value = ORDERS[order]
    if value is None:
        return found
    values = np.array([value(entry, said.get(entry.key)) for entry in found], np.float64)
    places = np.argsort(np.where(np.isnan(values), np.inf, -values), kind="stable")
    return [found[place] for place in places.tolist()]
