"""Files that hold the frames of stored trajectories: archives of PNG images, and videos and arrays as they came."""

from __future__ import annotations

import hashlib
import io
import math
import os
import shutil
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.data.array_frames import ArrayFrames, array_shape, read_array
from robometer_rl.data.reading import EPISODE_DAMAGE
from robometer_rl.data.rows import ChecksumError, FrameFile
from robometer_rl.data.subsampling import ChosenFrames
from robometer_rl.data.video_frames import VideoFrames
from robometer_rl.files import NO_ROOM, OutsideError, check_regular, new_file
from robometer_rl.frames import FrameError, FrameSequence, as_frames
from robometer_rl.models.locations import HubError
from robometer_rl.streams import Source
from robometer_rl.video import VIDEO_SUFFIXES, VideoError
from robometer_rl.video.decoding import TimedFrames, check_file
from robometer_rl.video.index import VideoFile

__all__ = ["StoredFrames", "frames_in", "link_file", "link_frames", "open_frames", "opened", "write_frames"]

FRAMES: Final = "frames"
VIDEOS: Final = "videos"

_CHUNK = 64  # frames that are read from a source at once
_OVERHEAD: Final = 1 << 16  # of a PNG besides its pixels
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    Image.DecompressionBombError,
    OSError,
    LookupError,
    SyntaxError,
    EOFError,
    ValueError,
    RuntimeError,  # encrypted, or packed in a way that is not known
)


_known: set[int] = set()  # of what is in shards, see `StoredFrames._is_known`


class StoredFrames(ABC):
    """Frames of one stored trajectory, decoded when they are asked for.

    The checksum of the file is compared once per object, before the first frame is decoded.

    Attributes:
        source: The file that holds them, or its place in a shard.
        shape: ``(T, H, W, 3)``.
    """

    def __init__(self, source: Path | Source, frames: FrameFile, name: str) -> None:
        """Frames in ``source``, which ``frames`` describes; ``name`` is the id of their trajectory."""
        self.source = source
        self.shape = frames.shape
        self._name = name
        self._expected: str | None = frames.sha256

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | NDArray[np.integer] | list[int]) -> NDArray[np.uint8]:
        """Decodes the chosen frames; an integer gives one image (H, W, 3), anything else a stack of them.

        Raises:
            ChecksumError: The file is missing or changed.
            HubError: The file is on the Hub, which cannot be reached or refuses.
            IndexError: There is no such frame.
        """
        chosen = np.arange(len(self))[index]
        self._compare_once()
        images = list(self._decode(np.atleast_1d(chosen).tolist()))
        if np.ndim(chosen) == 0:
            return images[0]
        return np.stack(images) if images else np.empty((0, *self.shape[1:]), np.uint8)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def whole_video(self) -> Path | Source | None:
        """The video that holds these frames in this order and no others; None if they are not kept in one.

        Raises:
            ChecksumError: The file is missing or changed.
        """
        return None

    @abstractmethod
    def _decode(self, indices: list[int]) -> Iterator[NDArray[np.uint8]]:
        """The frames at ``indices``, in this order."""

    @abstractmethod
    def verify(self) -> None:
        """Raises `ChecksumError` unless the file is the one that was written and holds every frame."""

    def _compare_once(self) -> None:
        if isinstance(self.source, Source):
            try:
                self.source.open().close()  # what is far away is fetched now
            except HubError:
                raise  # a Hub that does not answer has damaged nothing
            except OSError:
                pass  # reading says what is wrong
        if self._expected is None or self._is_known():
            return
        try:
            found = file_sha256(self.source)
        except FileNotFoundError as error:
            raise ChecksumError(f"trajectory {self._name!r}: its frame file {self.source} is missing") from error
        except OSError as error:
            raise ChecksumError(f"trajectory {self._name!r}: {self.source} cannot be read: {error}") from error
        if found != self._expected:
            raise ChecksumError(
                f"trajectory {self._name!r}: {self.source} has the checksum {found}, expected {self._expected}; "
                "record it again"
            )
        if isinstance(self.source, Source):
            _known.add(hash((self.source, self.source.version(), self._expected)))
        self._expected = None

    def _is_known(self) -> bool:
        """Whether this process has compared this part of a shard before: trajectories of large stores come and go."""
        if not isinstance(self.source, Source):
            return False
        try:
            return hash((self.source, self.source.version(), self._expected)) in _known
        except OSError:  # comparing says so
            return False

    def _undecodable(self, reason: object) -> ChecksumError:
        return ChecksumError(f"trajectory {self._name!r}: {self.source} cannot be decoded: {reason}; record it again")


