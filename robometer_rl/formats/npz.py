"""Episodes as ``.npz`` files of one folder, one episode each.

Arrays of a file, by name:

=============================== ================================================================================
anything of shape (F, H, W, 3)  The observations of a camera, or (F, 3, H, W); the name is that of the camera
``rewards``                     (T,), or ``reward``
``actions``                     (T, ...), or ``action``; only their number is read
``task``                        The instruction; or ``tasks``, a list of ways to say it
``terminated``, ``truncated``   (T,) or one value
``dones``                       (T,) or one value, or ``done``: a termination, where ``terminated`` is missing
``success``                     One value, or one per step of which any counts; or ``is_success``
=============================== ================================================================================

T is the number of rewards, else of actions, else F - 1. With F = T + 1, rewards are paid for what follows a step; with
F = T the last step is imputed.

What is written: a folder with the same files, in which everything else is the same to the last byte, ``rewards`` is new
(added if there was none), and the arrays ``robometer/original_rewards``, ``robometer/progress``, ``robometer/success``
(F,), ``robometer/returns``, ``robometer/advantages``, ``robometer/success_detected`` and ``robometer/imputed`` (T,) are
added; and ``robometer.json``, see `robometer_rl.formats.dataset`. Episodes without labels are copied as they are.
"""

from __future__ import annotations

import io
import logging
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.archives import ARCHIVE_DAMAGE, ArchiveError, Member, read_arrays, read_members
from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.files import OutsideError, check_regular, inside, new_directory
from robometer_rl.formats.conventions import Assumptions, Cameras, cameras_among, choose_cameras
from robometer_rl.formats.dataset import (
    LABEL_ARRAYS,
    DatasetOptions,
    DirectoryWriter,
    EpisodeError,
    EpisodeLabels,
    Labels,
    LabelWriter,
    RecordedEpisode,
    RelabelDataset,
    StoredLabels,
    WriteMode,
    default_output,
    fingerprint,
    read_metadata,
    write_metadata,
)
from robometer_rl.true_success import find_success, read_steps
from robometer_rl.video.lazy import LazyFrames, Orientation

__all__ = ["NpzDataset", "NpzFrames", "is_format", "open_dataset"]

logger = logging.getLogger(__name__)

_PREFIX: Final = "robometer/"
_ORIGINAL: Final = f"{_PREFIX}original_rewards"
_REWARDS: Final = ("rewards", "reward")
_ACTIONS: Final = ("actions", "action")
_DONES: Final = ("terminated", "dones", "done")
_SUCCESS: Final = ("success", "is_success")


def is_format(path: Path) -> bool:
    """Whether ``path`` is a folder with ``.npz`` files in it."""
    return path.is_dir() and any(path.glob("*.npz"))


def open_dataset(options: DatasetOptions) -> NpzDataset:
    """Opens a folder of episodes.

    Raises:
        SourceError: It has no episodes, no such camera, or several without a choice.
    """
    return NpzDataset(options)


class NpzFrames(LazyFrames):
    """Frames in an ``.npz`` file, read from front to back without holding all of them."""

    def __init__(self, path: Path, name: str, member: Member, orientation: Orientation = "as_stored") -> None:
        if member.is_fortran:
            raise EpisodeError(f"the array {name!r} is in Fortran order; save it with numpy.ascontiguousarray")
        super().__init__(member.shape, orientation, member.dtype)
        self._path = path
        self._name = name
        self._member = member
        self._stream: IO[bytes] | None = None

    def __str__(self) -> str:
        return f"{self._path}, array {self._name!r}"

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        start, count = int(rows[0]), int(rows[-1] - rows[0]) + 1
        dtype, shape = self._member.dtype, self._member.shape[1:]
        frame_bytes = int(np.prod(shape)) * dtype.itemsize
        try:
            if self._stream is None:
                # The stream lives as long as this object, and is the only one that refers to the file.
                self._stream = zipfile.ZipFile(self._path).open(f"{self._name}.npy")  # noqa: SIM115
            # Going forward decompresses what is passed over; going back starts again.
            self._stream.seek(self._member.offset + start * frame_bytes)
            content = self._stream.read(count * frame_bytes)
            return np.frombuffer(content, dtype).reshape(count, *shape)[rows - start]
        except ARCHIVE_DAMAGE as error:
            raise EpisodeError(f"{self}: {error}") from error


