"""The recording wrapper for Gymnasium's vector environments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from robometer_rl.data.store import TrajectoryStore
from robometer_rl.frames import as_array
from robometer_rl.wrappers.masked_reset import MaskedResets, parse_reset_options
from robometer_rl.wrappers.recorders import VectorRecorders
from robometer_rl.wrappers.tasks import TaskSource, parse_task
from robometer_rl.wrappers.trajectory_recorder import RecordingWrapper, RecordOptions, TrajectoryRecorder
from robometer_rl.wrappers.vector_infos import as_infos, keep_types
from robometer_rl.wrappers.vector_reader import VectorReader

__all__ = ["RecordTrajectories"]

Array = NDArray[Any]


class RecordTrajectories(RecordingWrapper, VectorWrapper[ObsType, ActType, ObsType, ActType, Array]):
    """Records episodes into a store, to train and to judge reward models.

    The vector twin of `robometer_rl.wrappers.RecordTrajectories`: the same arguments and the same recordings. All three
    autoreset modes work; the frame that ends an episode is always the true one. Under SAME_STEP rendered frames
    need `robometer_rl.wrappers.RenderToInfo` in the sub-environments, with the same ``every``.

    Seeds are those of ``reset(seed=...)``: of an integer, environment i gets ``seed + i``.

    Args:
        env: The vector environment; ``metadata["autoreset_mode"]`` says how it resets.
        store: The directory of the store, which is made if it is missing.
        task: The instruction, or where it comes from: `robometer_rl.wrappers.tasks.TaskSource`.
        options: See `robometer_rl.wrappers.trajectory_recorder.RecordOptions`.
    """

    def __init__(
        self,
        env: VectorEnv[ObsType, ActType, Array],
        store: TrajectoryStore | str | Path,
        task: TaskSource,
        **options: Unpack[RecordOptions],
    ) -> None:
        """See the class.

        Raises:
            TaskError: The task is not an instruction.
            StoreError: The directory holds something else.
            ValueError: The autoreset mode is not known, or an option that is none;
                `robometer_rl.frames.FrameError` if frames are not images.
        """
        super().__init__(env)
        self._reader = VectorReader(env, parse_task(task, env.num_envs))
        # For wrappers outside, which ask the metadata.
        self.metadata = {**env.metadata, "autoreset_mode": self._reader.mode}
        self._recorder = TrajectoryRecorder(
            store,
            task,
            env_id=_env_id(env),
            num_envs=env.num_envs,
            observation_space=self._reader.observation_space,
            action_space=env.single_action_space,
            stacked_spaces=self._reader.stacked_spaces,
            resets_inside=self._reader.mode is AutoresetMode.SAME_STEP,
            render_camera=self._reader.render_camera,
            read_attribute=self._reader.read_attribute,
            **options,
        )
        if isinstance(env.unwrapped, (SyncVectorEnv, AsyncVectorEnv)):
            # Theirs can turn what is not known, or not yet, into success.
            keep_types(env.unwrapped)
        self._resets = MaskedResets(env, VectorRecorders(env, False))

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        """Resets the environments, those in ``options["reset_mask"]`` if there is one, and begins new episodes.

        Raises:
            gymnasium.error.ResetNeeded: Only some are to be reset, but nothing was reset yet, or an error has left no
                episode whole.
            ResetMaskError: Only some are to be reset, and the environment resets others, too.
        """
        chosen, others = parse_reset_options(options, self.env)
        mask = np.ones(self.num_envs, np.bool_) if chosen is None else chosen
        with self._recorder.guard.resetting(everything=bool(mask.all())):
            if chosen is None:
                observations, infos = self.env.reset(seed=seed, options=others)
            else:
                observations, infos = self._resets.reset(chosen, seed, others)
            self._resets.shown = observations
            self._reader.forget_pictures()
            restarted, seeds = np.flatnonzero(mask), _seeds(seed, self.num_envs)
            view = self._reader.views(observations, as_infos(infos, self.num_envs))
            self._recorder.start(restarted, view, [seeds[index] for index in restarted.tolist()])
        return observations, infos

    def step(self, actions: ActType) -> tuple[ObsType, Array, Array, Array, dict[str, Any]]:
        """Steps the environments, and writes the episodes that end.

        Raises:
            gymnasium.error.ResetNeeded: Nothing was reset yet, an error has left an episode in pieces or, under
                DISABLED, an episode is over.
        """
        if self._reader.mode is AutoresetMode.NEXT_STEP:
            self._recorder.guard.require_whole()
        else:
            self._recorder.require_running()
        with self._recorder.guard.stepping():
            starting = self._recorder.over
            observations, rewards, terminations, truncations, infos = self.env.step(actions)
            self._resets.shown = observations
            self._reader.forget_pictures()
            ended = np.array(as_array(terminations), np.bool_) | np.array(as_array(truncations), np.bool_)
            ended &= ~starting
            readable = as_infos(infos, self.num_envs)
            view = self._reader.views(observations, readable, ended)
            self._recorder.step(view, actions, np.array(as_array(rewards), np.float64), ended, starting)
            if self._reader.mode is AutoresetMode.SAME_STEP and ended.any():
                restarted = np.flatnonzero(ended)
                self._recorder.start(restarted, self._reader.views(observations, readable), [None] * len(restarted))
        return observations, rewards, terminations, truncations, infos

    def close(self, **kwargs: Any) -> None:
        """Ends the recording and closes the environments."""
        self._recorder.close()
        super().close(**kwargs)


def _env_id(env: VectorEnv[Any, Any, Any]) -> str:
    """The name of the environments, as the wrapper of a single one finds it."""
    base = env.unwrapped
    if isinstance(base, (SyncVectorEnv, AsyncVectorEnv)):
        spec = base.get_attr("spec")[0]
        if spec is not None:
            return spec.id
        if isinstance(base, SyncVectorEnv):
            return type(base.envs[0].unwrapped).__name__
    return type(base).__name__ if env.spec is None else env.spec.id


def _seeds(seed: Any, num_envs: int) -> Sequence[int | None]:
    """The seed of each environment, as Gymnasium distributes them."""
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, (int, np.integer)):
        return [int(seed) + index for index in range(num_envs)]
    return list(seed)
