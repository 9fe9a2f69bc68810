"""Four environments that the library has nothing to do with, as things to be recorded: cameras, truth and scripts.

Each has a script that acts at six kinds of skill, and says what every frame is really worth: a quarter of the progress
for reaching the object where there is one, the rest for taking it to where it belongs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

__all__ = ["ALTERED", "KINDS", "TINT", "TURNED", "Floats", "Script", "World", "alter_model", "staged_progress"]

KINDS = ("expert", "noisy", "stop_halfway", "wrong_place", "no_contact", "random")
"""Skills of the scripts; the task is done by the first, and sometimes by the second."""

ALTERED = ("light", "camera")
"""What may be different in the pictures: weaker and warmer light; a camera moved by 3 cm and turned by 5 degrees."""

TINT = np.array([0.85, 0.7, 0.55])
"""Of red, green and blue light, what is left in the other light."""

TURNED = 5.0
"""Degrees by which the camera is turned."""

_MOVED = 0.03  # metres

Floats = NDArray[np.floating[Any]]

_REACHING = 0.25


class Script(ABC):
    """Acts in one episode.

    Args:
        kind: One of `KINDS`.
        rng: What its choices are drawn from.
        max_steps: Length of an episode.
        action_size: Numbers in an action, each in [-1, 1].

    Attributes:
        pace: How hurried it is, about 1.
    """

    def __init__(self, kind: str, rng: np.random.Generator, max_steps: int, action_size: int) -> None:
        self.kind = kind
        self.rng = rng
        self.pace = float(rng.uniform(0.7, 1.2))
        self._noise = float(rng.uniform(0.1, 0.5)) if kind == "noisy" else 0.0
        self._stop = int(rng.uniform(0.1, 0.35) * max_steps) if kind == "stop_halfway" else max_steps
        self._walk = np.zeros(action_size)
        self._steps = 0

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> Floats:
        """The action for the present moment, in [-1, 1]."""
        self._steps += 1
        self._walk = 0.8 * self._walk + 0.45 * self.rng.normal(size=len(self._walk))
        if self.kind == "random":
            return np.clip(self._walk, -1.0, 1.0)
        if self._steps > self._stop:
            return self.rest(observation)
        action = self.act(observation)
        return np.clip(action + self._noise * self._walk * self.shaken, -1.0, 1.0)

    @property
    def shaken(self) -> Floats:
        """Which numbers of an action noise is added to."""
        return np.ones(len(self._walk))

    @abstractmethod
    def act(self, observation: Any) -> Floats:
        """What a script that knows everything does next."""

    @abstractmethod
    def rest(self, observation: Any) -> Floats:
        """How to stay where it is."""


class World(ABC):
    """One environment, and what is true of it.

    Attributes:
        name: For files and tables.
        task: The instruction.
        max_steps: Length of an episode.
        every: Environment steps between recorded frames.
        success_key: Info key of true success.
    """

    name: str
    task: str
    max_steps: int
    every: int
    success_key = "is_success"

    @abstractmethod
    def make(self, size: int) -> gym.Env[Any, Any]:
        """The environment, with frames of about ``size`` pixels; it ends its episodes after `max_steps`."""

    @abstractmethod
    def alter(self, env: gym.Env[Any, Any], what: str) -> gym.Env[Any, Any]:
        """The environment that `make` has made, with other pictures for as long as it lives; ``what`` of `ALTERED`."""

    @abstractmethod
    def script(self, kind: str, rng: np.random.Generator) -> Script:
        """Who acts."""

    @property
    @abstractmethod
    def state(self) -> Mapping[str, Callable[[Any, Mapping[str, Any]], Any]]:
        """Named parts of the state, from an observation and an info."""

    @abstractmethod
    def distance(self, observation: Any, info: Mapping[str, Any]) -> float:
        """How far the task is from being done, reaching the object included."""

    @abstractmethod
    def progress(self, observation: Any, info: Mapping[str, Any], first: Any) -> float:
        """How far it has come, in [0, 1], since the observation ``first`` of the reset."""

    def reset_options(self, rng: np.random.Generator) -> dict[str, Any] | None:
        """What an episode begins with, where the environment leaves it to the caller."""
        return None


def alter_model(model: Any, what: str, camera: int | None = None) -> None:
    """Alters a MuJoCo model; a camera moves to its right and turns about its own upright axis."""
    if what == "light":
        headlight = model.vis.headlight
        for light in (headlight.ambient, headlight.diffuse, model.light_ambient, model.light_diffuse):
            light[:] = light * TINT
    elif camera is not None:
        turned = Rotation.from_quat(model.cam_quat[camera], scalar_first=True)
        model.cam_pos[camera] += turned.apply([_MOVED, 0.0, 0.0])
        model.cam_quat[camera] = (turned * Rotation.from_euler("y", TURNED, degrees=True)).as_quat(scalar_first=True)


def staged_progress(reach: float, first_reach: float, carry: float, first_carry: float) -> float:
    """A quarter for the part of the way to the object, the rest for the part of the object's way to its place."""
    reached = np.clip(1.0 - reach / max(first_reach, 1e-6), 0.0, 1.0)
    carried = np.clip(1.0 - carry / max(first_carry, 1e-6), 0.0, 1.0)
    return float(_REACHING * reached + (1.0 - _REACHING) * carried)
