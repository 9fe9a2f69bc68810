"""Frames of a video file by their exact times, decoded with PyAV when somebody asks for them.

`index_video` reads from the packets of a file when its frames are shown, without decoding them: for data sets that pack
thousands of frames, and many episodes, into one file and say themselves which frames they mean. `check_video` decodes
the file once instead, and so knows the frames of any file, and that none of them is damaged. `read_frames` then decodes
exactly the frames that are asked for: a frame is found by its own time, never by seeking to about the right place, and
decoding starts at the key frame before it.

Files are handed to FFmpeg as open files, never by name, so that names mean nothing to it.
"""

from __future__ import annotations

import gc
import os
import struct
import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Final

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from robometer_rl.limits import check_picture
from robometer_rl.video.images import VideoError
from robometer_rl.video.index import VideoFile, VideoIndex, VideoSource
from robometer_rl.video.lazy import LazyFrames, Orientation

__all__ = ["TimedFrames", "check_file", "check_video", "index_file", "index_video", "read_frames"]

Picture = NDArray[np.uint8]

# Containers that hold their frames themselves. FFmpeg knows others, such as playlists, that name files and addresses.
_CONTAINERS: Final = "mov,matroska,avi,flv,asf,ogg,mpeg,mpegts,m4v,ivf,nut"

# Packets of theirs may have no picture: hidden frames, and placeholders of frames that are in the packet before.
_CODECS_WITH_EMPTY_PACKETS: Final = frozenset({"mpeg4", "msmpeg4v2", "msmpeg4v3", "vp8"})

# Decoders of JPEG paint over what is missing unless they are told not to.
_OPTIONS: Final = {"mjpeg": {"err_detect": "explode"}}

_NAMED: Final = 5  # damaged frames that an error message lists
_MOST_OPEN: Final = 4


def index_video(source: VideoSource) -> VideoIndex:
    """Reads when each frame of a video is shown. One picture is decoded; the file is read through once.

    Frames before the first key frame, which a cut leaves behind and nobody can decode, are left out.

    Raises:
        VideoError: There is no such file, it is not a video, one without frames or whose frames have no times, or one
            of depth instead of colours.
    """
    pts: list[int] = []
    keyframes: list[int] = []
    with _errors_of(source), _Video(source) as video:
        for packet in video.packets():
            if packet.size == 0:
                continue
            if packet.pts is None:
                raise VideoError(f"{source} states no time for frame {len(pts)}; expected time stamps")
            if packet.is_keyframe:
                keyframes.append(packet.pts)
            if keyframes and packet.pts >= keyframes[0] and not packet.is_discard:
                pts.append(packet.pts)
        video.restart()
        return video.index(np.unique(pts), np.unique(keyframes), video.first_picture())


def check_video(source: VideoSource) -> VideoIndex:
    """Decodes a video from its first frame to its last, to know its frames and that all of them are whole.

    A file that breaks off has the frames before that, and `VideoIndex.missing_s` says how much it lacks.

    Raises:
        VideoError: There is no such file, it is not a video, or one of depth instead of colours, or some of its frames
            are damaged; the message says which.
    """
    with _errors_of(source), _Video(source) as video:
        return _Check(video).index()


def index_file(path: Path) -> VideoIndex:
    """`index_video` of a file, remembered while the same file is asked for again: episodes share videos."""
    source = VideoFile(path)
    return _index_version(source, _version(source))


def check_file(file: Path | VideoSource) -> VideoIndex:
    """`check_video` of a file, remembered while the same file is asked for again."""
    source = VideoFile(file) if isinstance(file, Path) else file
    return _check_version(source, _version(source))


def _version(source: VideoSource) -> Hashable:
    try:
        return source.version()
    except FileNotFoundError as error:
        raise VideoError(f"there is no video {source}") from error
    except OSError as error:
        raise VideoError(f"{source} cannot be read: {error.strerror}") from error


@lru_cache(maxsize=4)
def _index_version(source: VideoSource, version: Hashable) -> VideoIndex:
    return index_video(source)


@lru_cache(maxsize=1024)
def _check_version(source: VideoSource, version: Hashable) -> VideoIndex:
    return check_video(source)


def read_frames(source: VideoSource, index: VideoIndex, numbers: Sequence[int]) -> Iterator[Picture]:
    """Decodes chosen frames of a video.

    A request that goes on where the last one of this thread has ended, in the same file, goes on decoding there.

    Args:
        source: The video.
        index: The index of this video.
        numbers: Of the frames, into ``index.pts``, ascending, each once.

    Yields:
        (H, W, 3) uint8 RGB, the right way up: a rotation that a telephone notes beside the pictures is applied.

    Raises:
        VideoError: A frame is missing or damaged, or the file is gone or not what it was.
    """
    if len(numbers):
        with _errors_of(source), _open_video(source) as video:
            for number in numbers:
                yield video.picture(index, number)


