"""Minari data sets whose observations or infos hold pictures, to be imported or to be labelled.

Camera. ``obs`` where the observation is the picture, ``obs/KEY`` or ``info/KEY``, at any depth. Minari stores what an
environment returned and says nothing about how it hangs: pictures are taken as stored unless ``orientation`` says
otherwise.

Time. An episode of T steps has T + 1 observations, the first of which is the reset's. Infos have T + 1 entries if those
of the reset were recorded too (`minari.DataCollector` does so), else T, which belong to the observations after the
first. Frames that were rendered into the infos follow the same rule; without the picture of the reset, in which the
first step begins, they can be imported and not be labelled.

Outcome. An episode is successful if ``is_success``, else ``success``, is true in the infos of any step, and a failure
if it is in none, see `robometer_rl.true_success`. Where neither was recorded, the outcome of an import is told by
``quality``.

Memory. Of data sets in HDF5, Minari's usual storage, a few pictures are read at a time. Those in Arrow and Parquet are
read an episode at a time, as Minari reads them, so that one episode must fit into memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import EPISODE_DAMAGE, Reading, SourceError
from robometer_rl.data.trajectory import DISCRETE_ACTIONS, QualityLabel
from robometer_rl.documents import parse_json, read_text
from robometer_rl.extras import require
from robometer_rl.files import check_regular, inside
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
from robometer_rl.formats.dataset import (
    DatasetOptions,
    EpisodeError,
    LabelWriter,
    RecordedEpisode,
    RecordedFacts,
    RelabelDataset,
    StoredLabels,
    WriteMode,
    fingerprint,
)
from robometer_rl.formats.minari.labels import ORIGINAL_REWARDS, MinariWriter, provenance_in, read_labels
from robometer_rl.formats.minari.layout import (
    HDF5_FILE,
    METADATA_FILE,
    StoredPictures,
    arrow_infos,
    check_episode,
    data_folder,
    find,
    has_hdf5_storage,
    info_arrays,
    leaves,
    read_actions,
    read_facts,
    read_pictures,
    stored_pictures,
)
from robometer_rl.formats.trajectories import Stated, trajectory_of
from robometer_rl.true_success import find_success, read_steps
from robometer_rl.video.lazy import LazyFrames, Orientation

if TYPE_CHECKING:
    import minari

__all__ = [
    "MinariConfig",
    "MinariFrames",
    "MinariLabelDataset",
    "episode_facts",
    "episode_metadata",
    "is_format",
    "open_dataset",
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
            any depth, as in obs/pixels/top, and by number in a tuple, as in obs/0. Several make a trajectory each.
        tile: Show several in one tiled picture, the first on top, for models that are trained on such.
        task: The instruction of every episode; by default what the metadata of the episode, or of the data set, hold
            as task.
        orientation: as_stored for pictures that are upright, which is taken for granted; flip reverses their rows;
            rotate turns them by 180 degrees.
        quality: Outcome of every episode; by default what success or is_success in its infos say.
        skill: Who acted; expert if it heads for the goal all the time.
        data_source: Tag of the data set; its Minari id by default.
    """

    path: Path
    frames: tuple[str, ...] = ("obs",)
    tile: bool = False
    task: str | None = None
    orientation: Orientation | None = None
    quality: QualityLabel | None = None
    skill: str | None = None
    data_source: str | None = None

    def __post_init__(self) -> None:
        one_or_several(self, "frames")
        for place in self.frames:
            kind, *names = place.split("/")
            if kind not in ("obs", "info") or not all(names) or (kind == "info" and not names):
                raise ValueError(f"got frames={place!r}; expected 'obs', 'obs/KEY' or 'info/KEY', at any depth")
        if not self.frames:
            raise ValueError("got no frames; expected 'obs', 'obs/KEY' or 'info/KEY', at any depth")


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
    options = DatasetOptions(config.path, config.frames, (config.task,) if config.task else (), config.orientation)
    reader = _Reader(dataset, options, is_import=True)
    views = views_of(config.path, config.frames, config.tile)
    stated = Stated(config.data_source or dataset.id, config.quality, config.skill)
    return chain.from_iterable(
        attempt_views(
            f"{config.path}, episode {number}",
            views,
            lambda shown, number=number: trajectory_of(reader.read(number, shown), stated, _UNKNOWN),
        )
        for number in dataset.episode_indices.tolist()
    )


def is_format(path: Path) -> bool:
    """Whether ``path`` is the directory of a Minari data set, or its folder ``data``."""
    try:
        content = parse_json(read_text(data_folder(path) / METADATA_FILE), nan=True)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "minari_version" in content


