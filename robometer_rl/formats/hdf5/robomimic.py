"""robomimic's data sets: one HDF5 file of demonstrations or rollouts, with images extracted from them.

Camera. robomimic stands its pictures upright before it stores them, unlike robosuite and LIBERO, so they are taken as
stored; other programs write the same structure upside down, for which there is the option ``orientation``. See
`robometer_rl.formats.hdf5.origin`.

Time. ``obs[t]`` is what was seen before action t, and ``rewards[t]`` judges the state after it. Where ``next_obs`` is
stored too, its last picture ends the episode, which then has one frame more than actions.

Outcome. robosuite pays 1 in every step in which the task is done, unless its environment was made with
``reward_shaping``; the file says which. Where it does not, and where nobody was ever paid, as in RoboCasa's files, the
outcome has to be told by ``quality``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from robometer_rl.data.reading import Reading
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.formats.assumptions import Assumptions
from robometer_rl.formats.hdf5.origin import camera_frames, episode_success, hanging_of, instruction_of
from robometer_rl.formats.hdf5.reader import Demonstration, read_demonstrations
from robometer_rl.formats.trajectories import outcome_of
from robometer_rl.video.lazy import Orientation

__all__ = ["RobomimicHDF5Config", "read_robomimic_hdf5"]

_UNKNOWN: Final = (
    "its rewards do not say whether it succeeded (shaped, missing, or 0 in every step of the file); say it with the "
    "option 'quality'"
)


@dataclass(frozen=True)
class RobomimicHDF5Config:
    """robomimic's data sets of images.

    Attributes:
        path: One HDF5 file, or a folder of them.
        task: The instruction of every episode; by default each episode's own, which RoboCasa writes and robomimic does
            not.
        camera: Which pictures, as in agentview_image or robot0_eye_in_hand_image.
        orientation: as_stored for pictures that are upright; flip reverses their rows; rotate turns them by
            180 degrees. By default upright, as far as the file says how they hang.
        quality: Outcome of every episode; by default as the rewards have it, unless they are shaped, missing, or 0 in
            every step of the file.
        skill: Who acted; expert if it heads for the goal all the time, as in proficient people's demonstrations.
        data_source: Tag of the data set.
    """

    path: Path
    task: str | None = None
    camera: str = "agentview_image"
    orientation: Orientation | None = None
    quality: QualityLabel | None = None
    skill: str | None = None
    data_source: str = "robomimic"


def read_robomimic_hdf5(config: RobomimicHDF5Config) -> Reading:
    """Reads the episodes of a data set by number; frames stay in the file.

    The lists ``mask/train`` and ``mask/valid``, where there are any, become the splits ``train`` and ``valid``.

    Raises:
        SourceError: There is no such file.
    """
    return read_demonstrations(config.path, partial(_read, config=config, assumed=Assumptions(config.path)))


def _read(demonstration: Demonstration, config: RobomimicHDF5Config, assumed: Assumptions) -> Trajectory:
    orientation = assumed.orientation(config.orientation, *hanging_of(demonstration))
    frames = camera_frames(demonstration, config.camera, orientation)
    outcome = outcome_of(episode_success(demonstration, len(frames)), config.quality, _UNKNOWN)
    name = demonstration.environment().get("env_name")
    return Trajectory(
        id=demonstration.episode_id(config.data_source, config.camera),
        task=config.task or instruction_of(demonstration).text,
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