class _ArchivedFrames(StoredFrames):
    """PNG images in a zip archive: without loss, and any frame can be read by itself."""

    def _decode(self, indices: list[int]) -> Iterator[NDArray[np.uint8]]:
        try:
            with opened(self.source) as file, zipfile.ZipFile(file) as archive:
                for index in indices:
                    with self._image(archive, _member(index)) as image:
                        yield np.asarray(image)
        except _UNREADABLE as error:
            raise self._undecodable(error) from error

    def _image(self, archive: zipfile.ZipFile, name: str) -> Image.Image:
        """An image that is as large as the row says, before its pixels take memory."""
        claimed, most = archive.getinfo(name).file_size, 2 * math.prod(self.shape[1:]) + _OVERHEAD
        if claimed > most:
            raise ValueError(f"{name} has {claimed} bytes, expected at most {most}")
        image = Image.open(io.BytesIO(archive.read(name)), formats=("PNG",))
        found = (image.height, image.width, len(image.getbands()))
        if found != self.shape[1:]:
            raise ValueError(f"{name} has the shape {found}, expected {self.shape[1:]}")
        return image

    def verify(self) -> None:
        """See `StoredFrames.verify`; images are looked at but for their compressed pixels, which have a CRC."""
        self._compare_once()
        try:
            with opened(self.source) as file, zipfile.ZipFile(file) as archive:
                if archive.namelist() != [_member(index) for index in range(len(self))]:
                    raise self._undecodable(f"it holds {len(archive.namelist())} images, expected {len(self)}")
                for name in archive.namelist():
                    with self._image(archive, name) as image:
                        image.verify()
        except ChecksumError:
            raise
        except _UNREADABLE as error:
            raise self._undecodable(error) from error


class _VideoFrames(StoredFrames):
    """Frames of a video that was not encoded again, decoded from the key frame before them.

    A process decodes a video once more, to know when its frames are shown, and remembers that.
    """

    def __init__(self, source: Path | Source, frames: FrameFile, name: str) -> None:
        super().__init__(source, frames, name)
        self._numbers = tuple(range(len(self))) if frames.numbers is None else frames.numbers

    def _decode(self, indices: list[int]) -> Iterator[NDArray[np.uint8]]:
        try:
            video = VideoFile(self.source) if isinstance(self.source, Path) else self.source
            frames = TimedFrames(video, check_file(video), np.asarray(self._numbers)[indices])
            return iter(frames[:])
        except (ValueError, OSError, IndexError) as error:
            raise self._undecodable(error) from error

    def whole_video(self) -> Path | Source | None:
        """See `StoredFrames.whole_video`."""
        self._compare_once()
        whole = range(len(check_file(self.source)))
        return self.source if self._numbers == tuple(whole) else None

    def verify(self) -> None:
        """See `StoredFrames.verify`; that it can be decoded was seen when it was added."""
        self._compare_once()


