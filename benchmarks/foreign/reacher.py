"""The reacher of dm_control's suite: a planar arm of two links and a target for its tip."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.foreign.worlds import Floats, Script, World, alter_model
from robometer_rl.extras import require

__all__ = ["Reacher"]

_LINK = 0.12  # metres, each of the two
_SLOW = 1.0  # radians a second
_SCALE = 0.12  # metres from the target that are worth nothing


class _Suite(gym.Env[Floats, Floats]):
    """A task of dm_control as a Gymnasium environment: angles, velocities, tip and target."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, size: int) -> None:
        if sys.platform == "linux":
            os.environ.setdefault("MUJOCO_GL", "egl")
        self._suite = require("dm_control.suite", "foreign").load("reacher", "hard", task_kwargs={"random": 0})
        self.physics = self._suite.physics
        self._size = size
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (8,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._suite.task.random.seed(int(self.np_random.integers(2**32)))
        self._suite.reset()
        return self._observation(), {"is_success": False}

    def step(self, action: Any) -> Any:
        reward = 0.0
        for _ in range(2):
            reward = self._suite.step(action).reward
        # In the target and slow: an arm that swings through it has not got there.
        rests = bool(np.abs(self.physics.velocity()).max() < _SLOW)
        return self._observation(), float(reward or 0.0), False, False, {"is_success": rests and reward == 1.0}

    def render(self) -> Any:
        return self.physics.render(self._size, self._size, camera_id=0)

    def _observation(self) -> Floats:
        physics = self.physics
        finger, target = (physics.named.data.geom_xpos[name, :2] for name in ("finger", "target"))
        return np.concatenate([physics.position(), physics.velocity(), finger, target])


class _ReacherScript(Script):
    """Torques towards the angles at which the tip is at a place."""

    def __init__(self, kind: str, rng: np.random.Generator, max_steps: int) -> None:
        super().__init__(kind, rng, max_steps, 2)
        self._place: Floats | None = None
        self._stop = min(self._stop, 6) if kind == "stop_halfway" else self._stop

    def rest(self, observation: Any) -> Floats:
        place = self._place
        if place is None or self._steps == self._stop + 1:
            place = self._place = observation[4:6].copy()
        return self._torques(place, observation)

    def act(self, observation: Any) -> Floats:
        target = observation[6:8]
        if self.kind == "no_contact":
            if self._place is None:
                self._place = -0.17 * target / max(np.linalg.norm(target), 1e-6)
            return self._torques(np.asarray(self._place), observation)
        if self.kind == "wrong_place":
            while self._place is None or np.linalg.norm(self._place - target) < 0.1:
                self._place = self.rng.uniform(-0.16, 0.16, 2)
            return self._torques(np.asarray(self._place), observation)
        return self._torques(target, observation)

    def _torques(self, place: Floats, observation: Floats) -> Floats:
        """Stiffness and damping in joint space; of the two ways to bend the elbow the nearer one."""
        angles, speeds = observation[:2], observation[2:4]
        reach = np.clip(np.linalg.norm(place), 0.01, 2 * _LINK - 0.003)
        bend = np.arccos(np.clip(reach**2 / (2 * _LINK**2) - 1.0, -1.0, 1.0))
        heading = np.arctan2(place[1], place[0])
        ways = [np.array([heading - elbow / 2, elbow]) for elbow in (bend, -bend)]
        # The shoulder turns as far as it likes, the elbow does not.
        errors = [np.array([(way[0] - angles[0] + np.pi) % (2 * np.pi) - np.pi, way[1] - angles[1]]) for way in ways]
        error = min(errors, key=lambda each: float(np.abs(each).sum()))
        return 0.4 * self.pace * error - 0.06 * speeds


class Reacher(World):
    """See the module."""

    name = "reacher"
    task = "move the tip of the arm to the red ball"
    max_steps = 60
    every = 2

    def make(self, size: int) -> gym.Env[Any, Any]:
        """The environment, looked at from above."""
        return gym.wrappers.TimeLimit(_Suite(size), self.max_steps)

    def alter(self, env: gym.Env[Any, Any], what: str) -> gym.Env[Any, Any]:
        """Other light or another place of the camera, in the model."""
        inner: Any = env.unwrapped
        alter_model(inner.physics.model, what, 0)
        return env

    def script(self, kind: str, rng: np.random.Generator) -> Script:
        """Who acts."""
        return _ReacherScript(kind, rng, self.max_steps)

    @property
    def state(self) -> Mapping[str, Callable[[Any, Mapping[str, Any]], Any]]:
        """Places of tip and target in metres."""
        return {"tip": lambda observation, info: observation[4:6], "target": lambda observation, info: observation[6:8]}

    def distance(self, observation: Any, info: Mapping[str, Any]) -> float:
        """Metres from tip to target."""
        return float(np.linalg.norm(observation[4:6] - observation[6:8]))

    def progress(self, observation: Any, info: Mapping[str, Any], first: Any) -> float:
        """The part of the way from the first place, or of the last 12 cm if that was farther away."""
        if info["is_success"]:
            return 1.0
        start = min(self.distance(first, {}), _SCALE)
        return float(np.clip(1.0 - self.distance(observation, info) / start, 0.0, 1.0))
