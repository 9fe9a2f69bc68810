from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from robometer_rl.adapting.examples import Example, make_examples
from robometer_rl.adapting.proposals import propose
from robometer_rl.adapting.success_rule import choose_success_rule
from robometer_rl.adapting.survey import Survey
from robometer_rl.adapting.verdict import Seen, Verdict, ask, false_alarms_among, judge, success_evidence
from robometer_rl.evaluation.calibration import MAX_FALSE_ALARMS
from tests.adapting.recordings import LENGTH, recordings
from tests.models.compact.tiny import tiny_model

SURVEY = Survey({}, (), ())


def right(example: Example, **fields: Any) -> Seen:
    """What a model that is never wrong says."""
    truth = example.labels.progress.astype(np.float64)
    given = {"progress": truth, "success": 0.9 * example.labels.success + 0.05, "alone": np.sqrt(truth), "still": 0.0}
    return Seen(example, **{**given, **fields})


@pytest.fixture
def examples() -> list[Example]:
    return make_examples(recordings(4))


def verdict(seen: list[Seen], survey: Survey = SURVEY) -> Verdict:
    return judge(seen, survey, choose_success_rule(success_evidence(seen)))


def test_a_model_that_is_right_is_usable(examples: list[Example]) -> None:
    found = verdict([right(each) for each in examples])
    assert found.reasons == ()
    assert (found.usable, found.headline, found.held_out) == (True, "usable", 12)
    assert [each.name for each in found.outcomes] == ["expert", "half", "random"]
    expert, half, random = found.outcomes
    assert (expert.final, expert.fires, half.fires, random.fires) == (1.0, 1.0, 0.0, 0.0)
    assert half.final == pytest.approx(half.true_final)
    assert 0.05 < (found.threshold or 0) < 0.95
    assert found.early == 0.0
    rates = {each.name: each.value for each in found.checks}
    assert rates["successes that the success rule sees"] == 1.0
    assert rates["failures that it takes for successes"] == 0.0
    json.dumps(found.as_dict())
    assert len(found.tables()) == 2


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"progress": np.linspace(0, 1, LENGTH)}, "success above failure is 0.500, expected at least 0.9"),
        ({"progress": np.linspace(0, 1, LENGTH)}, "final progress of random motion is 1.00"),
        ({"progress": np.zeros(LENGTH)}, "final progress of successes is 0.00"),
        ({"success": np.linspace(0, 1, LENGTH)}, "success AUROC is"),
        ({"still": 0.4}, "progress that a still picture makes is 0.400, expected at most 0.1"),
        ({"progress": np.full(LENGTH, 0.9)}, "failures paid above their worth"),
    ],
)
def test_what_is_wrong_with_a_model_is_said(examples: list[Example], fields: dict[str, Any], reason: str) -> None:
    found = verdict([right(each, **fields) for each in examples])
    assert not found.usable
    assert found.headline == "do not use"
    assert any(each.startswith(reason) for each in found.reasons), found.reasons


def test_random_motion_that_came_near_may_be_paid_for_that(examples: list[Example]) -> None:
    lucky = {
        each.episode.id: replace(each, labels=replace(each.labels, progress=0.7 * np.ones(LENGTH))) for each in examples
    }
    seen = [right(lucky[each.episode.id] if each.episode.skill == "random" else each) for each in examples]
    assert "final progress of random motion" not in {check.name for check in verdict(seen).checks}
    unmeasured = [replace(each, example=replace(each.example, measured=False)) for each in seen]
    assert any(reason.startswith("final progress of random motion is 0.70") for reason in verdict(unmeasured).reasons)


def test_one_frame_may_not_be_much_better(examples: list[Example]) -> None:
    ripple = 0.3 * (-1.0) ** np.arange(LENGTH)
    worse = [right(each, progress=np.clip(each.labels.progress + ripple, 0, 1)) for each in examples]
    assert any("one frame alone" in reason for reason in verdict(worse).reasons)


def test_recordings_that_can_teach_nothing_decide(examples: list[Example]) -> None:
    found = verdict([right(each) for each in examples], Survey({}, (), ("the pictures show nothing",)))
    assert found.reasons == ("the pictures show nothing",)


def test_what_cannot_be_measured_is_not_enough(examples: list[Example]) -> None:
    experts = [right(each) for each in examples if each.succeeds]
    found = judge(experts, SURVEY, None)
    assert not found.usable
    assert any("success above failure could not be measured" in reason for reason in found.reasons)
    assert judge([], SURVEY, None).usable is False
    assert found.threshold is None


def test_one_false_alarm_among_few_is_chance() -> None:
    assert 1 / 12 < false_alarms_among(12) < 2 / 12
    assert false_alarms_among(1000) == MAX_FALSE_ALARMS


def test_a_model_is_asked_as_rewards_ask_it(examples: list[Example]) -> None:
    model = tiny_model()
    (seen,) = ask(model, examples[:1])
    expected = model.predict_steps([examples[0].episode.clip()])[0]
    np.testing.assert_allclose(seen.progress, expected.progress)
    assert seen.still == pytest.approx(0.0, abs=1e-5)
    assert seen.alone[0] == pytest.approx(float(seen.progress[0]), abs=1e-5)


def test_the_kinds_that_are_paid_most_wrongly_are_proposed(examples: list[Example]) -> None:
    seen = [
        right(each, progress=np.full(LENGTH, 0.6)) if each.episode.skill == "random" else right(each)
        for each in examples
    ]
    spreads = [0.3 if each.episode.skill == "half" else 0.0 for each in examples]
    proposals = propose(seen, spreads, Survey({}, ("record more",), ()))
    assert proposals[0].text == "record more"
    assert proposals[1].text.startswith("10 more like 'random': they end 0.")
    assert all(name.startswith("random-") for name in proposals[1].episodes)
    assert proposals[2].text == "10 more like 'half': it is unsure of them, by 0.30"
    assert len(proposals) == 3
    assert propose([right(each) for each in examples], [0.0] * 12, SURVEY) == []
