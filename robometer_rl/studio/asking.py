"""Asking a model about a recording, frame by frame, so that a page can say how far it is and be told to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from robometer_rl.frames import Clip, FrameProtocol, FrameSequence, as_frames, check_task, scored_steps
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.prediction import Prediction, StepPrediction
from robometer_rl.serving.calls import Attempt

__all__ = ["Asking", "Models", "Preference", "in_background", "prefer"]

T = TypeVar("T")


def in_background(call: Callable[[], T]) -> Future[T]:
    """What a call gives, or raises, from a thread of its own; the program may end before it does."""
    future: Future[T] = Future()

    def run() -> None:
        with Attempt() as attempt:
            future.set_result(call())
        if attempt.error is not None:
            future.set_exception(attempt.error)

    threading.Thread(target=run, daemon=True).start()
    return future


class Models:
    """Models by name, loaded when they are first asked, or before.

    Args:
        loaders: What loads each; the first is asked where nothing else is said.
    """

    def __init__(self, loaders: Mapping[str, Callable[[], RewardModel]]) -> None:
        if not loaders:
            raise ValueError("the studio needs at least one model; got none")
        self.names = tuple(loaders)
        self._loaders = loaders
        self._loading: dict[str, Future[RewardModel]] = {}
        self._lock = threading.Lock()

    def begin(self, name: str) -> Future[RewardModel]:
        """Loads the model called ``name`` in the background, if it is not there; again where that has failed.

        Raises:
            ValueError: It is none of `names`.
        """
        if name not in self.names:
            raise ValueError(f"the studio was not given the model {name!r}; it has {', '.join(self.names)}")
        with self._lock:
            found = self._loading.get(name)
            if found is None or (found.done() and found.exception() is not None):
                found = self._loading[name] = in_background(self._loaders[name])
            return found

    def get(self, name: str) -> RewardModel:
        """The model called ``name``.

        Raises:
            ValueError: It is none of `names`, or cannot be loaded.
            ConnectionError: Its server cannot be reached.
        """
        return self.begin(name).result()

    def is_loaded(self, name: str) -> bool:
        """Whether `get` answers at once."""
        found = self._loading.get(name)
        return found is not None and found.done() and found.exception() is None


class Asking:
    """One recording, and one or several instructions that a model is asked about at the same time.

    A growing history is scored at every step, as a wrapper would: values are those of
    `robometer_rl.RewardModel.predict_steps` as far as docs/protocols.md promises, and whoever stops iterating stops the
    model after the frame that it is at. A model that looks at whole episodes is asked one instruction at a time.

    Args:
        model: Who is asked.
        frames: (T, H, W, 3) RGB.
        tasks: The instructions.
        protocol: Which frames of its history each step is scored with; the model's own if None.
        every: Scoring interval in frames.
        tiled: Whether the pictures show several cameras, see `robometer_rl.tiles`.

    Attributes:
        total: How many answers there will be.

    Raises:
        UnsupportedByModelError: The model knows no progress, or is one for other pictures.
        ValueError: No instruction, an empty one, or an interval that is none.
    """

    def __init__(
        self,
        model: RewardModel,
        frames: FrameSequence,
        tasks: Sequence[str],
        protocol: FrameProtocol | None = None,
        every: int = 1,
        tiled: bool = False,
    ) -> None:
        model.require("scoring a recording", progress=True)
        model.require_views("scoring a recording", tiled=tiled)
        if not tasks:
            raise ValueError("no instruction is given; write what the robot was to do, such as 'open the drawer'")
        self.model, self.frames, self.every = model, frames, every
        self.tasks = [check_task(task) for task in tasks]
        self.protocol = protocol or model.default_protocol
        self._steps = scored_steps(len(frames), every)
        self.total = len(self._steps) if model.causal else len(self.tasks)
        self._said: list[StepPrediction] = []
        self._predictions: list[Prediction] = []

    def __iter__(self) -> Iterator[int]:
        """Asks, and says after each answer how many there are."""
        yield from self._as_stream() if self.model.causal else self._as_episodes()

    @property
    def predictions(self) -> list[Prediction]:
        """One per instruction, when all has been answered."""
        if not self._predictions:
            raise RuntimeError("the model has not been asked to the end")
        return self._predictions

    @property
    def so_far(self) -> tuple[int, list[Prediction]]:
        """How many frames have been answered, and one prediction of these per instruction; none while there is nothing.

        The numbers are those that stand at the same frames in the end: a frame is scored with those before it.
        """
        if not self._said:
            return 0, []
        return int(self._steps[len(self._said) - 1]) + 1, self._joined_rows()

    def _as_stream(self) -> Iterator[int]:
        stream = self.model.stream(self.tasks, self.protocol)
        self._said = []
        for step in self._steps.tolist():
            frame = as_frames(self.frames[step : step + 1])[0]
            self._said.append(stream.append([frame] * len(self.tasks)))
            yield len(self._said)
        self._predictions = self._joined_rows()

    def _joined_rows(self) -> list[Prediction]:
        return [self._joined(self._said, row) for row in range(len(self.tasks))]

    def _joined(self, said: Sequence[StepPrediction], row: int) -> Prediction:
        success = [step.success[row] for step in said if step.success is not None]
        return Prediction(
            progress=np.array([step.progress[row] for step in said], np.float32),
            success=np.array(success, np.float32) if len(success) == len(said) else None,
            progress_distribution=np.stack([step.progress_distribution[row] for step in said]),
            protocol=str(self.protocol),
            model_id=self.model.model_id,
            every=self.every,
            revision=self.model.revision,
            dtype=self.model.dtype,
        )

    def _as_episodes(self) -> Iterator[int]:
        found: list[Prediction] = []
        for task in self.tasks:
            found += self.model.predict_steps([Clip(self.frames, task)], self.protocol, self.every)
            yield len(found)
        self._predictions = found


@dataclass(frozen=True)
class Preference:
    """Which of two recordings a model prefers.

    Attributes:
        shown_first: Probability that it prefers the first one, which it was shown first.
        shown_second: The same with the other one shown first.
    """

    shown_first: float
    shown_second: float

    @property
    def mean(self) -> float:
        """Without the preference for a position."""
        return (self.shown_first + self.shown_second) / 2

    @property
    def is_steady(self) -> bool:
        """Whether the same recording is preferred in both orders."""
        return (self.shown_first >= 0.5) == (self.shown_second >= 0.5)


def prefer(model: RewardModel, first: FrameSequence, second: FrameSequence, task: str) -> Preference:
    """Asks which of two recordings (T, H, W, 3) did more for the task, in both orders, each shown as a whole episode.

    Raises:
        UnsupportedByModelError: The model does not compare, or was trained on tiled pictures.
    """
    model.require_views("comparing recordings", tiled=False)
    clips = [Clip(frames, task) for frames in (first, second)]
    slots = [model.default_protocol.slots(len(clip) - 1).tolist() for clip in clips]
    one, other = (Clip(clip.read(chosen), task) for clip, chosen in zip(clips, slots, strict=True))
    forward, backward = model.compare([(one, other)]), model.compare([(other, one)])
    return Preference(float(forward[0]), 1.0 - float(backward[0]))
