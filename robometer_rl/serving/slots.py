"""Streams of many clients in one stream of the model: each client's histories are slots of it.

Histories of all clients go through the model as rows of one pass, however old they are. Everything here happens on the
thread of the model (`model_thread`), so nothing is locked.

Calls of a stream are numbered. The same number again is answered with the same answer, so a request that is repeated
because its answer was lost adds no frame twice; another number than the next one is refused.
"""

from __future__ import annotations

import heapq
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.frames import FrameError, FrameProtocol, same_length
from robometer_rl.models.reward_model import RewardModel, RewardStream
from robometer_rl.prediction import StepPrediction
from robometer_rl.serving.calls import Attempt, Frames, StreamAction, StreamCall
from robometer_rl.serving.limits import Limits
from robometer_rl.serving.problems import Problem

__all__ = ["Restored", "StreamTable"]

_IDLE: Final = "wait for a task"  # a slot has a task before anybody has it


@dataclass(frozen=True)
class Restored:
    """A history that a client rebuilds: see `robometer_rl.models.reward_model.RewardStream.restore`.

    Attributes:
        length: Frames it had seen.
        frames: Those that its protocol retains, by number.
    """

    length: int
    frames: Mapping[int, NDArray[np.uint8]]


@dataclass
class _Slot:
    """One history.

    Attributes:
        size: Height and width of its frames, known from the first one on.
        length: Frames seen.
    """

    size: tuple[int, int] | None = None
    length: int = 0


@dataclass
class _Pool:
    """The slots of one protocol.

    Attributes:
        stream: All of them as one stream of the model.
        slots: What is known of each.
        free: Those that nobody has, as a heap.
        largest: Bytes of keys and values of the largest history so far; the buffer has room for as many of them as
            there are slots.
        frame_bytes: Bytes of the frames that all histories retain.
    """

    stream: RewardStream
    slots: list[_Slot]
    free: list[int]
    largest: int = 0
    frame_bytes: int = 0

    @property
    def nbytes(self) -> int:
        return self.largest * len(self.slots) + self.frame_bytes

    def retained(self, slot: _Slot) -> int:
        """Bytes of the frames that a history retains."""
        if slot.size is None or not slot.length:
            return 0
        return len(self.stream.protocol.retained(slot.length - 1)) * slot.size[0] * slot.size[1] * 3

    def empty(self, rows: Sequence[int], tasks: Sequence[str] | None = None) -> None:
        """Empties slots, and gives them other tasks."""
        self.stream.reset(rows, tasks)
        for row in rows:
            self.frame_bytes -= self.retained(self.slots[row])
            self.slots[row] = _Slot()

    def grow(self, row: int, size: tuple[int, int], length: int) -> None:
        """Notes that a history has seen ``length`` frames."""
        slot = self.slots[row]
        self.frame_bytes -= self.retained(slot)
        slot.size, slot.length = size, length
        self.frame_bytes += self.retained(slot)


@dataclass
class _Stream:
    """What one client has.

    Attributes:
        pool: Where its histories are.
        rows: The slot of each.
        ends: When it is forgotten unless it is used, by `time.monotonic`.
        seq: Number of the next call.
        answer: What the call before was answered with.
    """

    pool: _Pool
    rows: list[int]
    ends: float
    seq: int = 0
    answer: StepPrediction | None = None

    def rows_of(self, indices: Sequence[int] | None, distinct: bool) -> list[int]:
        """The slots of histories.

        Raises:
            IndexError: It has no such histories, or one is named twice.
        """
        chosen = list(range(len(self.rows)) if indices is None else indices)
        if any(not 0 <= index < len(self.rows) for index in chosen) or (distinct and len(set(chosen)) < len(chosen)):
            what = "distinct numbers" if distinct else "numbers"
            raise IndexError(f"got histories {chosen}; expected {what} from 0 to {len(self.rows) - 1}")
        return [self.rows[index] for index in chosen]

    def blame(self, error: Exception) -> Exception:
        """The error with the client's numbers of histories instead of slots."""
        index_of = {row: index for index, row in enumerate(self.rows)}
        text = re.sub(r"\bhistory (\d+)", lambda m: f"history {index_of.get(int(m[1]), m[1])}", str(error))
        return error if text == str(error) or isinstance(error, Problem) else type(error)(text)


@dataclass
class _Ready:
    """A call that can be answered."""

    call: StreamCall
    stream: _Stream
    rows: list[int]


