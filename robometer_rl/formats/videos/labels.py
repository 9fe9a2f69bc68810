"""A folder of videos, with or without a ``videos.jsonl`` that says what each one shows.

``videos.jsonl`` is the file of `robometer_rl.formats.videos.reader`; of its fields ``video``, ``task``,
``instructions`` and ``quality`` are read here. Without it, every recording directly in the folder is an episode, and
the task has to be given.

A video of F frames is an episode of T = F - 1 steps: the first frame is that of the reset, and step t leads to frame
t + 1. Videos hold neither rewards nor dones: an episode counts as truncated.

What is written: a folder with ``labels.csv``, one row per frame with the columns ``video``, ``task``, ``frame``,
``progress``, ``success``, ``reward`` and ``success_detected``. The row of frame t + 1 has the reward of step t, and
that of the first frame has none; ``success_detected`` is 1 where the success rule holds. Numbers are written so that
they read back exactly. Beside it is ``robometer.json``, see `robometer_rl.formats.metadata`. The videos are not
touched.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.data.video_frames import VideoFrames
from robometer_rl.files import check_destination, new_directory
from robometer_rl.formats.dataset import (
    DatasetOptions,
    Episode,
    EpisodeLabels,
    Labels,
    LabelWriter,
    Provenance,
    RelabelDataset,
    WriteMode,
)
from robometer_rl.formats.destinations import choose_cameras, default_output, fingerprint
from robometer_rl.formats.jsonl import Field, Line, check_record, is_text, read_lines
from robometer_rl.formats.metadata import read_metadata, write_metadata
from robometer_rl.formats.naming import fingerprint as text_fingerprint
from robometer_rl.formats.orientation import Orientation, orient
from robometer_rl.formats.videos.reader import FILE_NAME
from robometer_rl.frames import FrameSequence
from robometer_rl.video import VIDEO_SUFFIXES, VideoError, decode_video

__all__ = ["LABELS", "StreamedVideo", "VideoDataset", "is_format", "open_dataset"]

LABELS: Final = "labels.csv"
"""The file of labels."""

_CAMERA: Final = "video"
_COLUMNS: Final = ("video", "task", "frame", "progress", "success", "reward", "success_detected")
_RECORDINGS: Final = (*VIDEO_SUFFIXES, ".gif")


def is_format(path: Path) -> bool:
    """Whether ``path`` is a ``videos.jsonl``, or a folder with one or with videos directly in it."""
    if path.is_dir():
        return (path / FILE_NAME).is_file() or bool(_recordings(path))
    return path.name == FILE_NAME


def open_dataset(options: DatasetOptions) -> VideoDataset:
    """Opens a folder of videos.

    Raises:
        SourceError: There are no videos, the JSONL file is none, or nobody says what the task is.
    """
    return VideoDataset(options)


@dataclass(frozen=True)
class _Listed:
    """A video and what is said about it.

    Attributes:
        path: The recording.
        tasks: Its instructions.
        success: Whether it succeeded, None if nobody says.
    """

    path: Path
    tasks: tuple[str, ...]
    success: bool | None = None


class StreamedVideo:
    """The frames of a video file, decoded from front to back without holding all of them.

    It is decoded once here, to count the frames and find damage, and again when they are read.

    Attributes:
        shape: ``(F, H, W, 3)``.
    """

    def __init__(self, path: Path) -> None:
        """Decodes the video.

        Raises:
            VideoError: There is no such video, or it cannot be decoded.
        """
        if not path.exists():
            raise VideoError(f"there is no video {path}")
        count, shape = 0, None
        for frame in decode_video(path):
            count, shape = count + 1, frame.shape
        if shape is None:
            raise VideoError(f"{path} holds no frames")
        self.path = path
        self.shape = (count, *shape)
        self._decoded: Iterator[NDArray[np.uint8]] = iter(())
        self._next = count

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice) -> NDArray[np.uint8]:
        """Decodes a slice of frames; one that begins before the end of the last begins the video again."""
        wanted = range(len(self))[index]
        if not wanted:
            return np.empty((0, *self.shape[1:]), np.uint8)
        if wanted[0] < self._next:
            self._decoded, self._next = decode_video(self.path), 0
        chosen = set(wanted)
        frames: list[NDArray[np.uint8]] = []
        while self._next <= wanted[-1]:
            frame = next(self._decoded, None)
            if frame is None:
                raise VideoError(f"{self.path} has {self._next} frames now and had {len(self)} before")
            if self._next in chosen:
                frames.append(frame)
            self._next += 1
        return np.stack(frames)


class VideoDataset(RelabelDataset):
    """A folder of videos; see the module."""

    format = "videos"

    def __init__(self, options: DatasetOptions) -> None:
        """See `open_dataset`."""
        self.options = options
        self.cameras = choose_cameras(options.path, (_CAMERA,), options.cameras)
        path = options.path / FILE_NAME if options.path.is_dir() else options.path
        self.skipped: tuple[Unreadable, ...] = ()
        if path.is_file():
            self._listed = self._from_lines(path)
            self._files = [path]
        else:
            self._listed = self._from_folder()
            self._files = []
        self.keys = tuple(self._listed)

    def episode(self, key: str) -> Episode:
        """See `RelabelDataset.episode`."""
        listed = self._listed[key]
        # Other recordings are small, or files per frame: they are read at once.
        is_video = listed.path.suffix.lower() in VIDEO_SUFFIXES
        frames = StreamedVideo(listed.path) if is_video else VideoFrames(listed.path)
        return Episode(
            key=key,
            tasks=listed.tasks,
            cameras={_CAMERA: _oriented(frames, self.options.orientation)},
            num_steps=len(frames) - 1,
            truncated=True,
            success=listed.success,
        )

    def fingerprint(self) -> str:
        """See `RelabelDataset.fingerprint`."""
        videos = [listed.path for listed in self._listed.values() if listed.path.is_file()]
        tasks = [listed.tasks for listed in self._listed.values()]
        return fingerprint(self.keys, [*self._files, *videos], tasks)

    def writer(self, mode: WriteMode, output: Path | None = None) -> LabelWriter:
        """See `RelabelDataset.writer`."""
        folder = self.options.path if self.options.path.is_dir() else self.options.path.parent
        return _VideoWriter(self, output or default_output(folder))

    def video_and_tasks(self, key: str) -> tuple[str, tuple[str, ...]]:
        """The address of a video relative to the dataset, and its instructions."""
        folder = self.options.path if self.options.path.is_dir() else self.options.path.parent
        return self._listed[key].path.relative_to(folder).as_posix(), self._listed[key].tasks

    def _from_folder(self) -> dict[str, _Listed]:
        videos = _recordings(self.options.path)
        if not videos:
            raise SourceError(f"{self.options.path} holds neither a {FILE_NAME} nor videos")
        if not self.options.tasks:
            raise SourceError(f"{self.options.path} has no {FILE_NAME} that says what the task is; give it")
        return {path.name: _Listed(path, self.options.tasks) for path in videos}

    def _from_lines(self, path: Path) -> dict[str, _Listed]:
        found: dict[str, _Listed] = {}
        skipped: list[Unreadable] = []
        for line in read_lines(path):
            try:
                video, listed = self._read(line, path.parent)
            except ValueError as error:
                skipped.append(Unreadable(line.name, str(error)))
                continue
            # One video may be listed with several tasks.
            key = video if video not in found else f"{video}#{text_fingerprint(listed.tasks[0])}"
            if key in found:
                skipped.append(Unreadable(line.name, f"{video} is listed with this task before"))
            else:
                found[key] = listed
        self.skipped = tuple(skipped)
        return found

    def _read(self, line: Line, folder: Path) -> tuple[str, _Listed]:
        record = line.record()
        known = {name: value for name, value in record.items() if name in _FIELDS}
        values = check_record(known, _FIELDS)
        video = PurePosixPath(values["video"]).as_posix()
        own = (values["task"], *(text for text in values.get("instructions", ()) if text != values["task"]))
        success = None if "quality" not in values else values["quality"] == "successful"
        return video, _Listed(folder / video, self.options.tasks or own, success)


_FIELDS: Final[Mapping[str, Field]] = {
    "video": Field(
        lambda value: is_text(value) and not PurePosixPath(value).is_absolute(),
        "the path of a recording, relative to the JSONL file",
        required=True,
    ),
    "task": Field(is_text, "a non-empty instruction such as 'open the drawer'", required=True),
    "instructions": Field(
        lambda value: isinstance(value, list) and all(is_text(text) for text in value),
        "a list of non-empty instructions",
    ),
    "quality": Field(is_text, "successful, suboptimal or failure"),
}


class _VideoWriter(LabelWriter):
    """Writes the folder of labels."""

    def __init__(self, dataset: VideoDataset, destination: Path) -> None:
        self.destination = destination
        self._dataset = dataset

    def check(self) -> None:
        """See `LabelWriter.check`."""
        check_destination(self.destination)

    def written(self) -> Provenance | None:
        """See `LabelWriter.written`."""
        return read_metadata(self.destination)

    def write(self, labels: Labels) -> None:
        """See `LabelWriter.write`."""
        with new_directory(self.destination) as directory:
            with (directory / LABELS).open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(_COLUMNS)
                for key, episode in labels.episodes.items():
                    video, tasks = self._dataset.video_and_tasks(key)
                    writer.writerows(_rows(video, tasks[0], episode))
            write_metadata(directory, labels)


def _rows(video: str, task: str, episode: EpisodeLabels) -> Iterator[tuple[Any, ...]]:
    paid = ["", *map(repr, episode.rewards.tolist())]
    success_detected = [0, *episode.success_detected.astype(int).tolist()]
    values = zip(episode.progress, episode.success, paid, success_detected, strict=True)
    for frame, (progress, success, reward, done) in enumerate(values):
        # The shortest decimals that read back as the same float32.
        yield video, task, frame, str(progress), str(success), reward, done


@dataclass(frozen=True)
class _Oriented:
    """Frames that are turned when they are read; see `robometer_rl.frames.FrameSequence`."""

    frames: FrameSequence
    orientation: Orientation

    @property
    def shape(self) -> tuple[int, ...]:
        return self.frames.shape

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: slice) -> NDArray[np.uint8]:
        return orient(self.frames[index], self.orientation)


def _oriented(frames: FrameSequence, orientation: Orientation | None) -> FrameSequence:
    return frames if orientation in (None, "as_stored") else _Oriented(frames, orientation)


def _recordings(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _RECORDINGS)
