"""Many trajectories: a sequence that makes each when it is asked for, and says of all at once what is known of them.

A million trajectories are a million rows of a file, and not a million objects: what chooses among them, counts them or
plans samples looks at their `Facts`, one after the other, and only what is shown to a model becomes a `Trajectory`.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import Unreadable
from robometer_rl.data.rows import Row
from robometer_rl.data.trajectory import JUDGED, TILED, Trajectory, TrajectoryError

__all__ = ["FIELDS", "Described", "Facts", "Listing", "Trajectories", "are_tiled"]


@dataclass(slots=True, eq=False)  # not frozen, which would make a million of them take twice as long
class Facts:
    """A trajectory without its frames and what is known of each of them; see `Trajectory` for what is called the same.

    Attributes:
        shape: ``(T, H, W, 3)``.
        judged: See `Trajectory.judged`.
        noted: The metadata as JSON.
    """

    id: str
    task: str
    quality_label: Any
    data_source: str
    is_robot: bool
    partial_success: float | None
    skill: str | None
    split: str
    instructions: tuple[str, ...]
    shape: tuple[int, ...]
    judged: bool
    noted: str

    @classmethod
    def of(cls, row: Row) -> Facts:
        """What a row says."""
        values = row.values
        return cls(
            *(values[name] for name in FIELDS),
            instructions=tuple(values["instructions"]),
            shape=tuple(row.frames.shape),
            judged=any(values[name] is not None for name in JUDGED),
            noted=json.dumps(values["metadata"]),
        )

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.shape[1], self.shape[2]

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Further facts of the source."""
        return _parsed(self.noted)

    @property
    def tiled(self) -> bool:
        """See `Trajectory.tiled`."""
        return self.metadata.get(TILED) is True


Described = Trajectory | Facts
"""What chooses among trajectories may look at: both have these attributes."""

FIELDS = ("id", "task", "quality_label", "data_source", "is_robot", "partial_success", "skill", "split")
"""Fields of `Facts` with one value that are columns of a store."""


class Listing(Protocol):
    """A place with trajectories, each of which has a position that does not change."""

    def facts(self) -> Iterator[tuple[int, Described | Unreadable]]:
        """What is known of all, by position, ascending."""
        ...

    def __getitem__(self, key: int, /) -> Trajectory:
        """The one at a position."""
        ...


class Trajectories(Sequence[Trajectory]):
    """Trajectories of one or several places, each made when it is asked for."""

    def __init__(self, parts: Sequence[tuple[Listing, NDArray[np.int64]]]) -> None:
        """The trajectories at some positions, which ascend, of each of some places."""
        self._parts = [(listing, positions) for listing, positions in parts if len(positions)]
        self._starts = [0, *accumulate(len(positions) for _, positions in self._parts)]

    @classmethod
    def of(cls, trajectories: Iterable[Trajectory]) -> Trajectories:
        """The same trajectories."""
        if isinstance(trajectories, Trajectories):
            return trajectories
        given = _Given(tuple(trajectories))
        return cls([(given, np.arange(len(given.trajectories)))])

    @classmethod
    def joined(cls, several: Iterable[Trajectories]) -> Trajectories:
        """Those of several, one after the other."""
        return cls([part for each in several for part in each._parts])

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Trajectory: ...
    @overload
    def __getitem__(self, index: slice) -> Trajectories: ...
    def __getitem__(self, index: int | slice) -> Trajectory | Trajectories:
        """The trajectory at ``index``, or several.

        Raises:
            IndexError: There is none.
            ChecksumError: Its row is damaged.
        """
        if isinstance(index, slice):
            return self.subset(sorted(range(len(self))[index]))
        number = range(len(self))[index]
        part = bisect_right(self._starts, number) - 1
        listing, positions = self._parts[part]
        return listing[int(positions[number - self._starts[part]])]

    def subset(self, numbers: Sequence[int] | NDArray[np.int64]) -> Trajectories:
        """Those with some numbers, which ascend."""
        chosen = np.asarray(numbers, np.int64)
        bounds = np.searchsorted(chosen, self._starts)
        return Trajectories(
            [
                (listing, positions[chosen[first:last] - start])
                for (listing, positions), first, last, start in zip(
                    self._parts, bounds, bounds[1:], self._starts, strict=False
                )
            ]
        )

    def facts(self) -> Iterator[Described]:
        """What is known of each, in order."""
        for listing, positions in self._parts:
            wanted = iter(positions.tolist())
            following = next(wanted)
            for position, found in listing.facts():
                if position == following:
                    assert not isinstance(found, Unreadable)
                    yield found
                    following = next(wanted, -1)


@dataclass(frozen=True)
class _Given:
    """Trajectories that are there."""

    trajectories: tuple[Trajectory, ...]

    def facts(self) -> Iterator[tuple[int, Described | Unreadable]]:
        return enumerate(self.trajectories)

    def __getitem__(self, key: int, /) -> Trajectory:
        return self.trajectories[key]


def are_tiled(trajectories: Iterable[Described]) -> bool:
    """Whether trajectories that are learned from together show tiled pictures.

    Raises:
        TrajectoryError: Some do and some do not.
    """
    kinds = {trajectory.tiled: trajectory for trajectory in trajectories}
    if len(kinds) > 1:
        raise TrajectoryError(
            f"trajectory {kinds[True].id!r} shows several cameras in one picture and {kinds[False].id!r} shows one; a "
            "model learns from one kind: choose them by their data sources, or keep them in stores of their own"
        )
    return True in kinds


@lru_cache(maxsize=4096)
def _parsed(noted: str) -> Mapping[str, Any]:
    return json.loads(noted)
