"""RL-VLM-F against recorded answers of the reference, and behind an endpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from robometer_rl import load_reward_model
from robometer_rl.cli import main
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.frames import Clip, TaskError
from robometer_rl.models.baselines.rlvlmf import choice_of
from robometer_rl.models.reward_model import UnsupportedByModelError
from tests.data.episodes import make_episodes_of_two_tasks
from tests.models.baselines.servers import Asked, answering
from tests.models.baselines.tiny_vlm import recording
from tests.relabeling.episodes import record, write_npz

TASK = "make it bright"
VALUES = {"A": 1.0, "B": 0.0, "tie": 0.5}

# The reference looks for digits anywhere in the last line, and takes everything else for a tie.
GUESSED = {"Answer: 10", "", "none", "1. first\n2. second\n3. unsure", "Image A", "0.5"}
LAST = {"I say -1 or 0": 1.0}


@pytest.mark.parametrize("case", recording("parsing")["rlvlmf"], ids=lambda case: repr(case["text"])[:30])
def test_answers_are_read_strictly(case: dict) -> None:
    text = case["text"]
    if text in GUESSED:
        assert choice_of(text) is None
    else:
        assert choice_of(text) == LAST.get(text, VALUES[case["gemini"]["answer"]["out"]])


def brighter(asked: Asked) -> str:
    """A model that looks at the pictures, and says what nobody can read of two that are alike."""
    first, second = (picture.mean() for picture in asked.pictures)
    if abs(first - second) < 2:
        return "They look the same to me."
    return f"One is brighter.\n{0 if first > second else 1}"


def grey(level: int) -> Clip:
    return Clip(np.stack([np.full((16, 16, 3), each, np.uint8) for each in (128, level)]), TASK)


def test_the_last_frames_are_compared_in_either_order() -> None:
    with answering(brighter) as server:
        model = load_reward_model(f"rlvlmf:some/vlm@{server.address}")
        pairs = [(grey(200), grey(20)), (grey(20), grey(200)), (grey(90), grey(90))]
        assert model.compare(pairs).tolist() == [1.0, 0.0, 0.5]
        assert model.unanswered == 1
        assert model.compare(pairs, both_orders=True).tolist() == [1.0, 0.0, 0.5]
        assert model.unanswered == 3
        assert TASK in server.asked[0].text


def test_an_order_that_cannot_be_read_is_left_to_the_other() -> None:
    with answering(lambda asked: "0" if asked.pictures[0].mean() > 100 else "no idea") as server:
        model = load_reward_model(f"rlvlmf:some/vlm@{server.address}")
        assert model.compare([(grey(200), grey(20)), (grey(20), grey(200))], both_orders=True).tolist() == [1.0, 0.0]


def test_a_preference_for_a_place_is_averaged_out() -> None:
    with answering(lambda _: "0") as server:
        model = load_reward_model(f"rlvlmf:some/vlm@{server.address}")
        assert model.compare([(grey(200), grey(20))], both_orders=True).tolist() == [0.5]
        with pytest.raises(TaskError, match="a pair has one task"):
            model.compare([(grey(1), Clip(np.zeros((1, 16, 16, 3), np.uint8), "another"))])


def test_it_compares_and_does_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    store = TrajectoryStore(Path("store"))
    for episode in make_episodes_of_two_tasks(1):
        store.append(episode)
    write_npz(tmp_path / "data", {"0": record(2, 0)})
    np.savez("clip.npz", frames=grey(9).read())
    with answering(brighter) as server:
        name = f"rlvlmf:some/vlm@{server.address}"
        assert main(["evaluate", "preference", name, "store", "--no-controls", "--output", "judged"]) == 0
        assert json.loads(Path("judged/evaluation.json").read_text())["record"]["prompt_sha256"]
        for words in (
            ["score", "clip.npz", "--task", TASK, "--model", name],
            ["relabel", "data", "--model", name, "--output", "labelled"],
            ["evaluate", name, "store", "--split", "train", "test"],
        ):
            capsys.readouterr()
            assert main(words) == 2
            assert "needs progress, which the model" in " ".join(capsys.readouterr().err.split())
        with pytest.raises(UnsupportedByModelError, match="compares clips and does not say how far"):
            load_reward_model(name).predict([grey(9)])
