"""When the frames of a video are shown: what is known of it without its pixels."""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from robometer_rl.files import check_regular
from robometer_rl.video.images import VideoError

__all__ = ["VideoFile", "VideoIndex", "VideoSource"]


class VideoSource(Protocol):
    """Where the bytes of a video are; holds no open file, so that it may travel to a worker process.

    Sources are hashable, and equal if they mean the same place.
    """

    def open(self) -> BinaryIO:
        """A seekable file, to be closed by the caller."""
        ...

    def version(self) -> Hashable:
        """What changes when the content does."""
        ...

    def __str__(self) -> str:
        """What error messages call it."""
        ...


@dataclass(frozen=True)
class VideoFile:
    """A video that is a file of its own."""

    path: Path

    def open(self) -> BinaryIO:
        """See `VideoSource.open`.

        The open file has no name, since some mean something to FFmpeg (``12:30.mp4``).
        """
        check_regular(self.path)
        return os.fdopen(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC), "rb")

    def version(self) -> tuple[int, int]:
        """See `VideoSource.version`."""
        status = check_regular(self.path)
        return status.st_mtime_ns, status.st_size

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The frames of a video without their pixels.

    Attributes:
        pts: (N,) int64, when each frame is shown, in ticks, in the order in which they are shown.
        keyframes: (K,) int64, ascending, where decoding can start; among them frames that are decoded and not shown.
        time_base: Seconds per tick.
        height: Of a frame that is the right way up, in pixels.
        width: Likewise.
        stated_fps: Frames per second as the file states them; None if it does not.
        missing_s: Seconds at the end that the file states and does not hold, because it was cut off.
    """

    pts: NDArray[np.int64]
    keyframes: NDArray[np.int64]
    time_base: Fraction
    height: int
    width: int
    stated_fps: float | None = None
    missing_s: float = 0.0

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """(N,) when each frame is shown, on the clock of the file."""
        return np.multiply(self.pts, float(self.time_base), dtype=np.float64)

    @property
    def fps(self) -> float | None:
        """Frames per second on average; of a single frame what the file states."""
        ticks, intervals = int(self.pts[-1] - self.pts[0]), len(self.pts) - 1
        if ticks <= 0:
            return self.stated_fps
        # Times are rounded to ticks, which are coarse in some files: 30 frames per second would look like 29.998.
        if self.stated_fps and abs(intervals / (self.stated_fps * float(self.time_base)) - ticks) <= 1:
            return self.stated_fps
        return float(intervals / (ticks * self.time_base))

    @property
    def is_ordered(self) -> bool:
        """Whether every frame has a time of its own, by which it can be found."""
        return bool((np.diff(self.pts) > 0).all())

    def frames_at(self, seconds: NDArray[np.float64], tolerance_s: float) -> NDArray[np.int64]:
        """Numbers of the frames nearest to some times.

        Args:
            seconds: (T,) on the clock of the file.
            tolerance_s: A frame must be closer than this to the time that it is wanted for.

        Returns:
            (T,) numbers into ``pts``.

        Raises:
            VideoError: No frame is that close; the message names the first such time.
        """
        shown = self.seconds
        after = np.clip(np.searchsorted(shown, seconds), 1, max(len(shown) - 1, 1))
        before = after - 1
        after = np.minimum(after, len(shown) - 1)
        nearest = np.where(np.abs(shown[after] - seconds) < np.abs(shown[before] - seconds), after, before)
        distance = np.abs(shown[nearest] - seconds)
        if (distance >= tolerance_s).any():
            first = int(np.argmax(distance >= tolerance_s))
            raise VideoError(
                f"frame {first} belongs at {seconds[first]:.6f} s, and the nearest frame of the video is shown at "
                f"{shown[nearest[first]]:.6f} s; expected one within {tolerance_s:g} s"
            )
        return nearest.astype(np.int64)
