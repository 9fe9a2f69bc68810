"""What every reader of a data format yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from robometer_rl.data.trajectory import QualityLabel, Trajectory

__all__ = [
    "EPISODE_DAMAGE",
    "Reading",
    "SourceError",
    "UnknownOutcomeError",
    "Unreadable",
    "attempt",
    "unreadable",
]

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


class UnknownOutcomeError(SourceError):
    """An episode that lacks nothing but that somebody says how it ended.

    Attributes:
        given: Makes the trajectory of it, given that.
    """

    def __init__(self, message: str, given: Callable[[QualityLabel], Trajectory]) -> None:
        super().__init__(message)
        self.given = given


@dataclass(frozen=True)
class Unreadable:
    """An episode that could not be read, in the place where it would have been; whoever reads on counts and lists it.

    Attributes:
        name: The file, and the episode inside it if the file holds several.
        reason: What is wrong with it, in a sentence.
        given: Of an episode that lacks nothing but that somebody says how it ended: makes the trajectory, given that.
    """

    name: str
    reason: str
    given: Callable[[QualityLabel], Trajectory] | None = field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, str]:
        """Plain values for JSON."""
        return {"name": self.name, "reason": self.reason}


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
    if isinstance(error, UnknownOutcomeError):
        return Unreadable(name, str(error), error.given)
    says_what_is_wrong = isinstance(error, (ValueError, OSError)) and str(error)
    damage = f"its file is damaged, or not what its format says: {type(error).__name__}: {error}"
    return Unreadable(name, str(error) if says_what_is_wrong else damage)