@dataclass
class StreamTable:
    """All streams of all clients.

    Attributes:
        model: The model that answers.
        limits: What may be taken.
        memory: Bytes that keys, values and frames of all histories may take.
        lease: Seconds after which a stream that is not used is forgotten.
        prefix: What the names of streams begin with.
    """

    model: RewardModel
    limits: Limits
    memory: int
    lease: float
    prefix: str = ""
    _pools: dict[str, _Pool] = field(default_factory=dict)
    _streams: dict[str, _Stream] = field(default_factory=dict)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Streams, histories, and bytes that they take."""
        return (
            len(self._streams),
            sum(len(stream.rows) for stream in self._streams.values()),
            sum(pool.nbytes for pool in self._pools.values()),
        )

    def answer(self, calls: Sequence[StreamCall | StreamAction]) -> list[int]:
        """Answers calls of different streams; returns how many rows each pass had."""
        ready: list[_Ready] = []
        for call in calls:
            with Attempt() as attempt:
                if isinstance(call, StreamAction):
                    call.future.set_result(call.action(self))
                elif (found := self._prepare(call)) is not None:
                    ready.append(found)
            if attempt.error is not None:
                call.fail(attempt.error)
        passes = []
        for pool in self._pools.values():
            for is_peek in (False, True):
                asked = [each for each in ready if each.stream.pool is pool and (each.call.seq is None) == is_peek]
                if asked:
                    passes.append(sum(len(each.rows) for each in asked))
                    # In the order of their slots: neighbours are read from the buffer without copying them.
                    self._ask(pool, sorted(asked, key=lambda each: each.rows[:1]))
        return passes

    def open(self, tasks: Sequence[str], protocol: FrameProtocol, histories: Sequence[Restored] | None) -> str:
        """Begins a stream.

        Args:
            tasks: One per history.
            protocol: Which frames are shown.
            histories: What the histories are to begin with; nothing if None.

        Returns:
            Its name.

        Raises:
            Problem: There is no room.
            ValueError: A task or a history that cannot be.
        """
        self.limits.check_count(len(tasks), "histories", "tasks")
        pool = self._pool(protocol)
        if len(tasks) > len(pool.free):
            self.sweep()
        if len(tasks) > len(pool.free):
            raise Problem(
                429,
                "no_room",
                f"{len(tasks)} histories were asked for and {len(pool.free)} of {len(pool.slots)} are free; close "
                f"streams, wait up to {self.lease:g} s until unused ones are forgotten, or start the server with a "
                "larger --limits.histories",
            )
        rows = [heapq.heappop(pool.free) for _ in tasks]
        stream = _Stream(pool, rows, time.monotonic() + self.lease)
        with Attempt() as attempt:
            pool.empty(rows, tasks)
            if histories is not None:
                self._restore(stream, histories)
        if attempt.error is not None:
            self._give_back(stream)
            raise stream.blame(attempt.error)
        name = f"{self.prefix}{secrets.token_hex(16)}"
        self._streams[name] = stream
        return name

    def reset(self, name: str, seq: int, indices: Sequence[int] | None, tasks: Sequence[str] | None) -> None:
        """Empties histories; numbered like the calls that add frames.

        Raises:
            Problem: No such stream, or not the next call.
            ValueError: A task that cannot be asked about.
            IndexError: No such history.
        """
        stream = self._stream(name)
        if self._is_repeated(stream, seq):
            return
        rows = stream.rows_of(indices, distinct=True)
        if tasks is not None:
            same_length("tasks", len(tasks), len(rows))
        stream.pool.empty(rows, tasks)
        stream.seq, stream.answer = seq + 1, None

    def describe(self, name: str) -> dict[str, Any]:
        """What there is to know about a stream; asking keeps it alive."""
        stream = self._stream(name)
        return {
            "id": name,
            "protocol": str(stream.pool.stream.protocol),
            "tasks": [stream.pool.stream.tasks[row] for row in stream.rows],
            "lengths": [stream.pool.slots[row].length for row in stream.rows],
            "next_seq": stream.seq,
            "lease_s": self.lease,
        }

    def close(self, name: str) -> None:
        """Ends a stream."""
        self._stream(name)
        self._give_back(self._streams.pop(name))

    def sweep(self) -> None:
        """Forgets streams whose lease has ended."""
        now = time.monotonic()
        for name in [name for name, stream in self._streams.items() if stream.ends < now]:
            self._give_back(self._streams.pop(name))

    def _give_back(self, stream: _Stream) -> None:
        stream.pool.empty(stream.rows)
        for row in stream.rows:
            heapq.heappush(stream.pool.free, row)

    def _pool(self, protocol: FrameProtocol) -> _Pool:
        name = str(protocol)
        if name not in self._pools:
            idle = [key for key, pool in self._pools.items() if len(pool.free) == len(pool.slots)]
            if len(self._pools) >= self.limits.protocols and not idle:
                raise Problem(
                    429,
                    "no_room",
                    f"streams have {sorted(self._pools)} already; use one of these protocols",
                    "protocol",
                )
            if len(self._pools) >= self.limits.protocols:
                del self._pools[idle[0]]
            count = self.limits.histories
            stream = self.model.stream([_IDLE] * count, protocol)
            self._pools[name] = _Pool(stream, [_Slot() for _ in range(count)], list(range(count)))
        return self._pools[name]

    def _stream(self, name: str) -> _Stream:
        stream = self._streams.get(name)
        if stream is None or stream.ends < time.monotonic():
            raise Problem(
                410,
                "stream_gone",
                f"there is no stream {name[:80]!r}: it was closed, not used for {self.lease:g} s, or the server was "
                "started again; open another one and restore its histories",
            )
        stream.ends = time.monotonic() + self.lease
        return stream

    def _is_repeated(self, stream: _Stream, seq: int) -> bool:
        if seq == stream.seq - 1:
            return True
        if seq != stream.seq:
            raise Problem(409, "seq", f"got call number {seq}; expected {stream.seq}", "seq")
        return False

    def _prepare(self, call: StreamCall) -> _Ready | None:
        """Checks a call; None if it was answered before."""
        stream = self._stream(call.stream)
        if call.seq is not None and self._is_repeated(stream, call.seq):
            if stream.answer is None:
                raise Problem(409, "seq", f"call number {call.seq} was no append; expected {stream.seq}", "seq")
            call.future.set_result((stream.answer, stream.seq))
            return None
        rows = stream.rows_of(call.indices, distinct=call.seq is not None)
        same_length("frames", len(call.frames), len(rows))
        for index, row, frame in zip(call.indices, rows, call.frames, strict=True):
            size = stream.pool.slots[row].size
            if size is not None and size != frame.shape[:2]:
                raise FrameError(f"history {index} got a frame of {frame.shape[:2]} pixels after frames of {size}")
        self._require_memory(stream.pool, rows, call.frames)
        return _Ready(call, stream, rows)

    def _require_memory(self, pool: _Pool, rows: Sequence[int], frames: Frames) -> None:
        """Refuses frames for which there is no memory; says so before any is taken."""
        first = {
            (row, frame.shape[:2]) for row, frame in zip(rows, frames, strict=True) if pool.slots[row].size is None
        }
        largest = max([pool.largest, *(pool.stream.memory_for(row, *size) for row, size in first)])
        added = sum(frame.nbytes for frame in frames) + (largest - pool.largest) * len(pool.slots)
        if sum(each.nbytes for each in self._pools.values()) + added > self.memory:
            raise Problem(
                429,
                "no_room",
                f"histories of such frames take {largest / 1e6:.1f} MB each, {len(pool.slots)} of them, and their "
                f"frames: more than the {self.memory / 1e6:.0f} MB that streams have here; send smaller frames, or "
                "start the server with more --stream-memory-gb or fewer --limits.histories",
            )
        pool.largest = largest

    def _restore(self, stream: _Stream, histories: Sequence[Restored]) -> None:
        same_length("histories", len(histories), len(stream.rows))
        for row, restored in zip(stream.rows, histories, strict=True):
            frames = list(restored.frames.values())
            if not frames:
                continue
            self._require_memory(stream.pool, [row] * len(frames), frames)
            stream.pool.stream.restore(row, restored.length, restored.frames)
            stream.pool.grow(row, frames[0].shape[:2], restored.length)

    def _ask(self, pool: _Pool, asked: list[_Ready]) -> None:
        """Answers calls of one kind together; each for itself where that fails, so that only the guilty one does."""
        rows = [row for each in asked for row in each.rows]
        frames = [frame for each in asked for frame in each.call.frames]
        with Attempt() as attempt:
            ask = pool.stream.peek if asked[0].call.seq is None else pool.stream.append
            said = ask(frames, rows)
        if attempt.error is not None and len(asked) > 1:
            for each in asked:
                self._ask(pool, [each])
            return
        if attempt.error is not None:
            asked[0].call.fail(asked[0].stream.blame(attempt.error))
            return
        start = 0
        for each in asked:
            part = slice(start, start + len(each.rows))
            start = part.stop
            self._deliver(pool, each, _part(said, part))

    def _deliver(self, pool: _Pool, each: _Ready, said: StepPrediction) -> None:
        if each.call.seq is not None:
            for row, frame in zip(each.rows, each.call.frames, strict=True):
                pool.grow(row, (frame.shape[0], frame.shape[1]), pool.slots[row].length + 1)
            each.stream.seq, each.stream.answer = each.call.seq + 1, said
        each.call.future.set_result((said, each.stream.seq))


def _part(said: StepPrediction, part: slice) -> StepPrediction:
    success = None if said.success is None else said.success[part]
    return StepPrediction(said.progress[part], success, said.progress_distribution[part])
