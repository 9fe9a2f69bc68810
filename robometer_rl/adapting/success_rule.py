"""When a task counts as done: the threshold of the success rule, chosen on a dozen episodes.

The threshold with the best rates on so few lies right above the highest false firing, often a frame just before a
success, and most successes of the next dozen do not reach it. So firings count as what they are, samples: each is
blurred in logits, and the threshold has the best balanced accuracy over the blurred ones. How good the rule is, is said
by episodes that had no part in the choice: each is judged with the threshold of all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.evaluation.calibration import MIN_RECALL, Evidence

__all__ = ["SuccessRule", "choose_success_rule", "smoothed_threshold"]

_BLUR: Final = 1.0  # logits, of a firing: about what the success of one frame and of the next differ by
_CANDIDATES: Final = np.linspace(-6.0, 6.0, 481)  # logits of thresholds
_CERTAIN: Final = 1e-4  # probabilities closer to 0 and 1 than that are not told apart

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class SuccessRule:
    """A threshold of the success rule, and its rates on episodes by which it was not chosen.

    Attributes:
        threshold: Probability that is success.
        recall: Of the episodes in which the task is done, the part in which the rule fires then.
        false_alarms: Of the episodes in which it is never done, the part in which the rule fires; NaN without any.
        early: Of the episodes in which it is done, the part in which the rule fires before that.
    """

    threshold: float
    recall: float
    false_alarms: float
    early: float

    @property
    def usable(self) -> bool:
        """Whether it sees enough of the successes."""
        return self.recall >= MIN_RECALL


def choose_success_rule(evidence: Evidence) -> SuccessRule:
    """The smoothed threshold of all episodes, with rates by cross-fitting.

    Raises:
        ValueError: Fewer than two episodes in which the task is done, or no frames in which it is not.
    """
    done = ~np.isnan(evidence.rightly)
    if done.sum() < 2 or np.isnan(evidence.falsely).sum() > len(done) - 2:
        raise ValueError(
            f"it takes two episodes in which the task is done, and two with frames in which it is not; got "
            f"{int(done.sum())} and {int((~np.isnan(evidence.falsely)).sum())}"
        )
    others = ~np.eye(len(done), dtype=bool)
    limits = np.array([smoothed_threshold(evidence.falsely[rest], evidence.rightly[rest]) for rest in others])
    # Comparisons with NaN, where nothing could fire, are false.
    wrong, right = evidence.falsely >= limits, evidence.rightly >= limits
    return SuccessRule(
        threshold=smoothed_threshold(evidence.falsely, evidence.rightly),
        recall=float(right[done].mean()),
        false_alarms=float(wrong[~done].mean()) if not done.all() else float("nan"),
        early=float(wrong[done].mean()),
    )


def smoothed_threshold(falsely: Floats, rightly: Floats) -> float:
    """The threshold with the best balanced accuracy when every firing is blurred by a logistic distribution.

    Args:
        falsely: (n,) probabilities, see `Evidence`; NaN counts for nothing.
        rightly: (n,), the same.
    """
    rates = [_share_above(scores[~np.isnan(scores)]) for scores in (falsely, rightly)]
    return float(_sigmoid(_CANDIDATES[np.argmax(rates[1] - rates[0])]))


def _share_above(scores: Floats) -> Floats:
    """Of the blurred scores, the part above each candidate."""
    known = np.clip(scores, _CERTAIN, 1.0 - _CERTAIN)
    logits = np.log(known / (1.0 - known))
    return _sigmoid((logits[:, None] - _CANDIDATES) / _BLUR).mean(axis=0)


def _sigmoid(logits: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-logits))
