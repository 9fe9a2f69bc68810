"""RoboArena's evaluations of policies on real robots, as its authors publish them.

::

    evaluation_sessions/
      SESSION/
        metadata.yaml                         language_instruction, and policies: {A: {policy_name, partial_success}}
        A_POLICY/NAME_left.mp4, NAME_right.mp4, NAME_wrist.mp4

An episode is what one policy did in a session. It has cameras to the left and to the right of the robot, and one at its
wrist; without a choice, those at its sides are read, as far as they are there. People graded how far it came, from 0 to
1; only a 1 is a success. The policy is noted as the skill.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from robometer_rl.data.reading import EPISODE_DAMAGE, Reading, SourceError, Unreadable, unreadable
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.data.video_frames import VideoFrames
from robometer_rl.documents import brief, read_text
from robometer_rl.files import inside
from robometer_rl.formats.conventions import Shown, attempt_views, one_or_several, views_of
from robometer_rl.formats.dataset import RecordedEpisode, RecordedFacts
from robometer_rl.formats.trajectories import Stated, trajectory_of
from robometer_rl.yaml_documents import parse_yaml

__all__ = ["RoboArenaConfig", "read_roboarena"]

_SESSIONS: Final = "evaluation_sessions"
_METADATA: Final = "metadata.yaml"
_AT_THE_SIDES: Final = ("left", "right")


@dataclass(frozen=True)
class RoboArenaConfig:
    """RoboArena: graded episodes of policies on real robots, seen by several cameras.

    Attributes:
        path: The data set, with evaluation_sessions in it; that folder; or one session.
        camera: left, right or wrist, one trajectory each; by default left and right, as far as they are there.
        tile: Show the cameras in one tiled picture, the first on top, for models that are trained on such.
        quality: Outcome of every episode; by default a partial success of 1 is a success, and any other a failure.
        data_source: Tag of the data set, as training and evaluation name it.
    """

    path: Path
    camera: tuple[str, ...] = ()
    tile: bool = False
    quality: QualityLabel | None = None
    data_source: str = "roboarena"

    def __post_init__(self) -> None:
        one_or_several(self, "camera")


def read_roboarena(config: RoboArenaConfig) -> Reading:
    """Reads the sessions in alphabetical order, in each the policies in their order.

    An id consists of the data source, the session, the policy and the camera. A session whose metadata cannot be read
    is listed once.

    Raises:
        SourceError: There are no sessions, or one camera is to be tiled.
    """
    folder = config.path / _SESSIONS if (config.path / _SESSIONS).is_dir() else config.path
    sessions = (
        [folder] if (folder / _METADATA).is_file() else sorted(each.parent for each in folder.glob(f"*/{_METADATA}"))
    )
    if not sessions:
        raise SourceError(
            f"{config.path} holds no {_SESSIONS}/SESSION/{_METADATA}, as RoboArena publishes them; it holds "
            f"{brief(sorted(each.name for each in folder.iterdir())) if folder.is_dir() else 'nothing'}"
        )
    views = views_of(config.path, config.camera, config.tile) if config.camera or config.tile else ()
    return _read_all(config, sessions, views)


def _read_all(config: RoboArenaConfig, sessions: list[Path], views: tuple[Shown, ...]) -> Reading:
    for session in sessions:
        try:
            episodes = list(_episodes(inside(session.parent, session.name)))
        except EPISODE_DAMAGE as error:
            yield unreadable(session.name, error)
            continue
        for episode in episodes:
            name = f"{session.name}/{episode.folder}"
            shown = views or tuple((camera,) for camera in _AT_THE_SIDES if camera in episode.videos)
            if not shown:
                yield Unreadable(name, f"it has no video of {' or '.join(_AT_THE_SIDES)}; {episode.held}")
            yield from attempt_views(name, shown, lambda cameras, episode=episode: episode.read(config, cameras))


@dataclass(frozen=True)
class _Episode:
    """What a policy did in a session."""

    session: Path
    folder: str
    task: str
    policy: str
    partial_success: float
    videos: Mapping[str, str]

    @property
    def held(self) -> str:
        """What cameras there are, in half a sentence."""
        return f"it has {', '.join(self.videos) or 'none'}"

    def read(self, config: RoboArenaConfig, cameras: Shown) -> Trajectory:
        """The episode as some cameras show it."""
        missing = [camera for camera in cameras if camera not in self.videos]
        if missing:
            raise SourceError(f"it has no camera {missing[0]!r}; {self.held}")
        paths = {camera: inside(self.session, f"{self.folder}/{self.videos[camera]}") for camera in cameras}
        frames = {camera: VideoFrames(path) for camera, path in paths.items()}
        first = frames[cameras[0]]
        name = f"{self.session.name}/{self.folder}"
        metadata: dict[str, Any] = {"session": self.session.name, "camera": ", ".join(cameras)}
        facts = RecordedFacts(
            quality_label="successful" if self.partial_success == 1 else "failure",
            partial_success=self.partial_success,
            skill=self.policy,
            source=name,
            metadata=metadata | ({} if first.fps is None else {"fps": first.fps}),
        )
        episode = RecordedEpisode(
            key=name,
            tasks=(self.task,),
            cameras=frames,
            num_steps=len(first) - 1,
            names=(self.session.name, self.folder, *cameras),
            facts=facts,
        )
        return trajectory_of(episode, Stated(config.data_source, config.quality))


def _episodes(session: Path) -> Iterator[_Episode]:
    """The episodes of a session by its metadata; `SourceError` if these are of something else."""
    metadata = parse_yaml(read_text(inside(session, _METADATA)))
    policies = metadata.get("policies") if isinstance(metadata, dict) else None
    task = metadata.get("language_instruction") if isinstance(metadata, dict) else None
    if not isinstance(policies, dict) or not isinstance(task, str):
        raise SourceError(f"its {_METADATA} is {brief(metadata)}; expected language_instruction and policies")
    for number, policy in policies.items():
        name, graded = (
            policy.get(key) if isinstance(policy, dict) else None for key in ("policy_name", "partial_success")
        )
        if not isinstance(name, str) or isinstance(graded, bool) or not isinstance(graded, (int, float)):
            raise SourceError(f"its policy {number} is {brief(policy)}; expected policy_name and partial_success")
        folder = f"{number}_{name}"
        found = sorted(each.name for each in inside(session, folder).glob("*.mp4"))
        videos = {video.removesuffix(".mp4").rpartition("_")[2]: video for video in found}
        yield _Episode(session, folder, task, name, float(graded), videos)
