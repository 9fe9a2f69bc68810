"""The labels of HDF5 files: in a copy of them, or in the file itself.

What is written, in every episode:

================================ =======================================================================
``rewards``                      float64 (T,), the new ones
``robometer/original_rewards``   The data set ``rewards`` as it was, if there was one
``robometer/progress``           float32 (F,), NaN in episodes without labels
``robometer/success``            float32 (F,), likewise
``robometer/returns``            float64 (T,), NaN in episodes without labels
``robometer/advantages``         float64 (T,), likewise
``robometer/success_detected``   bool (T,), whether the success rule holds after the step
``robometer/imputed``            bool (T,)
attribute ``robometer_skipped``  Why it has no labels
================================ =======================================================================

The attribute ``robometer`` of ``data`` (of the file, in ManiSkill's and ALOHA's) says how the labels were made
(`Provenance.to_dict`, as JSON). Everything else is as it was, images to the last byte; a folder is copied with all that
is in it, and gets a ``robometer.json``. The JSON file that ManiSkill has beside a file is copied with it.
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

from robometer_rl.files import check_destination, check_outside, new_directory, new_file, write_bytes
from robometer_rl.formats.dataset import (
    LABEL_ARRAYS,
    DirectoryWriter,
    EpisodeError,
    EpisodeLabels,
    Labels,
    LabelWriter,
    Provenance,
    write_metadata,
)
from robometer_rl.formats.hdf5.files import DAMAGE, LABELS_GROUP, ORIGINAL_REWARDS, Places, open_hdf5, take_in

if TYPE_CHECKING:
    import h5py

__all__ = ["HDF5FileWriter", "HDF5FolderWriter", "is_labelled", "provenance_in", "read_labels"]

# The new rewards are where the old ones were.
_ARRAYS: Final = {name: kind for name, kind in LABEL_ARRAYS.items() if name != "rewards"}
_FIRST_ARRAYS: Final = ("progress", "success", "success_detected", "imputed")  # of labels since the first release
_PROVENANCE: Final = "robometer"
_SKIPPED: Final = "robometer_skipped"


class HDF5FileWriter(LabelWriter):
    """Writes a labelled copy of one file, or puts it in the place of the file."""

    def __init__(self, path: Path, file_name: str, destination: Path, places: Places) -> None:
        self.destination = destination
        self._source = (path, file_name)
        self._places = places

    def check(self) -> None:
        """See `LabelWriter.check`."""
        check_destination(self.destination, replace=self.destination == self._source[0])
        self._beside()

    def written(self) -> Provenance | None:
        """See `LabelWriter.written`."""
        return provenance_in(self.destination, self._places) if self.destination.is_file() else None

    def write(self, labels: Labels) -> None:
        """See `LabelWriter.write`."""
        path, name = self._source
        if (beside := self._beside()) is not None:
            write_bytes(self.destination.with_suffix(self._places.beside), beside)
        with new_file(self.destination) as partial:
            _copy_labelled(path, name, partial, labels, self._places)

    def _beside(self) -> bytes | None:
        """What is to be copied with the file; None if nothing is, or if it is there."""
        path, _ = self._source
        if not self._places.beside or path == self.destination or not path.with_suffix(self._places.beside).is_file():
            return None
        content = path.with_suffix(self._places.beside).read_bytes()
        target = self.destination.with_suffix(self._places.beside)
        if not target.exists():
            return content
        if not target.is_file() or target.read_bytes() != content:
            raise FileExistsError(
                f"{target} is in the way: the file {path.with_suffix(self._places.beside)} goes there"
            )
        return None


class HDF5FolderWriter(DirectoryWriter):
    """Writes a copy of a folder with labels in its HDF5 files.

    Args:
        root: The folder.
        files: Name below it of each HDF5 file with episodes; what else is there is copied.
        destination: The copy.
        places: Where episodes are in the files.
    """

    def __init__(self, root: Path, files: Mapping[Path, str], destination: Path, places: Places) -> None:
        self.destination = destination
        self._places = places
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
                    _copy_labelled(path, name, target, labels, self._places)
            write_metadata(directory, labels)


def _copy_labelled(source: Path, file_name: str, target: Path, labels: Labels, places: Places) -> None:
    shutil.copyfile(source, target)
    skipped = {entry.name: entry.reason for entry in labels.skipped}
    with _writing(target) as file, open_hdf5(source) as original:
        take_in(file, original)
        places.noted(file)[_PROVENANCE] = json.dumps(labels.provenance.to_dict())
        for name in places.names(file):
            key = places.key(file_name, name)
            if key in labels.episodes:
                _write_labels(places.group(file, name), labels.episodes[key])
            else:
                _write_nothing_known(file, places, name, skipped.get(key, ""))
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


def _write_nothing_known(file: h5py.File, places: Places, name: str, reason: str) -> None:
    """An episode without labels keeps its rewards; one that is damaged is left as it is."""
    try:
        group = places.group(file, name)
        (steps, *_) = group[places.actions].shape
        _keep_original(group)
    except (*DAMAGE, TypeError, ValueError, AttributeError):
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


def read_labels(group: Any, key: str) -> EpisodeLabels | None:
    """The labels of an episode, given its group; None if it has none.

    Raises:
        EpisodeError: Somebody else uses the name, or they do not belong together.
    """
    if not is_labelled(group) or _SKIPPED in group.attrs:
        return None
    stored = group[LABELS_GROUP]
    arrays = {name: np.asarray(stored[name][()]) for name in _ARRAYS if name in stored}
    return EpisodeLabels.read(key, arrays | {"rewards": np.asarray(group["rewards"][()])})


def provenance_in(path: Path, places: Places) -> Provenance | None:
    """How the labels of a file were made; None if there are none, or if this release did not make them."""
    try:
        with open_hdf5(path) as file:
            return Provenance.from_dict(json.loads(str(places.noted(file)[_PROVENANCE])))
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
