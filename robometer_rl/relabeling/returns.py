"""Returns and advantages of recorded episodes, for those who train policies on labels.

With r_t what step t pays, V(o) the value of an observation, e_t what step t pays beside the learned part of its reward
(task reward and bonus), and m the number of steps that are looked ahead, n or as many as are left::

    return     G_t = sum over k < m of discount^k r_{t+k}
    advantage  A_t = sum over k < m of discount^k e_{t+k} + discount^m V(o_{t+m}) - V(o_t)

The value of an observation is the progress predicted in it (where the reward asks for confidence, the last one that the
model was sure of), times the scale of the reward. So advantages are sums of
rewards whose learned part is potential-based shaping by progress (`shaped`), whatever the mode of the reward is. With a
discount of 1 and without task rewards an advantage is the progress made over n steps, which RA-BC weights actions by
(arXiv 2509.25358); with task rewards it is the n-step advantage of RECAP (arXiv 2511.14759), with predicted progress as
its value function.

An episode that *terminated* has no value after its last step where task rewards have a weight, since they pay for the
outcome, unless the `RewardSpec` keeps it (``terminal_potential``); without task rewards its last progress stands for
the outcome. One that was *truncated*, or whose recording stops, would have gone on from an observation that is worth
its progress. Returns are sums of what was recorded in either case: whoever has a value function adds
discount^m V(o_{t+m}) where an episode was truncated, or where n is smaller than the number of steps that are left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.ranges import require_counts, require_numbers
from robometer_rl.rewards import RewardSpec

__all__ = ["TO_THE_END", "Horizon", "discounted_sums", "shaped"]


@dataclass(frozen=True)
class Horizon:
    """How far returns and advantages look ahead, and what later rewards count.

    Attributes:
        discount: In (0, 1]: what a reward counts for one step earlier.
        n_step: Steps that are summed up; all that are left (Monte Carlo) if None.

    Raises:
        ValueError: A number out of its range.
        TypeError: No number.
    """

    discount: float = 1.0
    n_step: int | None = None

    def __post_init__(self) -> None:
        require_numbers(self, "(0, 1]", "discount")
        if self.n_step is not None:
            require_counts(self, 1, "n_step")


TO_THE_END: Final = Horizon()
"""Whole episodes (Monte Carlo), in which every reward counts alike."""


def discounted_sums(rewards: NDArray[np.float64], horizon: Horizon) -> NDArray[np.float64]:
    """The discounted sum of the rewards from each step on, until n steps are summed up or the episode ends.

    Args:
        rewards: (T,) of the steps of one episode.
        horizon: How far, and what later ones count.

    Returns:
        (T,) float64.

    Examples:
        >>> discounted_sums(np.array([1.0, 0.0, 4.0]), Horizon(0.5)).tolist()
        [2.0, 2.0, 4.0]
        >>> discounted_sums(np.array([1.0, 0.0, 4.0]), Horizon(0.5, n_step=2)).tolist()
        [1.0, 2.0, 4.0]
    """
    if horizon.n_step is None or horizon.n_step >= len(rewards):
        backwards = accumulate(rewards[::-1].tolist(), lambda after, reward: reward + horizon.discount * after)
        return np.array(list(backwards)[::-1], np.float64)
    weights = horizon.discount ** np.arange(horizon.n_step)
    return np.correlate(np.append(rewards, np.zeros(horizon.n_step - 1)), weights, "valid")


def shaped(spec: RewardSpec, discount: float) -> RewardSpec:
    """The reward whose discounted sums are advantages: ``spec`` with shaping by progress as its learned part.

    Args:
        spec: The reward that is paid.
        discount: Of the advantages.
    """
    return replace(
        spec,
        mode="potential",
        gamma=discount,
        terminal_potential=spec.terminal_potential if spec.task_weight else "keep",
        allow_pure_shaping=True,
    )