class NpzDataset(RelabelDataset):
    """A folder of ``.npz`` episodes; see the module."""

    format = "npz"

    def __init__(self, options: DatasetOptions) -> None:
        """See `open_dataset`."""
        self.options = options
        keys: list[str] = []
        skipped: list[Unreadable] = []
        for path in sorted(options.path.glob("*.npz")):
            try:
                check_regular(inside(options.path, path.name))
                keys.append(path.name)
            except (OutsideError, OSError) as error:  # would be read, and copied, as what it leads to
                skipped.append(Unreadable(path.name, str(error)))
        if not keys:
            raise SourceError(f"{options.path} has no .npz files" + (f": {skipped[0].reason}" if skipped else ""))
        self.keys, self.skipped = tuple(keys), tuple(skipped)
        found = self._cameras()
        self.cameras = choose_cameras(options.path, found.names, options.cameras, found.refused)
        self._orientation: Orientation = Assumptions(options.path).orientation(options.orientation)

    def episode(self, key: str) -> RecordedEpisode:
        """See `RelabelDataset.episode`."""
        path = self.options.path / key
        members = read_members(path)
        missing = [name for name in self.cameras if name not in members]
        if missing:
            raise EpisodeError(f"it has no pictures of {', '.join(missing)}; its arrays are {sorted(members)}")
        frames = {name: NpzFrames(path, name, members[name], self._orientation) for name in self.cameras}
        values = _small_arrays(path)
        rewards = _first(values, (_ORIGINAL, *_REWARDS))
        # An episode that had no rewards of its own before it was labelled has an empty array in their place.
        has_rewards = rewards is not None and len(np.atleast_1d(rewards)) > 0
        terminated, truncated = _last(_first(values, _DONES)), _last(values.get("truncated"))
        name = find_success(values)
        said = [] if name is None else [value for value in read_steps(name, values[name]) if value is not None]
        return RecordedEpisode(
            key=key,
            tasks=self.options.tasks or _tasks(values),
            cameras=frames,
            num_steps=_num_steps(members, len(frames[self.cameras[0]])),
            task_rewards=np.asarray(rewards, np.float64) if has_rewards else None,
            terminated=terminated and not (truncated and "terminated" not in values),
            truncated=truncated,
            success=any(said) if said else None,
        )

    def stored_labels(self, key: str) -> StoredLabels | None:
        """See `RelabelDataset.stored_labels`."""
        path = self.options.path / key
        names = {f"{_PREFIX}{name}": name for name in LABEL_ARRAYS if name != "rewards"}
        values = read_arrays(path, *names, *_REWARDS)
        arrays = {name: values[stored] for stored, name in names.items() if stored in values}
        rewards = _first(values, _REWARDS)
        labels = EpisodeLabels.read(key, arrays if rewards is None else arrays | {"rewards": rewards})
        return None if labels is None else StoredLabels(labels, read_metadata(self.options.path))

    def fingerprint(self) -> str:
        """See `RelabelDataset.fingerprint`."""
        return fingerprint(self.keys, [self.options.path / key for key in self.keys])

    def writer(self, mode: WriteMode, output: Path | None = None) -> LabelWriter:
        """See `RelabelDataset.writer`."""
        return _NpzWriter(self, output or default_output(self.options.path))

    def _cameras(self) -> Cameras:
        """Those of the first file that has any."""
        refused: dict[str, str] = {}
        for key in self.keys:
            try:
                members = read_members(self.options.path / key)
            except ArchiveError:
                continue
            found = cameras_among({name: (member.shape, member.dtype) for name, member in members.items()})
            if found.names:
                return found
            refused |= found.refused
        if refused:
            return Cameras((), refused)
        raise SourceError(f"not one of the {len(self.keys)} .npz files in {self.options.path} has pictures in it")


