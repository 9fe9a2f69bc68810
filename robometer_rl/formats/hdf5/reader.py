"""HDF5 files of LIBERO and robomimic, to be imported or to be labelled.

Cameras are named as below ``obs``; an import makes a trajectory for each that is asked for, or tiles them. How pictures
hang, what was to be done and how it ended is found out in `robometer_rl.formats.hdf5.demonstrations`.

LIBERO stores its pictures upside down, so they are turned over: upright, as the camera sees the scene and as this
package's LIBERO environments draw it. ``orientation="rotate"`` turns them by 180 degrees, as policies of OpenVLA and
openpi see them: upright too, but with left and right exchanged. Files that say that they are upright as stored
(robosuite's ``IMAGE_CONVENTION = "opencv"``) are shown so. robomimic stands its pictures upright before it stores them;
other programs write the same structure upside down, for which there is the option ``orientation``.

Time. With ``next_obs``, as robomimic stores it on request, F = T + 1. Without it, as in LIBERO's files, F = T: step t
is the pair of ``obs[t]`` and ``actions[t]``, as those who train on such files read it, its reward is about
``obs[t + 1]``, and that of the last step is imputed.

Outcome. What the attribute ``success`` of an episode says counts, as Isaac Lab writes it. LIBERO's script writes a
reward of 1 into the last frame of every demonstration. In an import, episodes of the same structure whose rewards are
all 0 are failures, and those without rewards successful demonstrations, unless ``quality`` says what they are.
robosuite pays 1 in every step in which the task is done, unless its environment was made with ``reward_shaping``; the
file says which. Where it does not, and where nobody was ever paid, as in RoboCasa's files, the outcome of an import has
to be told by ``quality``. Both write ``dones`` at the end of every demonstration, so one is taken to be terminated if
its last step succeeded, and truncated otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from robometer_rl.data.reading import Reading, SourceError
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.formats.conventions import Assumptions, Cameras, Shown, one_or_several, views_of
from robometer_rl.formats.dataset import DatasetOptions, RecordedEpisode, RecordedFacts
from robometer_rl.formats.hdf5.dataset import EpisodePlace, Layout
from robometer_rl.formats.hdf5.demonstrations import (
    DEMONSTRATIONS,
    Demonstration,
    HDF5Frames,
    camera_frames,
    demonstration_in,
    environment_name,
    for_policies,
    hanging_of,
    instruction_of,
    read_demonstrations,
    stated_quality,
    success_in_frames,
    success_of_steps,
)
from robometer_rl.formats.hdf5.files import original_rewards
from robometer_rl.formats.trajectories import Stated, trajectory_of
from robometer_rl.video.lazy import Orientation

if TYPE_CHECKING:
    import h5py

__all__ = [
    "DemonstrationLayout",
    "LiberoHDF5Config",
    "RobomimicHDF5Config",
    "read_libero_hdf5",
    "read_robomimic_hdf5",
]

# Demonstrations head for the goal, which is what this skill says of an episode.
_DEMONSTRATOR: Final = "expert"
_UNKNOWN: Final = (
    "its rewards do not say whether it succeeded (shaped, missing, or 0 in every step of the file); say it with the "
    "option 'quality'"
)


@dataclass(frozen=True)
class LiberoHDF5Config:
    """LIBERO's demonstrations, as its authors publish them and its scripts write them.

    Attributes:
        path: One HDF5 file, or a folder of them, as in datasets/libero_90.
        task: The instruction of every episode; by default what the file says, or else its name.
        camera: Which pictures, one trajectory each; eye_in_hand_rgb are those of the wrist.
        tile: Show several cameras in one tiled picture, the first on top, for models that are trained on such.
        orientation: flip stands LIBERO's pictures upright; rotate turns them by 180 degrees, as some policies
            see them; as_stored leaves them. By default upright, as far as the file says how they hang.
        quality: Outcome of every episode; by default as the rewards have it, and successful where there are none.
        data_source: Tag of the data set.
    """

    path: Path
    task: str | None = None
    camera: tuple[str, ...] = ("agentview_rgb",)
    tile: bool = False
    orientation: Orientation | None = None
    quality: QualityLabel | None = None
    data_source: str = "libero"

    def __post_init__(self) -> None:
        one_or_several(self, "camera")


@dataclass(frozen=True)
class RobomimicHDF5Config:
    """robomimic's data sets of images, and what is laid out like them, as Isaac Lab's.

    Attributes:
        path: One HDF5 file, or a folder of them.
        task: The instruction of every episode; by default each episode's own, which RoboCasa and the attribute
            task_description hold and robomimic does not write.
        camera: Which pictures, one trajectory each, as in agentview_image or robot0_eye_in_hand_image.
        tile: Show several cameras in one tiled picture, the first on top, for models that are trained on such.
        orientation: as_stored for pictures that are upright; flip reverses their rows; rotate turns them by
            180 degrees. By default upright, as far as the file says how they hang.
        quality: Outcome of every episode; by default as its attribute success or else the rewards have it, unless they
            are shaped, missing, or 0 in every step of the file.
        skill: Who acted; expert if it heads for the goal all the time, as in proficient people's demonstrations.
        data_source: Tag of the data set.
    """

    path: Path
    task: str | None = None
    camera: tuple[str, ...] = ("agentview_image",)
    tile: bool = False
    orientation: Orientation | None = None
    quality: QualityLabel | None = None
    skill: str | None = None
    data_source: str = "robomimic"

    def __post_init__(self) -> None:
        one_or_several(self, "camera")


def read_libero_hdf5(config: LiberoHDF5Config) -> Reading:
    """Reads demonstrations, files in alphabetical order; frames stay in the files.

    Raises:
        SourceError: There is no such file.
    """
    read = partial(_read_libero, reader=_reader(config), config=config)
    return read_demonstrations(config.path, _views(config), read)


def _read_libero(demonstration: Demonstration, shown: Shown, reader: _Reader, config: LiberoHDF5Config) -> Trajectory:
    episode = reader.read(demonstration, shown)
    quality = config.quality
    if quality is None and episode.success is None:
        reader.assumed.say("episodes without rewards are taken for successful demonstrations; --quality says otherwise")
        quality = "successful"
    elif quality is None and not episode.success and "quality_label" not in episode.facts:
        reader.assumed.say("episodes whose rewards are all 0 are taken for failures; --quality says otherwise")
    is_demonstration = quality == "successful" or (quality is None and episode.success)
    metadata = {"environment": environment_name(demonstration), "camera": ", ".join(shown)} | demonstration.timing()
    facts = RecordedFacts(metadata=metadata) | for_policies(demonstration)
    episode = replace(episode, facts=episode.facts | facts)
    return trajectory_of(episode, Stated(config.data_source, quality, _DEMONSTRATOR if is_demonstration else None))


def read_robomimic_hdf5(config: RobomimicHDF5Config) -> Reading:
    """Reads the episodes of a data set by number; frames stay in the file.

    The lists ``mask/train`` and ``mask/valid``, where there are any, become the splits ``train`` and ``valid``.

    Raises:
        SourceError: There is no such file.
    """
    read = partial(_read_robomimic, reader=_reader(config), config=config)
    return read_demonstrations(config.path, _views(config), read)


def _read_robomimic(
    demonstration: Demonstration, shown: Shown, reader: _Reader, config: RobomimicHDF5Config
) -> Trajectory:
    episode = reader.read(demonstration, shown)
    name = demonstration.environment().get("env_name")
    facts = RecordedFacts(
        steps=np.arange(episode.num_frames),
        split="valid" if "valid" in demonstration.splits else "train",
        metadata={"camera": ", ".join(shown)} | ({"env_name": name} if name else {}) | demonstration.timing(),
    )
    stated = Stated(config.data_source, config.quality, config.skill)
    facts |= for_policies(demonstration)
    return trajectory_of(replace(episode, facts=episode.facts | facts), stated, _UNKNOWN)


def _reader(config: LiberoHDF5Config | RobomimicHDF5Config) -> _Reader:
    tasks = (config.task,) if config.task else ()
    options = DatasetOptions(config.path, config.camera, tasks, config.orientation)
    return _Reader(options, asks_outcome=config.quality is None)


def _views(config: LiberoHDF5Config | RobomimicHDF5Config) -> tuple[Shown, ...]:
    if not config.camera:
        raise SourceError(f"{config.path}: no camera is named; expected one at least")
    return views_of(config.path, config.camera, config.tile)


class DemonstrationLayout(Layout):
    """Demonstrations of LIBERO, robomimic and who writes like them, to be labelled."""

    places = DEMONSTRATIONS

    def __init__(self, options: DatasetOptions) -> None:
        self._reader = _Reader(options)

    def cameras(self, file: h5py.File, place: EpisodePlace) -> Cameras:
        """See `Layout.cameras`."""
        demonstration = demonstration_in(file, *place)
        self._reader.orientation(demonstration)
        return demonstration.cameras

    def episode(self, file: h5py.File, place: EpisodePlace, cameras: tuple[str, ...]) -> RecordedEpisode:
        """See `Layout.episode`."""
        return self._reader.read(demonstration_in(file, *place), cameras)


class _Reader:
    """Makes recorded episodes of demonstrations.

    Attributes:
        assumed: Says what is assumed about the data set.
    """

    def __init__(self, options: DatasetOptions, asks_outcome: bool = True) -> None:
        self.assumed = Assumptions(options.path)
        self._options = options
        self._asks_outcome = asks_outcome  # of attributes, which may hold anything; not where the user says it

    def read(self, demonstration: Demonstration, cameras: tuple[str, ...]) -> RecordedEpisode:
        """One episode with its outcome, as far as the file says it."""
        frames = {name: self._frames(demonstration, name) for name in cameras}
        num_frames = len(frames[cameras[0]])
        rewards = original_rewards(demonstration.group)
        done = success_of_steps(demonstration, rewards)
        quality = stated_quality(demonstration.group.attrs) if self._asks_outcome else None
        succeeded = None if done is None else bool(done.any())
        facts = RecordedFacts(source=f"{demonstration.file_name}#data/{demonstration.name}")
        if quality is not None:
            facts["quality_label"], succeeded = quality, quality == "successful"
        is_done_last = done is not None and bool(done[-1:].any())
        steps = demonstration.length("actions")
        return RecordedEpisode(
            key=DEMONSTRATIONS.key(demonstration.file_name, demonstration.name),
            tasks=self._options.tasks or (self._instruction(demonstration),),
            cameras=frames,
            num_steps=num_frames if steps is None else steps,
            task_rewards=rewards,
            terminated=is_done_last,
            truncated=not is_done_last,
            success=succeeded,
            success_of_frames=None if done is None else success_in_frames(demonstration, done, num_frames),
            names=(*demonstration.names, *cameras),
            facts=facts,
        )

    def orientation(self, demonstration: Demonstration) -> Orientation:
        """What stands the pictures upright, unless the user says something else."""
        return self.assumed.orientation(self._options.orientation, *hanging_of(demonstration))

    def _frames(self, demonstration: Demonstration, camera: str) -> HDF5Frames:
        return camera_frames(demonstration, camera, self.orientation(demonstration))

    def _instruction(self, demonstration: Demonstration) -> str:
        found = instruction_of(demonstration)
        if found.is_name:
            self.assumed.say("instructions are made of the names of the files; --task says otherwise")
        return found.text
