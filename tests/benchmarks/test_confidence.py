"""The benchmark of confidence, on episodes made up so that the answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.confidence import Judged, doubts, payments, signs_of_error
from robometer_rl.data.targets import two_hot
from robometer_rl.prediction import Prediction
from tests.data.episodes import make_episode

LENGTH = 12
SURE = two_hot(np.linspace(0.0, 1.0, LENGTH), 11)
UNSURE = np.full((LENGTH, 11), 1 / 11, np.float32)


def judged(skill: str, is_sure: np.ndarray) -> Judged:
    """The truth grows from 0 to 1. The model says it where it is sure, and a shrug elsewhere."""
    episode = make_episode("push", "expert", 0, LENGTH)
    if skill != "expert":
        never = np.zeros(LENGTH, bool)
        episode = replace(episode, skill=skill, success=never, quality_label="failure", id=f"push-{skill}")
    bins = np.where(is_sure[:, None], SURE, UNSURE).astype(np.float32)
    progress = bins @ np.linspace(0.0, 1.0, 11, dtype=np.float32)
    said = Prediction(progress, None, bins, "nested(8)", "shrugging")
    return Judged(episode, said, np.linspace(0.0, 1.0, LENGTH))


def test_doubt_that_goes_with_error_is_a_sign_of_it() -> None:
    middle = np.abs(np.arange(LENGTH) - 5.5) < 2
    signs = signs_of_error([judged("expert", middle), judged("hover", ~middle)], wrong=0.2)
    assert set(signs) == {"standard deviation", "entropy", "80 % interval"}
    # Wrong are the shrugs at both ends; those in the middle are right by chance.
    assert signs["standard deviation"].value > 0.7


def test_every_measure_knows_no_doubt_from_much() -> None:
    for name, values in doubts(judged("expert", np.arange(LENGTH) < 6).said).items():
        assert values[:6].max() < values[6:].min(), name


def test_who_is_paid_for_a_shrug_loses_by_confidence() -> None:
    all_sure, none_sure = np.ones(LENGTH, bool), np.arange(LENGTH) == 0
    episodes = [judged("expert", all_sure), judged("agent_level_1000", none_sure), judged("hover", all_sure)]
    before, after = (payments(episodes, confidence, 0.65) for confidence in (None, 0.8))
    assert set(before) == {"successes", "agents without success", "scripted failures"}
    assert before["agents without success"]["level"].value == pytest.approx(0.5)
    assert before["agents without success"]["delta"].value == pytest.approx(0.5)
    assert after["agents without success"]["level"].value == 0.0
    assert after["agents without success"]["delta"].value == 0.0
    assert after["agents without success"]["believed"].value == 0.0
    assert after["successes"] == before["successes"]
