"""The labels of a Minari data set: a new version of it, made from its stored files.

What is written: a copy of the stored files under the next version, ``NAME-v1`` for ``NAME-v0``. Minari's storage has
functions that append episodes, and none that changes one; going through buffers would encode pictures again, and lose
the options of episodes. So the arrays of rewards are replaced in the files that the storage keeps, HDF5, Arrow or
Parquet, and six infos are added, T + 1 long as those of a collector are, whose first entry belongs to the reset:

============================== =====================================================================
``rewards``                    float64 (T,), the new ones; episodes without labels keep theirs
``robometer_progress``         float32 (T + 1,) of each observation; NaN in episodes without labels
``robometer_success``          float32 (T + 1,), likewise
``robometer_success_detected`` bool (T + 1,), whether the success rule holds after the step before
``robometer_original_rewards`` float64 (T + 1,), of the step before; NaN at the reset
``robometer_returns``          float64 (T + 1,), likewise; NaN in episodes without labels
``robometer_advantages``       float64 (T + 1,), likewise
============================== =====================================================================

The metadata of the data set hold ``robometer``, see `robometer_rl.formats.dataset.metadata`.
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
from robometer_rl.formats.dataset import (
    LABEL_ARRAYS,
    EpisodeLabels,
    Labels,
    LabelWriter,
    Provenance,
    metadata,
    stored_provenance,
)
from robometer_rl.formats.hdf5.files import open_hdf5, take_in
from robometer_rl.formats.minari.layout import HDF5_FILE, METADATA_FILE, episode_files, read_table

__all__ = ["ORIGINAL_REWARDS", "MinariWriter", "provenance_in", "read_labels"]

ORIGINAL_REWARDS: Final = "robometer_original_rewards"
"""The info in which relabelling keeps the rewards that it replaced."""

_KEY: Final = "robometer"

Arrays = dict[str, NDArray[Any]]


class MinariWriter(LabelWriter):
    """Writes the next version of a data set.

    Args:
        dataset_id: What Minari calls it.
        folder: Where its files are.
        numbers: Number of each episode by its key.
        output: Directory of the new version; by default beside the data set.

    Raises:
        SourceError: The name of ``output`` does not end in a version, as in ``human-v3``.
    """

    def __init__(self, dataset_id: str, folder: Path, numbers: Mapping[str, int], output: Path | None) -> None:
        names = require("minari.dataset.minari_dataset", "minari")
        namespace, name, version = names.parse_dataset_id(dataset_id)
        self._root = folder.parent
        self.destination = output or self._root.absolute().with_name(f"{name}-v{version + 1}")
        try:
            _, name, version = names.parse_dataset_id(self.destination.name)
        except (ValueError, TypeError) as error:
            raise SourceError(
                f"{self.destination} cannot be the directory of a Minari data set: its name must end in a version, as "
                f"in {name}-v{version + 1}"
            ) from error
        self._dataset_id = names.gen_dataset_id(namespace, name, version)
        self._folder = folder
        self._numbers = numbers

    def check(self) -> None:
        """See `LabelWriter.check`."""
        check_outside(self.destination, self._root)
        check_destination(self.destination)

    def written(self) -> Provenance | None:
        """See `LabelWriter.written`."""
        return provenance_in(self.destination / "data")

    def write(self, labels: Labels) -> None:
        """See `LabelWriter.write`."""
        with new_directory(self.destination) as directory:
            folder = directory / "data"
            shutil.copytree(self._folder, folder, copy_function=shutil.copyfile)
            self._rename(folder, labels)
            storage = require("minari.dataset.minari_storage", "minari").MinariStorage.read(folder)
            episodes = {number: labels.episodes.get(key) for key, number in self._numbers.items()}
            if storage.FORMAT == "hdf5":
                _replace_in_hdf5(folder, self._folder, episodes)
            else:
                _replace_in_arrow(folder, episodes)
            storage.update_metadata({"dataset_size": storage.get_size()})

    def _rename(self, folder: Path, labels: Labels) -> None:
        """Minari does not let the id of a data set be updated."""
        path = folder / METADATA_FILE
        content = json.loads(path.read_text("utf-8"))
        content |= {"dataset_id": self._dataset_id, _KEY: metadata(labels)}
        path.write_text(json.dumps(content), "utf-8")


def _infos(labels: EpisodeLabels | None, original: NDArray[np.float64]) -> Arrays:
    """The infos of an episode of T steps, (T + 1,) each."""
    steps = len(original)
    unknown = np.full(steps + 1, np.nan, np.float32)
    of_steps = unknown.astype(np.float64)
    return {
        "robometer_progress": unknown if labels is None else labels.progress,
        "robometer_success": unknown if labels is None else labels.success,
        "robometer_success_detected": np.append(
            False, np.zeros(steps, np.bool_) if labels is None else labels.success_detected
        ),
        ORIGINAL_REWARDS: np.append(np.nan, original),
        "robometer_returns": of_steps if labels is None else np.append(np.nan, labels.returns),
        "robometer_advantages": of_steps if labels is None else np.append(np.nan, labels.advantages),
    }


def read_labels(key: str, rewards: NDArray[np.float64], infos: Mapping[str, Any]) -> EpisodeLabels | None:
    """The labels of an episode; None if it has none.

    Args:
        key: Of the episode.
        rewards: (T,) as the data set has them now.
        infos: Of the episode.

    Raises:
        EpisodeError: They do not belong together.
    """
    stored = {name: f"{_KEY}_{name}" for name in LABEL_ARRAYS}
    arrays = {name: np.asarray(infos[info]) for name, info in stored.items() if info in infos}
    # Those of steps begin with an entry that belongs to the reset.
    of_steps = {name: array[1:] for name, array in arrays.items() if LABEL_ARRAYS[name] is not np.float32}
    return EpisodeLabels.read(key, arrays | of_steps | {"rewards": np.asarray(rewards)})


def provenance_in(folder: Path) -> Provenance | None:
    """How the labels of the data set in a folder were made; None if there are none that this release made."""
    try:
        content = parse_json(read_text(folder / METADATA_FILE), nan=True)
        return stored_provenance(content[_KEY])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _replace_in_hdf5(folder: Path, original: Path, episodes: Mapping[int, EpisodeLabels | None]) -> None:
    h5py = require("h5py", "minari")
    path = folder / HDF5_FILE
    try:
        with h5py.File(path, "r+") as file, open_hdf5(original / HDF5_FILE) as source:
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
    original = np.asarray(
        infos[ORIGINAL_REWARDS][1:] if ORIGINAL_REWARDS in infos else episode["rewards"][()], np.float64
    )
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
    kept = infos.get(ORIGINAL_REWARDS)
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
