"""What every reader of a data format yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from robometer_rl.data.trajectory import Trajectory

__all__ = ["Reading", "SourceError", "Unreadable", "attempt"]


class SourceError(ValueError):
    """A whole data set that cannot be read; the message says what was found where, and what is expected."""


@dataclass(frozen=True)
class Unreadable:
    """An episode that could not be read, in the place where it would have been; whoever reads on counts and lists it.

    Attributes:
        name: The file, and the episode inside it if the file holds several.
        reason: What is wrong with it, in a sentence.
    """

    name: str
    reason: str


Reading = Iterator[Trajectory | Unreadable]
"""Episodes of one data set in a fixed order. What is wrong with the whole data set raises before the first one."""


def attempt(name: str, read: Callable[[], Trajectory]) -> Trajectory | Unreadable:
    """What ``read`` returns, or why this episode cannot be read.

    Args:
        name: See `Unreadable`.
        read: Reads the episode; a `ValueError` or `OSError` of it is taken to be about the episode.
    """
    try:
        return read()
    except (ValueError, OSError) as error:
        return Unreadable(name, str(error))
