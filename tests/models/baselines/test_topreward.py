"""TOPReward against recordings of the reference's wrapper, and against transformers' own forward."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from robometer_rl import load_reward_model
from robometer_rl.cli import main
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.frames import Clip, TaskError
from robometer_rl.models.baselines.scored_token import last_token_log_probabilities
from robometer_rl.models.baselines.topreward import Settings, Shown, TOPReward, curve, prefix_lengths
from robometer_rl.models.baselines.vlm import Film, LocalVLM, Video, pair_seconds
from robometer_rl.models.reward_model import UnsupportedByModelError
from robometer_rl.models.robometer.config import CheckpointError
from robometer_rl.models.robometer.patches import resize_frame
from robometer_rl.wrappers import RobometerReward
from tests.data.episodes import make_episodes_of_two_tasks
from tests.models.baselines.tiny_vlm import recorded_clips, recording, tiny_vlm
from tests.relabeling.episodes import record, write_npz
from tests.wrappers.worlds import BrightnessWorld

RECORDED = recording("topreward")
CURVES = recording("parsing")
CLIPS = recorded_clips()
TASK = "open the drawer"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlm(tmp_path_factory.mktemp("vlm") / "tiny")


@pytest.fixture(scope="module")
def vlm(checkpoint: Path) -> LocalVLM:
    return LocalVLM.load(checkpoint)


def name_of(case: dict) -> str:
    return "-".join(str(case[key]) for key in ("clip", "add_chat_template") if key in case)


@pytest.mark.parametrize("case", RECORDED["no_frames_dropped"], ids=name_of)
def test_a_token_is_as_likely_as_recorded(case: dict, vlm: LocalVLM) -> None:
    frames = np.stack([resize_frame(frame, 224, 224) for frame in CLIPS[case["clip"]]])
    # A single frame was recorded as two, half a second apart.
    film = Film(vlm.frame_pairs(frames), pair_seconds([number / 2 for number in range(max(len(frames), 2))]))
    text = vlm.chat([Video(frames, ()), case["text_after_video"]]) + "True"
    prompt = vlm.prompt(text, [film])
    assert prompt.ids.tolist() == case["input_ids"]
    (found,) = last_token_log_probabilities(vlm, [prompt])
    assert found == pytest.approx(case["log_prob_of_last_token"], abs=1e-4)


@pytest.mark.parametrize("case", RECORDED["runs"], ids=name_of)
def test_the_reference_is_met(case: dict, vlm: LocalVLM) -> None:
    settings = Settings("reference", case["add_chat_template"], prefixes=case["num_prefix_samples"])
    model = TOPReward(vlm, "tiny", settings)
    frames, lengths = CLIPS[case["clip"]], [each["length"] for each in case["prefixes"]]
    assert prefix_lengths(len(frames), 15, "reference") == lengths
    found = model.log_probabilities(frames, case["task"], lengths)
    np.testing.assert_allclose(found, [each["log_prob"] for each in case["prefixes"]], rtol=0, atol=1e-4)
    (said,) = model.predict([Clip(frames, case["task"])])
    np.testing.assert_allclose(said.progress, case["progress"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("case", CURVES["topreward_curve"], ids=lambda case: str(case["frames"]))
def test_curves_are_those_of_the_reference(case: dict) -> None:
    said = {int(length): value for length, value in case["log_probs_by_prefix_length"].items()}
    shown = len(case["progress"])
    lengths = prefix_lengths(shown, case["num_prefix_samples"], "reference")
    assert lengths == list(said)
    found = curve(lengths, np.array(list(said.values())), shown, "reference")
    np.testing.assert_allclose(found, case["progress"], rtol=0, atol=1e-9)


def test_where_nothing_is_likelier_nothing_has_come_about() -> None:
    assert curve([1], np.array([-3.0]), 1, "reference").tolist() == [1.0]
    assert curve([1], np.array([-3.0]), 1, "authors").tolist() == [0.0]


def test_prefixes_share_a_pass_and_are_worth_what_each_is_alone(vlm: LocalVLM) -> None:
    model = TOPReward(vlm, "tiny")
    lengths = [1, 2, 5, 8, 11]
    together = model.log_probabilities(CLIPS["twelve"], TASK, lengths)
    alone = [model.log_probabilities(CLIPS["twelve"], TASK, [length])[0] for length in lengths]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    for (prompt,), value in zip(
        (model._prompts(CLIPS["twelve"], np.arange(12) / 2, model.text(TASK), [n]) for n in lengths),
        together,
        strict=True,
    ):
        with torch.inference_mode():
            logits = vlm.network(**vlm.inputs([prompt])).logits[0, -2]
        assert float(logits.log_softmax(0)[prompt.ids[-1]]) == pytest.approx(value, abs=1e-4)


def test_every_frame_is_shown_at_its_own_time(vlm: LocalVLM) -> None:
    model = TOPReward(vlm, "tiny")
    tenths = np.arange(12) / 10
    assert model.shown(tenths) == Shown([0, 5, 10], [0.0, 0.5, 1.0])
    assert model.shown(tenths[:5]).frames == [0]
    assert model.shown(tenths[:3] * 30).seconds == [0.0, 3.0, 6.0]
    reference = TOPReward(vlm, "tiny", Settings("reference"))
    for case in RECORDED["frames_that_reach_the_model_with_default_processor"]:
        shown = reference.shown(np.arange(case["frames_given"]) * 1.0)
        pairs = [frame for pair in case["frames_seen"] for frame in pair]
        assert pairs[: len(shown.frames)] == shown.frames
        assert [f"{each:.1f}" for each in pair_seconds(shown.seconds)] == case["timestamps"]


def test_a_probability_is_known_before_the_clip_has_ended(checkpoint: Path) -> None:
    model = load_reward_model(f"topreward:{checkpoint}?value=probability")
    clip = Clip(CLIPS["five"], TASK)
    (said,) = model.predict([clip])
    stream = model.stream([TASK])
    live = np.concatenate([stream.append([frame]).progress for frame in clip.read()])
    np.testing.assert_allclose(live, said.progress, rtol=1e-4)
    (dense,) = model.predict_steps([clip])
    np.testing.assert_allclose(dense.progress, said.progress, rtol=1e-4)


def test_what_it_cannot_say_is_refused_in_a_sentence(checkpoint: Path, vlm: LocalVLM) -> None:
    model = TOPReward(vlm, "tiny")
    with pytest.raises(UnsupportedByModelError, match="while an agent acts needs scores before an episode has ended"):
        RobometerReward(BrightnessWorld(), model, task=TASK)
    with pytest.raises(UnsupportedByModelError, match="needs success probabilities"):
        model.require("calibration", success=True)
    with pytest.raises(UnsupportedByModelError, match="does not compare"):
        model.compare([(Clip(CLIPS["one"], TASK), Clip(CLIPS["two"], TASK))])
    with pytest.raises(TaskError, match="reserves"):
        model.predict([Clip(CLIPS["one"], "open <|video_pad|>")])
    with pytest.raises(ValueError, match="rule must be one of authors, reference; got 'mine'"):
        load_reward_model(f"topreward:{checkpoint}", rule="mine")


def test_options_are_part_of_the_name(checkpoint: Path) -> None:
    name = f"topreward:{checkpoint}"
    written = load_reward_model(f"{name}?rule=reference&prefixes=4")
    given = load_reward_model(name, rule="reference", prefixes=4)
    assert written.source == given.source == f"{name}?rule=reference&prefixes=4"
    assert written.record == given.record
    assert written.record["prefixes"] == 4
    assert len(written.record["prompt_sha256"]) == 64
    assert load_reward_model(name).record["prompt_sha256"] != written.record["prompt_sha256"]


def test_other_and_incomplete_checkpoints_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    other = tiny_vlm(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="holds a 'bert'; expected one of qwen3_vl, qwen2_5_vl"):
        LocalVLM.load(other)
    config["text_config"]["num_hidden_layers"] = 4
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"has no weights for model\.language_model\.layers\.3"):
        LocalVLM.load(other)


def test_it_scores_relabels_and_is_evaluated(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"topreward:{checkpoint}?prefixes=3"
    np.savez("clip.npz", frames=CLIPS["five"])
    assert main(["score", "clip.npz", "--task", TASK, "--model", name, "--out", "scores"]) == 0
    write_npz(tmp_path / "data", {"0": record(5, 0), "1": record(3, 1)})
    assert main(["relabel", "data", "--model", name, "--output", "labelled"]) == 0
    progress = np.load("labelled/0.npz")["robometer/progress"]
    assert (progress.min(), progress.max()) == (0.0, 1.0)
    (metadata,) = Path("labelled").glob("*.json")
    assert "prompt_sha256" in metadata.read_text()
    store = TrajectoryStore(Path("store"))
    for episode in make_episodes_of_two_tasks(1):
        store.append(episode)
    words = ["evaluate", name, "store", "--split", "train", "test", "--every", "4", "--output", "found.json"]
    assert main(words) == 0
    found = json.loads(Path("found.json").read_text())
    assert found["record"]["prefixes"] == 3
    assert "voc_pearson" in found["metrics"]
