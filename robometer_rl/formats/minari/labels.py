"""Minari data sets: a new version of the data set, made from its stored files.

Time. An episode of T steps has T + 1 observations, so nothing is imputed.

Memory. Of data sets in HDF5, Minari's usual storage, a few pictures are read at a time. Those in Arrow and Parquet are
read an episode at a time, as Minari reads them, so that one episode must fit into memory.

Cameras are named as for `robometer_rl.formats.minari.reader.MinariConfig`: ``obs`` where the observation is the
picture, ``obs/KEY`` or ``info/KEY``, at any depth. Pictures in infos need the one of the reset, without which the first
step has no beginning; `minari.DataCollector` stores it.

What is written: a copy of the stored files under the next version, ``NAME-v1`` for ``NAME-v0``. Minari's storage has
functions that append episodes, and none that changes one; going through buffers would encode pictures again, and lose
the options of episodes. So the arrays of rewards are replaced in the files that the storage keeps, HDF5, Arrow or
Parquet, and four infos are added, T + 1 long as those of a collector are, whose first entry belongs to the reset:

============================== =====================================================================
``rewards``                    float64 (T,), the new ones; episodes without labels keep theirs
``robometer_progress``         float32 (T + 1,) of each observation; NaN in episodes without labels
``robometer_success``          float32 (T + 1,), likewise
``robometer_holds``            bool (T + 1,), whether the success rule holds after the step before
``robometer_original_rewards`` float64 (T + 1,), of the step before; NaN at the reset
============================== =====================================================================

The metadata of the data set hold ``robometer``, see `robometer_rl.formats.metadata.metadata`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import EPISODE_DAMAGE, SourceError
from robometer_rl.documents import parse_json, read_text
from robometer_rl.extras import require
from robometer_rl.files import check_destination, check_outside, new_directory
from robometer_rl.formats.assumptions import Assumptions
from robometer_rl.formats.cameras import Cameras, cameras_among
from robometer_rl.formats.dataset import (
    DatasetOptions,
    EpisodeError,
    EpisodeLabels,
    Labels,
    LabelWriter,
    Provenance,
    RecordedEpisode,
    RelabelDataset,
    WriteMode,
)
from robometer_rl.formats.destinations import choose_cameras, fingerprint
from robometer_rl.formats.hdf5.links import take_in
from robometer_rl.formats.hdf5.reader import open_hdf5
from robometer_rl.formats.metadata import metadata, stored_provenance
from robometer_rl.formats.minari.arrow import episode_files, read_table
from robometer_rl.formats.minari.layout import has_hdf5_storage, info_arrays, leaves
from robometer_rl.formats.minari.reader import (
    MinariFrames,
    episode_facts,
    episode_metadata,
    episode_success,
    minari_instruction,
    open_minari,
    stored_episode,
)
from robometer_rl.frames import FrameSequence
from robometer_rl.video.lazy import Orientation

__all__ = ["MinariLabelDataset", "is_format", "open_dataset"]

_METADATA: Final = "metadata.json"
_HDF5: Final = "main_data.hdf5"
_KEY: Final = "robometer"
_ORIGINAL: Final = "robometer_original_rewards"

Arrays = dict[str, NDArray[Any]]


def is_format(path: Path) -> bool:
    """Whether ``path`` is the directory of a Minari data set, or its folder ``data``."""
    try:
        content = parse_json(read_text(_data_folder(path) / _METADATA), nan=True)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "minari_version" in content


def open_dataset(options: DatasetOptions) -> MinariLabelDataset:
    """Opens a local data set; see `MinariLabelDataset`."""
    return MinariLabelDataset(options)


def _data_folder(path: Path) -> Path:
    return path / "data" if (path / "data").is_dir() else path


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
        self.folder = _data_folder(options.path)
        self._dataset = open_minari(self.folder)
        self.numbers = {f"episode_{number}": int(number) for number in self._dataset.episode_indices}
        if not self.numbers:
            raise SourceError(f"{options.path} has no episodes")
        self.keys = list(self.numbers)
        self._orientation: Orientation = Assumptions(options.path).orientation(options.orientation)
        found = self._available_cameras()
        self.cameras = choose_cameras(options.path, found.names, options.cameras, found.refused)

    def episode(self, key: str) -> RecordedEpisode:
        """See `RelabelDataset.episode`."""
        number = self.numbers[key]
        content = episode_facts(self.folder, number)
        steps = len(content["rewards"])
        if not steps:
            raise EpisodeError("it has no steps")
        success = episode_success(content, np.arange(steps + 1))
        truncated = bool(content["truncations"][-1])
        terminated = bool(content["terminations"][-1])
        return RecordedEpisode(
            key=key,
            tasks=self.options.tasks or (self._instruction(number),),
            cameras={name: self._frames(number, name, steps) for name in self.cameras},
            num_steps=steps,
            task_rewards=_original_rewards(content),
            terminated=terminated,
            truncated=truncated or not terminated,
            success=None if success is None else bool(success.any()),
        )

    def fingerprint(self) -> str:
        """See `RelabelDataset.fingerprint`."""
        return fingerprint(self.keys, sorted(path for path in self.folder.rglob("*") if path.is_file()))

    def writer(self, mode: WriteMode, output: Path | None = None) -> LabelWriter:
        """See `RelabelDataset.writer`.

        Raises:
            SourceError: The name of ``output`` does not end in a version, as in ``human-v3``.
        """
        return _MinariWriter(self, output)

    @property
    def dataset_id(self) -> str:
        """What Minari calls the data set."""
        return self._dataset.id

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

    def _frames(self, number: int, camera: str, steps: int) -> FrameSequence:
        frames = MinariFrames(self.folder, number, camera, self._orientation)
        if len(frames) == steps and camera.startswith("info/"):
            raise EpisodeError(f"its pictures in {camera!r} lack that of the reset, in which the first step begins")
        return frames

    def _instruction(self, number: int) -> str:
        return minari_instruction(self._dataset, episode_metadata(self._dataset, number), None)


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
    kept = (content["infos"] or {}).get(_ORIGINAL)
    rewards = content["rewards"] if kept is None else np.asarray(kept)[1:]
    return np.asarray(rewards, np.float64)


class _MinariWriter(LabelWriter):
    """Writes the next version of a data set."""

    def __init__(self, dataset: MinariLabelDataset, output: Path | None) -> None:
        names = require("minari.dataset.minari_dataset", "minari")
        namespace, name, version = names.parse_dataset_id(dataset.dataset_id)
        self._root = dataset.folder.parent
        self.destination = output or self._root.absolute().with_name(f"{name}-v{version + 1}")
        try:
            _, name, version = names.parse_dataset_id(self.destination.name)
        except (ValueError, TypeError) as error:
            raise SourceError(
                f"{self.destination} cannot be the directory of a Minari data set: its name must end in a version, as "
                f"in {name}-v{version + 1}"
            ) from error
        self._dataset_id = names.gen_dataset_id(namespace, name, version)
        self._dataset = dataset

    def check(self) -> None:
        """See `LabelWriter.check`."""
        check_outside(self.destination, self._root)
        check_destination(self.destination)

    def written(self) -> Provenance | None:
        """See `LabelWriter.written`."""
        try:
            content = parse_json(read_text(self.destination / "data" / _METADATA), nan=True)
            return stored_provenance(content[_KEY])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, labels: Labels) -> None:
        """See `LabelWriter.write`."""
        with new_directory(self.destination) as directory:
            folder = directory / "data"
            shutil.copytree(self._dataset.folder, folder, copy_function=shutil.copyfile)
            self._rename(folder, labels)
            storage = require("minari.dataset.minari_storage", "minari").MinariStorage.read(folder)
            episodes = {number: labels.episodes.get(key) for key, number in self._dataset.numbers.items()}
            if storage.FORMAT == "hdf5":
                _replace_in_hdf5(folder, self._dataset.folder, episodes)
            else:
                _replace_in_arrow(folder, episodes)
            storage.update_metadata({"dataset_size": storage.get_size()})

    def _rename(self, folder: Path, labels: Labels) -> None:
        """Minari does not let the id of a data set be updated."""
        path = folder / _METADATA
        content = json.loads(path.read_text("utf-8"))
        content |= {"dataset_id": self._dataset_id, _KEY: metadata(labels)}
        path.write_text(json.dumps(content), "utf-8")


def _infos(labels: EpisodeLabels | None, original: NDArray[np.float64]) -> Arrays:
    """The infos of an episode of T steps, (T + 1,) each."""
    steps = len(original)
    unknown = np.full(steps + 1, np.nan, np.float32)
    return {
        "robometer_progress": unknown if labels is None else labels.progress,
        "robometer_success": unknown if labels is None else labels.success,
        "robometer_success_detected": np.append(
            False, np.zeros(steps, np.bool_) if labels is None else labels.success_detected
        ),
        _ORIGINAL: np.append(np.nan, original),
    }


def _replace_in_hdf5(folder: Path, original: Path, episodes: Mapping[int, EpisodeLabels | None]) -> None:
    h5py = require("h5py", "minari")
    path = folder / _HDF5
    try:
        with h5py.File(path, "r+") as file, open_hdf5(original / _HDF5) as source:
            take_in(file, source)
            for number, labels in episodes.items():
                episode = file.get(f"episode_{number}", {})
                # One that Minari cannot read either is left as it is.
                if "rewards" in episode:
                    _write_to_group(episode, labels)
    # HDF5 fails with a RuntimeError where a file that is closed cannot be written to the end.
    except RuntimeError as error:
        raise OSError(f"{path} could not be written: {error}") from error


def _write_to_group(episode: Any, labels: EpisodeLabels | None) -> None:
    infos = episode.require_group("infos")
    original = np.asarray(infos[_ORIGINAL][1:] if _ORIGINAL in infos else episode["rewards"][()], np.float64)
    _set(episode, "rewards", original if labels is None else labels.rewards)
    for name, values in _infos(labels, original).items():
        _set(infos, name, values)


def _set(group: Any, name: str, values: NDArray[Any]) -> None:
    """A data set as Minari makes them, which may grow."""
    if name in group:
        del group[name]
    group.create_dataset(name, data=values, chunks=True, maxshape=(None,))


def _replace_in_arrow(folder: Path, episodes: Mapping[int, EpisodeLabels | None]) -> None:
    for number, labels in episodes.items():
        for path in episode_files(folder, number):
            try:
                table = _with_labels(read_table(path), labels)
            except EPISODE_DAMAGE:
                if labels is not None:
                    raise
                continue  # one that Minari cannot read either is left as it is
            _write_episode(path, table)


def _write_episode(path: Path, table: Any) -> None:
    """Writes an episode as the one batch that Minari expects."""
    new = path.with_name(f"{path.name}.new")
    if path.suffix == ".parquet":
        require("pyarrow.parquet", "minari").write_table(table, new, row_group_size=table.num_rows)
    else:
        with require("pyarrow", "minari").ipc.new_file(new, table.schema) as writer:
            writer.write_table(table, max_chunksize=table.num_rows)
    new.replace(path)


def _with_labels(table: Any, labels: EpisodeLabels | None) -> Any:
    """Rows are observations; what belongs to a step is in the row before it, and the last row is padding."""
    pa = require("pyarrow", "minari")
    table = table.combine_chunks()
    infos, fields = _fields_of(table)
    kept = infos.get(_ORIGINAL)
    stored = table["rewards"].to_numpy()[:-1] if kept is None else kept.to_numpy(zero_copy_only=False)[1:]
    original = stored.astype(np.float64)
    rewards = original if labels is None else labels.rewards
    table = table.set_column(table.column_names.index("rewards"), "rewards", pa.array(np.append(rewards, 0.0)))
    for name, values in _infos(labels, original).items():
        infos[name] = pa.array(values)
        fields[name] = pa.field(name, infos[name].type)
    struct = pa.StructArray.from_arrays(list(infos.values()), fields=list(fields.values()))
    if "infos" in table.column_names:
        return table.set_column(table.column_names.index("infos"), "infos", struct)
    return table.append_column("infos", struct)


def _fields_of(table: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The infos of an episode, and their fields, by name."""
    if "infos" not in table.column_names:
        return {}, {}
    struct = require("pyarrow", "minari").concat_arrays(table["infos"].chunks)
    fields = {field.name: field for field in struct.type}
    return {name: struct.field(place) for place, name in enumerate(fields)}, fields
