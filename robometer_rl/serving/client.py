"""A reward model on another machine: what ``load_reward_model("http://host:8000")`` gives.

Needs NumPy and nothing else, so that any environment can ask. What it says is what the model says: every error of the
model is raised here as it would be there, an outage is bridged and then raised, and nothing is ever replaced by a
number.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from robometer_rl.frames import Clip, FrameError, FrameProtocol, parse_protocol, same_length, scored_steps
from robometer_rl.models.reward_model import RewardModel, RewardStream
from robometer_rl.prediction import Prediction, StepPrediction
from robometer_rl.serving.connection import Answer, Connection, Refusal
from robometer_rl.serving.problems import ServerError
from robometer_rl.serving.wire import MODEL_FACTS, encode, unpack_predictions, unpack_step

__all__ = ["RemoteRewardModel", "RemoteStream"]

T = TypeVar("T")

_GONE: Final = (404, 410)


class RemoteRewardModel(RewardModel):
    """Asks a server of this package; see `RewardModel`.

    May be pickled: it is an address. Threads may share one.

    Args:
        connection: The server.
        about: What it says of its model.

    Raises:
        ServerError: It does not say what a reward server says.
    """

    def __init__(self, connection: Connection, about: Any) -> None:
        super().__init__()
        self.connection = connection
        self.source = connection.address
        try:
            about = {"tiled": False, **about}  # which older servers do not say
            for name in MODEL_FACTS:
                setattr(self, name, about[name])
            self.default_protocol = parse_protocol(about["default_protocol"])
            self.identity = str(about["identity"])
            self._limits = {name: int(about["limits"][name]) for name in ("body", "clips")}
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(f"{self.source}/v1/model does not describe a model: {error!r}") from error

    def __reduce__(self) -> Any:
        about = {name: getattr(self, name) for name in MODEL_FACTS}
        about |= {"default_protocol": str(self.default_protocol), "identity": self.identity, "limits": self._limits}
        return RemoteRewardModel, (self.connection, about)

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict`."""
        return self._ask_about("/v1/predict", clips, {})

    def predict_steps(
        self, clips: Sequence[Clip], protocol: FrameProtocol | None = None, every: int = 1
    ) -> list[Prediction]:
        """See `RewardModel.predict_steps`; only scored frames are sent."""
        scored = [
            clip if every == 1 else Clip(clip.read(scored_steps(len(clip), every).tolist()), clip.task)
            for clip in clips
        ]
        said = self._ask_about("/v1/predict_steps", scored, {"protocol": str(protocol or self.default_protocol)})
        return [replace(prediction, every=every) for prediction in said]

    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> NDArray[np.float32]:
        """See `RewardModel.compare`."""
        found = [np.zeros(0, np.float32)]
        stated = {"both_orders": both_orders, **self.views}
        for chunk in self._chunks(pairs, lambda pair: _nbytes(pair[0]) + _nbytes(pair[1])):
            tasks = [first.task for first, _ in chunk]
            frames = [clip.read() for pair in chunk for clip in pair]
            answer = self.ask("POST", "/v1/compare", self.packed({"tasks": tasks, **stated}, frames))
            found.append(answer.message.arrays[0])
        return np.concatenate(found)

    def stream(self, tasks: Sequence[str], protocol: FrameProtocol | None = None) -> RewardStream:
        """See `RewardModel.stream`; the server keeps the histories, one frame is sent per step."""
        return RemoteStream(self, tasks, protocol or self.default_protocol)

    @property
    def views(self) -> dict[str, bool]:
        """What heads say of the frames behind them: who asks has seen to it, see `RewardModel.require_views`."""
        return {"tiled": True} if self.tiled else {}

    def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """An answer of the server, if it still serves the same model.

        Raises:
            ServerError: It serves another one, or cannot be reached.
        """
        answer = self.connection.ask(method, path, body)
        found = answer.headers.get("x-robometer-model")
        if found != self.identity:
            raise ServerError(
                f"{self.source} serves {found!r} now; this program began with {self.identity!r}, and rewards of two "
                "models do not belong together"
            )
        return answer

    def packed(self, head: Mapping[str, Any], frames: Sequence[NDArray[np.uint8]]) -> bytes:
        """A message with frames (T, H, W, 3), packed as the address says."""
        return encode(head, frames, self.connection.encoding)

    def _ask_about(self, path: str, clips: Sequence[Clip], head: Mapping[str, Any]) -> list[Prediction]:
        found: list[Prediction] = []
        for chunk in self._chunks(clips, _nbytes):
            body = self.packed(
                {**head, **self.views, "tasks": [clip.task for clip in chunk]}, [clip.read() for clip in chunk]
            )
            message = self.ask("POST", path, body).message
            said = unpack_predictions(message.head["predictions"], message.arrays)
            same_length("predictions of the server", len(said), len(chunk))
            found += said
        return found

    def _chunks(self, items: Sequence[T], nbytes: Any) -> Iterator[list[T]]:
        """Items that one request may have."""
        # The head, and what surrounds it.
        room = self._limits["body"] - (1 << 20)
        chunk: list[T] = []
        size = 0
        for item in items:
            if (more := nbytes(item)) > room:
                raise FrameError(
                    f"one clip has {more / 1e6:.0f} MB of frames and {self.source} takes {room / 1e6:.0f} MB a time: "
                    "score fewer frames (every=), send smaller ones, or start it with a larger --limits.body"
                )
            if chunk and (size + more > room or len(chunk) == self._limits["clips"]):
                yield chunk
                chunk, size = [], 0
            chunk.append(item)
            size += more
        if chunk:
            yield chunk


