"""robomimic's data sets: one HDF5 file of demonstrations or rollouts, with images extracted from them.

Camera. robomimic stands its pictures upright before it stores them, unlike robosuite and LIBERO, so they are taken as
stored; other programs write the same structure upside down, for which there is the option ``orientation``.

Time. ``obs[t]`` is what was seen before action t, and ``rewards[t]`` judges the state after it. Where ``next_obs`` is
stored too, its last picture ends the episode, which then has one frame more than actions.

Outcome. robosuite pays 1 in every step in which the task is done, unless its environment was made with
``reward_shaping``; the file says which. Where it does not, the outcome has to be told by ``quality``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import Reading, SourceError
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.formats.hdf5.reader import Demonstration, HDF5Frames, Images, read_demonstrations
from robometer_rl.formats.outcomes import quality_of, success_of_frames
from robometer_rl.video.lazy import Orientation

__all__ = [
    "RobomimicHDF5Config",
    "has_sparse_rewards",
    "read_robomimic_hdf5",
    "robomimic_frames",
    "robomimic_instruction",
]


@dataclass(frozen=True)
class RobomimicHDF5Config:
    """robomimic's data sets of images.

    Attributes:
        path: One HDF5 file, or a folder of them.
        task: The instruction of every episode; by default each episode's own, which RoboCasa writes and robomimic does
            not.
        camera: Which pictures, as in agentview_image or robot0_eye_in_hand_image.
        orientation: as_stored for pictures that are upright; flip reverses their rows; rotate turns them by
            180 degrees.
        quality: Outcome of episodes whose rewards do not say it, because they are shaped or missing.
        skill: Who acted; expert if it heads for the goal all the time, as in proficient people's demonstrations.
        data_source: Tag of the data set.
    """

    path: Path
    task: str | None = None
    camera: str = "agentview_image"
    orientation: Orientation = "as_stored"
    quality: QualityLabel | None = None
    skill: str | None = None
    data_source: str = "robomimic"


def read_robomimic_hdf5(config: RobomimicHDF5Config) -> Reading:
    """Reads the episodes of a data set by number; frames stay in the file.

    The lists ``mask/train`` and ``mask/valid``, where there are any, become the splits ``train`` and ``valid``.

    Raises:
        SourceError: There is no such file.
    """
    return read_demonstrations(config.path, lambda demonstration: _read(demonstration, config))


class _Outcome(NamedTuple):
    quality: QualityLabel
    success: NDArray[np.bool_] | None  # (T,) per frame


def _read(demonstration: Demonstration, config: RobomimicHDF5Config) -> Trajectory:
    frames = robomimic_frames(demonstration, config.camera, config.orientation)
    outcome = _outcome(demonstration, len(frames), config.quality)
    name = demonstration.environment().get("env_name")
    return Trajectory(
        id=demonstration.episode_id(config.data_source, config.camera),
        task=config.task or robomimic_instruction(demonstration),
        frames=frames,
        quality_label=outcome.quality,
        data_source=config.data_source,
        success=outcome.success,
        steps=np.arange(len(frames)),
        skill=config.skill,
        split="valid" if "valid" in demonstration.splits else "train",
        source=demonstration.source,
        metadata={"camera": config.camera} | ({"env_name": name} if name else {}) | demonstration.timing(),
    )


def robomimic_frames(demonstration: Demonstration, camera: str, orientation: Orientation) -> HDF5Frames:
    """The frames of a camera: T, or T + 1 where ``next_obs`` is stored too.

    Raises:
        SourceError: There is no such camera, or ``next_obs`` does not go with ``obs``.
        FrameError: They are no colour images.
    """
    before, after = f"obs/{camera}", f"next_obs/{camera}"
    length, *image_shape = demonstration.images(before)
    parts = [Images(f"data/{demonstration.name}/{before}", 0, length)]
    if after in demonstration.group:
        following = demonstration.images(after)
        if following != (length, *image_shape):
            raise SourceError(f"{before!r} has shape {(length, *image_shape)} and {after!r} {following}")
        parts.append(Images(f"data/{demonstration.name}/{after}", length - 1, length))
    return HDF5Frames(demonstration.path, tuple(parts), tuple(image_shape), orientation)


def robomimic_instruction(demonstration: Demonstration) -> str:
    """What RoboCasa's files say of this episode; robomimic's own do not.

    Raises:
        SourceError: The file does not say it.
    """
    found = demonstration.json_attribute("ep_meta").get("lang")
    if not found:
        raise SourceError("the file holds no instruction; say what the robot is to do with the option 'task'")
    return found


def has_sparse_rewards(demonstration: Demonstration) -> bool:
    """Whether a reward above 0 means that the task is done."""
    return demonstration.environment_argument("reward_shaping") is False


def _outcome(demonstration: Demonstration, num_frames: int, quality: QualityLabel | None) -> _Outcome:
    rewards = demonstration.values("rewards")
    if rewards is None or not has_sparse_rewards(demonstration):
        if quality is None:
            raise SourceError("its rewards do not say whether it succeeded; say it with the option 'quality'")
        return _Outcome(quality, None)
    done = rewards > 0
    # With the state after the last action there is one frame more than rewards.
    success = success_of_frames(done) if len(done) == num_frames else np.append(False, done)
    return _Outcome(quality_of(success), success)
