"""Minari data sets whose observations or infos hold pictures.

Camera. Minari stores what an environment returned and says nothing about how it hangs: pictures are taken as stored
unless ``orientation`` says otherwise.

Time. An episode of T steps has T + 1 observations, the first of which is the reset's. Infos have T + 1 entries if those
of the reset were recorded too (`minari.DataCollector` does so), else T, which belong to the observations after the
first. Frames that were rendered into the infos follow the same rule.

Outcome. An episode is successful if ``is_success``, else ``success``, is true in the infos of any step, and a failure
if it is in none, see `robometer_rl.true_success`. Where neither was recorded, the outcome is told by ``quality``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import EPISODE_DAMAGE, Reading, SourceError, attempt
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.documents import read_text
from robometer_rl.files import check_regular, inside
from robometer_rl.formats.assumptions import Assumptions
from robometer_rl.formats.minari.arrow import arrow_infos, check_episode
from robometer_rl.formats.minari.layout import (
    StoredPictures,
    find,
    has_hdf5_storage,
    read_facts,
    read_pictures,
    stored_pictures,
)
from robometer_rl.formats.trajectories import episode_id, outcome_of
from robometer_rl.true_success import find_success, read_steps
from robometer_rl.video.lazy import LazyFrames, Orientation

if TYPE_CHECKING:
    import minari

__all__ = [
    "MinariConfig",
    "MinariFrames",
    "episode_facts",
    "episode_metadata",
    "episode_success",
    "minari_instruction",
    "open_minari",
    "read_minari",
    "stored_episode",
]

_LARGEST_SEED = 2**63 - 1
# Minari asserts, or takes for granted, what its files hold.
_MINARI_ERRORS = (AssertionError, AttributeError, StopIteration)
_UNKNOWN = "its infos do not say whether it succeeded; say it with the option 'quality'"


@dataclass(frozen=True)
class MinariConfig:
    """A local Minari data set with pictures in it.

    Attributes:
        path: Directory of the data set, as in ~/.minari/datasets/D4RL/door/human-v2.
        frames: Where the pictures are: obs (the observation is one), obs/KEY or info/KEY, as for the wrappers; at
            any depth, as in obs/pixels/top, and by number in a tuple, as in obs/0.
        task: The instruction of every episode; by default what the metadata of the episode, or of the data set, hold
            as task.
        orientation: as_stored for pictures that are upright, which is taken for granted; flip reverses their rows;
            rotate turns them by 180 degrees.
        quality: Outcome of every episode; by default what success or is_success in its infos say.
        skill: Who acted; expert if it heads for the goal all the time.
        data_source: Tag of the data set; its Minari id by default.
    """

    path: Path
    frames: str = "obs"
    task: str | None = None
    orientation: Orientation | None = None
    quality: QualityLabel | None = None
    skill: str | None = None
    data_source: str | None = None

    def __post_init__(self) -> None:
        kind, *names = self.frames.split("/")
        if kind not in ("obs", "info") or not all(names) or (kind == "info" and not names):
            raise ValueError(f"got frames={self.frames!r}; expected 'obs', 'obs/KEY' or 'info/KEY', at any depth")


class MinariFrames(LazyFrames):
    """Frames that stay in a Minari data set until somebody asks for them.

    In HDF5, Minari's usual storage, only the chosen frames are read. In its other storages, Arrow and Parquet, an
    episode can only be read whole, so the one that was read last is remembered, one per process. An object holds no
    frames and no open file.

    Attributes:
        path: The folder with the data.
        episode: Number of the episode.
        key: Where the pictures are, see `MinariConfig.frames`.
    """

    def __init__(self, path: Path, episode: int, key: str, orientation: Orientation) -> None:
        """Reads a frame, or in other storages than HDF5 the episode once.

        Raises:
            SourceError: The episode has no such pictures.
            FrameError: They are not RGB images.
        """
        self.path = path
        self.episode = episode
        self.key = key
        self._is_hdf5 = has_hdf5_storage(path)
        stored = stored_pictures(path, episode, key) if self._is_hdf5 else self._in_memory()
        if not stored.shape or not stored.shape[0]:
            raise SourceError(f"{key!r} has no pictures in this episode")
        image_shape = self._read(np.zeros(1, np.int64)).shape[1:] if stored.is_encoded else stored.shape[1:]
        super().__init__((stored.shape[0], *image_shape), orientation, stored.dtype)

    def __str__(self) -> str:
        return f"{self.path}, episode {self.episode}, {self.key}"

    def _read(self, rows: NDArray[np.int64]) -> Any:
        if self._is_hdf5:
            return read_pictures(self.path, self.episode, self.key, rows)
        return np.asarray(self._pictures())[rows]

    def _in_memory(self) -> StoredPictures:
        pictures = np.asarray(self._pictures())
        return StoredPictures(pictures.shape, pictures.dtype, is_encoded=False)

    def _pictures(self) -> Any:
        content = stored_episode(self.path, self.episode)
        return find({"obs": content["observations"], "info": content["infos"] or {}}, self.key)


def read_minari(config: MinariConfig) -> Reading:
    """Reads the episodes of a data set by number.

    Raises:
        SourceError: There is no data set, or one that this version of Minari does not read.
        ImportError: Minari is not installed.
    """
    dataset = open_minari(config.path)
    orientation: Orientation = Assumptions(config.path).orientation(config.orientation)
    return (
        attempt(
            f"{config.path}, episode {episode}", lambda episode=episode: _read(dataset, episode, config, orientation)
        )
        for episode in dataset.episode_indices.tolist()
    )


def open_minari(path: Path) -> minari.MinariDataset:
    """The data set in the directory ``path``, or in its folder ``data``.

    Raises:
        SourceError: There is none, or one that this version of Minari does not read.
        ImportError: Minari is not installed.
    """
    try:
        import minari
    except ImportError as error:
        raise ImportError(f'reading {path} needs minari: pip install "robometer-rl[minari]"') from error
    folder = path / "data" if (path / "data").is_dir() else path
    try:
        # Minari would wait for a pipe, and read what has no end.
        read_text(inside(folder, "metadata.json"))
        if (folder / "main_data.hdf5").exists():
            check_regular(inside(folder, "main_data.hdf5"))
        return minari.MinariDataset(folder)
    # Minari asserts, or takes for granted, what its metadata hold.
    except (ValueError, KeyError, AssertionError, OSError, RecursionError) as error:
        raise SourceError(f"{path} is not a Minari data set that can be read: {error!r}") from error


def episode_facts(path: Path, episode: int) -> Mapping[str, Any]:
    """``rewards``, ``terminations``, ``truncations`` (T,) and ``infos`` of an episode.

    In HDF5, pictures are left out and not read.

    Raises:
        SourceError: It is incomplete or damaged.
    """
    return read_facts(path, episode) if has_hdf5_storage(path) else stored_episode(path, episode)


# Frames are copied right after an episode was opened. One episode bounds the memory.
@lru_cache(maxsize=1)
def stored_episode(path: Path, episode: int) -> Mapping[str, Any]:
    """All of an episode as Minari's storage returns it; the last one is remembered.

    Raises:
        SourceError: It is incomplete or damaged.
    """
    try:
        storage = open_minari(path).storage
        infos = None if has_hdf5_storage(path) else arrow_infos(check_episode(path, episode))
        content = next(iter(storage.get_episodes([episode])))
    except (*EPISODE_DAMAGE, *_MINARI_ERRORS) as error:
        raise SourceError(f"episode {episode} of {path} is incomplete or damaged: {error}") from error
    return content if infos is None else {**content, "infos": infos}


def _read(dataset: minari.MinariDataset, episode: int, config: MinariConfig, orientation: Orientation) -> Trajectory:
    folder = Path(dataset.storage.data_path)
    frames = MinariFrames(folder, episode, config.frames, orientation)
    content = episode_facts(folder, episode)
    metadata = episode_metadata(dataset, episode)
    steps = _steps(content, len(frames))
    outcome = outcome_of(episode_success(content, steps), config.quality, _UNKNOWN)
    seed = metadata.get("seed")
    source = dataset.env_spec
    return Trajectory(
        id=episode_id(config.data_source or dataset.id, f"episode_{episode}", config.frames),
        task=minari_instruction(dataset, metadata, config.task),
        frames=frames,
        quality_label=outcome.quality,
        data_source=config.data_source or dataset.id,
        success=outcome.success,
        steps=steps,
        skill=config.skill,
        # Minari draws seeds of 64 bits, which not every reader of a store can hold.
        seed=None if seed is None or seed > _LARGEST_SEED else int(seed),
        source=f"{dataset.id}#episode_{episode}",
        metadata={"frames": config.frames, "frame_interval": 1} | ({} if source is None else {"env_id": source.id}),
    )


def episode_metadata(dataset: minari.MinariDataset, episode: int) -> dict[str, Any]:
    """What Minari notes of an episode beside its arrays.

    Raises:
        SourceError: It is incomplete or damaged.
    """
    try:
        return dict(next(iter(dataset.storage.get_episode_metadata([episode]))))
    except (*EPISODE_DAMAGE, *_MINARI_ERRORS) as error:
        raise SourceError(f"the metadata of episode {episode} are incomplete or damaged: {error!r}") from error


def minari_instruction(dataset: minari.MinariDataset, episode_metadata: Mapping[str, Any], task: str | None) -> str:
    """The instruction of an episode: ``task`` if it is given, else what was stored with the episode or the data set.

    Raises:
        SourceError: None was stored.
    """
    found = task or episode_metadata.get("task") or dataset.storage.metadata.get("task")
    if not found:
        raise SourceError("the metadata hold no instruction; say what the robot is to do with the option 'task'")
    return str(found)


def _steps(episode: Mapping[str, Any], num_frames: int) -> NDArray[np.int64]:
    """(T,) steps since the reset, whose own picture may be missing among those that were rendered."""
    num_steps = len(episode["rewards"])
    if num_frames not in (num_steps, num_steps + 1):
        raise SourceError(f"there are {num_frames} pictures of {num_steps} steps; expected one for each, or one more")
    return np.arange(num_steps + 1)[-num_frames:]


def episode_success(episode: Mapping[str, Any], steps: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """(T,) at ``steps``; the task counts as undone after the reset if its info was not recorded."""
    infos = episode["infos"] or {}
    key = find_success(infos)
    if key is None:
        return None
    said = read_steps(key, infos[key])
    if all(value is None for value in said):
        return None
    done = np.array([bool(value) for value in said])
    num_steps = len(episode["rewards"])
    if len(done) not in (num_steps, num_steps + 1):
        raise SourceError(f"infos hold {len(done)} values of {key!r} for {num_steps} steps")
    return (done if len(done) > num_steps else np.append(False, done))[steps]
