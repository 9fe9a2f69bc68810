"""Which of several policies is the best, from recordings of what they do: no rewards, no states, no success labels.

A policy is worth the mean score of its episodes. True success, where it is known, says how right the order is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robometer_rl.evaluation.metrics import Estimate, bootstrap, kendall_tau_a, kendall_tau_b

__all__ = ["PolicyRanking", "RankedPolicy", "rank_policies", "typical_episodes"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RankedPolicy:
    """One policy.

    Attributes:
        name: Of the policy.
        score: Mean score of its episodes, with its interval.
        success_rate: True success of the same episodes; None where it is not known.
    """

    name: str
    score: Estimate
    success_rate: float | None


@dataclass(frozen=True)
class PolicyRanking:
    """Policies in the order of their scores.

    Attributes:
        policies: The best first.
        tau_a: Kendall's tau between scores and success rates; ties count against it. Its interval is over episodes,
            drawn anew within each policy. None without true success.
        tau_b: The same with ties taken out.
    """

    policies: tuple[RankedPolicy, ...]
    tau_a: Estimate | None = None
    tau_b: Estimate | None = None

    @property
    def distinct(self) -> int | None:
        """How many different success rates there are: with fewer than policies, tau_a cannot reach 1."""
        return None if self.tau_a is None else len({policy.success_rate for policy in self.policies})

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "tau_a": None if self.tau_a is None else self.tau_a.as_dict(),
            "tau_b": None if self.tau_b is None else self.tau_b.as_dict(),
            "distinct_success_rates": self.distinct,
            "policies": [
                {"name": policy.name, "score": policy.score.as_dict(), "success_rate": policy.success_rate}
                for policy in self.policies
            ],
        }


def rank_policies(
    names: Sequence[str], scores: ArrayLike, successes: ArrayLike | None, resamples: int = 1000, seed: int = 0
) -> PolicyRanking:
    """Ranks policies of one task.

    Args:
        names: (n,) whose episode it is.
        scores: (n,) what a model says of it, final progress say.
        successes: (n,) whether it succeeded; None where that is not known.
        resamples: Of the bootstrap.
        seed: Likewise.

    Raises:
        ValueError: Fewer than two policies, or arrays of different lengths.
    """
    score = np.asarray(scores, np.float64)
    success = np.full(len(score), np.nan) if successes is None else np.asarray(successes, np.float64)
    if not len(names) == len(score) == len(success):
        raise ValueError(f"got {len(names)} names, {len(score)} scores and {len(success)} successes")
    groups = {name: np.flatnonzero([each == name for each in names]) for name in dict.fromkeys(names)}
    if len(groups) < 2:
        raise ValueError(f"a ranking needs at least two policies, got {list(groups)}")
    ranked = [
        RankedPolicy(
            name,
            bootstrap(score[members], seed=seed),
            None if successes is None else float(success[members].mean()),
        )
        for name, members in groups.items()
    ]
    ranked.sort(key=lambda policy: -policy.score.value)
    if successes is None:
        return PolicyRanking(tuple(ranked))
    rng = np.random.default_rng(seed)
    draws = [[rng.choice(members, len(members)) for members in groups.values()] for _ in range(resamples)]

    def estimate(tau: Callable[[Floats, Floats], float]) -> Estimate:
        samples = [tau(*_means(score, success, draw)) for draw in draws]
        known = [value for value in samples if not np.isnan(value)]
        low, high = np.percentile(known, [2.5, 97.5]) if known else (np.nan, np.nan)
        return Estimate(tau(*_means(score, success, list(groups.values()))), float(low), float(high), len(groups))

    return PolicyRanking(tuple(ranked), estimate(kendall_tau_a), estimate(kendall_tau_b))


def typical_episodes(names: Sequence[str], scores: ArrayLike) -> dict[str, int]:
    """Of each policy the position of the episode whose score is nearest to the mean of its episodes.

    Args:
        names: (n,) whose episode it is.
        scores: (n,) what a model says of it.

    Examples:
        >>> typical_episodes(["a", "a", "b", "a"], [0.1, 0.9, 0.5, 0.4])
        {'a': 3, 'b': 2}
    """
    values = np.asarray(scores, np.float64)
    groups = {name: np.flatnonzero([each == name for each in names]) for name in dict.fromkeys(names)}
    return {
        name: int(members[np.argmin(np.abs(values[members] - values[members].mean()))])
        for name, members in groups.items()
    }


def _means(score: Floats, success: Floats, groups: Sequence[NDArray[np.int64]]) -> tuple[Floats, Floats]:
    return np.array([score[group].mean() for group in groups]), np.array([success[group].mean() for group in groups])
