"""No step is made, and none is paid, where an error has left an episode in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gymnasium.error import ResetNeeded

__all__ = ["EpisodeGuard"]


class EpisodeGuard:
    """Knows whether the episodes that are running can go on.

    A reset or a step that raises, wherever it does, may have moved the environment already: a frame is then missing
    from a history, or the frames of one episode would be continued by those of the next. From there on nothing but a
    reset of everything helps, and this is what every later step says.
    """

    def __init__(self) -> None:
        self._needed: str | None = "call reset() before the first step()"

    def require_whole(self) -> None:
        """Raises `gymnasium.error.ResetNeeded` before the first reset, and after a reset or step that has failed."""
        if self._needed is not None:
            raise ResetNeeded(self._needed)

    @contextmanager
    def resetting(self, everything: bool = True) -> Iterator[None]:
        """Around a reset; ``everything`` says that it is one of all environments.

        Raises:
            gymnasium.error.ResetNeeded: A reset of some environments where all of them need one.
        """
        if not everything and self._needed is not None:
            raise ResetNeeded(
                f"this reset() must reset all environments, got a reset_mask that leaves some out: {self._needed}"
            )
        self._needed = "the last reset() failed, so that no episode has begun: call reset()"
        yield
        self._needed = None

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Around a step.

        Raises:
            gymnasium.error.ResetNeeded: See `require_whole`.
        """
        self.require_whole()
        self._needed = (
            "the last step() failed, perhaps after the environment had moved, so that its episode can no longer be "
            "paid rightly: call reset()"
        )
        yield
        self._needed = None
