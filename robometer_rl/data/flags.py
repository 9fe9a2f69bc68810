"""Flags that people have put on episodes in the studio, and which episodes they keep out of training.

A line of ``flags.jsonl`` has ``data``, ``episode``, ``flagged`` and ``note``; of two lines about one episode the later
one counts.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from robometer_rl.documents import read_records
from robometer_rl.ranges import require_texts

__all__ = ["FLAGS", "Exclusion", "Flag", "data_name"]

logger = logging.getLogger(__name__)

FLAGS: Final = "flags.jsonl"
"""The file of a folder of notes that they are in."""


@dataclass(frozen=True)
class Flag:
    """What a person noted about an episode.

    Attributes:
        data: The data set, see `data_name`.
        episode: The episode in it.
        flagged: Whether it is flagged.
        note: Why.
    """

    data: str
    episode: str
    flagged: bool
    note: str = ""

    def __post_init__(self) -> None:
        require_texts(self, "data", "episode", "note")
        if not isinstance(self.flagged, bool):
            raise TypeError(f"flagged of Flag must be true or false, got {self.flagged!r}")


def data_name(place: Path) -> str:
    """What notes and pages call a data set: the last part of its path, never the folders above it."""
    return Path(os.path.abspath(place)).name


class Exclusion:
    """The flagged episodes of some data sets, left out while these are read.

    Args:
        flags: A file of flags; None leaves nothing out.
        names: Of the data sets, see `data_name`.

    Raises:
        DocumentError: A line is no flag; the message names it.
        ValueError: There are flags, and none of these data sets.
        OSError: The file cannot be read.
    """

    def __init__(self, flags: Path | None, names: Sequence[str]) -> None:
        self._file = flags
        self._flagged = frozenset[str]() if flags is None else _flagged(flags, names)
        self._there: set[str] = set()
        self._left_out: set[str] = set()

    @property
    def count(self) -> int:
        """How many were left out that were wanted."""
        return len(self._left_out)

    def lets_in(self, episode: str, is_wanted: bool) -> bool:
        """Whether an episode that is there is to be used."""
        if episode not in self._flagged:
            return is_wanted
        self._there.add(episode)
        if is_wanted:
            self._left_out.add(episode)
        return False

    def end(self, others: Iterable[str], are_all_there: bool = True) -> None:
        """Says how many were left out, and counts what is flagged and not there.

        Args:
            others: Episodes that are there, too, without `lets_in` having been asked: damaged ones.
            are_all_there: Whether the data sets were read as a whole.

        Raises:
            ValueError: None of what is flagged is there.
        """
        if self._file is None:
            return
        if missing := sorted(self._flagged - self._there.union(others)):
            said = f"{len(missing)} of the {len(self._flagged)} episodes that {self._file} flags are not in the data"
            if len(missing) == len(self._flagged) and are_all_there:
                raise ValueError(f"{said}, the first {missing[0]!r}: is this the data that was browsed?")
            logger.warning("%s, the first %r", said, missing[0])
        logger.info("%d flagged episodes are left out, as %s says", self.count, self._file)


def _flagged(flags: Path, names: Sequence[str]) -> frozenset[str]:
    latest = {(flag.data, flag.episode): flag.flagged for flag in read_records(flags, Flag)}
    flagged = [about for about, is_flagged in latest.items() if is_flagged]
    found = frozenset(episode for data, episode in flagged if data in names)
    if flagged and not found:
        others = ", ".join(sorted({data for data, _ in flagged}))
        raise ValueError(
            f"{flags} flags episodes of {others}, and none of {', '.join(names)}: give the data by the name under "
            "which it was browsed, or leave out --exclude"
        )
    if not flagged:
        logger.warning("%s flags no episode: nothing is left out", flags)
    return found
