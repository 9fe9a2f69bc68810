"""The success rule is chosen by what it does in episodes, and written where a reward reads it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from robometer_rl.cli import main
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.evaluation.calibrate import CalibrateConfig, _episodes
from robometer_rl.evaluation.calibration import calibrate_success, choose_rule, gather_evidence, highest_firing
from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.robometer.checkpoint import write_success_threshold
from robometer_rl.models.robometer.config import CheckpointError
from robometer_rl.prediction import NonFiniteOutputError
from robometer_rl.rewards import RewardSpec, success_holds
from tests.fixed_models import BrightnessModel, BrokenModel

MINI = Path(str(files("robometer_rl") / "assets" / "robometer-mini"))
FOLDER = Path(__file__).parents[1] / "fixtures" / "metaworld"


def episode(name: str, levels: list[int], done: list[int]) -> Trajectory:
    """Frames of given brightness; the success that `BrightnessModel` sees is (level / 255) ** 2."""
    frames = np.stack([np.full((8, 8, 3), level, np.uint8) for level in levels])
    success = np.array(done, np.bool_)
    label = "successful" if success[-1] else "failure"
    return Trajectory(name, "open the drawer", frames, label, "test", success=success)


probabilities = st.integers(0, 20).map(lambda tenth: tenth / 20)


@given(st.lists(st.tuples(probabilities, st.booleans()), min_size=2, max_size=12), st.integers(1, 4), probabilities)
def test_the_rule_fires_where_its_highest_threshold_says(
    frames: list[tuple[float, bool]], patience: int, threshold: float
) -> None:
    success, done = np.array([each[0] for each in frames]), np.array([each[1] for each in frames])
    falsely, rightly = highest_firing(success, done, patience)
    success_detected = success_holds(success, threshold, patience)
    by_then = np.logical_or.accumulate(done)
    assert bool((success_detected & ~by_then).any()) == bool(falsely >= threshold)
    if threshold > 0:
        assert bool((success_detected & by_then).any()) == bool(rightly >= threshold)
    assert np.isnan(rightly) == (not done.any())


def test_the_best_rule_lets_the_fewest_failures_through() -> None:
    successes = [[0.0, 0.1, 0.9, 0.9], [0.0, 0.2, 0.8, 0.8], [0.0, 0.7, 0.1, 0.1], [0.0, 0.3, 0.3, 0.3]]
    done = [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    hasty = choose_rule(gather_evidence(successes, done, patience=1))
    assert hasty.threshold == pytest.approx(0.75)
    assert (hasty.true_positive_rate.value, hasty.false_positive_rate.value) == (1.0, 0.0)
    patient = choose_rule(gather_evidence(successes, done, patience=2))
    assert patient.threshold == pytest.approx(0.55), "one bright frame is not enough for it"
    assert patient.threshold_low <= patient.threshold <= patient.threshold_high
    assert patient.auroc == 1.0


def test_a_rule_that_would_fire_falsely_too_often_gives_up_recall() -> None:
    successes = [*[[0.0, 0.9]] * 2, *[[0.0, 0.6]] * 2, *[[0.0, 0.7]] * 2, *[[0.0, 0.1]] * 8]
    done = [*[[0, 1]] * 4, *[[0, 0]] * 10]
    strict = choose_rule(gather_evidence(successes, done, 1), max_false_alarms=0.1)
    assert strict.threshold == pytest.approx(0.8)
    assert (strict.true_positive_rate.value, strict.false_positive_rate.value) == (0.5, 0.0)
    lenient = choose_rule(gather_evidence(successes, done, 1), max_false_alarms=0.5)
    assert lenient.threshold == pytest.approx(0.35)
    assert (lenient.true_positive_rate.value, lenient.false_positive_rate.value) == (1.0, 0.2)


def test_patience_is_chosen_and_success_between_scored_frames_counts() -> None:
    flashes = [episode(f"flash-{n}", [0, 20, 250, 20, 20], [0, 0, 0, 0, 0]) for n in range(3)]
    reached = [episode(f"done-{n}", [0, 20, 230, 230, 230], [0, 0, 1, 1, 1]) for n in range(3)]
    best, *others = calibrate_success(BrightnessModel(), [*flashes, *reached], patiences=(1, 2, 3))
    assert best.patience == 2
    assert others[0].patience == 3, "as right as 2, and slower"
    late = [episode(f"late-{n}", [0, 20, 20, 230, 230], [0, 0, 0, 1, 1]) for n in range(3)]
    (rule,) = calibrate_success(BrightnessModel(), [*flashes, *late], patiences=(1,), every=4)
    assert (rule.true_positive_rate.value, rule.false_positive_rate.value) == (1.0, 0.0)


@pytest.mark.parametrize("done", [[0, 0], [1, 1]])
def test_one_kind_of_episode_is_not_enough(done: list[int]) -> None:
    with pytest.raises(ValueError, match="between episodes in which the task is done and frames in which it is not"):
        calibrate_success(BrightnessModel(), [episode("a", [0, 100], done)], patiences=(1,))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Real frames of Meta-World, each episode under several names, so that there is something to draw from."""
    store = TrajectoryStore(tmp_path / "store")
    for name, facts in json.loads((FOLDER / "episodes.json").read_text()).items():
        frames = np.stack(np.split(np.asarray(Image.open(FOLDER / f"{name}.jpg")), facts["frames"], axis=1))
        first = facts["success_index"]
        success = np.arange(len(frames)) >= (len(frames) if first is None else first)
        quality = "failure" if first is None else "successful"
        store.append(Trajectory(name, facts["task"], frames, quality, "metaworld", success=success))
    return tmp_path / "store"


