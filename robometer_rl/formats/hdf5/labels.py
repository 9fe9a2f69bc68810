"""The labels of LIBERO's and robomimic's HDF5 files: in a copy of them, or in the file itself.

What is written, in every demonstration:

================================ =======================================================================
``rewards``                      float64 (T,), the new ones
``robometer/original_rewards``   The data set ``rewards`` as it was, if there was one
``robometer/progress``           float32 (F,), NaN in demonstrations without labels
``robometer/success``            float32 (F,), likewise
``robometer/returns``            float64 (T,), NaN in demonstrations without labels
``robometer/advantages``         float64 (T,), likewise
``robometer/success_detected``   bool (T,), whether the success rule holds after the step
``robometer/imputed``            bool (T,)
attribute ``robometer_skipped``  Why it has no labels
================================ =======================================================================

The attribute ``robometer`` of ``data`` says how the labels were made (`Provenance.to_dict`, as JSON). Everything else
is as it was, images to the last byte; a folder is copied with all that is in it, and gets a ``robometer.json``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.files import check_destination, check_outside, new_directory, new_file
from robometer_rl.formats.dataset import (
    DirectoryWriter,
    EpisodeError,
    EpisodeLabels,
    Labels,
    LabelWriter,
    Provenance,
    write_metadata,
)
from robometer_rl.formats.hdf5.demonstrations import (
    LABELS_GROUP,
    ORIGINAL_REWARDS,
    demonstration_key,
    demonstration_names,
)
from robometer_rl.formats.hdf5.files import DAMAGE, open_hdf5, take_in

if TYPE_CHECKING:
    import h5py

__all__ = ["HDF5FileWriter", "HDF5FolderWriter", "is_labelled"]

_ARRAYS: Final[Mapping[str, type[np.generic]]] = {
    **dict.fromkeys(("progress", "success"), np.float32),
    **dict.fromkeys(("returns", "advantages"), np.float64),
    **dict.fromkeys(("success_detected", "imputed"), np.bool_),
}
_FIRST_ARRAYS: Final = ("progress", "success", "success_detected", "imputed")  # of labels since the first release
_PROVENANCE: Final = "robometer"
_SKIPPED: Final = "robometer_skipped"


class HDF5FileWriter(LabelWriter):
    """Writes a labelled copy of one file, or puts it in the place of the file."""

    def __init__(self, path: Path, file_name: str, destination: Path) -> None:
        self.destination = destination
        self._source = (path, file_name)

    def check(self) -> None:
        """See `LabelWriter.check`."""
        check_destination(self.destination, replace=self.destination == self._source[0])

    def written(self) -> Provenance | None:
        """See `LabelWriter.written`."""
        return _stored_provenance(self.destination) if self.destination.is_file() else None

    def write(self, labels: Labels) -> None:
        """See `LabelWriter.write`."""
        path, name = self._source
        with new_file(self.destination) as partial:
            _copy_labelled(path, name, partial, labels)


class HDF5FolderWriter(DirectoryWriter):
    """Writes a copy of a folder with labels in its HDF5 files.

    Args:
        root: The folder.
        files: Name below it of each HDF5 file with demonstrations; what else is there is copied.
        destination: The copy.
    """

    def __init__(self, root: Path, files: Mapping[Path, str], destination: Path) -> None:
        self.destination = destination
        self._root = root
        self._files = files

    def check(self) -> None:
        """See `LabelWriter.check`."""
        check_outside(self.destination, self._root)
        super().check()

    def write(self, labels: Labels) -> None:
        """See `LabelWriter.write`."""
        with new_directory(self.destination) as directory:
            for path in sorted(path for path in self._root.rglob("*") if path.is_file()):
                target = directory / path.relative_to(self._root)
                target.parent.mkdir(parents=True, exist_ok=True)
                name = self._files.get(path)
                if name is None:
                    shutil.copyfile(path, target)
                else:
                    _copy_labelled(path, name, target, labels)
            write_metadata(directory, labels)


def _copy_labelled(source: Path, file_name: str, target: Path, labels: Labels) -> None:
    shutil.copyfile(source, target)
    skipped = {entry.name: entry.reason for entry in labels.skipped}
    with _writing(target) as file, open_hdf5(source) as original:
        take_in(file, original)
        data: Any = file["data"]
        data.attrs[_PROVENANCE] = json.dumps(labels.provenance.to_dict())
        for name in demonstration_names(file, source):
            key = demonstration_key(file_name, name)
            if key in labels.episodes:
                _write_labels(data[name], labels.episodes[key])
            else:
                _write_nothing_known(data, name, skipped.get(key, ""))
    shutil.copymode(source, target)


@contextmanager
def _writing(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file that may be changed; whatever goes wrong is an `OSError`."""
    import h5py

    try:
        with h5py.File(path, "r+") as file:
            yield file
    # HDF5 fails with a RuntimeError where a file that is closed cannot be written to the end.
    except RuntimeError as error:
        raise OSError(f"{path} could not be written: {error}") from error


def _write_labels(group: h5py.Group, labels: EpisodeLabels) -> None:
    _keep_original(group)
    group.attrs.pop(_SKIPPED, None)
    _replace(group, "rewards", labels.rewards)
    _write_arrays(group, {name: getattr(labels, name) for name in _ARRAYS})


def _write_nothing_known(data: h5py.Group, name: str, reason: str) -> None:
    """A demonstration without labels keeps its rewards; one that is damaged is left as it is."""
    try:
        group: Any = data[name]
        steps = len(group["actions"])
        _keep_original(group)
    except (*DAMAGE, TypeError, EpisodeError):
        return
    group.attrs[_SKIPPED] = reason
    _replace(group, "rewards", group[ORIGINAL_REWARDS][()] if ORIGINAL_REWARDS in group else np.full(steps, np.nan))
    unknown = {name: False if kind is np.bool_ else np.nan for name, kind in _ARRAYS.items()}
    _write_arrays(group, {name: np.full(steps, unknown[name], kind) for name, kind in _ARRAYS.items()})


def _keep_original(group: h5py.Group) -> None:
    """Moves the rewards out of the way, unless they are those of an earlier labelling."""
    if not is_labelled(group):
        group.create_group(LABELS_GROUP)
        if "rewards" in group:
            # Not moved: a link to rewards that are elsewhere would lead nowhere from its new place.
            group.copy("rewards", group, ORIGINAL_REWARDS)


def _write_arrays(group: h5py.Group, arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, values in arrays.items():
        _replace(group, f"{LABELS_GROUP}/{name}", values)


def _replace(group: h5py.Group, name: str, values: NDArray[Any]) -> None:
    if name in group:
        del group[name]
    group.create_dataset(name, data=values)


def _stored_provenance(path: Path) -> Provenance | None:
    try:
        with open_hdf5(path) as file:
            return Provenance.from_dict(json.loads(str(file["data"].attrs[_PROVENANCE])))
    except (*DAMAGE, ValueError, TypeError):
        return None


def is_labelled(group: h5py.Group) -> bool:
    """Whether relabelling has been here; `EpisodeError` where somebody else uses the name."""
    import h5py

    if LABELS_GROUP not in group:
        return False
    ours: Any = group[LABELS_GROUP]
    if not isinstance(ours, h5py.Group) or any(name not in ours for name in _FIRST_ARRAYS):
        raise EpisodeError(f"it has a {LABELS_GROUP!r} of its own, where labels are kept; rename that")
    return True
