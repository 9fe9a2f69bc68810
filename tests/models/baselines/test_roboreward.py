"""RoboReward against recordings of the reference's wrapper."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robometer_rl import RewardSpec, load_reward_model
from robometer_rl.cli import main
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.frames import Clip
from robometer_rl.models.baselines.roboreward import PROMPT, RoboReward, score_of
from robometer_rl.models.baselines.vlm import LocalVLM
from robometer_rl.models.reward_model import UnreadableAnswerError, UnsupportedByModelError
from robometer_rl.wrappers import RobometerReward
from tests.data.episodes import make_episodes_of_two_tasks
from tests.models.baselines.tiny_vlm import recorded_clips, recording, teach, tiny_vlm
from tests.relabeling.episodes import record, write_npz
from tests.wrappers.worlds import BrightnessWorld

RECORDED = recording("roboreward")
CLIPS = recorded_clips()
TASK = "open the drawer"
DARK, BRIGHT = (np.full((2, 32, 32, 3), level, np.uint8) for level in (0, 255))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlm(tmp_path_factory.mktemp("vlm") / "tiny")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that finds a dark clip worth a 2, and a bright one worth a 4."""
    folder = tiny_vlm(tmp_path_factory.mktemp("vlm") / "taught")
    model = RoboReward(LocalVLM.load(folder), "tiny")
    prompts = [model.vlm.encode(model.question(frames, TASK)) for frames in (DARK, BRIGHT)]
    return teach(folder, prompts, ("ANSWER: 2", "ANSWER: 4"))


def test_the_prompt_is_the_published_one() -> None:
    assert hashlib.sha256(PROMPT.encode()).hexdigest().startswith("85cb4abc519dfb46")


# What the reference makes of texts that say no score, or say it otherwise: a guess, or 1.
GUESSED = {"ANSWER: 7": 1, "ANSWER: 0 maybe 2": 2, "ANSWER: 10": 1, "I think 3 out of 5": 5, "score 5/5, so 4": 4}
GUESSED |= {"ANSWER: 4.5": 4, "": 1, "no idea": 1, "ANSWER:": 1, "Rating 12345": 1, "six": 1, "ANSWER: ４": 4}
GUESSED |= {"ANSWER: -3": 3, "ANSWER: 3/5": 3, "1 2 3": 3, "step2 done": 1, "(4)": 4, "ANSWER: four": 1}
LAST = {"ANSWER: 2 ... ANSWER: 5": 5}


@pytest.mark.parametrize("case", recording("parsing")["roboreward"], ids=lambda case: repr(case["text"]))
def test_answers_are_read_strictly(case: dict) -> None:
    text = case["text"]
    if text in GUESSED:
        assert case["progress"] == (GUESSED[text] - 1) / 4
        assert score_of(text) is None
    else:
        assert score_of(text) == LAST.get(text, case["score"])


@pytest.mark.parametrize("case", RECORDED["frame_sizes"], ids=lambda case: f"{case['height']}x{case['width']}")
def test_frames_are_shown_in_the_recorded_size(case: dict, checkpoint: Path) -> None:
    model = RoboReward(LocalVLM.load(checkpoint), "tiny")
    shown = model.sized(np.zeros((1, case["height"], case["width"], 3), np.uint8))
    assert shown.shape[1:3] == tuple(case["after"][2:])


def as_the_reference_saves(frame: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=85)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("case", RECORDED["runs"], ids=lambda case: case["clip"])
def test_the_question_is_the_recorded_one(case: dict, checkpoint: Path) -> None:
    vlm = LocalVLM.load(checkpoint)
    model = RoboReward(vlm, "tiny")
    frames = np.stack([as_the_reference_saves(frame) for frame in CLIPS[case["clip"]]])
    question = model.question(frames, case["task"])
    prompt = vlm.encode(question)
    assert prompt.ids.tolist() == case["input_ids"]
    ((pairs, rows, columns),) = case["video_grid_thw"]
    assert [picture.grid for picture in prompt.pictures] == [(rows, columns)] * pairs
    pixels = vlm.inputs([prompt])["pixel_values_videos"]
    assert float(pixels.double().abs().sum()) == pytest.approx(case["pixel_values_videos"]["abs_sum"], rel=1e-3)
    assert vlm.answers([question], len(case["generated_ids"])) == [vlm.tokenizer.decode(case["generated_ids"])]


