"""What a store keeps of a trajectory besides its frames: one row of plain values, and the checksum over them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.trajectory import Trajectory
from robometer_rl.documents import brief, parse_json
from robometer_rl.files import OutsideError, inside
from robometer_rl.frames import FrameSequence
from robometer_rl.streams import Region

__all__ = [
    "ID",
    "LATER",
    "PER_FRAME",
    "SCALARS",
    "SHARDS",
    "ChecksumError",
    "FrameFile",
    "Row",
    "ShardPlace",
    "StoreError",
    "are_plausible",
]

SCALARS: Final = (
    "id",
    "task",
    "quality_label",
    "data_source",
    "is_robot",
    "partial_success",
    "skill",
    "seed",
    "split",
    "source",
)
"""Fields of `Trajectory` with one value."""

PER_FRAME: Final[Mapping[str, type[np.generic]]] = {
    "success": np.bool_,
    "progress": np.float32,
    "state": np.float32,
    "distance": np.float32,
    "steps": np.int64,
    "proprioception": np.float32,
    "actions": np.float64,
}
"""Fields of `Trajectory` with one entry per frame, of actions perhaps without the last, and their types."""

LATER: Final = frozenset({"progress", "proprioception", "actions"})
"""Fields of `PER_FRAME` that rows of version 2 can lack, because they were written before there were such."""

ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,199}")
"""Ids of trajectories, which are names of files."""

SHARDS: Final = "shards"
"""The folder of packed frame files."""

_FOLDERS: Final = ("frames", "videos")
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    **dict.fromkeys(("id", "task", "quality_label", "data_source", "split"), (str,)),
    **dict.fromkeys(("skill", "source"), (str, type(None))),
    "is_robot": (bool,),
    "partial_success": (float, int, type(None)),
    "seed": (int, type(None)),
}

_SEEDS: Final = (-(2**63), 2**63)


class StoreError(ValueError):
    """A directory that is not a store of this version, or a trajectory that cannot be added to it."""


class ChecksumError(StoreError):
    """The files of a trajectory are not the ones that were written; the message names the trajectory."""


@dataclass(frozen=True)
class ShardPlace:
    """Where a frame file is that was packed into a shard with others.

    Attributes:
        shard: Name of the shard.
        start: The file's first byte in it.
        size: Its number of bytes.
    """

    shard: str
    start: int
    size: int

    def __post_init__(self) -> None:
        if not (isinstance(self.shard, str) and _is_count(self.start) and _is_count(self.size)):
            raise ValueError(f"its place in a shard is {brief((self.shard, self.start, self.size))}")


@dataclass(frozen=True)
class FrameFile:
    """Where the frames of a row are, and how to tell that they are the ones that were written.

    Attributes:
        file: The file, relative to the store; of a packed one that was its name, and its suffix says what it is.
        shape: ``(T, H, W, 3)``.
        sha256: Of the file.
        numbers: Which T frames of a video these are, counted from 0; None if the file holds these frames only.
        place: Where it is in a shard, if it was packed; no part of what the row's checksum is about.
    """

    file: str
    shape: tuple[int, int, int, int]
    sha256: str
    numbers: tuple[int, ...] | None = None
    place: ShardPlace | None = None

    def __post_init__(self) -> None:
        if not _is_shape(self.shape) or not isinstance(self.sha256, str):
            raise ValueError(f"its frames have the shape {brief(self.shape)}; expected (T, H, W, 3)")
        if self.numbers is not None and not (
            len(self.numbers) == self.shape[0] and all(_is_count(number) for number in self.numbers)
        ):
            raise ValueError(f"its {self.shape[0]} frames have the numbers {brief(self.numbers)} in their video")

    def source(self, root: Path) -> Path | Region:
        """Where it is in the store at ``root``; `OutsideError` if that is not among the store's frames."""
        folder, _, name = self.file.partition("/")
        if self.place is not None:
            shard = inside(root / SHARDS, self.place.shard)
            return Region((shard,), name, self.place.start, self.place.size)
        if folder not in _FOLDERS or "/" in name:
            raise OutsideError(f"{self.file!r} is not a file in {' or '.join(_FOLDERS)} of the store {root}")
        return inside(root / folder, name)


