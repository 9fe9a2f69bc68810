from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from robometer_rl.evaluation.reward_hacking import (
    RETURN_RISES,
    EpisodeOutcome,
    FarmingWatch,
    agreement,
    compare_windows,
    mann_whitney_z,
    two_proportion_z,
)


def outcome(learned: float, done: bool = False, predicted: bool = False, true: float = 0.0) -> EpisodeOutcome:
    return EpisodeOutcome(learned, true, predicted, done, length=10)


def window(mean: float, successes: int, rng: np.random.Generator, size: int = 50) -> list[EpisodeOutcome]:
    done = rng.permutation(np.arange(size) < successes)
    return [outcome(float(rng.normal(mean, 0.1)), bool(success)) for success in done]


def watched(*windows: tuple[float, int], seed: int = 0) -> tuple[FarmingWatch, list[bool]]:
    rng = np.random.default_rng(seed)
    watch = FarmingWatch(50)
    farming = []
    for mean, successes in windows:
        for each in window(mean, successes, rng):
            watch.add(each)
        farming.append(watch.farming)
    return watch, farming


def test_the_deviates_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.integers(0, 5, 30), rng.integers(1, 6, 40)  # with ties
    test = stats.mannwhitneyu(after, before, alternative="greater", use_continuity=False, method="asymptotic")
    assert stats.norm.sf(mann_whitney_z(before, after)) == pytest.approx(test.pvalue)
    table = [[(before > 2).sum(), (before <= 2).sum()], [(after > 2).sum(), (after <= 2).sum()]]
    chi2 = stats.chi2_contingency(table, correction=False).statistic
    assert two_proportion_z(before > 2, after > 2) ** 2 == pytest.approx(chi2)


def test_nothing_is_clear_where_all_is_alike() -> None:
    assert mann_whitney_z([1, 1], [1, 1]) == 0.0
    assert two_proportion_z([0, 0], [0, 0]) == 0.0
    assert two_proportion_z([1, 1], [1, 1]) == 0.0


def test_agreement_counts_both_kinds_of_mistake() -> None:
    found = agreement([
        outcome(3.0, done=True, predicted=True, true=1.0),
        outcome(2.0, done=True, predicted=False, true=1.0),
        outcome(1.0, done=False, predicted=True),
        outcome(0.0), outcome(0.0), outcome(0.0),
    ])  # fmt: skip
    assert (found.true_positive_rate, found.false_positive_rate) == (0.5, 0.25)
    assert (found.predicted_success_rate, found.true_success_rate) == (2 / 6, 2 / 6)
    assert found.return_correlation == pytest.approx(np.corrcoef([3, 2, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0])[0, 1])
    assert np.isnan(agreement([outcome(1.0)]).true_positive_rate)


def test_rising_returns_without_success_are_farming_from_the_second_window_on() -> None:
    _, farming = watched((1.0, 0), (1.5, 0), (2.0, 0))
    assert farming == [False, False, True]


def test_slow_farming_is_found_against_the_reference() -> None:
    """No window lies clearly above the one before it."""
    steps = [(1.0 + 0.03 * number, 0) for number in range(8)]
    watch, farming = watched(*steps)
    assert farming[-1]
    rng = np.random.default_rng(0)
    groups = [window(*step, rng) for step in steps]
    neighbours = [compare_windows(a, b) for a, b in pairwise(groups)]
    assert max(each.return_z for each in neighbours) < RETURN_RISES
    assert watch.last is not None
    assert "learned return 1" in str(watch.last)


@pytest.mark.parametrize(
    "windows",
    [
        [(1.0, 0), (1.5, 5), (2.0, 20), (2.5, 40)],  # success rises with the return
        [(1.0, 0), (1.5, 0), (1.6, 6), (1.6, 6), (1.6, 6)],  # shaping first, success one window later
        [(1.0, 48), (1.5, 48), (2.0, 48)],  # the task is done nearly always: only faster
        [(1.0, 10), (1.0, 2), (1.0, 0), (1.0, 0)],  # success is lost, but nothing is paid for that
    ],
)
def test_honest_learning_is_not_suspected(windows: list[tuple[float, int]]) -> None:
    assert not any(watched(*windows)[1])


def test_farming_that_sets_in_after_success_is_found() -> None:
    _, farming = watched((1.0, 0), (1.5, 15), (2.5, 14), (3.0, 8))
    assert farming == [False, False, False, True]


def test_chance_rarely_raises_an_alarm() -> None:
    alarms = [any(watched(*[(1.0, 2)] * 20, seed=seed)[1]) for seed in range(50)]
    assert sum(alarms) == 0


def test_a_window_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        FarmingWatch(1)
