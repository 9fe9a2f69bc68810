"""What makes a reward model good, as pure functions over arrays.

"VOC" means two things in the literature (docs/reference.md §8.1), so no function here is called that alone:
`voc_pearson` correlates predicted with true progress, `voc_spearman` correlates it with time. Undefined correlations (a
constant, a single value) are NaN, and aggregation says how many values it left out, rather than counting them as 0.

SciPy is imported where it is used: ``robometer-rl evaluate --help`` and environments' workers answer without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Estimate",
    "PreferenceAccuracy",
    "ThresholdChoice",
    "auroc",
    "average_precision",
    "best_threshold",
    "bootstrap",
    "distance_rank_correlation",
    "kendall_tau_a",
    "kendall_tau_b",
    "mean_tau_a",
    "pearson",
    "plain_metrics",
    "preference_accuracy",
    "ranking_accuracy",
    "read_metrics",
    "roc_curve",
    "spearman",
    "stall_rise",
    "success_fail_difference",
    "voc_pearson",
    "voc_spearman",
    "wrong_task_progress",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A statistic of several episodes with its bootstrap interval.

    Attributes:
        value: The statistic; NaN if no episode has one.
        low: Lower end of the interval; NaN for a value that has none.
        high: Upper end.
        count: Episodes (or pairs) that it is made of.
        undefined: Episodes left out because their own value is NaN.
    """

    value: float
    low: float
    high: float
    count: int
    undefined: int = 0

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.count})"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def plain_metrics(metrics: Mapping[str, Estimate]) -> dict[str, dict[str, Any]]:
    """Metrics by name as plain values for JSON; what is undefined is None."""
    return {
        name: {key: None if value != value else value for key, value in estimate.as_dict().items()}
        for name, estimate in metrics.items()
    }


def read_metrics(metrics: Mapping[str, Any]) -> dict[str, Estimate]:
    """What `plain_metrics` has written.

    Raises:
        ValueError: It is something else.
    """
    try:
        return {
            name: Estimate(
                *(float("nan" if found[key] is None else found[key]) for key in ("value", "low", "high")),
                count=int(found["count"]),
            )
            for name, found in metrics.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"these are no metrics with 'value', 'low', 'high' and 'count': {error}") from error


