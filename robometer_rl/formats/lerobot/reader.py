"""LeRobot datasets, v3.0 and v2.x, read without the lerobot package.

Pictures. One camera per reading, named as in ``meta/info.json`` (``observation.images.top``). LeRobot records them
upright; datasets converted from elsewhere keep the orientation that their converter gave them (those of LIBERO are
often turned by 180 degrees), hence the option ``orientation``.

Success. ``next.success`` says it where it was recorded; with ``success_reward``, a ``next.reward`` of at least that
much says it instead. ``next.done`` does not: it also marks the end of an episode that failed. What a row notes as
*next* is about the frame after it, see `robometer_rl.formats.trajectories`. Of a labelled copy the values from before
count. A dataset with neither column says nothing about success, and its quality has to be stated.

Not filled in: partial success, distances, seeds and simulator states, for which LeRobot has no agreed columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import Reading, SourceError, attempt
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.formats.assumptions import Assumptions
from robometer_rl.formats.cameras import choose_camera
from robometer_rl.formats.lerobot.columns import REWARD, SUCCESS, original_column
from robometer_rl.formats.lerobot.frames import TOLERANCE_S, episode_frames
from robometer_rl.formats.lerobot.layout import EpisodeRows, LeRobotEpisode, LeRobotLayout
from robometer_rl.formats.trajectories import episode_id, outcome_of, success_of_frames
from robometer_rl.frames import FrameSequence
from robometer_rl.video.lazy import Orientation

__all__ = ["LeRobotConfig", "read_lerobot"]


@dataclass(frozen=True)
class LeRobotConfig:
    """A LeRobot dataset, v3.0 or v2.x, in a local directory.

    Attributes:
        path: Directory of the dataset, with meta/info.json in it.
        task: The instruction of every episode; by default each episode's own.
        camera: The feature that holds the pictures, as in observation.images.top; may be left out if there is one.
        orientation: "as_stored" for pictures that are upright, which is taken for granted; "flip" reverses their rows;
            "rotate" turns them by 180 degrees.
        quality: Quality label of all episodes; left out, an episode is successful or a failure as it was recorded.
        success_reward: Reward in next.reward from which on a step counts as success, whatever next.success says.
        skill: Who acted; "expert" if every episode heads for its goal all the time, as demonstrations do.
        data_source: Tag of the data set, as training and evaluation name it; by default the name of the directory.
        tolerance_s: How far, in seconds, a frame of a video may be from the time of its row.
    """

    path: Path
    task: str | None = None
    camera: str | None = None
    orientation: Orientation | None = None
    quality: QualityLabel | None = None
    success_reward: float | None = None
    skill: str | None = None
    data_source: str | None = None
    tolerance_s: float = TOLERANCE_S


def read_lerobot(config: LeRobotConfig) -> Reading:
    """Reads the episodes of one camera in the order of the dataset.

    An id consists of the data source, the number of the episode and the camera. An episode is unreadable whose frames
    are missing or damaged, or whose instruction changes on the way: a trajectory has one.

    Raises:
        SourceError: Not a LeRobot dataset of a known version, no such camera or several without a choice, or nothing
            that says which episodes succeeded.
    """
    layout = LeRobotLayout(config.path)
    camera = choose_camera(config.path, layout.cameras, config.camera, layout.refused)
    outcome = _outcome_column(layout, config)
    orientation: Orientation = Assumptions(config.path).orientation(config.orientation)
    reader = _Reader(config, layout, camera, outcome, orientation)
    return (
        attempt(reader.name(position), lambda position=position: reader.read(layout[position]))
        for position in range(len(layout))
    )


def _outcome_column(layout: LeRobotLayout, config: LeRobotConfig) -> str | None:
    """The column that says which steps succeeded; None if the quality is stated instead."""
    # Of a labelled copy what was recorded counts, not what a model has seen in it.
    success, reward = (original_column(layout.features, name) for name in (SUCCESS, REWARD))
    if config.success_reward is not None:
        if reward is None:
            raise SourceError(f"{layout.root} has no next.reward to compare with {config.success_reward:g}")
        return reward
    if success is None and config.quality is None:
        raise SourceError(
            f"{layout.root} does not say which episodes succeeded: it has no next.success. State a quality "
            "('successful' for demonstrations), or a success_reward if next.reward is 1 at success"
        )
    return success


@dataclass(frozen=True)
class _Reader:
    config: LeRobotConfig
    layout: LeRobotLayout
    camera: str
    outcome: str | None
    orientation: Orientation

    @property
    def data_source(self) -> str:
        return self.config.data_source or self.config.path.resolve().name

    def name(self, position: int) -> str:
        return f"{self.config.path}#episode {position}"

    def read(self, episode: LeRobotEpisode) -> Trajectory:
        """One episode with its outcome, as far as the dataset knows it."""
        rows = self.layout.rows(episode, [self.outcome] if self.outcome else [])
        outcome = outcome_of(self._success(rows), self.config.quality, "it does not say whether it succeeded")
        return Trajectory(
            id=episode_id(self.data_source, f"{episode.index:06d}", self.camera.removeprefix("observation.images.")),
            task=self.config.task or self.layout.task(rows),
            frames=self._frames(episode, rows),
            quality_label=outcome.quality,
            data_source=self.data_source,
            success=outcome.success,
            steps=np.arange(len(rows)),
            skill=self.config.skill,
            split=self.layout.split_of(episode.index) or "train",
            source=f"{self.config.path.resolve().name}#episode {episode.index}",
            metadata=self._metadata(episode),
        )

    def _frames(self, episode: LeRobotEpisode, rows: EpisodeRows) -> FrameSequence:
        config = self.config
        return episode_frames(self.layout, episode, rows, self.camera, config.tolerance_s, self.orientation)

    def _success(self, rows: EpisodeRows) -> NDArray[np.bool_] | None:
        if self.outcome is None:
            return None
        noted = rows.values(self.outcome)
        if self.config.success_reward is not None:
            noted = noted >= self.config.success_reward
        return success_of_frames(noted.astype(bool))

    def _metadata(self, episode: LeRobotEpisode) -> dict[str, object]:
        metadata: dict[str, object] = {
            "format": f"lerobot {self.layout.version}",
            "episode_index": episode.index,
            "camera": self.camera,
            "control_hz": self.layout.fps,
            "frame_interval": 1,
        }
        robot = self.layout.info.get("robot_type")
        return metadata if robot is None else metadata | {"robot_type": robot}
