"""ManiSkill's trajectories, as its recorder writes them: ``NAME.h5``, and beside it ``NAME.json`` about each episode.

::

    traj_0, traj_1, ...
      obs/sensor_data/CAMERA/rgb   uint8 (T + 1, H, W, 3); obs/image/CAMERA/rgb in ManiSkill 2
      obs/agent/qpos               (T + 1, D)
      actions                      (T, A)
      rewards                      (T,), if they were recorded
      success                      bool (T,), whether the task is done after each step

Pictures are upright. They are there if the environment was recorded, or the trajectories replayed, with pictures as
observations; what ManiSkill publishes holds actions and states only.

Time. F = T + 1.

Outcome. ``success`` of step t is about frame t + 1; the first frame counts as undone. Where it is missing, the word of
the JSON file counts, or ``quality`` has to be stated. Instructions are not recorded: ``task`` has to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import Reading, SourceError, Unreadable
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.documents import DocumentError, parse_json, read_text
from robometer_rl.formats.conventions import (
    Assumptions,
    Cameras,
    Shown,
    attempt_views,
    cameras_among,
    choose_cameras,
    one_or_several,
    views_of,
)
from robometer_rl.formats.dataset import DatasetOptions, RecordedEpisode, RecordedFacts
from robometer_rl.formats.hdf5.dataset import EpisodePlace, Layout
from robometer_rl.formats.hdf5.demonstrations import UNKNOWN_OUTCOME, find_files, frames_of
from robometer_rl.formats.hdf5.files import DAMAGE, Places, open_hdf5, original_rewards, read_array, read_values
from robometer_rl.formats.trajectories import Stated, trajectory_of
from robometer_rl.video.lazy import Orientation

if TYPE_CHECKING:
    import h5py

__all__ = ["ManiSkillConfig", "ManiSkillLayout", "read_maniskill"]

_SENSORS: Final = ("sensor_data", "image")  # of ManiSkill 3, and of 2
_PLACES: Final = Places("/", r"traj_\d+", "obs", "actions", beside=".json")
_LARGEST_SEED: Final = 2**63 - 1  # that every reader of a store can hold
_NO_PICTURES: Final = (
    "its observations hold no pictures; make some with ManiSkill's own replay: python -m "
    "mani_skill.trajectory.replay_trajectory --traj-path FILE --obs-mode rgb --save-traj"
)


@dataclass(frozen=True)
class ManiSkillConfig:
    """ManiSkill's trajectories (traj_0, traj_1, ... in HDF5), recorded or replayed with pictures.

    Attributes:
        path: One .h5 file, or a folder of them.
        task: The instruction of every episode, which ManiSkill does not record.
        camera: Sensors that hold the pictures, as in base_camera or hand_camera, one trajectory each; may be left out
            if there is one.
        tile: Show the cameras in one tiled picture, the first on top, for models that are trained on such.
        orientation: as_stored for pictures that are upright, which is taken for granted; flip reverses their rows;
            rotate turns them by 180 degrees.
        quality: Outcome of every episode; by default as it was recorded.
        skill: Who acted; expert if it heads for the goal all the time, as demonstrations do.
        data_source: Tag of the data set.
    """

    path: Path
    task: str | None = None
    camera: tuple[str, ...] = ()
    tile: bool = False
    orientation: Orientation | None = None
    quality: QualityLabel | None = None
    skill: str | None = None
    data_source: str = "maniskill"

    def __post_init__(self) -> None:
        one_or_several(self, "camera")


def read_maniskill(config: ManiSkillConfig) -> Reading:
    """Reads episodes by number, files in alphabetical order; frames stay in the files.

    Raises:
        SourceError: There is no such file, or nobody says what the task is.
    """
    tasks = _stated(config.path, (config.task,) if config.task else ())
    orientation = _orientation(config.path, config.orientation)
    return chain.from_iterable(_read_file(config, tasks, orientation, *place) for place in find_files(config.path))


def _read_file(
    config: ManiSkillConfig, tasks: tuple[str, ...], orientation: Orientation, path: Path, file_name: str
) -> list[Trajectory | Unreadable]:
    try:
        with open_hdf5(path) as file:
            names = _PLACES.names(file)
            notes = _read_notes(path.with_suffix(_PLACES.beside))
            reader = _Reader(tasks, orientation, path, file_name, file, notes)
            stated = Stated(config.data_source, config.quality, config.skill)
            found = _cameras(file, names)
            chosen = choose_cameras(path, found.names, config.camera, found.refused)
            views = views_of(path, chosen, config.tile)

            def read(name: str, shown: Shown) -> Trajectory:
                return trajectory_of(reader.read(name, shown), stated, UNKNOWN_OUTCOME)

            return [each for name in names for each in attempt_views(f"{path}#{name}", views, partial(read, name))]
    except (SourceError, *DAMAGE) as error:
        return [Unreadable(str(path), str(error))]


def _cameras(file: h5py.File, names: Sequence[str]) -> Cameras:
    """Those of the first trajectory that has any."""
    damage = _NO_PICTURES
    for name in names:
        try:
            found = cameras_among(
                {place.removesuffix("/rgb"): (item.shape, item.dtype) for place, item in _pictures(file, name).items()}
            )
            if found.names or found.refused:
                return found
        except DAMAGE as error:
            damage = f"{name} is damaged: {error}"
    raise SourceError(f"{file.filename}: {damage}")


def _pictures(file: h5py.File, name: str) -> dict[str, Any]:
    """The data sets of sensors of a trajectory, as in ``base_camera/rgb``."""
    import h5py

    group: Any = file[name]
    observations = group.get("obs") if isinstance(group, h5py.Group) else None
    if not isinstance(observations, h5py.Group):
        return {}
    sensors: Any = next((observations[each] for each in _SENSORS if each in observations), {})
    return {
        f"{camera}/{kind}": item
        for camera, kinds in sensors.items()
        if isinstance(kinds, h5py.Group)
        for kind, item in kinds.items()
        if isinstance(item, h5py.Dataset)
    }


class ManiSkillLayout(Layout):
    """ManiSkill's trajectories, to be labelled."""

    places = _PLACES

    def __init__(self, options: DatasetOptions) -> None:
        """Raises `SourceError` if nobody says what the task is."""
        self._tasks = _stated(options.path, options.tasks)
        self._orientation: Orientation = _orientation(options.path, options.orientation)
        self._notes: dict[Path, dict[str, Any]] = {}

    def cameras(self, file: h5py.File, place: EpisodePlace) -> Cameras:
        """See `Layout.cameras`."""
        return _cameras(file, [place.name])

    def episode(self, file: h5py.File, place: EpisodePlace, cameras: tuple[str, ...]) -> RecordedEpisode:
        """See `Layout.episode`."""
        path, file_name, name = place
        if path not in self._notes:
            self._notes[path] = _read_notes(path.with_suffix(_PLACES.beside))
        return _Reader(self._tasks, self._orientation, path, file_name, file, self._notes[path]).read(name, cameras)


