"""What is paid, what of it is for nothing, and what is learned from it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robometer_rl import RewardSpec
from robometer_rl.hardening.payment import (
    CONFIDENCE,
    Farming,
    Paid,
    choose_lessons,
    farming_of,
    later_half,
    pay_of,
    ways,
)
from robometer_rl.prediction import Prediction

DELTA = {"delta": RewardSpec()}


def paid(name: str, pay: float, succeeds: bool = False, worth: float | None = None) -> Paid:
    return Paid(name, succeeds, {"delta": pay}, None if worth is None else {"delta": worth})


def test_delta_pays_in_all_and_level_by_the_step() -> None:
    progress = [0.1, 0.4, 0.6]
    assert pay_of(RewardSpec(), progress) == pytest.approx(0.5)
    assert pay_of(RewardSpec(mode="level"), progress) == pytest.approx(0.5)
    sure = RewardSpec(mode="level", confidence=0.8)
    assert pay_of(sure, progress, [0.0, 0.3, 0.1]) == pytest.approx(0.3), "0.4 is not believed, and half of the steps"


def test_confident_progress_is_a_way_where_a_model_says_how_sure_it_is() -> None:
    assert list(ways(None, False)) == ["delta", "level"]
    found = ways(None, True)
    assert list(found) == ["delta", "level", "confident delta", "confident level"]
    assert found["confident level"] == RewardSpec(mode="level", confidence=CONFIDENCE)
    assert ways(0.9, True)["confident delta"].confidence == 0.9


def test_an_episode_is_worth_what_true_progress_would_be_paid() -> None:
    distribution = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], np.float32)
    said = Prediction(np.array([0.0, 0.5, 1.0], np.float32), None, distribution, "given", "made-up")
    by = ways(0.5, True)
    unknown = Paid.of("a", False, said, None, by)
    assert (unknown.worth, unknown.farmed("delta")) == (None, pytest.approx(1.0))
    known = Paid.of("a", False, said, [0.2, 0.4, 0.4], by)
    assert known.worth == pytest.approx({"delta": 0.2, "level": 0.4, "confident delta": 0.2, "confident level": 0.4})
    assert known.farmed("delta") == pytest.approx(0.8)
    assert known.farmed("confident level") == pytest.approx(0.1), "0.5 is two bins apart and not believed"
    assert Paid.of("a", False, said, [0.0, 1.0, 1.0], by).farmed("level") == 0.0, "too little is not farmed"


def test_failures_are_held_against_successes() -> None:
    agent = [paid("a", 0.5, worth=0.3), paid("b", 0.3, worth=0.3), paid("c", 0.9, succeeds=True)]
    found = farming_of(agent, [paid("d", 1.0, True), paid("e", 0.6, True)], DELTA)["delta"]
    assert (found.paid.value, found.farmed.value, found.successes.value) == pytest.approx((0.4, 0.1, 0.8))
    assert found.share == pytest.approx(0.125)
    again = Farming.from_dict(found.as_dict())
    assert again == found


def test_without_failures_nothing_is_farmed_and_where_success_earns_nothing_all_is() -> None:
    assert farming_of([paid("a", 1.0, True)], [paid("b", 1.0, True)], DELTA)["delta"].share == 0.0
    assert farming_of([paid("a", 0.1)], [paid("b", 0.0, True)], DELTA)["delta"].share == math.inf


def test_the_worst_failures_and_the_least_paid_successes_are_learned_from() -> None:
    episodes = [
        paid("honest", 0.6, worth=0.6),
        paid("worst", 0.5),
        paid("bad", 0.4),
        paid("as bad", 0.4),
        paid("well paid", 0.9, True),
        paid("badly paid", 0.2, True),
    ]
    chosen = [each.id for each in choose_lessons(episodes, "delta", 2)]
    assert chosen == ["worst", "bad", "badly paid", "well paid"]
    assert [each.id for each in choose_lessons(episodes, "delta", 1)] == ["worst", "badly paid"]
    assert choose_lessons([], "delta", 3) == []


@pytest.mark.parametrize(("count", "late"), [(0, 0), (1, 1), (2, 1), (5, 3)])
def test_the_later_half_is_never_empty_where_there_is_an_episode(count: int, late: int) -> None:
    episodes = [paid(f"{number}", 0.0) for number in range(count)]
    assert list(later_half(episodes)) == episodes[count - late :]
