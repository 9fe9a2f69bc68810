"""Frames that an ``.npz`` archive holds as one packed array, unpacked when they are asked for."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.archives import read_arrays, read_members
from robometer_rl.frames import FrameError, rgb_shape
from robometer_rl.limits import check_recording
from robometer_rl.streams import Source
from robometer_rl.video.lazy import LazyFrames

__all__ = ["ARRAY", "ArrayFrames", "array_shape", "read_array"]

ARRAY: Final = "frames"
"""Name of the array in the archive."""


class ArrayFrames(LazyFrames):
    """The array ``frames``, uint8 (T, H, W, 3), of an ``.npz`` archive.

    Nothing is read until frames are asked for; then the archive is unpacked as a whole, since it is packed as a whole,
    and the last one is remembered, one per process.

    Attributes:
        source: The archive: a file, or a member of another archive.
    """

    def __init__(self, source: Path | Source, shape: tuple[int, ...]) -> None:
        """Frames of the stated ``shape`` in ``source``.

        Raises:
            FrameError: Frames of this shape are not RGB.
        """
        self.source = source
        super().__init__(shape, dtype=np.dtype(np.uint8))

    def check(self) -> None:
        """Compares the stated shape with the header of the array, whose pixels are not read.

        Raises:
            ArchiveError: The archive is missing or damaged.
            FrameError: It holds frames of another shape or type, or none.
        """
        found = array_shape(self.source)
        if found != self.shape:
            raise FrameError(f"{self.source} holds frames of the shape {found}; expected {self.shape}")

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.check()
        return read_array(self.source)[rows]

    def __str__(self) -> str:
        return str(self.source)


def array_shape(source: Path | Source) -> tuple[int, ...]:
    """The shape (T, H, W, 3) that the header of an archive states.

    Raises:
        ArchiveError: The archive is missing or damaged.
        FrameError: It holds no frames, or frames of another type.
    """
    member = read_members(source, ARRAY).get(ARRAY)
    if member is None or member.dtype != np.uint8:
        found = "no such array" if member is None else f"{member.dtype}"
        raise FrameError(f"{source} holds {found}; expected an array {ARRAY!r} of uint8 RGB")
    return rgb_shape(member.shape, member.dtype)


def read_array(source: Path | Source) -> NDArray[np.uint8]:
    """All frames of an archive, not to be written to.

    Raises:
        ArchiveError: The archive is missing or damaged.
        FrameError: It holds no frames, or frames of another type.
    """
    return _read_version(source, _version(source))


def _version(source: Path | Source) -> Hashable:
    """What changes when the archive is written again."""
    try:
        if isinstance(source, Source):
            return source.version()
        status = source.stat()
    except OSError as error:
        raise FrameError(f"{source} cannot be read: {error}") from error
    return status.st_mtime_ns, status.st_size


# Whoever copies frames, or looks at one after the other, stays with an archive for a while. One bounds the memory.
@lru_cache(maxsize=1)
def _read_version(source: Path | Source, version: Hashable) -> NDArray[np.uint8]:
    check_recording(array_shape(source), source)
    frames = read_arrays(source, ARRAY)[ARRAY]
    frames.flags.writeable = False
    return frames
