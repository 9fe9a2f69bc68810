"""docs/adding_a_model.md is followed: a per-frame model in one file is a name like any other."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from robometer_rl import RewardSpec, load_reward_model
from robometer_rl.cli import main
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.models.loading import UnknownModelError
from robometer_rl.models.reward_model import UnsupportedByModelError
from robometer_rl.wrappers import RobometerReward, TaskStages
from tests.data.episodes import make_episodes_of_two_tasks
from tests.library import ROOT
from tests.relabeling.episodes import record, write_npz
from tests.wrappers.worlds import BrightnessWorld

PAGE = (ROOT / "docs" / "adding_a_model.md").read_text()
NAME = "brightness:255"
TASK = "make it bright"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the page, where Python finds it here and in other processes."""
    (code,) = re.findall(r"<!-- the model -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(code.splitlines()) <= 35
    (tmp_path / "brightness.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.delitem(sys.modules, "brightness", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bright_video(path: Path) -> Path:
    np.savez(path, frames=np.stack([np.full((32, 32, 3), level, np.uint8) for level in (0, 51, 102, 255)]))
    return path


def test_it_is_loaded_by_name_with_its_options() -> None:
    model = load_reward_model(NAME)
    assert (model.source, model.model_id, model.has_success, model.causal) == (NAME, "brightness", False, True)
    with pytest.raises(ValueError, match=r"family 'brightness' have no option dtype; they have none"):
        load_reward_model(NAME, dtype="bfloat16")
    with pytest.raises(ValueError, match="have no option device"):
        load_reward_model(NAME, device="meta")


def test_a_robometer_may_be_named_with_its_family() -> None:
    assert load_reward_model("robometer:mini", device="meta").model_id == "robometer-mini"
    with pytest.raises(ValueError, match=r"family 'robometer' have no option colour; they have device, dtype"):
        load_reward_model("mini", colour="red")


def test_names_that_mean_nothing_are_refused(folder: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"unknown family of reward models 'darkness'; expected one of"):
        load_reward_model("darkness:255")
    (folder / "nothing_in_it.py").write_text("")
    with pytest.raises(UnknownModelError, match=r"has no function load\(where\)"):
        load_reward_model("nothing_in_it:255")
    # What the file itself needs and does not find is not a misspelt family.
    (folder / "needs_more.py").write_text("import a_package_that_nobody_has\n")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has"):
        load_reward_model("needs_more:255")


def test_it_pays_an_environment() -> None:
    env = RobometerReward(BrightnessWorld((0, 51, 255)), NAME, task=TASK)
    env.reset()
    _, reward, _, _, info = env.step(0)
    assert reward == pytest.approx(0.2)
    assert info["robometer/progress"] == pytest.approx(0.2)
    assert "robometer/success" not in info
    assert info["robometer/success_detected"] is False
    _, _, terminated, _, info = env.step(0)
    assert terminated
    assert set(info["robometer/episode"]) == {"return", "task_return", "progress", "length"}


@pytest.mark.parametrize(
    "reward",
    [RewardSpec(mode="success"), RewardSpec(success_bonus=1.0), RewardSpec(terminate_on_success=True)],
)
def test_what_it_cannot_say_is_not_paid(reward: RewardSpec) -> None:
    with pytest.raises(UnsupportedByModelError, match=r"the reward RewardSpec\(.*\) needs success prob"):
        RobometerReward(BrightnessWorld(), NAME, task=TASK, reward=reward)


def test_confidence_needs_a_distribution() -> None:
    said = r"^the reward RewardSpec\(confidence=0.8\) needs a distribution over progress, which the model 'brightness' "
    with pytest.raises(UnsupportedByModelError, match=said):
        RobometerReward(BrightnessWorld(), NAME, task=TASK, reward=RewardSpec(confidence=0.8))


def test_stages_need_success() -> None:
    with pytest.raises(UnsupportedByModelError, match="going on to the next stage needs success probabilities"):
        RobometerReward(BrightnessWorld(), NAME, task=TaskStages(("dark", "bright")))


def test_what_looks_at_whole_episodes_cannot_pay_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_reward_model(NAME)
    monkeypatch.setattr(model, "causal", False)
    with pytest.raises(UnsupportedByModelError, match="while an agent acts needs scores before an episode has ended"):
        RobometerReward(BrightnessWorld(), model, task=TASK)


def test_a_recording_is_scored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = bright_video(folder / "clip.npz")
    assert main(["score", str(video), "--task", TASK, "--model", NAME, "--out", "scores"]) == 0
    assert "this model says nothing of success" in capsys.readouterr().out
    assert (folder / "scores" / "prediction.csv").read_text().splitlines()[1:] == [
        "0,,0.000000,,0,",
        "1,,0.200000,,0,",
        "2,,0.400000,,0,",
        "3,,1.000000,,0,",
    ]


def test_a_dataset_is_relabelled_also_by_workers(folder: Path) -> None:
    pytest.importorskip("ray")
    write_npz(folder / "data", {str(steps): record(steps, steps) for steps in (3, 6)})
    words = ["relabel", "data", "--model", NAME, "--report", "--output"]
    assert main([*words, "here"]) == 0
    assert main([*words, "there", "--engine", "ray", "--workers", "1"]) == 0
    for name in ("3.npz", "6.npz"):
        here, there = np.load(folder / "here" / name), np.load(folder / "there" / name)
        np.testing.assert_allclose(there["rewards"], here["rewards"], rtol=0, atol=1e-6)
        assert np.isnan(here["robometer/success"]).all()
        assert not here["robometer/success_detected"].any()
        assert np.isfinite(here["robometer/progress"]).all()
    assert "The model says nothing of success." in (folder / "here-report" / "index.html").read_text()


def test_it_is_evaluated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = TrajectoryStore(folder / "store")
    for episode in make_episodes_of_two_tasks(2):
        store.append(episode)
    assert main(["evaluate", NAME, "store", "--split", "train", "test", "--output", "found.json"]) == 0
    metrics = json.loads((folder / "found.json").read_text())["metrics"]
    assert "voc_pearson" in metrics
    assert [name for name in metrics if name.startswith(("success_auroc", "success_rule", "preference"))] == []
    assert main(["calibrate", NAME, "store", "--split", "train", "test"]) == 2
    refused = "a success rule needs success probabilities, which the model 'brightness' does not give"
    assert refused in " ".join(capsys.readouterr().err.split())
