"""Opening what training and evaluation read: stores, and published data where it lies."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from robometer_rl.data.flags import Exclusion, data_name
from robometer_rl.data.published import data_path
from robometer_rl.data.reading import Reading, Unreadable
from robometer_rl.data.trajectories import Described, Trajectories
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.data.verified import VerifiedTrajectories, open_verified, selected, warn_of_skipped
from robometer_rl.formats.rbm.index import open_in_place
from robometer_rl.formats.rbm.reader import RbmConfig
from robometer_rl.formats.roboreward import RoboRewardConfig, read_roboreward

__all__ = ["IN_PLACE", "ROBOREWARD", "OpenedEpisodes", "are_published", "open_episodes", "place_name"]

logger = logging.getLogger(__name__)

IN_PLACE: Final = "rbm:"
"""What the name of published data begins with, as in ``rbm:processed_datasets``; other names are those of stores.

Alone it is the caches where the reference's environment variables say, see `robometer_rl.data.published.data_path`."""

ROBOREWARD: Final = "roboreward:"
"""The same of RoboReward and what is laid out like it, as in ``roboreward:RoboReward``."""


@dataclass(frozen=True)
class OpenedEpisodes:
    """Episodes of one or more places.

    Attributes:
        trajectories: Those that are wanted and sound, place by place.
        skipped: Those that are damaged.
        held: How many sound ones there are, wanted or not, by split and data source.
        counts: How many of the trajectories come from each place.
        excluded: How many are wanted and flagged, and hence left out.
    """

    trajectories: Trajectories
    skipped: tuple[Unreadable, ...]
    held: Mapping[tuple[str, str], int]
    counts: tuple[int, ...]
    excluded: int

    @property
    def place_of(self) -> dict[str, int]:
        """Number of the place that each of the trajectories comes from, by its id."""
        numbers = (number for number, count in enumerate(self.counts) for _ in range(count))
        return {each.id: number for each, number in zip(self.trajectories.facts(), numbers, strict=True)}


def open_episodes(
    places: Sequence[str | Path],
    wanted: Callable[[Described], bool] | None = None,
    select: Sequence[str] = (),
    exclude: Path | None = None,
) -> OpenedEpisodes:
    """Opens places and checks what is wanted of them before it returns; damaged episodes are listed in the log.

    Frame files of stores are compared with their checksums. Of published data in place the headers of frame files are
    compared with the rows, and what is wrong with the pixels is seen when they are unpacked.

    Args:
        places: Stores, or with `IN_PLACE` before it whatever ``robometer-rl data import rbm`` takes, or with
            `ROBOREWARD` what ``import roboreward`` does.
        wanted: Which episodes are meant; all of them if None.
        select: Groups and keys of published data in place, see `RbmConfig`.
        exclude: A file of flags, see `robometer_rl.data.flags`: episodes that are flagged in a place are left out,
            wherever they are found.

    Raises:
        DocumentError: A line of ``exclude`` is no flag.
        StoreError: There is no such store, or all that is wanted of a place is damaged.
        SourceError: There is no published data at a place, or nothing of it that is selected.
        ValueError: ``select`` without published data to select from, or flags that fit nothing of the data.

    Examples:
        >>> open_episodes(["mine", "rbm:processed_datasets"], select=["mw"])    # doctest: +SKIP
    """
    in_place = are_published(places, select)
    held: Counter[tuple[str, str]] = Counter()
    taken: set[str] = set()
    opened: list[Trajectories] = []
    skipped: list[Unreadable] = []

    exclusion = Exclusion(exclude, [place_name(each) for each in places])

    def noting(trajectory: Described) -> bool:
        held[trajectory.split, trajectory.data_source] += 1
        return exclusion.lets_in(trajectory.id, wanted is None or wanted(trajectory))

    for place, is_published in zip(places, in_place, strict=True):
        if is_published or str(place).startswith(ROBOREWARD):
            found = _open_published(str(place), noting, select)
        else:
            found = open_verified(place, noting)
        opened.append(_new(found.trajectories, taken, place) if len(places) > 1 else found.trajectories)
        skipped += found.skipped
    exclusion.end((each.name for each in skipped), are_all_there=not select)
    return OpenedEpisodes(Trajectories.joined(opened), tuple(skipped), held, tuple(map(len, opened)), exclusion.count)


def are_published(places: Sequence[str | Path], select: Sequence[str]) -> list[bool]:
    """Which places are published data, of which a selection may be taken.

    Raises:
        ValueError: There is a selection, and nothing to select from.
    """
    found = [str(place).startswith(IN_PLACE) for place in places]
    if select and not any(found):
        raise ValueError(f"got the selection {', '.join(select)} and no published data, as in {IN_PLACE}DIRECTORY")
    return found


def place_name(place: str | Path) -> str:
    """What notes call a place."""
    name = str(place)
    if name.startswith(ROBOREWARD):
        return data_name(Path(name.removeprefix(ROBOREWARD)))
    return data_name(_published_path(name) if name.startswith(IN_PLACE) else Path(place))


def _published_path(place: str) -> Path:
    return Path(name) if (name := place.removeprefix(IN_PLACE)) else data_path("processed")


def _new(found: Trajectories, taken: set[str], place: str | Path) -> Trajectories:
    """Those whose ids are not taken, which they then are; says so of others."""
    repeated: list[str] = []
    kept: list[int] = []
    for number, each in enumerate(found.facts()):
        if each.id in taken:
            repeated.append(each.id)
        else:
            taken.add(each.id)
            kept.append(number)
    if repeated:
        said = "%d trajectories of %s have ids of a place before it and are left out, the first %s"
        logger.warning(said, len(repeated), place, repeated[0])
    return found.subset(kept) if repeated else found


def _open_published(place: str, wanted: Callable[[Described], bool], select: Sequence[str]) -> VerifiedTrajectories:
    if place.startswith(ROBOREWARD):
        found = _read(read_roboreward(RoboRewardConfig(Path(place.removeprefix(ROBOREWARD)))), wanted)
    else:
        found = selected(open_in_place(RbmConfig(_published_path(place), tuple(select))), wanted)
    warn_of_skipped(found.skipped, len(found.trajectories), place)
    return found


def _read(reading: Reading, wanted: Callable[[Described], bool]) -> VerifiedTrajectories:
    sound: list[Trajectory] = []
    skipped: list[Unreadable] = []
    for each in reading:
        if isinstance(each, Unreadable):
            skipped.append(each)
        elif wanted(each):
            sound.append(each)
    return VerifiedTrajectories(Trajectories.of(sound), tuple(skipped))