def _stated(path: Path, tasks: tuple[str, ...]) -> tuple[str, ...]:
    if not tasks:
        raise SourceError(
            f"{path}: ManiSkill records no instructions; say what the robot is to do with the option 'task'"
        )
    return tasks


def _orientation(path: Path, stated: Orientation | None) -> Orientation:
    return Assumptions(path).orientation(stated, why="upright, as ManiSkill renders them")


def _number(name: str) -> int:
    return int(name.removeprefix("traj_"))


def _read_notes(path: Path) -> dict[str, Any]:
    """The JSON file beside the trajectories; empty if there is none.

    Raises:
        SourceError: It is something else.
    """
    if not path.exists():
        return {}
    try:
        notes = parse_json(read_text(path), nan=True)
    except DocumentError as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    episodes = notes.get("episodes") if isinstance(notes, dict) else None
    if not isinstance(episodes, list) or not all(isinstance(each, dict) for each in episodes):
        raise SourceError(f"{path} has no list of episodes, as ManiSkill writes one beside its trajectories")
    return notes


@dataclass(frozen=True)
class _Reader:
    """Reads trajectories while their file is open."""

    tasks: tuple[str, ...]
    orientation: Orientation
    path: Path
    file_name: str
    file: h5py.File
    notes: Mapping[str, Any]

    def read(self, name: str, shown: Shown) -> RecordedEpisode:
        """One of them, as some cameras show it."""
        pictures = _pictures(self.file, name)
        missing = [camera for camera in shown if f"{camera}/rgb" not in pictures]
        if missing:
            raise SourceError(f"it has no camera {missing[0]!r}; it has {', '.join(pictures) or 'none'}")
        frames = {camera: frames_of(self.path, pictures[f"{camera}/rgb"], self.orientation) for camera in shown}
        count = len(frames[shown[0]])
        noted = next((each for each in self.notes.get("episodes", ()) if each.get("episode_id") == _number(name)), {})
        success = self._success(name, count)
        seed = noted.get("episode_seed")
        facts = RecordedFacts(
            steps=np.arange(count),
            seed=seed if isinstance(seed, int) and 0 <= seed <= _LARGEST_SEED else None,
            proprioception=read_array(self.file, f"{name}/obs/agent/qpos"),
            actions=read_array(self.file, f"{name}/actions"),
            source=f"{self.file_name}#{name}",
            metadata=self._metadata(noted, shown),
        )
        said = noted["success"] if isinstance(noted.get("success"), bool) else None
        if success is None and said is not None:
            facts["quality_label"] = "successful" if said else "failure"
        ended = read_array(self.file, f"{name}/terminated")
        terminated = ended is not None and bool(ended[-1:].any())
        return RecordedEpisode(
            key=_PLACES.key(self.file_name, name),
            tasks=self.tasks,
            cameras=frames,
            num_steps=count - 1,
            task_rewards=original_rewards(_PLACES.group(self.file, name)),
            terminated=terminated,
            truncated=not terminated,
            success=said if success is None else bool(success.any()),
            success_of_frames=success,
            names=(str(PurePosixPath(self.file_name).with_suffix("")), name, *shown),
            facts=facts,
        )

    def _success(self, name: str, count: int) -> NDArray[np.bool_] | None:
        """(count,) whether the task is done in each frame."""
        group: Any = self.file[name]
        if "success" not in group:
            return None
        noted = read_values(group["success"]).astype(bool)
        if noted.shape != (count - 1,):
            raise SourceError(f"it has {count} pictures and success of shape {noted.shape}; expected ({count - 1},)")
        return np.append(False, noted)

    def _metadata(self, noted: Mapping[str, Any], shown: Shown) -> dict[str, Any]:
        environment = self.notes.get("env_info")
        found = {
            "env_id": environment.get("env_id") if isinstance(environment, dict) else None,
            "control_mode": noted.get("control_mode"),
            "source_type": self.notes.get("source_type"),
        }
        texts = {key: value for key, value in found.items() if isinstance(value, str)}
        return {"camera": ", ".join(shown), "frame_interval": 1} | texts
