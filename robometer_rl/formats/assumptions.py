"""What a reader takes for granted because neither the user nor the data set says it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from robometer_rl.video.lazy import Orientation

__all__ = ["Assumptions"]

logger = logging.getLogger(__name__)

_SHOWN: Final[Mapping[Orientation, str]] = {
    "as_stored": "as they are stored",
    "flip": "with their rows in the other order",
    "rotate": "turned by 180 degrees",
}


class Assumptions:
    """Says each assumption about a data set once, in one line of the log.

    Attributes:
        where: What the lines call the data set.
    """

    def __init__(self, where: object) -> None:
        self.where = where
        self._said: set[str] = set()

    def say(self, text: str) -> None:
        """Logs ``text``, unless it was logged before."""
        if text not in self._said:
            self._said.add(text)
            logger.info("%s: %s", self.where, text)

    def orientation(
        self,
        stated: Orientation | None,
        found: Orientation = "as_stored",
        why: str = "the data do not say how they hang",
    ) -> Orientation:
        """How pictures are shown: as the user states it, or else as ``found``, which is said.

        Args:
            stated: What the user says.
            found: What the data set says, or what is customary in its format.
            why: Where that is known from, or that it is not.
        """
        if stated is not None:
            return stated
        self.say(f"pictures are shown {_SHOWN[found]} ({why}); --orientation says otherwise")
        return found