@dataclass(frozen=True)
class _History:
    """What it takes to rebuild a history: the frames that its protocol retains."""

    frames: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    length: int = 0


class RemoteStream(RewardStream):
    """Histories that a server keeps; see `RewardStream`.

    They survive the server: this side keeps the frames that a later step may show (at most eight per history under
    nested frames), and rebuilds the histories where the server has lost them, and after every error, since nobody knows
    then what the server has seen.

    Args:
        model: Where they are.
        tasks: One per history.
        protocol: Which frames are shown.
    """

    def __init__(self, model: RemoteRewardModel, tasks: Sequence[str], protocol: FrameProtocol) -> None:
        super().__init__(tasks, protocol)
        self.model = model
        self._histories = [_History() for _ in self.tasks]
        # The stream at the server: None where it has to be made.
        self._name: str | None = None
        self._seq = 0
        if self.tasks:
            self._open()

    def append(self, frames: Sequence[Any] | NDArray[Any], indices: Sequence[int] | None = None) -> StepPrediction:
        """See `RewardStream.append`."""
        chosen = self._chosen(indices)
        images = self._frames_for(frames, chosen)
        if not chosen:
            return _nothing(self.model.has_success)
        said = self._ask("append", {"indices": chosen}, images)
        for index, image in zip(chosen, images, strict=True):
            before = self._histories[index]
            kept = self._still_shown(before.frames, before.length, image)
            self._histories[index] = _History(kept, before.length + 1)
        return said

    def peek(self, frames: Sequence[Any] | NDArray[Any], indices: Sequence[int] | None = None) -> StepPrediction:
        """See `RewardStream.peek`."""
        rows = self._of_candidates(len(frames), indices)
        images = self._frames_for(frames, rows)
        return self._ask("peek", {"indices": rows}, images) if rows else _nothing(self.model.has_success)

    def reset(self, indices: Sequence[int] | None = None, tasks: Sequence[str] | None = None) -> None:
        """See `RewardStream.reset`."""
        chosen = self._chosen(indices)
        if not chosen:
            return
        before = self.state()
        self._change_tasks(chosen, tasks)
        changed, self.tasks = self.tasks, before[0]
        named = None if tasks is None else [changed[index] for index in chosen]
        self._ask("reset", {"indices": chosen, "tasks": named}, [])
        self.tasks = changed
        for index in chosen:
            self._histories[index] = _History()

    def restore(self, index: int, length: int, frames: Mapping[int, Any]) -> None:
        """See `RewardStream.restore`; the server is told with the next call."""
        self._histories[index] = _History(self._restored(index, length, frames), length)
        self.close()

    def move(self, model: RemoteRewardModel) -> None:
        """Goes on at a server of the same model, which is given the histories with the next call."""
        if model is not self.model:
            self.close()
            self.model = model

    def close(self) -> None:
        """Lets the server forget the histories now; otherwise it does when this object is collected.

        They are still known here, so that any later call rebuilds them.
        """
        if self._name is not None:
            self._name = None
            self._forget()

    def state(self) -> tuple[list[str], list[_History]]:
        """Tasks and histories, for `go_back`."""
        return list(self.tasks), list(self._histories)

    def go_back(self, state: tuple[list[str], list[_History]]) -> None:
        """Makes everything what it was when `state` was asked for."""
        self.tasks, self._histories = list(state[0]), list(state[1])
        self.close()

    def _open(self) -> None:
        """Begins a stream at the server with what the histories are now."""
        listed = [{"length": each.length, "frames": sorted(each.frames)} for each in self._histories]
        arrays = [np.stack([each.frames[n] for n in sorted(each.frames)]) for each in self._histories if each.frames]
        head: dict[str, Any] = {"tasks": self.tasks, "protocol": str(self.protocol), **self.model.views}
        if arrays:
            head["restore"] = listed
        about = self.model.ask("POST", "/v1/streams", self.model.packed(head, arrays)).content
        self._name, self._seq = str(about["id"]), int(about["next_seq"])
        self._forget = weakref.finalize(self, _forget, self.model.connection, self._name, os.getpid())

    def _ask(self, what: str, head: dict[str, Any], images: Sequence[NDArray[np.uint8]]) -> Any:
        """Asks about the histories; where the server has lost them, rebuilds them and asks again."""
        arrays = list(_of_one_size(images))
        try:
            if self._name is not None:
                try:
                    return self._ask_once(what, head, arrays)
                except Refusal as error:
                    if error.status not in _GONE:
                        raise
            self._open()
            return self._ask_once(what, head, arrays)
        except BaseException:
            self.close()
            raise

    def _ask_once(self, what: str, head: dict[str, Any], arrays: list[NDArray[np.uint8]]) -> Any:
        numbered = head if what == "peek" else {**head, "seq": self._seq}
        answer = self.model.ask("POST", f"/v1/streams/{self._name}/{what}", self.model.packed(numbered, arrays))
        if what == "reset":
            self._seq += 1
            return None
        said = unpack_step(answer.message)
        same_length("values of the server", len(said), len(head["indices"]))
        self._seq += what == "append"
        return said


def _forget(connection: Connection, name: str, process: int) -> None:
    """Lets a server forget a stream, if that is easily done: its lease ends in any case."""
    if os.getpid() != process:
        return
    # A connection of its own: whoever collects this object may be in the middle of a request.
    with suppress(OSError):
        connection.alone(timeout=2.0).ask("DELETE", f"/v1/streams/{name}", repeat=False)


def _nbytes(clip: Clip) -> int:
    height, width = clip.size
    return len(clip) * height * width * 3


def _of_one_size(images: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Neighbouring frames of one size as one array (n, H, W, 3)."""
    run: list[NDArray[np.uint8]] = []
    for image in images:
        if run and run[0].shape != image.shape:
            yield np.stack(run)
            run = []
        run.append(image)
    if run:
        yield np.stack(run)


def _nothing(has_success: bool) -> StepPrediction:
    """Of no frames."""
    none = np.zeros(0, np.float32)
    return StepPrediction(none, none if has_success else None, np.zeros((0, 0), np.float32))