class _ArrayFrames(StoredFrames):
    """Frames of an ``.npz`` archive that was not packed again; it is unpacked as a whole."""

    def __init__(self, source: Path | Source, frames: FrameFile, name: str) -> None:
        super().__init__(source, frames, name)
        self._numbers = frames.numbers
        self._sha256 = frames.sha256

    def _decode(self, indices: list[int]) -> Iterator[NDArray[np.uint8]]:
        numbers = indices if self._numbers is None else [self._numbers[index] for index in indices]
        try:
            self._check_shape()
            return iter(read_array(self.source)[numbers])
        except (ValueError, IndexError) as error:
            raise self._undecodable(error) from error

    def verify(self) -> None:
        """See `StoredFrames.verify`; pixels are not unpacked, since they have a CRC."""
        self._compare_once()
        try:
            self._check_shape()
        except ValueError as error:
            raise self._undecodable(error) from error

    def link(self, root: Path, chosen: tuple[int, ...] | None) -> FrameFile:
        """Adds the archive to another store, of which these frames, or the ``chosen`` ones of them, are meant."""
        self.verify()
        numbers = self._numbers
        if chosen is not None:
            numbers = chosen if numbers is None else tuple(numbers[index] for index in chosen)
        file = f"{FRAMES}/{self._sha256}.npz"
        link_file(root / file, self.source)
        shape = (len(self) if numbers is None else len(numbers), self.shape[1], self.shape[2], 3)
        return FrameFile(file, shape, self._sha256, numbers=numbers)

    def _check_shape(self) -> None:
        count, *size = array_shape(self.source)
        missing = count != len(self) if self._numbers is None else max(self._numbers) >= count
        if missing or size != list(self.shape[1:]):
            raise ValueError(f"its frames have the shape {(count, *size)}, expected {self.shape} of them")


_KINDS: Final[Mapping[str, type[StoredFrames]]] = {".zip": _ArchivedFrames, ".npz": _ArrayFrames}
"""By the suffix of the file; all others are videos."""


def open_frames(root: Path, frames: FrameFile, name: str) -> StoredFrames:
    """The frames of the trajectory ``name`` in the store at ``root``; nothing is read yet.

    Raises:
        ChecksumError: They are said to be elsewhere than in the store.
    """
    try:
        return frames_in(frames.source(root), frames, name)
    except OutsideError as error:
        raise ChecksumError(f"trajectory {name!r}: its row is not the one that was written: {error}") from error


def frames_in(source: Path | Source, frames: FrameFile, name: str) -> StoredFrames:
    """The frames of the trajectory ``name``, whose file is at ``source``; nothing is read yet."""
    return _KINDS.get(Path(frames.file).suffix, _VideoFrames)(source, frames, name)


