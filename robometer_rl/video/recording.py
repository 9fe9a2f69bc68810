"""Reading the frames of a recording."""

from __future__ import annotations

import io
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from robometer_rl.archives import ArchiveError, read_arrays, read_members
from robometer_rl.frames import FrameError, as_frames

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Recording",
    "VideoError",
    "decode_video",
    "read_recording",
]

VIDEO_SUFFIXES: Final = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
IMAGE_SUFFIXES: Final = (".bmp", ".jpeg", ".jpg", ".png", ".webp")

# Decoded frames beyond this size go to a temporary file, so that the length of a video is bounded by the disk.
SPILL_BYTES: Final = 1 << 30

# What viewers assume for a GIF frame that states no duration.
_GIF_FPS: Final = 10.0

_EIGHT_BIT_MODES: Final = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"})

Frame = NDArray[np.uint8]

logger = logging.getLogger(__name__)


class VideoError(ValueError):
    """A recording that cannot be read; the message says which file, what was wrong and what is expected."""


@dataclass(frozen=True)
class Recording:
    """The frames of a recording, and which ones of the file they are.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB; a memory map of a temporary file if they are many.
        numbers: (T,) int64, the number of each frame in the file, counted from 0.
        fps: Frames per second of the file, None where the format stores no frame rate.
    """

    frames: Frame
    numbers: NDArray[np.int64]
    fps: float | None = None

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def seconds(self) -> NDArray[np.float64] | None:
        """(T,) time of each frame since the start of the file; None without a frame rate."""
        return None if self.fps is None else self.numbers / self.fps

    @property
    def playback_fps(self) -> float | None:
        """Frame rate at which the kept frames play in real time."""
        if self.fps is None or len(self) < 2:
            return self.fps
        return self.fps / float(np.diff(self.numbers).mean())


def read_recording(path: str | Path, fps: float | None = None) -> Recording:
    """Reads a video file, a GIF, an ``.npz`` or a folder of images.

    Args:
        path: A video (`VIDEO_SUFFIXES`), of which every frame is read once, also at a variable frame rate; a GIF; an
            ``.npz`` whose array ``frames``, ``arr_0`` or only array holds frames, see
            `robometer_rl.frames.as_frames`; or a folder of images (`IMAGE_SUFFIXES`) of one size, in natural order
            (``frame9`` before ``frame10``). Grey and palette images become RGB, transparency is dropped.
        fps: Keep about this many frames per second, evenly spaced, and always the first and the last frame; None
            keeps all. Only for formats that store a frame rate.

    Raises:
        FileNotFoundError: There is nothing at ``path``.
        VideoError: Unknown format, unreadable or empty file, or ``fps`` without a frame rate to start from.
        FrameError: Arrays that are not RGB frames.
    """
    path = Path(path)
    if fps is not None and not fps > 0:
        raise VideoError(f"got fps={fps:g}; expected a positive number of frames per second")
    if not path.exists():
        raise FileNotFoundError(f"no video at {path}")
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == ".npz":
        if fps is not None:
            raise VideoError(f"{path} stores no frame rate, so it cannot be thinned to {fps:g} frames per second")
        frames = _read_folder(path) if path.is_dir() else _read_npz(path)
        return Recording(frames, np.arange(len(frames)))
    if suffix == ".gif":
        return _read_gif(path, fps)
    if suffix in VIDEO_SUFFIXES:
        return _read_video(path, fps)
    raise VideoError(f"{path} is not a recording; expected {', '.join(VIDEO_SUFFIXES)}, .gif, .npz or a folder")


