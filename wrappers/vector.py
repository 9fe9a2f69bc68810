"""The reward wrapper for Gymnasium's vector environments, and its reading of vector infos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import iterate
from numpy.typing import NDArray

from robometer_rl.frames import FrameError, FrameProtocol
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.rewards import DEFAULT_REWARD, RewardSpec
from robometer_rl.wrappers.frame_sources import Camera, FrameSources, View, info_camera
from robometer_rl.wrappers.moments import Views
from robometer_rl.wrappers.rendering import FRAME_KEY, INTERVAL_ATTRIBUTE, renders_to_info, require_rgb_array
from robometer_rl.wrappers.scoring import EpisodeScorer, ScoringWrapper
from robometer_rl.wrappers.tasks import TaskFromAttribute, TaskSource

__all__ = ["RobometerReward", "env_info", "forget_info"]

Array = NDArray[Any]
Bools = NDArray[np.bool_]


class RobometerReward(ScoringWrapper, VectorWrapper[ObsType, ActType, ObsType, ActType, Array]):
    """Pays what a reward model sees instead of, or beside, the environments' own rewards.

    The vector twin of `robometer_rl.wrappers.RobometerReward`: the same arguments and the same numbers, with one call
    of the model for all environments. All three autoreset modes work; the frame that ends an episode is always the
    true one:

    * NEXT_STEP: the step that resets an environment pays 0 and starts its new history.
    * SAME_STEP: the terminal frame comes from ``final_obs`` or ``final_info``, so rendered frames need
      `robometer_rl.wrappers.RenderToInfo` in the sub-environments. The info keys of the wrapper describe the step that
      was paid and are in ``final_info`` too; ``robometer/reset_progress`` belongs to the new episode.
    * DISABLED: the caller resets, with ``options={"reset_mask": mask}``; only those histories restart.

    With ``terminate_on_success`` the sub-environment is really reset (the caller does it under DISABLED), which needs
    a vector environment that honours ``reset_mask``.

    Args:
        env: The vector environment; ``metadata["autoreset_mode"]`` says how it resets.
        model: A reward model, shared and never closed, or a string for `robometer_rl.load_reward_model`.
        task: The instruction, or `robometer_rl.wrappers.TaskFromInfo`, or `robometer_rl.wrappers.TaskFromAttribute`.
        reward: How predictions become a reward.
        frames: ``"render"``, ``"obs"``, ``"obs/KEY"``, ``"info/KEY"``, a callable of one environment's (obs, info), or
            a tuple of these for several cameras.
        protocol: Which frames of a history the model is shown; None for the model's default.
        success_key: Info key of true success; None for ``is_success``, else ``success``, if there is one.

    Example:
        >>> from gymnasium.vector import AsyncVectorEnv
        >>> from robometer_rl.envs.metaworld import make_env
        >>> from robometer_rl.wrappers import RenderToInfo
        >>> from robometer_rl.wrappers.vector import RobometerReward
        >>> envs = AsyncVectorEnv([lambda: RenderToInfo(make_env("drawer-open"))] * 4)  # doctest: +SKIP
        >>> envs = RobometerReward(envs, "mini", task="open the drawer")  # doctest: +SKIP
    """

    def __init__(
        self,
        env: VectorEnv[ObsType, ActType, Array],
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
            ValueError: The autoreset mode is not known, or does not go together with the other arguments;
                `robometer_rl.frames.FrameError` if frames are not images.
            TypeError: A model, reward or protocol of another type.
        """
        super().__init__(env)
        self._mode = _autoreset_mode(env)
        if isinstance(task, TaskFromAttribute) and not isinstance(env.unwrapped, (SyncVectorEnv, AsyncVectorEnv)):
            raise ValueError(f"{task} needs sub-environments to ask, a SyncVectorEnv or an AsyncVectorEnv, not {env}")
        self._scorer = EpisodeScorer(
            model,
            task=task,
            reward=reward,
            frames=frames,
            protocol=protocol,
            success_key=success_key,
            num_envs=env.num_envs,
            observation_space=env.single_observation_space,
            render_camera=self._render_camera,
            read_attribute=self._read_attribute,
        )
        self._require_resettable()
        # Sub-environments whose episode predicted success ended, though they do not know it.
        self._running_on = np.zeros(env.num_envs, np.bool_)
        self._rendered: Sequence[Any] | None = None

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        """Resets the environments, those in ``options["reset_mask"]`` if there is one, and starts new histories."""
        # Read first and passed on as a copy: the inner environment removes the mask from the options.
        mask = np.ones(self.num_envs, np.bool_)
        if options is not None and "reset_mask" in options:
            mask = np.array(options["reset_mask"], np.bool_)
        observations, infos = self.env.reset(seed=seed, options=None if options is None else dict(options))
        self._rendered = None
        self._running_on &= ~mask
        restarted = np.flatnonzero(mask)
        entries = self._scorer.start(restarted, self._views(observations, infos))
        for index, entry in zip(restarted.tolist(), entries, strict=True):
            infos = self._add_info(infos, entry, index)
        _remove_frames(infos)
        return observations, infos

    def step(self, actions: ActType) -> tuple[ObsType, Array, Array, Array, dict[str, Any]]:
        """Steps the environments and pays.

        Raises:
            gymnasium.error.ResetNeeded: Nothing was reset yet or, under DISABLED, an episode is over.
        """
        if self._mode is AutoresetMode.NEXT_STEP:
            self._scorer.reader.require_begun()
        else:
            self._scorer.require_running()
        starting = self._scorer.over
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        rewards = np.array(rewards, np.float64)
        terminations, truncations = np.array(terminations, np.bool_), np.array(truncations, np.bool_)
        if self._running_on.any():
            for values in (rewards, terminations, truncations):
                values[self._running_on] = 0
            observations, infos = self._reset_running_on(infos)
        self._rendered = None
        view = self._views(observations, infos, terminations | truncations)
        step = self._scorer.step(view, rewards, terminations, truncations, starting)
        self._running_on = step.terminated & ~(terminations | truncations)
        if self._mode is AutoresetMode.SAME_STEP:
            observations, infos = self._restart_in_same_step(observations, infos, step.entries)
        for index, entry in enumerate(step.entries):
            infos = self._add_info(infos, entry, index)
        _remove_frames(infos)
        return observations, step.rewards, step.terminated, truncations, infos

    def _views(self, observations: ObsType, infos: dict[str, Any], ended: Bools | None = None) -> Views:
        """What each environment shows; where it ``ended`` inside a step that has reset it, its last moment."""
        rows = list(iterate(self.env.observation_space, observations))
        was_reset = ended if self._mode is AutoresetMode.SAME_STEP else None

        @cache
        def view(index: int) -> View:
            if was_reset is not None and was_reset[index]:
                return View(index, infos["final_obs"][index], env_info(infos["final_info"], index, self.num_envs))
            return View(index, rows[index], env_info(infos, index, self.num_envs))

        return view

    def _restart_in_same_step(
        self, observations: ObsType, infos: dict[str, Any], entries: list[dict[str, Any]]
    ) -> tuple[ObsType, dict[str, Any]]:
        """Starts the next episode where one has just ended, and adds to the ``entries`` of its environment."""
        ended = np.flatnonzero(self._scorer.over)
        if not len(ended):
            return observations, infos
        if self._running_on.any():
            view = self._views(observations, infos)
            # Copies, since the reset below overwrites both in their batches.
            last = {index: deepcopy(view(index)) for index in np.flatnonzero(self._running_on).tolist()}
            observations, infos = self._reset_running_on(infos)
            for index, moment in last.items():
                final = {"final_obs": moment.observation, "final_info": moment.info}
                infos = self._add_info(infos, final, index)
        for index in ended.tolist():
            infos["final_info"] = self._add_info(infos["final_info"], entries[index], index)
        reset_entries = self._scorer.start(ended, self._views(observations, infos))
        for index, entry in zip(ended.tolist(), reset_entries, strict=True):
            entries[index] |= entry
        return observations, infos

    def _reset_running_on(self, infos: dict[str, Any]) -> tuple[ObsType, dict[str, Any]]:
        """Resets the sub-environments whose episode predicted success ended; what they last reported is dropped."""
        observations, reset_infos = self.env.reset(options={"reset_mask": self._running_on.copy()})
        for index in np.flatnonzero(self._running_on).tolist():
            forget_info(infos, index)
            infos = self._add_info(infos, env_info(reset_infos, index, self.num_envs), index)
        self._running_on[:] = False
        return observations, infos

    def _require_resettable(self) -> None:
        base = self.env.unwrapped
        if (
            self.reward_spec.terminate_on_success
            and self._mode is AutoresetMode.NEXT_STEP
            and isinstance(base, AsyncVectorEnv)
            and not base.shared_memory
        ):
            raise ValueError(
                "terminate_on_success needs AsyncVectorEnv(shared_memory=True) under NEXT_STEP: without it a worker "
                "that was reset with reset_mask after a done resets once more on the next step (Gymnasium 1.4)"
            )

    def _render_camera(self, every: int) -> Camera:
        base = self.env.unwrapped
        if isinstance(base, (SyncVectorEnv, AsyncVectorEnv)):
            wrapped = base.call("has_wrapper_attr", INTERVAL_ATTRIBUTE)
            if renders_to_info(wrapped, lambda: base.get_attr(INTERVAL_ATTRIBUTE), every):
                return info_camera(FRAME_KEY)
        if self._mode is AutoresetMode.SAME_STEP:
            raise ValueError(
                "frames='render' cannot work under autoreset mode SAME_STEP: after a done, render() shows the next "
                f"episode. Wrap each sub-environment in robometer_rl.wrappers.RenderToInfo(env, every={every})"
            )
        if isinstance(base, AsyncVectorEnv) and every > 1:
            raise ValueError(
                f"AsyncVectorEnv.render() renders all environments whenever one is scored, which every={every} is "
                f"meant to save. Wrap each sub-environment in robometer_rl.wrappers.RenderToInfo(env, every={every})"
            )
        require_rgb_array(self.env.render_mode)
        return Camera("render", self._render)

    def _render(self, view: View) -> Any:
        base = self.env.unwrapped
        if isinstance(base, SyncVectorEnv):
            return base.envs[view.index].render()
        if self._rendered is None:
            self._rendered = self.env.render()
            if self._rendered is None:
                raise FrameError(f"render() of {self.env} returned None; expected one RGB image per environment")
        return self._rendered[view.index]

    def _read_attribute(self, name: str, indices: Sequence[int]) -> list[Any]:
        base = self.env.unwrapped
        assert isinstance(base, (SyncVectorEnv, AsyncVectorEnv)), "checked at construction"
        values = base.get_attr(name)
        return [values[index] for index in indices]