class TimedFrames(LazyFrames):
    """Some frames of a video, decoded on request.

    An object holds no frames and no open file: many of them may be alive, and it may travel to a worker process.

    Attributes:
        source: The video.
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
        super().__init__((len(numbers), index.height, index.width, 3), orientation)
        self.source = source
        self._index = index
        self._numbers = np.asarray(numbers, dtype=np.int64)

    def __str__(self) -> str:
        return str(self.source)

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        wanted, places = np.unique(self._numbers[rows], return_inverse=True)
        images = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        for place, image in enumerate(read_frames(self.source, self._index, wanted.tolist())):
            images[place] = image
        return images if np.array_equal(places, np.arange(len(wanted))) else images[places]


@contextmanager
def _errors_of(source: VideoSource) -> Iterator[None]:
    """Errors of the file and of the decoder become a `VideoError` that names the video."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{source} cannot be decoded: {error.strerror or error}") from error


# --- one open file ---


class _Video:
    """An open video."""

    source: VideoSource
    stream: VideoStream

    def __init__(self, source: VideoSource) -> None:
        self.source = source
        self.key = (source, source.version())
        self._to_rgb = VideoReformatter()
        self._open()

    def __enter__(self) -> _Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._running = iter(())  # it refers to this object: a circle would be collected some day, perhaps in a fork
        self._container.close()
        self._file.close()

    def restart(self) -> None:
        """Opens the file again: the one way back that every container has."""
        self.close()
        self._open()

    def _open(self) -> None:
        self._file = self.source.open()
        try:
            self._container: InputContainer = av.open(self._file, "r", options={"format_whitelist": _CONTAINERS})
            self.stream = _video_stream(self._container, self.source)
            _require_possible(self.stream, self.source)
        except BaseException:
            self._file.close()
            raise
        self.stream.codec_context.options = _OPTIONS.get(self.stream.codec_context.name, {})
        self._running: Iterator[VideoFrame] = self._frames()
        self._reached: int | None = None  # the time of the last frame that was decoded
        self._count = 0  # of frames decoded since the start of the file

    @property
    def guesses_times(self) -> bool:
        """Whether the container has no times, so that FFmpeg makes them up."""
        return self._container.format.name == "avi"

    @property
    def time_base(self) -> Fraction:
        """Seconds per tick."""
        assert self.stream.time_base is not None  # every demuxer sets it
        return Fraction(self.stream.time_base)

    def packets(self) -> Iterator[Packet]:
        """All packets of the stream, and an empty one at the end."""
        return self._container.demux(self.stream)

    def _frames(self) -> Iterator[VideoFrame]:
        """Decodes on, without the packet that a cut has left incomplete."""
        for packet in self.packets():
            if not packet.is_corrupt:
                yield from self.stream.decode(packet)

    def first_picture(self) -> Picture | None:
        """The first frame that can be decoded."""
        for packet in self.packets():
            with suppress(av.error.InvalidDataError):
                for frame in self.stream.decode(packet):
                    return self.rgb(frame)
        return None

    def index(
        self, pts: NDArray[np.int64], keyframes: NDArray[np.int64], picture: Picture | None, missing_s: float = 0.0
    ) -> VideoIndex:
        """The index of this video; ``picture`` is any of its frames, for the other arguments see `VideoIndex`."""
        if picture is None or not len(pts) or not len(keyframes):
            raise VideoError(f"{self.source} holds no frames that can be decoded")
        height, width, _ = picture.shape
        rate = self.stream.average_rate
        return VideoIndex(pts, keyframes, self.time_base, height, width, float(rate) if rate else None, missing_s)

    def stated_end_s(self) -> float | None:
        """Until when the file says that it has frames, in seconds on its clock."""
        if self.stream.duration is not None:
            return float(((self.stream.start_time or 0) + self.stream.duration) * self.time_base)
        # Some containers only say how long the longest of their streams is.
        if self._container.duration is None or len(self._container.streams) > 1:
            return None
        return ((self._container.start_time or 0) + self._container.duration) / av.time_base

    def time(self, shown: VideoFrame | Packet) -> int:
        """When a frame is shown, in ticks."""
        time = shown.pts if shown.pts is not None else shown.dts
        if time is None:
            raise VideoError(f"{self.source} has frames without times; convert it, for instance to .mp4")
        return time

    def picture(self, index: VideoIndex, number: int) -> Picture:
        """Decodes a frame, going on from the last one, jumping or starting again, whichever is least work."""
        time = int(index.pts[number])
        frame = self._find(index, time) if index.is_ordered else self._at(number)
        if frame is None or self.time(frame) != time or frame.is_corrupt:
            raise VideoError(f"{self.source} has no intact frame {number}, at {float(time * index.time_base):.6f} s")
        picture = self.rgb(frame)
        if picture.shape != (index.height, index.width, 3):
            raise VideoError(
                f"{self.source}: frame {number} has the shape {picture.shape}, the first one "
                f"{(index.height, index.width, 3)}; all frames of a recording have one size"
            )
        return picture

    def _find(self, index: VideoIndex, target: int) -> VideoFrame | None:
        """The first frame that is not shown before ``target``."""
        # The last key frame before the target, and the first one that has not been decoded yet: if they are the same,
        # or the former is behind, going on costs less than a jump.
        start = int(np.searchsorted(index.keyframes, target, side="right")) - 1
        following = 0 if self._reached is None else int(np.searchsorted(index.keyframes, self._reached, side="right"))
        if start > following or (self._reached is not None and target <= self._reached):
            self._jump(index.keyframes[: start + 1], target)
        frame = next((frame for frame in self._running if self.time(frame) >= target), None)
        self._reached = None if frame is None else self.time(frame)
        return frame

    def _jump(self, keyframes: NDArray[np.int64], target: int) -> None:
        """Decodes from the last of ``keyframes`` on that leads to ``target``, or from the start of the file.

        Files are searched by decoding time, which differs from the time of showing where frames depend on later ones,
        so a jump may land too late; then the key frame before is tried.
        """
        for keyframe in keyframes[:0:-1].tolist():
            self._container.seek(keyframe, stream=self.stream)
            frames = self._frames()
            first = next(frames, None)
            if first is not None and self.time(first) <= target:
                self._running = chain([first], frames)
                return
        self.restart()

    def _at(self, number: int) -> VideoFrame | None:
        """A frame by its place, where times do not tell frames apart."""
        if number < self._count:
            self.restart()
        for frame in self._running:
            self._count += 1
            if self._count > number:
                return frame
        return None

    def rgb(self, frame: VideoFrame) -> Picture:
        """The pixels of a frame, the right way up."""
        check_colours(frame.format, self.source)
        return _upright(frame, np.asarray(self._to_rgb.reformat(frame, format="rgb24").to_ndarray(), np.uint8))


