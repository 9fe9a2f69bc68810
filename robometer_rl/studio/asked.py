"""What people are asked in the studio: which pair or which clip comes next, what they said, and whether they agree.

Answers are lines of the notes, see `robometer_rl.data.judgements`, in the order in which people were asked.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Final, Generic, Protocol, TypeVar

import numpy as np

from robometer_rl.data.judgements import (
    LABELS,
    PREFERENCES,
    Answer,
    ClipAnswer,
    ClipLabel,
    Judgement,
    category_of,
    drawn_number,
    latest,
)
from robometer_rl.evaluation.agreement import Agreement, Difference, agreement, difference
from robometer_rl.studio.episodes import UNKNOWN, Entry
from robometer_rl.studio.notes import Notes, Said

__all__ = [
    "ClipAgreement",
    "Clips",
    "Pair",
    "Pairs",
    "clip_agreement",
    "labels_of",
    "pair_agreement",
    "preferences_of",
]

_MOST: Final = 2000  # pairs of one instruction that are asked about; more say little that is new
_MODEL: Final = "the model"


def preferences_of(notes: Notes, data: str) -> list[Judgement]:
    """All that was said of pairs of a data set, in order."""
    return [each for each in notes.read(PREFERENCES, Judgement) if each.data == data]


def labels_of(notes: Notes, data: str) -> list[ClipLabel]:
    """All that was said of single clips of a data set, in order."""
    return [each for each in notes.read(LABELS, ClipLabel) if each.data == data]


class _Question(Protocol):
    @property
    def about(self) -> Hashable: ...


Question = TypeVar("Question", bound=_Question)
Line = TypeVar("Line", Judgement, ClipLabel)


class _Asked(Generic[Question, Line]):
    """What one person is asked, and has said; resumed from the notes.

    Args:
        file: Of the notes, in which answers are kept.
        notes: Where that is.
        questions: In the order in which they are asked.
        said: What this person has said before, in order.
    """

    def __init__(self, file: str, notes: Notes, questions: Sequence[Question], said: Iterable[Line]) -> None:
        self._file, self._notes, self._questions = file, notes, questions
        self._answers: dict[Hashable, Line] = {}  # the last one last
        for each in said:
            self._note(each)

    def __len__(self) -> int:
        return len(self._questions)

    @property
    def answered(self) -> int:
        """Questions that have been answered or skipped."""
        return len(self._answers)

    def next(self) -> Question | None:
        """The first question that has not been answered; None if all have."""
        return next((each for each in self._questions if each.about not in self._answers), None)

    def undo(self) -> Line | None:
        """Takes the last answer back, so that its question comes again.

        Returns:
            What was said; None where there is nothing to be taken back.
        """
        if not self._answers:
            return None
        last = list(self._answers.values())[-1]
        self._add(replace(last, answer="undo"))
        return last

    def _add(self, said: Line) -> None:
        self._notes.add(self._file, asdict(said))
        self._note(said)

    def _note(self, said: Line) -> None:
        self._answers.pop(said.about, None)
        if said.answer != "undo":
            self._answers[said.about] = said


@dataclass(frozen=True)
class Pair:
    """Two episodes of one instruction, in the order in which they are shown."""

    left: Entry
    right: Entry

    @property
    def task(self) -> str:
        """Their instruction."""
        return self.left.task

    @property
    def about(self) -> frozenset[str]:
        """Both, in whichever order."""
        return frozenset((self.left.key, self.right.key))


class Pairs(_Asked[Pair, Judgement]):
    """The pairs of a data set, and what one person has said of them.

    Args:
        data: Name of the data set.
        entries: Its episodes.
        annotator: Who is asked.
        notes: Where answers are kept.
        said: What a model said, by episode: the pairs that it is least sure of come first. Without it, the order is
            drawn.
    """

    def __init__(
        self, data: str, entries: Sequence[Entry], annotator: str, notes: Notes, said: Mapping[str, Said]
    ) -> None:
        self._data, self._annotator = data, annotator
        found = (pair for members in _by_task(entries) for pair in self._of_task(members))
        before = (each for each in preferences_of(notes, data) if each.annotator == annotator)
        super().__init__(PREFERENCES, notes, sorted(found, key=lambda pair: _pair_rank(pair, said)), before)

    def answer(self, pair: Pair, answer: Answer) -> None:
        """Notes an answer."""
        left, right = pair.left, pair.right
        self._add(
            Judgement(
                data=self._data,
                task=pair.task,
                left=left.key,
                right=right.key,
                answer=answer,
                annotator=self._annotator,
                left_source=left.origin,
                right_source=right.origin,
            )
        )

    def _of_task(self, members: Sequence[Entry]) -> Iterator[Pair]:
        by_key = {entry.key: entry for entry in members}
        keys = sorted(by_key)
        every = list(combinations(keys, 2)) if len(keys) < 200 else list(_some_pairs(keys))
        for one, other in sorted(every, key=lambda pair: drawn_number(*pair))[:_MOST]:
            swapped = drawn_number(self._annotator, one, other) % 2 == 1
            yield Pair(*(by_key[key] for key in ((other, one) if swapped else (one, other))))


def _some_pairs(keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Some pairs of many episodes, each episode about as often as any other."""
    rng = np.random.default_rng(0)
    for _ in range(max(1, 2 * _MOST // len(keys))):
        order = [int(number) for number in rng.permutation(len(keys))]
        for one, other in zip(order, [*order[1:], order[0]], strict=True):
            yield keys[min(one, other)], keys[max(one, other)]


def _pair_rank(pair: Pair, said: Mapping[str, Said]) -> tuple[float, int]:
    one, other = said.get(pair.left.key), said.get(pair.right.key)
    apart = float("inf") if one is None or other is None else abs(one.progress[-1] - other.progress[-1])
    return apart, drawn_number(*sorted(pair.about))


def _by_task(entries: Iterable[Entry]) -> list[list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.task, []).append(entry)
    return [members for members in groups.values() if len(members) > 1]


class Clips(_Asked[Entry, ClipLabel]):
    """The episodes of a data set one by one, and what one person has said of them.

    Those come first of which nobody knows how they ended, neither the data set nor another person; among them those
    that the model is least sure of; the rest is drawn, for everybody anew.

    Args:
        data: Name of the data set.
        entries: Its episodes.
        annotator: Who is asked.
        notes: Where answers are kept.
        said: What a model said, by episode.
    """

    def __init__(
        self, data: str, entries: Sequence[Entry], annotator: str, notes: Notes, said: Mapping[str, Said]
    ) -> None:
        self._data, self._annotator = data, annotator
        everybody = labels_of(notes, data)
        others = latest(each for each in everybody if each.annotator != annotator)

        def rank(entry: Entry) -> tuple[int, float, int]:
            known = (entry.outcome != UNKNOWN) + (entry.about in others)
            return known, _sureness(said.get(entry.key)), drawn_number(annotator, entry.key)

        before = (each for each in everybody if each.annotator == annotator)
        super().__init__(LABELS, notes, sorted(entries, key=rank), before)

    def answer(
        self,
        entry: Entry,
        answer: ClipAnswer,
        success_frame: int | None = None,
        partial_success: float | None = None,
        note: str = "",
        fps: float | None = None,
    ) -> None:
        """Notes an answer; see `ClipLabel`.

        Raises:
            ValueError: It contradicts itself.
        """
        self._add(
            ClipLabel(
                data=self._data,
                episode=entry.key,
                task=entry.task,
                frames=entry.frames,
                answer=answer,
                annotator=self._annotator,
                success_frame=success_frame,
                partial_success=partial_success,
                note=note,
                source=entry.origin,
                fps=fps,
            )
        )


def _sureness(said: Said | None) -> float:
    """How far a model is from not knowing whether an episode succeeds; infinite where it was not asked."""
    if said is None:
        return float("inf")
    return abs(said.progress[-1] - 0.5) if said.success is None else abs(max(said.success) - said.threshold)


def pair_agreement(said: Sequence[Judgement], model: Mapping[str, Said]) -> tuple[Agreement, Agreement]:
    """How often annotators agree on pairs with each other, and with a model.

    Args:
        said: What annotators said of one data set, in order.
        model: What a model said, by episode. The one with more progress at its end is the better one.

    Returns:
        Between annotators, with "equal" as an answer like others; and with the model, over answers that name one of
        the two.
    """
    answers = latest(said)
    people = {about: {who: each.category for who, each in by.items()} for about, by in answers.items()}
    with_model: dict[Hashable, dict[str, Hashable]] = {}
    for about, by_annotator in answers.items():
        for who, each in by_annotator.items():
            if each.better is not None and each.left in model and each.right in model:
                left, right = (model[key].progress[-1] for key in (each.left, each.right))
                better = None if left == right else each.left if left > right else each.right
                with_model[about, who] = {"people": each.category, _MODEL: category_of(each.about, better)}
    return agreement(people), agreement(with_model)


@dataclass(frozen=True)
class ClipAgreement:
    """Whether two or more say the same of clips.

    Attributes:
        outcome: How they ended. Of a model: whether its success rule ever holds, beside whether they succeeded.
        frames: First frames of success, in frames.
        seconds: The same in seconds, of those whose frame rate is known.
        grades: How far they got, in [0, 1]. Of a model: its progress in the last frame.
    """

    outcome: Agreement
    frames: Difference
    seconds: Difference
    grades: Difference


def clip_agreement(said: Sequence[ClipLabel], model: Mapping[str, Said]) -> tuple[ClipAgreement, ClipAgreement]:
    """How far annotators agree on single clips with each other, and with a model.

    Args:
        said: What annotators said of one data set, in order.
        model: What a model said, by episode.
    """
    labels = latest(said)
    people = _ClipAnswers()
    for about, by_annotator in labels.items():
        for who, each in by_annotator.items():
            people.add(about, who, each.answer, each.success_frame, each.partial_success, each.fps)
    with_model = _ClipAnswers()
    for about, by_annotator in labels.items():
        for who, each in by_annotator.items():
            if (known := model.get(each.episode)) is None:
                continue
            fires_at = known.fires_at(each.frames)
            ended, fires = (
                (None, None) if known.success is None else (each.answer == "successful", fires_at is not None)
            )
            with_model.add((about, who), "people", ended, each.success_frame, each.partial_success, each.fps)
            with_model.add((about, who), _MODEL, fires, fires_at, known.progress[-1], each.fps)
    return people.agreement(), with_model.agreement()


class _ClipAnswers:
    """What was said of clips, by clip and rater."""

    def __init__(self) -> None:
        self._outcomes: dict[Hashable, dict[str, Hashable]] = {}
        self._frames: dict[Hashable, dict[str, float]] = {}
        self._seconds: dict[Hashable, dict[str, float]] = {}
        self._grades: dict[Hashable, dict[str, float]] = {}

    def add(
        self,
        about: Hashable,
        rater: str,
        outcome: str | bool | None,
        frame: int | None,
        grade: float | None,
        fps: float | None,
    ) -> None:
        if outcome is not None:
            self._outcomes.setdefault(about, {})[rater] = outcome
        if frame is not None:
            self._frames.setdefault(about, {})[rater] = frame
        if frame is not None and fps is not None:
            self._seconds.setdefault(about, {})[rater] = frame / fps
        if grade is not None:
            self._grades.setdefault(about, {})[rater] = grade

    def agreement(self) -> ClipAgreement:
        return ClipAgreement(
            agreement(self._outcomes), difference(self._frames), difference(self._seconds), difference(self._grades)
        )
