"""AgiBot World, read out of its tar shards one after the other, without unpacking them.

Layout, as the cards of the data sets agibot-world/AgiBotWorld-Alpha and -Beta on the Hugging Face Hub describe it::

    task_info/task_327.json                     a list of episodes: episode_id, task_name, init_scene_text and
                                                label_info.action_config, a list of start_frame, end_frame,
                                                action_text and skill
    observations/327/648642-685046.tar          episodes of task 327 in the WebDataset layout:
        648642/videos/head_color.mp4            one video per camera, 30 frames per second
        648642/depth/head_depth_000000.png      skipped

Every episode gives one trajectory with the name of its task, and one for each annotated action with that action's text
and the frames from ``start_frame`` up to, but without, ``end_frame``. The robot is teleoperated and the data sets note
no outcomes: the quality of all trajectories is one option.

Pictures. ``head_color`` is the camera in the robot's head. Frames are taken as they are stored, which is upright,
unless ``orientation`` says otherwise.

Shards may stay where they are: a path like ``hf://datasets/agibot-world/AgiBotWorld-Beta`` is read through fsspec with
range requests, so that depth images and other cameras are never fetched. Videos are not held in memory either: a
trajectory remembers its place in the shard.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Annotated, Any, BinaryIO

import fsspec
import tyro

from robometer_rl.data.reading import EPISODE_DAMAGE, Reading, SourceError, Unreadable, attempt
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.documents import MAX_BYTES, DocumentError, brief, parse_json
from robometer_rl.formats.conventions import Assumptions, Shown, one_or_several, views_of
from robometer_rl.formats.dataset import RecordedEpisode, RecordedFacts
from robometer_rl.formats.trajectories import Stated, trajectory_of
from robometer_rl.streams import Window
from robometer_rl.video.decoding import TimedFrames, VideoIndex, index_video
from robometer_rl.video.lazy import Orientation

__all__ = ["AgiBotConfig", "TarMember", "read_agibot"]


@dataclass(frozen=True)
class AgiBotConfig:
    """AgiBot World in tar shards: whole episodes, and each annotated action of them.

    Attributes:
        path: Directory with task_info/ and observations/, or its address, as in
            hf://datasets/agibot-world/AgiBotWorld-Beta.
        camera: Videos to read, without their suffix, one trajectory each.
        tile: Show the cameras in one tiled picture, the first on top, for models that are trained on such.
        tasks: Numbers of the tasks to read; left out, all of which there are shards.
        orientation: "as_stored" for pictures that are upright, which is taken for granted; "flip" reverses their rows;
            "rotate" turns them by 180 degrees.
        quality: Quality label of all trajectories. AgiBot World notes no outcomes; demonstrations are taken for
            successful.
        data_source: Tag of the data set, as training and evaluation name it.
    """

    path: Annotated[str, tyro.conf.arg(metavar="PATH")]
    camera: tuple[str, ...] = ("head_color",)
    tile: bool = False
    tasks: tuple[int, ...] = ()
    orientation: Orientation | None = None
    quality: QualityLabel | None = None
    data_source: str = "agibotworld"

    def __post_init__(self) -> None:
        one_or_several(self, "camera")


@dataclass(frozen=True)
class TarMember:
    """A video inside an uncompressed tar file, read in place.

    Attributes:
        archive: Path or address of the tar file.
        name: Of the member.
        start: Its first byte in the archive.
        size: Its number of bytes.
    """

    archive: str
    name: str
    start: int
    size: int

    def open(self) -> BinaryIO:
        """See `robometer_rl.video.index.VideoSource.open`."""
        return io.BufferedReader(Window(_open(self.archive), self.start, self.size))  # type: ignore[return-value]

    def version(self) -> None:
        """See `robometer_rl.video.index.VideoSource.version`: not asked for, since the archive may be far away."""

    def __str__(self) -> str:
        return f"{self.archive}#{self.name}"


def read_agibot(config: AgiBotConfig) -> Reading:
    """Reads shards by number of their task, then by name; episodes in the order of the shard, whole before actions.

    An id consists of the data source, the task, the episode and the camera, and the number of the action. Unreadable
    are episodes without a description or with a damaged video, actions without a text or of fewer than two frames, the
    rest of a shard that breaks off, and the shards of a task whose description is damaged.

    Raises:
        SourceError: There are no shards there, none of a task that was asked for, or one camera is to be tiled.
    """
    views = views_of(config.path, config.camera, config.tile)
    files, root = fsspec.core.url_to_fs(config.path)
    shards: dict[int, list[str]] = {}
    for path in sorted(files.glob(f"{root}/observations/*/*.tar")):
        folder = PurePosixPath(path).parent.name
        if folder.isdecimal():
            shards.setdefault(int(folder), []).append(path)
    missing = sorted(set(config.tasks) - set(shards))
    if missing or not shards:
        wanted = f"of the tasks {missing}" if missing else "observations/TASK/*.tar"
        raise SourceError(
            f"{config.path} holds no shards {wanted}; expected task_info/ and observations/ of AgiBot World"
        )
    return _read_tasks(
        _Dataset(files, root, _with_assumptions(config), views),
        {task: shards[task] for task in config.tasks or sorted(shards)},
    )


def _with_assumptions(config: AgiBotConfig) -> AgiBotConfig:
    """The options, those that were left out filled in, which is said."""
    assumed = Assumptions(config.path)
    if config.quality is None:
        assumed.say("demonstrations are taken for successful, since no outcomes are noted; --quality says otherwise")
    return replace(config, orientation=assumed.orientation(config.orientation), quality=config.quality or "successful")


@dataclass(frozen=True)
class _Dataset:
    files: Any  # an fsspec file system
    root: str
    config: AgiBotConfig
    views: tuple[Shown, ...]

    def relative(self, path: str) -> str:
        return PurePosixPath(path).relative_to(self.root).as_posix()


def _read_tasks(dataset: _Dataset, shards: Mapping[int, list[str]]) -> Reading:
    for task, paths in shards.items():
        try:
            episodes = _episodes(dataset, task)
        except EPISODE_DAMAGE as error:
            yield Unreadable(
                f"task_info/task_{task}.json", f"not a list of episodes, so none of them is read: {error!r}"
            )
            continue
        for path in paths:
            yield from _read_shard(dataset, task, path, episodes)


def _episodes(dataset: _Dataset, task: int) -> dict[str, Mapping[str, Any]]:
    """Descriptions of episodes by their number, as text."""
    path = f"{dataset.root}/task_info/task_{task}.json"
    _check_file(dataset.files, path)
    with dataset.files.open(path, "rb") as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise DocumentError(f"it has more than {MAX_BYTES} bytes")
    return {str(episode["episode_id"]): episode for episode in parse_json(text.decode("utf-8"), nan=True)}


def _check_file(files: Any, path: str) -> None:
    """Raises `OSError` for a pipe or device of this machine, which would be waited for."""
    if (kind := files.info(path)["type"]) != "file":
        raise OSError(f"{path} is a {kind}; expected a file")


def _read_shard(dataset: _Dataset, task: int, path: str, episodes: Mapping[str, Mapping[str, Any]]) -> Reading:
    wanted = {f"videos/{camera}.mp4": camera for camera in dataset.config.camera}
    address, shard = dataset.files.unstrip_protocol(path), dataset.relative(path)
    held: set[str] = set()
    found: dict[str, dict[str, _Video]] = {}  # of episodes of which not all cameras have been met
    try:
        _check_file(dataset.files, path)
        with dataset.files.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                # The archive would remember every depth image that it has passed.
                archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
                number, *inside = PurePosixPath(member.name).parts or ("",)
                if inside[:1] == ["videos"]:
                    held.add(inside[-1].removesuffix(".mp4"))
                camera = wanted.get("/".join(inside))
                if camera is None:
                    continue
                source = f"{shard}#{member.name}"
                if not member.isreg():
                    yield Unreadable(source, "it is a link or another special entry of the shard; expected a video")
                    continue
                if number not in episodes:
                    yield Unreadable(source, f"task_info/task_{task}.json does not describe the episode {number}")
                    continue
                videos = found.setdefault(number, {})
                videos[camera] = _Video(TarMember(address, member.name, member.offset_data, member.size), source)
                for shown in dataset.views:
                    if camera in shown and videos.keys() >= set(shown):
                        chosen = {each: videos[each] for each in shown}
                        yield from _read_episode(_Episode(dataset.config, task, number, episodes[number], chosen))
                if len(videos) == len(wanted):
                    del found[number]
            # A header that is cut short ends the iteration like the empty block that every archive closes with.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it has no end mark")
        for camera in sorted(set(wanted.values()) - held):
            yield Unreadable(shard, f"it has no camera {camera!r}; it has {', '.join(sorted(held)) or 'no videos'}")
        for number, videos in found.items() if dataset.config.tile and held >= set(wanted.values()) else ():
            missing = next(camera for camera in wanted.values() if camera not in videos)
            yield Unreadable(f"{shard}#{number}", f"it has no camera {missing!r}; it has {', '.join(videos)}")
    # What tarfile makes of a damaged header is an error of any kind.
    except (*EPISODE_DAMAGE, tarfile.TarError) as error:
        yield Unreadable(shard, f"the shard breaks off or is damaged: {error!r}")


@dataclass(frozen=True)
class _Video:
    member: TarMember
    source: str


@dataclass(frozen=True)
class _Episode:
    config: AgiBotConfig
    task: int
    number: str
    record: Mapping[str, Any]
    videos: Mapping[str, _Video]

    @property
    def source(self) -> str:
        return next(iter(self.videos.values())).source

    def whole(self, indices: Mapping[str, VideoIndex]) -> Trajectory:
        length = min(map(len, indices.values()))
        return self._trajectory(indices, range(length), str(self.record.get("task_name", "")), (), {})

    def action(self, indices: Mapping[str, VideoIndex], number: int, action: Mapping[str, Any]) -> Trajectory:
        """The frames of one action under its own text; `SourceError` if it lacks a field."""
        try:
            text, start, end = action["action_text"], int(action["start_frame"]), int(action["end_frame"])
        except (KeyError, TypeError) as error:
            raise SourceError(
                f"action {number} lacks {error}; expected action_text, start_frame and end_frame"
            ) from error
        if not isinstance(text, str):
            raise SourceError(f"action {number} has the text {brief(text)}; expected a string")
        length = min(map(len, indices.values()))
        if not 0 <= start < end <= length:
            raise SourceError(f"action {number} is frames {start} to {end} of a video of {length}")
        notes = {"action": number, "start_frame": start, "end_frame": end, "action_skill": action.get("skill")}
        return self._trajectory(indices, range(start, end), text, (f"action{number:02d}",), notes)

    def _trajectory(
        self,
        indices: Mapping[str, VideoIndex],
        numbers: range,
        text: str,
        suffix: tuple[str, ...],
        notes: Mapping[str, Any],
    ) -> Trajectory:
        config, orientation = self.config, self.config.orientation or "as_stored"
        fps = next(iter(indices.values())).fps
        metadata = {
            "format": "agibot-world",
            "task_id": self.task,
            "episode_id": self.number,
            "camera": ", ".join(self.videos),
            **({} if fps is None else {"control_hz": fps, "frame_interval": 1}),
            "init_scene_text": self.record.get("init_scene_text"),
            **notes,
        }
        episode = RecordedEpisode(
            key=self.source,
            tasks=(text.strip(),),
            cameras={
                camera: TimedFrames(video.member, indices[camera], numbers, orientation)
                for camera, video in self.videos.items()
            },
            num_steps=len(numbers),
            names=(str(self.task), self.number, *self.videos, *suffix),
            facts=RecordedFacts(source="-".join((self.source, *suffix)), metadata=metadata),
        )
        return trajectory_of(episode, Stated(config.data_source, config.quality))


def _read_episode(episode: _Episode) -> Reading:
    """The whole episode, then its actions; one entry for the video if that is damaged."""
    try:
        indices = {camera: index_video(video.member) for camera, video in episode.videos.items()}
        actions: list[Mapping[str, Any]] = list(episode.record.get("label_info", {}).get("action_config", []))
    except (ValueError, OSError, AttributeError, TypeError) as error:
        yield Unreadable(episode.source, str(error))
        return
    yield attempt(episode.source, lambda: episode.whole(indices))
    for number, action in enumerate(actions):
        name = f"{episode.source}-action{number:02d}"
        yield attempt(name, lambda number=number, action=action: episode.action(indices, number, action))


def _open(address: str) -> BinaryIO:
    return fsspec.open(address, "rb").open()  # pyright: ignore[reportAttributeAccessIssue]
