"""Decoding the frames of an episode once, from front to back, before the model sees it.

So it is known whether all of them can be decoded, and reading them again, in any order, is cheap. Frames of long
episodes go to a temporary file, so that memory does not grow with the length of an episode.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import EPISODE_DAMAGE, unreadable
from robometer_rl.formats.dataset import EpisodeError
from robometer_rl.frames import Clip, FrameSequence, as_frames

__all__ = ["IN_MEMORY_BYTES", "ScratchFrames", "decode"]

IN_MEMORY_BYTES: Final = 64 << 20
"""Decoded frames of one camera beyond this size go to a temporary file."""

# Frames that are decoded at a time.
_PIECE: Final = 64

Frames = NDArray[np.uint8]


class ScratchFrames:
    """Frames in a temporary file that vanishes with this object; see `robometer_rl.frames.FrameSequence`.

    They are read, not mapped: mapped pages would count as memory of the process.

    Attributes:
        shape: ``(T, H, W, 3)``.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="robometer-frames-")  # noqa: SIM115 - closed with us
        self._frame_bytes = int(np.prod(shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def append(self, frames: Frames) -> None:
        """Adds frames behind those there are.

        Raises:
            OSError: The disk with temporary files is full.
        """
        try:
            self._file.write(np.ascontiguousarray(frames).data)
            self._file.flush()
        except OSError as error:
            raise OSError(
                error.errno,
                f"decoded frames of a long episode could not be written to a temporary file ({error.strerror}); "
                f"free some space in {tempfile.gettempdir()}, or name another directory in TMPDIR",
            ) from error

    def __getitem__(self, index: slice) -> Frames:
        """Reads a slice of frames."""
        start, stop, step = index.indices(len(self))
        numbers = range(start, stop, step)
        if step == 1:
            return self._read(start, len(numbers))
        return np.concatenate([self._read(number, 1) for number in numbers])

    def _read(self, start: int, count: int) -> Frames:
        content = os.pread(self._file.fileno(), count * self._frame_bytes, start * self._frame_bytes)
        return np.frombuffer(content, np.uint8).reshape(count, *self.shape[1:])


def decode(frames: FrameSequence, every: int) -> FrameSequence:
    """Decodes the scored frames of an episode: numbers 0, every, 2 every, ... and the last one.

    Args:
        frames: (F, H, W, 3) as a format gives them.
        every: Scoring interval.

    Returns:
        (S, H, W, 3) uint8, with S = ``len(scored_steps(F, every))``, that can be read in any order.

    Raises:
        EpisodeError: They cannot be decoded, or are not RGB frames of one size.
        OSError: There is no room for them in the directory of temporary files.
    """
    height, width = Clip(frames, "decode").size
    count = len(range(0, len(frames), every)) + int((len(frames) - 1) % every != 0)
    shape = (count, height, width, 3)
    if np.prod(shape) > IN_MEMORY_BYTES:
        scratch = ScratchFrames(shape)
        for piece in _pieces(frames, every, shape[1:]):
            scratch.append(piece)
        return scratch
    decoded = np.empty(shape, np.uint8)
    filled = 0
    for piece in _pieces(frames, every, shape[1:]):
        decoded[filled : filled + len(piece)] = piece
        filled += len(piece)
    return decoded


def _pieces(frames: FrameSequence, every: int, shape: tuple[int, ...]) -> Iterator[Frames]:
    """The scored frames in order, a few at a time, each of the given shape."""
    span = _PIECE * every
    slices = [slice(start, min(start + span, len(frames)), every) for start in range(0, len(frames), span)]
    if (len(frames) - 1) % every:
        slices.append(slice(len(frames) - 1, len(frames)))
    for part in slices:
        try:
            piece = as_frames(frames[part])
        except EPISODE_DAMAGE as error:
            raise EpisodeError(unreadable("", error).reason) from error
        expected = (len(range(len(frames))[part]), *shape)
        if piece.shape != expected:
            raise EpisodeError(f"its pictures from number {part.start} on have the shape {piece.shape}, not {expected}")
        yield piece
