"""The interface of a reward model, and everything that follows from `RewardModel.predict` alone.

A per-frame value model is one small file: subclass `RewardModel`, implement `predict`, and dense episode scores and
per-environment streams work. A model that can do better overrides `predict_steps` and `stream`.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from robometer_rl.documents import brief
from robometer_rl.frames import (
    Clip,
    FrameError,
    FrameProtocol,
    are_tensors_of_one_kind,
    as_frame,
    as_tensor_frames,
    check_task,
    same_length,
    scored_steps,
)
from robometer_rl.models.doubts import Doubts
from robometer_rl.prediction import Prediction, StepPrediction
from robometer_rl.rewards import RewardSpec

__all__ = [
    "ForwardingModel",
    "HistoryStream",
    "RewardModel",
    "RewardStream",
    "UnreadableAnswerError",
    "UnsupportedByModelError",
]

T = TypeVar("T")


class UnsupportedByModelError(RuntimeError):
    """This model cannot answer that question, whatever its arguments."""


class UnreadableAnswerError(ValueError):
    """A model that answers in words said what cannot be read, where nothing else is known; it may know other clips."""


class RewardStream(ABC):
    """Histories that grow by one frame at a time, scored together.

    Attributes:
        tasks: The instruction of each history.
        protocol: Which frames of a history are shown to the model.
    """

    tasks: list[str]
    protocol: FrameProtocol

    def __init__(self, tasks: Sequence[str], protocol: FrameProtocol) -> None:
        self.protocol = protocol
        self.tasks = self._checked(tasks, len(tasks))

    def __len__(self) -> int:
        return len(self.tasks)

    @abstractmethod
    def append(self, frames: Sequence[Any] | NDArray[Any], indices: Sequence[int] | None = None) -> StepPrediction:
        """Adds one frame to each of the chosen histories and scores it with its history.

        Args:
            frames: One RGB image per chosen history, see `robometer_rl.frames.as_frame`; sizes may differ between
                histories, not within one.
            indices: The histories, all by default; no history twice.

        Returns:
            One value per entry of ``indices``, in that order.

        Raises:
            FrameError: A frame that is not RGB, or not of its history's size. After any error, the histories are as
                they were.
        """

    @abstractmethod
    def reset(self, indices: Sequence[int] | None = None, tasks: Sequence[str] | None = None) -> None:
        """Empties the chosen histories (all by default) and, if ``tasks`` is given, changes their instructions."""

    @abstractmethod
    def peek(self, frames: Sequence[Any] | NDArray[Any], indices: Sequence[int] | None = None) -> StepPrediction:
        """Scores possible next frames, each with a history, and leaves the histories as they are.

        Which of several actions is best, what a world model imagines: candidates are scored together, as `append`
        would score them one by one.

        Args:
            frames: K RGB images, see `robometer_rl.frames.as_frame`, each of its history's size.
            indices: The history of each; as many candidates of one history as you like. The only history by default.

        Returns:
            One value per frame.

        Raises:
            FrameError: As for `append`.

        Examples:
            >>> import numpy as np
            >>> from robometer_rl import load_reward_model
            >>> frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
            >>> stream = load_reward_model("mini").stream(["open the drawer"])
            >>> _ = stream.append(frames[:1])
            >>> candidates = stream.peek(frames[1:]).progress
            >>> bool(abs(stream.append(frames[2:3]).progress[0] - candidates[1]) < 1e-6)
            True
        """

    @abstractmethod
    def restore(self, index: int, length: int, frames: Mapping[int, Any]) -> None:
        """Makes a history what it was after ``length`` frames, of which only some are left.

        Args:
            index: The history; its task stays.
            length: Frames it had seen.
            frames: By number, those that a later step may show: ``protocol.retained(length - 1)``.

        Raises:
            ValueError: Other frames than these.
            FrameError: A frame that is not RGB, or not of the size of the others. The history is empty then.
        """

    def memory_for(self, index: int, height: int, width: int) -> int:
        """Bytes that a history of such frames takes at most, beside the frames that its protocol retains."""
        return 0

    def _chosen(self, indices: Sequence[int] | None) -> list[int]:
        if indices is None:
            return list(range(len(self)))
        chosen = [int(index) for index in indices]
        if len(set(chosen)) != len(chosen) or any(not 0 <= index < len(self) for index in chosen):
            raise IndexError(f"got histories {chosen}; expected distinct numbers from 0 to {len(self) - 1}")
        return chosen

    def _of_candidates(self, count: int, indices: Sequence[int] | None) -> list[int]:
        """The history of each candidate of `peek`."""
        if indices is None:
            if len(self) != 1:
                raise ValueError(f"got no indices; expected the history of each candidate, from 0 to {len(self) - 1}")
            return [0] * count
        rows = [int(index) for index in indices]
        if any(not 0 <= row < len(self) for row in rows):
            raise IndexError(f"got histories {rows}; expected numbers from 0 to {len(self) - 1}")
        return rows

    def _restored(self, index: int, length: int, frames: Mapping[int, Any]) -> dict[int, Any]:
        """The frames of `restore`, if they are those that it takes."""
        self._chosen([index])
        wanted = self.protocol.retained(length - 1).tolist() if length > 0 else []
        if length < 0 or sorted(frames) != wanted:
            raise ValueError(
                f"history {index} of {length} frames under {self.protocol} is restored from the frames "
                f"{brief(wanted)}; got {brief(sorted(frames))}"
            )
        images = self._frames_for([frames[number] for number in wanted], wanted)
        if len({image.shape for image in images}) > 1:
            raise FrameError(f"history {index} is restored from frames of different sizes")
        return dict(zip(wanted, images, strict=True))

    def _frames_for(self, frames: Sequence[Any] | NDArray[Any], chosen: Sequence[int]) -> list[Any]:
        """Copies of one frame for each chosen history, uint8 RGB (H, W, 3): arrays, unless a stream takes tensors."""
        same_length("frames", len(frames), len(chosen))
        # Copies: an environment may draw every frame into the same buffer.
        if are_tensors_of_one_kind(frames):
            # One by one again, or a frame that is kept would keep its whole batch.
            return [np.array(frame) for frame in as_tensor_frames(frames).cpu().numpy()]
        return [np.array(as_frame(frame)) for frame in frames]

    def _change_tasks(self, chosen: Sequence[int], tasks: Sequence[str] | None) -> None:
        if tasks is None:
            return
        checked = self._checked(tasks, len(chosen))
        for index, task in zip(chosen, checked, strict=True):
            self.tasks[index] = task

    def _checked(self, tasks: Sequence[str], count: int) -> list[str]:
        """The tasks of ``count`` histories, each of which can be asked about."""
        if isinstance(tasks, str):
            raise TypeError(f"got one task, {tasks!r}; expected a list with one task per history")
        same_length("tasks", len(tasks), count)
        return [self._check_task(task) for task in tasks]

    def _still_shown(self, frames: Mapping[int, T], length: int, newest: T) -> dict[int, T]:
        """Of a history's frames by number, and its newest behind ``length`` others, what a later step may show."""
        retained = set(self.protocol.retained(length).tolist())
        return {t: frame for t, frame in {**frames, length: newest}.items() if t in retained}

    def _check_task(self, task: str) -> str:
        """Returns a task that can be asked about; raises `TaskError` otherwise."""
        return check_task(task)


