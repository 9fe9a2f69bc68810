"""Reading the frames of a recording."""

from __future__ import annotations

import io
import itertools
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from robometer_rl.archives import ArchiveError, read_arrays, read_members
from robometer_rl.files import inside
from robometer_rl.frames import FrameError, as_frames
from robometer_rl.true_success import TrueSuccessError, read_steps
from robometer_rl.video.decoding import check_file, read_frames
from robometer_rl.video.images import IMAGE_SUFFIXES, VideoError, check_image, decode_image
from robometer_rl.video.index import VideoFile, VideoIndex

__all__ = [
    "VIDEO_SUFFIXES",
    "Recording",
    "decode_video",
    "read_recording",
    "thinned",
]

VIDEO_SUFFIXES: Final = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")

# Decoded frames beyond this size go to a temporary file, so that the length of a video is bounded by the disk.
SPILL_BYTES: Final = 1 << 30

# What viewers assume for a GIF frame that states no duration.
_GIF_PAUSE_MS: Final = 100

_ROUNDING: Final = 1e-9  # of times in seconds

Frame = NDArray[np.uint8]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recording:
    """The frames of a recording, and which ones of the file they are.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB; a memory map of a temporary file if they are many.
        numbers: (T,) int64, the number of each frame in the file, counted from 0.
        fps: Frames per second of the file, on average; None where the format stores no times.
        times: (T,) seconds of each frame since the first one of the file; None if they are as ``fps`` says.
        true_success: (T,) bool, whether the task is done in each frame, where the file says so.
    """

    frames: Frame
    numbers: NDArray[np.int64]
    fps: float | None = None
    times: NDArray[np.float64] | None = None
    true_success: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def beginning(self, count: int) -> Recording:
        """The first ``count`` frames."""
        parts = {name: getattr(self, name) for name in ("frames", "numbers", "times", "true_success")}
        return replace(self, **{name: None if part is None else part[:count] for name, part in parts.items()})

    @property
    def seconds(self) -> NDArray[np.float64] | None:
        """(T,) time of each frame since the first one of the file; None if nothing is known of times."""
        if self.times is not None:
            return self.times
        return None if self.fps is None else self.numbers / self.fps

    @property
    def playback_fps(self) -> float | None:
        """Frame rate at which the kept frames play in real time, on average."""
        seconds = self.seconds
        if seconds is None or len(self) < 2 or self.numbers[-1] - self.numbers[0] == len(self) - 1:
            return self.fps
        return (len(self) - 1) / float(seconds[-1] - seconds[0])