class _NpzWriter(DirectoryWriter):
    """Copies a folder of episodes with new rewards."""

    def __init__(self, dataset: NpzDataset, destination: Path) -> None:
        self.destination = destination
        self._dataset = dataset

    def write(self, labels: Labels) -> None:
        """See `LabelWriter.write`."""
        damaged: list[Unreadable] = []
        with new_directory(self.destination) as directory:
            for key in self._dataset.keys:
                path = self._dataset.options.path / key
                try:
                    if key in labels.episodes:
                        _write_episode(path, directory / key, labels.episodes[key])
                        continue
                except EpisodeError as error:  # in an array that is nothing to a model
                    damaged.append(Unreadable(key, str(error)))
                    logger.warning("%s is copied without labels: %s", key, error)
                shutil.copyfile(path, directory / key)
            left = {key: each for key, each in labels.episodes.items() if key not in {entry.name for entry in damaged}}
            write_metadata(directory, replace(labels, episodes=left, skipped=(*labels.skipped, *damaged)))


def _write_episode(source: Path, target: Path, labels: EpisodeLabels) -> None:
    members = read_members(source)
    values = _small_arrays(source)
    name = next((name for name in _REWARDS if name in members), _REWARDS[0])
    original = _first(values, (_ORIGINAL, name))
    like = values[name].dtype if name in values and np.issubdtype(values[name].dtype, np.floating) else np.float64
    changed = {
        name: labels.rewards.astype(like),
        _ORIGINAL: np.zeros(0) if original is None else original,
        f"{_PREFIX}progress": labels.progress,
        f"{_PREFIX}success": labels.success,
        f"{_PREFIX}returns": labels.returns,
        f"{_PREFIX}advantages": labels.advantages,
        f"{_PREFIX}success_detected": labels.success_detected,
        f"{_PREFIX}imputed": labels.imputed,
    }
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            if info.filename.removesuffix(".npy") not in changed:
                _copy_member(old, new, info)
        for array_name, array in changed.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            # A fixed date: the same labels give the same bytes.
            new.writestr(zipfile.ZipInfo(f"{array_name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)


def _copy_member(old: zipfile.ZipFile, new: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    copied = zipfile.ZipInfo(info.filename, info.date_time)
    copied.compress_type, copied.file_size = info.compress_type, info.file_size
    with new.open(copied, "w") as target:
        for piece in _pieces(old, info):
            target.write(piece)


def _pieces(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """The content of a member; `EpisodeError` if it is damaged."""
    try:
        with archive.open(info) as source:
            while piece := source.read(1 << 20):
                yield piece
    except ARCHIVE_DAMAGE as error:
        raise EpisodeError(f"its member {info.filename} cannot be read: {error}") from error


def _small_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Everything that is read of an episode besides its pictures."""
    names = (_ORIGINAL, *_REWARDS, *_DONES, *_SUCCESS, "truncated", "task", "tasks")
    return read_arrays(path, *names)


def _num_steps(members: Mapping[str, Member], num_frames: int) -> int:
    for name in (*_REWARDS, *_ACTIONS):
        if name in members and members[name].shape:
            return members[name].shape[0]
    return num_frames - 1


def _tasks(values: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    stored = _first(values, ("tasks", "task"))
    return () if stored is None else tuple(str(task) for task in np.atleast_1d(stored))


def _first(values: Mapping[str, NDArray[Any]], names: tuple[str, ...]) -> NDArray[Any] | None:
    return next((values[name] for name in names if name in values), None)


def _last(flags: NDArray[Any] | None) -> bool:
    return flags is not None and bool(np.atleast_1d(flags)[-1])
