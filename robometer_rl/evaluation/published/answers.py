"""Asking a model, or a control, the questions of the reference's evaluations; every answer is kept as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from robometer_rl.evaluation.published.journal import Journal, JournalledModel
from robometer_rl.evaluation.published.questions import Pair, Question
from robometer_rl.frames import Clip
from robometer_rl.models.controls import BLIND, CHANGES, BlindModel, ChangedModel
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.report.terminal import open_console

__all__ = ["Answerer", "answerers"]

_BATCH: Final = 8  # clips per call

Floats = NDArray[np.float32]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Answerer:
    """Somebody who answers questions: a model, a model that is asked about something else, or a control that is blind.

    Attributes:
        name: In tables.
        model: Who is asked.
        change: One of `robometer_rl.models.controls.CHANGES` that is applied to what is shown; None for none.
        journal: Where answers are kept.
        show_progress: Draw a progress bar on standard error.
    """

    name: str
    model: RewardModel
    change: str | None = None
    journal: Journal = field(default_factory=lambda: Journal(None))
    show_progress: bool = False

    @property
    def is_control(self) -> bool:
        """Whether it is there to be held against."""
        return self.change is not None or isinstance(self.model, BlindModel)

    def progress(self, questions: Sequence[Question]) -> list[Floats]:
        """What each slot of each question is worth."""
        if isinstance(self.model, BlindModel):
            return [self.model.answer(each.frames, len(each.episode)) for each in questions]
        others = _other_tasks([(each.episode.task, each.task) for each in questions])
        asked, said = JournalledModel(self.model, self.journal), list[Floats]()
        for batch in self._batches(list(zip(questions, others, strict=True))):
            said += [answer.progress for answer in asked.predict([self._clip(*each) for each in batch])]
        return said

    def preferences(self, pairs: Sequence[Pair]) -> Floats:
        """(n, 2) the probability that is given to the first clip, with the better and with the worse one there."""
        others = _other_tasks([(each.better.episode.task, each.better.task) for each in pairs])
        asked, said = JournalledModel(self.model, self.journal), list[Floats]()
        for batch in self._batches(list(zip(pairs, others, strict=True))):
            clips = [(self._clip(pair.better, other), self._clip(pair.worse, other)) for pair, other in batch]
            swapped = [(worse, better) for better, worse in clips]
            said.append(np.stack([asked.compare(clips), asked.compare(swapped)], axis=1))
        return np.concatenate([np.zeros((0, 2), np.float32), *said])

    def as_model(self, tasks: Sequence[str]) -> RewardModel:
        """The same one, for being asked about whole episodes.

        Args:
            tasks: Instructions of these episodes, one of which is taken for the wrong one of another.
        """
        if isinstance(self.model, BlindModel):
            return self.model
        asked, known = JournalledModel(self.model, self.journal), sorted(set(tasks))
        if self.change is None:
            return asked
        others = _other_tasks([(task, task) for task in known])
        return ChangedModel(self.change, asked, dict(zip(known, others, strict=True)))

    def _clip(self, question: Question, other_task: str) -> Clip:
        frames = Clip(question.episode.frames, question.task).read(list(question.frames))
        if self.change == "wrong_task":
            return Clip(frames, other_task)
        if self.change is None:
            return Clip(frames, question.task)
        shown, task = CHANGES[self.change](frames[: question.real], question.task)
        held = np.minimum(np.arange(len(frames)), question.real - 1)  # padding repeats the last frame that is shown
        return Clip(shown[held], task)

    def _batches(self, items: list[_Item]) -> Iterator[list[_Item]]:
        console, starts = open_console(stderr=True), range(0, len(items), _BATCH)
        for start in track(starts, self.name, console=console, transient=True, disable=not self.show_progress):
            yield items[start : start + _BATCH]


def answerers(
    models: Sequence[RewardModel], journal: Path | None, controls: bool, show_progress: bool = False
) -> list[Answerer]:
    """Models, and the controls that belong beside them.

    Args:
        models: First in the list, in their order.
        journal: File of their answers.
        controls: Whether controls follow: of each model that sees something, then those that see nothing.
        show_progress: Draw progress bars on standard error.

    Raises:
        ValueError: Two models are called the same.
    """
    names = [model.model_id for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f"got models called {', '.join(names)}; expected different names, as in other folders")
    kept = Journal(journal)
    asked = [Answerer(model.model_id, model, None, kept, show_progress) for model in models]
    seeing = [model for model in models if not isinstance(model, BlindModel)]
    if not controls or not seeing:
        return asked
    for model in seeing:
        asked += [Answerer(f"{model.model_id}, {_SAID[name]}", model, name, kept, show_progress) for name in CHANGES]
    return asked + [Answerer(name, blind(name)) for name, blind in BLIND.items() if name not in names]


_SAID: Final = {
    "shuffled": "frames shuffled",
    "repeated": "one frame repeated",
    "wrong_task": "wrong task",
    "truncated": "second half not shown",
}


def _other_tasks(tasks: Sequence[tuple[str, str]]) -> list[str]:
    """Another task of those that are asked about for each, or one that no robot is given where there is none."""
    known = sorted({task for _, task in tasks})
    others: list[str] = []
    for own, task in tasks:
        after = [other for other in (*known[known.index(task) + 1 :], *known) if other not in (own, task)]
        others.append(after[0] if after else CHANGES["wrong_task"](np.zeros((1, 1, 1, 3), np.uint8), task)[1])
    return others