@dataclass(frozen=True)
class Row:
    """A trajectory without its frames.

    Attributes:
        values: `SCALARS`, ``instructions`` (a list), ``metadata`` (JSON values), and `PER_FRAME` as arrays or None.
        frames: Where its frames are.
        sha256: Of both of these.
    """

    values: Mapping[str, Any]
    frames: FrameFile
    sha256: str

    @classmethod
    def of(cls, trajectory: Trajectory, frames: FrameFile) -> Row:
        """The row of a trajectory whose frames have been written.

        Raises:
            StoreError: A seed of more than 64 bits, or metadata that JSON cannot hold.
        """
        values: dict[str, Any] = {name: getattr(trajectory, name) for name in (*SCALARS, *PER_FRAME)}
        values["instructions"] = list(trajectory.instructions)
        if trajectory.partial_success is not None:
            values["partial_success"] = float(trajectory.partial_success)
        if trajectory.seed is not None:
            values["seed"] = int(trajectory.seed)
            if not _SEEDS[0] <= values["seed"] < _SEEDS[1]:
                raise StoreError(f"trajectory {trajectory.id!r} has the seed {trajectory.seed}; expected 64 bits")
        try:
            values["metadata"] = json.loads(_dump(trajectory.metadata))
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"trajectory {trajectory.id!r} has metadata that is not JSON ({error}); "
                "expected dicts, lists, strings, finite numbers, booleans and None"
            ) from error
        return cls(values, frames, _checksum(values, frames))

    @property
    def id(self) -> str:
        """Id of the trajectory."""
        return self.values["id"]

    def check(self) -> None:
        """Raises `ChecksumError` if the row is not the one that was written."""
        if _checksum(self.values, self.frames) != self.sha256:
            raise ChecksumError(f"trajectory {self.id!r}: its row has changed since it was written; record it again")

    def placed(self, place: ShardPlace) -> Row:
        """The row once its frame file has been packed."""
        return replace(self, frames=replace(self.frames, place=place))

    def trajectory(self, frames: FrameSequence, **changes: Any) -> Trajectory:
        """The trajectory, with ``frames``, and other values of some fields."""
        values = {**self.values, "instructions": tuple(self.values["instructions"]), **changes}
        return Trajectory(frames=frames, **values)

    def to_json(self) -> bytes:
        """The row as JSON; the same row gives the same bytes."""
        values = dict(self.values)
        for name in PER_FRAME:
            values[name] = None if values[name] is None else _to_list(values[name])
        return _dump({**values, **_frame_entries(self.frames), "sha256": self.sha256})

    @classmethod
    def from_json(cls, content: str) -> Row:
        """The inverse of `to_json`.

        Raises:
            ValueError: Not JSON.
            KeyError: Not a row.
        """
        values = parse_json(content)
        if not isinstance(values, dict) or not are_plausible(values):
            raise ValueError("its fields are of other types than those of a trajectory")
        sha256 = values.pop("sha256")
        numbers = values.pop("frames_numbers")
        frames = FrameFile(
            file=values.pop("frames_file"),
            shape=tuple(values.pop("frames_shape")),
            sha256=values.pop("frames_sha256"),
            numbers=None if numbers is None else tuple(numbers),
        )
        return cls(with_arrays(values), frames, sha256)


def are_plausible(values: Mapping[str, Any]) -> bool:
    """Whether fields are of the types that they have in a row; fields with a value per frame are not looked at."""
    types = all(isinstance(values[name], kinds) for name, kinds in _TYPES.items() if name in values)
    return types and ("frames_shape" not in values or _is_shape(values["frames_shape"]))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_shape(value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and len(value) == 4
    return is_list and all(_is_count(length) and length > 0 for length in value) and value[3] == 3


def with_arrays(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with the lists of `PER_FRAME` as arrays; None for one that rows did not have when it was written."""
    lists = {name: values[name] if name not in LATER else values.get(name) for name in PER_FRAME}
    arrays = {name: None if rows is None else np.asarray(rows, PER_FRAME[name]) for name, rows in lists.items()}
    return {**values, **arrays}


def _frame_entries(frames: FrameFile) -> dict[str, Any]:
    return {
        "frames_file": frames.file,
        "frames_shape": list(frames.shape),
        "frames_sha256": frames.sha256,
        "frames_numbers": None if frames.numbers is None else list(frames.numbers),
    }


def _checksum(values: Mapping[str, Any], frames: FrameFile) -> str:
    """sha256 over the plain values as JSON, then the per-frame arrays as little-endian bytes: no number is rounded."""
    plain = {name: value for name, value in values.items() if name not in PER_FRAME}
    digest = hashlib.sha256(_dump({**plain, **_frame_entries(frames)}))
    for name in PER_FRAME:
        array = values[name]
        if array is not None:
            digest.update(f"{name}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array, np.dtype(PER_FRAME[name]).newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _to_list(array: NDArray[Any]) -> list[Any]:
    """Nested lists; a float32 becomes the shortest decimal that reads back as the same float32."""
    if array.dtype != np.float32:
        return array.tolist()
    return np.array([float(str(value)) for value in array.ravel()]).reshape(array.shape).tolist()


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(value), sort_keys=True, ensure_ascii=False, allow_nan=False).encode("utf-8")
