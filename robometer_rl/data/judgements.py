"""What people said of episodes in the studio: of one alone, how it ended; of two, which is better.

A line of ``labels.jsonl`` is a `ClipLabel`, one of ``preferences.jsonl`` a `Judgement`. Lines stand in the order in
which people were asked, and of two lines of one person about one thing the later one counts. What several people said
is settled by the majority; where there is none, nothing is.

An episode is known by the name of its data set, see `robometer_rl.data.flags.data_name`, and by its own name there, or
by its source and instruction: an import gives other names than the data set itself has.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, Protocol, TypeVar, get_args

import numpy as np

from robometer_rl.data.labels import group_key
from robometer_rl.data.trajectory import QualityLabel, Trajectory, TrajectoryError
from robometer_rl.documents import brief, read_records
from robometer_rl.ranges import require_counts, require_numbers, require_texts

__all__ = [
    "LABELS",
    "PREFERENCES",
    "Answer",
    "ClipAnswer",
    "ClipLabel",
    "Compared",
    "Judgement",
    "Outcome",
    "category_of",
    "compared",
    "drawn_number",
    "labelled",
    "latest",
    "names_of",
    "outcomes_by_name",
    "settled",
]

LABELS: Final = "labels.jsonl"
"""The file of a folder of notes that clips' labels are in."""

PREFERENCES: Final = "preferences.jsonl"
"""The file of a folder of notes that preferences are in."""

Answer = Literal["left", "right", "equal", "skip", "undo"]
ClipAnswer = Literal["successful", "suboptimal", "failure", "skip", "undo"]

_LABELLED_BY: Final = "labelled_by"


@dataclass(frozen=True)
class Judgement:
    """What somebody said of two episodes of one instruction, in the order in which they were shown.

    Attributes:
        data: The data set.
        task: The instruction.
        left: The episode on the left.
        right: The one on the right.
        answer: Which is better; ``skip`` says nothing, and ``undo`` takes back what was said before.
        annotator: Who said it.
        left_source: Where the episode on the left was recorded, see `Trajectory.source`.
        right_source: The same of the one on the right.
    """

    data: str
    task: str
    left: str
    right: str
    answer: Answer
    annotator: str
    left_source: str | None = None
    right_source: str | None = None

    def __post_init__(self) -> None:
        require_texts(self, "data", "task", "left", "right", "annotator")
        _require_answer(self.answer, Answer)

    @property
    def about(self) -> frozenset[str]:
        """Both episodes, in whichever order."""
        return frozenset((self.left, self.right))

    @property
    def better(self) -> str | None:
        """The episode that is better; None where none is, or nobody said."""
        return {"left": self.left, "right": self.right}.get(self.answer)

    @property
    def is_given(self) -> bool:
        """Whether something was said of the episodes."""
        return self.answer in ("left", "right", "equal")

    @property
    def category(self) -> str:
        """The answer, whichever stood on the left; see `category_of`."""
        return category_of(self.about, self.better)


def category_of(pair: frozenset[str], better: str | None) -> str:
    """Which of two episodes is better, as ``first``, ``second`` or ``equal``.

    The first one is drawn, the same at every time: names in alphabetical order often stand in the order of skill, and
    what all answer always is no agreement beyond chance.

    Args:
        pair: Both episodes.
        better: One of them, or None if none is.
    """
    if better is None:
        return "equal"
    first, _ = sorted(pair, key=lambda name: drawn_number(*sorted(pair), name))
    return "first" if better == first else "second"


