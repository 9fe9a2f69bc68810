"""RoboReward (arXiv 2601.00675) and data sets laid out like it: real-robot videos graded from 1 to 5.

::

    RoboReward/
      train/metadata.jsonl     {"file_name": "bridge/0001.mp4", "task": "put the pot in the sink", "reward": 3, ...}
      train/bridge/0001.mp4
      val/..., test/...

The reward grades the end of the episode: 1 is no success and 5 is perfect completion. It becomes the partial success
(reward - 1) / 4, and only a 5 counts as ``successful``; anything less is a ``failure``, as in the published training
data. Other fields of a line, such as ``gpt5_mini_check``, are kept as metadata.

The videos come from many robots and are taken as they are: the data set's authors chose the cameras and turned nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from robometer_rl.data.reading import Reading, SourceError, attempt
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.data.video_frames import VideoFrames
from robometer_rl.files import inside
from robometer_rl.formats.jsonl import Field, Line, check_record, is_text, read_lines
from robometer_rl.formats.trajectories import episode_id, fingerprint

__all__ = ["FILE_NAME", "RoboRewardConfig", "read_roboreward"]

FILE_NAME: Final = "metadata.jsonl"

_PREFIX: Final = "roboreward"
_BEST: Final = 5

# One of the collections is spelled otherwise wherever else it appears.
_SPELLINGS: Final[Mapping[str, str]] = {"robo_arena": "roboarena"}

_FIELDS: Final[Mapping[str, Field]] = {
    "file_name": Field(
        lambda value: is_text(value) and not PurePosixPath(value).is_absolute(),
        "the path of a video, relative to its metadata.jsonl",
        required=True,
    ),
    "task": Field(is_text, "a non-empty instruction", required=True),
    "reward": Field(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _BEST,
        f"a whole number from 1 to {_BEST}",
        required=True,
    ),
}


@dataclass(frozen=True)
class RoboRewardConfig:
    """RoboReward: graded videos of real robots, and data sets laid out like it.

    Attributes:
        path: The data set, whose folders become splits; one of these folders; or one metadata.jsonl.
    """

    path: Path


def read_roboreward(config: RoboRewardConfig) -> Reading:
    """Reads the videos of every split, splits in alphabetical order, each in the order of its lines.

    The data source is ``roboreward_`` and the first folder in the name of the video, as in ``roboreward_bridge``. Ids
    consist of split, name and a fingerprint of the task.

    Raises:
        SourceError: There is no ``metadata.jsonl``, or one does not consist of JSON objects.
    """
    listed = [(path, line) for path in _metadata_files(config.path) for line in read_lines(path)]
    return (attempt(line.name, lambda path=path, line=line: _read_line(line, path.parent)) for path, line in listed)


def _metadata_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if (path / FILE_NAME).exists():
        return [path / FILE_NAME]
    found = sorted(path.glob(f"*/{FILE_NAME}"))
    if not found:
        raise SourceError(f"there is no {FILE_NAME} in {path} or in a folder of it; expected one for each split")
    return found


def _read_line(line: Line, folder: Path) -> Trajectory:
    record = line.record()
    values = check_record({name: record[name] for name in _FIELDS if name in record}, _FIELDS)
    video, task, reward = PurePosixPath(values["file_name"]), values["task"], values["reward"]
    split = folder.resolve().name
    collection = _SPELLINGS.get(video.parts[0], video.parts[0])
    frames = VideoFrames(inside(folder, video.as_posix()))
    rate = {} if frames.fps is None else {"fps": frames.fps}
    return Trajectory(
        id=episode_id(_PREFIX, split, video.as_posix(), fingerprint(task)),
        task=task,
        frames=frames,
        quality_label="successful" if reward == _BEST else "failure",
        data_source=_PREFIX if len(video.parts) == 1 else f"{_PREFIX}_{collection}",
        partial_success=(reward - 1) / (_BEST - 1),
        split=split,
        source=f"{split}/{video.as_posix()}",
        metadata={name: value for name, value in record.items() if name not in ("file_name", "task")} | rate,
    )
