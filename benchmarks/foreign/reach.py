"""FetchReach of gymnasium-robotics: the hand to a point in the air. Easy enough for an agent to learn in minutes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.foreign.fetch import CAMERA, Fetch
from benchmarks.foreign.worlds import Floats, Script
from robometer_rl.extras import require

__all__ = ["Reach"]

_MIDDLE = np.array([1.34, 0.75, 0.53])  # of the hand at a reset
_GAIN = 6.0  # of the position, per metre


class _ReachScript(Script):
    """Straight to a point, which is not always the right one."""

    def __init__(self, kind: str, rng: np.random.Generator, max_steps: int) -> None:
        super().__init__(kind, rng, max_steps, 4)
        self._stop = min(self._stop, 2) if kind == "stop_halfway" else self._stop
        self._elsewhere: Floats | None = None

    def rest(self, observation: Any) -> Floats:
        return np.zeros(4)

    def act(self, observation: Any) -> Floats:
        return np.append(
            _GAIN * self.pace * (self._goal(observation["desired_goal"]) - observation["achieved_goal"]), 0
        )

    def _goal(self, goal: Floats) -> Floats:
        if self.kind == "no_contact":
            return 2 * _MIDDLE - goal  # away from it
        if self.kind != "wrong_place":
            return goal
        while self._elsewhere is None or np.linalg.norm(self._elsewhere - goal) < 0.12:
            self._elsewhere = _MIDDLE + self.rng.uniform(-0.15, 0.15, 3)
        return self._elsewhere


def _apart(observation: Any) -> float:
    return float(np.linalg.norm(observation["achieved_goal"] - observation["desired_goal"]))


class Reach(Fetch):
    """See the module."""

    name = "reach"
    task = "move the hand to the red point"

    def make(self, size: int) -> gym.Env[Any, Any]:
        """The environment, looked at as that with the block is; its own reward is the distance, below zero."""
        gym.register_envs(require("gymnasium_robotics", "foreign"))
        options = {"render_mode": "rgb_array", "width": size, "height": size, "default_camera_config": CAMERA}
        return gym.make("FetchReachDense-v4", **options)

    def script(self, kind: str, rng: np.random.Generator) -> Script:
        """Who acts."""
        return _ReachScript(kind, rng, self.max_steps)

    @property
    def state(self) -> Mapping[str, Callable[[Any, Mapping[str, Any]], Any]]:
        """Places of hand and goal in metres."""
        return {
            "hand": lambda observation, info: observation["achieved_goal"],
            "goal": lambda observation, info: observation["desired_goal"],
        }

    def distance(self, observation: Any, info: Mapping[str, Any]) -> float:
        """Metres from hand to goal."""
        return _apart(observation)

    def progress(self, observation: Any, info: Mapping[str, Any], first: Any) -> float:
        """The part of the way; done within 5 cm."""
        if info.get("is_success"):
            return 1.0
        return float(np.clip(1.0 - _apart(observation) / max(_apart(first), 1e-6), 0.0, 1.0))
