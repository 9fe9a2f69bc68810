"""The traffic light, its sentences, and limits for CI."""

import json

import pytest

from robometer_rl.evaluation.metrics import Estimate
from robometer_rl.evaluation.verdict import check, judge_metrics, read_gate

GOOD = {
    "success_above_failure": 0.97,
    "still_progress_range": 0.02,
    "stall_rise": 0.01,
    "success_rule_recall": 0.9,
    "success_rule_false_alarms": 0.02,
    "final_progress_expert": 0.95,
    "final_progress_random": 0.1,
    "voc_pearson": 0.97,
    "voc_pearson_clock": 0.95,
}


def estimates(values):
    return {name: Estimate(value, value, value, 40) for name, value in values.items()}


def test_a_good_model_is_green():
    verdict = judge_metrics(estimates(GOOD), 100)
    assert verdict.light == "green"
    assert any("Random motion ends at 0.10, an expert at 0.95" in each for each in verdict.sentences)


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("final_progress_random", 0.9),
        ("still_progress_range", 0.5),
        ("success_above_failure", 0.6),
        ("voc_pearson", 0.9),
        ("stall_rise", 0.3),
    ],
)
def test_one_thing_that_it_cannot_do_is_red(metric, value):
    verdict = judge_metrics(estimates(GOOD | {metric: value}), 100)
    assert verdict.light == "red"
    assert sum("MISSED" in each for each in verdict.sentences) == 1


def test_what_is_not_known_is_yellow():
    few = judge_metrics(estimates(GOOD), 12)
    unknown = judge_metrics(estimates(GOOD), 100, unknown_tasks=["fold the towel"], strange_pictures=True)
    without = judge_metrics(estimates({k: v for k, v in GOOD.items() if k != "final_progress_random"}), 100)
    nothing = judge_metrics({}, 100)
    assert [each.light for each in (few, unknown, without, nothing)] == ["yellow"] * 4
    assert "fewer than 30" in few.sentences[-1]
    assert any("'fold the towel'" in each for each in unknown.sentences)
    assert "random motion beside an expert" in without.sentences[-1]


def test_what_cannot_be_measured_keeps_no_limit():
    unmeasured = check("r", float("nan"), at_least=0.0)
    assert not unmeasured.passed
    assert str(unmeasured) == "r could not be measured on these episodes, expected at least 0"
    assert check("r", 0.5, at_least=0.4, at_most=0.6).expected == "at least 0.4 and at most 0.6"


def test_a_gate_is_read_before_anything_is_scored(tmp_path):
    gate = tmp_path / "gate.json"
    gate.write_text(json.dumps({"stall_rise": {"at_most": 0.1}}))
    assert read_gate(gate) == {"stall_rise": {"at_most": 0.1}}
    gate.write_text("{oops")
    with pytest.raises(ValueError, match=r"gate\.json states no limits: it is not valid JSON"):
        read_gate(gate)
    for wrong in ({}, {"stall_rise": {"below": 1}}, {"stall_rise": {}}, {"stall_rise": {"at_most": "x"}}, [1]):
        gate.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"gate\.json"):
            read_gate(gate)
