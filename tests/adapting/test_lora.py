"""The command with a Robometer to start from: a LoRA of it, by the same steps and with the same verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from robometer_rl import Clip, load_reward_model
from robometer_rl.adapting import lora
from robometer_rl.adapting.adapt import adapt
from robometer_rl.adapting.config import AdaptConfig
from robometer_rl.adapting.examples import make_examples, split_examples
from robometer_rl.adapting.lora import RobometerLearner, sampling_for
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.evaluation.calibrate import CalibrateConfig, _episodes
from robometer_rl.models.robometer.adapters import adapter_of
from robometer_rl.models.robometer.checkpoint import save_checkpoint
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.training.episodes import make_episodes
from robometer_rl.training.sampling import Sampler, SamplingConfig
from robometer_rl.wrappers import RobometerReward
from tests.adapting.recordings import TASK, recording, recordings, store_of
from tests.training.tiny import make_tiny
from tests.wrappers.worlds import BrightnessWorld


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "tiny"
    save_checkpoint(path, make_tiny(max_frames=8))
    return path


def config(folder: Path, **fields: object) -> AdaptConfig:
    given = {"store": folder / "store", "output": folder / "run", "steps": 8, "minutes": 60.0, "device": "cpu"}
    return AdaptConfig(**{**given, **fields})  # pyright: ignore[reportArgumentType]


def test_from_recordings_to_a_model_that_goes_on(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(tmp_path / "store", recordings(5))
    verdict = adapt(config(tmp_path, base=str(base)))
    run = tmp_path / "run"
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint", "page", "verdict.json"]
    written = json.loads((run / "verdict.json").read_text())
    assert (written["verdict"]["verdict"], written["steps"], written["base"]) == (verdict.headline, 8, "tiny")
    assert verdict.headline in (run / "page" / "index.html").read_text()
    assert f"--base {base}" in capsys.readouterr().out.replace("\n", ""), "too few to go on from"

    model = load_reward_model(run / "checkpoint")
    assert isinstance(model, Robometer)
    assert adapter_of(model.network) is not None
    assert model.success_threshold == (None if verdict.threshold is None else round(verdict.threshold, 4))
    env = RobometerReward(BrightnessWorld(), str(run / "checkpoint"), task=TASK)
    env.reset()
    assert 0.0 <= env.step(0)[4]["robometer/progress"] <= 1.0

    kept = written["episodes"]["held_out"]
    assert {each.id for each in _episodes(CalibrateConfig(str(run / "checkpoint"), store))} == set(kept)
    _episodes(CalibrateConfig(str(run / "checkpoint"), store, split=("train",)))
    assert f"was trained on {len(written['episodes']['training'])} of these 15 episodes" in caplog.text

    store_of(store, [recording("half", 900 + n) for n in range(4)])
    adapt(config(tmp_path, output=tmp_path / "second", continued=run))
    second = json.loads((tmp_path / "second" / "verdict.json").read_text())["episodes"]
    assert set(written["episodes"]["training"]).isdisjoint(second["held_out"])
    assert set(kept) <= set(second["held_out"])
    other = load_reward_model(tmp_path / "second" / "checkpoint")
    clip = Clip(recording("half", 5).frames, TASK)
    assert not np.allclose(model.predict([clip])[0].progress, other.predict([clip])[0].progress, atol=1e-7)


def test_an_interruption_keeps_the_best_and_a_failure_leaves_nothing(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    examples = make_examples(recordings(3))
    split = split_examples(examples, 0.2, 0)
    measured = iter([0.5, 0.2, 0.4, 0.3])  # before training, and after 2, 4 and 6 of 8 steps
    weights: list[torch.Tensor] = []

    def measure(judge: object, checkpoint) -> dict[str, float]:
        (name,) = [each for each, _ in checkpoint.network.named_parameters() if "lora_B" in each][:1]
        weights.append(checkpoint.network.get_parameter(name).detach().clone())
        return {"held_out_loss": next(measured, 1.0)}

    def stops_after(step: int):
        def ended(clock, args, state, control, **_):
            before(clock, args, state, control)
            if state.global_step == step:
                raise KeyboardInterrupt

        return ended

    before = lora._Clock.on_step_end
    monkeypatch.setattr(lora._HeldOut, "measure", measure)
    monkeypatch.setattr(lora._Clock, "on_step_end", stops_after(7))
    learner = RobometerLearner(config(tmp_path, base=str(base)))
    learned = learner.learn(split, lora.time.monotonic())
    assert (learned.steps, learned.best_step, learned.loss, learned.interrupted) == (7, 2, 0.2, True)
    assert "training was interrupted after 7 steps" in caplog.text
    (name,) = [each for each, _ in learner.model().network.named_parameters() if "lora_B" in each][:1]
    torch.testing.assert_close(learner.model().network.get_parameter(name), weights[1])
    assert not (tmp_path / "run").exists(), "nothing is saved yet, and what training needed is gone"
    monkeypatch.setattr(lora._Clock, "on_train_begin", stops_after(0))
    with pytest.raises(KeyboardInterrupt):
        RobometerLearner(config(tmp_path, base=str(base))).learn(split, lora.time.monotonic())
    assert not (tmp_path / "run").exists()


def test_training_ends_with_the_time(tmp_path: Path) -> None:
    clock = lora._Clock(100, lora.time.monotonic(), lambda step, part: None)
    clock._began -= 60.0
    state, control = TrainerState(global_step=1), TrainerControl()
    group = {"lr": 1.0, "initial_lr": 2.0}
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    clock.on_step_begin(arguments, state, control, optimizer=SimpleNamespace(param_groups=[group]))
    clock.on_step_end(arguments, state, control)
    assert control.should_training_stop
    assert group["lr"] == pytest.approx(0.0)
    assert clock.steps == 1


def test_labels_are_those_that_the_verdict_goes_by(tmp_path: Path) -> None:
    """With success alone, the second half of what never succeeds is worth nothing, for a LoRA too."""
    examples = make_examples([replace(each, distance=None) for each in recordings(2)])
    episodes = make_episodes([each.episode for each in examples], labels=[each.labels for each in examples])
    failure = next(each for each in episodes if not each.successful)
    assert failure.labels.progress_known[len(failure) // 2 :].all()
    assert not failure.labels.progress[failure.labels.progress_known].any()


def two_tasks() -> list[Trajectory]:
    return [*recordings(2), *(replace(each, id=f"{each.id}-b", task="pull the rope") for each in recordings(2))]


@pytest.mark.parametrize(
    ("trajectories", "clips", "pairs"),
    [
        (recordings(2), {"success", "failure", "rewind", "reverse"}, {"rewind", "reverse", "failure"}),
        ([recording("expert", n) for n in range(3)], {"success", "rewind", "reverse"}, {"rewind", "reverse"}),
        ([recording("half", n) for n in range(3)], {"failure"}, set()),
        (
            two_tasks(),
            {"success", "failure", "rewind", "reverse", "other_task"},
            {"rewind", "reverse", "failure", "other_task"},
        ),
    ],
    ids=["one task", "experts", "failures", "two tasks"],
)
def test_strategies_are_those_that_there_are_episodes_for(
    trajectories: Sequence[Trajectory], clips: set[str], pairs: set[str]
) -> None:
    episodes = make_episodes(trajectories)
    found = sampling_for(episodes, SamplingConfig())
    assert {name for name, weight in vars(found.clips).items() if weight} == clips
    assert not found.pair_fraction or {name for name, weight in vars(found.pairs).items() if weight} == pairs
    assert bool(found.pair_fraction) == bool(pairs)
    Sampler(episodes, found)


def test_what_a_processor_cannot_train_is_refused_before_it_is_fetched(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_of(tmp_path / "store", recordings(2))
    with pytest.raises(ValueError, match=r"there is no GPU to train what the Hub has.*--base mini"):
        adapt(config(tmp_path, base="robometer/Robometer-4B"))
    monkeypatch.setattr(lora, "_LARGE", 1000)
    with pytest.raises(ValueError, match=r"GB of weights, and there is no GPU.*leave out --base"):
        adapt(config(tmp_path, base=str(base)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"continued": Path("run")}, "has its Robometer, if any; leave out --base mini"),
        ({"tower": "dino"}, "image network of its own"),
    ],
)
def test_options_that_exclude_each_other(tmp_path: Path, fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, base="mini", **fields)
