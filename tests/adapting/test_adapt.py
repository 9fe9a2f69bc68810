"""The command from end to end, with a small image network and few steps."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from robometer_rl import Clip, load_reward_model
from robometer_rl.adapting import learning
from robometer_rl.adapting.adapt import adapt
from robometer_rl.adapting.compact import _fit_familiarity, _Lessons
from robometer_rl.adapting.config import AdaptConfig
from robometer_rl.adapting.examples import make_examples
from robometer_rl.adapting.features import to_rows
from robometer_rl.adapting.learning import Lesson
from robometer_rl.cli import main
from robometer_rl.data.trajectory import TrajectoryError
from robometer_rl.evaluation.calibrate import CalibrateConfig, run_calibrate
from robometer_rl.models.compact.checkpoint import CompactCheckpoint, CompactConfig
from robometer_rl.models.compact.familiarity import pooled
from robometer_rl.models.compact.inference import CompactModel
from robometer_rl.models.reward_model import UnsupportedByModelError
from robometer_rl.wrappers import RobometerReward
from tests.adapting.recordings import SIZE, TASK, recording, recordings, store_of, tower
from tests.relabeling.episodes import record, write_npz
from tests.wrappers.worlds import BrightnessWorld


def config(folder: Path, **fields: object) -> AdaptConfig:
    given = {"store": folder / "store", "output": folder / "run", "steps": 40, "minutes": 60.0, "device": "cpu"}
    return AdaptConfig(**{**given, **fields})  # pyright: ignore[reportArgumentType]


def test_from_recordings_to_a_model_that_every_command_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(tmp_path / "store", [*recordings(), recording("expert", 999, split="test")])
    verdict = adapt(config(tmp_path), tower())
    run = tmp_path / "run"
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint", "page", "verdict.json"]
    written = json.loads((run / "verdict.json").read_text())
    assert (written["verdict"]["verdict"], written["steps"]) == (verdict.headline, 40)
    page = (run / "page" / "index.html").read_text()
    assert verdict.headline in page
    assert (run / "page" / "progress.png").is_file()
    assert len(list((run / "page").glob("*.mp4"))) == verdict.held_out == page.count("<section class='replay'")
    printed = capsys.readouterr().out
    assert f"verdict: {verdict.headline}" in printed
    assert f"--continue {run}" in printed.replace("\n", "")

    model = load_reward_model(run / "checkpoint")
    assert isinstance(model, CompactModel)
    assert model.model_id == "run"
    assert model.success_threshold == (None if verdict.threshold is None else round(verdict.threshold, 4))
    env = RobometerReward(BrightnessWorld(), str(run / "checkpoint"), task=TASK)
    env.reset()
    assert 0.0 <= env.step(0)[4]["robometer/progress"] <= 1.0
    monkeypatch.chdir(tmp_path)
    np.savez("clip.npz", frames=recording("half", 5).frames[:])
    assert main(["score", "clip.npz", "--task", TASK, "--model", "run/checkpoint", "--out", "scores"]) == 0
    write_npz(tmp_path / "data", {"1": record(4, 1)})
    assert main(["relabel", "data", "--task", TASK, "--model", "run/checkpoint", "--output", "labelled"]) == 0
    assert np.isfinite(np.load(tmp_path / "labelled" / "1.npz")["robometer/progress"]).all()
    assert main(["evaluate", "run/checkpoint", str(store), "--split", "train", "--output", "found.json"]) == 0
    assert "preference_accuracy_mean" in json.loads(Path("found.json").read_text())["metrics"]
    capsys.readouterr()
    assert main(["publish", "run/checkpoint", "me/pusher", "--dry-run"]) == 0
    card = capsys.readouterr().out
    assert f"## Verdict: {verdict.headline}" in card
    assert "| expert | " in card
    assert 'load_reward_model("compact:me/pusher")' in card


def test_flagged_episodes_are_not_learned_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store_of(tmp_path / "store", recordings())
    flags = tmp_path / "flags.jsonl"
    flags.write_text(json.dumps({"data": "store", "episode": "expert-0", "flagged": True}) + "\n")
    adapt(config(tmp_path, exclude=flags, steps=1), tower())
    written = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert written["data"]["left out"] == "1 flagged episodes"
    assert "expert-0" not in [*written["episodes"]["training"], *written["episodes"]["held_out"]]
    printed = capsys.readouterr().out.replace("\n", "")
    assert "1 flagged episodes left out" in printed
    assert f"--exclude {flags}" in printed, "the next command leaves them out again"


def test_it_goes_on_with_what_the_store_has_gained(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", recordings(6))
    adapt(config(tmp_path), tower())
    looked_at = {path.name for path in (store / "features").iterdir()}
    store_of(store, [recording(kind, 500 + n) for kind in ("expert", "half", "random") for n in range(6)])
    with pytest.raises(ValueError, match=r"holds a model already; choose another output, or go on from it with"):
        adapt(config(tmp_path), tower())
    adapt(config(tmp_path, output=tmp_path / "second", continued=tmp_path / "run"))
    assert json.loads((tmp_path / "second" / "verdict.json").read_text())["steps"] == 40
    assert looked_at < {path.name for path in (store / "features").iterdir()}
    one, two = (load_reward_model(tmp_path / name / "checkpoint") for name in ("run", "second"))
    clip = Clip(recording("half", 5).frames, TASK)
    assert not np.allclose(one.predict([clip])[0].progress, two.predict([clip])[0].progress, atol=1e-6)
    first, second = (
        json.loads((tmp_path / name / "verdict.json").read_text())["episodes"] for name in ("run", "second")
    )
    assert set(first["training"]).isdisjoint(second["held_out"])
    assert set(first["held_out"]) < set(second["held_out"])
    adapt(config(tmp_path, continued=tmp_path / "run"))  # in place


def test_another_image_network_takes_the_place_of_the_usual_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = Dinov2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, patch_size=56, image_size=224
    )  # fmt: skip
    Dinov2Model(shape).save_pretrained(tmp_path / "dino")
    store_of(tmp_path / "store", recordings(4))
    adapt(config(tmp_path, steps=2, tower=str(tmp_path / "dino")))
    adapt(config(tmp_path, steps=2, continued=tmp_path / "run"))
    model = load_reward_model(tmp_path / "run" / "checkpoint")
    assert isinstance(model, CompactModel)
    assert model.checkpoint.tower.maps == (8, 8, 2)
    assert np.isfinite(model.predict([Clip(recording("half", 5).frames, TASK)])[0].progress).all()
    with pytest.raises(ValueError, match="has its image network; leave out --tower dino"):
        config(tmp_path, tower="dino", continued=tmp_path / "run")


def test_further_stores_are_learned_from_and_a_checkpoint_is_gone_on_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, more = store_of(tmp_path / "store", recordings(6)), tmp_path / "more"
    adapt(config(tmp_path, steps=2), tower())
    store_of(more, [recording("half", 900 + n) for n in range(3)])
    capsys.readouterr()
    adapt(
        config(tmp_path, output=tmp_path / "second", continued=tmp_path / "run" / "checkpoint", also=(more,), steps=2)
    )
    assert f"--also {more}" in capsys.readouterr().out.replace("\n", ""), "the next command learns from it again"
    episodes = json.loads((tmp_path / "second" / "verdict.json").read_text())["episodes"]
    assert {f"half-{900 + n}" for n in range(3)} < {*episodes["training"], *episodes["held_out"]}
    assert (store / "features").is_dir()
    assert not (more / "features").exists()


def test_a_model_of_tiled_pictures_says_so_and_goes_on_with_such(tmp_path: Path) -> None:
    store_of(tmp_path / "store", [replace(each, metadata={"tiled": True}) for each in recordings(6)])
    adapt(config(tmp_path, steps=2), tower())
    assert load_reward_model(tmp_path / "run" / "checkpoint").tiled
    store_of(tmp_path / "single", recordings(6))
    with pytest.raises(UnsupportedByModelError, match="going on with these recordings shows single views"):
        adapt(config(tmp_path, store=tmp_path / "single", steps=2, continued=tmp_path / "run"))


def test_what_fails_before_it_begins_leaves_nothing_that_refuses_the_next(tmp_path: Path) -> None:
    odd = [replace(each, distance=None, state=np.zeros((len(each), 3 + n % 2))) for n, each in enumerate(recordings(6))]
    store_of(tmp_path / "store", odd)
    with pytest.raises(TrajectoryError, match="expected 3, as in"):
        adapt(config(tmp_path), tower())
    assert not (tmp_path / "run").exists()
    store_of(tmp_path / "sound", recordings(6))
    adapt(config(tmp_path, store=tmp_path / "sound", steps=2), tower())


@pytest.mark.parametrize(
    ("trajectories", "reason"),
    [
        ([recording("expert", n) for n in range(32)], "no episode fails"),
        (recordings(4)[:10], "10 episodes are too few"),
        (
            [replace(each, frames=np.zeros_like(each.frames)) for each in recordings(11)],
            "the pictures show nothing",
        ),
        ([replace(each, seed=3) for each in recordings(11)], "every episode has the seed 3"),
        (
            [replace(each, distance=np.full(len(each), 0.5, np.float32)) for each in recordings(11)],
            "the recorded distance is no measure of progress",
        ),
        (
            [replace(each, distance=None, success=np.full(len(each), each.success[-1])) for each in recordings(11)],
            "in every success the task counts as done in the first frame already",
        ),
        ([replace(each, id=f"{n}") for n, each in enumerate(recordings(2) * 6)], "6 episodes (36 with copies of them)"),
    ],
)
def test_recordings_that_cannot_work_end_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, trajectories, reason: str
) -> None:
    store_of(tmp_path / "store", trajectories)
    with caplog.at_level(logging.WARNING):
        verdict = adapt(config(tmp_path, steps=2), tower())
    assert verdict.headline == "do not use"
    assert verdict.reasons[0].startswith(reason)
    assert any(f"this cannot become usable: {reason}" in message for message in caplog.messages)
    assert not any("nan" in each for each in verdict.reasons)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"verdict: do not use {reason}" in printed
    assert "--continue" not in printed
    assert reason in (tmp_path / "run" / "page" / "index.html").read_text()


def test_outcomes_at_random_are_no_use_either(tmp_path: Path) -> None:
    """Nothing is wrong with these recordings that could be seen before a model is held against others of them."""
    rng = np.random.default_rng(0)
    tossed = [
        replace(each, distance=None, success=np.arange(len(each)) >= (7 if rng.random() < 0.5 else 99))
        for each in (recording("random", n) for n in range(48))
    ]
    store_of(tmp_path / "store", tossed)
    verdict = adapt(config(tmp_path), tower())
    assert verdict.headline == "do not use"
    assert any(reason.startswith("success above failure") for reason in verdict.reasons), verdict.reasons


def test_features_on_disk_may_differ_from_those_of_a_question() -> None:
    """As 16 bits do, in pictures in which little moves."""
    checkpoint = CompactCheckpoint.build(CompactConfig((TASK,), resolution=SIZE), tower())
    examples = make_examples([replace(each, frames=np.asarray(each.frames) // 16 + 100) for each in recordings(2)])
    exact = [checkpoint.tower(torch.from_numpy(np.asarray(each.episode.frames))) for each in examples]
    lessons = [Lesson(each, [to_rows(rows) + np.float16(0.3)]) for each, rows in zip(examples, exact, strict=True)]
    _fit_familiarity(checkpoint, _Lessons(lessons[:4], lessons[4:]), torch.device("cpu"))
    known = torch.cat([checkpoint.familiarity(pooled(each)) for each in exact])
    assert known.max() < 1.0
    other = checkpoint.tower(torch.from_numpy(255 - np.asarray(examples[0].episode.frames)))
    assert checkpoint.familiarity(pooled(other)).min() > 1.0


def test_an_interruption_ends_with_a_verdict_on_the_best_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store_of(tmp_path / "store", recordings(6))
    monkeypatch.setattr(learning, "_JUDGED_EVERY", 2)
    drawn, steps = learning._Batches.loss, iter(range(100))

    def interrupted(self, network):
        if next(steps) == 5:
            raise KeyboardInterrupt
        return drawn(self, network)

    monkeypatch.setattr(learning._Batches, "loss", interrupted)
    adapt(config(tmp_path), tower())
    assert json.loads((tmp_path / "run" / "verdict.json").read_text())["interrupted"] is True
    assert "training was interrupted after 5 of 40 steps" in caplog.text
    load_reward_model(tmp_path / "run" / "checkpoint")


def test_a_threshold_can_be_calibrated_afterwards(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store_of(tmp_path / "store", recordings())
    adapt(config(tmp_path, steps=60), tower())
    name = str(tmp_path / "run" / "checkpoint")
    calibration = CalibrateConfig(
        name, tmp_path / "store", patience=(2,), output=tmp_path / "out", write_checkpoint=True, max_false_alarms=0.9
    )
    rule = run_calibrate(calibration)
    assert load_reward_model(name).success_threshold == pytest.approx(rule.threshold, abs=1e-4)
    episodes = json.loads((tmp_path / "run" / "verdict.json").read_text())["episodes"]
    written = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert written["episodes"] == len(episodes["held_out"]), "what it was trained on is left out"
    assert "will look better than it is" not in caplog.text
    run_calibrate(replace(calibration, split=("train",)))
    assert f"was trained on {len(episodes['training'])} of these 36 episodes: the rule will look better" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"minutes": 0.0}, "minutes is a positive number"),
        ({"minutes": float("nan")}, "minutes is a positive number"),
        ({"steps": 0}, "steps is at least 1"),
        ({"seed": -1}, "seed at least 0"),
    ],
)
def test_options_have_limits(tmp_path: Path, fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **fields)


@pytest.mark.parametrize(("episodes", "steps"), [(10, 400), (100, 800), (1000, 2000)])
def test_steps_are_as_many_as_suit_the_recordings(tmp_path: Path, episodes: int, steps: int) -> None:
    assert config(tmp_path, steps=None).planned_steps(episodes) == steps
    assert config(tmp_path, steps=None, continued=tmp_path).planned_steps(episodes) == steps // 3
    assert config(tmp_path, steps=7, continued=tmp_path).planned_steps(episodes) == 7


def test_a_store_without_episodes_to_train_on_says_what_it_has(tmp_path: Path) -> None:
    store_of(tmp_path / "store", [recording("expert", 1, split="test")])
    with pytest.raises(ValueError, match=r"no episodes of the split 'train'.*\['test'\]"):
        adapt(config(tmp_path), tower())