def test_questions_of_several_lengths_are_answered_as_each_alone(taught: Path) -> None:
    model = load_reward_model(f"roboreward:{taught}")
    clips = [Clip(DARK, TASK), Clip(BRIGHT, TASK), Clip(CLIPS["five"], TASK)]
    questions = [model.question(clip.read(), clip.task) for clip in clips]
    together = model.engine.answers(questions, 8)
    assert together == [model.engine.answers([question], 8)[0] for question in questions]
    assert together[:2] == ["ANSWER: 2", "ANSWER: 4"]


def test_each_frame_is_worth_the_score_of_what_led_to_it(taught: Path) -> None:
    model = load_reward_model(f"roboreward:{taught}")
    assert [said.progress[-1] for said in model.predict_last([Clip(DARK, TASK), Clip(BRIGHT, TASK)])] == [0.25, 0.75]
    clip = Clip(CLIPS["five"], TASK)
    (said,) = model.predict([clip])
    stream = model.stream([TASK])
    live = np.concatenate([stream.append([frame]).progress for frame in clip.read()])
    np.testing.assert_array_equal(live, said.progress)
    (dense,) = model.predict_steps([clip], every=2)
    np.testing.assert_array_equal(dense.progress[0], said.progress[0])
    assert (dense.protocol, len(dense), dense.success) == ("nested(32)", 3, None)


def test_it_pays_a_running_agent(taught: Path) -> None:
    env = RobometerReward(BrightnessWorld((0, 255, 0)), f"roboreward:{taught}", task=TASK)
    env.reset()
    steps = [env.step(0) for _ in range(2)]
    seen = [info["robometer/progress"] for *_, info in steps]
    assert steps[1][1] == pytest.approx(seen[1] - seen[0])
    assert set(seen) <= {0.25, 0.75}
    with pytest.raises(UnsupportedByModelError, match="needs success probabilities"):
        RobometerReward(BrightnessWorld(), f"roboreward:{taught}", task=TASK, reward=RewardSpec(mode="success"))


def test_what_cannot_be_read_is_no_score(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load_reward_model(f"roboreward:{checkpoint}")
    model.max_new_tokens = 2  # pyright: ignore[reportAttributeAccessIssue]
    with caplog.at_level(logging.WARNING), pytest.raises(UnreadableAnswerError, match="first of 2 frames cannot be"):
        model.predict([Clip(CLIPS["two"], TASK)])
    assert model.unanswered == 2
    assert "2 of 2 answers cannot be read" in caplog.text
    with pytest.raises(UnsupportedByModelError, match="does not compare"):
        model.compare([])


def test_it_scores_relabels_and_is_evaluated(
    taught: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"roboreward:{taught}"
    np.savez("clip.npz", frames=CLIPS["two"])
    assert main(["score", "clip.npz", "--task", TASK, "--model", name, "--out", "scores"]) == 0
    write_npz(tmp_path / "data", {"0": record(2, 0), "1": record(1, 1)})
    assert main(["relabel", "data", "--model", name, "--output", "labelled"]) == 0
    assert set(np.load("labelled/0.npz")["robometer/progress"].tolist()) <= {0.25, 0.75}
    store = TrajectoryStore(Path("store"))
    for episode in make_episodes_of_two_tasks(1):
        store.append(episode)
    words = ["--split", "train", "test", "--every", "20", "--protocol", "nested(2)", "--output", "found.json"]
    assert main(["evaluate", name, "store", *words]) == 0
    assert json.loads(Path("found.json").read_text())["unanswered"] == 0
    # One that says nothing to be read labels nothing, and says so.
    capsys.readouterr()
    assert main(["relabel", "data", "--model", f"roboreward:{checkpoint}", "--output", "nothing"]) == 2
    assert "the model refuses it: the answer about the first of" in " ".join(capsys.readouterr().err.split())
