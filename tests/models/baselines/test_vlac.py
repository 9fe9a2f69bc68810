"""VLAC against recordings of the authors' code, and behind an endpoint."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from robometer_rl import load_reward_model
from robometer_rl.cli import main
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.frames import Clip
from robometer_rl.models.baselines.endpoint import Endpoint
from robometer_rl.models.baselines.vlac import PROMPT, SYSTEM, VLAC, critic_of
from robometer_rl.models.locations import UnknownModelError
from robometer_rl.models.reward_model import UnsupportedByModelError
from tests.data.episodes import make_episodes_of_two_tasks
from tests.models.baselines.servers import Asked, answering
from tests.models.baselines.tiny_vlm import recording
from tests.relabeling.episodes import record, write_npz

PARSED = recording("parsing")
TASK = "make it bright"


def test_the_prompts_are_the_published_ones() -> None:
    hashes = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in (SYSTEM, PROMPT)]
    assert hashes == ["03d4553e3c49b0b6", "c015c49563a43a21"]


@pytest.mark.parametrize("case", PARSED["vlac_value"], ids=lambda case: str(case["critic"]))
def test_changes_add_up_as_the_authors_add_them(case: dict) -> None:
    model = VLAC(Endpoint("nobody@http://127.0.0.1:9/v1"), "nobody")
    expected = np.array(case["value"], float)
    if case["critic"] == [-30, 60]:
        expected = np.array([0.0, 0.0, 60.0])  # nothing is below 0 here
    found = model.accumulated([critic_of(str(each)) for each in case["critic"]])
    np.testing.assert_allclose(100 * found, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("text", "value"),
    [("+35", 0.35), ("-12", -0.12), ("0", 0.0), ("+250", 1.0), ("+8%", 0.08), ("abc", None), ("", None), ("+", None)],
)
def test_answers_are_read_strictly(text: str, value: float | None) -> None:
    assert critic_of(text) == value


def brighter(asked: Asked) -> str:
    """A model that looks at the pictures: progress is brightness, and a change is one of what is left."""
    before, after = (float(picture.mean()) / 255 for picture in asked.pictures)
    return f"{100 * (after - before) / (1 - before):+.0f}"


def of_levels(*levels: float) -> Clip:
    return Clip(np.stack([np.full((24, 32, 3), round(255 * each), np.uint8) for each in levels]), TASK)


def test_neighbours_are_compared(caplog: pytest.LogCaptureFixture) -> None:
    levels = (0.0, 0.2, 0.5, 0.4, 0.9)
    with answering(brighter) as server, caplog.at_level(logging.WARNING):
        model = load_reward_model(f"vlac:VLAC@{server.address}")
        (said,) = model.predict([of_levels(*levels)])
        (dense,) = model.predict_steps([of_levels(*levels)], every=2)
        asked = server.asked[0]
    assert "non-commercial" in caplog.text
    np.testing.assert_allclose(said.progress, levels, atol=0.03)
    np.testing.assert_allclose(dense.progress, levels[::2], atol=0.03)
    system, user = asked.body["messages"]
    assert (system["role"], system["content"]) == ("system", SYSTEM)
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text", "image_url", "text"]
    assert "".join(part.get("text", "<image>") for part in user["content"]) == PROMPT.replace("{TASK}", TASK)
    images = [part["image_url"]["url"] for part in user["content"] if part["type"] == "image_url"]
    assert len(images) == 2


def test_what_it_cannot_say_is_refused_in_a_sentence() -> None:
    with pytest.raises(UnknownModelError, match="unknown model"):
        load_reward_model("vlac:nowhere")
    model = load_reward_model("vlac:VLAC@http://127.0.0.1:9/v1")
    with pytest.raises(UnsupportedByModelError, match="needs scores before an episode has ended"):
        model.require("a reward that is paid while an agent acts", causal=True)
    with pytest.raises(UnsupportedByModelError, match="does not compare"):
        model.compare([])


def test_it_scores_relabels_and_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("clip.npz", frames=of_levels(0.0, 0.5, 0.9).read())
    write_npz(tmp_path / "data", {"0": record(3, 0), "1": record(2, 1)})
    store = TrajectoryStore(Path("store"))
    for episode in make_episodes_of_two_tasks(1):
        store.append(episode)
    with answering(brighter) as server:
        name = f"vlac:VLAC@{server.address}"
        assert main(["score", "clip.npz", "--task", TASK, "--model", name, "--out", "scores"]) == 0
        assert main(["relabel", "data", "--model", name, "--output", "labelled"]) == 0
        words = ["--split", "train", "test", "--every", "20", "--output", "found.json"]
        assert main(["evaluate", name, "store", *words]) == 0
    assert np.load("labelled/0.npz")["robometer/progress"][0] == 0.0
    assert json.loads(Path("found.json").read_text())["record"]["prompt_sha256"]
