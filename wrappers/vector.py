"""The wrappers for Gymnasium's vector environments; the one that records has a module of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from robometer_rl.frames import FrameProtocol, as_array
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.rewards import DEFAULT_REWARD, RewardSpec
from robometer_rl.wrappers.frame_sources import FrameSources
from robometer_rl.wrappers.masked_reset import MaskedResets, parse_reset_options
from robometer_rl.wrappers.recorders import VectorRecorders, add_batched
from robometer_rl.wrappers.rendering import without_frames
from robometer_rl.wrappers.scoring import EpisodeScorer, ScoringWrapper
from robometer_rl.wrappers.tasks import TaskSource
from robometer_rl.wrappers.tensors import copied, device_of, infos_on, like
from robometer_rl.wrappers.vector_infos import (
    add_info,
    as_infos,
    env_info,
    final_key,
    forget_info,
    keep_types,
)
from robometer_rl.wrappers.vector_reader import VectorReader
from robometer_rl.wrappers.vector_record_trajectories import RecordTrajectories

if TYPE_CHECKING:
    import torch

__all__ = ["RecordTrajectories", "RobometerReward", "env_info", "forget_info"]

Array = NDArray[Any]
Bools = NDArray[np.bool_]
T = TypeVar("T", np.bool_, np.float64)


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
        task: The instruction, or where it comes from: `robometer_rl.wrappers.tasks.TaskSource`.
        reward: How predictions become a reward.
        frames: ``"render"``, ``"obs"``, ``"obs/KEY"``, ``"info/KEY"``, a callable of one environment's (obs, info), or
            a tuple of these for several cameras.
        protocol: Which frames of a history the model is shown; None for the model's default.
        success_key: Info key of true success; None for ``is_success``, else ``success`` (`robometer_rl.true_success`).

    Examples:
        With ``make_env``, which makes an environment with ``render_mode="rgb_array"``:

        >>> from gymnasium.vector import AsyncVectorEnv
        >>> from robometer_rl.wrappers import RenderToInfo
        >>> from robometer_rl.wrappers.vector import RobometerReward
        >>> envs = AsyncVectorEnv([lambda: RenderToInfo(make_env())] * 2)
        >>> envs = RobometerReward(envs, "mini", task="open the drawer")
        >>> observations, infos = envs.reset(seed=0)
        >>> observations, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())
        >>> rewards.shape
        (2,)
        >>> envs.close()
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
        self._reader = VectorReader(env, task)
        self._mode = self._reader.mode
        # For wrappers outside, which ask the metadata.
        self.metadata = {**env.metadata, "autoreset_mode": self._mode}
        self._scorer = EpisodeScorer(
            model,
            task=task,
            reward=reward,
            frames=frames,
            protocol=protocol,
            success_key=success_key,
            num_envs=env.num_envs,
            observation_space=self._reader.observation_space,
            stacked_spaces=self._reader.stacked_spaces,
            resets_inside=self._mode is AutoresetMode.SAME_STEP,
            render_camera=self._reader.render_camera,
            read_attribute=self._reader.read_attribute,
        )
        self._require_resettable()
        if isinstance(env.unwrapped, (SyncVectorEnv, AsyncVectorEnv)):
            # Theirs can turn what is not known, or not yet, into success.
            keep_types(env.unwrapped)
        self._recorders = VectorRecorders(env, self.reward_spec.terminate_on_success)
        self._resets = MaskedResets(env, self._recorders)
        # Sub-environments whose episode predicted success ended, though they do not know it.
        self._running_on = np.zeros(env.num_envs, np.bool_)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        """Resets the environments, those in ``options["reset_mask"]`` if there is one, and starts new histories.

        Raises:
            gymnasium.error.ResetNeeded: Only some are to be reset, but nothing was reset yet, or an error has left no
                episode whole.
            ResetMaskError: Only some are to be reset, and the environment resets others, too.
        """
        chosen, others = parse_reset_options(options, self.env)
        mask = np.ones(self.num_envs, np.bool_) if chosen is None else chosen
        with self._scorer.guard.resetting(everything=bool(mask.all())):
            if chosen is None:
                observations, infos = self.env.reset(seed=seed, options=others)
            else:
                observations, infos = self._resets.reset(chosen, seed, others)
            infos = as_infos(infos, self.num_envs)
            self._resets.shown = observations
            self._reader.forget_pictures()
            self._running_on &= ~mask
            restarted = np.flatnonzero(mask)
            entries = self._scorer.start(restarted, self._reader.views(observations, infos))
            infos |= self._batched(dict(zip(restarted.tolist(), entries, strict=True)))
        return observations, _returned(infos, device_of(observations))

    def step(self, actions: ActType) -> tuple[ObsType, Array, Array, Array, dict[str, Any]]:
        """Steps the environments and pays.

        Raises:
            gymnasium.error.ResetNeeded: Nothing was reset yet, an error has left an episode in pieces or, under
                DISABLED, an episode is over.
            ResetMaskError: An episode was ended on predicted success, and the environment resets others, too.
        """
        if self._mode is AutoresetMode.NEXT_STEP:
            self._scorer.guard.require_whole()
        else:
            self._scorer.require_running()
        with self._scorer.guard.stepping():
            return self._step(actions)

    def close(self, **kwargs: Any) -> None:
        """Closes the environments; the model stays open."""
        self.stop_live()
        super().close(**kwargs)

    def _step(self, actions: ActType) -> tuple[ObsType, Array, Array, Array, dict[str, Any]]:
        starting = self._scorer.over
        observations, rewards, terminations, truncations, infos, given = self._receive(actions)
        view = self._reader.views(observations, infos, terminations | truncations)
        step = self._scorer.step(view, rewards, terminations, truncations, starting)
        self._running_on = step.terminated & ~(terminations | truncations)
        shortened = np.flatnonzero(self._running_on)
        single = {i: self._recorders.end_single(i, {**view(i).info, **step.entries[i]}) for i in shortened.tolist()}
        batched = self._recorders.end_batched(shortened)
        if self._mode is AutoresetMode.SAME_STEP:
            observations, infos = self._restart_in_same_step(observations, infos, step.entries, single)
        else:
            for index, entries in single.items():
                add_info(infos, entries, index, self.num_envs)
        add_batched(infos, batched, shortened, self.num_envs)
        infos |= self._batched(dict(enumerate(step.entries)))
        self._resets.shown = observations
        paid, terminated, truncated = (like(each, given) for each in (step.rewards, step.terminated, truncations))
        return observations, paid, terminated, truncated, _returned(infos, device_of(given))

    def _receive(self, actions: ActType) -> tuple[ObsType, Array, Bools, Bools, dict[str, Any], Any]:
        """Steps the environments; those that predicted success has ended are reset instead (NEXT_STEP).

        What comes last are the rewards as they were given.
        """
        running_on, ended = self._running_on.copy(), np.zeros(self.num_envs, np.bool_)
        with self._recorders.ignoring_a_step(running_on, lambda: ended):
            observations, given, terminated, truncated, infos = self.env.step(actions)
            terminations = self._per_env("terminations", terminated, np.bool_)
            truncations = self._per_env("truncations", truncated, np.bool_)
            ended = terminations | truncations
        rewards, infos = self._per_env("rewards", given, np.float64), as_infos(infos, self.num_envs)
        if running_on.any():
            for values in (rewards, terminations, truncations):
                values[running_on] = 0
            observations, infos = self._reset_running_on(observations, infos)
        self._reader.forget_pictures()
        return observations, rewards, terminations, truncations, infos, given

    def _per_env(self, name: str, values: Any, dtype: type[T]) -> NDArray[T]:
        """(n,) a copy of what was given, on the host."""
        try:
            array = np.array(as_array(values), dtype)
        except ValueError as error:
            raise ValueError(f"the {name} of {self.env} cannot be read: {error}") from error
        if array.shape != (self.num_envs,):
            raise ValueError(
                f"{self.env} gave {name} of shape {array.shape}; expected ({self.num_envs},), one for each environment"
            )
        return array

    def _restart_in_same_step(
        self,
        observations: ObsType,
        infos: dict[str, Any],
        entries: list[dict[str, Any]],
        recorded: Mapping[int, Mapping[str, Any]],
    ) -> tuple[ObsType, dict[str, Any]]:
        """Starts the next episode where one has just ended, and adds to the ``entries`` of its environment.

        Args:
            observations: Of all environments.
            infos: Of all environments; ``final_info`` is completed.
            entries: What the infos gain.
            recorded: What recorders say of the episodes that predicted success has ended, by their environment.
        """
        ended = np.flatnonzero(self._scorer.over)
        if not len(ended):
            return observations, infos
        view = self._reader.views(observations, infos)
        # Copies, since the reset below overwrites both in their batches.
        last = {index: (copied(view(index).observation), copied(view(index).info)) for index in recorded}
        if last:
            observations, infos = self._reset_running_on(observations, infos)
        key = final_key(infos)
        for index, (observation, info) in last.items():
            final = {key: observation, "final_info": {**info, **recorded[index]}}
            add_info(infos, final, index, self.num_envs)
        for index in ended.tolist():
            add_info(infos, {"final_info": entries[index]}, index, self.num_envs)
        reset_entries = self._scorer.start(ended, self._reader.views(observations, infos))
        for index, entry in zip(ended.tolist(), reset_entries, strict=True):
            entries[index] |= entry
        return observations, infos

    def _reset_running_on(self, observations: ObsType, infos: dict[str, Any]) -> tuple[ObsType, dict[str, Any]]:
        """Resets the sub-environments whose episode predicted success ended; what they last reported is dropped."""
        self._resets.shown = observations
        observations, reset_infos = self._resets.reset(self._running_on)
        reset_infos = as_infos(reset_infos, self.num_envs)
        for index in np.flatnonzero(self._running_on).tolist():
            forget_info(infos, index)
            add_info(infos, env_info(reset_infos, index, self.num_envs), index, self.num_envs)
        self._running_on[:] = False
        return observations, infos

    def _batched(self, entries: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
        """Entries of environments as infos of all."""
        infos: dict[str, Any] = {}
        for index, entry in entries.items():
            add_info(infos, entry, index, self.num_envs, owned=True)
        return infos

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


def _returned(infos: dict[str, Any], device: torch.device | None) -> dict[str, Any]:
    """What the caller gets: infos without the frames of `RenderToInfo`, tensors where the environment has tensors."""
    infos = _without_frames(infos)
    return infos if device is None else infos_on(infos, device)


def _without_frames(infos: dict[str, Any]) -> dict[str, Any]:
    """The infos without the frames of `RenderToInfo`."""
    kept = without_frames(infos)
    if isinstance(kept.get("final_info"), dict):
        kept["final_info"] = _without_frames(kept["final_info"])
    return kept
