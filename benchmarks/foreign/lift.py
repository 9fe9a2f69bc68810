"""Lift of robosuite: a cube off the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.foreign.worlds import Floats, Script, World, alter_model, staged_progress

__all__ = ["Lift"]

_OPEN, _SHUT = -1.0, 1.0
_METRES_PER_ACTION = 0.05
_LIFTED = 0.84  # metres: the table is 0.8 high, and the cube counts as lifted 4 cm above it
_HIGH = 0.95


class _LiftScript(Script):
    """Over the cube, down, shut, and up."""

    def __init__(self, kind: str, rng: np.random.Generator, max_steps: int, layout: Mapping[str, slice]) -> None:
        super().__init__(kind, rng, max_steps, 7)
        self._layout = layout
        self._held = 0
        angle = rng.uniform(0.0, 2.0 * np.pi)
        self._aside = rng.uniform(0.09, 0.14) * np.array([np.cos(angle), np.sin(angle)])

    @property
    def shaken(self) -> Floats:
        return np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0])

    def rest(self, observation: Any) -> Floats:
        return np.append(np.zeros(6), _SHUT if self._held else _OPEN)

    def act(self, observation: Any) -> Floats:
        hand, cube = observation[self._layout["robot0_eef_pos"]], observation[self._layout["cube_pos"]].copy()
        if self.kind == "wrong_place":
            cube[:2] += self._aside
        if self.kind == "no_contact":
            return self._towards(cube + np.array([*self._aside, 0.12]), hand, _OPEN)
        if not self._held:
            over = np.linalg.norm((cube - hand)[:2]) > 0.012
            self._held = int(np.linalg.norm(cube - hand) < 0.015)
            return self._towards(cube + np.array([0.0, 0.0, 0.06 * over]), hand, _OPEN)
        self._held += 1
        if self._held < 6:
            return self._towards(hand, hand, _SHUT)
        return self._towards(np.array([hand[0], hand[1], _HIGH]), hand, _SHUT)

    def _towards(self, place: Floats, hand: Floats, fingers: float) -> Floats:
        move = np.clip(self.pace * (place - hand) / _METRES_PER_ACTION, -1.0, 1.0)
        return np.array([*move, 0.0, 0.0, 0.0, fingers])


class Lift(World):
    """See the module."""

    name = "lift"
    task = "lift the red cube"
    max_steps = 60
    every = 2

    def __init__(self) -> None:
        self._layout: Mapping[str, slice] = {}

    def make(self, size: int) -> gym.Env[Any, Any]:
        """The environment, looked at from the front."""
        import robometer_rl.envs  # noqa: F401  (registers it)

        env = gym.make(
            "robometer_rl/Robosuite-v0",
            task="Lift",
            size=size,
            render_mode="rgb_array",
            max_episode_steps=self.max_steps,
        )
        self._layout = env.get_wrapper_attr("state_layout")
        return env

    def alter(self, env: gym.Env[Any, Any], what: str) -> gym.Env[Any, Any]:
        """Other light or another place of the camera, in the compiled model."""
        simulator: Any = env.get_wrapper_attr("simulator")
        model = simulator.sim.model
        alter_model(model._model, what, model.camera_name2id("agentview"))
        return env

    def script(self, kind: str, rng: np.random.Generator) -> Script:
        """Who acts."""
        return _LiftScript(kind, rng, self.max_steps, self._layout)

    @property
    def state(self) -> Mapping[str, Callable[[Any, Mapping[str, Any]], Any]]:
        """Places of hand and cube in metres, and the opening of the fingers."""
        return {
            "hand": lambda observation, info: observation[self._layout["robot0_eef_pos"]],
            "cube": lambda observation, info: observation[self._layout["cube_pos"]],
            "fingers": lambda observation, info: observation[self._layout["robot0_gripper_qpos"]],
        }

    def distance(self, observation: Any, info: Mapping[str, Any]) -> float:
        """Metres from hand to cube, and from the cube up to where it counts as lifted."""
        return self._reach(observation) + self._missing(observation)

    def progress(self, observation: Any, info: Mapping[str, Any], first: Any) -> float:
        """Reaching, then lifting."""
        if info["is_success"]:
            return 1.0
        return staged_progress(
            self._reach(observation), self._reach(first), self._missing(observation), self._missing(first)
        )

    def _reach(self, observation: Any) -> float:
        hand, cube = observation[self._layout["robot0_eef_pos"]], observation[self._layout["cube_pos"]]
        return float(np.linalg.norm(hand - cube))

    def _missing(self, observation: Any) -> float:
        return max(_LIFTED - float(observation[self._layout["cube_pos"]][2]), 0.0)
