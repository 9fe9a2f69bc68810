"""Frames of a recording that stay in its file until somebody asks for them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robometer_rl.video import Recording, VideoError, read_recording

__all__ = ["VideoFrames"]


class VideoFrames:
    """Frames of a video, GIF, ``.npz`` or folder of images, see `robometer_rl.video.read_recording`.

    How many frames a video has, and whether they can be decoded, is only known after decoding it, so it is decoded
    once here and again when frames are asked for, unless it is the recording that this process decoded last. An object
    holds no frames and no open file: many of them may be alive, and it may travel to a worker process.

    Attributes:
        path: The file or folder.
        shape: ``(T, H, W, 3)``.
        fps: Frames per second of the file; None where the format stores no frame rate.
    """

    def __init__(self, path: Path) -> None:
        """Decodes ``path`` once.

        Raises:
            VideoError: There is nothing at ``path``, or an unknown format, or an unreadable or empty file.
            FrameError: Arrays that are not RGB frames.
        """
        recording = _decode(path)
        self.path = path
        self.shape: tuple[int, ...] = recording.frames.shape
        self.fps = recording.fps

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | NDArray[np.integer] | list[int]) -> NDArray[np.uint8]:
        """The chosen frames, a copy; an integer gives one image (H, W, 3), anything else a stack of them.

        Raises:
            VideoError: The file is gone, or is not the one that it was.
            IndexError: There is no such frame.
        """
        frames = _decode(self.path).frames
        if frames.shape != self.shape:
            raise VideoError(f"{self.path} has frames of shape {frames.shape} now and had {self.shape} before")
        return np.array(frames[index])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)


def _decode(path: Path) -> Recording:
    if not path.exists():
        raise VideoError(f"there is no video {path}")
    status = path.stat()
    return _decode_version(path, status.st_mtime_ns, status.st_size)


# Whoever copies frames reads a video right after opening it, often frame by frame. One recording bounds the memory.
@lru_cache(maxsize=1)
def _decode_version(path: Path, modified: int, size: int) -> Recording:
    return read_recording(path)
