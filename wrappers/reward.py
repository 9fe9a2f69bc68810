"""The reward wrapper for one environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.utils import RecordConstructorArgs

from robometer_rl.frames import FrameProtocol
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.rewards import DEFAULT_REWARD, RewardSpec
from robometer_rl.wrappers.frame_sources import FrameSources, View, scalar_render_camera, scalar_stacks
from robometer_rl.wrappers.recorders import scalar_recorders
from robometer_rl.wrappers.rendering import without_frames
from robometer_rl.wrappers.scoring import EpisodeScorer, ScoringWrapper
from robometer_rl.wrappers.tasks import TaskSource

__all__ = ["RobometerReward"]


class RobometerReward(ScoringWrapper, gym.Wrapper[ObsType, ActType, ObsType, ActType], RecordConstructorArgs):
    """Pays what a reward model sees instead of, or beside, the environment's own reward.

    The frame after each step is scored with its history since the reset, and a `robometer_rl.RewardSpec` turns the
    predictions into a reward. The environment's own reward stays in ``info["robometer/task_reward"]``; the other info
    keys are listed in docs/wrappers.md. The vector twin is `robometer_rl.wrappers.vector.RobometerReward`.

    A model cannot be pickled, and neither can this wrapper while it holds one: score environments that run in worker
    processes with a vector wrapper outside, and `robometer_rl.wrappers.RenderToInfo` inside.

    Args:
        env: The environment. ``frames="render"`` needs ``render_mode="rgb_array"``.
        model: A reward model, shared and never closed, or a string for `robometer_rl.load_reward_model`.
        task: The instruction, or where it comes from: `robometer_rl.wrappers.tasks.TaskSource`.
        reward: How predictions become a reward.
        frames: ``"render"``, ``"obs"``, ``"obs/KEY"``, ``"info/KEY"``, a callable of (obs, info), or a tuple of these
            for several cameras, or `Tiles` of these for several cameras in one picture.
        protocol: Which frames of a history the model is shown; None for the model's default.
        success_key: Info key of true success; None for ``is_success``, else ``success`` (`robometer_rl.true_success`).

    Examples:
        With ``make_env``, which makes an environment with ``render_mode="rgb_array"``:

        >>> from robometer_rl.wrappers import RobometerReward
        >>> env = RobometerReward(make_env(), "mini", task="open the drawer")
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> reward == info["robometer/reward"], info["robometer/task_reward"]
        (True, 0.0)
    """

    def __init__(
        self,
        env: gym.Env[ObsType, ActType],
        model: RewardModel | str,
        task: TaskSource,
        reward: RewardSpec | Mapping[str, Any] = DEFAULT_REWARD,
        frames: FrameSources = "render",
        protocol: FrameProtocol | str | None = None,
        success_key: str | None = None,
    ) -> None:
        """See the class.

        Raises:
            TaskError: The task is not an instruction.
            ValueError: Frames cannot come from there; `robometer_rl.frames.FrameError` if they are not images.
            TypeError: A model, reward or protocol of another type.
        """
        gym.Wrapper.__init__(self, env)
        self._scorer = EpisodeScorer(
            model,
            task=task,
            reward=reward,
            frames=frames,
            protocol=protocol,
            success_key=success_key,
            num_envs=1,
            observation_space=env.observation_space,
            stacked_spaces=scalar_stacks(env),
            render_camera=partial(scalar_render_camera, env),
            read_attribute=self._read_attribute,
        )
        # Not the live objects: a spec is compared, copied and written as JSON. Copies of callables would be useless.
        RecordConstructorArgs.__init__(
            self,
            _disable_deepcopy=True,
            model=self.model.source,
            task=task,
            reward=self.reward_spec,
            frames=frames,
            protocol=None if protocol is None else str(protocol),
            success_key=success_key,
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObsType, dict[str, Any]]:
        """Resets the environment and starts a new history with its first frame."""
        with self._scorer.guard.resetting():
            observation, info = self.env.reset(seed=seed, options=options)
            entries = self._scorer.start(np.array([0]), lambda index: View(index, observation, info))
        return observation, _returned(info, entries[0])

    def step(self, action: ActType) -> tuple[ObsType, float, bool, bool, dict[str, Any]]:
        """Steps the environment and pays.

        Raises:
            gymnasium.error.ResetNeeded: The episode is over, perhaps by predicted success, or has not begun, or an
                error in the last step or reset has left it in pieces.
        """
        self._scorer.require_running()
        with self._scorer.guard.stepping():
            observation, task_reward, terminated, truncated, info = self.env.step(action)
            step = self._scorer.step(
                lambda index: View(index, observation, info),
                np.array([float(task_reward)]),
                np.array([bool(terminated)]),
                np.array([bool(truncated)]),
            )
            info = _returned(info, step.entries[0])
            if step.terminated[0] and not (terminated or truncated):
                info |= {recorder.key: recorder.end(info) for recorder in scalar_recorders(self.env)}
        return observation, float(step.rewards[0]), bool(step.terminated[0]), truncated, info

    def close(self) -> None:
        """Closes the environment; the model stays open."""
        self.stop_live()
        super().close()

    def _read_attribute(self, name: str, indices: Sequence[int]) -> list[Any]:
        return [self.env.get_wrapper_attr(name) for _ in indices]


def _returned(info: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """What the caller gets: the environment's info and the wrapper's entries, without the frame of `RenderToInfo`."""
    return without_frames(info) | entry
