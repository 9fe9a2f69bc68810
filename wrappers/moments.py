"""What environments show, read on the thread that steps them, so that it can be scored there or on another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from robometer_rl.rewards import is_scored
from robometer_rl.wrappers.frame_sources import Camera, View
from robometer_rl.wrappers.tasks import TaskSource, read_instructions

__all__ = ["Indices", "Moment", "MomentReader", "Views"]

Indices = NDArray[np.int64]
"""Numbers of environments."""

Views = Callable[[int], View]
"""What the environment of a number shows; asked where it is needed only."""


@dataclass(frozen=True)
class Moment:
    """What n environments showed after one step or reset: copies of all that scoring it takes.

    Attributes:
        instructions: By the environments that begin an episode in this moment: what is to be done in it, one
            instruction per stage.
        frames: By the environments whose frame is scored: one (H, W, 3) uint8 frame per camera.
        steps: (n,) steps since each environment's reset.
    """

    instructions: Mapping[int, tuple[str, ...]]
    frames: Mapping[int, Sequence[NDArray[np.uint8]]]
    steps: NDArray[np.int64]

    @property
    def begun(self) -> Indices:
        """The environments that begin an episode in this moment."""
        return np.array(list(self.instructions), np.int64)

    @property
    def scored(self) -> Indices:
        """The environments whose frame is scored."""
        return np.array(list(self.frames), np.int64)


class MomentReader:
    """Reads frames, instructions and outcomes from a batch of environments, and knows which frames are scored.

    Args:
        task: Where instructions come from.
        cameras: Where frames come from.
        every: Scoring interval.
        num_envs: Number of environments.
        read_attribute: Values of a named attribute of the chosen environments.
        success_key: Info key of true success; None for ``is_success``, else ``success``, if there is one.
    """

    def __init__(
        self,
        task: TaskSource,
        cameras: Sequence[Camera],
        *,
        every: int,
        num_envs: int,
        read_attribute: Callable[[str, Sequence[int]], Sequence[Any]],
        success_key: str | None,
    ) -> None:
        self._task = task
        self._cameras = cameras
        self._every = every
        self._read_attribute = read_attribute
        self._success_key = success_key
        self._steps = np.zeros(num_envs, np.int64)
        self._begun = False

    def require_begun(self) -> None:
        """Raises `gymnasium.error.ResetNeeded` before the first reset."""
        if not self._begun:
            raise ResetNeeded("call reset() before the first step()")

    def reset(self, indices: Indices, view: Views) -> Moment:
        """Reads the first moment of new episodes.

        Args:
            indices: The environments that were reset; all of them the first time.
            view: What they show.
        """
        if not self._begun and len(indices) < len(self._steps):
            raise ResetNeeded("the first reset() must reset all environments, got a reset_mask that leaves some out")
        return self._read(indices, indices, view)

    def step(self, view: Views, ended: NDArray[np.bool_], starting: NDArray[np.bool_] | None = None) -> Moment:
        """Reads the moment after a step of all environments.

        Args:
            view: What an environment shows after the step, the true terminal frame where its episode ends. Asked only
                for environments whose frame is scored.
            ended: (n,) whether the environment says that the episode is over.
            starting: (n,) where this step was a reset.
        """
        starting = np.zeros(len(self._steps), np.bool_) if starting is None else starting
        self._steps[~starting] += 1
        scored = starting | is_scored(self._steps, self._every, ended)
        return self._read(np.flatnonzero(starting), np.flatnonzero(scored), view)

    def outcome(self, last: View) -> dict[str, Any]:
        """The info entry with the true success of an episode that has ended; empty if the environment does not say.

        Raises:
            KeyError: The info has no ``success_key``.
        """
        if self._success_key is not None and self._success_key not in last.info:
            raise KeyError(
                f"environment {last.index}: the info at the end of an episode has no success_key "
                f"{self._success_key!r}; it has {sorted(last.info)}"
            )
        keys = ("is_success", "success") if self._success_key is None else (self._success_key,)
        present = [key for key in keys if key in last.info]
        return {"robometer/true_success": bool(last.info[present[0]])} if present else {}

    def _read(self, begun: Indices, scored: Indices, view: Views) -> Moment:
        instructions = read_instructions(self._task, begun.tolist(), view, self._read_attribute)
        self._steps[begun] = 0
        self._begun = True
        return Moment(
            instructions=dict(zip(begun.tolist(), instructions, strict=True)),
            frames={index: [camera.frame(view(index)) for camera in self._cameras] for index in scored.tolist()},
            steps=self._steps.copy(),
        )
