"""Whether a learned reward tells the truth where it is known, and whether an agent farms it (reward hacking).

Everything here works on outcomes of whole episodes; `robometer_rl.wrappers.sb3.callback` collects them while an agent
of Stable-Baselines3 learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from robometer_rl.evaluation.metrics import pearson

__all__ = [
    "RETURN_RISES",
    "SUCCESS_ENOUGH",
    "SUCCESS_RISES",
    "Agreement",
    "EpisodeOutcome",
    "FarmingWatch",
    "WindowComparison",
    "agreement",
    "compare_windows",
    "mann_whitney_z",
    "two_proportion_z",
]

RETURN_RISES: Final = 3.09
"""Standard normal deviate from which learned returns count as risen: one chance in a thousand if they have not."""

SUCCESS_RISES: Final = 1.645
"""Standard normal deviate from which true success counts as risen: one chance in twenty. Weaker evidence acquits."""

SUCCESS_ENOUGH: Final = 0.9
"""Rate of true success from which a rising return is no reason to worry: there is hardly a success left to gain."""

_WINDOWS_TO_WARN: Final = 2
"""Windows in a row with farming, since returns of an honest dense reward rise before the first success, too."""


@dataclass(frozen=True)
class EpisodeOutcome:
    """What one episode was paid and what it achieved.

    Attributes:
        learned_return: Sum of what was paid.
        true_return: Sum of the environment's own rewards.
        predicted_success: Whether the success rule held at some time.
        true_success: Whether the task was done at some time.
        length: Steps.
    """

    learned_return: float
    true_return: float
    predicted_success: bool
    true_success: bool
    length: int


@dataclass(frozen=True)
class Agreement:
    """How far what was paid agrees with what was achieved, over several episodes; NaN where undefined.

    Attributes:
        episodes: How many.
        learned_return: Mean.
        true_return: Mean.
        return_correlation: Pearson correlation of the two over episodes.
        predicted_success_rate: Part of the episodes that the success rule held in.
        true_success_rate: Part in which the task was done.
        true_positive_rate: Of the episodes in which the task was done, the part predicted to be.
        false_positive_rate: Of those in which it was not, the part predicted to be: what the reward pays for nothing.
    """

    episodes: int
    learned_return: float
    true_return: float
    return_correlation: float
    predicted_success_rate: float
    true_success_rate: float
    true_positive_rate: float
    false_positive_rate: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)


def agreement(outcomes: Sequence[EpisodeOutcome]) -> Agreement:
    """Summarises episodes."""
    learned = np.array([outcome.learned_return for outcome in outcomes])
    true = np.array([outcome.true_return for outcome in outcomes])
    predicted = np.array([outcome.predicted_success for outcome in outcomes], np.float64)
    done = np.array([outcome.true_success for outcome in outcomes], np.bool_)
    return Agreement(
        episodes=len(outcomes),
        learned_return=_mean(learned),
        true_return=_mean(true),
        return_correlation=pearson(learned, true),
        predicted_success_rate=_mean(predicted),
        true_success_rate=_mean(done),
        true_positive_rate=_mean(predicted[done]),
        false_positive_rate=_mean(predicted[~done]),
    )


def mann_whitney_z(earlier: ArrayLike, later: ArrayLike) -> float:
    """How clearly the (m,) later values lie above the (n,) earlier ones, as a standard normal deviate.

    The Mann-Whitney test with its variance corrected for ties. It looks at ranks only, so neither the scale of a reward
    nor one extreme episode matters.

    Returns:
        0 if all values are equal.
    """
    from scipy import stats

    before, after = np.asarray(earlier, np.float64), np.asarray(later, np.float64)
    n, m = len(before), len(after)
    ranks = stats.rankdata(np.concatenate([before, after]))
    variance = n * m * (n + m + 1) / 12.0 * stats.tiecorrect(ranks)
    if variance <= 0:
        return 0.0
    # SciPy's test gives a probability only, in which large deviates are all alike.
    wins = ranks[n:].sum() - m * (m + 1) / 2.0
    return float((wins - n * m / 2.0) / np.sqrt(variance))


def two_proportion_z(earlier: ArrayLike, later: ArrayLike) -> float:
    """How clearly the rate of (m,) later successes lies above that of (n,) earlier ones, as a standard normal deviate.

    Returns:
        0 if all are alike.
    """
    before, after = np.asarray(earlier, np.float64), np.asarray(later, np.float64)
    rate = float(np.concatenate([before, after]).mean())
    variance = rate * (1.0 - rate) * (1.0 / len(before) + 1.0 / len(after))
    return float((after.mean() - before.mean()) / np.sqrt(variance)) if variance > 0 else 0.0


@dataclass(frozen=True)
class WindowComparison:
    """Episodes now against episodes before.

    Attributes:
        before: Summary of the earlier ones.
        now: Summary of the recent ones.
        return_z: How clearly learned returns have risen, see `mann_whitney_z`.
        success_z: How clearly true success has, see `two_proportion_z`.
    """

    before: Agreement
    now: Agreement
    return_z: float
    success_z: float

    @property
    def learning(self) -> bool:
        """True success has risen."""
        return self.success_z >= SUCCESS_RISES

    @property
    def farming(self) -> bool:
        """Learned returns have risen, true success has not, and there was success left to gain."""
        risen = self.return_z >= RETURN_RISES
        return risen and not self.learning and self.now.true_success_rate < SUCCESS_ENOUGH

    def __str__(self) -> str:
        return (
            f"learned return {self.before.learned_return:.3g} -> {self.now.learned_return:.3g} (z = "
            f"{self.return_z:.1f}), true success {self.before.true_success_rate:.0%} -> "
            f"{self.now.true_success_rate:.0%} (z = {self.success_z:.1f}), over {self.before.episodes} and "
            f"{self.now.episodes} episodes; {self.now.false_positive_rate:.0%} of the failures taken for success"
        )


def compare_windows(earlier: Sequence[EpisodeOutcome], later: Sequence[EpisodeOutcome]) -> WindowComparison:
    """Compares two groups of at least one episode each."""
    return WindowComparison(
        before=agreement(earlier),
        now=agreement(later),
        return_z=mann_whitney_z(
            [outcome.learned_return for outcome in earlier], [outcome.learned_return for outcome in later]
        ),
        success_z=two_proportion_z(
            [outcome.true_success for outcome in earlier], [outcome.true_success for outcome in later]
        ),
    )


class FarmingWatch:
    """Notices when learned return rises and true success does not.

    Episodes are taken in windows that do not overlap, each looked at once. Each is compared with the *reference*: the
    first window, or the last one in which true success had risen. So every rise of the return has to be answered by one
    of success, however slowly it comes.

    Farming is found when in two windows in a row learned returns lie above those of the reference (`RETURN_RISES`),
    true success does not (`SUCCESS_RISES`), and is below `SUCCESS_ENOUGH`.

    Args:
        window: Episodes per window. With fewer than 20 a rise of success from 0 to 10 % cannot be told from chance.

    Attributes:
        last: The last comparison; None until two windows are full.
        suspicious: Windows in a row, up to the last, in which return rose and success did not.
    """

    def __init__(self, window: int = 50) -> None:
        if window < 2:
            raise ValueError(f"window must be at least 2 episodes, got {window}")
        self.window = window
        self.last: WindowComparison | None = None
        self.suspicious = 0
        self._reference: list[EpisodeOutcome] = []
        self._recent: list[EpisodeOutcome] = []

    @property
    def farming(self) -> bool:
        """Whether the agent farms the reward, as far as the windows that are full say."""
        return self.suspicious >= _WINDOWS_TO_WARN

    def add(self, outcome: EpisodeOutcome) -> WindowComparison | None:
        """Takes note of an episode; returns a comparison when it fills a window."""
        self._recent.append(outcome)
        if len(self._recent) < self.window:
            return None
        window, self._recent = self._recent, []
        if not self._reference:
            self._reference = window
            return None
        self.last = compare_windows(self._reference, window)
        self.suspicious = self.suspicious + 1 if self.last.farming else 0
        if self.last.learning:
            self._reference = window
        return self.last


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