def _video_stream(container: InputContainer, source: VideoSource) -> VideoStream:
    """The largest video; never a picture of the cover if there is something else."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoError(f"{source} holds no video stream")
    known = [stream for stream in streams if stream.codec_context is not None]  # others do not say their size
    if not known:
        raise VideoError(f"{source} is encoded in a way that is not known here, or damaged; convert it to H.264")
    return max(known, key=lambda stream: stream.width * stream.height)


def _require_possible(stream: VideoStream, source: object) -> None:
    """Raises `VideoError` if the file claims pictures that are larger than any are."""
    try:
        check_picture(stream.height, stream.width, "its header")
    except ValueError as error:
        raise VideoError(f"{source} cannot be decoded: {error}") from error


def check_colours(kind: VideoFormat, source: object) -> None:
    """Raises `VideoError` if pixels of a format are of depth: grey, with more than 8 bits."""
    bits = max(component.bits for component in kind.components)
    if len(kind.components) <= 2 and bits > 8:
        raise VideoError(
            f"{source} is a video of {bits}-bit grey ({kind.name}), as depth is stored; expected colours, or 8-bit grey"
        )


def _upright(frame: VideoFrame, picture: Picture) -> Picture:
    """Turns and mirrors a picture by quarters, as the display matrix beside it says; other angles are rounded."""
    if "DISPLAYMATRIX" not in frame.side_data:
        return picture
    matrix = frame.side_data["DISPLAYMATRIX"]
    # Where a step to the right, and a step down, lead on the screen.
    right_x, right_y, _, down_x, down_y = struct.unpack_from("=5i", bytes(matrix))
    if abs(right_x) + abs(down_y) < abs(right_y) + abs(down_x):
        picture, right_x, down_y = picture.transpose(1, 0, 2), down_x, right_y
    return picture[:: -1 if down_y < 0 else 1, :: -1 if right_x < 0 else 1]


# --- files that stay open ---

_open_videos: dict[int, _Video] = {}  # by thread: the one that it read last
_inherited: list[_Video] = []


@contextmanager
def _open_video(source: VideoSource) -> Iterator[_Video]:
    """The video that this thread read last if it is this one, else a new one; stays open for the next request."""
    video = _open_videos.pop(threading.get_ident(), None)
    if video is None or video.key != (source, source.version()):
        if video is not None:
            video.close()
        video = _Video(source)
    try:
        yield video
    except GeneratorExit:
        _keep_open(video)
        raise
    except BaseException:
        video.close()
        raise
    else:
        _keep_open(video)


def _keep_open(video: _Video) -> None:
    before = _open_videos.pop(threading.get_ident(), None)
    if before is not None:
        before.close()
    _open_videos[threading.get_ident()] = video
    while len(_open_videos) > _MOST_OPEN:  # of threads that have ended, for instance
        _open_videos.pop(next(iter(_open_videos))).close()


def _leave_to_parent() -> None:
    """A forked process shares the place in open files with its parent, and lacks the threads of open decoders.

    So it neither reads nor closes what it inherits.
    """
    _inherited.extend(_open_videos.values())
    _open_videos.clear()
    # Nor does it collect what the parent has not: freeing a converter or decoder waits for its threads, for ever.
    gc.freeze()


os.register_at_fork(after_in_child=_leave_to_parent)


# --- whole videos ---


class _Check:
    """Decodes a whole video, see `check_video`."""

    def __init__(self, video: _Video) -> None:
        self._video = video
        self._shown: list[int] = []  # times of decoded frames
        self._end = 0  # when the last of them ends
        self._stated: list[int] = []  # times of packets with frames to be shown
        self._keyframes: list[int] = []
        self._damaged: set[int] = set()
        self._picture: Picture | None = None

    def index(self) -> VideoIndex:
        """Decodes it."""
        is_cut = self._decode()
        if self._picture is not None:
            self._require_whole()
        missing = self._missing_s(is_cut) if self._shown else 0.0
        keyframes = np.unique(self._keyframes or self._shown[:1])
        return self._video.index(np.array(self._shown, np.int64), keyframes, self._picture, missing)

    def _decode(self) -> bool:
        """Decodes everything; whether the last packet is incomplete."""
        cut: Packet | None = None
        for packet in self._video.packets():
            if packet.size and cut is not None:  # so that one was not the last
                self._damaged.add(self._video.time(cut))
                cut = None
            if packet.size and packet.is_corrupt:
                cut = packet
                continue
            if packet.size:
                self._note(packet)
            self._take(packet)
        return cut is not None

    def _note(self, packet: Packet) -> None:
        time = self._video.time(packet)
        if packet.is_keyframe:
            self._keyframes.append(time)
        if not packet.is_discard:
            self._stated.append(time)

    def _take(self, packet: Packet) -> None:
        try:
            frames = self._video.stream.decode(packet)
        except av.error.InvalidDataError:
            if packet.size:
                self._damaged.add(self._video.time(packet))
            return
        for frame in frames:
            time = self._video.time(frame)
            if frame.is_corrupt:
                self._damaged.add(time)
            if self._picture is None:
                self._picture = self._video.rgb(frame)
            check_colours(frame.format, self._video.source)
            self._shown.append(time)
            self._end = max(self._end, time + (frame.duration or 0))

    def _missing_s(self, is_cut: bool) -> float:
        """How much less there is than the file states, if that is not only rounding."""
        base, stated = self._video.time_base, self._video.stated_end_s()
        interval = float((self._shown[-1] - self._shown[0]) * base) / max(len(self._shown) - 1, 1)
        missing = 0.0 if stated is None else stated - float(self._end * base)
        if missing > 1.5 * interval + 0.05:
            return missing
        return max(missing, interval, 1e-3) if is_cut else 0.0

    def _require_whole(self) -> None:
        """Raises `VideoError` with the frames that are damaged or lacking."""
        damaged, shown = set(self._damaged), set(self._shown)
        codec = self._video.stream.codec_context.name
        if codec not in _CODECS_WITH_EMPTY_PACKETS and not self._video.guesses_times:
            # What a cut leaves before the first frame, or behind the last one, cannot be decoded and is no damage.
            damaged |= {time for time in self._stated if self._shown[0] < time < self._shown[-1]} - shown
        if not damaged:
            return
        times = sorted(damaged)
        numbers = np.searchsorted(sorted(shown | damaged), times).tolist()
        named = [
            f"{number} (at {float(time * self._video.time_base):.3f} s)"
            for number, time in zip(numbers[:_NAMED], times, strict=False)
        ]
        rest = f" and {len(times) - _NAMED} more" if len(times) > _NAMED else ""
        raise VideoError(
            f"{self._video.source} is damaged: frame {', '.join(named)}{rest} cannot be decoded; "
            "convert the video to leave out what is damaged"
        )
