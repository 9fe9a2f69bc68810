"""RoboFAC: simulated and real robots that fail in many ways, and some that succeed, with questions and answers.

::

    training_qa.json                              [{id, video, conversations: [{from, value}, ...]}, ...]
    test_qa_sim/annos_per_video_split*.json       {id: {video, task, annos: {KIND: [{from, value}, ...]}}, ...}
    test_qa_realworld/annos_per_video_split*.json
    realworld_data/so100_TASK_error/**/*.mp4
    simulation_data/success_data/TASK/**/*.mp4, simulation_data/failure_data/TASK/**/*.mp4

Every video is a trajectory. Those of an episode by several cameras have one name in folders that are called after the
camera, ``observation.images.CAMERA`` or ``viewN``; they can be tiled. Instructions are the answers to the question what
task the robot is doing: that about the video, or else the most frequent one about videos of its task. Folders say the
outcome: ``success...``, or ``fail...``, ``forget...`` and ``..._error``.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from robometer_rl.data.reading import Reading, SourceError, attempt
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.data.video_frames import VideoFrames
from robometer_rl.documents import DocumentError, parse_json, read_text
from robometer_rl.files import inside
from robometer_rl.formats.conventions import Shown, one_or_several, views_of
from robometer_rl.formats.dataset import RecordedEpisode, RecordedFacts
from robometer_rl.formats.trajectories import Stated, trajectory_of

__all__ = ["RoboFACConfig", "read_robofac"]

_PLACES: Final = ("realworld_data", "simulation_data")
_TRAINING: Final = "training_qa.json"
_TESTS: Final = ("test_qa_sim", "test_qa_realworld")
_KIND: Final = "task identification"
_QUESTION: Final = "what task the robot is doing"
# Real robots' videos are numbered in every folder anew.
_REAL: Final = "so100_"
_NUMBERED: Final = re.compile(r"episode_\d+")
_FEATURE: Final = "observation.images."
_CAMERA: Final = re.compile(rf"{re.escape(_FEATURE)}.+|view\d+")
_VIDEO: Final = "video"  # what the only camera of an episode is called
_OUTCOMES: Final = ("success", "fail")
_UNKNOWN: Final = "its folders do not say whether it succeeded; say it with the option 'quality'"


@dataclass(frozen=True)
class RoboFACConfig:
    """RoboFAC: videos of robots that fail in many ways, and of some that succeed.

    Attributes:
        path: The data set, with realworld_data or simulation_data in it.
        camera: Cameras to read, as in above or view0, one trajectory each; all if none is named.
        tile: Show the cameras in one tiled picture, the first on top, for models that are trained on such.
        task: The instruction of every episode; by default what its questions and answers say.
        quality: Outcome of every episode; by default what its folders say.
        data_source: Tag of the data set.
    """

    path: Path
    camera: tuple[str, ...] = ()
    tile: bool = False
    task: str | None = None
    quality: QualityLabel | None = None
    data_source: str = "robofac"

    def __post_init__(self) -> None:
        one_or_several(self, "camera")


def read_robofac(config: RoboFACConfig) -> Reading:
    """Reads the videos in alphabetical order of their paths, of which ids consist.

    Raises:
        SourceError: There are no videos where the data set has them, none of a camera, one camera is to be tiled, or
            the questions and answers cannot be read.
    """
    videos = sorted(
        video.relative_to(config.path).as_posix() for place in _PLACES for video in (config.path / place).rglob("*.mp4")
    )
    if not videos:
        raise SourceError(f"{config.path} holds no videos in {' or '.join(_PLACES)}, as RoboFAC is published")
    episodes = _episodes(videos)
    there = sorted({camera for views in episodes.values() for camera in views})
    if missing := [camera for camera in config.camera if camera not in there]:
        raise SourceError(f"{config.path} has no camera {missing[0]!r}; it has {', '.join(there) or 'none'}")
    said = _Instructions.read(config.path)
    if config.tile:
        (shown,) = views_of(config.path, config.camera, tile=True)
        several = {name: views for name, views in episodes.items() if not views.keys().isdisjoint(shown)}
        return (
            attempt(name, lambda views=views: _read(config, _chosen(views, shown), said))
            for name, views in several.items()
        )
    wanted = {video for views in episodes.values() for camera, video in views.items() if camera in config.camera}
    chosen = [video for video in videos if not config.camera or video in wanted]
    return (attempt(video, lambda video=video: _read(config, {_VIDEO: video}, said)) for video in chosen)


def _episodes(videos: Iterable[str]) -> dict[str, dict[str, str]]:
    """The videos of each episode by camera; those in no folder of a camera are left out."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for video in videos:
        *folders, name = video.split("/")
        cameras = [number for number, folder in enumerate(folders) if _CAMERA.fullmatch(folder)]
        if cameras:
            folder = folders.pop(cameras[-1])
            found["/".join((*folders, name))][folder.removeprefix(_FEATURE)] = video
    return dict(found)


