import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from robometer_rl.evaluation.metrics import (
    auroc,
    average_precision,
    best_threshold,
    bootstrap,
    distance_rank_correlation,
    kendall_tau_a,
    kendall_tau_b,
    mean_tau_a,
    pearson,
    preference_accuracy,
    ranking_accuracy,
    roc_curve,
    spearman,
    stall_rise,
    success_fail_difference,
    voc_pearson,
    voc_spearman,
    wrong_task_progress,
)

FIXTURE = Path(__file__).parents[1] / "fixtures" / "robometer_tiny" / "metrics.json"
# Few distinct values, so that ties are common.
SERIES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12)


def test_correlations_equal_the_reference():
    for case in json.loads(FIXTURE.read_text())["kendall"]:
        x, y = case["x"], case["y"]
        for function, key in [
            (kendall_tau_a, "kendall"),
            (kendall_tau_b, "scipy_tau_b"),
            (spearman, "spearman"),
            (pearson, "pearson"),
        ]:
            expected = np.nan if case[key] is None else case[key]
            assert function(x, y) == pytest.approx(expected, abs=1e-12, nan_ok=True), (key, case)


def test_spearman_equals_the_reference_batch_with_undefined_as_zero():
    case = json.loads(FIXTURE.read_text())["spearman_batch"]
    for predicted, target, expected in zip(case["pred"], case["target"], case["no_mask"], strict=True):
        assert np.nan_to_num(spearman(predicted, target)) == pytest.approx(expected, abs=1e-6)
    for predicted, target, mask, expected in zip(
        case["pred"], case["target"], case["mask"], case["masked"], strict=True
    ):
        known = np.array(mask) == 1
        value = spearman(np.array(predicted)[known], np.array(target)[known])
        assert np.nan_to_num(value) == pytest.approx(expected, abs=1e-6)


@given(SERIES)
def test_rank_correlations_equal_scipy(pairs):
    x, y = np.array(pairs).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(spearman(x, y))
        assert np.isnan(kendall_tau_b(x, y))
    else:
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
        assert kendall_tau_b(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-9)


@given(SERIES)
def test_auroc_and_ranking_accuracy_agree_with_counting_pairs(pairs):
    scores, labels = np.array(pairs).T
    labels = labels > 2
    wins = [
        1.0 if positive > negative else 0.5 if positive == negative else 0.0
        for positive in scores[labels]
        for negative in scores[~labels]
    ]
    expected = np.mean(wins) if wins else np.nan
    assert auroc(scores, labels) == pytest.approx(expected, nan_ok=True)
    assert ranking_accuracy(scores, labels) == pytest.approx(expected, nan_ok=True)


def test_average_precision_by_hand():
    assert average_precision([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision([0.5, 0.5], [1, 0]) == pytest.approx(0.5)
    assert np.isnan(average_precision([0.5], [0]))


def test_voc_names_its_meaning():
    true = [0.0, 0.5, 1.0, 1.0]
    assert voc_pearson([0.1, 0.35, 0.6, 0.6], true) == pytest.approx(1.0)
    assert voc_spearman([0.1, 0.2, 0.4, 0.3]) == pytest.approx(0.8)
    assert np.isnan(voc_pearson([0.3, 0.3, 0.3, 0.3], true))


def test_mean_tau_a_takes_one_trajectory_per_rank():
    assert mean_tau_a({1: [0.1, 0.2], 2: [0.5], 3: [0.9, 0.4]}) == pytest.approx((1 + 1 + 1 / 3 + 1 / 3) / 4)
    assert np.isnan(mean_tau_a({2: [0.5]}))


def test_best_threshold_separates_and_lies_between_seen_scores():
    choice = best_threshold([0.1, 0.2, 0.7, 0.9], [0, 0, 1, 1])
    assert choice.threshold == pytest.approx(0.45)
    assert (choice.balanced_accuracy, choice.true_positive_rate, choice.false_positive_rate) == (1, 1, 0)


def test_best_threshold_keeps_false_positives_below_the_limit():
    scores, labels = [0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 1, 0]
    assert best_threshold(scores, labels).true_positive_rate == 1
    strict = best_threshold(scores, labels, max_false_positive_rate=0.0)
    assert strict.threshold == pytest.approx(0.85)
    assert strict.true_positive_rate == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="both"):
        best_threshold(scores, [0] * 5)
    nothing = best_threshold([0.9, 0.1], [0, 1], max_false_positive_rate=0.5)
    assert (nothing.threshold > 0.9, nothing.true_positive_rate, nothing.false_positive_rate) == (True, 0, 0)


def test_preference_accuracy_shows_a_preference_for_a_position():
    always_first = preference_accuracy([0.9, 0.9], [0.9, 0.9])
    assert (always_first.better_first, always_first.better_second, always_first.mean, always_first.both) == (
        1,
        0,
        0.5,
        0,
    )
    undecided = preference_accuracy([0.5], [0.5])
    assert (undecided.mean, undecided.both) == (0.5, 0)


def test_stall_rise():
    progress = np.concatenate([np.linspace(0, 0.5, 6), np.full(20, 0.6)])
    assert stall_rise(progress, 5) == pytest.approx(0.1)
    assert np.isnan(stall_rise(progress, len(progress) - 1))
    with pytest.raises(ValueError, match="counted from 0"):
        stall_rise(progress, -1)


@given(SERIES)
def test_the_area_below_the_roc_is_the_auroc(pairs):
    scores, labels = np.array(pairs).T
    labels = labels > 2
    if labels.all() or not labels.any():
        with pytest.raises(ValueError, match="both"):
            roc_curve(scores, labels)
        return
    false_rate, true_rate = roc_curve(scores, labels)
    assert (false_rate[0], true_rate[0], false_rate[-1], true_rate[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true_rate, false_rate) == pytest.approx(auroc(scores, labels))


def test_progress_that_grows_with_nearness_is_right():
    assert distance_rank_correlation([0.1, 0.5, 0.4, 0.9], [0.8, 0.3, 0.4, 0.1]) == pytest.approx(1.0)
    assert distance_rank_correlation([0.1, 0.5], [0.3, 0.8]) == pytest.approx(-1.0)
    assert np.isnan(distance_rank_correlation([0.1, 0.5], [0.3, 0.3]))


def test_differences_between_success_and_failure_and_progress_of_a_wrong_task():
    assert success_fail_difference([0.9, 0.7], [0.1, 0.3]) == pytest.approx(0.6)
    assert np.isnan(success_fail_difference([0.9], []))
    assert wrong_task_progress([0.5, 0.2]) == pytest.approx(0.2)


def test_bootstrap_covers_the_mean_and_reports_what_it_left_out():
    values = np.append(np.random.default_rng(0).normal(1.0, 0.1, 200), np.nan)
    estimate = bootstrap(values)
    assert estimate.low < estimate.value < estimate.high
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(200), rel=0.25)
    assert (estimate.count, estimate.undefined) == (200, 1)
    assert bootstrap(values) == estimate
    assert np.isnan(bootstrap([]).value)


def test_bootstrap_of_a_statistic_of_rows():
    rows = np.array([[0.1, 0], [0.2, 0], [0.8, 1], [0.9, 1]])
    estimate = bootstrap(rows, lambda sample: auroc(sample[:, 0], sample[:, 1]))
    assert (estimate.value, estimate.low, estimate.high) == (1, 1, 1)
    assert str(estimate) == "1.000 [1.000, 1.000] (n=4)"


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"one shape"):
        pearson([1, 2], [1, 2, 3])
