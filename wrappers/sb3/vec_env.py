"""The reward wrapper for Stable-Baselines3's vector environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from robometer_rl.frames import FrameProtocol
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.rewards import DEFAULT_REWARD, RewardSpec
from robometer_rl.wrappers.frame_sources import FrameSources
from robometer_rl.wrappers.observation_reader import Indices, Views
from robometer_rl.wrappers.rendering import without_frames
from robometer_rl.wrappers.sb3.recorders import VecEnvRecorders
from robometer_rl.wrappers.sb3.vec_reader import (
    render_camera,
    require_original_images,
    require_vec_env,
    stacked_spaces,
    views,
)
from robometer_rl.wrappers.scoring import EpisodeScorer, ScoringWrapper
from robometer_rl.wrappers.tasks import TaskSource

__all__ = ["Received", "VecRobometerReward"]

Info = dict[str, Any]


@dataclass(frozen=True)
class Received:
    """What n environments answered to one step, before anything is scored.

    Attributes:
        observations: Batched; where an episode ended, the first of the next.
        task_rewards: (n,) float64.
        dones: (n,) bool.
        truncated: (n,) bool, where a done was a truncation.
        infos: Copies, one per environment.
        view: What each environment showed, where it is done the last moment of its episode.
    """

    observations: VecEnvObs
    task_rewards: NDArray[np.float64]
    dones: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    infos: list[Info]
    view: Views


class VecRobometerReward(ScoringWrapper, VecEnvWrapper):
    """Pays what a reward model sees instead of, or beside, the environments' own rewards.

    The same arguments and the same numbers as `robometer_rl.wrappers.RobometerReward`, with one call of the model for
    all environments. A `VecEnv` resets a sub-environment inside the step that ends its episode, so rendered frames
    need `robometer_rl.wrappers.RenderToInfo` in the sub-environments.

    `Monitor` inside the sub-environments, or `VecMonitor` inside this wrapper, keeps the true return in
    ``info["episode"]``, also of episodes that predicted success ends, and its file lists them. Only the file of a
    `Monitor` in a worker process does not: it cannot be reached from here.

    Args:
        venv: The vector environment. ``terminate_on_success`` resets single sub-environments, which works directly
            around a base `VecEnv`, or a `VecMonitor` around one, only.
        model: A reward model, shared and never closed, or a string for `robometer_rl.load_reward_model`.
        task: The instruction, or where it comes from: `robometer_rl.wrappers.tasks.TaskSource`.
        reward: How predictions become a reward.
        frames: ``"render"``, ``"obs"``, ``"obs/KEY"``, ``"info/KEY"``, a callable of one environment's (obs, info), or
            a tuple of these for several cameras.
        protocol: Which frames of a history the model is shown; None for the model's default.
        success_key: Info key of true success; None for ``is_success``, else ``success`` (`robometer_rl.true_success`).

    Attributes:
        reset_infos: The info of each environment's last reset, with ``robometer/reset_progress``.

    Examples:
        With ``make_env``, which makes an environment with ``render_mode="rgb_array"``:

        >>> from stable_baselines3.common.env_util import make_vec_env
        >>> from robometer_rl.wrappers import RenderToInfo, VecRobometerReward
        >>> venv = make_vec_env(make_env, 2, wrapper_class=RenderToInfo)
        >>> venv = VecRobometerReward(venv, "mini", task="open the drawer")
        >>> observations = venv.reset()
        >>> observations, rewards, dones, infos = venv.step(np.zeros((2, 4)))
        >>> rewards.shape
        (2,)
        >>> venv.close()
    """

    def __init__(
        self,
        venv: VecEnv,
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
            ValueError: Frames cannot come from there, or a `VecNormalize` inside has changed them;
                `robometer_rl.frames.FrameError` if they are not images.
            TypeError: A model, reward or protocol of another type, or ``terminate_on_success`` around another wrapper.
        """
        require_vec_env(venv)
        super().__init__(venv)
        require_original_images(venv, frames)
        self._scorer = EpisodeScorer(
            model,
            task=task,
            reward=reward,
            frames=frames,
            protocol=protocol,
            success_key=success_key,
            num_envs=venv.num_envs,
            observation_space=venv.observation_space,
            stacked_spaces=stacked_spaces(venv),
            resets_inside=True,
            render_camera=partial(render_camera, venv),
            read_attribute=self._read_attribute,
        )
        self._require_resettable()
        self._recorders = VecEnvRecorders(venv) if self.reward_spec.terminate_on_success else None

    def reset(self) -> VecEnvObs:
        """Resets the environments and starts new histories with their first frames."""
        with self._scorer.guard.resetting():
            observations = self.venv.reset()
            self._start(np.arange(self.num_envs), observations, self.venv.unwrapped.reset_infos)
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Begins a step.

        Raises:
            gymnasium.error.ResetNeeded: Nothing was reset yet, or an error in the last step or reset has left the
                episodes in pieces.
        """
        # Here and not only where it is waited for, or workers would answer what nobody fetches.
        self._scorer.guard.require_whole()
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Waits for the environments and pays.

        Raises:
            gymnasium.error.ResetNeeded: See `step_async`.
        """
        with self._scorer.guard.stepping():
            return self._step(self._receive())

    def close(self) -> None:
        """Closes the environments; the model stays open."""
        self.stop_live()
        super().close()

    def _step(self, received: Received) -> VecEnvStepReturn:
        observations, dones, infos, view = received.observations, received.dones, received.infos, received.view
        reset_infos = list(self.venv.unwrapped.reset_infos)
        step = self._scorer.step(view, received.task_rewards, dones & ~received.truncated, received.truncated)
        for index, entry in enumerate(step.entries):
            infos[index].update(entry)
            if step.terminated[index]:
                infos[index]["TimeLimit.truncated"] = False
        for index in np.flatnonzero(step.terminated & ~dones).tolist():
            # Copies, since the reset may draw over what the environment has given out, and the first observation of
            # the next episode takes the place of the last in the batch.
            infos[index] = deepcopy(infos[index])
            infos[index]["terminal_observation"] = deepcopy(view(index).observation)
            if self._recorders is not None:
                infos[index].update(self._recorders.end(index, infos[index]))
            reset_infos[index] = self._reset_environment(index, observations)
        ended = np.flatnonzero(self._scorer.over)
        for index, entry in zip(ended.tolist(), self._start(ended, observations, reset_infos), strict=True):
            infos[index].update(entry)
        return observations, step.rewards, dones | step.terminated, [without_frames(info) for info in infos]

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method of the sub-environments.

        Raises:
            TypeError: The method is ``compute_reward``, which hindsight experience replay asks for.
        """
        if method_name == "compute_reward":
            self.compute_reward()
        return self.venv.env_method(method_name, *method_args, indices=indices, **method_kwargs)

    def _receive(self) -> Received:
        """Waits for the environments."""
        observations, rewards, dones, step_infos = self.venv.step_wait()
        # Copies, since an environment may use its buffers again while these are scored on another thread.
        infos = [dict(info) for info in step_infos]
        dones = np.array(dones, np.bool_)
        truncated = dones & np.array([info.get("TimeLimit.truncated", False) for info in infos], np.bool_)
        return Received(
            observations,
            np.array(rewards, np.float64),
            dones,
            truncated,
            infos,
            views(observations, infos, dones),
        )

    def _start(self, indices: Indices, observations: VecEnvObs, reset_infos: Sequence[Info]) -> list[Info]:
        """Begins episodes in the chosen environments; returns what the step that reset them adds to their infos."""
        entries = self._scorer.start(indices, views(observations, reset_infos))
        for index, entry in zip(indices.tolist(), entries, strict=True):
            self.reset_infos[index] = without_frames(reset_infos[index]) | entry
        return entries

    def _reset_environment(self, index: int, observations: VecEnvObs) -> Info:
        """Resets one sub-environment inside the base `VecEnv`; its first observation takes its place in the batch."""
        answers = self.venv.env_method("reset", indices=[index])
        if len(answers) != 1:
            raise TypeError(
                f"terminate_on_success resets single sub-environments, and {self.venv} answered env_method('reset', "
                f"indices=[{index}]) with {len(answers)} resets instead of one: use DummyVecEnv or SubprocVecEnv, or "
                "RewardSpec(terminate_on_success=False)"
            )
        observation, info = answers[0]
        if isinstance(observations, dict):
            for key, batch in observations.items():
                batch[index] = observation[key]
        elif isinstance(observations, tuple):
            for batch, part in zip(observations, observation, strict=True):
                batch[index] = part
        else:
            observations[index] = observation
        return info

    def _require_resettable(self) -> None:
        if not self.reward_spec.terminate_on_success:
            return
        base = self.venv.venv if isinstance(self.venv, VecMonitor) else self.venv
        if isinstance(base, VecEnvWrapper):
            raise TypeError(
                "terminate_on_success resets single sub-environments, which a wrapper in between would not notice: "
                f"put VecRobometerReward directly around the base VecEnv or a VecMonitor around it, not {self.venv}"
            )

    def _read_attribute(self, name: str, indices: Sequence[int]) -> list[Any]:
        return self.venv.get_attr(name, list(indices))