def write_frames(path: Path, name: str, frames: FrameSequence) -> FrameFile:
    """Writes an archive of PNG images, frame by frame, so that memory does not grow with the length.

    ``ZipInfo`` without a date means 1980-01-01, so the bytes hold no clock.

    Args:
        path: Where to write it for now.
        name: Id of the trajectory, after which it will be called.
        frames: What it will hold.

    Returns:
        The file as it will be when it is in its place.

    Raises:
        FrameError: The frames are not RGB, or fewer or more than they say.
    """
    count, size = 0, (0, 0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for image in _images(frames):
            if count and image.shape[:2] != size:
                raise FrameError(f"{name}: frame {count} has the size {image.shape[:2]}, the ones before it {size}")
            size = (image.shape[0], image.shape[1])
            content = io.BytesIO()
            Image.fromarray(image).save(content, format="png")
            archive.writestr(zipfile.ZipInfo(_member(count)), content.getvalue())
            count += 1
        if count != len(frames):
            raise FrameError(f"{name}: {count} frames could be read of {len(frames)}")
    return FrameFile(f"{FRAMES}/{name}.zip", (count, size[0], size[1], 3), file_sha256(path))


def link_frames(root: Path, frames: FrameSequence, *, videos: bool) -> FrameFile | None:
    """Adds the file that ``frames`` come from to a store as it is, where that is a file of frames of its own.

    It shares its content with the original where the file system can link them, and is copied elsewhere. A file that
    several trajectories share is kept once.

    Args:
        root: The store.
        frames: Frames of a trajectory, or some of them.
        videos: Whether videos count, which are not without loss. Packed arrays are, and always do.

    Returns:
        Which file it is and which of its frames are meant; None if ``frames`` are not those of such a file.

    Raises:
        VideoError: The video is not there any more, or cannot be decoded to its end.
        FrameError: The archive is not there any more, or holds other frames.
    """
    recording = frames.frames if isinstance(frames, ChosenFrames) else frames
    numbers = tuple(frames.kept.tolist()) if isinstance(frames, ChosenFrames) else None
    if isinstance(recording, ArrayFrames) and recording.orientation == "as_stored":
        return _link_array(root, recording, numbers)
    if isinstance(recording, _ArrayFrames):
        return recording.link(root, numbers)
    if not videos or not isinstance(recording, VideoFrames) or recording.path.suffix.lower() not in VIDEO_SUFFIXES:
        return None
    if recording.orientation != "as_stored":
        return None  # whoever reads the store would see it as it hangs in its file
    return _link_video(root, recording, tuple(range(len(recording))) if numbers is None else numbers)


def _link_video(root: Path, recording: VideoFrames, numbers: tuple[int, ...]) -> FrameFile:
    video = recording.path
    try:
        sha256 = _known_sha256(video, *_version(video))
    except OSError as error:
        raise VideoError(f"{video} cannot be read: {error}") from error
    kept = f"{VIDEOS}/{sha256}{video.suffix.lower()}"
    link_file(root / kept, video)
    if len(check_file(root / kept)) <= max(numbers):
        raise VideoError(f"{video} ends before frame {max(numbers)}")
    shape = (len(numbers), recording.shape[1], recording.shape[2], 3)
    return FrameFile(kept, shape, sha256, numbers=numbers)


def _link_array(root: Path, recording: ArrayFrames, numbers: tuple[int, ...] | None) -> FrameFile:
    source = recording.source
    try:
        recording.check()
        sha256 = file_sha256(source)
        kept = f"{FRAMES}/{sha256}.npz"
        link_file(root / kept, source)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise FrameError(f"{source} cannot be read: {error}") from error
    shape = (len(recording) if numbers is None else len(numbers), recording.shape[1], recording.shape[2], 3)
    return FrameFile(kept, shape, sha256, numbers=numbers)


def link_file(kept: Path, original: Path | Source) -> None:
    """Puts a file, or a copy of what is a part of one, in a place, unless it is there."""
    if kept.exists():
        return
    kept.parent.mkdir(exist_ok=True)
    with new_file(kept) as temporary:
        if isinstance(original, Source):
            with original.open() as stream, temporary.open("wb") as copy:
                shutil.copyfileobj(stream, copy)
            return
        try:
            os.link(original.resolve(), temporary)
        except OSError:  # another file system, or one without links
            shutil.copyfile(original, temporary)


def file_sha256(file: Path | Source) -> str:
    """sha256 of a file."""
    with opened(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def opened(file: Path | Source) -> BufferedReader:
    """A file, to be closed by the caller."""
    if isinstance(file, Source):
        return file.open()
    check_regular(file)
    return file.open("rb")


def _member(index: int) -> str:
    return f"{index:06d}.png"


def _images(frames: FrameSequence) -> Iterator[NDArray[np.uint8]]:
    """(H, W, 3) uint8, one after the other; `FrameError` where their source fails."""
    for start in range(0, len(frames), _CHUNK):
        try:
            chunk = as_frames(frames[start : start + _CHUNK])
        except ValueError:
            raise
        except EPISODE_DAMAGE as error:
            raise FrameError(f"frame {start} or one soon after it cannot be read: {error!r}") from error
        yield from chunk


def _version(path: Path) -> tuple[int, int]:
    """What changes when a file is written again."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=64)
def _known_sha256(path: Path, modified: int, size: int) -> str:
    return file_sha256(path)
