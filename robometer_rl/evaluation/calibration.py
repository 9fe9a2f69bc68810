"""Choosing the threshold and the patience of the success rule on episodes whose success was recorded.

What is judged is the rule, not single frames: it fires once per episode, and that is what a reward pays and what ends
an episode. It fires rightly in a frame in which the task is done, or was done before, and falsely in any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.progress import track

from robometer_rl.data.trajectory import Trajectory
from robometer_rl.evaluation.metrics import Estimate, auroc, best_threshold, bootstrap
from robometer_rl.frames import FrameProtocol, scored_steps
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.prediction import Prediction
from robometer_rl.report.terminal import open_console
from robometer_rl.rewards import DEFAULT_REWARD

__all__ = [
    "MAX_FALSE_ALARMS",
    "MIN_RECALL",
    "Evidence",
    "SuccessCalibration",
    "calibrate_success",
    "choose_rule",
    "choose_rules",
    "gather_evidence",
    "highest_firing",
    "score_judged",
    "score_success",
    "success_of",
]

MAX_FALSE_ALARMS: Final = 0.05
"""Of the episodes, the part in which a calibrated rule may fire before the task is done: false success is paid."""

MIN_RECALL: Final = 0.5
"""Of the episodes in which the task is done, the part in which a calibrated rule must fire."""

_RESAMPLES: Final = 500
_NEVER: Final = -1.0  # in arrays, where a NaN would say that the row is to be left out

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What the rule's firings say in n episodes, for one patience.

    Attributes:
        falsely: (n,) the highest threshold at which the rule fires before the task is done; NaN for an episode without
            frames in which it could.
        rightly: (n,) the highest threshold at which it fires once the task is done; 0 for an episode that is done and
            in which it cannot, NaN for one that is never done.
        patience: Consecutive scored frames that the rule needs.
    """

    falsely: Floats
    rightly: Floats
    patience: int

    def rates(self, threshold: float) -> tuple[float, float]:
        """True and false positive rate of the rule with this threshold; NaN without episodes to count."""
        scores, labels = _scores(self.falsely, self.rightly)
        right, false = scores[labels] >= threshold, scores[~labels] >= threshold
        return (float(right.mean()) if len(right) else np.nan, float(false.mean()) if len(false) else np.nan)

    @property
    def scores(self) -> Floats:
        """All thresholds, false ones first."""
        return _scores(self.falsely, self.rightly)[0]

    @property
    def labels(self) -> NDArray[np.bool_]:
        """Whether a score is one of a right firing."""
        return _scores(self.falsely, self.rightly)[1]


