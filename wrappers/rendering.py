"""Rendering inside the sub-environments of a vector environment.

An environment that resets itself inside ``step`` shows the next episode after a done, so a frame of the episode's end
has to travel with the step. This module imports neither torch nor a model: it is all that worker processes need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.utils import RecordConstructorArgs

from robometer_rl.frames import as_array
from robometer_rl.rewards import is_scored
from robometer_rl.wrappers.guard import EpisodeGuard

__all__ = [
    "FRAME_KEY",
    "INTERVAL_ATTRIBUTE",
    "RenderToInfo",
    "camera_key",
    "is_frame_key",
    "renders_to_info",
    "require_rgb_array",
    "without_frames",
]

FRAME_KEY = "robometer/frame"
"""The info key under which `RenderToInfo` sends frames."""

INTERVAL_ATTRIBUTE = "render_to_info_every"
"""The attribute by which an outer wrapper finds `RenderToInfo` in sub-environments of another process."""


def camera_key(name: str) -> str:
    """The info key under which `RenderToInfo` sends the frames of one of several cameras."""
    return f"{FRAME_KEY}/{name}"


def is_frame_key(key: str) -> bool:
    """Whether an info key is one that `RenderToInfo` has added, for one environment or (with ``_``) for a batch."""
    name = key.removeprefix("_")
    return name == FRAME_KEY or name.startswith(f"{FRAME_KEY}/")


def without_frames(info: Mapping[str, Any]) -> dict[str, Any]:
    """An info without what `RenderToInfo` has added to it; a copy."""
    return {key: value for key, value in info.items() if not is_frame_key(key)}


def require_rgb_array(render_mode: str | None) -> None:
    """Raises `ValueError` unless ``render()`` of an environment returns one RGB image."""
    if render_mode != "rgb_array":
        raise ValueError(
            f"frames come from render(), which needs an environment made with render_mode='rgb_array', got "
            f"{render_mode!r}. Make it so, or take frames from the observation or the info"
        )


def renders_to_info(wrapped: Sequence[bool], read_intervals: Callable[[], Sequence[int]], every: int) -> bool:
    """Whether the sub-environments render to their info, at the interval at which their frames will be scored.

    Args:
        wrapped: Which sub-environments are wrapped in `RenderToInfo`.
        read_intervals: `RenderToInfo.render_to_info_every` of each, asked only if all are.
        every: Scoring interval.

    Raises:
        ValueError: Only some of them render, or at another interval.
    """
    if not any(wrapped):
        return False
    if not all(wrapped):
        bare = [index for index, has_frames in enumerate(wrapped) if not has_frames]
        raise ValueError(f"wrap every sub-environment in RenderToInfo or none of them; {bare} are not")
    intervals = sorted(set(read_intervals()))
    if intervals != [every]:
        raise ValueError(
            f"RenderToInfo renders every {intervals} steps, but frames are wanted with every={every}: make them equal"
        )
    return True


class RenderToInfo(gym.Wrapper[ObsType, ActType, ObsType, ActType], RecordConstructorArgs):
    """Puts the frames that will be scored into ``info["robometer/frame"]``.

    Wrap each sub-environment of a vector environment in it, outside ``TimeLimit`` so that the last frame of a truncated
    episode is rendered too. The reward wrapper around the vector environment finds it, takes its frames and removes
    the key. Frames 0, every, 2 every, ... counted from the reset, and the last one of each episode are rendered.

    Args:
        env: An environment with ``render_mode="rgb_array"``, unless it has ``cameras``.
        every: The ``every`` of the `robometer_rl.RewardSpec`.
        cameras: By its name, how each of several cameras draws the environment, for ``frames=("render/NAME", ...)`` of
            the wrapper outside; ``env.render()`` alone, for ``frames="render"``, if None.

    Examples:
        With ``make_env``, which makes an environment with ``render_mode="rgb_array"``:

        >>> from gymnasium.vector import AsyncVectorEnv
        >>> from robometer_rl.wrappers import RenderToInfo
        >>> envs = AsyncVectorEnv([lambda: RenderToInfo(make_env())] * 2)
        >>> observations, infos = envs.reset(seed=0)
        >>> "robometer/frame" in infos
        True
        >>> envs.close()
    """

    def __init__(
        self,
        env: gym.Env[ObsType, ActType],
        every: int = 1,
        cameras: Mapping[str, Callable[[gym.Env[ObsType, ActType]], Any]] | None = None,
    ) -> None:
        """See the class.

        Raises:
            ValueError: The environment does not render RGB arrays, ``every`` is not a positive integer, or
                ``cameras`` has none.
        """
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a positive integer, got {every!r}")
        if cameras is None:
            require_rgb_array(env.render_mode)
        elif not cameras or not all(map(callable, cameras.values())):
            raise ValueError(f"cameras must have a callable of the environment for each name, got {cameras!r}")
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, every=every, cameras=cameras)
        gym.Wrapper.__init__(self, env)
        drawn = {} if cameras is None else {camera_key(name): draw for name, draw in cameras.items()}
        self._cameras = drawn or {FRAME_KEY: _rendered}
        self._every = every
        self._elapsed_steps = 0
        self._guard = EpisodeGuard()

    @property
    def render_to_info_every(self) -> int:
        """The rendering interval in steps."""
        return self._every

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObsType, dict[str, Any]]:
        """Resets the environment and renders the first frame."""
        with self._guard.resetting():
            observation, info = self.env.reset(seed=seed, options=options)
            self._elapsed_steps = 0
            return observation, self._with_frame(info)

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment and renders the frame if it will be scored.

        Raises:
            gymnasium.error.ResetNeeded: Nothing was reset yet, or the last step or reset failed.
        """
        with self._guard.stepping():
            observation, reward, terminated, truncated, info = self.env.step(action)
            self._elapsed_steps += 1
            if is_scored(self._elapsed_steps, self._every, terminated or truncated):
                info = self._with_frame(info)
            return observation, reward, terminated, truncated, info

    def _with_frame(self, info: dict[str, Any]) -> dict[str, Any]:
        # A copy, since environments may draw into one buffer: DummyVecEnv resets before it copies the infos, which
        # would turn the last frame of an episode into the first of the next.
        return info | {key: np.array(as_array(draw(self.env))) for key, draw in self._cameras.items()}


def _rendered(env: gym.Env[Any, Any]) -> Any:
    return env.render()
