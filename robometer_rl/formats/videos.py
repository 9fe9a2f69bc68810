"""Your own videos: a folder of recordings and a JSONL file that says what each one shows.

::

    my_robot/
      videos.jsonl
      videos/pick_01.mp4, videos/pick_02.webm, videos/pick_03/0001.png, ...

Each line of ``videos.jsonl`` is a JSON object:

=================== =====================================================================================
``video``           Required. A video, GIF, ``.npz`` or folder of images, relative to the JSONL file
``task``            Required. The instruction that the robot was to follow
``quality``         ``successful``, ``suboptimal`` or ``failure``; required, unless labels say it when it is imported
``partial_success`` How far it got, from 0 to 1, where somebody has graded that
``success_frame``   The first frame in which the task is done, counted from 0; it stays done from then on
``instructions``    List of other ways to say ``task``
``skill``           Who acted; ``expert`` if it heads for the goal all the time, as demonstrations do
``is_robot``        false for videos of people; true by default
``split``           ``train`` (the default), ``test`` or a name of your own
``metadata``        An object of whatever else is to be kept
=================== =====================================================================================

Pictures are taken the right way up as they are recorded; the rotation that telephones store with a video and the
orientation in photos' EXIF data are applied.

For labels only ``video``, ``task``, ``instructions`` and ``quality`` are read, and the last may be left out. Without a
``videos.jsonl``, every recording directly in the folder is an episode, and the task has to be given. A video of F
frames is an episode of T = F - 1 steps: the first frame is that of the reset, and step t leads to frame t + 1. Videos
hold neither rewards nor dones: an episode counts as truncated.

What is written: a folder with ``labels.csv``, one row per frame with the columns ``video``, ``task``, ``frame``,
``seconds``, ``progress``, ``success``, ``reward``, ``return``, ``advantage`` and ``success_detected``. ``seconds`` is
when the frame is shown, since the first one, as the file has it; nothing for files without times. The row of frame
t + 1 has the reward, the return and the advantage of step t, and that of the first frame has none;
``success_detected`` is 1 where the success rule holds. Numbers are written so that they read back exactly. Beside it is
``robometer.json``, see `robometer_rl.formats.dataset`. The videos are not touched.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import Reading, SourceError, Unreadable, attempt
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.data.video_frames import VideoFrames
from robometer_rl.files import inside, new_directory
from robometer_rl.formats.conventions import Assumptions, choose_cameras
from robometer_rl.formats.dataset import (
    DatasetOptions,
    DirectoryWriter,
    EpisodeLabels,
    Labels,
    LabelWriter,
    RecordedEpisode,
    RecordedFacts,
    RelabelDataset,
    WriteMode,
    default_output,
    fingerprint,
    write_metadata,
)
from robometer_rl.formats.jsonl import Field, Line, RecordError, check_record, is_text, read_lines
from robometer_rl.formats.trajectories import Stated, trajectory_of
from robometer_rl.formats.trajectories import fingerprint as text_fingerprint
from robometer_rl.frames import FrameError
from robometer_rl.video import VIDEO_SUFFIXES, VideoError
from robometer_rl.video.lazy import Orientation

__all__ = ["FIELDS", "FILE_NAME", "LABELS", "VideoDataset", "VideosConfig", "is_format", "open_dataset", "read_videos"]

logger = logging.getLogger(__name__)

FILE_NAME: Final = "videos.jsonl"

LABELS: Final = "labels.csv"
"""The file of labels."""

_CAMERA: Final = "video"
_UNKNOWN: Final = (
    f"the field 'quality' is missing; expected one of {', '.join(get_args(QualityLabel))}, or labels of the studio"
)
_COLUMNS: Final = (
    *("video", "task", "frame", "seconds", "progress", "success"),
    *("reward", "return", "advantage", "success_detected"),
)
# Of a line, called as in a trajectory.
_FACTS: Final = ("is_robot", "partial_success", "skill", "split")
_RECORDINGS: Final = (*VIDEO_SUFFIXES, ".gif")


@dataclass(frozen=True)
class VideosConfig:
    """Your own videos, with a JSONL file of task, quality and partial success.

    Attributes:
        path: The JSONL file, or a folder with a videos.jsonl in it.
        orientation: "as_stored" for pictures that are upright, which is taken for granted; "flip" reverses their rows;
            "rotate" turns them by 180 degrees.
        task: The instruction of every recording in a folder that has no videos.jsonl; how they ended is then known
            from labels alone.
        data_source: Tag of the data set, as training and evaluation name it.
    """

    path: Path
    orientation: Orientation | None = None
    task: str | None = None
    data_source: str = "videos"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


FIELDS: Final[Mapping[str, Field]] = {
    "video": Field(
        lambda value: is_text(value) and not PurePosixPath(value).is_absolute(),
        "the path of a recording, relative to the JSONL file",
        required=True,
    ),
    "task": Field(is_text, "a non-empty instruction such as 'open the drawer'", required=True),
    "quality": Field(lambda value: value in get_args(QualityLabel), f"one of {', '.join(get_args(QualityLabel))}"),
    "partial_success": Field(lambda value: _is_number(value) and 0 <= value <= 1, "a number in [0, 1]"),
    "success_frame": Field(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
        "the number of a frame, counted from 0",
    ),
    "instructions": Field(
        lambda value: isinstance(value, list) and all(is_text(text) for text in value),
        "a list of non-empty instructions",
    ),
    "skill": Field(is_text, "a non-empty name"),
    "is_robot": Field(lambda value: isinstance(value, bool), "true or false"),
    "split": Field(is_text, "a non-empty name"),
    "metadata": Field(lambda value: isinstance(value, dict), "a JSON object"),
}
"""Of a line of `FILE_NAME`."""

_LABELLED: Final[Mapping[str, Field]] = {name: FIELDS[name] for name in ("video", "task", "instructions", "quality")}


class _Listed(NamedTuple):
    """A recording and what is said about it.

    Attributes:
        path: Where it is.
        tasks: Its instructions.
        values: The fields of its line; empty if it is not listed.
    """

    path: Path
    tasks: tuple[str, ...]
    values: Mapping[str, Any]


def read_videos(config: VideosConfig) -> Reading:
    """Reads the videos of a JSONL file in the order of its lines, or of a folder; the module describes the file.

    Ids consist of the data source, the path of the video and a fingerprint of the task, so they stay the same when
    lines are added or moved, and one video may be listed with several tasks.

    Raises:
        SourceError: There is no such file, or it does not consist of JSON objects, or says the tasks that are given.
    """
    path = config.path / FILE_NAME if config.path.is_dir() else config.path
    if config.task is None:
        found = [(line.name, partial(_listed_on, line, path.parent)) for line in read_lines(path)]
    elif path.is_file():
        raise SourceError(f"the tasks are said in {path}; leave out the option 'task'")
    else:
        videos = _listed_in(config.path, (config.task,))
        found = [(name, partial(videos.__getitem__, name)) for name in videos]
    shown: Orientation = Assumptions(config.path).orientation(config.orientation)

    def read(name: str, listed: Callable[[], _Listed]) -> Trajectory:
        return trajectory_of(_recorded(name, listed(), shown), Stated(config.data_source), _UNKNOWN)

    return (attempt(name, partial(read, name, listed)) for name, listed in found)


def _listed_on(line: Line, folder: Path) -> _Listed:
    return _read_line(check_record(line.record(), FIELDS), folder)


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


def _listed_in(folder: Path, tasks: tuple[str, ...]) -> dict[str, _Listed]:
    """The recordings directly in a folder, by their names."""
    videos = _recordings(folder) if folder.is_dir() else []
    if not videos:
        raise SourceError(f"{folder} holds neither a {FILE_NAME} nor videos")
    if not tasks:
        raise SourceError(f"{folder} has no {FILE_NAME} that says what the task is; give it")
    return {path.name: _Listed(inside(path.parent, path.name), tasks, {}) for path in videos}


def _read_line(values: Mapping[str, Any], folder: Path) -> _Listed:
    task = values["task"]
    tasks = (task, *(text for text in values.get("instructions", ()) if text != task))
    return _Listed(inside(folder, _video(values)), tasks, values)


def _video(values: Mapping[str, Any]) -> str:
    return PurePosixPath(values["video"]).as_posix()


def _recorded(key: str, listed: _Listed, orientation: Orientation) -> RecordedEpisode:
    frames, values = VideoFrames(listed.path, orientation), listed.values
    name = _video(values) if values else listed.path.name
    quality = values.get("quality")
    rate = {} if frames.fps is None else {"fps": frames.fps}
    facts: dict[str, Any] = {
        name: values[name] for name in ("is_robot", "partial_success", "skill", "split") if name in values
    }
    if quality is not None:
        facts["quality_label"] = quality
    return RecordedEpisode(
        key=key,
        tasks=listed.tasks,
        cameras={_CAMERA: frames},
        num_steps=len(frames) - 1,
        truncated=True,
        success=None if quality is None else quality == "successful",
        success_of_frames=_success(values, len(frames)),
        names=(name, text_fingerprint(listed.tasks[0])),
        facts=RecordedFacts(source=name, metadata=rate | values.get("metadata", {}), **facts),
    )


def _success(values: Mapping[str, Any], num_frames: int) -> NDArray[np.bool_] | None:
    """(T,) whether the task is done, None if nobody said when."""
    first = values.get("success_frame")
    if first is None:
        return None
    if values.get("quality") == "failure":
        raise RecordError(f"the field 'success_frame' is {first} and 'quality' is 'failure'; expected one of the two")
    if first >= num_frames:
        raise RecordError(f"the field 'success_frame' is {first}; the video has the frames 0 to {num_frames - 1}")
    return np.arange(num_frames) >= first


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
            self._listed = _listed_in(options.path, options.tasks)
            self._files = []
        self.keys = tuple(self._listed)

    def episode(self, key: str) -> RecordedEpisode:
        """See `RelabelDataset.episode`."""
        return _recorded(key, self._listed[key], self._orientation)

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

    def _from_lines(self, path: Path) -> dict[str, _Listed]:
        found: dict[str, _Listed] = {}
        skipped: list[Unreadable] = []
        for line in read_lines(path):
            try:
                record = line.record()
                values = check_record({name: record[name] for name in _LABELLED if name in record}, _LABELLED)
                listed = _read_line(values, path.parent)
            except ValueError as error:
                skipped.append(Unreadable(line.name, str(error)))
                continue
            # One video may be listed with several tasks.
            video = _video(values)
            tasks = self.options.tasks or listed.tasks
            key = video if video not in found else f"{video}#{text_fingerprint(tasks[0])}"
            if key in found:
                skipped.append(Unreadable(line.name, f"{video} is listed with this task before"))
            else:
                found[key] = listed._replace(tasks=tasks)
        self.skipped = tuple(skipped)
        return found


class _VideoWriter(DirectoryWriter):
    """Writes the folder of labels."""

    def __init__(self, dataset: VideoDataset, destination: Path) -> None:
        self.destination = destination
        self._dataset = dataset

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
    of_steps = (episode.rewards, episode.returns, episode.advantages)
    paid = [("", "", ""), *zip(*(map(repr, values.tolist()) for values in of_steps), strict=True)]
    success_detected = [0, *episode.success_detected.astype(int).tolist()]
    values = zip(seconds, episode.progress, episode.success, paid, success_detected, strict=True)
    for frame, (shown, progress, success, step, done) in enumerate(values):
        # The shortest decimals that read back as the same float32.
        yield video, task, frame, shown, str(progress), str(success), *step, done


def _recordings(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _RECORDINGS)
