"""Reward models that are a vision-language model and a prompt: what they have in common.

A model that answers in words can say what nobody can read. Such an answer is None. It is counted and logged, and the
frame that it was about is worth what the last readable answer before it said, as frames between scored ones are; where
there was none before it, the clip is refused with `UnreadableAnswerError`.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from robometer_rl.documents import brief
from robometer_rl.frames import Clip, FrameProtocol, NestedFrames, scored_steps
from robometer_rl.models.baselines.endpoint import Endpoint, is_endpoint
from robometer_rl.models.baselines.vlm import LocalVLM, Question, sha256_of
from robometer_rl.models.reward_model import RewardModel, UnreadableAnswerError
from robometer_rl.prediction import Prediction

__all__ = ["AskingModel", "ChainModel", "Engine", "PromptedModel", "StepwiseModel", "held", "open_engine"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_BATCH: Final = 16  # questions that are made before they are asked

Frames = NDArray[np.uint8]


class Engine(Protocol):
    """Whoever answers questions: weights that are here, or an endpoint."""

    model_id: str
    revision: str | None
    dtype: str
    device: Any

    def answers(self, questions: Sequence[Question], max_new_tokens: int) -> list[str]:
        """One text per question."""
        ...

    def check_task(self, task: str) -> str:
        """Returns a task that can be asked about; raises `TaskError` otherwise."""
        ...


def open_engine(where: str, device: str | torch.device, dtype: str | None, min_pixels: int, max_pixels: int) -> Engine:
    """Opens whoever answers.

    Args:
        where: A checkpoint directory, a Hub id with an optional revision, or ``MODEL@https://HOST/v1``.
        device: Where weights run.
        dtype: Precision of weights; as stored if None.
        min_pixels: Smaller pictures are enlarged to this area before weights see them.
        max_pixels: Larger ones are reduced to it.

    Raises:
        CheckpointError: The checkpoint is incomplete or of another kind.
    """
    if is_endpoint(where):
        return Endpoint(where)
    return LocalVLM.load(where, device, dtype, min_pixels, max_pixels)


class PromptedModel(RewardModel):
    """A vision-language model and a prompt; it gives no success and no distribution.

    Args:
        engine: Who is asked.
        source: What `load_reward_model` was given.
        prompt: The words of the question, by whose hash outputs know it.
        facts: What else decides the answers, for the record.
    """

    has_success = False

    def __init__(self, engine: Engine, source: str, prompt: str, **facts: Any) -> None:
        super().__init__()
        self.engine = engine
        self.source, self.model_id, self.revision = source, engine.model_id, engine.revision
        self.dtype, self.device = engine.dtype, str(engine.device)
        self.record = {"prompt_sha256": sha256_of(prompt), **facts}

    def _prediction(self, values: ArrayLike, protocol: str, every: int = 1) -> Prediction:
        progress = np.asarray(values, np.float32)
        no_bins = np.zeros((len(progress), 0), np.float32)
        return Prediction(progress, None, no_bins, protocol, self.model_id, every, self.revision, self.dtype)


class AskingModel(PromptedModel):
    """A `PromptedModel` whose answers are texts.

    Attributes:
        max_new_tokens: Where an answer is cut.
    """

    max_new_tokens: int = 128

    def ask(self, questions: Iterable[Question], read: Callable[[str], T | None]) -> list[T | None]:
        """What the answers say.

        Args:
            questions: Made a few at a time.
            read: Reads an answer; None of one that cannot be read.

        Returns:
            One per question, None where the answer could not be read.
        """
        found: list[T | None] = []
        unread: list[str] = []
        for batch in _batches(questions):
            for text in self.engine.answers(batch, self.max_new_tokens):
                found.append(read(text))
                unread += [text] if found[-1] is None else []
        if unread:
            self.unanswered += len(unread)
            logger.warning(
                "%s: %d of %d answers cannot be read (%d so far), the first of them is %s",
                self.model_id,
                len(unread),
                len(found),
                self.unanswered,
                brief(unread[0]),
            )
        return found


class StepwiseModel(AskingModel):
    """An `AskingModel` that is asked one question per frame, about the frames up to it."""

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict`; one question per frame."""
        return [self._scored(clip, [range(t + 1) for t in range(len(clip))], "given") for clip in clips]

    def predict_last(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict_last`; one question per clip."""
        return [self._scored(clip, [range(len(clip))], "given") for clip in clips]

    def predict_steps(
        self, clips: Sequence[Clip], protocol: FrameProtocol | None = None, every: int = 1
    ) -> list[Prediction]:
        """See `RewardModel.predict_steps`; one question per step."""
        shown = protocol or self.default_protocol
        said = []
        for clip in clips:
            steps = scored_steps(len(clip), every)
            histories = [steps[shown.slots(t)].tolist() for t in range(len(steps))]
            said.append(self._scored(clip, histories, str(shown), every))
        return said

    def shown(self, history: Sequence[int]) -> Sequence[int]:
        """Of the frames up to the one that is asked about, those that are shown: all, unless this is overridden."""
        return history

    @abstractmethod
    def question(self, frames: Frames, task: str) -> Question | float:
        """What is asked about the last of some frames, or its value where that is known."""

    @abstractmethod
    def value(self, text: str) -> float | None:
        """The value that an answer names, in [0, 1]; None if it cannot be read."""

    def _scored(self, clip: Clip, histories: Sequence[Sequence[int]], protocol: str, every: int = 1) -> Prediction:
        """Values of the last frame of each history, given by the numbers of its frames."""
        task = self.engine.check_task(clip.task)
        known: dict[int, float] = {}

        def questions() -> Iterator[Question]:
            for number, history in enumerate(histories):
                asked = self.question(clip.read(self.shown(history)), task)
                if isinstance(asked, Question):
                    yield asked
                else:
                    known[number] = asked

        with self.lock:
            said = iter(self.ask(questions(), self.value))
        values = [known[number] if number in known else next(said) for number in range(len(histories))]
        return self._prediction(held(values), protocol, every)


class ChainModel(AskingModel):
    """An `AskingModel` that compares each frame with the one before it, and adds up what it says.

    What it says of a frame depends on all frames before it, so it is for recorded episodes.
    """

    causal = False
    default_protocol: FrameProtocol = NestedFrames(8)

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict`; the frames given are the whole clip."""
        return [self._said(clip, 1) for clip in clips]

    def predict_steps(
        self, clips: Sequence[Clip], protocol: FrameProtocol | None = None, every: int = 1
    ) -> list[Prediction]:
        """See `RewardModel.predict_steps`; scored frames are compared with each other, whatever the protocol."""
        return [self._said(clip, every) for clip in clips]

    @abstractmethod
    def question(self, start: Frames, before: Frames, after: Frames, task: str) -> Question:
        """What is asked about two neighbouring frames, each (H, W, 3), as is the first of all."""

    @abstractmethod
    def hop(self, text: str) -> float | None:
        """The change that an answer names, in [-1, 1]; None if it cannot be read."""

    @abstractmethod
    def after(self, progress: float, hop: float) -> float:
        """Progress after a change; what leaves [0, 1] is put back."""

    def _said(self, clip: Clip, every: int) -> Prediction:
        task = self.engine.check_task(clip.task)
        steps = scored_steps(len(clip), every)

        def questions() -> Iterator[Question]:
            for pair in pairwise(steps.tolist()):
                start, before, after = clip.read([0, *pair])
                yield self.question(start, before, after, task)

        with self.lock:
            hops = self.ask(questions(), self.hop)
        return self._prediction(self.accumulated(hops), "given", every)

    def accumulated(self, hops: Sequence[float | None]) -> NDArray[np.float64]:
        """Progress before and after each change, from 0; one that is not known changes nothing."""
        progress = [0.0]
        for hop in hops:
            last = progress[-1]
            progress.append(last if hop is None else min(max(self.after(last, hop), 0.0), 1.0))
        return np.array(progress)


def held(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Values in time, in which what could not be read is worth what was read last.

    Raises:
        UnreadableAnswerError: The first could not be read.
    """
    if values[0] is None:
        raise UnreadableAnswerError(
            f"the answer about the first of {len(values)} frames cannot be read, and none was given before it; the log "
            "quotes it: ask another model, or ask again"
        )
    found = [values[0]]
    for value in values[1:]:
        found.append(found[-1] if value is None else value)
    return np.array(found, np.float64)


def _batches(questions: Iterable[Question]) -> Iterator[list[Question]]:
    iterator = iter(questions)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
