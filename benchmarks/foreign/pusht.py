"""PushT of gym-pusht: a flat T to be pushed onto its shadow. It begins off the end of its stem, turned a little."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from benchmarks.foreign.worlds import TINT, TURNED, Floats, Script, World
from robometer_rl.extras import require

__all__ = ["PushT"]

_GOAL = np.array([256.0, 256.0])
_ANGLE = np.pi / 4
_DRAWN = 128  # pixels; it cannot draw its marker in much less
_COVERAGE = 0.85  # of the shadow that counts as done; the script is no champion
_STEP = 60.0  # pixels that an action moves the pusher's aim by at most
_RADIUS = 15.0
_CENTRE = 45.0  # pixels from the middle of the bar's edge to the centre of gravity
_ASIDE = 0.05  # of the width by which pictures are moved
_TURN = 60.0  # pixels that a radian of wrong angle is worth


def _turned(x: float, y: float, angle: float) -> Floats:
    return np.array([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y])


def _error(observation: Floats) -> float:
    """The block's angle minus the goal's, in radians."""
    return float((observation[4] - _ANGLE + np.pi) % (2 * np.pi) - np.pi)


class _RelativeAim(gym.ActionWrapper[Any, Any, Any]):
    """Actions in [-1, 1] move the aim from where the pusher is."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def action(self, action: Any) -> Floats:
        agent = np.array(self.env.unwrapped.agent.position)  # pyright: ignore[reportAttributeAccessIssue]
        return np.clip(agent + _STEP * np.asarray(action), 20.0, 492.0).astype(np.float32)


class _OtherPictures(gym.Wrapper[Any, Any, Any, Any]):
    """Pictures in other light, or turned and moved: the environment draws on a plane and has no camera."""

    def __init__(self, env: gym.Env[Any, Any], what: str) -> None:
        super().__init__(env)
        self._what = what

    def render(self) -> Any:
        drawn = np.asarray(self.env.render())
        if self._what == "light":
            return (drawn * TINT).astype(np.uint8)
        aside = (round(_ASIDE * drawn.shape[1]), 0)
        return np.asarray(Image.fromarray(drawn).rotate(TURNED, translate=aside, fillcolor=(255, 255, 255)))


class _PushScript(Script):
    """Pushes the bar along the stem, and steers by where it touches."""

    def __init__(self, kind: str, rng: np.random.Generator, max_steps: int) -> None:
        super().__init__(kind, rng, max_steps, 2)
        self._bias = float(rng.choice([-1.0, 1.0]) * rng.uniform(30.0, 50.0)) if kind == "wrong_place" else 0.0
        self._turn = float(rng.choice([-1.0, 1.0]))

    def rest(self, observation: Any) -> Floats:
        return np.zeros(2)

    def act(self, observation: Any) -> Floats:
        agent, block, angle = observation[:2], observation[2:4], observation[4]
        if self.kind == "no_contact":
            away = agent - block
            distance = np.linalg.norm(away)
            outwards = away / max(distance, 1e-6) * np.clip((170.0 - distance) / 60.0, -1.0, 1.0)
            around = self._turn * np.array([-away[1], away[0]]) / max(distance, 1e-6)
            return 0.5 * self.pace * (around + outwards)
        # In the goal's own axes: how far aside, and how far there is still to go along the stem.
        aside, left = _turned(block[0] - _GOAL[0], block[1] - _GOAL[1], -_ANGLE)
        if self.kind != "wrong_place" and left > -1.0:
            return np.zeros(2)
        wanted = np.clip(0.008 * aside, -0.15, 0.15)
        touch = np.clip(-70.0 * (_error(observation) - wanted), -45.0, 45.0) + self._bias
        where = _turned(agent[0] - block[0], agent[1] - block[1], -angle)  # in the block's axes
        ahead = np.clip(0.25 * -left, 6.0, 18.0) if self.kind != "wrong_place" else 14.0
        behind = where[1] < -_RADIUS - 12.0 and abs(where[0] - touch) > 8.0
        aim = block + _turned(touch, -_RADIUS + (-14.0 if behind else self.pace * ahead), angle)
        return (aim - agent) / _STEP


class PushT(World):
    """See the module."""

    name = "pusht"
    task = "push the T onto its green shadow"
    max_steps = 50
    every = 2

    def make(self, size: int) -> gym.Env[Any, Any]:
        """The environment, looked at from above."""
        require("gym_pusht", "foreign")  # registers it
        size = max(size, _DRAWN)
        env = gym.make(
            "gym_pusht/PushT-v0",
            obs_type="state",
            render_mode="rgb_array",
            visualization_width=size,
            visualization_height=size,
            max_episode_steps=self.max_steps,
        )
        env.unwrapped.success_threshold = _COVERAGE  # pyright: ignore[reportAttributeAccessIssue]
        return _RelativeAim(env)

    def alter(self, env: gym.Env[Any, Any], what: str) -> gym.Env[Any, Any]:
        """Pictures that are darker and warmer, or turned by 5 degrees and moved by a twentieth of their width."""
        return _OtherPictures(env, what)

    def script(self, kind: str, rng: np.random.Generator) -> Script:
        """Who acts."""
        return _PushScript(kind, rng, self.max_steps)

    def reset_options(self, rng: np.random.Generator) -> dict[str, Any]:
        """A block up the stem's line, and a pusher behind it."""
        angle = _ANGLE + rng.uniform(-0.08, 0.08)
        block = _GOAL + _turned(rng.uniform(-8.0, 8.0), -rng.uniform(70.0, 140.0), _ANGLE)
        agent = block + _turned(rng.uniform(-40.0, 40.0), -rng.uniform(35.0, 60.0), angle)
        # The environment places the block unturned and then turns it about its centre of gravity.
        given = block - [0.0, _CENTRE] + _turned(0.0, _CENTRE, angle)
        return {"reset_to_state": [*agent, *given, angle]}

    @property
    def state(self) -> Mapping[str, Callable[[Any, Mapping[str, Any]], Any]]:
        """Places of pusher and block in pixels, and the block's angle as sine and cosine, scaled to pixels."""
        return {
            "pusher": lambda observation, info: observation[:2],
            "block": lambda observation, info: observation[2:4],
            "turn": lambda observation, info: _TURN * np.array([np.cos(observation[4]), np.sin(observation[4])]),
        }

    def distance(self, observation: Any, info: Mapping[str, Any]) -> float:
        """Pixels from the block to its shadow; a wrong radian counts as many as `_TURN`."""
        return float(np.linalg.norm(observation[2:4] - _GOAL) + _TURN * abs(_error(observation)))

    def progress(self, observation: Any, info: Mapping[str, Any], first: Any) -> float:
        """The part of that distance that is covered."""
        if info.get("is_success"):
            return 1.0
        return float(np.clip(1.0 - self.distance(observation, info) / self.distance(first, {}), 0.0, 1.0))
