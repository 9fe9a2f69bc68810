"""What episodes of agents are paid, what of it is for nothing, and which of them a model should learn from.

Progress is *farmed* where an episode in which the task is not done is paid more than it is worth: than the same reward
would pay for true progress. Where nobody measured true progress, all that such an episode is paid is farmed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from robometer_rl.evaluation.metrics import Estimate, bootstrap
from robometer_rl.prediction import Prediction
from robometer_rl.rewards import RewardSpec, episode_rewards

__all__ = ["CONFIDENCE", "Farming", "Paid", "choose_lessons", "farming_of", "later_half", "pay_of", "ways"]

CONFIDENCE: Final = 0.7
"""Of confident progress where nothing else is said: the gate that costs successes least (docs/reward_design.md)."""


def ways(confidence: float | None, has_uncertainty: bool) -> dict[str, RewardSpec]:
    """Ways of paying that are compared, by name: `delta` and `level`, and both of confident progress if it is known.

    Args:
        confidence: Of the confident ones; `CONFIDENCE` if None.
        has_uncertainty: Whether the model says how sure it is.
    """
    found = {"delta": RewardSpec(mode="delta"), "level": RewardSpec(mode="level")}
    if has_uncertainty:
        least = CONFIDENCE if confidence is None else confidence
        found |= {f"confident {name}": RewardSpec(mode=spec.mode, confidence=least) for name, spec in found.items()}
    return found


def pay_of(spec: RewardSpec, progress: ArrayLike, uncertainty: ArrayLike | None = None) -> float:
    """What an episode is paid: in all by ``delta``, in the mean of its steps by ``level``.

    Args:
        spec: The way of paying.
        progress: (T,) of its recorded frames, T >= 2.
        uncertainty: (T,) of the same frames; None where the model does not say.
    """
    steps = np.zeros(np.size(progress) - 1)
    paid = episode_rewards(
        spec, progress, None, steps, terminated=False, threshold=1.0, uncertainty=uncertainty
    ).rewards
    return float(paid.mean() if spec.mode == "level" else paid.sum())


@dataclass(frozen=True)
class Paid:
    """What an episode is paid and what it is worth.

    Attributes:
        id: Of the recording.
        succeeds: Whether the task was done in it.
        paid: By way of paying.
        worth: What the same ways would pay for true progress; None where nobody measured it.
    """

    id: str
    succeeds: bool
    paid: Mapping[str, float]
    worth: Mapping[str, float] | None = None

    @classmethod
    def of(
        cls, name: str, succeeds: bool, said: Prediction, truth: ArrayLike | None, by: Mapping[str, RewardSpec]
    ) -> Paid:
        """Of what was said of an episode, and of its true progress if that is known in every frame."""
        paid = {way: pay_of(spec, said.progress, said.uncertainty) for way, spec in by.items()}
        sure = None if truth is None else np.zeros(np.size(truth))
        worth = None if truth is None else {way: pay_of(spec, truth, sure) for way, spec in by.items()}
        return cls(name, succeeds, paid, worth)

    def farmed(self, way: str) -> float:
        """What it is paid above its worth."""
        return max(self.paid[way] - (0.0 if self.worth is None else self.worth[way]), 0.0)


@dataclass(frozen=True)
class Farming:
    """What one way of paying pays.

    Attributes:
        paid: To episodes of an agent without success, on average.
        farmed: The part of it above what they are worth.
        successes: To recorded successes.
    """

    paid: Estimate
    farmed: Estimate
    successes: Estimate

    @property
    def share(self) -> float:
        """What is farmed, as part of what a success is paid: 0 without failures, infinite if successes earn nothing."""
        if not self.farmed.count:
            return 0.0
        return self.farmed.value / self.successes.value if self.successes.value > 0 else math.inf

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name).as_dict() for name in ("paid", "farmed", "successes")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Farming:
        """The inverse of `as_dict`; null is NaN."""

        def estimate(found: Mapping[str, Any]) -> Estimate:
            known: dict[str, Any] = {name: math.nan if value is None else value for name, value in found.items()}
            return Estimate(**known)

        return cls(**{name: estimate(values[name]) for name in ("paid", "farmed", "successes")})


def later_half(episodes: Sequence[Paid]) -> Sequence[Paid]:
    """What an agent did when it had learned something; episodes are in the order in which it acted."""
    return episodes[len(episodes) // 2 :]


def farming_of(agent: Sequence[Paid], successes: Sequence[Paid], by: Mapping[str, RewardSpec]) -> dict[str, Farming]:
    """What each way of paying pays an agent's failures.

    Args:
        agent: Its episodes.
        successes: Recorded episodes in which the task is done.
        by: Ways of paying.
    """
    failures = [each for each in agent if not each.succeeds]
    return {
        way: Farming(
            bootstrap([each.paid[way] for each in failures]),
            bootstrap([each.farmed(way) for each in failures]),
            bootstrap([each.paid[way] for each in successes]),
        )
        for way in by
    }


def choose_lessons(episodes: Sequence[Paid], way: str, keep: int) -> list[Paid]:
    """The failures that most is farmed in, and the successes that are paid least; ``keep`` of each at most.

    Failures come first, the worst first. Of equal ones the earlier comes first.
    """
    failures = sorted((each for each in episodes if not each.succeeds), key=lambda each: -each.farmed(way))
    successes = sorted((each for each in episodes if each.succeeds), key=lambda each: each.paid[way])
    return [*failures[:keep], *successes[:keep]]