def _chosen(views: Mapping[str, str], shown: Shown) -> dict[str, str]:
    missing = [camera for camera in shown if camera not in views]
    if missing:
        raise SourceError(f"it has no camera {missing[0]!r}; it has {', '.join(views)}")
    return {camera: views[camera] for camera in shown}


def _read(config: RoboFACConfig, videos: Mapping[str, str], said: _Instructions) -> Trajectory:
    """An episode by its videos, one of each camera that it shows."""
    video = next(iter(videos.values()))
    task = config.task or said.of(PurePosixPath(video))
    if task is None:
        raise SourceError(
            f"neither {_TRAINING} nor {' nor '.join(_TESTS)} says what the robot was to do; say it with the option "
            "'task'"
        )
    cameras = {camera: VideoFrames(inside(config.path, each)) for camera, each in videos.items()}
    frames = next(iter(cameras.values()))
    facts = RecordedFacts(source=video, metadata={} if frames.fps is None else {"fps": frames.fps})
    quality = _quality(PurePosixPath(video))
    if quality is not None:
        facts["quality_label"] = quality
    episode = RecordedEpisode(
        key=video,
        tasks=(task,),
        cameras=cameras,
        num_steps=len(frames) - 1,
        names=(video.removesuffix(".mp4"), *(camera for camera in videos if len(videos) > 1)),
        facts=facts,
    )
    return trajectory_of(episode, Stated(config.data_source, config.quality), _UNKNOWN)


def _quality(video: PurePosixPath) -> QualityLabel | None:
    """What the folders of a video say of its outcome, the outermost first."""
    for folder in map(str.lower, video.parts[1:-1]):
        if folder.startswith("success"):
            return "successful"
        if folder.startswith(("fail", "forget")) or folder.endswith("error"):
            return "failure"
    return None


@dataclass(frozen=True)
class _Instructions:
    """What questions and answers say that robots were to do.

    Attributes:
        videos: By the name of a video.
        tasks: By the name of a task, how often which answer was given.
    """

    videos: dict[str, str] = field(default_factory=dict)
    tasks: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @classmethod
    def read(cls, root: Path) -> _Instructions:
        """All that the data set at ``root`` says."""
        found = cls()
        if (root / _TRAINING).is_file():
            for entry in _objects(root, _TRAINING):
                found.note(entry, _answer(entry.get("conversations"), _QUESTION))
        for folder in _TESTS:
            for path in sorted((root / folder).glob("*.json")):
                for entry in _objects(root, f"{folder}/{path.name}"):
                    kinds = entry.get("annos")
                    answers = kinds if isinstance(kinds, dict) else {}
                    turns = next((answers[kind] for kind in answers if kind.strip().lower() == _KIND), None)
                    found.note(entry, _answer(turns, ""))
        return found

    def note(self, entry: Mapping[str, Any], task: str | None) -> None:
        """Takes note of what was answered about a video."""
        video = entry.get("video")
        if task is None or not isinstance(video, str):
            return
        path = PurePosixPath(video)
        self.videos[_name(path)] = task
        known = entry.get("task")
        for name in (*path.parts[:-1], *([known] if isinstance(known, str) else [])):
            self.tasks[_task(name)][task] += 1

    def of(self, video: PurePosixPath) -> str | None:
        """The instruction of a video; None if nobody says it."""
        said = self.videos.get(_name(video))
        if said is not None:
            return said
        folders = (folder for folder in video.parts[1:-1] if not folder.lower().startswith(_OUTCOMES))
        counts = self.tasks.get(_task(next(folders, "")))
        return counts.most_common(1)[0][0] if counts else None


def _name(video: PurePosixPath) -> str:
    """What tells a video from others: its name, or where that is a number, its place too."""
    if not _NUMBERED.fullmatch(video.stem):
        return video.stem
    places = [number for number, folder in enumerate(video.parts) if folder.startswith(_REAL)]
    return "/".join(video.parts[places[0] if places else 0 :])


def _task(folder: str) -> str:
    """The task that a folder is called after: ``insertcylinder`` of ``so100_insert_cylinder_error``."""
    return folder.partition("-")[0].removeprefix(_REAL).removesuffix("_error").replace("_", "").lower()


def _objects(root: Path, name: str) -> Iterable[Mapping[str, Any]]:
    """The objects in a list, or in a mapping, of a JSON file."""
    try:
        content = parse_json(read_text(inside(root, name)))
    except DocumentError as error:
        raise SourceError(f"{root / name} cannot be read: {error}") from error
    if not isinstance(content, (list, dict)):
        raise SourceError(f"{root / name} is no list of questions and answers")
    entries = content.values() if isinstance(content, dict) else content
    return (entry for entry in entries if isinstance(entry, dict))


def _answer(turns: Any, question: str) -> str | None:
    """What is answered to a question in a conversation, in which words of it occur."""
    asked = False
    for turn in turns if isinstance(turns, list) else ():
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            continue
        if turn.get("from") == "human":
            asked = question in turn["value"].lower()
        elif asked and turn["value"].strip():
            return turn["value"].strip()
    return None