def drawn_number(*words: str) -> int:
    """A number that looks drawn, and is the same at every time for the same words."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).digest()[:8])


@dataclass(frozen=True)
class ClipLabel:
    """What somebody said of one episode.

    Attributes:
        data: The data set.
        episode: The episode in it.
        task: Its instruction.
        frames: T, how many it was shown with.
        answer: How it ended; ``skip`` says nothing, and ``undo`` takes back what was said before.
        annotator: Who said it.
        success_frame: The first frame in which the task is done, counted from 0; it stays done from then on.
        partial_success: How far it got, in [0, 1].
        note: Whatever else was said.
        source: Where it was recorded, see `Trajectory.source`.
        fps: Frames per second of the recording, if known.
    """

    data: str
    episode: str
    task: str
    frames: int
    answer: ClipAnswer
    annotator: str
    success_frame: int | None = None
    partial_success: float | None = None
    note: str = ""
    source: str | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        require_texts(self, "data", "episode", "task", "annotator", "note")
        _require_answer(self.answer, ClipAnswer)
        require_counts(self, 1, "frames")
        if self.partial_success is not None:
            require_numbers(self, "[0, 1]", "partial_success")
        if self.fps is not None:
            require_numbers(self, "(0, inf)", "fps")
        if self.success_frame is not None:
            require_counts(self, 0, "success_frame")
            if self.answer == "failure":
                raise ValueError(f"the first frame of success is {self.success_frame}, and the answer is failure")
            if self.success_frame >= self.frames:
                raise ValueError(
                    f"the first frame of success is {self.success_frame}; expected one from 0 to {self.frames - 1}"
                )

    @property
    def about(self) -> str:
        """The episode."""
        return self.episode

    @property
    def is_given(self) -> bool:
        """Whether something was said of the episode."""
        return self.answer in get_args(QualityLabel)


def _require_answer(answer: object, answers: object) -> None:
    if answer not in get_args(answers):
        raise ValueError(f"got the answer {brief(answer)}; expected one of {', '.join(get_args(answers))}")


class _Said(Protocol):
    """What `Judgement` and `ClipLabel` have in common."""

    @property
    def about(self) -> Hashable: ...
    @property
    def annotator(self) -> str: ...
    @property
    def is_given(self) -> bool: ...


Said = TypeVar("Said", bound=_Said)


def latest(said: Iterable[Said]) -> dict[Hashable, dict[str, Said]]:
    """What everybody said last of every thing, by thing and annotator; what was skipped or taken back is left out.

    Args:
        said: Of one data set, in the order of the lines.
    """
    found: dict[Hashable, dict[str, Said]] = {}
    for each in said:
        by_annotator = found.setdefault(each.about, {})
        by_annotator.pop(each.annotator, None)
        if each.is_given:
            by_annotator[each.annotator] = each
    return {about: by_annotator for about, by_annotator in found.items() if by_annotator}


def settled(answers: Iterable[str]) -> str | None:
    """The answer that most gave; None where two answers were given equally often.

    Examples:
        >>> settled(["failure", "successful", "failure"]), settled(["failure", "successful"])
        ('failure', None)
    """
    first, *others = Counter(answers).most_common(2)
    return None if others and others[0][1] == first[1] else first[0]


def names_of(episode: str, source: str | None, task: str) -> list[Hashable]:
    """All that an episode is known by within its data set."""
    return [episode] if source is None else [episode, (source, task)]


@dataclass(frozen=True)
class Outcome:
    """How an episode ended, as people settled it.

    Attributes:
        quality: As most said.
        frames: T, how many frames it was shown with.
        success_frame: Median of those who said it ended so and named a frame; None if nobody did.
        partial_success: Mean of their grades; None without any.
        annotators: All who labelled it.
        notes: What they noted.
    """

    quality: QualityLabel
    frames: int
    success_frame: int | None
    partial_success: float | None
    annotators: tuple[str, ...]
    notes: tuple[str, ...]


def outcomes_by_name(path: Path, data: str) -> tuple[dict[Hashable, Outcome], list[str]]:
    """What people settled about the episodes of a data set.

    Args:
        path: A ``labels.jsonl``.
        data: Name of the data set.

    Returns:
        Outcomes by all names of `names_of`, and the episodes on which people disagree.

    Raises:
        DocumentError: A line is no label; the message names it.
        ValueError: It has labels of other data sets alone.
        OSError: The file cannot be read.
    """
    found: dict[Hashable, Outcome] = {}
    disputed: list[str] = []
    for by_annotator in latest(_of_data(path, ClipLabel, [data])).values():
        labels = list(by_annotator.values())
        outcome = _outcome(labels)
        if outcome is None:
            disputed.append(labels[0].episode)
            continue
        for name in names_of(labels[0].episode, labels[0].source, labels[0].task):
            found[name] = outcome
    return found, disputed


def _of_data(path: Path, kind: type[Judged], names: Sequence[str]) -> list[Judged]:
    """The lines about some data sets."""
    lines = read_records(path, kind)
    found = [line for line in lines if line.data in names]
    if not found:
        others = ", ".join(sorted({line.data for line in lines})) or "no data set"
        raise ValueError(
            f"{path} is about {others}, and not about {', '.join(names)}: data sets are called by the last part of "
            "their path, so give the data under the name that it had in the studio"
        )
    return found


Judged = TypeVar("Judged", Judgement, ClipLabel)


def _outcome(labels: Sequence[ClipLabel]) -> Outcome | None:
    quality = settled(label.answer for label in labels)
    if quality is None or len({label.frames for label in labels}) > 1:
        return None
    agreeing = [label for label in labels if label.answer == quality]
    frames = [label.success_frame for label in agreeing if label.success_frame is not None]
    grades = [label.partial_success for label in agreeing if label.partial_success is not None]
    return Outcome(
        quality=quality,  # pyright: ignore[reportArgumentType]
        frames=labels[0].frames,
        success_frame=sorted(frames)[(len(frames) - 1) // 2] if frames else None,
        partial_success=float(np.mean(grades)) if grades else None,
        annotators=tuple(sorted(label.annotator for label in labels)),
        notes=tuple(label.note for label in labels if label.note),
    )


def labelled(trajectory: Trajectory, outcome: Outcome) -> Trajectory:
    """The trajectory with the outcome that people saw.

    What the data say of single frames, or how they grade it, stays where people say nothing of it and it does not
    contradict them. A failure is done in none of its frames.

    Raises:
        TrajectoryError: People were shown another number of frames.
    """
    count = len(trajectory)
    if outcome.frames != count:
        raise TrajectoryError(
            f"it was labelled with {outcome.frames} frames and has {count}: import what was shown, with all its frames"
        )
    success, grade = trajectory.success, outcome.partial_success
    if outcome.success_frame is not None:
        success = np.arange(count) >= outcome.success_frame
    elif outcome.quality == "failure":
        success = np.zeros(count, bool)
    elif outcome.quality == "successful" and success is not None and not success.any():
        success = None
    if grade is None and trajectory.quality_label == outcome.quality:
        grade = trajectory.partial_success
    notes = {"notes": list(outcome.notes)} if outcome.notes else {}
    return replace(
        trajectory,
        quality_label=outcome.quality,
        success=success,
        partial_success=grade,
        metadata={**trajectory.metadata, _LABELLED_BY: list(outcome.annotators), **notes},
    )


@dataclass(frozen=True)
class Compared:
    """Pairs of trajectories of which people said which is better.

    Attributes:
        pairs: Positions of the better one and of the worse one.
        equal: Pairs that most took for equal; there is nothing to learn from them.
        disputed: Pairs about which there is no majority.
        absent: Pairs with an episode that is not among the trajectories.
    """

    pairs: tuple[tuple[int, int], ...]
    equal: int
    disputed: int
    absent: int

    def __str__(self) -> str:
        left_out = {"equal": self.equal, "without a majority": self.disputed, "about other episodes": self.absent}
        said = ", ".join(f"{number} {why}" for why, number in left_out.items() if number)
        return f"{len(self.pairs)} pairs that people compared" + (f" (left out: {said})" if said else "")


def compared(path: Path, trajectories: Sequence[Trajectory], data: Sequence[str]) -> Compared:
    """Finds the trajectories of a file of preferences.

    Where an episode has several trajectories, one per camera, each is held against the one of the same camera.

    Args:
        path: A ``preferences.jsonl``.
        trajectories: Among which.
        data: Name of the data set of each.

    Raises:
        DocumentError: A line is no preference; the message names it.
        ValueError: There is no pair of these trajectories in it of which one is better.
        OSError: The file cannot be read.
    """
    places: dict[tuple[str, Hashable], list[int]] = {}
    for number, (each, name) in enumerate(zip(trajectories, data, strict=True)):
        for known_by in names_of(each.id, each.source, each.task):
            places.setdefault((name, known_by), []).append(number)
    by_pair: dict[Hashable, dict[str, Judgement]] = {}
    lines = _of_data(path, Judgement, sorted(set(data)))
    for name in dict.fromkeys(line.data for line in lines):
        of_data = latest(line for line in lines if line.data == name)
        by_pair |= {(name, about): by_annotator for about, by_annotator in of_data.items()}
    counts: Counter[str] = Counter()
    pairs: list[tuple[int, int]] = []
    for said in by_pair.values():
        category = settled(each.category for each in said.values())
        if category in (None, "equal"):
            counts[category or "disputed"] += 1
            continue
        chosen = next(each for each in said.values() if each.category == category)
        found = _places(chosen, places, trajectories)
        counts["absent"] += not found
        pairs += found
    made = Compared(tuple(pairs), counts["equal"], counts["disputed"], counts["absent"])
    if not pairs:
        raise ValueError(f"{path} has no pair of these episodes to learn from: {made}")
    return made


def _places(
    judgement: Judgement, places: Mapping[tuple[str, Hashable], list[int]], trajectories: Sequence[Trajectory]
) -> list[tuple[int, int]]:
    """Positions of the better and of the worse episode, camera by camera."""
    sides = [(judgement.left, judgement.left_source), (judgement.right, judgement.right_source)]
    better, worse = sides if judgement.answer == "left" else sides[::-1]

    def of(episode: str, source: str | None) -> dict[object, int]:
        names = names_of(episode, source, judgement.task)
        found = next((places[judgement.data, name] for name in names if (judgement.data, name) in places), [])
        return {trajectories[number].metadata.get("camera"): number for number in found}

    good, bad = of(*better), of(*worse)
    return [
        (good[camera], bad[camera])
        for camera in good
        if camera in bad and group_key(trajectories[good[camera]]) == group_key(trajectories[bad[camera]])
    ]
