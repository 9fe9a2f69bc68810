"""Opening a store for training or evaluation: what is damaged is found, counted and listed before the first step."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from rich.progress import Progress

from robometer_rl.data.reading import Unreadable
from robometer_rl.data.store import StoredFrames, StoreError, TrajectoryStore
from robometer_rl.data.streaming import open_store
from robometer_rl.data.trajectories import Described, Listing, Trajectories
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.report.terminal import open_console

__all__ = ["VerifiedTrajectories", "open_verified", "selected", "verify_store", "warn_of_skipped"]

logger = logging.getLogger(__name__)

_VERIFIED: Final = 10_000
"""Trajectories in a store of which the frame files are all read before it is used; those of larger ones are compared
with their checksums when they are used."""

_LISTED = 20  # of the trajectories that are skipped, how many the log names


@dataclass(frozen=True)
class VerifiedTrajectories:
    """The sound trajectories of a store, and the others.

    Attributes:
        trajectories: In order of their ids; frame files that were compared now are not when they are decoded.
        skipped: Those that are damaged, by id, with what is wrong with each.
    """

    trajectories: Trajectories
    skipped: tuple[Unreadable, ...]


def open_verified(path: str | Path, wanted: Callable[[Described], bool] | None = None) -> VerifiedTrajectories:
    """Opens the trajectories of a store that are as they were written; counts and lists the others in the log.

    Checksums and frame files of all of them are read before this returns, so that training does not meet a bad file
    after hours. One bad trajectory among thousands is no reason to stop. In stores of more than 10,000 trajectories,
    in packed ones and in those on the Hub, that would take hours itself: there rows are looked at and the sizes of
    shards, a checksum is compared when its trajectory is used, and ``robometer-rl data verify`` compares all of them.

    Args:
        path: Directory of the store, or its address, see `open_store`; nothing is created there.
        wanted: Which trajectories are meant, all of them if None. Frames of the others are not looked at.

    Raises:
        StoreError: There is no store, all that is wanted of it is damaged, or a shard is missing or cut short.
    """
    store = open_store(path)
    _require_shards(store)
    is_large = store.remote or store.shards or len(store) > _VERIFIED
    found = selected(store, wanted) if is_large else verify_store(store, wanted)
    warn_of_skipped(found.skipped, len(found.trajectories), path)
    return found


def _require_shards(store: TrajectoryStore) -> None:
    """One shard holds thousands of trajectories, which nobody wants to learn without by accident."""
    broken = store.broken_shards()
    if broken:
        listed = "; ".join(list(broken.values())[:_LISTED])
        raise StoreError(
            f"{len(broken)} of the {len(store.shards)} shards of {store.path} are not whole: {listed}. Fetch them "
            "again, or pack the store again"
        )


def warn_of_skipped(skipped: Sequence[Unreadable], sound: int, place: str | Path) -> None:
    """Lists in the log what is damaged at a place where so many are sound.

    Raises:
        StoreError: None is.
    """
    if skipped:
        of_all = f"{len(skipped)} of {len(skipped) + sound} trajectories in {place}"
        if not sound:
            raise StoreError(f"{of_all} are damaged: all that are asked for. The first: {skipped[0].reason}")
        logger.warning("%s are damaged and skipped:\n%s", of_all, _listed(skipped))


def selected(place: Listing, wanted: Callable[[Described], bool] | None = None) -> VerifiedTrajectories:
    """The trajectories of a place by what is known of them; nothing is verified but that it can be read.

    Args:
        place: Where they are.
        wanted: Which are meant, all of them if None.
    """
    positions, damaged = array("q"), list[Unreadable]()
    for position, found in place.facts():
        if isinstance(found, Unreadable):
            damaged.append(found)
        elif wanted is None or wanted(found):
            positions.append(position)
    return VerifiedTrajectories(Trajectories([(place, np.asarray(positions, np.int64))]), tuple(damaged))


def verify_store(store: TrajectoryStore, wanted: Callable[[Described], bool] | None = None) -> VerifiedTrajectories:
    """Compares all checksums of a store, and looks at every frame file, see `StoredFrames.verify`.

    Args:
        store: What to verify.
        wanted: Which trajectories, all of them if None. One whose row cannot be read may be any and is listed.
    """
    sound: list[Trajectory] = []
    damaged: list[Unreadable] = []
    rows = (row for row in _rows(store) if isinstance(row, Unreadable) or wanted is None or wanted(row))
    with ThreadPoolExecutor() as threads, Progress(console=open_console(stderr=True), transient=True) as progress:
        # Files are read and hashed outside of the interpreter's lock.
        for row in progress.track(threads.map(_verified, rows), total=len(store), description="verifying"):
            if isinstance(row, Unreadable):
                damaged.append(row)
            else:
                sound.append(row)
    return VerifiedTrajectories(Trajectories.of(sound), tuple(damaged))


def _rows(store: TrajectoryStore) -> Iterator[Trajectory | Unreadable]:
    for trajectory_id in store.ids():
        try:
            yield store[trajectory_id]
        except StoreError as error:
            yield Unreadable(trajectory_id, str(error))


def _verified(row: Trajectory | Unreadable) -> Trajectory | Unreadable:
    if isinstance(row, Unreadable):
        return row
    assert isinstance(row.frames, StoredFrames)
    try:
        row.frames.verify()
    except StoreError as error:
        return Unreadable(row.id, str(error))
    return row


def _listed(skipped: Sequence[Unreadable]) -> str:
    lines = [f"  {entry.reason}" for entry in skipped[:_LISTED]]
    more = len(skipped) - len(lines)
    return "\n".join([*lines, f"  and {more} more: `robometer-rl data verify` lists them"] if more else lines)
