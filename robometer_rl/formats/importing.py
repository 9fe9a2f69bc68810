"""``robometer-rl data import``: a data set in another format becomes a store, or is added to one.

An import can be interrupted and run again: episodes that the store holds are not written a second time. An episode
that cannot be read, or of which the store holds another version, is passed over, counted, and listed in a file in the
store. Labels that people gave in the studio say how episodes ended, whatever the data set says of it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from robometer_rl.data.judgements import labelled, names_of, outcomes_by_name
from robometer_rl.data.reading import Reading, Unreadable, unreadable
from robometer_rl.data.rows import SCALARS
from robometer_rl.data.store import TrajectoryStore, alone, seal_if_installed
from robometer_rl.data.subsampling import kept_frames, thin
from robometer_rl.data.trajectory import Trajectory, TrajectoryError
from robometer_rl.files import write_text
from robometer_rl.report.terminal import open_console

__all__ = [
    "ImportOptions",
    "ImportReport",
    "InPlaceOptions",
    "LabelOptions",
    "LabelledReading",
    "NothingImportedError",
    "import_and_report",
    "import_trajectories",
    "unreadable_path",
]

_LISTED = 20
_LIST = "unreadable.jsonl"
_COMPARED = tuple(name for name in SCALARS if name != "id")


class NothingImportedError(ValueError):
    """Not one episode of a data set could be read."""


@dataclass(frozen=True)
class ImportOptions:
    """What is kept of each episode, and where.

    Attributes:
        output: Directory of the store; what it already holds is kept and not imported again.
        every: Keep every so many frames, and always the last.
        max_frames: Keep at most so many frames of an episode, evenly spread, the first and the last among them.
        keep_videos: Keep frames that come from a video of their own in that video, instead of as PNG images: nothing is
            encoded again and little disk is used, but reading a frame decodes the video up to it.
    """

    output: Annotated[Path, tyro.conf.arg(metavar="STORE")]
    every: int = 1
    max_frames: int | None = None
    keep_videos: bool = False

    def __post_init__(self) -> None:
        kept_frames(2, self.every, self.max_frames)  # raises if they make no sense


@dataclass(frozen=True)
class InPlaceOptions(ImportOptions):
    """What is kept of each episode, and where; for data sets so large that nothing should be encoded again.

    Attributes:
        output: Directory of the store; what it already holds is kept and not imported again.
        every: Keep every so many frames, and always the last.
        max_frames: Keep at most so many frames of an episode, evenly spread, the first and the last among them.
        keep_videos: Keep videos as they are, linked where the file system can: nothing is encoded again, but reading a
            frame decodes the video up to it.
    """

    keep_videos: bool = True


@dataclass(frozen=True)
class LabelOptions:
    """What people said of the episodes.

    Attributes:
        labels: Labels that people gave in the studio, as in outputs/studio/labels.jsonl: how an episode ended is as
            most of them saw it, and as the data set says where nobody labelled it.
    """

    labels: Path | None = None


@dataclass
class ImportReport:
    """How an import went.

    Attributes:
        imported: Episodes written.
        present: Episodes that the store held already.
        unreadable: Episodes that could not be read, or stand in the store otherwise.
        outcomes: How many of those written ended how, by quality label.
    """

    imported: int = 0
    present: int = 0
    unreadable: list[Unreadable] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return f"{self.imported} imported, {self.present} already there, {len(self.unreadable)} unreadable"


class LabelledReading:
    """The episodes of a data set with the outcomes that people saw.

    Those of which nobody says how they ended are as they were read.

    Args:
        reading: The episodes.
        labels: A ``labels.jsonl``.
        data: What the studio called the data set, see `robometer_rl.data.flags.data_name`.

    Raises:
        DocumentError: A line is no label; the message names it.
        ValueError: There are no labels of this data set.
        OSError: The file cannot be read.
    """

    def __init__(self, reading: Reading, labels: Path, data: str) -> None:
        self._reading = reading
        self._outcomes, self._disputed = outcomes_by_name(labels, data)
        self._used: set[int] = set()
        self._labelled = self._others = 0

    def __iter__(self) -> Reading:
        for episode in self._reading:
            yield self._judged(episode)

    def __str__(self) -> str:
        """How many episodes were labelled, and which labels were of no use."""
        outcomes = {id(outcome): outcome for outcome in self._outcomes.values()}
        said = [f"{self._labelled} episodes are as people labelled them, {self._others} as the data set has them"]
        if self._disputed:
            said.append(f"people disagree on {len(self._disputed)} ({', '.join(self._disputed[:_LISTED])})")
        if unused := len(outcomes) - len(self._used):
            said.append(f"{unused} labels are of episodes that are not in the data set")
        return "; ".join(said)

    def _judged(self, episode: Trajectory | Unreadable) -> Trajectory | Unreadable:
        if isinstance(episode, Unreadable):
            if episode.given is None:
                return episode
            try:
                made = episode.given("failure")  # until it is known who said what
            except ValueError as error:
                return unreadable(episode.name, error)
        else:
            made = episode
        found = (self._outcomes.get(name) for name in names_of(made.id, made.source, made.task))
        outcome = next((each for each in found if each is not None), None)
        if outcome is None:
            self._others += not isinstance(episode, Unreadable)
            return episode
        self._used.add(id(outcome))
        try:
            made = labelled(made, outcome)
        except TrajectoryError as error:
            return Unreadable(made.source or made.id, str(error))
        self._labelled += 1
        return made


def import_trajectories(reading: Reading, options: ImportOptions) -> ImportReport:
    """Writes the episodes of a data set into a store, and seals it.

    Args:
        reading: What a reader of `robometer_rl.formats` yields.
        options: What is kept, and where.

    Returns:
        The counts. ``unreadable`` is also written to `unreadable_path`, after an interruption, too, in place of the
        list of the import before.

    Raises:
        StoreError: ``output`` is a directory with something else in it, or another import into it is running.
        NothingImportedError: The store holds not one episode of the data set.
    """
    store = TrajectoryStore.create(options.output)
    with alone(store, "an import"):  # a second one would take the place of the list, and count what this one writes
        report = _add_all(reading, store, options)
        if not report.imported + report.present:
            raise NothingImportedError(f"no episode could be imported into {options.output}: {_first_reason(report)}")
        seal_if_installed(store)
    return report


def _add_all(reading: Reading, store: TrajectoryStore, options: ImportOptions) -> ImportReport:
    importer = _Importer(store, options)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    try:
        with Progress(*columns, console=open_console(stderr=True)) as progress:
            bar = progress.add_task("reading", total=None)
            for episode in reading:
                importer.add(episode)
                progress.update(bar, description=str(importer.report))
    finally:
        _write_list(unreadable_path(options.output), importer.report.unreadable)
    return importer.report


def import_and_report(reading: Reading, options: ImportOptions, people: LabelOptions, data: str) -> None:
    """Imports, and prints the counts, the first unreadable episodes, and where all of them are listed.

    Args:
        reading: What a reader of `robometer_rl.formats` yields.
        options: What is kept, and where.
        people: What people said of the episodes.
        data: What the studio called the data set.
    """
    labels = None if people.labels is None else LabelledReading(reading, people.labels, data)
    report, output = import_trajectories(reading if labels is None else iter(labels), options), options.output
    console = open_console()
    console.print(f"{report} ({output})", soft_wrap=True)
    if report.outcomes:
        console.print(f"imported: {', '.join(f'{count} {name}' for name, count in report.outcomes.most_common())}")
    if labels is not None:
        console.print(f"{labels}", soft_wrap=True)
        if report.present:
            console.print("what was there already stays as it was: a new store takes the labels", soft_wrap=True)
    if report.unreadable:
        table = Table("unreadable episode", "what is wrong")
        for entry in report.unreadable[:_LISTED]:
            table.add_row(entry.name, entry.reason)
        console.print(table)
        console.print(f"all {len(report.unreadable)} are listed in {unreadable_path(output)}", soft_wrap=True)
    console.print(f"next: robometer-rl data inspect {output} draws a contact sheet; look at it", soft_wrap=True)


def unreadable_path(output: Path) -> Path:
    """Where the last import into the store at ``output`` lists what it passed over, one JSON object a line.

    It is in the store and not beside it, where a store may have no name (``.``) and others no right to write.
    """
    return output / _LIST


class _Importer:
    """Adds episodes to a store and counts what became of them."""

    def __init__(self, store: TrajectoryStore, options: ImportOptions) -> None:
        self.store = store
        self.report = ImportReport()
        self._options = options
        held = store.columns(*_COMPARED, "frames_shape")
        rows = zip(*(held[name] for name in (*_COMPARED, "frames_shape")), strict=True)
        self._held: dict[str, tuple[Any, ...]] = dict(zip(held["id"], rows, strict=True))
        self._seen: set[str] = set()

    def add(self, episode: Trajectory | Unreadable) -> None:
        """Writes one episode if the store lacks it, and notes it if it cannot be read."""
        problem = episode if isinstance(episode, Unreadable) else self._problem(episode)
        if problem is not None:
            self.report.unreadable.append(problem)

    def _problem(self, episode: Trajectory) -> Unreadable | None:
        """Writes an episode; what is wrong with it if that cannot be done."""
        name = episode.source or episode.id
        if episode.id in self._seen:
            return Unreadable(name, f"another episode of this data set has the id {episode.id!r}, too")
        self._seen.add(episode.id)
        if episode.id in self.store:
            difference = self._difference(episode)
            if difference is None:
                self.report.present += 1
                return None
            return Unreadable(name, f"the store holds another trajectory {episode.id!r}: {difference}")
        try:
            thinned = thin(episode, self._options.every, self._options.max_frames)
            self.store.append(thinned, keep_video=self._options.keep_videos)
        except ValueError as error:  # whatever decodes frames, checks them and writes rows has errors of this kind
            return Unreadable(name, str(error))
        self.report.imported += 1
        self.report.outcomes[episode.quality_label] += 1
        return None

    def _difference(self, episode: Trajectory) -> str | None:
        """What is not as in the store, which holds the id; pixels and values per frame are not compared."""
        if episode.id not in self._held:
            return "its row there is damaged"
        kept = len(kept_frames(len(episode), self._options.every, self._options.max_frames))
        shape = [kept, *episode.size, 3]
        found = (*(getattr(episode, name) for name in _COMPARED), shape)
        for name, there, here in zip((*_COMPARED, "shape"), self._held[episode.id], found, strict=True):
            if there != here:
                return f"{name} {there!r} there and {here!r} here"
        return None


def _write_list(path: Path, unreadable: list[Unreadable]) -> None:
    if unreadable:
        write_text(path, "".join(json.dumps(entry.as_dict(), ensure_ascii=False) + "\n" for entry in unreadable))
    else:
        path.unlink(missing_ok=True)  # of an import before this one


def _first_reason(report: ImportReport) -> str:
    if not report.unreadable:
        return "the data set is empty"
    first = report.unreadable[0]
    return f"{len(report.unreadable)} are unreadable, the first, {first.name}, because {first.reason}"
