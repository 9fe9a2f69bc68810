"""Writing frames as a video that browsers play."""

from __future__ import annotations

import errno
import itertools
import math
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from robometer_rl.files import new_file
from robometer_rl.frames import FrameError, as_frames
from robometer_rl.video.recording import VideoError

__all__ = ["write_video"]

Frame = NDArray[np.uint8]


def write_video(path: str | Path, frames: Iterable[Any], fps: float) -> None:
    """Encodes frames as H.264 in an ``.mp4`` that every browser plays. The file appears when the video is whole.

    Args:
        path: File to write.
        frames: RGB images (H, W, 3) of one size, see `robometer_rl.frames.as_frame`; an odd width or height is
            extended by repeating the last column or row, since the pixel format has half as many colours as pixels.
        fps: Frames per second.

    Raises:
        VideoError: No frames, another suffix than ``.mp4``, or no frame rate.
        FrameError: An image that is not RGB, or of another size than the first.
        OSError: It cannot be written; the message has the reason that ffmpeg gives.
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
    height, width = first.shape[:2]
    # An absolute path is neither an option nor a protocol to ffmpeg, whatever the name of the file is.
    with new_file(path) as partial:
        options = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:.6f}", "-i", "pipe:0"]
        options += ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-preset", "veryfast"]
        options += ["-movflags", "+faststart", "-y", os.path.abspath(partial)]
        _encode(path, options, itertools.chain([first], images))


def _encode(path: Path, options: list[str], images: Iterable[Frame]) -> None:
    """Pours images into ffmpeg, and looks at how it ended; ``path`` is what errors are about."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-loglevel", "error", *options]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said) as encoder,
    ):
        assert encoder.stdin is not None
        try:
            for image in images:
                encoder.stdin.write(image.data)
            encoder.stdin.close()
        except BrokenPipeError:  # it has ended before its input, and has said why
            with suppress(BrokenPipeError):
                encoder.stdin.close()
        except BaseException:
            encoder.kill()
            raise
        if encoder.wait() != 0:
            said.seek(0)
            raise OSError(
                errno.EIO, f"ffmpeg could not write it: {_reason(encoder.returncode, said.read())}", str(path)
            )


def _reason(code: int, said: bytes) -> str:
    """Why ffmpeg ended with an exit code: the first line that it said; the others follow from it."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    if lines:
        return lines[0]
    return f"exit code {code}" if code > 0 else f"{signal.strsignal(-code)}"


def _even_images(frames: Iterable[Any]) -> Iterator[Frame]:
    size: tuple[int, ...] | None = None
    for number, frame in enumerate(frames):
        image = as_frames(np.asarray(frame)[None])[0]
        size = size or image.shape
        if image.shape != size:
            raise FrameError(f"frame {number} has shape {image.shape}, the first one {size}; a video has one size")
        odd_height, odd_width = image.shape[0] % 2, image.shape[1] % 2
        yield np.ascontiguousarray(np.pad(image, ((0, odd_height), (0, odd_width), (0, 0)), mode="edge"))
