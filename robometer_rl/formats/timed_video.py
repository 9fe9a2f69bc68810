"""Frames of a video by their exact times, decoded when somebody asks for them.

`robometer_rl.video` decodes recordings from their first frame to their last. A data set packs thousands of frames, and
often many episodes, into one file; here a request decodes from the key frame before it and no further than it goes.

Two steps. `index_video` reads the times of all frames from the packets of the file, without decoding a picture, so a
file that is cut off, or that lacks a frame, is known at once. `TimedFrames` then decodes exactly the frames chosen
from that index: a frame is found by its own time stamp, never by counting or by seeking to about the right place.

Pictures are returned as they are stored; a rotation that a telephone notes beside them is not applied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from robometer_rl.extras import require
from robometer_rl.formats.orientation import Orientation, orient
from robometer_rl.video import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["TimedFrames", "VideoFile", "VideoIndex", "VideoSource", "index_file", "index_video"]


class VideoSource(Protocol):
    """Where the bytes of a video are; holds no open file, so that it may travel to a worker process."""

    def open(self) -> BinaryIO:
        """A seekable file, to be closed by the caller."""
        ...

    def __str__(self) -> str:
        """What error messages call it."""
        ...


@dataclass(frozen=True)
class VideoFile:
    """A video that is a file of its own."""

    path: Path

    def open(self) -> BinaryIO:
        """See `VideoSource.open`."""
        return self.path.open("rb")

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The frames of a video without their pixels.

    Attributes:
        pts: (N,) int64, when each frame is shown, in ticks, ascending.
        keyframes: (K,) int64, those of ``pts`` at which decoding can start.
        time_base: Seconds per tick.
        height: Of a frame, in pixels.
        width: Of a frame, in pixels.
    """

    pts: NDArray[np.int64]
    keyframes: NDArray[np.int64]
    time_base: Fraction
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """(N,) when each frame is shown, on the clock of the file."""
        return np.multiply(self.pts, float(self.time_base), dtype=np.float64)

    @property
    def fps(self) -> float | None:
        """Frames per second on average; None for a single frame."""
        shown = self.seconds
        return None if len(shown) < 2 else float((len(shown) - 1) / (shown[-1] - shown[0]))

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


def index_video(source: VideoSource) -> VideoIndex:
    """Reads when each frame of a video is shown. Nothing is decoded; the file is read through once.

    Raises:
        VideoError: There is no such file, it is not a video, or one without frames or whose frames have no times.
        ImportError: The extra ``lerobot`` or ``agibot`` is not installed.
    """
    pts: list[int] = []
    keyframes: list[int] = []
    with _opened(source) as container:
        stream = _video_stream(container, source)
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.pts is None:
                raise VideoError(f"{source} states no time for frame {len(pts)}; expected time stamps")
            pts.append(packet.pts)
            if packet.is_keyframe:
                keyframes.append(packet.pts)
        if not pts or not keyframes or stream.time_base is None:
            raise VideoError(f"{source} holds no frames that can be decoded")
        height, width = stream.codec_context.height, stream.codec_context.width
        return VideoIndex(np.unique(pts), np.unique(keyframes), Fraction(stream.time_base), height, width)


def index_file(path: Path) -> VideoIndex:
    """`index_video` of a file, remembered while the same file is asked for again: episodes share videos."""
    try:
        status = path.stat()
    except OSError as error:
        raise VideoError(f"there is no video {path}") from error
    return _index_version(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _index_version(path: Path, modified: int, size: int) -> VideoIndex:
    return index_video(VideoFile(path))


class TimedFrames:
    """Some frames of a video, decoded on request.

    An object holds no frames and no open file: many of them may be alive, and it may travel to a worker process.

    Attributes:
        source: The video.
        shape: ``(T, H, W, 3)``.
    """

    def __init__(
        self,
        source: VideoSource,
        index: VideoIndex,
        numbers: NDArray[np.int64] | range,
        orientation: Orientation = "as_stored",
    ) -> None:
        """Frames of a video.

        Args:
            source: The video.
            index: Its index.
            numbers: (T,) numbers of the frames, into ``index.pts``.
            orientation: What is done to them.
        """
        self.source = source
        self.shape = (len(numbers), index.height, index.width, 3)
        self._index = index
        self._orientation: Orientation = orientation
        self._pts = index.pts[np.asarray(numbers, dtype=np.int64)]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | NDArray[np.integer] | list[int]) -> NDArray[np.uint8]:
        """Decodes the chosen frames; an integer gives one image (H, W, 3), anything else a stack of them.

        Raises:
            VideoError: A frame cannot be decoded, or the file is not what it was.
            IndexError: There is no such frame.
        """
        chosen = self._pts[index]
        wanted, places = np.unique(np.atleast_1d(chosen), return_inverse=True)
        images = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        for place, image in enumerate(_decode(self.source, self._index, wanted)):
            if image.shape != self.shape[1:]:
                raise VideoError(f"{self.source} has frames of size {image.shape[:2]} and {self.shape[1:3]}")
            images[place] = image
        images = orient(images, self._orientation)
        if np.ndim(chosen) == 0:
            return images[0]
        # Frames in order, each once, are the rule: they need no second copy.
        return images if np.array_equal(places, np.arange(len(wanted))) else images[places]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)


def _decode(source: VideoSource, index: VideoIndex, wanted: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Pictures of the frames shown at ``wanted``, ascending, each once."""
    if not len(wanted):
        return
    with _opened(source) as container:
        stream = _video_stream(container, source)
        running: Iterator[VideoFrame] = iter(())
        reached: int | None = None
        for target in wanted.tolist():
            # The last key frame before the target, and the first one that has not been decoded yet: if they are the
            # same, or the former is behind, going on costs less than a jump.
            start = int(np.searchsorted(index.keyframes, target, side="right")) - 1
            if reached is None or start > int(np.searchsorted(index.keyframes, reached, side="right")):
                running = _start_before(container, stream, index.keyframes[: start + 1], target)
            frame = next((frame for frame in running if frame.pts is not None and frame.pts >= target), None)
            if frame is None or frame.pts != target or frame.is_corrupt:
                raise VideoError(f"{source} has no intact frame at {float(target * index.time_base):.6f} s")
            reached = target
            yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def _start_before(
    container: InputContainer, stream: VideoStream, keyframes: NDArray[np.int64], target: int
) -> Iterator[VideoFrame]:
    """Decodes from the last of ``keyframes`` on that leads to ``target``.

    Files are searched by decoding time, which differs from the time of showing where frames depend on later ones, so
    a jump may land too late; then the key frame before is tried.
    """
    for keyframe in keyframes[::-1].tolist():
        container.seek(keyframe, stream=stream)
        frames = container.decode(stream)
        first = next(frames, None)
        if first is not None and first.pts is not None and first.pts <= target:
            return chain([first], frames)
    return iter(())


def _video_stream(container: InputContainer, source: VideoSource) -> VideoStream:
    if not container.streams.video:
        raise VideoError(f"{source} holds no video stream")
    return container.streams.video[0]


@contextmanager
def _opened(source: VideoSource) -> Iterator[InputContainer]:
    """An open video; errors of the file and of the decoder become a `VideoError` with its name."""
    av = require("av", "lerobot")
    try:
        with source.open() as file, av.open(file, "r") as container:
            yield container
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{source} cannot be decoded: {error.strerror or error}") from error
