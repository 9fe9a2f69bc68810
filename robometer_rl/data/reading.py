"""What every reader of a data format yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from robometer_rl.data.trajectory import Trajectory

__all__ = ["EPISODE_DAMAGE", "Reading", "SourceError", "Unreadable", "attempt", "unreadable"]

EPISODE_DAMAGE: Final = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,  # of HDF5 and of FFmpeg
    TypeError,
    ValueError,
)
"""What reading an episode fails with whose file is damaged, or holds something else than its format says."""


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
        read: Reads the episode; an error among `EPISODE_DAMAGE` is taken to be about the episode.
    """
    try:
        return read()
    except EPISODE_DAMAGE as error:
        return unreadable(name, error)


def unreadable(name: str, error: Exception) -> Unreadable:
    """The entry for an episode that ended in an error.

    Examples:
        >>> unreadable("demo_3", KeyError("rewards")).reason
        "its file is damaged, or not what its format says: KeyError: 'rewards'"
    """
    says_what_is_wrong = isinstance(error, (ValueError, OSError)) and str(error)
    damage = f"its file is damaged, or not what its format says: {type(error).__name__}: {error}"
    return Unreadable(name, str(error) if says_what_is_wrong else damage)
