"""What requests ask of the model: calls that wait for its thread, and how their answers and errors reach them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robometer_rl.frames import Clip
from robometer_rl.serving.problems import Problem

__all__ = ["Attempt", "Call", "Frames", "Question", "StreamAction", "StreamCall"]

Frames = list[NDArray[np.uint8]]


class Attempt:
    """A block whose error is kept, for those who wait for what the block makes.

    Attributes:
        error: The exception that ended the block, None if none did.
    """

    error: Exception | None = None

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None


def _running() -> Future[Any]:
    # Whoever stops waiting says so with `Call.abandoned`; the future itself is not to be cancelled.
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass(eq=False, kw_only=True)
class Call:
    """Work that one request asks of the model.

    Attributes:
        deadline: When nobody waits for it any more, by `time.monotonic`.
        abandoned: Whether nobody does already.
        future: Its result.
        received: When it was made, by `time.monotonic`.
    """

    deadline: float = math.inf
    abandoned: bool = False
    future: Future[Any] = field(default_factory=_running)
    received: float = field(default_factory=time.monotonic)

    @property
    def num_frames(self) -> int:
        """Frames that the model is given."""
        return 0

    def fail(self, error: Exception) -> None:
        """Ends it with an error."""
        self.future.set_exception(error)

    def expire(self) -> bool:
        """Ends it if nobody waits for it any more; returns whether that is so."""
        if not self.abandoned and time.monotonic() < self.deadline:
            return False
        self.fail(Problem(504, "deadline", "the answer was not ready in time; the request was dropped"))
        return True


@dataclass(eq=False, kw_only=True)
class Question(Call):
    """Clips or pairs to be scored, each for itself.

    Attributes:
        kind: A method of `robometer_rl.RewardModel`.
        items: Clips, or pairs of clips for ``compare``.
        options: Other arguments of the method. Questions of a kind with equal options can be asked together.
        answers: One per item, as far as there are some.
    """

    kind: Literal["predict", "predict_steps", "compare"]
    items: Sequence[Any]
    options: tuple[tuple[str, Any], ...] = ()
    answers: list[Any] = field(default_factory=list)

    @property
    def num_frames(self) -> int:
        """See `Call.num_frames`."""
        return sum(map(self.frames_of, self.items))

    def frames_of(self, item: Clip | tuple[Clip, Clip]) -> int:
        """Frames of an item."""
        return len(item) if isinstance(item, Clip) else sum(map(len, item))


@dataclass(eq=False, kw_only=True)
class StreamCall(Call):
    """Frames for histories of a stream.

    Attributes:
        stream: Its name.
        indices: Histories, counted within the stream.
        frames: One for each.
        seq: Number of the call within the stream; None to peek.
    """

    stream: str
    indices: list[int]
    frames: Frames
    seq: int | None

    @property
    def num_frames(self) -> int:
        """See `Call.num_frames`."""
        return len(self.frames)


@dataclass(eq=False, kw_only=True)
class StreamAction(Call):
    """Anything else about streams.

    Attributes:
        stream: The stream that it is about, None if it is to be made.
        action: What to do with the `robometer_rl.serving.slots.StreamTable`.
    """

    stream: str | None
    action: Callable[[Any], Any]
