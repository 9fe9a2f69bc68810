"""Trajectories on disk: one frame file and one row per trajectory, appended one at a time, safe to kill.

Layout of a store::

    store.json              {"format": "robometer-trajectories", "version": 1}
    frames/ID.zip           PNG images 000000.png, 000001.png, ... stored, not deflated again
    rows/ID.json            everything else, with the checksum of the trajectory

A row is put in place last and atomically, so a trajectory is visible when it is complete and not before. Nothing in
either file depends on when, where or in which order it was written: the same trajectories give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.data.trajectory import Trajectory
from robometer_rl.frames import as_frames

__all__ = ["ChecksumError", "StoreError", "StoredFrames", "TrajectoryStore"]

_HEADER = {"format": "robometer-trajectories", "version": 1}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,199}")
_PER_FRAME = ("success", "state", "distance", "steps")
_SCALARS = (
    "id",
    "task",
    "quality_label",
    "data_source",
    "is_robot",
    "partial_success",
    "skill",
    "seed",
    "split",
)


class StoreError(ValueError):
    """A directory that is not a store of this version, or a trajectory that cannot be added to it."""


class ChecksumError(RuntimeError):
    """The files of a trajectory are not the ones that were written; the message names the trajectory."""


class StoredFrames:
    """Frames of one stored trajectory, decoded when they are asked for.

    Only the frames of a request are decoded. The checksum of the trajectory is compared once per object, before the
    first frame is decoded.

    Attributes:
        path: The frame file.
        shape: ``(T, H, W, 3)``.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int], row: Mapping[str, Any]) -> None:
        """Frames of ``path``, checked against the checksum in ``row``."""
        self.path = path
        self.shape = shape
        self._row = row
        self._verified = False

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | NDArray[np.integer] | list[int]) -> NDArray[np.uint8]:
        """Decodes the chosen frames; an integer gives one image (H, W, 3), anything else a stack of them.

        Raises:
            ChecksumError: The files of the trajectory are missing or changed.
            IndexError: There is no such frame.
        """
        chosen = np.arange(len(self))[index]
        self._verify_once()
        with zipfile.ZipFile(self.path) as archive:
            images = [np.asarray(Image.open(archive.open(_member(i)))) for i in np.atleast_1d(chosen)]
        if np.ndim(chosen) == 0:
            return images[0]
        return np.stack(images) if images else np.empty((0, *self.shape[1:]), np.uint8)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def _verify_once(self) -> None:
        if self._verified:
            return
        try:
            content = self.path.read_bytes()
        except FileNotFoundError as error:
            raise ChecksumError(f"trajectory {self._row['id']!r}: its frame file {self.path} is missing") from error
        _verify(self._row, content)
        self._verified = True


