from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from robometer_rl.evaluation.scoring import Scoring, score_episodes
from robometer_rl.frames import NestedFrames
from robometer_rl.models.doubts import FLOOR, FLOOR_EPISODES, Doubts
from robometer_rl.wrappers import RobometerReward
from tests.data.episodes import make_episodes_of_two_tasks
from tests.fixed_models import BrightnessModel
from tests.wrappers.worlds import BrightnessWorld


def test_episodes_at_the_floor_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    doubts = Doubts()
    with caplog.at_level(logging.WARNING):
        for _ in range(FLOOR_EPISODES - 1):
            doubts.episode("mini", 0.01)
        doubts.episode("mini", 0.4)  # something was seen
        for _ in range(FLOOR_EPISODES - 1):
            doubts.episode("mini", FLOOR)
        assert caplog.messages == []
        for _ in range(3):
            doubts.episode("mini", 0.0)
    (message,) = caplog.messages
    assert f"mini has seen no progress above 0.05 in {FLOOR_EPISODES} episodes in a row" in message


def test_a_few_strange_pictures_are_nothing(caplog: pytest.LogCaptureFixture) -> None:
    doubts = Doubts()
    with caplog.at_level(logging.WARNING):
        doubts.pictures("model", [2.0, 2.0, 2.0])
        doubts.pictures("model", [0.5] * 5)
        assert caplog.messages == []
        doubts.pictures("model", [3.0] * 3)
        doubts.pictures("model", [3.0] * 9)
    (message,) = caplog.messages
    assert "3.0 times as far" in message


def test_a_camera_that_is_moved_after_a_long_time_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    doubts = Doubts()
    with caplog.at_level(logging.WARNING):
        for _ in range(500):
            doubts.pictures("model", [0.4])
        assert caplog.messages == []
        for _ in range(20):
            doubts.pictures("model", [1.2])
    assert len(caplog.messages) == 1


def test_tasks_are_named_as_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Doubts().unknown_task("model", "fry\x1b[2J\nan egg", ["push"])
    assert caplog.messages == [
        "model was not trained on the task 'fry\\\\x1b[2J an egg', and what it says of it means little; it knows 'push'"
    ]


def test_a_wrapper_counts_the_episodes_that_its_model_pays_nothing_for(caplog: pytest.LogCaptureFixture) -> None:
    env = RobometerReward(BrightnessWorld((0, 5, 0)), BrightnessModel(), task="make it bright")
    with caplog.at_level(logging.WARNING):
        for episode in range(FLOOR_EPISODES + 2):
            assert len(caplog.messages) == (episode >= FLOOR_EPISODES)
            env.reset()
            env.step(0)
            env.step(0)
    bright = RobometerReward(BrightnessWorld((0, 200, 0)), BrightnessModel(), task="make it bright")
    caplog.clear()
    for _ in range(FLOOR_EPISODES + 2):
        bright.reset()
        bright.step(0)
        bright.step(0)
    assert caplog.messages == [], "what counts is the highest progress, not that of the last frame"


def test_an_evaluation_says_that_nothing_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    dark = [
        replace(episode, id=f"{number}", frames=np.zeros_like(episode.frames[:]))
        for number, episode in enumerate(make_episodes_of_two_tasks(3))
    ]
    with caplog.at_level(logging.WARNING):
        score_episodes(BrightnessModel(), dark, Scoring(NestedFrames(4)))
    assert sum("no progress above 0.05 in 10 episodes in a row" in message for message in caplog.messages) == 1
