"""Pairs of episodes that people are asked about: which pair comes next, what they said, and whether they agree.

A line of ``preferences.jsonl`` has ``data``, ``task``, the episodes ``left`` and ``right`` as they were shown,
``answer`` (``left``, ``right``, ``equal``, ``skip``, or ``undo``, which takes the one before back) and ``annotator``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Final, Literal, get_args

import numpy as np

from robometer_rl.ranges import require_texts
from robometer_rl.studio.episodes import Entry
from robometer_rl.studio.notes import PREFERENCES, Notes, Said

__all__ = ["Agreement", "Answer", "Judgement", "Pair", "Pairs", "agreement"]

Answer = Literal["left", "right", "equal", "skip", "undo"]

_MOST: Final = 2000  # pairs of one instruction that are asked about; more say little that is new


@dataclass(frozen=True)
class Pair:
    """Two episodes of one instruction, in the order in which they are shown."""

    task: str
    left: str
    right: str

    @property
    def episodes(self) -> frozenset[str]:
        """Both, in whichever order."""
        return frozenset((self.left, self.right))


@dataclass(frozen=True)
class Judgement:
    """What somebody said of a pair."""

    data: str
    task: str
    left: str
    right: str
    answer: Answer
    annotator: str

    def __post_init__(self) -> None:
        require_texts(self, "data", "task", "left", "right", "annotator")
        if self.answer not in get_args(Answer):
            raise ValueError(f"got the answer {self.answer!r}; expected one of {', '.join(get_args(Answer))}")

    @property
    def better(self) -> str | None:
        """The episode that is better; None where none is, or nobody said."""
        return {"left": self.left, "right": self.right}.get(self.answer)

    @property
    def is_given(self) -> bool:
        """Whether something was said of the episodes."""
        return self.answer in ("left", "right", "equal")


class Pairs:
    """The pairs of a data set, and what one person has said of them; resumed from the notes.

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
        self._data, self._annotator, self._notes = data, annotator, notes
        found = (pair for members in _by_task(entries) for pair in self._of_task(members))
        self._pairs = sorted(found, key=lambda pair: self._rank(pair, said))
        self._answers: list[Judgement] = []
        for judgement in judgements(notes, data):
            if judgement.annotator == annotator:
                self._note(judgement)

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def answered(self) -> int:
        """Pairs that have been answered or skipped."""
        return len(self._answers)

    def next(self) -> Pair | None:
        """The first pair that has not been answered; None if all have."""
        seen = {frozenset((each.left, each.right)) for each in self._answers}
        return next((pair for pair in self._pairs if pair.episodes not in seen), None)

    def answer(self, pair: Pair, answer: Answer) -> None:
        """Notes an answer."""
        self._add(Judgement(self._data, pair.task, pair.left, pair.right, answer, self._annotator))

    def undo(self) -> None:
        """Takes the last answer back, so that its pair comes again; nothing where there is none."""
        if self._answers:
            last = self._answers[-1]
            self._add(Judgement(self._data, last.task, last.left, last.right, "undo", self._annotator))

    def _add(self, judgement: Judgement) -> None:
        self._notes.add(PREFERENCES, asdict(judgement))
        self._note(judgement)

    def _note(self, judgement: Judgement) -> None:
        both = {judgement.left, judgement.right}
        self._answers = [each for each in self._answers if {each.left, each.right} != both]
        if judgement.answer != "undo":
            self._answers.append(judgement)

    def _of_task(self, members: Sequence[Entry]) -> Iterator[Pair]:
        keys = sorted(entry.key for entry in members)
        every = list(combinations(keys, 2)) if len(keys) < 200 else list(self._drawn(keys))
        for one, other in sorted(every, key=lambda pair: self._drawn_number(*pair))[:_MOST]:
            swapped = self._drawn_number(self._annotator, one, other) % 2 == 1
            yield Pair(members[0].task, *((other, one) if swapped else (one, other)))

    def _drawn(self, keys: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Some pairs of many episodes, each episode about as often as any other."""
        rng = np.random.default_rng(0)
        for _ in range(max(1, 2 * _MOST // len(keys))):
            order = [int(number) for number in rng.permutation(len(keys))]
            for one, other in zip(order, [*order[1:], order[0]], strict=True):
                yield keys[min(one, other)], keys[max(one, other)]

    def _rank(self, pair: Pair, said: Mapping[str, Said]) -> tuple[float, int]:
        one, other = said.get(pair.left), said.get(pair.right)
        apart = float("inf") if one is None or other is None else abs(one.progress[-1] - other.progress[-1])
        return apart, self._drawn_number(*sorted(pair.episodes))

    @staticmethod
    def _drawn_number(*words: str) -> int:
        """A number that looks drawn, and is the same at every start."""
        return int.from_bytes(hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).digest()[:8])


def _by_task(entries: Iterable[Entry]) -> list[list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.task, []).append(entry)
    return [members for members in groups.values() if len(members) > 1]


def judgements(notes: Notes, data: str) -> list[Judgement]:
    """All that was said of a data set, in order."""
    return [found for found in notes.read(PREFERENCES, Judgement) if found.data == data]


@dataclass(frozen=True)
class Agreement:
    """How often two say the same.

    Attributes:
        same: Of these pairs.
        pairs: Pairs that both have answered.
    """

    same: int
    pairs: int

    def __str__(self) -> str:
        return f"{self.same} of {self.pairs}" if self.pairs else "no pair yet"


def agreement(said: Sequence[Judgement], model: Mapping[str, Said]) -> tuple[Agreement, Agreement]:
    """How often annotators agree with each other, and with a model.

    Args:
        said: What annotators said of one data set, in order.
        model: What a model said, by episode. The one with more progress at its end is the better one.

    Returns:
        Between annotators, over every two of them and every pair that both have answered, equal included; and with the
        model, over answers that name one of the two.
    """
    answers: dict[frozenset[str], dict[str, Judgement]] = {}
    for each in said:
        by_annotator = answers.setdefault(frozenset((each.left, each.right)), {})
        by_annotator.pop(each.annotator, None)
        if each.is_given:
            by_annotator[each.annotator] = each
    twice = [pair for each in answers.values() for pair in combinations(each.values(), 2)]
    people = Agreement(sum(one.better == other.better for one, other in twice), len(twice))
    named = [each for by in answers.values() for each in by.values() if each.better is not None]
    known = [each for each in named if each.left in model and each.right in model]
    right = [each for each in known if _better(each, model) == each.better]
    return people, Agreement(len(right), len(known))


def _better(judgement: Judgement, model: Mapping[str, Said]) -> str:
    left, right = (model[key].progress[-1] for key in (judgement.left, judgement.right))
    return judgement.left if left >= right else judgement.right
