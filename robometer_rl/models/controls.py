"""Controls: what an evaluation must be held against, as reward models that load by name.

Three see nothing of the frames: ``clock`` knows how long the episode is, ``monotone`` only that time goes on, and
``constant`` not even that. Four ask a real model about something else than was recorded: its frames in another order
(``shuffled``), one frame over and over (``repeated``), another instruction (``wrong_task``), the first half alone
(``truncated``). A number that a control reaches as well says nothing about a model.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robometer_rl.frames import Clip, FrameProtocol, UniformFrames, scored_steps
from robometer_rl.models.doubts import Doubts
from robometer_rl.models.locations import UnknownModelError
from robometer_rl.models.reward_model import ForwardingModel, RewardModel
from robometer_rl.prediction import Prediction

__all__ = ["BLIND", "CHANGES", "BlindModel", "ChangedModel", "load"]

_WRONG_TASK: Final = "whistle a song"
_HALF_LIFE: Final = 16.0  # frames after which `monotone` says a half

Frames = NDArray[np.uint8]


class BlindModel(RewardModel):
    """Says something of frames without looking at them; it prefers no clip to another, and knows of no success."""

    has_success = False
    causal = False  # it is told the number of a frame, which no stream knows whose protocol shows a part of the history
    default_protocol: FrameProtocol = UniformFrames(8)

    def __init__(self, name: str) -> None:
        """A control that is called ``name``."""
        super().__init__()
        self.source = self.model_id = name

    @abstractmethod
    def answer(self, positions: ArrayLike, length: int) -> NDArray[np.float32]:
        """Progress of frames.

        Args:
            positions: (n,) their numbers in the episode, from 0.
            length: Frames of the episode.

        Returns:
            (n,) in [0, 1].
        """

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict`; the frames given are taken for the whole episode."""
        return [self._said(np.arange(len(clip)), len(clip), "given", 1) for clip in clips]

    def predict_steps(
        self, clips: Sequence[Clip], protocol: FrameProtocol | None = None, every: int = 1
    ) -> list[Prediction]:
        """See `RewardModel.predict_steps`."""
        name = str(protocol or self.default_protocol)
        return [self._said(scored_steps(len(clip), every), len(clip), name, every) for clip in clips]

    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> NDArray[np.float32]:
        """See `RewardModel.compare`."""
        return np.full(len(pairs), 0.5, np.float32)

    def _said(self, positions: ArrayLike, length: int, protocol: str, every: int) -> Prediction:
        progress = self.answer(positions, length)
        return Prediction(progress, None, np.zeros((len(progress), 0), np.float32), protocol, self.model_id, every)


class _Clock(BlindModel):
    """Rises evenly from 0 in the first frame to 1 in the last, which it must know: no agent could be paid by it."""

    def answer(self, positions: ArrayLike, length: int) -> NDArray[np.float32]:
        return (np.asarray(positions) / max(length - 1, 1)).astype(np.float32)


class _Monotone(BlindModel):
    """Rises with every frame, whatever it shows and however long the episode will be."""

    def answer(self, positions: ArrayLike, length: int) -> NDArray[np.float32]:
        return (1.0 - 0.5 ** (np.asarray(positions) / _HALF_LIFE)).astype(np.float32)


class _Constant(BlindModel):
    """Says a half of everything."""

    causal = True

    def answer(self, positions: ArrayLike, length: int) -> NDArray[np.float32]:
        return np.full(np.shape(positions), 0.5, np.float32)


BLIND: Final[Mapping[str, type[BlindModel]]] = {"clock": _Clock, "constant": _Constant, "monotone": _Monotone}
"""Controls that see nothing, by name."""


def _shuffled(frames: Frames, task: str) -> tuple[Frames, str]:
    """Other clips of the same length are shuffled in another order; the same clip in the same one."""
    order = np.random.default_rng(zlib.crc32(frames.tobytes())).permutation(len(frames))
    return frames[order], task


def _repeated(frames: Frames, task: str) -> tuple[Frames, str]:
    return np.repeat(frames[:1], len(frames), axis=0), task


def _wrong_task(frames: Frames, task: str) -> tuple[Frames, str]:
    return frames, _WRONG_TASK


def _truncated(frames: Frames, task: str) -> tuple[Frames, str]:
    """As many frames, but none of the second half: what was seen last is held."""
    half = np.minimum(np.arange(len(frames)), (len(frames) - 1) // 2)
    return frames[half], task


CHANGES: Final[Mapping[str, Callable[[Frames, str], tuple[Frames, str]]]] = {
    "shuffled": _shuffled,
    "repeated": _repeated,
    "wrong_task": _wrong_task,
    "truncated": _truncated,
}
"""Controls that ask a model about something else, by name: (T, H, W, 3) frames and a task to as many frames and a task.

The wrong task is one that no robot is given; evaluations of several tasks use another task of theirs instead.
"""


class ChangedModel(ForwardingModel):
    """A model that is asked about changed clips: one of `CHANGES` in front of it."""

    def __init__(self, change: str, model: RewardModel, other_tasks: Mapping[str, str] | None = None) -> None:
        """``model`` behind the change of that name.

        Args:
            change: One of `CHANGES`.
            model: Who is asked.
            other_tasks: What ``wrong_task`` says instead of an instruction, where it is not that of `CHANGES`.
        """
        super().__init__(model)
        self.change, self.other_tasks = CHANGES[change], other_tasks or {}
        self.source, self.model_id = f"control:{change}:{model.source}", f"{model.model_id} ({change})"
        self.causal = False  # the change is one of whole clips
        self.doubts = Doubts(quiet=True)  # that a model is shown what it does not know is the point

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict`."""
        return super().predict([self._changed(clip) for clip in clips])

    def predict_steps(
        self, clips: Sequence[Clip], protocol: FrameProtocol | None = None, every: int = 1
    ) -> list[Prediction]:
        """See `RewardModel.predict_steps`; episodes are changed as a whole."""
        return super().predict_steps([self._changed(clip) for clip in clips], protocol, every)

    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> NDArray[np.float32]:
        """See `RewardModel.compare`."""
        return super().compare([(self._changed(one), self._changed(other)) for one, other in pairs], both_orders)

    def _changed(self, clip: Clip) -> Clip:
        frames, task = self.change(clip.read(), clip.task)
        return Clip(frames, task if task == clip.task else self.other_tasks.get(clip.task, task))


def load(where: str, device: str = "cpu", dtype: str | None = None) -> RewardModel:
    """Loads a control: ``clock``, ``constant``, ``monotone``, or a change and the model behind it, ``shuffled:mini``.

    Raises:
        UnknownModelError: There is no such control.
    """
    if where in BLIND:
        return BLIND[where](where)
    change, colon, name = where.partition(":")
    if change in CHANGES and colon:
        from robometer_rl.models.loading import load_reward_model

        return ChangedModel(change, load_reward_model(name, device, dtype))
    raise UnknownModelError(
        f"unknown control {where!r}; expected one of {', '.join(BLIND)}, or one of {', '.join(CHANGES)} with a model "
        "behind it, as in control:shuffled:mini"
    )
