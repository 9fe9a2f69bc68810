"""What the steps of a recorded episode pay: the rules of `robometer_rl.rewards`, and the last step of a recording.

Where an observation was recorded after every step (F = T + 1), steps pay what a wrapper would have paid
(`robometer_rl.rewards.episode_rewards`).

Where the observation after the last step is missing (F = T), the steps before it pay what a wrapper would have paid,
and the last one is *imputed*: its unseen observation is taken to be worth what the last seen one is. So ``delta`` pays
0, ``level`` p_{T-1}, ``success`` what the rule said last, which is neither advanced nor fires, and ``potential``
gamma Phi' - p_{T-1}, where Phi' is 0 if the step terminated the episode (unless it is kept) and p_{T-1} otherwise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robometer_rl.formats.dataset import EpisodeError, EpisodeLabels, RecordedEpisode
from robometer_rl.frames import scored_steps
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


def label_episode(
    episode: RecordedEpisode,
    spec: RewardSpec,
    progress: Floats,
    success: Floats | None,
    threshold: float,
    uncertainty: ArrayLike | None = None,
) -> EpisodeLabels:
    """Labels an episode with what a model said about its scored observations.

    Args:
        episode: The episode.
        spec: The reward.
        progress: (S,) of the scored observations, S = ``len(scored_steps(F, spec.every))``.
        success: (S,) likewise; None of a model that says none.
        threshold: Success threshold, see `RewardSpec.threshold`.
        uncertainty: (S,) of progress, likewise; None of a model that does not say.

    Raises:
        EpisodeError: The spec pays task rewards, and the episode has none.
    """
    task = _task_rewards(episode, spec)
    if episode.num_frames > episode.num_steps:
        paid = episode_rewards(
            spec,
            progress,
            success,
            task,
            terminated=episode.terminated,
            threshold=threshold,
            uncertainty=uncertainty,
        )
        rewards, success_detected = paid.rewards, paid.success_detected
    else:
        seen = episode_rewards(
            spec, progress, success, task[:-1], terminated=False, threshold=threshold, uncertainty=uncertainty
        )
        imputed_reward = _imputed_reward(seen, spec, float(task[-1]), episode.terminated)
        rewards = np.append(seen.rewards, imputed_reward)
        success_detected = np.append(seen.success_detected, seen.success_detected[-1])
    imputed = np.zeros(episode.num_steps, np.bool_)
    imputed[-1] = episode.num_frames == episode.num_steps
    held = np.searchsorted(scored_steps(episode.num_frames, spec.every), np.arange(episode.num_frames), "right") - 1
    return EpisodeLabels(
        key=episode.key,
        progress=np.asarray(progress, np.float32)[held],
        success=np.full(len(held), np.nan, np.float32) if success is None else np.asarray(success, np.float32)[held],
        rewards=rewards,
        success_detected=success_detected,
        imputed=imputed,
    )


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
