"""Frames of a recording that stay in its file until somebody asks for them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robometer_rl.video import VIDEO_SUFFIXES, Recording, VideoError, read_recording
from robometer_rl.video.decoding import TimedFrames, check_file
from robometer_rl.video.index import VideoFile, VideoIndex
from robometer_rl.video.lazy import LazyFrames, Orientation

__all__ = ["VideoFrames"]


class VideoFrames(LazyFrames):
    """Frames of a video, GIF, ``.npz`` or folder of images, see `robometer_rl.video.read_recording`.

    How many frames a video has, and whether they can be decoded, is only known after decoding it, so it is decoded
    once here, and again when frames are asked for: from the key frame before them. Other recordings are read at once,
    and the last one is remembered, one per process. An object holds no frames and no open file: many of them may be
    alive, and it may travel to a worker process.

    Attributes:
        path: The file or folder.
        fps: Frames per second of the file, on average; None where the format stores no times.
    """

    def __init__(self, path: Path, orientation: Orientation = "as_stored") -> None:
        """Decodes ``path`` once.

        Raises:
            VideoError: There is nothing at ``path``, or an unknown format, or an unreadable or empty file, or a video
                that is damaged or breaks off.
            FrameError: Arrays that are not RGB frames.
        """
        self.path = path
        self._version = _version(path)
        self._index: VideoIndex | None = None
        self._seconds: NDArray[np.float64] | None = None
        self.fps: float | None
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            self._index = check_file(path)
            if self._index.missing_s:
                raise VideoError(
                    f"{path} breaks off {self._index.missing_s:.1f} s before its stated end, so that it does not show "
                    "how the task ended; convert what there is to a whole video if that is meant"
                )
            super().__init__((len(self._index), self._index.height, self._index.width, 3), orientation)
            self.fps = self._index.fps
        else:
            recording = _decode_version(path, *self._version)
            super().__init__(recording.frames.shape, orientation)
            self.fps, self._seconds = recording.fps, recording.seconds

    @classmethod
    def known(cls, path: Path, shape: tuple[int, ...], fps: float | None) -> VideoFrames:
        """Frames of a video that was opened before, and had this shape; it is decoded when they are asked for.

        Args:
            path: The file, a video.
            shape: ``(T, H, W, 3)``.
            fps: Frames per second.

        Raises:
            VideoError: There is nothing at ``path``.
            FrameError: Frames of this shape are not RGB.
        """
        frames = cls.__new__(cls)
        LazyFrames.__init__(frames, shape)
        frames.path, frames._version, frames.fps = path, _version(path), fps
        frames._index = frames._seconds = None
        return frames

    def _indexed(self) -> VideoIndex | None:
        """The index of a video; None for other recordings."""
        if self._index is None and self.path.suffix.lower() in VIDEO_SUFFIXES and self.path.is_file():
            index = check_file(self.path)
            if (len(index), index.height, index.width) != self.shape[:3]:
                raise VideoError(f"{self.path} has {len(index)} frames; expected the shape {self.shape}")
            self._index = index
        return self._index

    @property
    def seconds(self) -> NDArray[np.float64] | None:
        """(T,) when each frame is shown, since the first one; None where the format stores no times."""
        index = self._indexed()
        return self._seconds if index is None else index.seconds - index.seconds[0]

    def __str__(self) -> str:
        return str(self.path)

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        if _version(self.path) != self._version:
            raise VideoError(f"{self.path} has changed since it was opened, when it had {len(self)} frames")
        index = self._indexed()
        if index is None:
            return _decode_version(self.path, *self._version).frames[rows]
        return TimedFrames(VideoFile(self.path), index, rows)[:]


def _version(path: Path) -> tuple[int, int]:
    """What changes when a file is written again."""
    try:
        status = path.stat()
    except OSError as error:
        raise VideoError(f"there is no video {path}") from error
    return status.st_mtime_ns, status.st_size


# Whoever copies frames reads a recording right after opening it, often frame by frame. One bounds the memory.
@lru_cache(maxsize=1)
def _decode_version(path: Path, modified: int, size: int) -> Recording:
    return read_recording(path)
