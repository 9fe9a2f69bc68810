"""What the steps of a recorded episode pay: the rules of `robometer_rl.rewards`, and the last step of a recording.

Where an observation was recorded after every step (F = T + 1), steps pay what a wrapper would have paid
(`robometer_rl.rewards.episode_rewards`).

Where the observation after the last step is missing (F = T), the steps before it pay what a wrapper would have paid,
and the last one is *imputed*: its unseen observation is taken to be worth what the last seen one is. So ``delta`` pays
0, ``level`` p_{T-1}, ``success`` what the rule said last, which is neither advanced nor fires, and ``potential``
gamma Phi' - p_{T-1}, where Phi' is 0 if the step terminated the episode (unless it is kept) and p_{T-1} otherwise.

What the steps pay is summed up to returns and advantages by `robometer_rl.relabeling.returns`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robometer_rl.formats.dataset import EpisodeError, EpisodeLabels, RecordedEpisode
from robometer_rl.frames import scored_steps
from robometer_rl.relabeling.returns import TO_THE_END, Horizon, discounted_sums, shaped
from robometer_rl.rewards import (
    EpisodeRewards,
    NonFiniteRewardError,
    RewardSpec,
    episode_rewards,
    require_finite,
    step_reward,
)

__all__ = ["label_episode"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_LARGEST: Final = float(np.finfo(np.float32).max)


def label_episode(
    episode: RecordedEpisode,
    spec: RewardSpec,
    progress: Floats,
    success: Floats | None,
    threshold: float,
    horizon: Horizon = TO_THE_END,
    uncertainty: ArrayLike | None = None,
) -> EpisodeLabels:
    """Labels an episode with what a model said about its scored observations.

    Args:
        episode: The episode.
        spec: The reward.
        progress: (S,) of the scored observations, S = ``len(scored_steps(F, spec.every))``.
        success: (S,) likewise; None of a model that says none.
        threshold: Success threshold, see `RewardSpec.threshold`.
        horizon: Of returns and advantages.
        uncertainty: (S,) of progress, likewise; None of a model that does not say.

    Raises:
        EpisodeError: The spec pays task rewards, and the episode has none, or their sum is too large to be stored.
    """
    rewards, success_detected = _paid(episode, spec, progress, success, threshold, uncertainty)
    values, _ = _paid(episode, shaped(spec, horizon.discount), progress, success, threshold, uncertainty)
    imputed = np.zeros(episode.num_steps, np.bool_)
    imputed[-1] = episode.num_frames == episode.num_steps
    held = np.searchsorted(scored_steps(episode.num_frames, spec.every), np.arange(episode.num_frames), "right") - 1
    return EpisodeLabels(
        key=episode.key,
        progress=np.asarray(progress, np.float32)[held],
        success=np.full(len(held), np.nan, np.float32) if success is None else np.asarray(success, np.float32)[held],
        rewards=rewards,
        returns=_sums("returns", rewards, horizon),
        advantages=_sums("advantages", values, horizon),
        success_detected=success_detected,
        imputed=imputed,
    )


def _paid(
    episode: RecordedEpisode,
    spec: RewardSpec,
    progress: Floats,
    success: Floats | None,
    threshold: float,
    uncertainty: ArrayLike | None,
) -> tuple[Floats, Bools]:
    """(T,) what the steps pay, and whether the success rule holds after each."""
    task = _task_rewards(episode, spec)
    has_last_frame = episode.num_frames > episode.num_steps
    seen = episode_rewards(
        spec,
        progress,
        success,
        task if has_last_frame else task[:-1],
        terminated=has_last_frame and episode.terminated,
        threshold=threshold,
        uncertainty=uncertainty,
    )
    if has_last_frame:
        return seen.rewards, seen.success_detected
    imputed_reward = _imputed_reward(seen, spec, float(task[-1]), episode.terminated)
    return np.append(seen.rewards, imputed_reward), np.append(seen.success_detected, seen.success_detected[-1])


def _sums(name: str, rewards: Floats, horizon: Horizon) -> Floats:
    sums = discounted_sums(rewards, horizon)
    if not (np.abs(sums) <= _LARGEST).all():
        raise EpisodeError(
            f"its {name} reach {np.abs(sums).max():g}, and the largest number that learners can keep is {_LARGEST:g}: "
            "give the reward smaller weights"
        )
    return sums


def _task_rewards(episode: RecordedEpisode, spec: RewardSpec) -> Floats:
    if episode.task_rewards is not None:
        try:
            return require_finite(spec, episode.task_rewards)
        except NonFiniteRewardError as error:
            raise EpisodeError(str(error)) from error
    if spec.task_weight:
        raise EpisodeError(
            f"it has no rewards of its own, of which task_weight={spec.task_weight:g} asks to pay a part"
        )
    return np.zeros(episode.num_steps)


def _imputed_reward(seen: EpisodeRewards, spec: RewardSpec, task_reward: float, terminated: bool) -> Floats:
    """(1,) what the last step pays, whose observation is taken to be worth what the one before it is."""
    return step_reward(
        spec,
        before=seen.progress[-1:],
        after=seen.progress[-1:],
        success_detected=seen.success_detected[-1:],
        fires=np.zeros(1, np.bool_),
        scored=np.ones(1, np.bool_),
        confident=seen.confident[-1:],
        terminated=np.array([terminated]),
        task_rewards=np.array([task_reward]),
    )
