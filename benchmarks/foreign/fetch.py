"""FetchPickAndPlace of gymnasium-robotics: a block to a point in the air or on the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.foreign.worlds import TURNED, Floats, Script, World, alter_model, staged_progress
from robometer_rl.extras import require

__all__ = ["CAMERA", "Fetch"]

CAMERA = {"distance": 1.0, "azimuth": 132, "elevation": -25, "lookat": np.array([1.3, 0.75, 0.5])}
"""Where it is looked at from."""

_OPEN, _SHUT = 1.0, -1.0
_ABOVE = 0.06  # metres over the block where the hand turns down
_GAIN = 6.0  # of the position, per metre


class _FetchScript(Script):
    """Over the block, down, shut, and on to the goal."""

    def __init__(self, kind: str, rng: np.random.Generator, max_steps: int) -> None:
        super().__init__(kind, rng, max_steps, 4)
        self._held = 0
        self._elsewhere: Floats | None = None

    @property
    def shaken(self) -> Floats:
        return np.array([1.0, 1.0, 1.0, 0.0])

    def rest(self, observation: Any) -> Floats:
        return np.array([0.0, 0.0, 0.0, _SHUT if self._held else _OPEN])

    def act(self, observation: Any) -> Floats:
        hand, block = observation["observation"][:3], observation["observation"][3:6]
        goal = self._goal(observation["desired_goal"])
        if self.kind == "no_contact":
            return np.append(_GAIN * self.pace * (goal - hand), _OPEN)
        if self._held and np.linalg.norm(block - hand) > 0.06:
            self._held = 0  # lost
        if not self._held:
            way = block - hand
            if np.linalg.norm(way[:2]) > 0.015:
                way[2] += _ABOVE
            self._held = int(np.linalg.norm(block - hand) < 0.012)
            return np.append(_GAIN * self.pace * way, _OPEN)
        self._held += 1
        way = np.zeros(3) if self._held < 4 else goal - block
        return np.append(_GAIN * self.pace * way, _SHUT)

    def _goal(self, goal: Floats) -> Floats:
        if self.kind != "wrong_place":
            return goal
        while self._elsewhere is None or np.linalg.norm(self._elsewhere - goal) < 0.14:
            middle = np.array([1.34, 0.75, 0.45])
            self._elsewhere = middle + self.rng.uniform([-0.15, -0.15, 0.0], [0.15, 0.15, 0.2])
        return self._elsewhere


def _reach(observation: Any) -> float:
    return float(np.linalg.norm(observation["observation"][:3] - observation["observation"][3:6]))


def _carry(observation: Any) -> float:
    return float(np.linalg.norm(observation["achieved_goal"] - observation["desired_goal"]))


class Fetch(World):
    """See the module."""

    name = "fetch"
    task = "pick up the block and take it to the red point"
    max_steps = 50
    every = 2

    def make(self, size: int) -> gym.Env[Any, Any]:
        """The environment, looked at from the side."""
        gym.register_envs(require("gymnasium_robotics", "foreign"))
        return gym.make(
            "FetchPickAndPlace-v4", render_mode="rgb_array", width=size, height=size, default_camera_config=CAMERA
        )

    def alter(self, env: gym.Env[Any, Any], what: str) -> gym.Env[Any, Any]:
        """Other light in the model, or another free camera: around the table by 5 degrees, 3 cm along it."""
        inner: Any = env.unwrapped
        alter_model(inner.model, what)
        if what == "camera":
            moved = {"azimuth": CAMERA["azimuth"] + TURNED, "lookat": CAMERA["lookat"] + [0.0, 0.03, 0.0]}
            inner.mujoco_renderer.default_cam_config = CAMERA | moved
        return env

    def script(self, kind: str, rng: np.random.Generator) -> Script:
        """Who acts."""
        return _FetchScript(kind, rng, self.max_steps)

    @property
    def state(self) -> Mapping[str, Callable[[Any, Mapping[str, Any]], Any]]:
        """Places of hand, block and goal in metres, and the opening of the fingers."""
        return {
            "hand": lambda observation, info: observation["observation"][:3],
            "block": lambda observation, info: observation["achieved_goal"],
            "goal": lambda observation, info: observation["desired_goal"],
            "fingers": lambda observation, info: observation["observation"][9:11],
        }

    def distance(self, observation: Any, info: Mapping[str, Any]) -> float:
        """Metres from hand to block and from block to goal."""
        return _reach(observation) + _carry(observation)

    def progress(self, observation: Any, info: Mapping[str, Any], first: Any) -> float:
        """Reaching, then carrying; done within 5 cm."""
        if info.get("is_success"):
            return 1.0
        return staged_progress(_reach(observation), _reach(first), _carry(observation), _carry(first))
