"""GVL against recorded answers of the reference, and behind an endpoint."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robometer_rl import load_reward_model
from robometer_rl.cli import main
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.frames import Clip
from robometer_rl.models.baselines.gvl import GVL, completions_of, shown_frames
from robometer_rl.models.reward_model import UnreadableAnswerError, UnsupportedByModelError
from tests.data.episodes import make_episodes_of_two_tasks
from tests.models.baselines.servers import Asked, answering
from tests.models.baselines.tiny_vlm import recording, teach, tiny_vlm
from tests.relabeling.episodes import record, write_npz

PARSED = recording("parsing")
TASK = "make it bright"

# The reference counts these; they are no whole number of a frame, or no number of percent, and it fails at the others.
NOT_TAKEN = {'[{"frame_number": true, "task_completion_percentage": 77}]'}
CLIPPED = {1.3: 1.0, -0.04: 0.0}


@pytest.mark.parametrize("case", PARSED["gvl"]["cases"], ids=lambda case: repr(case["text"])[:40])
def test_answers_say_what_the_reference_reads_but_keep_their_places(case: dict) -> None:
    found = completions_of(case["text"])
    places = PARSED["gvl"]["position_of_frames_1_2_3"]
    in_time = [found[place] for place in places if place in found]
    if case["text"] in NOT_TAKEN:
        assert found == {}
    elif "error" in case["three_frames"]:
        assert set(found) == {2}
    else:
        assert in_time == pytest.approx([CLIPPED.get(value, value) for value in case["three_frames"]["out"]])


@pytest.mark.parametrize(
    "text",
    [
        '[{"frame_number": 1, "task_completion_percentage": NaN}]',
        '[{"frame_number": 1, "task_completion_percentage": 1e999}]',
        '[{"frame_number": 1, "task_completion_percentage": ' + "9" * 400 + "}]",
        "[" * 100_000,
    ],
    ids=["nan", "infinite", "huge", "deep"],
)
def test_numbers_beyond_reason_are_left_out(text: str) -> None:
    assert completions_of(text) == {}


@pytest.mark.parametrize("case", PARSED["gvl_frame_indices"], ids=lambda case: f"{case['frames']}-{case['max_frames']}")
def test_frames_are_chosen_as_the_reference_chooses(case: dict) -> None:
    if case["max_frames"] >= 3:
        assert shown_frames(case["frames"], case["max_frames"]) == case["out"]


def brightness(asked: Asked, only: Callable[[int], bool] = lambda _: True) -> str:
    """A model that looks at the pictures: completion is brightness."""
    _, *shown = asked.pictures
    entries = [
        {"frame_number": number, "task_completion_percentage": round(float(picture.mean()) / 2.55, 1)}
        for number, picture in enumerate(shown, 1)
        if only(number)
    ]
    return f"Here it is:\n```json\n{json.dumps(entries)}\n```"


def ramp(count: int) -> np.ndarray:
    return np.stack([np.full((24, 32, 3), level, np.uint8) for level in np.linspace(0, 255, count).astype(int)])


def test_shuffled_frames_get_their_own_values_back() -> None:
    with answering(brightness) as server:
        model = load_reward_model(f"gvl:some/vlm@{server.address}")
        (said,) = model.predict([Clip(ramp(12), TASK)])
        np.testing.assert_allclose(said.progress, np.linspace(0, 1, 12), atol=0.02)
        (dense,) = model.predict_steps([Clip(ramp(40), TASK)], every=2)
        assert (len(dense), dense.protocol, dense.every) == (21, "given", 2)
        assert dense.progress[-1] == pytest.approx(1.0, abs=0.02)
        assert np.all(np.diff(dense.progress) >= 0)
        first, second = server.asked
    levels = [picture.mean() for picture in first.pictures[1:]]
    assert levels != sorted(levels)
    assert "frame_number" in first.text
    assert f"The task of this robot: {TASK}" in first.text
    assert len(second.pictures) == 1 + 15
    assert (model.dtype, model.revision, model.record["seed"]) == ("unknown", None, 0)


def test_what_is_missing_is_asked_about_once_more(caplog: pytest.LogCaptureFixture) -> None:
    def answer(asked: Asked) -> str:
        again = re.search(r"the pictures ([\d, ]+)", asked.text)
        return brightness(asked, lambda number: number == 2 if again else number not in (2, 4))

    with answering(answer) as server:
        model = GVL(load_reward_model(f"gvl:some/vlm@{server.address}").engine, "here", seed=3)  # pyright: ignore
        with caplog.at_level(logging.WARNING):
            (said,) = model.predict([Clip(ramp(6), TASK)])
        assert "the pictures 2, 4, such as" in server.asked[1].text
        assert len(server.asked) == 2
    assert model.unanswered == 1
    assert "says nothing of 1 of 6 frames" in caplog.text
    (lost,) = np.flatnonzero(np.abs(said.progress - np.linspace(0, 1, 6)) > 0.03)
    assert said.progress[lost] == said.progress[lost - 1]


def test_an_answer_about_nothing_is_refused() -> None:
    with answering(lambda _: "I cannot see any pictures.") as server:
        model = load_reward_model(f"gvl:some/vlm@{server.address}")
        with pytest.raises(UnreadableAnswerError, match=r"says of none of 3 frames .* it answers 'I cannot see"):
            model.predict([Clip(ramp(3), TASK)])
    assert model.unanswered == 3


def test_what_it_cannot_say_is_refused_in_a_sentence() -> None:
    model = load_reward_model("gvl:some/vlm@http://127.0.0.1:9/v1?max_frames=5&seed=2")
    assert model.record["max_frames"] == 5
    with pytest.raises(UnsupportedByModelError, match="needs scores before an episode has ended"):
        model.require("a reward that is paid while an agent acts", causal=True)
    with pytest.raises(ValueError, match="max_frames must be a whole number of at least 3, got 2"):
        load_reward_model("gvl:some/vlm@http://127.0.0.1:9/v1?max_frames=2")


def test_weights_that_are_here_are_asked_likewise(tmp_path: Path) -> None:
    folder = tiny_vlm(tmp_path / "taught")
    model = load_reward_model(f"gvl:{folder}")
    order = np.arange(2)
    prompts = [model.engine.encode(model._question(frames, order, TASK, "them")) for frames in (ramp(2), ramp(2)[::-1])]  # pyright: ignore
    said = [json.dumps([{"frame_number": n, "task_completion_percentage": 40} for n in (1, 2)]), "[]"]
    teach(folder, prompts, (said[0], said[1]))
    taught = load_reward_model(f"gvl:{folder}")
    assert taught.engine.answers([taught._question(ramp(2), order, TASK, "them")], 4) == [said[0]]  # pyright: ignore
    assert taught.dtype == "float32"


def test_it_scores_relabels_and_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("clip.npz", frames=ramp(4))
    write_npz(tmp_path / "data", {"0": record(4, 0), "1": record(2, 1)})
    store = TrajectoryStore(Path("store"))
    for episode in make_episodes_of_two_tasks(1):
        store.append(episode)
    with answering(brightness) as server:
        name = f"gvl:some/vlm@{server.address}"
        assert main(["score", "clip.npz", "--task", TASK, "--model", name, "--out", "scores"]) == 0
        assert main(["relabel", "data", "--model", name, "--output", "labelled"]) == 0
        words = ["--split", "train", "test", "--every", "20", "--output", "found.json"]
        assert main(["evaluate", name, "store", *words]) == 0
    assert np.isfinite(np.load("labelled/0.npz")["robometer/progress"]).all()
    assert json.loads(Path("found.json").read_text())["record"]["max_frames"] == 15
