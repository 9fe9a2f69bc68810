from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from robometer_rl.evaluation.policies import rank_policies


def recordings(rates: list[float], noise: float, episodes: int = 40) -> tuple[list[str], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    names = [f"policy {number}" for number in range(len(rates)) for _ in range(episodes)]
    successes = np.concatenate([np.arange(episodes) < rate * episodes for rate in rates])
    return names, successes * 0.8 + rng.normal(0, noise, len(names)), successes


def test_scores_that_follow_success_rank_perfectly() -> None:
    names, scores, successes = recordings([0.2, 1.0, 0.0, 0.6, 0.4, 0.8], noise=0.05)
    ranking = rank_policies(names, scores, successes)
    assert [policy.success_rate for policy in ranking.policies] == [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
    assert ranking.policies[0].name == "policy 1"
    assert (ranking.tau_a.value, ranking.tau_b.value, ranking.distinct) == (1.0, pytest.approx(1.0), 6)
    assert ranking.tau_a.low > 0.8
    assert ranking.policies[0].score.count == 40


def test_tau_is_that_of_the_means() -> None:
    names, scores, successes = recordings([0.2, 0.2, 0.0, 0.6, 0.4], noise=1.0)
    ranking = rank_policies(names, scores, successes)
    by_score = [policy.score.value for policy in ranking.policies]
    rates = [policy.success_rate for policy in ranking.policies]
    assert ranking.tau_b.value == pytest.approx(stats.kendalltau(by_score, rates).statistic)
    assert ranking.distinct == 4
    assert abs(ranking.tau_a.value) < abs(ranking.tau_b.value)
    assert ranking.tau_a.low < ranking.tau_a.value < ranking.tau_a.high


def test_the_order_of_rows_does_not_matter() -> None:
    names, scores, successes = recordings([0.1, 0.5, 0.9], noise=0.5)
    order = np.random.default_rng(1).permutation(len(names))
    shuffled = rank_policies([names[index] for index in order], scores[order], successes[order])
    assert shuffled.tau_a.value == rank_policies(names, scores, successes).tau_a.value


def test_without_true_success_there_is_an_order_and_nothing_to_hold_it_against() -> None:
    names, scores, _ = recordings([0.2, 1.0, 0.0], noise=0.05)
    ranking = rank_policies(names, scores, None)
    assert [policy.name for policy in ranking.policies] == ["policy 1", "policy 0", "policy 2"]
    assert {policy.success_rate for policy in ranking.policies} == {None}
    assert (ranking.tau_a, ranking.tau_b, ranking.distinct) == (None, None, None)
    assert ranking.as_dict()["tau_a"] is None


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two policies"):
        rank_policies(["a", "a"], [0.0, 1.0], [0, 1])
    with pytest.raises(ValueError, match="2 names, 1 scores"):
        rank_policies(["a", "b"], [0.0], [0, 1])
