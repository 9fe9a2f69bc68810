"""The made-up task of `tests.adapting.recordings` as an environment: a block is pushed to the right, to a mark."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from tests.adapting.recordings import draw


class BlockWorld(gym.Env[Any, Any]):
    """Actions move the block by a tenth at most; the task is done at the mark."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.place = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place = float(self.np_random.uniform(0.0, 0.2))
        return self._observation(), self._info()

    def step(self, action: Any) -> Any:
        self.place = float(np.clip(self.place + 0.1 * float(action[0]), 0.0, 1.0))
        return self._observation(), 0.0, False, False, self._info()

    def render(self) -> Any:
        return draw(np.array([self.place]), 4, 0)[0]

    def _observation(self) -> Any:
        return np.array([self.place], np.float32)

    def _info(self) -> dict[str, Any]:
        return {"is_success": self.place > 0.99, "missing": 1.0 - self.place}


def make(steps: int = 12) -> gym.Env[Any, Any]:
    """With an end after so many steps."""
    return gym.wrappers.TimeLimit(BlockWorld(), steps)
