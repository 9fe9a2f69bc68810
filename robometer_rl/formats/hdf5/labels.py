"""HDF5 files of LIBERO and robomimic: one file, or a folder of them.

Time. With ``next_obs``, as robomimic stores it on request, F = T + 1. Without it, as in LIBERO's files, F = T: step t
is the pair of ``obs[t]`` and ``actions[t]``, as those who train on such files read it, its reward is about
``obs[t + 1]``, and that of the last step is imputed.

Cameras are named as below ``obs``. How pictures hang, what was to be done and how it ended is found out as for import,
see `robometer_rl.formats.hdf5.origin`; LIBERO's pictures are turned over unless ``orientation`` says otherwise.

Success. LIBERO and robosuite with sparse rewards pay for a task that is done; other rewards do not say it. Both write
``dones`` at the end of every demonstration, so one is taken to be terminated if its last step succeeded, and truncated
otherwise.

What is written, in every demonstration:

================================ =======================================================================
``rewards``                      float64 (T,), the new ones
``robometer/original_rewards``   The data set ``rewards`` as it was, if there was one
``robometer/progress``           float32 (F,), NaN in demonstrations without labels
``robometer/success``            float32 (F,), likewise
``robometer/holds``              bool (T,), whether the success rule holds after the step
``robometer/imputed``            bool (T,)
attribute ``robometer_skipped``  Why it has no labels
================================ =======================================================================

The attribute ``robometer`` of ``data`` says how the labels were made (`Provenance.to_dict`, as JSON). Everything else
is as it was, images to the last byte; a folder is copied with all that is in it, and gets a ``robometer.json``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import EPISODE_DAMAGE, SourceError, Unreadable
from robometer_rl.files import check_destination, check_outside, new_directory, new_file
from robometer_rl.formats.assumptions import Assumptions
from robometer_rl.formats.cameras import Cameras
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
from robometer_rl.formats.destinations import choose_cameras, default_output, fingerprint
from robometer_rl.formats.hdf5.links import take_in
from robometer_rl.formats.hdf5.origin import (
    LABELS_GROUP,
    ORIGINAL_REWARDS,
    camera_frames,
    hanging_of,
    instruction_of,
    original_rewards,
    says_success,
)
from robometer_rl.formats.hdf5.reader import (
    DAMAGE,
    Demonstration,
    HDF5Frames,
    demonstration_names,
    find_files,
    open_demonstration,
    open_hdf5,
)
from robometer_rl.formats.metadata import read_metadata, write_metadata

if TYPE_CHECKING:
    import h5py

__all__ = ["HDF5Dataset", "is_format", "open_dataset"]

_SUFFIXES: Final = (".hdf5", ".h5")
_ARRAYS: Final = ("progress", "success", "success_detected", "imputed")
_PROVENANCE: Final = "robometer"
_SKIPPED: Final = "robometer_skipped"


def is_format(path: Path) -> bool:
    """Whether ``path`` is an HDF5 file, or a folder with such files in it or in its folders."""
    files = [path] if path.is_file() else path.rglob("*")
    return any(file.suffix in _SUFFIXES for file in files)


def open_dataset(options: DatasetOptions) -> HDF5Dataset:
    """Opens a file or a folder; see `HDF5Dataset`."""
    return HDF5Dataset(options)


class _Place(NamedTuple):
    path: Path
    file_name: str
    demonstration: str


class HDF5Dataset(RelabelDataset):
    """Demonstrations in HDF5, see `RelabelDataset`; a key is the file, and the demonstration in it."""

    format = "hdf5"

    def __init__(self, options: DatasetOptions) -> None:
        """Lists the demonstrations.

        Raises:
            SourceError: There are none, or no such camera, or several without a choice.
            ImportError: The extra ``hdf5`` is not installed.
        """
        self.options = options
        self.files = find_files(options.path)
        self._assumed = Assumptions(options.path)
        self._places: dict[str, _Place] = {}
        cameras: dict[str, None] = {}
        refused: dict[str, str] = {}
        skipped: list[Unreadable] = []
        for path, name in self.files:
            try:
                found = self._list_demonstrations(path, name)
                cameras |= dict.fromkeys(found.names)
                refused |= found.refused
            except (SourceError, *DAMAGE) as error:
                skipped.append(Unreadable(name, str(error)))
        if not self._places:
            raise SourceError(f"{options.path} has no demonstrations that can be read: {skipped[0].reason}")
        self.skipped = tuple(skipped)
        self.keys = list(self._places)
        self.cameras = choose_cameras(options.path, tuple(cameras), options.cameras, refused)

    def episode(self, key: str) -> RecordedEpisode:
        """See `RelabelDataset.episode`."""
        place = self._places[key]
        try:
            with open_demonstration(*place) as demonstration:
                return self._read(key, demonstration)
        except (KeyError, RuntimeError) as error:
            raise EpisodeError(f"the file is damaged: {error}") from error

    def fingerprint(self) -> str:
        """See `RelabelDataset.fingerprint`."""
        return fingerprint(self.keys, [path for path, _ in self.files])

    def writer(self, mode: WriteMode, output: Path | None = None) -> LabelWriter:
        """See `RelabelDataset.writer`.

        Raises:
            SourceError: A folder is to be changed in place, which cannot be done in one step.
        """
        path = self.options.path
        if path.is_dir():
            if mode == "in_place":
                raise SourceError(f"{path} is a folder, and only a single file is replaced in one step: write a copy")
            return _FolderWriter(self, output or default_output(path))
        return _FileWriter(self, path if mode == "in_place" else output or default_output(path))

    def _list_demonstrations(self, path: Path, file_name: str) -> Cameras:
        """Notes the demonstrations of a file, and returns the cameras of the first of them that can be read."""
        with open_hdf5(path) as file:
            names = demonstration_names(file, path)
        cameras = self._first_cameras(path, file_name, names)
        self._places |= {demonstration_key(file_name, name): _Place(path, file_name, name) for name in names}
        return cameras

    def _first_cameras(self, path: Path, file_name: str, names: list[str]) -> Cameras:
        damage = ""
        for name in names:
            try:
                with open_demonstration(path, file_name, name) as demonstration:
                    self._assumed.orientation(self.options.orientation, *hanging_of(demonstration))
                    return demonstration.cameras
            except EPISODE_DAMAGE as error:
                damage = damage or f"{name}: {error}"
        raise SourceError(f"not one of its demonstrations can be read; {damage}")

    def _read(self, key: str, demonstration: Demonstration) -> RecordedEpisode:
        _is_labelled(demonstration.group)  # raises where somebody else uses the name
        rewards = original_rewards(demonstration)
        done = None if rewards is None or not says_success(demonstration) else rewards > 0
        is_done_last = done is not None and len(done) > 0 and bool(done[-1])
        cameras = {name: self._frames(demonstration, name) for name in self.cameras}
        return RecordedEpisode(
            key=key,
            tasks=self.options.tasks or (self._instruction(demonstration),),
            cameras=cameras,
            num_steps=_num_steps(demonstration, len(next(iter(cameras.values())))),
            task_rewards=None if rewards is None else rewards.astype(np.float64),
            terminated=is_done_last,
            truncated=not is_done_last,
            success=None if done is None else bool(done.any()),
        )

    def _frames(self, demonstration: Demonstration, camera: str) -> HDF5Frames:
        orientation = self._assumed.orientation(self.options.orientation, *hanging_of(demonstration))
        return camera_frames(demonstration, camera, orientation)

    def _instruction(self, demonstration: Demonstration) -> str:
        found = instruction_of(demonstration)
        if found.is_name:
            self._assumed.say("instructions are made of the names of the files; --task says otherwise")
        return found.text


def demonstration_key(file_name: str, name: str) -> str:
    """`RecordedEpisode.key` of a demonstration, as in ``lift.hdf5#demo_3``."""
    return f"{file_name}#{name}"