class RewardModel(ABC):
    """Predicts progress and success after each frame of a clip.

    Attributes:
        source: The string that `robometer_rl.load_reward_model` takes to load the same model again.
        model_id: Name recorded in outputs.
        revision: Commit recorded in outputs, if known.
        dtype: Precision recorded in outputs.
        device: Where it computes, as torch names it.
        bins: Columns of `Prediction.progress_distribution`; 0 if it gives no distribution.
        default_protocol: What ``protocol=None`` means for this model.
        success_threshold: Calibrated threshold on the success probability, None if it was never calibrated.
        has_progress: Whether it says how far a task has come; one that only compares raises in `predict`.
        has_success: Whether it says how likely a task is done; if not, `Prediction.success` is None.
        causal: Whether what it says of a step depends on frames up to that step only. One that looks at whole
            episodes overrides `predict_steps`, and cannot pay an agent that is still acting.
        tiled: Whether it was trained on pictures that show several cameras, see `robometer_rl.tiles`, which is another
            thing than what one of them shows.
        record: What else decides what it says, such as the hash of a prompt, as plain values for JSON; recorded in
            outputs.
        unanswered: Frames and pairs so far about which no answer could be read, of a model that answers in words.
        doubts: What speaks against believing it, said once in the log.
        lock: Held while the model computes, so that several threads may share one. A stream belongs to one thread.
    """

    source: str
    model_id: str
    revision: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    bins: int = 0
    default_protocol: FrameProtocol
    success_threshold: float | None = None
    has_progress: bool = True
    has_success: bool = True
    causal: bool = True
    tiled: bool = False
    unanswered: int = 0

    def __init__(self) -> None:
        self.record: dict[str, Any] = {}
        self.lock = threading.RLock()
        self.doubts = Doubts()

    def require(
        self,
        purpose: str,
        *,
        progress: bool = False,
        success: bool = False,
        causal: bool = False,
        uncertainty: bool = False,
    ) -> None:
        """Refuses a use of this model for which it lacks what is asked for.

        Args:
            purpose: What needs it, as the beginning of a sentence such as ``"calibration"``.
            progress: Whether progress is needed.
            success: Whether success probabilities are.
            causal: Whether steps are scored while the episode goes on.
            uncertainty: Whether it is needed how sure the model is of progress.

        Raises:
            UnsupportedByModelError: The model has no such thing.
        """
        lacks = {
            "progress": progress and not self.has_progress,
            "success probabilities": success and not self.has_success,
            "scores before an episode has ended": causal and not self.causal,
            "a distribution over progress": uncertainty and self.bins < 2,
        }
        if missing := [name for name, lacking in lacks.items() if lacking]:
            raise UnsupportedByModelError(
                f"{purpose} needs {' and '.join(missing)}, which the model {self.model_id!r} does not give"
            )

    def require_views(self, purpose: str, *, tiled: bool) -> None:
        """Refuses to show single views to a model that was trained on tiled pictures.

        Args:
            purpose: What shows them, as the beginning of a sentence such as ``"scoring a recording"``.
            tiled: Whether pictures are tiled, all of them.

        Raises:
            UnsupportedByModelError: The model was, and they are not.
        """
        if self.tiled and not tiled:
            raise UnsupportedByModelError(
                f"{purpose} shows single views to the model {self.model_id!r}, which was trained on several cameras in "
                "one picture: give it such pictures (--tile of commands, Tiles of wrappers; docs/wrappers.md)"
            )

    def require_for(self, spec: RewardSpec, *, live: bool) -> None:
        """Refuses a reward that this model cannot pay.

        Args:
            spec: The reward.
            live: Whether it is paid while an agent acts, rather than for recorded episodes.

        Raises:
            UnsupportedByModelError: See `require`.
        """
        self.require(
            "a reward that is paid while an agent acts" if live else "a reward for recorded episodes",
            progress=spec.needs_progress,
            causal=live,
        )
        self.require(f"the reward {spec.summary()}", success=spec.needs_success, uncertainty=spec.needs_uncertainty)

    @abstractmethod
    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """Scores exactly the frames given, one value per frame; lengths and sizes may differ between clips."""

    def predict_last(self, clips: Sequence[Clip]) -> list[Prediction]:
        """What `predict` says of the last frame of each clip; values before it may be left out.

        Streams and `predict_steps` ask by it. A model that asks about each frame anew overrides it.
        """
        return self.predict(clips)

    def predict_steps(
        self, clips: Sequence[Clip], protocol: FrameProtocol | None = None, every: int = 1
    ) -> list[Prediction]:
        """Scores whole episodes densely: one value per scored step, each with its own history.

        Args:
            clips: Episodes of any length.
            protocol: Which frames of its history each step is scored with; the model's default if None.
            every: Scoring interval, see `robometer_rl.frames.scored_steps`.

        Returns:
            One prediction per clip with ``len(scored_steps(len(clip), every))`` values.
        """
        protocol = protocol or self.default_protocol
        results: list[list[Prediction]] = [[] for _ in clips]
        questions = (
            (number, question) for number, clip in enumerate(clips) for question in _questions(clip, protocol, every)
        )
        with self.lock:
            for batch in _batches(questions, 16):
                for (number, _), prediction in zip(batch, self.predict_last([clip for _, clip in batch]), strict=True):
                    results[number].append(prediction)
        return [replace(answers[0], **_newest(answers), protocol=str(protocol), every=every) for answers in results]

    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> NDArray[np.float32]:
        """Probability that the first clip of each pair makes more progress than the second.

        Args:
            pairs: Two clips with the same task.
            both_orders: Ask in both orders and average, which removes the preference for a position.

        Returns:
            (len(pairs),) probabilities.

        Raises:
            UnsupportedByModelError: The model has no notion of preference.
        """
        raise UnsupportedByModelError(f"{type(self).__name__} {self.model_id!r} does not compare trajectories")

    def stream(self, tasks: Sequence[str], protocol: FrameProtocol | None = None) -> RewardStream:
        """Starts one empty history per task; see `RewardStream`."""
        return HistoryStream(self, tasks, protocol or self.default_protocol)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled: it lives once, in the main process. To score environments "
            "that run in worker processes, wrap the vectorised environment outside with "
            "robometer_rl.wrappers.vector.RobometerReward (Gymnasium) or robometer_rl.wrappers.sb3.VecRobometerReward "
            "(Stable-Baselines3), and render in the workers with robometer_rl.wrappers.rendering.RenderToInfo"
        )


