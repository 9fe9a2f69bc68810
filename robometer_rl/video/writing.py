"""Writing frames as a video that browsers play."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from robometer_rl.files import new_file
from robometer_rl.frames import FrameError, as_frames
from robometer_rl.video.images import VideoError

__all__ = ["write_video"]

Frame = NDArray[np.uint8]

# What decides is the pictures alone: x264 decides otherwise with as many threads as there are processors, and, with the
# fastest functions that a processor has, now and then otherwise for small pictures, beside which they read.
_OPTIONS: Final = {"crf": "20", "preset": "veryfast", "threads": "1", "x264-params": "cpu-independent=1"}
_TICK: Final = Fraction(1, 90_000)  # seconds
_UNEVEN_S: Final = 2e-3  # intervals differ by less where a file rounds an even rate to milliseconds


def write_video(
    path: str | Path, frames: Iterable[Any], fps: float, seconds: NDArray[np.floating] | None = None
) -> None:
    """Encodes frames as H.264 in an ``.mp4`` that every browser plays. The file appears when the video is whole.

    The same frames give the same bytes, whichever processors there are, and however many.

    Args:
        path: File to write.
        frames: RGB images (H, W, 3) of one size, see `robometer_rl.frames.as_frame`; an odd width or height is
            extended by repeating the last column or row, since the pixel format has half as many colours as pixels.
        fps: Frames per second.
        seconds: (T,) when each frame is shown, ascending from 0, where the rate varies; at an even one ``fps`` counts.

    Raises:
        VideoError: No frames, another suffix than ``.mp4``, or no frame rate.
        FrameError: An image that is not RGB, or of another size than the first.
        OSError: It cannot be written; the message has the reason that FFmpeg gives.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise VideoError(f"got the video file {path}; expected a name ending in .mp4")
    if not 0 < fps < math.inf:
        raise VideoError(f"got fps={fps:g} for {path}; expected a positive number of frames per second")
    images = _even_images(frames)
    first = next(images, None)
    if first is None:
        raise VideoError(f"got no frames to write to {path}")
    rate = Fraction(fps).limit_denominator(65_535)
    with new_file(path) as partial:
        try:
            _encode(partial, itertools.chain([first], images), rate, None if _is_even(seconds, fps) else seconds)
        except av.error.FFmpegError as error:
            raise OSError(error.errno, f"FFmpeg could not write it: {error.strerror}", str(path)) from error


def _is_even(seconds: NDArray[np.floating] | None, fps: float) -> bool:
    return seconds is None or np.allclose(np.diff(seconds), 1 / fps, rtol=0, atol=_UNEVEN_S)


def _encode(path: Path, images: Iterable[Frame], rate: Fraction, seconds: NDArray[np.floating] | None) -> None:
    """Encodes images that are shown at an even rate, or at other times."""
    tick = 1 / rate if seconds is None else _TICK
    # As an address, of which everything behind "file:" is a name. An open file could not be read again, which it is
    # when the index is put before the pictures, so that a browser need not fetch the whole file to start.
    address = f"file:{os.path.abspath(path)}"
    with av.open(address, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate, options=dict(_OPTIONS))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = tick
        for number, image in enumerate(images):
            if number == 0:
                stream.height, stream.width, _ = image.shape
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if seconds is None else round(float(seconds[number]) / tick)
            frame.time_base = tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _even_images(frames: Iterable[Any]) -> Iterator[Frame]:
    size: tuple[int, ...] | None = None
    for number, frame in enumerate(frames):
        image = as_frames(np.asarray(frame)[None])[0]
        size = size or image.shape
        if image.shape != size:
            raise FrameError(f"frame {number} has shape {image.shape}, the first one {size}; a video has one size")
        odd_height, odd_width = image.shape[0] % 2, image.shape[1] % 2
        yield np.ascontiguousarray(np.pad(image, ((0, odd_height), (0, odd_width), (0, 0)), mode="edge"))