def decode_video(path: str | Path) -> Iterator[Frame]:
    """Decodes a video file frame by frame, so that memory does not grow with its length.

    Args:
        path: A video (`VIDEO_SUFFIXES`).

    Yields:
        (H, W, 3) uint8 RGB, every frame of the file once and in order, also at a variable frame rate.

    Raises:
        FileNotFoundError: There is nothing at ``path``.
        VideoError: Not a video file, or one that cannot be decoded.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no video at {path}")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise VideoError(f"{path} is not a video; expected {', '.join(VIDEO_SUFFIXES)}")
    with _open_video(path) as (_, decoded):
        yield from decoded


def _read_video(path: Path, fps: float | None) -> Recording:
    with _open_video(path) as (meta, decoded):
        recording = _collect(path, decoded, meta["fps"] or None, fps)
    seconds, stated = recording.seconds, meta["duration"]
    if seconds is not None and seconds[-1] < 0.9 * stated - 1.0:
        logger.warning("%s ends after %.1f s of %.1f s: it may be cut off or damaged", path, seconds[-1], stated)
    return recording


@contextmanager
def _open_video(path: Path) -> Iterator[tuple[dict[str, Any], Iterator[Frame]]]:
    """What the file says about itself, and its frames in order."""
    try:
        # Without "passthrough" ffmpeg repeats and drops frames to make a variable frame rate constant.
        with closing(imageio_ffmpeg.read_frames(path, output_params=["-fps_mode", "passthrough"])) as reader:
            meta = next(reader)
            width, height = meta["size"]
            yield meta, (np.frombuffer(image, np.uint8).reshape(height, width, 3) for image in reader)
    # The reader has no error of its own: these are what it raises for a file without a header or a video stream, and
    # for one that breaks off within a frame.
    except (OSError, RuntimeError, IndexError) as error:
        raise VideoError(f"{path} cannot be decoded: {_last_line(error)}") from error


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "it holds no video stream"


def _read_gif(path: Path, fps: float | None) -> Recording:
    try:
        with Image.open(path) as gif:
            durations = [image.info.get("duration", 0) for image in ImageSequence.Iterator(gif)]
            native = 1000.0 / float(np.mean(durations)) if any(durations) else _GIF_FPS
            decoded = (np.asarray(image.convert("RGB")) for image in ImageSequence.Iterator(gif))
            return _collect(path, decoded, native, fps)
    except (OSError, SyntaxError, EOFError) as error:
        raise VideoError(f"{path} cannot be decoded: {error}") from error


def _read_npz(path: Path) -> Frame:
    try:
        names = list(read_members(path))
        name = next((name for name in ("frames", "arr_0") if name in names), names[0] if len(names) == 1 else None)
        if name is None:
            raise VideoError(f"{path} holds the arrays {names}; expected 'frames', 'arr_0' or a single array")
        array = read_arrays(path, name)[name]
    except ArchiveError as error:
        raise VideoError(str(error)) from error
    try:
        return as_frames(array)
    except FrameError as error:
        raise FrameError(f"{path}, array {name!r}: {error}") from error


def _read_folder(path: Path) -> Frame:
    files = sorted(
        (file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")),
        key=_natural_order,
    )
    if not files:
        raise VideoError(f"{path} holds no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    return _collect(path, (_read_image(file) for file in files), None, None).frames


def _natural_order(file: Path) -> list[tuple[bool, int, str]]:
    parts = re.findall(r"\d+|\D+", file.name.lower())
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _read_image(file: Path) -> Frame:
    try:
        with Image.open(file) as image:
            if image.mode not in _EIGHT_BIT_MODES:
                raise VideoError(f"{file} is an image of mode {image.mode}; expected 8 bits per channel")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise VideoError(f"{file} is not a readable image: {error}") from error


def _collect(path: Path, decoded: Iterable[Frame], native: float | None, fps: float | None) -> Recording:
    """Gathers decoded frames of one size, thinned from ``native`` to ``fps`` frames per second."""
    if fps is not None and native is None:
        raise VideoError(f"{path} states no frame rate, so it cannot be thinned to {fps:g} frames per second")
    step = max(1.0, native / fps) if native is not None and fps is not None else 1.0
    store = _FrameStore(path)
    numbers: list[int] = []
    for number, frame in _thin(decoded, step):
        store.append(frame)
        numbers.append(number)
    return Recording(store.frames(), np.array(numbers, np.int64), native)


def _thin(frames: Iterable[Frame], step: float) -> Iterator[tuple[int, Frame]]:
    """Every ``step``-th frame with its number, and always the last one: it decides whether the task was done."""
    kept = 0
    skipped: tuple[int, Frame] | None = None
    for number, frame in enumerate(frames):
        if number == round(kept * step):
            yield number, frame
            kept += 1
            skipped = None
        else:
            skipped = number, frame
    if skipped is not None:
        yield skipped


class _FrameStore:
    """Frames of one size, one after the other: in memory at first, in a temporary file once they are many."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shape: tuple[int, ...] | None = None
        self._count = 0
        self._memory: io.BytesIO = io.BytesIO()
        self._file: IO[bytes] | None = None

    def append(self, frame: Frame) -> None:
        """Adds a frame behind those before it; `FrameError` if its size is another."""
        if self._shape is None:
            self._shape = frame.shape
        if frame.shape != self._shape:
            raise FrameError(
                f"{self._path}: frame {self._count} has shape {frame.shape}, the ones before it {self._shape}; "
                "all frames of a recording have one size"
            )
        if self._file is None and self._memory.tell() + frame.nbytes > SPILL_BYTES:
            self._file = tempfile.TemporaryFile(prefix="robometer-frames-")  # noqa: SIM115 - the memory map outlives us
            self._file.write(self._memory.getbuffer())
            self._memory = io.BytesIO()
        (self._file or self._memory).write(np.ascontiguousarray(frame).data)
        self._count += 1

    def frames(self) -> Frame:
        """(T, H, W, 3) of everything appended."""
        if self._shape is None:
            raise VideoError(f"{self._path} holds no frames")
        shape = (self._count, *self._shape)
        if self._file is None:
            return np.frombuffer(self._memory.getbuffer(), np.uint8).reshape(shape)
        self._file.flush()
        return np.memmap(self._file, np.uint8, "r", shape=shape)
