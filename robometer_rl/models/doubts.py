"""What a model has been seen not to know, said once each in the log: its task, its pictures, and that nothing is paid.

A reward model always answers. Asked about a task or a camera that it was not trained on it answers with a number, too,
which looks like any other.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from robometer_rl.report.markup import single_line

__all__ = ["FLOOR", "FLOOR_EPISODES", "Doubts"]

logger = logging.getLogger(__name__)

FLOOR: Final = 0.05
"""Progress that stays below this for whole episodes may be that of a model that does not know what it sees."""

FLOOR_EPISODES: Final = 10
"""After as many episodes in a row that stay there it is said."""

_RECENT: Final = 32  # frames that are looked back at: a camera may be moved after a long time
_LEAST_FRAMES: Final = 4  # of these, of which more than half look strange, before it is said
_MOST_TASKS: Final = 8  # unknown instructions that are named


class Doubts:
    """Counts, for one model, what speaks against believing it; each kind of doubt is logged once."""

    def __init__(self, quiet: bool = False) -> None:
        """Nothing speaks against it yet; with ``quiet`` only debugging shows what does."""
        self._level = logging.DEBUG if quiet else logging.WARNING
        self._lock = threading.Lock()
        self._named: set[str] = set()
        self._said: set[str] = set()
        self._strange = deque[bool](maxlen=_RECENT)
        self._at_floor = 0

    @property
    def unknown_tasks(self) -> list[str]:
        """Instructions that the model was asked about and not trained on; the first few."""
        with self._lock:
            return sorted(self._named)

    @property
    def strange_pictures(self) -> bool:
        """Whether it was shown other pictures than those that it was trained on."""
        with self._lock:
            return "pictures" in self._said

    def unknown_task(self, model: str, task: str, known: list[str]) -> None:
        """Notes that a model is asked about a task that it was not trained on.

        Args:
            model: Its name.
            task: The instruction.
            known: Those that it was trained on.
        """
        with self._lock:
            if task in self._named or len(self._named) >= _MOST_TASKS:
                return
            self._named.add(task)
        logger.log(
            self._level,
            "%s was not trained on the task %r, and what it says of it means little; it knows %s",
            model,
            single_line(task),
            ", ".join(repr(single_line(each)) for each in known[:_MOST_TASKS]),
        )

    def pictures(self, model: str, strangeness: ArrayLike) -> None:
        """Notes how far pictures are from those that a model was trained on.

        Args:
            model: Its name.
            strangeness: (n,) distances of pictures that follow on those noted before; above 1 lies nothing like them.
        """
        values = np.asarray(strangeness, np.float64)
        with self._lock:
            self._strange.extend((values > 1.0).tolist())
            convinced = len(self._strange) >= _LEAST_FRAMES and 2 * sum(self._strange) > len(self._strange)
            if not convinced or "pictures" in self._said:
                return
            self._said.add("pictures")
        logger.log(
            self._level,
            "%s was trained on other pictures than these (camera, light or environment): they are %.1f times as far "
            "from its own as those lie apart. Do not rely on what it says; record episodes as they look now and run "
            "`robometer-rl adapt`",
            model,
            float(np.median(values)),
        )

    def episode(self, model: str, highest: float) -> None:
        """Notes the highest progress of an episode that has ended.

        Args:
            model: Its name.
            highest: In [0, 1].
        """
        with self._lock:
            self._at_floor = self._at_floor + 1 if highest <= FLOOR else 0
            if self._at_floor < FLOOR_EPISODES or "floor" in self._said:
                return
            self._said.add("floor")
        logger.log(
            self._level,
            "%s has seen no progress above %.2f in %d episodes in a row: either nothing was done in them, or it does "
            "not know this task, camera or robot. `robometer-rl score` shows what it says of an episode that succeeds, "
            "`robometer-rl adapt` makes a model of your own recordings",
            model,
            FLOOR,
            FLOOR_EPISODES,
        )