@dataclass(frozen=True)
class SuccessCalibration:
    """A success rule and what it achieves on the episodes that it was chosen on.

    Attributes:
        threshold: For `robometer_rl.RewardSpec.success_threshold`, or a checkpoint's settings.
        patience: For `robometer_rl.RewardSpec.patience`.
        threshold_low: Lower end of the 95 % bootstrap interval of the threshold, over episodes.
        threshold_high: Upper end.
        true_positive_rate: Of the episodes in which the task is done, the part in which the rule fires then.
        false_positive_rate: Of the episodes, the part in which it fires too early or for nothing.
        auroc: Area under the curve of these two over all thresholds.
        evidence: What it was chosen from; not part of a comparison or of JSON.
    """

    threshold: float
    patience: int
    threshold_low: float
    threshold_high: float
    true_positive_rate: Estimate
    false_positive_rate: Estimate
    auroc: float
    evidence: Evidence = field(repr=False, compare=False)

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the two rates of right answers."""
        return (self.true_positive_rate.value + 1.0 - self.false_positive_rate.value) / 2.0

    @property
    def usable(self) -> bool:
        """Whether the rule recognises at least `MIN_RECALL` of the successes."""
        return self.true_positive_rate.value >= MIN_RECALL

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "threshold": self.threshold,
            "patience": self.patience,
            "threshold_low": self.threshold_low,
            "threshold_high": self.threshold_high,
            "true_positive_rate": self.true_positive_rate.as_dict(),
            "false_positive_rate": self.false_positive_rate.as_dict(),
            "auroc": self.auroc,
        }


def highest_firing(success: ArrayLike, done: ArrayLike, patience: int) -> tuple[float, float]:
    """The highest thresholds at which the success rule fires falsely and rightly in one episode.

    Args:
        success: (S,) success probability of the scored frames; that of the reset is not counted, as in
            `robometer_rl.rewards.success_holds`.
        done: (S,) bool, whether the task is done in these frames.
        patience: Consecutive scored frames that the rule needs.

    Returns:
        Two entries of `Evidence`.

    Examples:
        >>> highest_firing([0.9, 0.2, 0.3, 0.8, 0.9], [False, False, False, True, True], patience=2)
        (0.2, 0.8)
    """
    probability, is_done = np.asarray(success, np.float64), np.asarray(done, np.bool_)
    by_then = np.logical_or.accumulate(is_done)[patience:]
    if not len(by_then):
        return np.nan, 0.0 if is_done.any() else np.nan
    least = np.lib.stride_tricks.sliding_window_view(probability[1:], patience).min(axis=1)
    early, late = least[~by_then], least[by_then]
    rightly = float(late.max()) if len(late) else 0.0 if is_done.any() else np.nan
    return float(early.max()) if len(early) else np.nan, rightly


def gather_evidence(successes: Sequence[ArrayLike], done: Sequence[ArrayLike], patience: int) -> Evidence:
    """`highest_firing` of several episodes."""
    firings = [highest_firing(*episode, patience) for episode in zip(successes, done, strict=True)]
    table = np.array(firings, np.float64).reshape(-1, 2)
    return Evidence(table[:, 0], table[:, 1], patience)


def choose_rule(evidence: Evidence, max_false_alarms: float = MAX_FALSE_ALARMS, seed: int = 0) -> SuccessCalibration:
    """The threshold with the best balanced accuracy among those with few enough false alarms.

    Args:
        evidence: Of episodes that are done and of frames in which nothing is.
        max_false_alarms: Part of the episodes in which the rule may fire falsely.
        seed: Of the bootstrap.

    Raises:
        ValueError: No episode in which the task is done, or no frame in which it is not.
    """
    scores, labels = evidence.scores, evidence.labels
    if labels.all() or not labels.any():
        raise ValueError(
            f"a success rule is chosen between episodes in which the task is done and frames in which it is not; got "
            f"{int(labels.sum())} episodes that are done and {int((~labels).sum())} with frames before that"
        )
    threshold = best_threshold(scores, labels, max_false_alarms).threshold
    low, high = _threshold_interval(evidence, max_false_alarms, seed)
    return SuccessCalibration(
        threshold=threshold,
        patience=evidence.patience,
        threshold_low=low,
        threshold_high=high,
        true_positive_rate=bootstrap((scores[labels] >= threshold).astype(np.float64), seed=seed),
        false_positive_rate=bootstrap((scores[~labels] >= threshold).astype(np.float64), seed=seed),
        auroc=auroc(scores, labels),
        evidence=evidence,
    )


def score_judged(
    model: RewardModel, episodes: Sequence[Trajectory], *, protocol: FrameProtocol | None = None, every: int = 1
) -> tuple[list[Prediction], list[NDArray[np.bool_]]]:
    """Asks a model about recorded episodes, and says when they are done.

    Args:
        model: What to ask.
        episodes: Those without recorded success are left out.
        protocol: Which frames each step is scored with; the model's default if None.
        every: Scoring interval in recorded frames.

    Returns:
        For each episode what the model says of its S scored frames, and (S,) whether the task is done, or was done
        since the last scored frame, in each of them.
    """
    model.require("a success rule", success=True)
    model.require_views("a success rule", tiled=all(episode.tiled for episode in episodes))
    judged = [(episode.clip(), episode.success) for episode in episodes if episode.success is not None]
    clips = track([clip for clip, _ in judged], "scoring", console=open_console(stderr=True), transient=True)
    predictions = [model.predict_steps([clip], protocol, every)[0] for clip in clips]
    # Success between scored frames counts when the next one is scored, as it does in a live episode.
    done = [np.logical_or.accumulate(success)[scored_steps(len(success), every)] for _, success in judged]
    return predictions, done


def score_success(
    model: RewardModel, episodes: Sequence[Trajectory], *, protocol: FrameProtocol | None = None, every: int = 1
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.bool_]]]:
    """The success probabilities of `score_judged`, and when episodes are done."""
    said, done = score_judged(model, episodes, protocol=protocol, every=every)
    return success_of(said), done


def success_of(said: Sequence[Prediction]) -> list[NDArray[np.float32]]:
    """Success probabilities of a model that has a notion of success."""
    return [each.success for each in said if each.success is not None]


def choose_rules(
    successes: Sequence[ArrayLike],
    done: Sequence[ArrayLike],
    patiences: Sequence[int] = (DEFAULT_REWARD.patience,),
    max_false_alarms: float = MAX_FALSE_ALARMS,
    seed: int = 0,
) -> list[SuccessCalibration]:
    """The rules of `calibrate_success`, from what a model has said already."""
    rules = [choose_rule(gather_evidence(successes, done, each), max_false_alarms, seed) for each in patiences]
    return sorted(rules, key=lambda rule: (not rule.usable, -rule.balanced_accuracy, rule.patience))


def calibrate_success(
    model: RewardModel,
    episodes: Sequence[Trajectory],
    *,
    patiences: Sequence[int] = (DEFAULT_REWARD.patience,),
    protocol: FrameProtocol | None = None,
    every: int = 1,
    max_false_alarms: float = MAX_FALSE_ALARMS,
    seed: int = 0,
) -> list[SuccessCalibration]:
    """Asks a model about recorded episodes and chooses a success rule for each patience.

    Args:
        model: Whose success probabilities are judged.
        episodes: Those without recorded success are left out.
        patiences: Candidates.
        protocol: Which frames each step is scored with; the model's default if None.
        every: Scoring interval in recorded frames.
        max_false_alarms: See `choose_rule`.
        seed: Of the bootstrap.

    Returns:
        One rule per patience, best first: usable ones before others, then by balanced accuracy; of equal ones that
        which waits less.

    Raises:
        ValueError: See `choose_rule`.
    """
    successes, done = score_success(model, episodes, protocol=protocol, every=every)
    return choose_rules(successes, done, patiences, max_false_alarms, seed)


def _scores(falsely: Floats, rightly: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    wrong, right = falsely[~np.isnan(falsely)], rightly[~np.isnan(rightly)]
    return np.concatenate([wrong, right]), np.arange(len(wrong) + len(right)) >= len(wrong)


def _threshold_interval(evidence: Evidence, max_false_alarms: float, seed: int) -> tuple[float, float]:
    """Over resampled episodes, each with both of its entries; resamples without successes do not count."""
    rows = np.nan_to_num(np.stack([evidence.falsely, evidence.rightly], axis=1), nan=_NEVER)

    def threshold_of(sample: Floats) -> float:
        known = np.where(sample == _NEVER, np.nan, sample)
        scores, labels = _scores(known[:, 0], known[:, 1])
        if labels.all() or not labels.any():
            return float("nan")
        return best_threshold(scores, labels, max_false_alarms).threshold

    found = bootstrap(rows, threshold_of, resamples=_RESAMPLES, seed=seed)
    return found.low, found.high
