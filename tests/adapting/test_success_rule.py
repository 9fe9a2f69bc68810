"""A success threshold of a dozen episodes holds on the next thousands, and its rates are not flattered."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from robometer_rl.adapting.success_rule import choose_success_rule, smoothed_threshold
from robometer_rl.evaluation.calibration import Evidence
from robometer_rl.evaluation.metrics import best_threshold


def probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-logits))


def firings(rng: np.random.Generator, done: int, failures: int, early: float = 1.5, right: float = 2.5) -> Evidence:
    """Of a model that is sure of failures, and not sure when exactly a success begins."""
    falsely = np.concatenate([rng.normal(early, 1.0, done), rng.normal(-3.0, 1.5, failures)])
    rightly = np.concatenate([probabilities(rng.normal(right, 1.0, done)), np.full(failures, np.nan)])
    return Evidence(probabilities(falsely), rightly, patience=2)


def unseen(threshold: float) -> tuple[float, float]:
    """Recall and false alarms among failures of the rule on many episodes."""
    many = firings(np.random.default_rng(99), 4000, 4000)
    return float((many.rightly[:4000] >= threshold).mean()), float((many.falsely[4000:] >= threshold).mean())


def test_a_dozen_episodes_are_enough_for_a_threshold_that_sees_unseen_successes() -> None:
    sets = [firings(np.random.default_rng(seed), 4, 8) for seed in range(40)]
    smooth = np.array([unseen(choose_success_rule(each).threshold) for each in sets])
    sharp = np.array([unseen(best_threshold(each.scores, each.labels, 0.125).threshold) for each in sets])
    assert smooth[:, 0].mean() > 0.9
    assert np.quantile(smooth[:, 0], 0.1) > 0.8
    assert smooth[:, 1].mean() < 0.05
    assert sharp[:, 0].mean() < 0.75, "what is best on a dozen misses the successes of the next"


def test_the_rates_are_those_of_unseen_episodes() -> None:
    rules = [choose_success_rule(firings(np.random.default_rng(seed), 4, 8)) for seed in range(60)]
    true = np.array([unseen(rule.threshold) for rule in rules])
    assert np.mean([rule.recall for rule in rules]) == pytest.approx(true[:, 0].mean(), abs=0.04)
    assert np.mean([rule.false_alarms for rule in rules]) == pytest.approx(true[:, 1].mean(), abs=0.02)


def test_each_episode_is_judged_by_the_others() -> None:
    rightly = np.array([0.9, 0.9, 0.9, 0.05, np.nan, np.nan])
    falsely = np.array([0.1, 0.1, np.nan, 0.02, 0.02, 0.97])
    rule = choose_success_rule(Evidence(falsely, rightly, 2))
    assert rule.recall == 0.75
    assert rule.false_alarms == 0.5
    assert rule.early == 0.0
    assert rule.usable


def test_a_model_that_knows_nothing_has_no_usable_rule() -> None:
    rng = np.random.default_rng(0)
    rules = [choose_success_rule(firings(rng, 6, 6, early=-3.0, right=-3.0)) for _ in range(20)]
    assert all(rule.recall < 1.0 or rule.false_alarms > 0.5 for rule in rules)


def test_the_threshold_lies_between_what_is_told_apart() -> None:
    threshold = smoothed_threshold(np.array([0.0, 0.1, np.nan]), np.array([1.0, 0.9, np.nan]))
    assert threshold == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("falsely", "rightly"),
    [([0.1, 0.2, 0.3], [0.9, np.nan, np.nan]), ([np.nan, np.nan, 0.3], [0.9, 0.9, 0.9])],
)
def test_it_takes_two_of_each(falsely: list[float], rightly: list[float]) -> None:
    with pytest.raises(ValueError, match="it takes two episodes in which the task is done"):
        choose_success_rule(Evidence(np.array(falsely), np.array(rightly), 2))