class TrajectoryStore:
    """A local directory of trajectories, ordered by id.

    Several processes may append different trajectories to one directory at the same time; a store sees what was
    there when it was opened and what it appended itself.

    Example:
        >>> store = TrajectoryStore("recordings")                         # doctest: +SKIP
        >>> experts = [t for t in store if t.skill == "expert"]           # doctest: +SKIP
    """

    def __init__(self, path: str | Path) -> None:
        """Opens the store at ``path``, or starts one there if the directory is missing or empty.

        Raises:
            StoreError: The directory holds something else, or a store of another version.
        """
        self.path = Path(path)
        self._open_or_create()
        self._ids = sorted(row.stem for row in (self.path / "rows").glob("*.json"))
        self._known = set(self._ids)

    def _open_or_create(self) -> None:
        header = self.path / "store.json"
        if not header.exists():
            if self.path.exists() and any(self.path.iterdir()) and not (self.path / "rows").is_dir():
                raise StoreError(f"{self.path} is not empty and has no store.json; expected a trajectory store")
            for folder in ("frames", "rows"):
                (self.path / folder).mkdir(parents=True, exist_ok=True)
            _write_atomically(header, _to_json(_HEADER))
        found = json.loads(header.read_text())
        if found != _HEADER:
            raise StoreError(f"{header} says {found}; this release reads and writes {_HEADER}")

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, trajectory_id: object) -> bool:
        return trajectory_id in self._known

    def __iter__(self) -> Iterator[Trajectory]:
        return (self[trajectory_id] for trajectory_id in tuple(self._ids))

    def __getitem__(self, key: int | str) -> Trajectory:
        """The trajectory at a position in order of ids, or with an id; its frames are decoded lazily.

        Raises:
            IndexError: No such position.
            KeyError: No such id.
        """
        trajectory_id = key if isinstance(key, str) else self._ids[key]
        if trajectory_id not in self._known:
            raise KeyError(f"no trajectory {trajectory_id!r} in {self.path}")
        row = json.loads((self.path / "rows" / f"{trajectory_id}.json").read_text(encoding="utf-8"))
        frames = StoredFrames(self.path / "frames" / f"{trajectory_id}.zip", tuple(row["frames_shape"]), row)
        return Trajectory(
            frames=frames,
            instructions=tuple(row["instructions"]),
            metadata=row["metadata"],
            **{name: row[name] for name in (*_SCALARS, *_PER_FRAME)},
        )

    def ids(self) -> tuple[str, ...]:
        """Ids in the order of iteration."""
        return tuple(self._ids)

    def append(self, trajectory: Trajectory) -> None:
        """Writes ``trajectory``; when this returns it is complete on disk, and before that it is not visible.

        Raises:
            StoreError: The id is taken, or cannot be a file name.
        """
        if _ID.fullmatch(trajectory.id) is None:
            raise StoreError(f"the id {trajectory.id!r} cannot be a file name; expected {_ID.pattern}")
        row_path = self.path / "rows" / f"{trajectory.id}.json"
        if trajectory.id in self or row_path.exists():
            raise StoreError(f"{self.path} already has a trajectory {trajectory.id!r}")
        frames = as_frames(trajectory.frames[:])
        content = _encode(frames)
        row = _row(trajectory, frames.shape)
        row["sha256"] = _checksum(row, content)
        _write_atomically(self.path / "frames" / f"{trajectory.id}.zip", content)
        _write_atomically(row_path, _to_json(row))
        self._ids = sorted([*self._ids, trajectory.id])
        self._known.add(trajectory.id)

    def verify(self) -> None:
        """Compares every checksum; raises `ChecksumError` for the first trajectory that fails."""
        for trajectory in self:
            trajectory.frames[:0]  # reads the checksum and decodes nothing


def _row(trajectory: Trajectory, shape: tuple[int, ...]) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(trajectory, name) for name in _SCALARS}
    row["instructions"] = list(trajectory.instructions)
    row["metadata"] = dict(trajectory.metadata)
    row["frames_shape"] = list(shape)
    for name in _PER_FRAME:
        array = getattr(trajectory, name)
        row[name] = None if array is None else _to_list(array)
    return row


def _to_list(array: NDArray[Any]) -> list[Any]:
    """Nested lists; a float32 becomes the shortest decimal that reads back as the same float32."""
    if array.dtype != np.float32:
        return array.tolist()
    return np.array([float(str(value)) for value in array.ravel()]).reshape(array.shape).tolist()


def _to_json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False).encode("utf-8")


def _checksum(row: Mapping[str, Any], content: bytes) -> str:
    """sha256 over the frame file and everything in the row except the checksum itself."""
    digest = hashlib.sha256(content)
    digest.update(_to_json({name: value for name, value in row.items() if name != "sha256"}))
    return digest.hexdigest()


def _verify(row: Mapping[str, Any], content: bytes) -> None:
    found = _checksum(row, content)
    if found != row["sha256"]:
        raise ChecksumError(f"trajectory {row['id']!r}: checksum {found}, expected {row['sha256']}; record it again")


def _member(index: int) -> str:
    return f"{index:06d}.png"


def _encode(frames: NDArray[np.uint8]) -> bytes:
    """A zip archive of PNG images. ``ZipInfo`` without a date means 1980-01-01, so the bytes hold no clock."""
    archive_bytes = io.BytesIO()
    with zipfile.ZipFile(archive_bytes, "w", zipfile.ZIP_STORED) as archive:
        for index, frame in enumerate(frames):
            image = io.BytesIO()
            Image.fromarray(frame).save(image, format="png")
            archive.writestr(zipfile.ZipInfo(_member(index)), image.getvalue())
    return archive_bytes.getvalue()


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