def _is_labelled(group: h5py.Group) -> bool:
    """Whether relabelling has been here; `EpisodeError` where somebody else uses the name."""
    import h5py

    if LABELS_GROUP not in group:
        return False
    ours: Any = group[LABELS_GROUP]
    if not isinstance(ours, h5py.Group) or any(name not in ours for name in _ARRAYS):
        raise EpisodeError(f"it has a {LABELS_GROUP!r} of its own, where labels are kept; rename that")
    return True


def _num_steps(demonstration: Demonstration, num_frames: int) -> int:
    actions = demonstration.values("actions")
    return num_frames if actions is None else len(actions)


# --- writing ---


class _FileWriter(LabelWriter):
    """Writes a labelled copy of one file, or puts it in the place of the file."""

    def __init__(self, dataset: HDF5Dataset, destination: Path) -> None:
        self.destination = destination
        self._source = dataset.files[0]

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


class _FolderWriter(LabelWriter):
    """Writes a copy of a folder with labels in its HDF5 files."""

    def __init__(self, dataset: HDF5Dataset, destination: Path) -> None:
        self.destination = destination
        self._root = dataset.options.path
        self._files = dict(dataset.files)
        self._unreadable = {entry.name for entry in dataset.skipped}

    def check(self) -> None:
        """See `LabelWriter.check`."""
        check_outside(self.destination, self._root)
        check_destination(self.destination)

    def written(self) -> Provenance | None:
        """See `LabelWriter.written`."""
        return read_metadata(self.destination)

    def write(self, labels: Labels) -> None:
        """See `LabelWriter.write`."""
        with new_directory(self.destination) as directory:
            for path in sorted(path for path in self._root.rglob("*") if path.is_file()):
                target = directory / path.relative_to(self._root)
                target.parent.mkdir(parents=True, exist_ok=True)
                name = self._files.get(path)
                if name is None or name in self._unreadable:
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
    _write_arrays(group, labels.progress, labels.success, labels.success_detected, labels.imputed)


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
    unknown, no = np.full(steps, np.nan, np.float32), np.zeros(steps, np.bool_)
    _write_arrays(group, unknown, unknown, no, no)


def _keep_original(group: h5py.Group) -> None:
    """Moves the rewards out of the way, unless they are those of an earlier labelling."""
    if not _is_labelled(group):
        group.create_group(LABELS_GROUP)
        if "rewards" in group:
            # Not moved: a link to rewards that are elsewhere would lead nowhere from its new place.
            group.copy("rewards", group, ORIGINAL_REWARDS)


def _write_arrays(
    group: h5py.Group,
    progress: NDArray[np.float32],
    success: NDArray[np.float32],
    success_detected: NDArray[np.bool_],
    imputed: NDArray[np.bool_],
) -> None:
    for name, values in zip(_ARRAYS, (progress, success, success_detected, imputed), strict=True):
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
