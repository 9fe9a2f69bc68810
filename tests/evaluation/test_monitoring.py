"""A monitor is chosen on some tasks and judged on others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.cli import main
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.evaluation.monitoring import Watched, choose_monitor, judge_monitor, watched
from robometer_rl.monitor import MonitorSpec
from robometer_rl.prediction import Prediction


def says(progress: list[float], done_at: int | None) -> Prediction:
    """A model that is right about success."""
    success = [1.0 if done_at is not None and t >= done_at else 0.0 for t in range(len(progress))]
    return Prediction(progress, success, np.zeros((len(progress), 0)), "given", "example")  # pyright: ignore[reportArgumentType]


def success(task: str, pause: int) -> Watched:
    """Advances by tenths, waits in the middle, and is done at 1."""
    progress = [*np.linspace(0, 0.5, 6), *[0.5] * pause, *np.linspace(0.6, 1, 5), 1.0, 1.0]
    done = np.array(progress) >= 1.0
    return Watched(task, says([float(each) for each in progress], int(np.argmax(done))), done, None)


def failure(task: str, length: int = 30) -> Watched:
    """Advances to a half, and stops."""
    progress = [*np.linspace(0, 0.5, 6), *[0.5] * (length - 6)]
    return Watched(task, says([float(each) for each in progress], None), np.zeros(length, np.bool_), 5)


def test_the_window_is_the_shortest_in_which_successes_gain() -> None:
    tasks = ("a", "b", "c", "d")
    episodes = [each for task in tasks for each in (success(task, 4), success(task, 2), failure(task))]
    found = choose_monitor(episodes, max_false_alarms=0.0)
    # Four frames without gain lie between 0.5 and 0.5; the sixth frame on gains a tenth again.
    assert found.spec.window == 5
    assert found.chosen_on.tasks == ("a", "c")
    assert found.reported_on.tasks == ("b", "d")
    for rates in (found.chosen_on, found.reported_on):
        assert (rates.false_alarms.value, rates.noticed.value, rates.called_done.value) == (0.0, 1.0, 0.0)
        assert rates.delay == found.spec.window
    hasty = judge_monitor(episodes, MonitorSpec(window=3))
    assert hasty.false_alarms.value == 0.5
    assert hasty.delay == 3


def test_a_tolerated_part_of_the_successes_may_wait_longer() -> None:
    episodes = [success(task, 0) for task in ("a", "b") for _ in range(9)]
    episodes += [success("a", 20), success("b", 20)]
    assert choose_monitor(episodes, max_false_alarms=0.0).spec.window == 21
    assert choose_monitor(episodes, max_false_alarms=0.1).spec.window == 2


def test_falling_back_in_successes_is_allowed_for() -> None:
    wobbling = [0.0, 0.3, 0.6, 0.3, 0.6, 0.9, 1.0]
    done = np.array(wobbling) >= 1.0
    episodes = [Watched(task, says(wobbling, 6), done, None) for task in ("a", "b")]
    found = choose_monitor(episodes, MonitorSpec(gain=0.0), max_false_alarms=0.0)
    assert found.reported_on.false_alarms.value == 0.0
    with pytest.raises(ValueError, match="the model does not see them advance"):
        choose_monitor([success("a", 80), success("b", 80)], max_false_alarms=0.0)


def test_both_halves_need_successes() -> None:
    with pytest.raises(ValueError, match="in one half none succeeds"):
        choose_monitor([success("a", 1), failure("b")], max_false_alarms=0.0)
    found = choose_monitor([success("a", 1), success("a", 1), failure("a"), failure("a")], max_false_alarms=0.0)
    assert found.chosen_on.tasks == found.reported_on.tasks == ("a",)


def recording(number: int, task: str, levels: list[int], done: int | None) -> Trajectory:
    """Frames of given brightness, which `BrightnessModel` takes for progress."""
    frames = np.stack([np.full((8, 8, 3), level, np.uint8) for level in levels])
    truth = np.array([done is not None and t >= done for t in range(len(levels))])
    label = "failure" if done is None else "successful"
    measured = np.array(levels, np.float32) / np.float32(255)
    if done is not None:
        measured[done:] = 1.0
    return Trajectory(f"{task[0]}{number}", task, frames, label, "test", success=truth, progress=measured, seed=number)


def test_standing_still_begins_where_measured_progress_stops_to_gain() -> None:
    still = recording(0, "a", [0, 50, 100, 100, 101, 90], None)
    prediction = says([0.0] * 6, None)
    (found,) = watched([still], [prediction], [np.zeros(6, np.bool_)], 1)
    assert found.stopped == 2


def test_the_command_writes_a_monitor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = TrajectoryStore(tmp_path / "store")
    rising, stuck = [0, 40, 80, 120, 160, 200, 240, 255, 255, 255], [0, 40, 80, *[90] * 17]
    for task in ("open the drawer", "close the drawer"):
        for number in range(3):
            store.append(recording(number, task, rising, 7))
            store.append(recording(10 + number, task, stuck, None))
    family = tmp_path / "bright_family.py"
    family.write_text(
        "from tests.fixed_models import BrightnessModel\n\n\ndef load(where):\n    return BrightnessModel()\n"
    )
    output = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        command = ["calibrate", "bright_family:x", str(store.path), "--monitor", "--output", str(output)]
        assert main(command) == 0
    spec = MonitorSpec.from_json((output / "monitor.json").read_text())
    assert spec.window < 6
    numbers = json.loads((output / "monitor_calibration.json").read_text())
    assert numbers["reported_on"]["noticed"]["value"] == 1.0
    shown = capsys.readouterr().out
    assert "noticed" in shown
    assert "others (1)" in shown
