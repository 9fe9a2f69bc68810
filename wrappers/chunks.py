"""Several actions as one, for policies that decide once for the next k steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
from gymnasium.core import ActType, ObsType
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector.utils import batch_space, iterate

from robometer_rl.true_success import find_success, read_success
from robometer_rl.wrappers.guard import EpisodeGuard
from robometer_rl.wrappers.rendering import INTERVAL_ATTRIBUTE

__all__ = ["ActionChunk"]

_DETECTED_KEY = "robometer/success_detected"
_REWARD_ATTRIBUTE = "reward_spec"
"""The attribute by which a reward wrapper inside is found."""


class ActionChunk(gym.Wrapper[ObsType, Any, ObsType, ActType], RecordConstructorArgs):
    """Executes a chunk of actions in one step and pays ``sum(gamma ** i * reward_i)`` over it.

    A chunk breaks off where the episode ends. Observation and info are those after its last step, except for what is
    true of a chunk if it is true after any of its steps: ``robometer/success_detected`` and, inside a reward wrapper,
    true success. The outcome of an episode is thus the same with chunks and without.
    ``info["robometer/chunk_length"]`` is the number of actions that were executed. An agent that learns on chunks
    discounts one of them with ``gamma ** size``.

    Put it *around* `robometer_rl.wrappers.RobometerReward`: every step is then scored (or every k-th, with
    ``RewardSpec(every=k)``, counted in steps), the success rule may end a chunk, and the rewards of its steps are
    summed. *Inside* a reward wrapper a chunk is one step: its last frame alone is scored, ``every`` counts chunks, and
    the sum is that of the task rewards. Vector environments need it so, since their sub-environments cannot break off
    chunks at different steps; `robometer_rl.wrappers.RenderToInfo` then goes around it, so that it renders that frame.

    Args:
        env: The environment.
        size: Actions in a chunk.
        gamma: Discount per step in (0, 1].
        success_key: Info key of true success, see `robometer_rl.true_success`.

    Examples:
        With ``make_env``, which makes an environment with ``render_mode="rgb_array"``:

        >>> from robometer_rl.wrappers import ActionChunk, RobometerReward
        >>> env = RobometerReward(make_env(), "mini", task="open the drawer")
        >>> env.action_space.shape
        (4,)
        >>> env = ActionChunk(env, size=5, gamma=0.99)
        >>> env.action_space.shape
        (5, 4)
    """

    def __init__(
        self, env: gym.Env[ObsType, ActType], size: int, gamma: float = 1.0, success_key: str | None = None
    ) -> None:
        """See the class.

        Raises:
            ValueError: ``size`` is not a positive integer, ``gamma`` is not in (0, 1] or is not that of a
                `robometer_rl.RewardSpec` inside, or `RenderToInfo` inside renders for a reward wrapper outside.
        """
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be a positive integer, got {size!r}")
        if not 0.0 < gamma <= 1.0:
            raise ValueError(f"gamma must be in (0, 1], got {gamma!r}")
        RecordConstructorArgs.__init__(self, size=size, gamma=gamma, success_key=success_key)
        gym.Wrapper.__init__(self, env)
        self._size = size
        self._gamma = gamma
        self._success_key = success_key
        self._guard = EpisodeGuard()
        self._require_order()
        self.action_space: gym.Space[Any] = batch_space(env.action_space, size)

    @property
    def scored_steps_per_chunk(self) -> int:
        """Steps of a chunk that a reward wrapper pays: all, if it is inside; a chunk is one step to one outside."""
        return self._size if self.env.has_wrapper_attr(_REWARD_ATTRIBUTE) else 1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObsType, dict[str, Any]]:
        """Resets the environment."""
        with self._guard.resetting():
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[ObsType, float, bool, bool, dict[str, Any]]:
        """Executes a chunk, or the part of it until the episode ends.

        Args:
            action: ``size`` actions, batched as ``action_space`` says.

        Raises:
            ValueError: Another number of actions.
            gymnasium.error.ResetNeeded: Nothing was reset yet, or the last chunk or reset failed on its way.
        """
        actions = list(iterate(self.action_space, action))
        if len(actions) != self._size:
            raise ValueError(f"got {len(actions)} actions; expected a chunk of {self._size}")
        with self._guard.stepping():
            return self._execute(actions)

    def _execute(self, actions: Sequence[ActType]) -> tuple[ObsType, float, bool, bool, dict[str, Any]]:
        rewards: list[float] = []
        said: dict[bool, dict[str, Any]] = {}
        detected = False
        while True:
            observation, reward, terminated, truncated, info = self.env.step(actions[len(rewards)])
            rewards.append(float(reward))
            detected |= info.get(_DETECTED_KEY, False)
            said |= self._true_success(info)
            if terminated or truncated or len(rewards) == self._size:
                break
        chunk_reward = sum(self._gamma**number * reward for number, reward in enumerate(rewards))
        info = {**info, **said.get(True, said.get(False, {})), "robometer/chunk_length": len(rewards)}
        if _DETECTED_KEY in info:
            info[_DETECTED_KEY] = detected
        return observation, chunk_reward, terminated, truncated, info

    def _true_success(self, info: Mapping[str, Any]) -> dict[bool, dict[str, Any]]:
        """What a step says about true success, and how; nothing where a reward wrapper inside has listened."""
        key = find_success(info, self._success_key)
        if key is None or self.env.has_wrapper_attr(_REWARD_ATTRIBUTE):
            return {}
        said = read_success(info, self._success_key)
        # In the words of the environment, copied since it may use its objects again.
        return {} if said is None else {said: {key: deepcopy(info[key])}}

    def _require_order(self) -> None:
        if self.env.has_wrapper_attr(_REWARD_ATTRIBUTE):
            discount = self.env.get_wrapper_attr(_REWARD_ATTRIBUTE).gamma
            if discount is not None and discount != self._gamma:
                raise ValueError(
                    f"the potential inside is discounted with RewardSpec(gamma={discount}) per step, the chunk with "
                    f"gamma={self._gamma}: give both the same, or its sum is no longer a difference of potentials"
                )
        elif self.env.has_wrapper_attr(INTERVAL_ATTRIBUTE):
            raise ValueError(
                "RenderToInfo inside ActionChunk renders frames that never come out: put it around ActionChunk, or a "
                "RobometerReward between the two"
            )