def read_recording(path: str | Path, fps: float | None = None) -> Recording:
    """Reads a video file, a GIF, an ``.npz`` or a folder of images.

    Args:
        path: A video (`VIDEO_SUFFIXES`), of which every frame is read once, also at a variable frame rate; a GIF; an
            ``.npz`` whose array ``frames``, ``arr_0`` or only array holds frames, see
            `robometer_rl.frames.as_frames`, and whose array ``success``, if it has one, says of each frame whether the
            task is done in it, or of each step whether it is afterwards; or a folder of images (`IMAGE_SUFFIXES`) of
            one size, in natural order (``frame9`` before ``frame10``). Grey and palette images become RGB, transparency
            is dropped.
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
        frames, success = (_read_folder(path), None) if path.is_dir() else _read_npz(path)
        return Recording(frames, np.arange(len(frames)), true_success=success)
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
    index = _index(path)
    yield from read_frames(VideoFile(path), index, range(len(index)))


def _index(path: Path) -> VideoIndex:
    index = check_file(path)
    if index.missing_s:
        logger.warning(
            "%s breaks off %.1f s before its stated end: it may be cut off or damaged", path, index.missing_s
        )
    return index


def _read_video(path: Path, fps: float | None) -> Recording:
    index = _index(path)
    seconds = index.seconds - index.seconds[0]
    numbers = thinned(seconds, fps)
    frames = _gather(path, read_frames(VideoFile(path), index, numbers.tolist()))
    return Recording(frames, numbers, index.fps, seconds[numbers])


def _read_gif(path: Path, fps: float | None) -> Recording:
    # imageio takes some names for addresses, so it is given an open file.
    try:
        check_image(path)
        with path.open("rb") as file, iio.imopen(file, "r", plugin="pillow") as opened:
            gif: Any = opened  # its type is that of all plugins, and knows less
            count = gif.properties(index=...).shape[0]
            pauses = np.array([gif.metadata(index=number).get("duration") or _GIF_PAUSE_MS for number in range(count)])
            seconds = np.cumsum([0, *pauses[:-1]]) / 1000
            numbers = thinned(seconds, fps)
            frames = _gather(path, itertools.compress(gif.iter(mode="RGB"), np.isin(np.arange(count), numbers)))
            return Recording(frames, numbers, 1000 / float(pauses.mean()), seconds[numbers])
    except (OSError, SyntaxError, EOFError) as error:
        raise VideoError(f"{path} cannot be decoded: {error}") from error


def _read_npz(path: Path) -> tuple[Frame, NDArray[np.bool_] | None]:
    try:
        names = list(read_members(path))
        name = next((name for name in ("frames", "arr_0") if name in names), names[0] if len(names) == 1 else None)
        if name is None:
            raise VideoError(f"{path} holds the arrays {names}; expected 'frames', 'arr_0' or a single array")
        arrays = read_arrays(path, name, *({"success"} & set(names)))
    except ArchiveError as error:
        raise VideoError(str(error)) from error
    try:
        frames = as_frames(arrays[name])
    except FrameError as error:
        raise FrameError(f"{path}, array {name!r}: {error}") from error
    said = None if name == "success" else arrays.get("success")
    return frames, None if said is None else _success_of_frames(path, said, len(frames))


def _success_of_frames(path: Path, said: NDArray[Any], num_frames: int) -> NDArray[np.bool_] | None:
    """Whether the task is done in each frame; None where that is not known of every one of them."""
    try:
        known = read_steps("success", said)
    except TrueSuccessError as error:
        raise VideoError(f"{path} says what cannot be read of success: {error}") from error
    if len(known) == num_frames - 1 > 0:  # one per step, which leads to the next frame
        known = [False, *known]
    if len(known) == 1 != num_frames or None in known:  # one value is about the whole recording
        return None
    if len(known) != num_frames:
        raise VideoError(
            f"{path} has {len(known)} values of success for {num_frames} frames; expected one per frame, one per step "
            "between frames, or one in all: mend the array 'success', or leave it out"
        )
    return np.array(known, np.bool_)


def _read_folder(path: Path) -> Frame:
    files = sorted(
        (file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")),
        key=_natural_order,
    )
    if not files:
        raise VideoError(f"{path} holds no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    return _gather(path, (decode_image(inside(path, file.name)) for file in files))


def _natural_order(file: Path) -> list[tuple[bool, int, str]]:
    parts = re.findall(r"\d+|\D+", file.name.lower())
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def thinned(seconds: NDArray[np.float64], fps: float | None) -> NDArray[np.int64]:
    """Which frames of a recording are kept of it at a lower rate: those nearest to an even grid of times.

    Args:
        seconds: (T,) when each frame is shown, ascending from 0.
        fps: Frames per second; None keeps all of them.

    Returns:
        (N,) their numbers; the first and the last always are among them, and no two of the others are closer to each
        other than half of what is asked for.

    Examples:
        >>> thinned(np.array([0.0, 1.0, 2.0, 2.1, 2.2, 2.3, 3.1]), fps=1).tolist()
        [0, 1, 2, 6]
    """
    if fps is None or len(seconds) < 2:
        return np.arange(len(seconds))
    grid = np.arange(np.floor(seconds[-1] * fps + _ROUNDING) + 1) / fps
    after = np.clip(np.searchsorted(seconds, grid), 1, len(seconds) - 1)
    nearness = (seconds[after] - grid) - (grid - seconds[after - 1])
    # Halfway between two frames the even one is taken, whatever rounding makes of it.
    is_tie = np.abs(nearness) < _ROUNDING
    nearest = np.where(np.where(is_tie, after % 2 == 0, nearness < 0), after, after - 1)
    kept = [0]
    for number in nearest.tolist():
        if number > kept[-1] and seconds[number] - seconds[kept[-1]] > 0.5 / fps - _ROUNDING:
            kept.append(number)
    # It decides whether the task was done.
    return np.array(kept if kept[-1] == len(seconds) - 1 else [*kept, len(seconds) - 1])


def _gather(path: Path, decoded: Iterable[Frame]) -> Frame:
    """(T, H, W, 3) of decoded frames of one size."""
    store = _FrameStore(path)
    for frame in decoded:
        store.append(frame)
    return store.frames()


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