class ForwardingModel(RewardModel):
    """A model in front of another, which is asked; subclasses change what is asked or keep what is answered."""

    def __init__(self, model: RewardModel) -> None:
        """In front of ``model``, as which it is recorded in outputs."""
        super().__init__()
        self.model = model
        self.source, self.model_id, self.revision = model.source, model.model_id, model.revision
        self.dtype, self.device, self.bins = model.dtype, model.device, model.bins
        self.default_protocol, self.success_threshold = model.default_protocol, model.success_threshold
        self.has_progress, self.has_success, self.causal = model.has_progress, model.has_success, model.causal
        self.tiled, self.record = model.tiled, model.record
        self.doubts = model.doubts

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict`."""
        return self.model.predict(clips)

    def predict_steps(
        self, clips: Sequence[Clip], protocol: FrameProtocol | None = None, every: int = 1
    ) -> list[Prediction]:
        """See `RewardModel.predict_steps`."""
        return self.model.predict_steps(clips, protocol, every)

    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> NDArray[np.float32]:
        """See `RewardModel.compare`."""
        return self.model.compare(pairs, both_orders)


def _questions(clip: Clip, protocol: FrameProtocol, every: int) -> Iterator[Clip]:
    """What the model is shown for each scored step of an episode, made one at a time."""
    steps = scored_steps(len(clip), every)
    for t in range(len(steps)):
        yield Clip(clip.read(steps[protocol.slots(t)]), clip.task)


@dataclass
class _History:
    """The frames of one history that its protocol may still show."""

    frames: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    length: int = 0


class HistoryStream(RewardStream):
    """A stream for any model: keeps the frames a protocol may still show and asks `RewardModel.predict_last`."""

    def __init__(self, model: RewardModel, tasks: Sequence[str], protocol: FrameProtocol) -> None:
        super().__init__(tasks, protocol)
        self.model = model
        self._histories = [_History() for _ in self.tasks]

    def append(self, frames: Sequence[Any] | NDArray[Any], indices: Sequence[int] | None = None) -> StepPrediction:
        """See `RewardStream.append`."""
        chosen = self._chosen(indices)
        images = self._frames_for(frames, chosen)
        clips = [self._shown(index, image) for index, image in zip(chosen, images, strict=True)]
        with self.model.lock:
            answers = self.model.predict_last(clips)
        same_length("predictions of the model", len(answers), len(clips))
        names = [f"history {index}, frame {self._histories[index].length}" for index in chosen]
        said = StepPrediction(**_newest(answers), names=names)
        for index, image in zip(chosen, images, strict=True):
            self._keep(self._histories[index], image)
        return said

    def reset(self, indices: Sequence[int] | None = None, tasks: Sequence[str] | None = None) -> None:
        """See `RewardStream.reset`."""
        chosen = self._chosen(indices)
        self._change_tasks(chosen, tasks)
        for index in chosen:
            self._histories[index] = _History()

    def peek(self, frames: Sequence[Any] | NDArray[Any], indices: Sequence[int] | None = None) -> StepPrediction:
        """See `RewardStream.peek`."""
        rows = self._of_candidates(len(frames), indices)
        images = self._frames_for(frames, rows)
        clips = [self._shown(row, image) for row, image in zip(rows, images, strict=True)]
        with self.model.lock:
            answers = self.model.predict_last(clips)
        same_length("predictions of the model", len(answers), len(clips))
        return StepPrediction(**_newest(answers), names=[f"candidate {n} of history {r}" for n, r in enumerate(rows)])

    def restore(self, index: int, length: int, frames: Mapping[int, Any]) -> None:
        """See `RewardStream.restore`."""
        self._histories[index] = _History(self._restored(index, length, frames), length)

    def _shown(self, index: int, image: NDArray[np.uint8]) -> Clip:
        """What the model is shown once ``image`` is the newest frame of a history, which it is not yet."""
        history = self._histories[index]
        frames = {**history.frames, history.length: image}
        return Clip([frames[slot] for slot in self.protocol.slots(history.length).tolist()], self.tasks[index])  # pyright: ignore[reportArgumentType]

    def _keep(self, history: _History, image: NDArray[np.uint8]) -> None:
        """Adds a frame to a history, and forgets those that no later step shows."""
        history.frames = self._still_shown(history.frames, history.length, image)
        history.length += 1


def _newest(answers: Sequence[Prediction]) -> dict[str, Any]:
    """What answers say of the last frame that each is about, by the name of the field."""
    if not all(len(answer) for answer in answers):
        raise ValueError("the model gave no value for a clip; expected one for each of its frames")
    distributions = [answer.progress_distribution[-1] for answer in answers]
    success = [None if answer.success is None else answer.success[-1] for answer in answers]
    return {
        "progress": np.array([answer.progress[-1] for answer in answers], np.float32),
        "success": None if None in success else np.array(success, np.float32),
        "progress_distribution": np.stack(distributions) if distributions else np.zeros((0, 0), np.float32),
    }


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
