"""Robo-Dopamine's reward model against recordings of the reference's wrapper, and behind an endpoint."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from robometer_rl import load_reward_model
from robometer_rl.cli import main
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.frames import Clip, scored_steps
from robometer_rl.models.baselines.endpoint import Endpoint
from robometer_rl.models.baselines.robodopamine import PROMPT, Incremental, hop_of, question_about
from robometer_rl.models.baselines.vlm import LocalVLM
from robometer_rl.models.reward_model import UnsupportedByModelError
from robometer_rl.models.robometer.config import CheckpointError
from robometer_rl.models.robometer.patches import FramePatcher
from tests.data.episodes import make_episodes_of_two_tasks
from tests.models.baselines.servers import Asked, answering
from tests.models.baselines.tiny_vlm import recording, teach, tiny_vlm
from tests.relabeling.episodes import record, write_npz

RECORDED, PARSED = recording("robodopamine"), recording("parsing")
TASK = "make it bright"


def test_the_prompt_is_the_published_one() -> None:
    assert hashlib.sha256(PROMPT.encode()).hexdigest().startswith("6baabeeecf35c731")


def test_the_question_is_the_recorded_one(tmp_path: Path) -> None:
    vlm = LocalVLM.load(tiny_vlm(tmp_path / "tiny"), min_pixels=12_544, max_pixels=76_800)
    vlm.patcher = FramePatcher(**{**vars(vlm.patcher), "min_pixels": 65_536, "max_pixels": 1 << 24})
    frame = np.zeros((48, 64, 3), np.uint8)
    prompt = vlm.encode(question_about(frame, frame, frame, frame, RECORDED["task"]))
    assert prompt.ids.tolist() == RECORDED["input_ids_tiny_tokenizer"]
    assert [[1, *picture.grid] for picture in prompt.pictures] == RECORDED["image_grid_thw"]


@pytest.mark.parametrize("case", RECORDED["image_sizes"]["cases"], ids=lambda case: f"{case['height']}x{case['width']}")
def test_pictures_have_the_sizes_of_training(case: dict) -> None:
    limits = RECORDED["image_sizes"]
    half = (0.5, 0.5, 0.5)
    patcher = FramePatcher(case["factor"] // 2, 2, half, half, limits["min_pixels"], limits["max_pixels"])
    assert list(patcher.resized(case["height"], case["width"])) == case["out"]


def forward(hops: list[float | None]) -> np.ndarray:
    """What each comparison with the first frame is worth; what cannot be read, as much as the one before."""
    values = [0.0]
    for hop in hops:
        values.append(values[-1] if hop is None else max(hop, 0.0))
    return np.array(values)


# Backward is not offered: it compares with the picture of the goal, which is grey.
CASES = [case for case in PARSED["robodopamine"] if case["mode"] != "backward"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['mode']}-{case['frames']}")
def test_answers_become_the_recorded_progress(case: dict) -> None:
    steps = scored_steps(case["frames"], case["frame_interval"])
    images = case["out"]["images_shown"]
    assert [shown[-1] for shown in images] == steps[1:].tolist()
    is_forward = case["mode"] == "forward"
    assert [shown[2] for shown in images] == ([0] * len(images) if is_forward else steps[:-1].tolist())
    hops = [hop_of(text) for text in case["predictions"]]
    chain = Incremental(Endpoint("nobody@http://127.0.0.1:9/v1"), "nobody")
    found = forward(hops) if is_forward else chain.accumulated(hops)
    expected = np.array(case["out"]["progress"][: len(steps)])
    if is_forward:
        # The reference takes an answer that it cannot read for no progress at all.
        unread = [place for place, hop in enumerate(hops, 1) if hop is None]
        assert not expected[unread].any()
        expected[unread] = found[unread]
    if hops[:1] == [-0.4]:
        expected[2] = 0.5  # nothing was lost that was not there: the reference carries -0.4 along, and says 0.3
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("text", ["", "<score>nan</score>", "<score>inf</score>", "<score>3O%</score>", "no tags 40"])
def test_what_is_no_number_is_not_read(text: str) -> None:
    assert hop_of(text) is None


def test_intervals_are_those_of_the_reference() -> None:
    for case in PARSED["robodopamine_indices"]:
        assert scored_steps(case["frames"], case["interval"]).tolist() == case["out"]


def level(picture: np.ndarray) -> float:
    return float(picture.mean()) / 255


def brighter(asked: Asked) -> str:
    """A model that looks at the pictures: progress is brightness, and a change is relative as in training."""
    before, after = level(asked.pictures[2]), level(asked.pictures[5])
    hop = (after - before) / (1 - before) if after > before else (after - before) / max(before, 1e-6)
    return f"<score>{100 * hop:+.0f}%</score>"


def of_levels(*levels: float) -> Clip:
    return Clip(np.stack([np.full((32, 32, 3), round(255 * each), np.uint8) for each in levels]), TASK)


LEVELS = (0.0, 0.2, 0.5, 0.4, 0.4, 0.9)


@pytest.mark.parametrize("mode", ["incremental", "forward"])
def test_progress_is_put_together_again(mode: str) -> None:
    with answering(brighter) as server:
        model = load_reward_model(f"robodopamine:some/vlm@{server.address}?mode={mode}")
        (said,) = model.predict([of_levels(*LEVELS)])
        (dense,) = model.predict_steps([of_levels(*LEVELS)], every=2)
        first = min(server.asked, key=lambda asked: level(asked.pictures[5]))  # they arrive in any order
    np.testing.assert_allclose(said.progress, LEVELS, atol=0.02)
    np.testing.assert_allclose(dense.progress, [LEVELS[step] for step in (0, 2, 4, 5)], atol=0.02)
    assert [round(level(picture), 1) for picture in first.pictures] == [0.0, 0.5, 0.0, 0.0, 0.0, 0.2, 0.2, 0.2]
    assert first.text.count(f"`{TASK}`") == 2
    assert model.causal == (mode == "forward")


def test_forward_pays_a_running_agent_and_incremental_does_not(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(tmp_path / "goal.png")
    with answering(brighter) as server:
        model = load_reward_model(f"robodopamine:some/vlm@{server.address}", mode="forward", goal=tmp_path / "goal.png")
        stream = model.stream([TASK])
        live = np.concatenate([stream.append([frame]).progress for frame in of_levels(*LEVELS).read()])
        np.testing.assert_allclose(live, LEVELS, atol=0.02)
        assert level(server.asked[0].pictures[1]) == 1.0
        other = load_reward_model(f"robodopamine:some/vlm@{server.address}")
    with pytest.raises(UnsupportedByModelError, match="needs scores before an episode has ended"):
        other.require("a reward that is paid while an agent acts", causal=True)
    with pytest.raises(ValueError, match="mode must be one of incremental, forward; got 'backward'"):
        load_reward_model("robodopamine:some/vlm@http://127.0.0.1:9/v1?mode=backward")


def test_what_cannot_be_read_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def answer(asked: Asked) -> str:
        return "I am not sure." if level(asked.pictures[5]) > 0.8 else brighter(asked)

    with answering(answer) as server, caplog.at_level(logging.WARNING):
        for mode in ("incremental", "forward"):
            model = load_reward_model(f"robodopamine:some/vlm@{server.address}?mode={mode}")
            (said,) = model.predict([of_levels(0.0, 0.5, 0.9, 0.6)])
            assert said.progress[2] == said.progress[1] == pytest.approx(0.5, abs=0.02)
            assert model.unanswered == 1
    assert "1 of 3 answers cannot be read" in caplog.text


def test_weights_that_are_here_are_asked_likewise(tmp_path: Path) -> None:
    folder = tiny_vlm(tmp_path / "taught")
    vlm = load_reward_model(f"robodopamine:{folder}").engine  # pyright: ignore[reportAttributeAccessIssue]
    clip = of_levels(0.0, 1.0)
    dark, bright = clip.read()
    grey = np.full((224, 224, 3), 128, np.uint8)
    prompts = [vlm.encode(question_about(dark, grey, dark, after, TASK)) for after in (bright, dark)]
    teach(folder, prompts, ("<score>+60%</score>", "<score>-10%</score>"))
    model = load_reward_model(f"robodopamine:{folder}")
    (said,) = model.predict([clip])
    assert said.progress.tolist() == pytest.approx([0.0, 0.6])


def test_a_checkpoint_of_the_older_kind_is_asked_likewise(tmp_path: Path) -> None:
    """Qwen2.5-VL, of which the smaller published one is made: other patches, other places in its text."""
    folder = tiny_vlm(tmp_path / "older")
    described = json.loads((folder / "config.json").read_text())
    text = {key: value for key, value in described["text_config"].items() if key not in ("model_type", "rope_scaling")}
    text["rope_scaling"] = {"type": "mrope", "mrope_section": [2, 3, 3]}
    tokens = {key: value for key, value in described.items() if key.endswith("_token_id")}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
    vision |= {"patch_size": 14, "fullatt_block_indexes": [1], "window_size": 112}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens)
    torch.manual_seed(0)
    (folder / "model.safetensors").unlink()
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor | {"patch_size": 14}))
    model = load_reward_model(f"robodopamine:{folder}")
    clip = Clip(np.stack([np.full((60, 80, 3), each, np.uint8) for each in (0, 255)]), TASK)
    dark, bright = clip.read()
    grey = np.full((224, 224, 3), 128, np.uint8)
    prompts = [model.engine.encode(question_about(dark, grey, dark, after, TASK)) for after in (bright, dark)]  # pyright: ignore[reportAttributeAccessIssue]
    assert prompts[0].pictures[0].grid == (112 // 14, 140 // 14)
    teach(folder, prompts, ("<score>+60%</score>", "<score>-10%</score>"))
    (said,) = load_reward_model(f"robodopamine:{folder}").predict([clip])
    assert said.progress.tolist() == pytest.approx([0.0, 0.6])
    with pytest.raises(CheckpointError, match="shows videos to a Qwen3-VL"):
        load_reward_model(f"topreward:{folder}")


def test_it_scores_relabels_and_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("clip.npz", frames=of_levels(*LEVELS).read())
    write_npz(tmp_path / "data", {"0": record(3, 0), "1": record(2, 1)})
    store = TrajectoryStore(Path("store"))
    for episode in make_episodes_of_two_tasks(1):
        store.append(episode)
    with answering(brighter) as server:
        name = f"robodopamine:some/vlm@{server.address}"
        assert main(["score", "clip.npz", "--task", TASK, "--model", name, "--out", "scores"]) == 0
        assert main(["relabel", "data", "--model", f"{name}?mode=forward", "--output", "labelled"]) == 0
        words = ["--split", "train", "test", "--every", "20", "--output", "found.json"]
        assert main(["evaluate", name, "store", *words]) == 0
    assert np.load("labelled/0.npz")["robometer/progress"][0] == 0.0
    assert json.loads(Path("found.json").read_text())["record"]["goal"] == "grey"