def open_dataset(options: DatasetOptions) -> MinariLabelDataset:
    """Opens a local data set; see `MinariLabelDataset`."""
    return MinariLabelDataset(options)


class MinariLabelDataset(RelabelDataset):
    """A local Minari data set, see `RelabelDataset`.

    Attributes:
        folder: Where its files are.
        numbers: Number of each episode by its key.
    """

    format = "minari"

    def __init__(self, options: DatasetOptions) -> None:
        """Reads the metadata, and the first episode if observations hold no pictures.

        Raises:
            SourceError: No data set that this version of Minari reads, no such camera, or several without a choice.
            ImportError: The extra ``minari`` is not installed.
        """
        self.options = options
        self.folder = data_folder(options.path)
        self._dataset = open_minari(self.folder)
        self.numbers = {f"episode_{number}": int(number) for number in self._dataset.episode_indices}
        if not self.numbers:
            raise SourceError(f"{options.path} has no episodes")
        self.keys = list(self.numbers)
        found = self._available_cameras()
        self.cameras = choose_cameras(options.path, found.names, options.cameras, found.refused)
        self._reader = _Reader(self._dataset, options)

    def episode(self, key: str) -> RecordedEpisode:
        """See `RelabelDataset.episode`."""
        return self._reader.read(self.numbers[key], self.cameras)

    def stored_labels(self, key: str) -> StoredLabels | None:
        """See `RelabelDataset.stored_labels`."""
        content = episode_facts(self.folder, self.numbers[key])
        labels = read_labels(key, np.asarray(content["rewards"], np.float64), content["infos"] or {})
        return None if labels is None else StoredLabels(labels, provenance_in(self.folder))

    def fingerprint(self) -> str:
        """See `RelabelDataset.fingerprint`."""
        return fingerprint(self.keys, sorted(path for path in self.folder.rglob("*") if path.is_file()))

    def writer(self, mode: WriteMode, output: Path | None = None) -> LabelWriter:
        """See `RelabelDataset.writer`.

        Raises:
            SourceError: The name of ``output`` does not end in a version, as in ``human-v3``.
        """
        return MinariWriter(self._dataset.id, self.folder, self.numbers, output)

    def _available_cameras(self) -> Cameras:
        asked = tuple(name for name in self.options.cameras if name.startswith("info/"))
        names, refused = cameras_among(_arrays_of(self._dataset.observation_space, "obs"))
        if names or asked:
            return Cameras((*names, *asked), refused)
        in_infos = cameras_among(self._info_arrays())
        return Cameras(in_infos.names, {**refused, **in_infos.refused})

    def _info_arrays(self) -> Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Of the first episode that can be read."""
        damage = ""
        for number in self.numbers.values():
            try:
                if has_hdf5_storage(self.folder):
                    return info_arrays(self.folder, number)
                infos = leaves(stored_episode(self.folder, number)["infos"] or {}, "info")
                return {place: (np.shape(values), np.asarray(values).dtype) for place, values in infos.items()}
            except SourceError as error:
                damage = damage or str(error)
        raise SourceError(f"{self.options.path} has no episode that can be read: {damage}")


class _Reader:
    """Makes recorded episodes of a data set, by their numbers."""

    def __init__(self, dataset: minari.MinariDataset, options: DatasetOptions, *, is_import: bool = False) -> None:
        self._dataset = dataset
        self._folder = Path(dataset.storage.data_path)
        self._tasks = options.tasks
        self._orientation: Orientation = Assumptions(options.path).orientation(options.orientation)
        self._is_import = is_import

    def read(self, number: int, cameras: Shown) -> RecordedEpisode:
        """One episode as some cameras show it, with its outcome, as far as its infos know it."""
        frames = {name: MinariFrames(self._folder, number, name, self._orientation) for name in cameras}
        content = episode_facts(self._folder, number)
        num_steps = len(content["rewards"])
        if not self._is_import:
            _check_reset(frames, num_steps)
        steps = _steps(content, len(next(iter(frames.values()))))
        success = _success(content, steps)
        # What is labelled with an instruction that was given asks nothing of the metadata.
        metadata = episode_metadata(self._dataset, number) if self._is_import or not self._tasks else {}
        terminated, truncated = (bool(content[name][-1:].any()) for name in ("terminations", "truncations"))
        return RecordedEpisode(
            key=f"episode_{number}",
            tasks=self._tasks or (_instruction(self._dataset, metadata),),
            cameras=frames,
            num_steps=num_steps,
            task_rewards=_original_rewards(content),
            terminated=terminated,
            truncated=truncated or not terminated,
            success=None if success is None else bool(success.any()),
            success_of_frames=success,
            names=(f"episode_{number}", *cameras),
            facts=self._facts(number, steps, metadata.get("seed"), cameras),
        )

    def _facts(self, number: int, steps: NDArray[np.int64], seed: int | None, cameras: Shown) -> RecordedFacts:
        spec, space = self._dataset.env_spec, self._dataset.action_space
        metadata: dict[str, Any] = {"frames": ", ".join(cameras), "frame_interval": 1}
        if isinstance(space, require("gymnasium", "minari").spaces.Discrete) and space.start == 0:
            metadata[DISCRETE_ACTIONS] = int(space.n)
        return RecordedFacts(
            steps=steps,
            actions=self._actions(number) if self._is_import else None,
            # Minari draws seeds of 64 bits, which not every reader of a store can hold.
            seed=None if seed is None or seed > _LARGEST_SEED else int(seed),
            source=f"{self._dataset.id}#episode_{number}",
            metadata=metadata | ({} if spec is None else {"env_id": spec.id}),
        )

    def _actions(self, number: int) -> NDArray[Any] | None:
        """(T, ...) where they are arrays."""
        if has_hdf5_storage(self._folder):
            return read_actions(self._folder, number)
        stored = stored_episode(self._folder, number)["actions"]
        return None if isinstance(stored, dict | tuple) else np.asarray(stored)


def _check_reset(cameras: Mapping[str, MinariFrames], num_steps: int) -> None:
    for name, frames in cameras.items():
        if len(frames) == num_steps and name.startswith("info/"):
            raise EpisodeError(f"its pictures in {name!r} lack that of the reset, in which the first step begins")


def _arrays_of(space: Any, place: str) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of every array in observations, by its place; dictionaries and tuples may be nested."""
    spaces = require("gymnasium", "minari").spaces
    if isinstance(space, spaces.Dict):
        inner = {f"{place}/{name}": entry for name, entry in space.items()}
    elif isinstance(space, spaces.Tuple):
        inner = {f"{place}/{number}": entry for number, entry in enumerate(space)}
    else:
        return {place: ((1, *space.shape), np.dtype(space.dtype))} if isinstance(space, spaces.Box) else {}
    return {name: found for key, entry in inner.items() for name, found in _arrays_of(entry, key).items()}