def test_the_command_writes_a_reward_and_the_checkpoint(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(MINI, tmp_path / "model")
    before = (model / "model.safetensors").read_bytes()
    start = tmp_path / "start.json"
    start.write_text(RewardSpec(mode="level", every=5).to_json())
    words = ["calibrate", str(model), str(store), "--patience", "1", "3", "--reward", str(start), "--write-checkpoint"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "fires falsely" in shown
    numbers = json.loads((tmp_path / "out" / "calibration.json").read_text())
    spec = RewardSpec.from_json((tmp_path / "out" / "reward.json").read_text())
    assert spec.patience == numbers["chosen"]["patience"] in (1, 3)
    assert spec.success_threshold == pytest.approx(numbers["chosen"]["threshold"], abs=1e-4)
    assert (spec.mode, spec.every) == ("level", 5)
    for_default = next(rule for rule in numbers["rules"] if rule["patience"] == RewardSpec().patience)
    assert load_reward_model(model).success_threshold == pytest.approx(for_default["threshold"], abs=1e-4)
    assert (model / "model.safetensors").read_bytes() == before
    assert Image.open(tmp_path / "out" / "roc.png").width > 400


def test_a_rule_that_sees_too_little_is_not_written(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = TrajectoryStore.open(store)
    for each in list(recorded):  # what looks like success is none as often as it is one
        double = replace(each, id=f"{each.id}-double", frames=each.clip().read(), success=np.zeros(len(each), np.bool_))
        recorded.append(double)
    assert main(["calibrate", "mini", str(store), "--max-false-alarms", "0", "--output", str(tmp_path / "out")]) == 2
    assert "nothing is written" in capsys.readouterr().err
    assert (tmp_path / "out" / "calibration.json").exists()
    assert not (tmp_path / "out" / "reward.json").exists()


def test_episodes_of_the_training_are_passed_over_or_named(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorded = TrajectoryStore.open(store)
    (split,), (source,) = {each.split for each in recorded}, {each.data_source for each in recorded}
    model = tmp_path / "model"
    model.mkdir()
    record = {"start": None, "data": {source: {}}, "options": {"split": split}}
    (model / "training.json").write_text(json.dumps(record))
    config = CalibrateConfig(str(model), store)
    known = {each.id for each in recorded}
    assert {each.id for each in _episodes(config)} == known
    assert f"was trained on {len(known)} of these {len(known)} episodes" in caplog.text
    caplog.clear()
    for each in list(recorded)[:2]:
        recorded.append(replace(each, id=f"{each.id}-new", split="mine", frames=each.clip().read()))
    assert {each.split for each in _episodes(config)} == {"mine"}
    assert {each.split for each in _episodes(replace(config, split=(split,)))} == {split}
    assert "better than it is" in caplog.text


def test_what_cannot_be_written_is_said_before_anything_is_scored(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "mini", str(store), "--write-checkpoint"]) == 2
    assert "'mini' is no local directory" in capsys.readouterr().err
    assert main(["calibrate", "mini", str(store), "--split", "validation"]) == 2
    assert "no episodes of the split validation" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=r"no config\.yaml of its own"):
        write_success_threshold(tmp_path, 0.5)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"protocol": "nested(99999999999)"}, "show at most 1024"),
        ({"every": 0}, "every must be a positive integer"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"max_false_alarms": float("nan")}, "max_false_alarms"),
        ({"output": Path(__file__)}, "output must be a folder"),
    ],
)
def test_options_are_checked_before_hours_of_scoring(tmp_path: Path, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CalibrateConfig("mini", tmp_path, **option)


def test_a_model_that_answers_nan_is_not_calibrated() -> None:
    episodes = [episode("a", [0, 0, 255, 255], [0, 0, 1, 1]), episode("b", [0, 0, 0, 0], [0, 0, 0, 0])]
    with pytest.raises(NonFiniteOutputError, match="broken gave success"):
        calibrate_success(BrokenModel("success", np.nan), episodes)
