"""The recording wrapper for Stable-Baselines3's vector environments."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from robometer_rl.data.store import TrajectoryStore
from robometer_rl.wrappers.sb3.vec_reader import (
    render_camera,
    require_original_images,
    require_vec_env,
    stacked_spaces,
    views,
)
from robometer_rl.wrappers.tasks import TaskSource
from robometer_rl.wrappers.trajectory_recorder import RecordingWrapper, RecordOptions, TrajectoryRecorder

__all__ = ["VecRecordTrajectories"]


class VecRecordTrajectories(RecordingWrapper, VecEnvWrapper):
    """Records episodes into a store, to train and to judge reward models.

    The same arguments and the same recordings as `robometer_rl.wrappers.RecordTrajectories`. A `VecEnv` resets a
    sub-environment inside the step that ends its episode, so rendered frames need `robometer_rl.wrappers.RenderToInfo`
    in the sub-environments, with the same ``every``.

    Seeds are those of `VecEnv.seed`; episodes after the first of an environment count as the first, second, ... after
    its seed.

    Args:
        venv: The vector environment.
        store: The directory of the store, which is made if it is missing.
        task: The instruction, or where it comes from: `robometer_rl.wrappers.tasks.TaskSource`.
        options: See `robometer_rl.wrappers.trajectory_recorder.RecordOptions`.
    """

    def __init__(
        self,
        venv: VecEnv,
        store: TrajectoryStore | str | Path,
        task: TaskSource,
        **options: Unpack[RecordOptions],
    ) -> None:
        """See the class.

        Raises:
            TaskError: The task is not an instruction.
            StoreError: The directory holds something else.
            ValueError: An option that is none, or a `VecNormalize` inside has changed the frames;
                `robometer_rl.frames.FrameError` if they are not images.
        """
        require_vec_env(venv)
        super().__init__(venv)
        require_original_images(venv, options.get("frames", "render"))
        self._recorder = TrajectoryRecorder(
            store,
            task,
            env_id=_env_id(venv),
            num_envs=venv.num_envs,
            observation_space=venv.observation_space,
            action_space=venv.action_space,
            stacked_spaces=stacked_spaces(venv),
            resets_inside=True,
            render_camera=partial(render_camera, venv),
            read_attribute=self._read_attribute,
            **options,
        )

    def reset(self) -> VecEnvObs:
        """Resets the environments and begins episodes with their first frames."""
        # The base forgets them in its reset.
        seeds = list(self.venv.unwrapped._seeds)
        with self._recorder.guard.resetting():
            observations = self.venv.reset()
            self._recorder.start(np.arange(self.num_envs), views(observations, self.venv.unwrapped.reset_infos), seeds)
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Begins a step.

        Raises:
            gymnasium.error.ResetNeeded: Nothing was reset yet, or an error in the last step or reset has left the
                episodes in pieces.
        """
        # Here and not only where it is waited for, or workers would answer what nobody fetches.
        self._recorder.guard.require_whole()
        self._actions = actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Waits for the environments, and writes the episodes that end.

        Raises:
            gymnasium.error.ResetNeeded: See `step_async`.
        """
        with self._recorder.guard.stepping():
            observations, rewards, dones, infos = self.venv.step_wait()
            ended = np.array(dones, np.bool_)
            self._recorder.step(views(observations, infos, ended), self._actions, np.array(rewards, np.float64), ended)
            restarted = np.flatnonzero(ended)
            reset_infos = self.venv.unwrapped.reset_infos
            self._recorder.start(restarted, views(observations, reset_infos), [None] * len(restarted))
        return observations, rewards, dones, infos

    def close(self) -> None:
        """Ends the recording and closes the environments."""
        self._recorder.close()
        self.venv.close()

    def _read_attribute(self, name: str, indices: Sequence[int]) -> list[Any]:
        return self.venv.get_attr(name, list(indices))


def _env_id(venv: VecEnv) -> str:
    """The name of the environments, as the wrapper of a single one finds it."""
    spec = venv.get_attr("spec", 0)[0]
    return type(venv.get_attr("unwrapped", 0)[0]).__name__ if spec is None else spec.id