def _autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    mode = env.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        raise ValueError(
            f"metadata['autoreset_mode'] of {env} is {mode!r}; expected a gymnasium.vector."
            "AutoresetMode: which step shows the end of an episode depends on it"
        )
    return mode


def env_info(infos: Mapping[str, Any], index: int, num_envs: int) -> dict[str, Any]:
    """The info of one environment, from the infos of a vector environment.

    Args:
        infos: Arrays with one entry per environment, ``_key`` being the mask of ``key``; dictionaries of these. Any
            other value belongs to all environments.
        index: The environment.
        num_envs: Number of environments.
    """
    info: dict[str, Any] = {}
    for key, value in infos.items():
        is_mask = key.startswith("_") and key[1:] in infos
        is_absent = f"_{key}" in infos and not infos[f"_{key}"][index]
        if is_mask or is_absent:
            continue
        if isinstance(value, dict):
            info[key] = env_info(value, index, num_envs)
        elif isinstance(value, np.ndarray) and value.shape[:1] == (num_envs,):
            # As a Python bool it becomes an array of bools again when it is added to other infos.
            info[key] = bool(value[index]) if value.dtype == np.bool_ and value.ndim == 1 else value[index]
        else:
            info[key] = value
    return info


def forget_info(infos: dict[str, Any], index: int) -> None:
    """Removes the info of one environment from the infos of a vector environment, as if it had reported none."""
    for key in [key for key in infos if f"_{key}" in infos]:
        value, mask = infos[key], infos[f"_{key}"]
        mask[index] = False
        if not mask.any():
            del infos[key], infos[f"_{key}"]
        elif isinstance(value, dict):
            forget_info(value, index)
        else:
            value[index] = None if value.dtype == object else 0


def _remove_frames(infos: dict[str, Any]) -> None:
    for group in (infos, infos.get("final_info", {})):
        group.pop(FRAME_KEY, None)
        group.pop(f"_{FRAME_KEY}", None)
