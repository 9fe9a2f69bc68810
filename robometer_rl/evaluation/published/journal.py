"""Answers of reward models that are kept on disk as they come, so that an evaluation goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from robometer_rl.files import append_line, drop_half_line, whole_lines
from robometer_rl.formats.dataset import fingerprint
from robometer_rl.frames import Clip, FrameProtocol
from robometer_rl.models.loading import files_of
from robometer_rl.models.reward_model import ForwardingModel, RewardModel
from robometer_rl.prediction import Prediction, as_probabilities

__all__ = ["Answer", "Journal", "JournalledModel"]

Floats = NDArray[np.float32]
_Item = TypeVar("_Item")

_NO_BINS: Final = 0


class Answer(NamedTuple):
    """What was said to one question.

    Attributes:
        values: (n,) progress, or the one probability of a comparison.
        success: (n,) probability; None of a model that says none, and of comparisons.
    """

    values: Floats
    success: Floats | None = None


class Journal:
    """Answers on disk, one line each, by what was asked: model, frames and instruction."""

    def __init__(self, path: Path | None) -> None:
        """Reads the answers in ``path``; keeps them in memory alone if that is None."""
        self._path, self._kept = path, dict[str, Answer]()
        if path is None or not path.exists():
            return
        drop_half_line(path)
        for number, line in enumerate(whole_lines(path), 1):
            try:
                entry = json.loads(line)
                success = None if entry.get("success") is None else np.array(entry["success"], np.float32)
                self._kept[entry["asked"]] = Answer(np.array(entry["said"], np.float32), success)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{path}, line {number}, is no answer of a model: {error}; remove the file to ask again"
                ) from error

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, asked: str) -> Answer | None:
        """The answer to what was asked, if there is one."""
        return self._kept.get(asked)

    def add(self, asked: str, said: Answer) -> None:
        """Keeps an answer; it is on disk when this returns."""
        self._kept[asked] = said
        if self._path is not None:
            entry: dict[str, Any] = {"asked": asked, "said": said.values.tolist()}
            if said.success is not None:
                entry["success"] = said.success.tolist()
            append_line(self._path, json.dumps(entry))


class JournalledModel(ForwardingModel):
    """A model that is not asked again what it has answered; the distribution over progress bins is not kept."""

    def __init__(self, model: RewardModel, journal: Journal) -> None:
        """``model`` with its answers in ``journal``."""
        super().__init__(model)
        self.bins, self._journal = _NO_BINS, journal
        self._who: list[Any] = [self.source, self.revision, self.dtype, self.record]
        if files := files_of(self.source):
            self._who.append(fingerprint((), files))

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict`."""

        def ask(new: list[Clip]) -> list[Answer]:
            return [Answer(said.progress, said.success) for said in self.model.predict(new)]

        return [self._prediction(each, "given", 1) for each in self._answers(("progress",), clips, ask, _digest)]

    def predict_steps(
        self, clips: Sequence[Clip], protocol: FrameProtocol | None = None, every: int = 1
    ) -> list[Prediction]:
        """See `RewardModel.predict_steps`."""
        chosen = protocol or self.default_protocol

        def ask(new: list[Clip]) -> list[Answer]:
            return [Answer(said.progress, said.success) for said in self.model.predict_steps(new, chosen, every)]

        answers = self._answers(("steps", str(chosen), every), clips, ask, _digest)
        return [self._prediction(each, str(chosen), every) for each in answers]

    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> NDArray[np.float32]:
        """See `RewardModel.compare`."""

        def ask(new: list[tuple[Clip, Clip]]) -> list[Answer]:
            said = as_probabilities(self.model.compare(new, both_orders), "a preference", model=self.model_id)
            return [Answer(value) for value in said.reshape(-1, 1)]

        answers = self._answers(
            ("preference", both_orders), pairs, ask, lambda pair: "".join(_digest(clip) for clip in pair)
        )
        return np.array([each.values[0] for each in answers], np.float32)

    def _prediction(self, said: Answer, protocol: str, every: int) -> Prediction:
        no_bins = np.zeros((len(said.values), _NO_BINS), np.float32)
        return Prediction(said.values, said.success, no_bins, protocol, self.model_id, every, self.revision, self.dtype)

    def _answers(
        self,
        how: tuple[Any, ...],
        items: Sequence[_Item],
        ask: Callable[[list[_Item]], list[Answer]],
        digest: Callable[[_Item], str],
    ) -> list[Answer]:
        who = json.dumps([*how, *self._who])
        keys = [hashlib.sha256(f"{who}{digest(item)}".encode()).hexdigest() for item in items]
        new = {key: item for key, item in zip(keys, items, strict=True) if self._journal.get(key) is None}
        if new:
            for key, answer in zip(new, ask(list(new.values())), strict=True):
                self._journal.add(key, answer)
        answers = [self._journal.get(key) for key in keys]
        return [answer for answer in answers if answer is not None]


def _digest(clip: Clip) -> str:
    frames = np.ascontiguousarray(clip.read())
    return hashlib.sha256(repr((frames.shape, clip.task)).encode() + frames.tobytes()).hexdigest()
