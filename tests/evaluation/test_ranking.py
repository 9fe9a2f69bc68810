import json
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.evaluation.ranking import (
    partial_success_ranking,
    policy_ranking,
    quality_preference,
    trajectory_reward,
)

FIXTURE = Path(__file__).parents[1] / "fixtures" / "robometer_tiny" / "metrics.json"


@pytest.fixture(scope="module")
def reference():
    return json.loads(FIXTURE.read_text())


def _trajectories(rows, decode=float):
    """The last value of each prefix, by trajectory, in the order in which trajectories appear."""
    prefixes, first = {}, {}
    for row in sorted(rows, key=lambda row: row["metadata"]["frame_step"]):
        prefixes.setdefault(row["id"], []).append(decode(row["progress_pred"][-1]))
    for row in rows:
        first.setdefault(row["id"], row)
    return [(row["task"], row["quality_label"], prefixes[name]) for name, row in first.items()]


def _expected_value(logits):
    weights = np.exp(logits)
    return weights @ np.linspace(0, 1, len(logits)) / weights.sum()


def _assert_equal(result, expected, suffix):
    for name, value in result.items():
        assert value == pytest.approx(expected[name + suffix], abs=1e-6), name
    assert {name + suffix for name in result} == {name for name in expected if name.endswith(suffix)}


@pytest.mark.parametrize("aggregation", ["last", "avg", "sum"])
@pytest.mark.parametrize(
    ("name", "source", "decode", "relative"),
    [
        ("quality_continuous", "quality_continuous", float, False),
        ("quality_discrete_logits", "quality_discrete_logits", _expected_value, False),
        ("quality_relative_cumsum", "quality_continuous", float, True),
    ],
)
def test_policy_ranking_equals_the_reference(reference, name, source, decode, relative, aggregation):
    trajectories = _trajectories(reference["policy_ranking"][source]["rows"], decode)
    tasks, labels, prefixes = zip(*trajectories, strict=True)
    rewards = [trajectory_reward(values, aggregation, relative) for values in prefixes]
    _assert_equal(
        policy_ranking(tasks, labels, rewards), reference["policy_ranking"][name]["metrics"], f"_{aggregation}"
    )


@pytest.mark.parametrize("aggregation", ["last", "avg", "sum"])
def test_partial_success_ranking_equals_the_reference(reference, aggregation):
    cases = reference["policy_ranking"]
    trajectories = _trajectories(cases["quality_continuous"]["rows"])
    outcomes = [row["partial_success"] for row in cases["partial_success"]["rows"]]
    rewards = [trajectory_reward(values, aggregation) for _, _, values in trajectories]
    result = partial_success_ranking([task for task, _, _ in trajectories], outcomes, rewards)
    _assert_equal(result, cases["partial_success"]["metrics"], f"_{aggregation}")


@pytest.mark.parametrize("name", ["tie_low_first", "tie_high_first"])
def test_ties_are_decided_by_row_order_as_in_the_reference(reference, name):
    case = reference["policy_ranking"][name]
    result = policy_ranking(["t", "t"], case["labels"], case["rewards"])
    for key, value in case["metrics"].items():
        assert result[key] == pytest.approx(np.nan if value is None else value, nan_ok=True), key


def test_trajectory_reward_equals_the_reference(reference):
    for case in reference["trajectory_reward"]:
        aggregation = "avg" if case["agg"] == "average" else case["agg"]
        value = trajectory_reward(case["pred"], aggregation, case["type"] == "relative")
        assert value == pytest.approx(case["out"], abs=1e-6), case
    with pytest.raises(ValueError, match="'median'"):
        trajectory_reward([0.1], "median")


def test_preference_accuracy_equals_the_reference(reference):
    case = reference["preference_accuracy"]
    predictions = [row["predicted_preference"] for row in case["rows"]]
    labels = [row["preference_label"] for row in case["rows"]]
    assert quality_preference(predictions, labels) == pytest.approx(case["out"])
    assert np.isnan(quality_preference([None], [1])["preference_accuracy"])


def test_unknown_labels_are_named():
    with pytest.raises(ValueError, match="perfect"):
        policy_ranking(["t"], ["perfect"], [1.0])
