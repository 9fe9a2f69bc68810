"""The recording wrapper for one environment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, SupportsFloat, Unpack

import gymnasium as gym
import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.utils import RecordConstructorArgs

from robometer_rl.data.store import TrajectoryStore
from robometer_rl.wrappers.frame_sources import View, scalar_render_camera, scalar_stacks
from robometer_rl.wrappers.tasks import TaskSource
from robometer_rl.wrappers.trajectory_recorder import RecordingWrapper, RecordOptions, TrajectoryRecorder

__all__ = ["RecordTrajectories"]


class RecordTrajectories(RecordingWrapper, gym.Wrapper[ObsType, ActType, ObsType, ActType], RecordConstructorArgs):
    """Records episodes into a store, to train and to judge reward models.

    What the environment returns is passed on as it is. An episode is written when it ends, with its frames, outcome,
    seed and what else is asked for; one that is broken off is not written. An episode that the store has already, of
    the same environment, task, skill and seed, is not written twice, so that a program that was interrupted can be run
    again; `is_recorded` tells which seeds it may leave out. After a reset without a seed, an episode counts as the
    first, second, ... after the last seed.

    The vector twin is `robometer_rl.wrappers.vector.RecordTrajectories`. Around a reward wrapper the episodes end where
    it ends them.

    Args:
        env: The environment. ``frames="render"`` needs ``render_mode="rgb_array"``.
        store: The directory of the store, which is made if it is missing.
        task: The instruction, or where it comes from: `robometer_rl.wrappers.tasks.TaskSource`.
        options: See `robometer_rl.wrappers.trajectory_recorder.RecordOptions`.

    Examples:
        With ``make_env``, which makes an environment with ``render_mode="rgb_array"``:

        >>> from robometer_rl.wrappers import RecordTrajectories
        >>> env = RecordTrajectories(make_env(), "stores/mine", task="open the drawer", skill="random")
        >>> for seed in range(2):
        ...     observation, info = env.reset(seed=seed)
        ...     done = env.is_recorded(seed)
        ...     while not done:
        ...         _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        ...         done = terminated or truncated
        >>> [trajectory.seed for trajectory in env.store]
        [0, 1]
        >>> env.close()
    """

    def __init__(
        self,
        env: gym.Env[ObsType, ActType],
        store: TrajectoryStore | str | Path,
        task: TaskSource,
        **options: Unpack[RecordOptions],
    ) -> None:
        """See the class.

        Raises:
            TaskError: The task is not an instruction.
            StoreError: The directory holds something else.
            ValueError: An option that is none; `robometer_rl.frames.FrameError` if frames are not images.
        """
        gym.Wrapper.__init__(self, env)
        self._recorder = TrajectoryRecorder(
            store,
            task,
            env_id=type(env.unwrapped).__name__ if env.spec is None else env.spec.id,
            num_envs=1,
            observation_space=env.observation_space,
            action_space=env.action_space,
            stacked_spaces=scalar_stacks(env),
            render_camera=partial(scalar_render_camera, env),
            read_attribute=self._read_attribute,
            **options,
        )
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, store=str(self.store.path), task=task, **options)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObsType, dict[str, Any]]:
        """Resets the environment and begins an episode with its first frame."""
        with self._recorder.guard.resetting():
            observation, info = self.env.reset(seed=seed, options=options)
            self._recorder.start(np.array([0]), lambda index: View(index, observation, info), [seed])
        return observation, info

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment, and writes the episode if it ends.

        Raises:
            gymnasium.error.ResetNeeded: The episode is over or has not begun, or an error in the last step or reset
                has left it in pieces.
        """
        self._recorder.require_running()
        with self._recorder.guard.stepping():
            observation, reward, terminated, truncated, info = self.env.step(action)
            self._recorder.step(
                lambda index: View(index, observation, info),
                [action],
                np.array([float(reward)]),
                np.array([bool(terminated or truncated)]),
            )
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Ends the recording and closes the environment."""
        self._recorder.close()
        super().close()

    def _read_attribute(self, name: str, indices: Sequence[int]) -> list[Any]:
        return [self.env.get_wrapper_attr(name) for _ in indices]