def _original_rewards(content: Mapping[str, Any]) -> NDArray[np.float64]:
    kept = (content["infos"] or {}).get(ORIGINAL_REWARDS)
    rewards = content["rewards"] if kept is None else np.asarray(kept)[1:]
    return np.asarray(rewards, np.float64)


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
    folder = data_folder(path)
    try:
        # Minari would wait for a pipe, and read what has no end.
        read_text(inside(folder, METADATA_FILE))
        if (folder / HDF5_FILE).exists():
            check_regular(inside(folder, HDF5_FILE))
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


def episode_metadata(dataset: minari.MinariDataset, episode: int) -> dict[str, Any]:
    """What Minari notes of an episode beside its arrays.

    Raises:
        SourceError: It is incomplete or damaged.
    """
    try:
        return dict(next(iter(dataset.storage.get_episode_metadata([episode]))))
    except (*EPISODE_DAMAGE, *_MINARI_ERRORS) as error:
        raise SourceError(f"the metadata of episode {episode} are incomplete or damaged: {error!r}") from error


def _instruction(dataset: minari.MinariDataset, metadata: Mapping[str, Any]) -> str:
    """What was stored with the episode, whose metadata are given, or with the data set."""
    found = metadata.get("task") or dataset.storage.metadata.get("task")
    if not found:
        raise SourceError("the metadata hold no instruction; say what the robot is to do with the option 'task'")
    return str(found)


def _steps(episode: Mapping[str, Any], num_frames: int) -> NDArray[np.int64]:
    """(T,) steps since the reset, whose own picture may be missing among those that were rendered."""
    num_steps = len(episode["rewards"])
    if num_frames not in (num_steps, num_steps + 1):
        raise SourceError(f"there are {num_frames} pictures of {num_steps} steps; expected one for each, or one more")
    return np.arange(num_steps + 1)[-num_frames:]


def _success(episode: Mapping[str, Any], steps: NDArray[np.int64]) -> NDArray[np.bool_] | None:
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
