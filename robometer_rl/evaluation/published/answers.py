"""Asking a model, or a control, the questions of the reference's evaluations; every answer is kept as it comes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from robometer_rl.evaluation.published.questions import Pair, Question
from robometer_rl.files import append_line, whole_lines, write_text
from robometer_rl.frames import Clip
from robometer_rl.models.controls import BLIND, CHANGES, BlindModel
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.prediction import as_probabilities
from robometer_rl.report.terminal import open_console

__all__ = ["Answerer", "Journal", "answerers"]

_BATCH: Final = 8  # clips per call

Floats = NDArray[np.float32]
_Item = TypeVar("_Item")


class Journal:
    """Answers on disk, one line each, by what was asked: model, frames and instruction."""

    def __init__(self, path: Path | None) -> None:
        """Reads the answers in ``path``; keeps them in memory alone if that is None."""
        self._path, self._kept = path, dict[str, list[float]]()
        if path is None or not path.exists():
            return
        lines = whole_lines(path)
        if path.read_bytes()[-1:] not in (b"", b"\n"):  # a process was killed within a line
            write_text(path, "".join(f"{line}\n" for line in lines))
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                self._kept[entry["asked"]] = [float(value) for value in entry["said"]]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}, is no answer of a model: {error}; remove the file to ask again"
                ) from error

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, asked: str) -> Floats | None:
        """The answer to what was asked, if there is one."""
        return np.array(self._kept[asked], np.float32) if asked in self._kept else None

    def add(self, asked: str, said: NDArray[Any]) -> None:
        """Keeps an answer; it is on disk when this returns."""
        self._kept[asked] = [float(value) for value in said]
        if self._path is not None:
            append_line(self._path, json.dumps({"asked": asked, "said": self._kept[asked]}))


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
        clips = [
            lambda each=each, other=other: self._clip(each, other)
            for each, other in zip(questions, others, strict=True)
        ]

        def ask(batch: list[Clip]) -> list[Floats]:
            return [said.progress for said in self.model.predict(batch)]

        return self._asked("progress", clips, ask, lambda clip: _digest(clip.read(), clip.task))

    def preferences(self, pairs: Sequence[Pair]) -> Floats:
        """(n, 2) the probability that is given to the first clip, with the better and with the worse one there."""
        others = _other_tasks([(each.better.episode.task, each.better.task) for each in pairs])

        def both(pair: Pair, other: str) -> tuple[Clip, Clip]:
            return self._clip(pair.better, other), self._clip(pair.worse, other)

        def ask(batch: list[tuple[Clip, Clip]]) -> list[Floats]:
            said = [self.model.compare(batch), self.model.compare([(worse, better) for better, worse in batch])]
            return list(as_probabilities(np.stack(said, axis=1), "a preference", model=self.model.model_id))

        clips = [lambda each=each, other=other: both(each, other) for each, other in zip(pairs, others, strict=True)]
        said = self._asked(
            "preference", clips, ask, lambda pair: "".join(_digest(clip.read(), clip.task) for clip in pair)
        )
        return np.array(said, np.float32).reshape(-1, 2)

    def _clip(self, question: Question, other_task: str) -> Clip:
        frames = Clip(question.episode.frames, question.task).read(list(question.frames))
        if self.change == "wrong_task":
            return Clip(frames, other_task)
        if self.change is None:
            return Clip(frames, question.task)
        shown, task = CHANGES[self.change](frames[: question.real], question.task)
        held = np.minimum(np.arange(len(frames)), question.real - 1)  # padding repeats the last frame that is shown
        return Clip(shown[held], task)

    def _asked(
        self,
        kind: str,
        items: Sequence[Callable[[], _Item]],
        ask: Callable[[list[_Item]], list[Floats]],
        digest: Callable[[_Item], str],
    ) -> list[Floats]:
        who = json.dumps([kind, self.model.source, self.model.revision, self.model.dtype])
        said: list[Floats] = []
        for start in self._batches(len(items)):
            batch = [make() for make in items[start : start + _BATCH]]
            keys = [hashlib.sha256(f"{who}{digest(item)}".encode()).hexdigest() for item in batch]
            new = {key: item for key, item in zip(keys, batch, strict=True) if self.journal.get(key) is None}
            if new:
                for key, answer in zip(new, ask(list(new.values())), strict=True):
                    self.journal.add(key, answer)
            for key in keys:
                answer = self.journal.get(key)
                assert answer is not None
                said.append(answer)
        return said

    def _batches(self, count: int) -> Iterator[int]:
        console = open_console(stderr=True)
        yield from track(
            range(0, count, _BATCH), self.name, console=console, transient=True, disable=not self.show_progress
        )


def answerers(model: RewardModel, journal: Path | None, controls: bool, show_progress: bool = False) -> list[Answerer]:
    """A model, and the controls that belong beside it.

    Args:
        model: First in the list.
        journal: File of its answers.
        controls: Whether controls follow.
        show_progress: Draw progress bars on standard error.
    """
    kept = Journal(journal)
    asked = [Answerer(model.model_id, model, None, kept, show_progress)]
    if not controls or isinstance(model, BlindModel):
        return asked
    asked += [Answerer(f"{model.model_id}, {_SAID[name]}", model, name, kept, show_progress) for name in CHANGES]
    return asked + [Answerer(name, blind(name)) for name, blind in BLIND.items()]


_SAID: Final = {
    "shuffled": "frames shuffled",
    "repeated": "one frame repeated",
    "wrong_task": "wrong task",
    "truncated": "second half not shown",
}


def _digest(frames: NDArray[np.uint8], task: str) -> str:
    return hashlib.sha256(repr((frames.shape, task)).encode() + np.ascontiguousarray(frames).tobytes()).hexdigest()


def _other_tasks(tasks: Sequence[tuple[str, str]]) -> list[str]:
    """Another task of those that are asked about for each, or one that no robot is given where there is none."""
    known = sorted({task for _, task in tasks})
    others: list[str] = []
    for own, task in tasks:
        after = [other for other in (*known[known.index(task) + 1 :], *known) if other not in (own, task)]
        others.append(after[0] if after else CHANGES["wrong_task"](np.zeros((1, 1, 1, 3), np.uint8), task)[1])
    return others