def bootstrap(
    values: ArrayLike,
    statistic: Callable[[NDArray[Any]], float] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Percentile bootstrap over rows, which are the units that vary independently: episodes, or pairs.

    What rliable (arXiv 2108.13264) does with runs of agents, for the episodes of one model (docs/reference.md §8.6).

    Args:
        values: (n,) one value per unit, or (n, ...) whatever ``statistic`` takes. Rows with NaN are left out.
        statistic: Maps rows to one number; their mean by default. A resample on which it is NaN (one class only, say)
            is left out of the interval.
        resamples: Number of resamples.
        level: Coverage.
        seed: Of the resampling.

    Returns:
        The statistic of all rows and its interval; NaN throughout if there are no rows.
    """
    rows = np.asarray(values, dtype=np.float64)
    valid = ~np.isnan(rows.reshape(len(rows), -1)).any(axis=1) if len(rows) else np.zeros(0, bool)
    kept = rows[valid]
    undefined = len(rows) - len(kept)
    if not len(kept):
        return Estimate(np.nan, np.nan, np.nan, 0, undefined)
    measure = statistic or _mean
    draws = np.random.default_rng(seed).integers(len(kept), size=(resamples, len(kept)))
    samples = np.array([measure(kept[draw]) for draw in draws])
    tail = 50.0 * (1.0 - level)
    low, high = np.nanpercentile(samples, [tail, 100.0 - tail]) if not np.isnan(samples).all() else (np.nan, np.nan)
    return Estimate(float(measure(kept)), float(low), float(high), len(kept), undefined)


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Linear correlation of (n,) and (n,); NaN if either is constant or n < 2."""
    from scipy import stats

    return _of_two(stats.pearsonr, x, y)


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Rank correlation with average ranks for ties; NaN where `pearson` is."""
    from scipy import stats

    return _of_two(stats.spearmanr, x, y)


def kendall_tau_a(x: ArrayLike, y: ArrayLike) -> float:
    """(concordant - discordant) / all pairs; ties count in the denominator only. NaN if n < 2.

    The reference calls this "tau-b" (docs/reference.md §8.2).
    """
    a, b = _same_shape(x, y)
    first, second = np.triu_indices(len(a), k=1)
    concordance = np.sign(a[first] - a[second]) * np.sign(b[first] - b[second])
    return float(concordance.mean()) if len(concordance) else float("nan")


def kendall_tau_b(x: ArrayLike, y: ArrayLike) -> float:
    """Tau with the denominator corrected for ties; NaN if either is constant or n < 2."""
    from scipy import stats

    return _of_two(stats.kendalltau, x, y)


def voc_pearson(progress: ArrayLike, true_progress: ArrayLike) -> float:
    """Value-order correlation of one episode as Robometer (arXiv 2603.02115) has it: Pearson r against true progress.

    Args:
        progress: (T,) predicted.
        true_progress: (T,).
    """
    return pearson(progress, true_progress)


def voc_spearman(progress: ArrayLike) -> float:
    """Value-order correlation of one episode as GVL (arXiv 2411.04549) has it: Spearman's with time.

    Args:
        progress: (T,) predicted.
    """
    values = np.asarray(progress, dtype=np.float64)
    return spearman(values, np.arange(len(values)))


def ranking_accuracy(scores: ArrayLike, ranks: ArrayLike) -> float:
    """Fraction of pairs of different rank whose scores are in the same order; equal scores count half.

    Args:
        scores: (n,) predicted.
        ranks: (n,) true order, higher is better.

    Returns:
        NaN if all ranks are equal.
    """
    score, rank = _same_shape(scores, ranks)
    below, above = np.nonzero(rank[:, None] < rank[None, :])
    if not len(below):
        return float("nan")
    difference = score[above] - score[below]
    return float(np.mean(np.where(difference > 0, 1.0, np.where(difference == 0, 0.5, 0.0))))


def mean_tau_a(scores_by_rank: Mapping[int, ArrayLike]) -> float:
    """Mean tau_a over all ways to pick one trajectory per rank, within one task (docs/reference.md §8.2).

    Args:
        scores_by_rank: Scores of the trajectories of each rank, such as failure 1, suboptimal 2, successful 3.

    Returns:
        NaN with fewer than two ranks.
    """
    ranks = sorted(scores_by_rank)
    if len(ranks) < 2:
        return float("nan")
    groups = [np.asarray(scores_by_rank[rank], dtype=np.float64) for rank in ranks]
    return float(np.mean([kendall_tau_a(ranks, choice) for choice in product(*groups)]))


def success_fail_difference(successful: ArrayLike, failed: ArrayLike) -> float:
    """Mean score of (n,) successful trajectories of a task minus that of (m,) others; NaN if either is empty."""
    done, undone = np.asarray(successful, dtype=np.float64), np.asarray(failed, dtype=np.float64)
    return float(done.mean() - undone.mean()) if len(done) and len(undone) else float("nan")


def wrong_task_progress(progress: ArrayLike) -> float:
    """Progress that a model claims at the end of (T,) predictions made with another task's instruction."""
    return float(np.asarray(progress, dtype=np.float64)[-1])


def distance_rank_correlation(progress: ArrayLike, distance: ArrayLike) -> float:
    """Whether progress grows where the distance to the goal shrinks: minus their Spearman correlation.

    Unlike a correlation with time, it says something about runs that wander, such as those of an agent that explores.

    Args:
        progress: (T,) predicted.
        distance: (T,) true distance to the goal.

    Returns:
        1 if they order the frames in exactly opposite ways; NaN if either is constant.
    """
    return -spearman(progress, distance)


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """The curve below which `auroc` is the area.

    Args:
        scores: (n,).
        labels: (n,), true for positives.

    Returns:
        False and true positive rates at every threshold, from (0, 0) to (1, 1).

    Raises:
        ValueError: Only one class.
    """
    score, positive = _scored_labels(scores, labels)
    if positive.all() or not positive.any():
        raise ValueError("a curve between two classes needs scores of both")
    true, predicted, _ = _operating_points(score, positive)
    false_rate, true_rate = (predicted - true) / (~positive).sum(), true / positive.sum()
    return np.concatenate([[0.0], false_rate]), np.concatenate([[0.0], true_rate])


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties half; NaN with one class only."""
    score, positive = _scored_labels(scores, labels)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    from scipy import stats

    rank_sum = stats.rankdata(score)[positive].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the precision-recall curve as the sum of precision over recall steps; NaN without positives."""
    score, positive = _scored_labels(scores, labels)
    if not positive.any():
        return float("nan")
    true, predicted, _ = _operating_points(score, positive)
    recall_step = np.diff(true, prepend=0) / positive.sum()
    return float(np.sum(recall_step * true / predicted))


@dataclass(frozen=True)
class ThresholdChoice:
    """A threshold on a score and what it achieves where it was chosen.

    Attributes:
        threshold: Scores at or above it are called positive.
        balanced_accuracy: Mean of the two rates below and above.
        true_positive_rate: Positives called positive.
        false_positive_rate: Negatives called positive.
    """

    threshold: float
    balanced_accuracy: float
    true_positive_rate: float
    false_positive_rate: float


def best_threshold(scores: ArrayLike, labels: ArrayLike, max_false_positive_rate: float = 1.0) -> ThresholdChoice:
    """The threshold with the best balanced accuracy among those with few enough false positives.

    It lies half-way to the next lower score, so that it does not sit on a value that was seen.

    Args:
        scores: (n,).
        labels: (n,), true for positives.
        max_false_positive_rate: A reward that pays for success which is not there teaches that, so a caller may ask
            for less.

    Returns:
        The choice; a threshold above all scores, with a true positive rate of 0, if no other has so few false
        positives.

    Raises:
        ValueError: Only one class.
    """
    score, positive = _scored_labels(scores, labels)
    if positive.all() or not positive.any():
        raise ValueError("a threshold between two classes needs scores of both")
    true, predicted, values = _operating_points(score, positive)
    tpr = true / positive.sum()
    fpr = (predicted - true) / (~positive).sum()
    allowed = fpr <= max_false_positive_rate
    if not allowed.any():
        return ThresholdChoice(float(np.nextafter(values[0], np.inf)), 0.5, 0.0, 0.0)
    best = int(np.argmax(np.where(allowed, tpr - fpr, -np.inf)))
    below = values[best + 1] if best + 1 < len(values) else values[best]
    return ThresholdChoice(
        float((values[best] + below) / 2), float((tpr[best] + 1 - fpr[best]) / 2), float(tpr[best]), float(fpr[best])
    )


@dataclass(frozen=True)
class PreferenceAccuracy:
    """How often the better trajectory is preferred, by where it stands in the prompt.

    A model that always answers "A" has 1 and 0, and 0.5 in the mean: the mean of both orders hides no position bias.

    Attributes:
        better_first: Accuracy when the better one is A.
        better_second: Accuracy when it is B.
        mean: Of the two.
        both: Fraction of pairs right in both orders.
    """

    better_first: float
    better_second: float
    mean: float
    both: float


def preference_accuracy(better_first: ArrayLike, better_second: ArrayLike) -> PreferenceAccuracy:
    """Accuracy over pairs asked in both orders.

    Args:
        better_first: (n,) probability given to A when the better trajectory is A.
        better_second: (n,) probability given to A when it is B.
    """
    first, second = _same_shape(better_first, better_second)
    if not len(first):
        return PreferenceAccuracy(*[float("nan")] * 4)
    right_first = np.where(first == 0.5, 0.5, first > 0.5)
    right_second = np.where(second == 0.5, 0.5, second < 0.5)
    return PreferenceAccuracy(
        float(right_first.mean()),
        float(right_second.mean()),
        float((right_first.mean() + right_second.mean()) / 2),
        float(((first > 0.5) & (second < 0.5)).mean()),
    )


def stall_rise(progress: ArrayLike, stop: int, window: int = 10) -> float:
    """Progress that an episode gains after the robot stops moving: what a stall is paid by a dense reward.

    Args:
        progress: (T,) predicted.
        stop: Frame at which the robot stops.
        window: Frames averaged at the end, so that one noisy frame does not decide.

    Returns:
        Mean of the last ``window`` frames after the stop minus the value at the stop; NaN if nothing follows it.
    """
    values = np.asarray(progress, dtype=np.float64)
    if stop < 0:
        raise ValueError(f"the robot stops at a frame counted from 0, got {stop}")
    after = values[stop + 1 :]
    return float(after[-window:].mean() - values[stop]) if len(after) else float("nan")


def _mean(rows: NDArray[Any]) -> float:
    return float(rows.mean())


def _same_shape(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"expected two arrays of one shape (n,), got {a.shape} and {b.shape}")
    return a, b


def _scored_labels(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    score, label = _same_shape(scores, labels)
    return score, label.astype(bool)


def _of_two(statistic: Callable[[Floats, Floats], Any], x: ArrayLike, y: ArrayLike) -> float:
    """A correlation of SciPy; NaN where it is undefined, of which SciPy would warn."""
    a, b = _same_shape(x, y)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(statistic(a, b).statistic)


def _operating_points(score: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """True positives and positives predicted at each distinct score used as threshold, highest first."""
    order = np.argsort(-score, kind="stable")
    sorted_scores = score[order]
    last = np.append(np.nonzero(np.diff(sorted_scores))[0], len(score) - 1)
    return np.cumsum(positive[order])[last].astype(np.float64), (last + 1).astype(np.float64), sorted_scores[last]
