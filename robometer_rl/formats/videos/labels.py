"""A folder of videos, with or without a ``videos.jsonl`` that says what each one shows.

``videos.jsonl`` is the file of `robometer_rl.formats.videos.reader`; of its fields ``video``, ``task``,
``instructions`` and ``quality`` are read here. Without it, every recording directly in the folder is an episode, and
the task has to be given.

A video of F frames is an episode of T = F - 1 steps: the first frame is that of the reset, and step t leads to frame
t + 1. Videos hold neither rewards nor dones: an episode counts as truncated.

What is written: a folder with ``labels.csv``, one row per frame with the columns ``video``, ``task``, ``frame``,
``seconds``, ``progress``, ``success``, ``reward`` and ``success_detected``. ``seconds`` is when the frame is shown,
since the first one, as the file has it; nothing for files without times. The row of frame t + 1 has the reward of step
t, and that of the first frame has none; ``success_detected`` is 1 where the success rule holds. Numbers are written so
that they read back exactly. Beside it is ``robometer.json``, see `robometer_rl.formats.metadata`. The videos are not
touched.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.data.video_frames import VideoFrames
from robometer_rl.files import check_destination, inside, new_directory
from robometer_rl.formats.assumptions import Assumptions
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
from robometer_rl.formats.jsonl import Field, Line, check_record, read_lines
from robometer_rl.formats.metadata import read_metadata, write_metadata
from robometer_rl.formats.naming import fingerprint as text_fingerprint
from robometer_rl.formats.videos.reader import FIELDS, FILE_NAME
from robometer_rl.frames import FrameError
from robometer_rl.video import VIDEO_SUFFIXES, VideoError
from robometer_rl.video.lazy import Orientation

__all__ = ["LABELS", "VideoDataset", "is_format", "open_dataset"]

logger = logging.getLogger(__name__)

LABELS: Final = "labels.csv"
"""The file of labels."""

_CAMERA: Final = "video"
_COLUMNS: Final = ("video", "task", "frame", "seconds", "progress", "success", "reward", "success_detected")
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


class VideoDataset(RelabelDataset):
    """A folder of videos; see the module."""

    format = "videos"

    def __init__(self, options: DatasetOptions) -> None:
        """See `open_dataset`."""
        self.options = options
        self.cameras = choose_cameras(options.path, (_CAMERA,), options.cameras)
        self._orientation: Orientation = Assumptions(options.path).orientation(options.orientation)
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
        frames = VideoFrames(listed.path, self._orientation)
        return Episode(
            key=key,
            tasks=listed.tasks,
            cameras={_CAMERA: frames},
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

    def seconds(self, key: str, num_frames: int) -> Sequence[object]:
        """When each frame of a video is shown, since the first one; empty texts where that is not known any more."""
        seconds = None
        try:
            seconds = VideoFrames(self._listed[key].path).seconds
        except (VideoError, FrameError) as error:  # it was there when it was labelled: no reason to lose the labels
            logger.warning("the times of %s cannot be read any more: %s", key, error)
        if seconds is None or len(seconds) != num_frames:
            return [""] * num_frames
        return [round(second, 6) for second in seconds.tolist()]

    def _from_folder(self) -> dict[str, _Listed]:
        videos = _recordings(self.options.path)
        if not videos:
            raise SourceError(f"{self.options.path} holds neither a {FILE_NAME} nor videos")
        if not self.options.tasks:
            raise SourceError(f"{self.options.path} has no {FILE_NAME} that says what the task is; give it")
        return {path.name: _Listed(inside(path.parent, path.name), self.options.tasks) for path in videos}

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
        return video, _Listed(inside(folder, video), self.options.tasks or own, success)


# As for import, but that nothing is refused for lack of an outcome.
_FIELDS: Final[Mapping[str, Field]] = {
    name: replace(FIELDS[name], required=name in ("video", "task"))
    for name in ("video", "task", "instructions", "quality")
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
                    seconds = self._dataset.seconds(key, len(episode.progress))
                    writer.writerows(_rows(video, tasks[0], seconds, episode))
            write_metadata(directory, labels)


def _rows(video: str, task: str, seconds: Sequence[object], episode: EpisodeLabels) -> Iterator[tuple[Any, ...]]:
    paid = ["", *map(repr, episode.rewards.tolist())]
    success_detected = [0, *episode.success_detected.astype(int).tolist()]
    values = zip(seconds, episode.progress, episode.success, paid, success_detected, strict=True)
    for frame, (shown, progress, success, reward, done) in enumerate(values):
        # The shortest decimals that read back as the same float32.
        yield video, task, frame, shown, str(progress), str(success), reward, done


def _recordings(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _RECORDINGS)
