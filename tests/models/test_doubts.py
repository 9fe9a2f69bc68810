from __future__ import annotations

import logging

import pytest

from robometer_rl.models.doubts import FLOOR, FLOOR_EPISODES, Doubts


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


def test_tasks_are_named_as_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Doubts().unknown_task("model", "fry\x1b[2J\nan egg", ["push"])
    assert caplog.messages == [
        "model was not trained on the task 'fry\\\\x1b[2J an egg', and what it says of it means little; it knows 'push'"
    ]
