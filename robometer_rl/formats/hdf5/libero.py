"""LIBERO's demonstrations: one HDF5 file per task, fifty teleoperated episodes each.

Camera. LIBERO stores its pictures upside down, so they are turned over: upright, as the camera sees the scene and as
this package's LIBERO environments draw it. ``orientation="rotate"`` turns them by 180 degrees, as policies of OpenVLA
and openpi see them: upright too, but with left and right exchanged. Files that say that they are upright as stored
(robosuite's ``IMAGE_CONVENTION = "opencv"``) are shown so. See `robometer_rl.formats.hdf5.origin`.

Time. LIBERO's script replays a demonstration and stores the picture *after* each action, without the first five, so
``rewards[t]`` belongs to frame t. It writes a reward of 1 into the last frame of every demonstration. Episodes of the
same structure whose rewards are all 0 are read as failures, and those without rewards as successful demonstrations,
unless ``quality`` says what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from robometer_rl.data.reading import Reading
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.formats.assumptions import Assumptions
from robometer_rl.formats.hdf5.origin import (
    camera_frames,
    environment_name,
    episode_success,
    hanging_of,
    instruction_of,
)
from robometer_rl.formats.hdf5.reader import Demonstration, read_demonstrations
from robometer_rl.formats.trajectories import outcome_of
from robometer_rl.video.lazy import Orientation

__all__ = ["LiberoHDF5Config", "read_libero_hdf5"]

# Demonstrations head for the goal, which is what this skill says of an episode.
_DEMONSTRATOR: Final = "expert"


@dataclass(frozen=True)
class LiberoHDF5Config:
    """LIBERO's demonstrations, as its authors publish them and its scripts write them.

    Attributes:
        path: One HDF5 file, or a folder of them, as in datasets/libero_90.
        task: The instruction of every episode; by default what the file says, or else its name.
        camera: Which pictures; eye_in_hand_rgb are those of the wrist.
        orientation: flip stands LIBERO's pictures upright; rotate turns them by 180 degrees, as some policies
            see them; as_stored leaves them. By default upright, as far as the file says how they hang.
        quality: Outcome of every episode; by default as the rewards have it, and successful where there are none.
        data_source: Tag of the data set.
    """

    path: Path
    task: str | None = None
    camera: str = "agentview_rgb"
    orientation: Orientation | None = None
    quality: QualityLabel | None = None
    data_source: str = "libero"


def read_libero_hdf5(config: LiberoHDF5Config) -> Reading:
    """Reads demonstrations, files in alphabetical order; frames stay in the files.

    Raises:
        SourceError: There is no such file.
    """
    return read_demonstrations(config.path, partial(_read, config=config, assumed=Assumptions(config.path)))


def _read(demonstration: Demonstration, config: LiberoHDF5Config, assumed: Assumptions) -> Trajectory:
    orientation = assumed.orientation(config.orientation, *hanging_of(demonstration))
    frames = camera_frames(demonstration, config.camera, orientation)
    success = episode_success(demonstration, len(frames))
    quality = config.quality
    if quality is None and success is None:
        assumed.say("episodes without rewards are taken for successful demonstrations; --quality says otherwise")
        quality = "successful"
    elif quality is None and success is not None and not success.any():
        assumed.say("episodes whose rewards are all 0 are taken for failures; --quality says otherwise")
    outcome = outcome_of(success, quality, "")
    return Trajectory(
        id=demonstration.episode_id(config.data_source, config.camera),
        task=config.task or _instruction(demonstration, assumed),
        frames=frames,
        quality_label=outcome.quality,
        data_source=config.data_source,
        success=outcome.success,
        skill=_DEMONSTRATOR if outcome.quality == "successful" else None,
        source=demonstration.source,
        metadata={"environment": environment_name(demonstration), "camera": config.camera} | demonstration.timing(),
    )


def _instruction(demonstration: Demonstration, assumed: Assumptions) -> str:
    found = instruction_of(demonstration)
    if found.is_name:
        assumed.say("instructions are made of the names of the files; --task says otherwise")
    return found.text
