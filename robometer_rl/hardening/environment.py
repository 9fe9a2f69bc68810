"""The environment that agents act in: made by its name, with an action that is held and a seed for every episode."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
from gymnasium.core import ActType, ObsType
from gymnasium.error import Error, NameNotFound

__all__ = ["ActionRepeat", "SeededEpisodes", "make_environment"]


def make_environment(name: str, options: dict[str, Any]) -> gym.Env[Any, Any]:
    """Makes an environment that renders ``rgb_array``.

    Args:
        name: As for ``gymnasium.make``, with ``MODULE:`` before it if that has to be imported first, or
            ``MODULE:FUNCTION``. Modules are found in the working directory, too.
        options: Keyword arguments.

    Raises:
        ValueError: There is no such module, environment or function, or it refuses the options.
    """
    module, _, inner = name.rpartition(":")
    if str(Path.cwd()) not in sys.path:  # as in `python -m`; an installed program does not look there
        sys.path.append(str(Path.cwd()))
    try:
        maker: Any = getattr(import_module(module), inner, None) if module else None
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"env {name!r}: there is no module {module!r} here; expected MODULE:ID or an id") from error
    try:
        if maker is not None:
            return maker(**options)
        return gym.make(inner, **{"render_mode": "rgb_array", **options})
    except NameNotFound as error:
        raise ValueError(
            f"env {name!r} is not registered ({error}); if a module has to be imported first, write MODULE:{inner}"
        ) from error
    except (Error, TypeError) as error:
        raise ValueError(f"env {name!r} cannot be made with the options {options}: {error}") from error


class ActionRepeat(gym.Wrapper[ObsType, ActType, ObsType, ActType]):
    """Holds an action for several steps and adds up what they pay; the info is that of the last.

    Args:
        env: The environment.
        repeat: Steps per action.
    """

    def __init__(self, env: gym.Env[ObsType, ActType], repeat: int) -> None:
        super().__init__(env)
        self._repeat = repeat

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """One decision."""
        paid = 0.0
        for _ in range(self._repeat - 1):
            observation, reward, terminated, truncated, info = self.env.step(action)
            paid += float(reward)
            if terminated or truncated:
                return observation, paid, terminated, truncated, info
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, paid + float(reward), terminated, truncated, info


class SeededEpisodes(gym.Wrapper[ObsType, ActType, ObsType, ActType]):
    """Gives each episode a seed of its own, so that what is recorded says how it can be had again.

    Args:
        env: The environment.
        first: Seed of the first episode; the others follow.
    """

    def __init__(self, env: gym.Env[ObsType, ActType], first: int) -> None:
        super().__init__(env)
        self._next = first

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObsType, dict[str, Any]]:
        """Begins the next episode; the caller's seed is not looked at."""
        self._next += 1
        return self.env.reset(seed=self._next - 1, options=options)
