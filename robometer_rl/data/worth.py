"""What frames are worth where a source measured it: its own progress, a distance to the goal, or any simulator state.

Each is about all episodes of a task together, so that a failure is worth what a success was worth in the same place:

- ``progress`` is taken as it is.
- ``distance`` d_t is measured against its value d_0 in the first frame and the value d* at which the task is done (the
  median over first successes; 0 where nothing succeeded): ``c_t = 1 - max(d_t - d*, 0) / (d_0 - d*)``, within [0, 1].
  A distance that stays what it was while the robot is on its way to an object says nothing of that way. Where
  successful episodes spend a part of their time so, the way to the first change of the distance counts up to
  `TargetConfig.reaching`, linear in time, in episodes that get on afterwards: ``reaching r_t + (1 - reaching) c_t``.
  A source that adds the hand's way to the object to its distance needs no such guess, and failures are then paid
  for reaching, too.
- ``state`` of any layout is made a distance first (`SuccessRelations`): how far what success brings about still is.

In frames in which the task is judged done, progress is 1, and in others at most `UNDONE_CEILING`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.trajectory import Trajectory, TrajectoryError

__all__ = ["STATE_PARTS", "UNDONE_CEILING", "Measured", "SuccessRelations", "measured_progress", "state_parts"]

UNDONE_CEILING: Final = 0.95
"""Progress of a frame in which the task is not done is at most this."""

Source = Literal["progress", "distance", "state"]

STATE_PARTS: Final = "state_parts"
"""Entry of `Trajectory.metadata`: names of parts of the state, each with its first column and the one behind its last,
as in ``{"hand": [0, 3], "block": [3, 6], "goal": [25, 28]}``."""

_LEAST_SUCCESSES: Final = 5  # to say what success looks like in a state
_CHANGED: Final = 0.05  # part of the way by which a distance has changed when it has
_GOT_ON: Final = 0.1  # part of the way that an episode makes if reaching was of use
_WAITING: Final = (
    0.15  # part of the time to success for which a distance does not change if it says nothing of reaching
)
_SMALLEST_SCALE: Final = 0.2  # of an episode's way, as part of the median one: who begins at the goal is not there yet
_MOST_PAIRED: Final = 64  # columns whose differences are looked at
_BROUGHT_ABOUT: Final = 3.0  # how much farther from success a relation is in the beginning than it varies at success
_FARTHEST: Final = 2.0  # times the first distance of experts: what lies beyond counts no more
_TINY: Final = 1e-30
_TELLING: Final = 0.1  # weight of a relation below which it is left out

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measured:
    """Progress of the frames of one trajectory, and what it was taken from.

    Attributes:
        progress: (T,) float32 in [0, 1].
        source: The field of `Trajectory` that says so.
    """

    progress: NDArray[np.float32]
    source: Source


def measured_progress(
    trajectories: Sequence[Trajectory], references: Sequence[Trajectory], reaching: float
) -> list[Measured | None]:
    """Progress where it was measured, of attempts at one task.

    Args:
        trajectories: What to measure.
        references: Attempts at the same task that say at which distance and in which states it is done.
        reaching: See `TargetConfig.reaching`.

    Returns:
        One entry per trajectory; None where neither progress, distance nor a state was recorded, or where there are
        too few successes to say what a state is worth.

    Raises:
        TrajectoryError: States of different widths, or parts that are not among the columns of a state.
    """
    by_distance = _DistanceScale.of([each for each in references if each.distance is not None], _distance, reaching)
    # Only asked for where it is needed: states of those that say more need not agree.
    needs_state = [each for each in trajectories if _source(each) == "state"]
    relations = SuccessRelations.of(references) if needs_state else None
    by_state = None
    if relations is not None:
        states = [each for each in references if each.state is not None]
        by_state = _DistanceScale.of(states, relations.distance, reaching)
    found: list[Measured | None] = []
    for trajectory in trajectories:
        source, progress = _source(trajectory), None
        if source == "progress":
            progress = trajectory.progress
        elif source == "distance":
            progress = by_distance.progress(trajectory, _distance(trajectory))
        elif source == "state" and relations is not None and by_state is not None:
            progress = by_state.progress(trajectory, relations.distance(trajectory))
        found.append(None if source is None or progress is None else Measured(progress.astype(np.float32), source))
    return found


def _source(trajectory: Trajectory) -> Source | None:
    if trajectory.progress is not None:
        return "progress"
    if trajectory.distance is not None:
        return "distance"
    return None if trajectory.state is None else "state"


def _distance(trajectory: Trajectory) -> Floats:
    assert trajectory.distance is not None
    return trajectory.distance.astype(np.float64)


@dataclass(frozen=True)
class _DistanceScale:
    """How a distance becomes progress, for one task.

    Attributes:
        done: Distance at which the task is done.
        way: Median of what the first frames are away from that.
        reaching: What is paid for the time in which the distance does not change; 0 where it always does.
    """

    done: float
    way: float
    reaching: float

    @classmethod
    def of(
        cls, references: Sequence[Trajectory], distance: Callable[[Trajectory], Floats], reaching: float
    ) -> _DistanceScale:
        distances = [distance(each) for each in references]
        firsts = [
            (values, each.success_index)
            for each, values in zip(references, distances, strict=True)
            if each.success_index
        ]
        done = float(np.median([values[index] for values, index in firsts])) if firsts else 0.0
        way = float(np.median([values[0] - done for values in distances])) if distances else 1.0
        waits = [_first_change(values, done) / index for values, index in firsts]
        waiting = bool(waits) and float(np.median(waits)) > _WAITING
        return cls(done, max(way, _TINY), reaching if waiting else 0.0)

    def progress(self, trajectory: Trajectory, distance: Floats) -> Floats:
        """(T,) progress of a trajectory with (T,) distances."""
        scale = max(distance[0] - self.done, _SMALLEST_SCALE * self.way)
        along = np.clip(1.0 - np.maximum(distance - self.done, 0.0) / scale, 0.0, 1.0)
        value = along
        if self.reaching:
            value = self.reaching * self._reached(distance, along) + (1.0 - self.reaching) * along
        if trajectory.success is None:
            return value
        return np.where(trajectory.success, 1.0, np.minimum(value, UNDONE_CEILING))

    def _reached(self, distance: Floats, along: Floats) -> Floats:
        """(T,) how far the way to the object has come, as time has it; 0 in episodes that never get on."""
        changed = _first_change(distance, self.done)
        if along.max() - along[0] < _GOT_ON:
            return np.zeros(len(distance))
        return np.minimum(np.arange(len(distance)) / max(changed, 1), 1.0)


def _first_change(distance: Floats, done: float) -> int:
    """The last frame before the distance changes; the last one of all if it never does."""
    away = np.abs(distance - distance[0]) > _CHANGED * max(abs(distance[0] - done), _TINY)
    return max(int(np.argmax(away)) - 1, 0) if away.any() else len(distance) - 1


def state_parts(trajectory: Trajectory) -> dict[str, slice]:
    """The named parts of a trajectory's state, see `STATE_PARTS`; none if none are named.

    Raises:
        TrajectoryError: Parts that are not among the columns.
    """
    named = trajectory.metadata.get(STATE_PARTS)
    if named is None or trajectory.state is None:
        return {}
    width = trajectory.state.shape[1]
    parts: dict[str, slice] = {}
    if not isinstance(named, Mapping):
        raise TrajectoryError(f"trajectory {trajectory.id!r} has the state parts {named!r}; {_expected(width)}")
    for name, columns in named.items():
        if not _is_part(columns, width):
            raise TrajectoryError(
                f"trajectory {trajectory.id!r} has the state part {name!r} in the columns {columns!r}; "
                f"{_expected(width)}"
            )
        parts[name] = slice(*columns)
    return parts


def _expected(width: int) -> str:
    return (
        f"expected for each name its first column and the one behind its last, of {width} columns, as in "
        "{'hand': [0, 3]}"
    )


def _is_part(columns: Any, width: int) -> bool:
    if not isinstance(columns, (list, tuple)) or len(columns) != 2:
        return False
    whole = all(isinstance(column, int) and not isinstance(column, bool) for column in columns)
    return whole and 0 <= columns[0] < columns[1] <= width


class SuccessRelations:
    """What success brings about in simulator states of one task, and how far a state is from it.

    Candidates are the columns of the state and the differences of columns: of parts of equal width, where parts are
    named, and otherwise of all pairs of columns that success does not fix by themselves. A candidate counts if it is
    the same whenever the task is done and was farther from that in the beginning: the place of a block relative to its
    goal does, the place of either does not. It counts the more, the better it tells final frames of successes from
    those of failures. The distance is the root mean square of all of them, each in units of the first frames of
    successes: 1 in the beginning, 0 when all is as it is in successes.
    """

    def __init__(self, pairs: NDArray[np.int64], centers: Floats, scales: Floats, weights: Floats, width: int) -> None:
        """Relations (R, 2): columns, the second -1 for a column alone; each with centre, scale and weight (R,)."""
        self._pairs, self._centers, self._scales, self._weights = pairs, centers, scales, weights
        self._width = width

    @classmethod
    def of(cls, references: Sequence[Trajectory]) -> SuccessRelations | None:
        """Looks at all episodes with states; None if too few of them succeed, or success fixes nothing.

        Raises:
            TrajectoryError: States of different widths.
        """
        known = [each for each in references if each.state is not None]
        done = [each for each in known if each.success_index]
        if len(done) < _LEAST_SUCCESSES:
            return None
        width = _width(known)
        parts = state_parts(done[0])
        first = np.stack([_state(each)[0] for each in done])
        success = np.stack([_state(each)[each.success_index or 0] for each in done])
        spread = np.concatenate([_state(each) for each in known]).std(axis=0)
        alone = np.stack([np.arange(width), np.full(width, -1)], axis=1)
        fixed = _consistency(alone, first, success, spread) > _BROUGHT_ABOUT
        pairs = np.concatenate([alone[fixed], _differences(parts, np.flatnonzero(~fixed & (spread > 0)))])
        pairs = pairs[_consistency(pairs, first, success, spread) > _BROUGHT_ABOUT]
        if not len(pairs):
            return None
        centers = np.median(_values(pairs, success), axis=0)
        scales = np.abs(_values(pairs, first) - centers).mean(axis=0)
        weights = _telling(pairs, centers, done, [each for each in known if each.success_index is None])
        kept = weights > _TELLING
        if not kept.any():
            return None
        return cls(pairs[kept], centers[kept], scales[kept], weights[kept], width)

    def distance(self, trajectory: Trajectory) -> Floats:
        """(T,) distance of the states of a trajectory.

        Raises:
            TrajectoryError: It has states of another width than those that this was made from.
        """
        state = _state(trajectory)
        if state.shape[1] != self._width:
            raise _wrong_width(trajectory, self._width, "other episodes of its task")
        away = np.abs(_values(self._pairs, state) - self._centers) / self._scales
        squares = np.minimum(away, _FARTHEST) ** 2
        return np.sqrt(squares @ self._weights / self._weights.sum())


def _state(trajectory: Trajectory) -> Floats:
    assert trajectory.state is not None
    return trajectory.state.astype(np.float64)


def _width(trajectories: Sequence[Trajectory]) -> int:
    width = _state(trajectories[0]).shape[1]
    for trajectory in trajectories:
        if _state(trajectory).shape[1] != width:
            raise _wrong_width(trajectory, width, f"{trajectories[0].id!r}, which is an attempt at the same task")
    return width


def _wrong_width(trajectory: Trajectory, width: int, others: str) -> TrajectoryError:
    return TrajectoryError(
        f"trajectory {trajectory.id!r} has states of {_state(trajectory).shape[1]} numbers; expected {width}, as in "
        f"{others}. Record all episodes of a task with one layout, or leave `state` out"
    )


def _differences(parts: Mapping[str, slice], free: NDArray[np.int64]) -> NDArray[np.int64]:
    """(R, 2) pairs of columns whose difference may mean something."""
    if parts:
        spans = [range(part.start, part.stop) for part in parts.values()]
        pairs = [pair for a, b in combinations(spans, 2) if len(a) == len(b) for pair in zip(a, b, strict=True)]
    else:
        pairs = list(combinations(free[:_MOST_PAIRED].tolist(), 2))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _values(pairs: NDArray[np.int64], state: Floats) -> Floats:
    """(T, R) relations of (T, D) states."""
    second = np.where(pairs[:, 1] >= 0, state[:, pairs[:, 1]], 0.0)
    return state[:, pairs[:, 0]] - second


def _consistency(pairs: NDArray[np.int64], first: Floats, success: Floats, spread: Floats) -> Floats:
    """(R,) how many times farther from their values at success relations are in first frames than these vary."""
    done = _values(pairs, success)
    center = np.median(done, axis=0)
    varies = np.abs(done - center).mean(axis=0)
    # What is exact at success (a latch, say) is not infinitely consistent; rounding is the least that varies.
    least = 1e-2 * (spread[pairs[:, 0]] + np.where(pairs[:, 1] >= 0, spread[pairs[:, 1]], 0.0))
    return np.abs(_values(pairs, first) - center).mean(axis=0) / np.maximum(varies, np.maximum(least, 1e-12))


def _telling(
    pairs: NDArray[np.int64], centers: Floats, done: Sequence[Trajectory], failed: Sequence[Trajectory]
) -> Floats:
    """(R,) in [0, 1]: how well each relation tells first successes from the last frames of episodes without one."""
    if not failed:
        return np.ones(len(pairs))
    near = np.abs(_values(pairs, np.stack([_state(each)[each.success_index or 0] for each in done])) - centers)
    far = np.abs(_values(pairs, np.stack([_state(each)[-1] for each in failed])) - centers)
    better = (near[:, None] < far[None]).mean(axis=(0, 1)) + 0.5 * (near[:, None] == far[None]).mean(axis=(0, 1))
    return np.clip(2.0 * better - 1.0, 0.0, 1.0)
