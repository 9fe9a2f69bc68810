"""Your own videos: a folder of recordings and a JSONL file that says what each one shows.

::

    my_robot/
      videos.jsonl
      videos/pick_01.mp4, videos/pick_02.webm, videos/pick_03/0001.png, ...

Each line of ``videos.jsonl`` is a JSON object:

=================== =====================================================================================
``video``           Required. A video, GIF, ``.npz`` or folder of images, relative to the JSONL file
``task``            Required. The instruction that the robot was to follow
``quality``         Required. ``successful``, ``suboptimal`` or ``failure``
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
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import Reading, attempt
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.data.video_frames import VideoFrames
from robometer_rl.files import inside
from robometer_rl.formats.assumptions import Assumptions
from robometer_rl.formats.jsonl import Field, Line, RecordError, check_record, is_text, read_lines
from robometer_rl.formats.naming import episode_id, fingerprint
from robometer_rl.video.lazy import Orientation

__all__ = ["FIELDS", "FILE_NAME", "VideosConfig", "read_videos"]

FILE_NAME: Final = "videos.jsonl"


@dataclass(frozen=True)
class VideosConfig:
    """Your own videos, with a JSONL file of task, quality and partial success.

    Attributes:
        path: The JSONL file, or a folder with a videos.jsonl in it.
        orientation: "as_stored" for pictures that are upright, which is taken for granted; "flip" reverses their rows;
            "rotate" turns them by 180 degrees.
        data_source: Tag of the data set, as training and evaluation name it.
    """

    path: Path
    orientation: Orientation | None = None
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
    "quality": Field(
        lambda value: value in get_args(QualityLabel), f"one of {', '.join(get_args(QualityLabel))}", required=True
    ),
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


def read_videos(config: VideosConfig) -> Reading:
    """Reads the videos of a JSONL file in the order of its lines; the module describes the file.

    Ids consist of the data source, the path of the video and a fingerprint of the task, so they stay the same when
    lines are added or moved, and one video may be listed with several tasks.

    Raises:
        SourceError: There is no such file, or it does not consist of JSON objects.
    """
    path = config.path / FILE_NAME if config.path.is_dir() else config.path
    lines = read_lines(path)
    shown: Orientation = Assumptions(config.path).orientation(config.orientation)
    return (
        attempt(line.name, lambda line=line: _read_line(line, path.parent, config.data_source, shown)) for line in lines
    )


def _read_line(line: Line, folder: Path, data_source: str, orientation: Orientation) -> Trajectory:
    values = check_record(line.record(), FIELDS)
    video, task = PurePosixPath(values["video"]).as_posix(), values["task"]
    frames = VideoFrames(inside(folder, video), orientation)
    rate = {} if frames.fps is None else {"fps": frames.fps}
    return Trajectory(
        id=episode_id(data_source, video, fingerprint(task)),
        task=task,
        frames=frames,
        quality_label=values["quality"],
        data_source=data_source,
        is_robot=values.get("is_robot", True),
        partial_success=values.get("partial_success"),
        success=_success(values, len(frames)),
        instructions=tuple(text for text in values.get("instructions", ()) if text != task),
        skill=values.get("skill"),
        split=values.get("split", "train"),
        source=video,
        metadata=rate | values.get("metadata", {}),
    )


def _success(values: Mapping[str, Any], num_frames: int) -> NDArray[np.bool_] | None:
    """(T,) whether the task is done, None if nobody said when."""
    first = values.get("success_frame")
    if first is None:
        return None
    if values["quality"] == "failure":
        raise RecordError(f"the field 'success_frame' is {first} and 'quality' is 'failure'; expected one of the two")
    if first >= num_frames:
        raise RecordError(f"the field 'success_frame' is {first}; the video has the frames 0 to {num_frames - 1}")
    return np.arange(num_frames) >= first
