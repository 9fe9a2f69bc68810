"""The checkpoint inside the package, on six recorded episodes of goals that it was not trained on.

Each picture of ``tests/fixtures/metaworld`` is one episode, every twelfth simulator step side by side.
"""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robometer_rl import Clip, load_reward_model
from robometer_rl.evaluation.metrics import voc_spearman

FIXTURES = Path(__file__).parents[1] / "fixtures" / "metaworld"
ASSET = Path(str(files("robometer_rl") / "assets" / "robometer-mini"))
EPISODES = json.loads((FIXTURES / "episodes.json").read_text())
TASKS = ("drawer-open", "window-close")


@pytest.fixture(scope="module")
def model():
    return load_reward_model("mini")


@pytest.fixture(scope="module")
def predictions(model):
    return dict(zip(EPISODES, model.predict_steps([_clip(name) for name in EPISODES]), strict=True))


def _clip(name, task=None):
    strip = np.asarray(Image.open(FIXTURES / f"{name}.jpg"))
    frames = np.stack(np.split(strip, EPISODES[name]["frames"], axis=1))
    return Clip(frames, task or EPISODES[name]["task"])


def test_it_is_small_and_says_what_it_is():
    assert sum(file.stat().st_size for file in ASSET.iterdir()) < 25e6
    card = (ASSET / "README.md").read_text()
    for heading in ("Data", "Training", "Results", "Limits", "Licence"):
        assert f"## {heading}" in card


def test_it_states_its_protocol_and_its_calibration(model):
    assert str(model.default_protocol) == "nested(8)"
    assert 0.0 < model.success_threshold < 1.0


@pytest.mark.parametrize("task", TASKS)
def test_progress_rises_with_an_expert_and_most_of_it_at_the_object(predictions, task):
    progress, done = predictions[f"{task}_expert"].progress, EPISODES[f"{task}_expert"]["success_index"]
    assert voc_spearman(progress[: done + 1]) > 0.95
    assert progress[done // 2] < 0.35
    assert progress[done] > 0.85


@pytest.mark.parametrize("task", TASKS)
def test_success_ends_above_half_way_and_half_way_above_random(predictions, task):
    expert, halfway, random = (predictions[f"{task}_{skill}"] for skill in ("expert", "stop_halfway", "random"))
    assert expert.progress[-1] > halfway.progress[-1] + 0.15
    assert halfway.progress[-1] > random.progress[-1] + 0.1


@pytest.mark.parametrize("task", TASKS)
def test_success_is_seen_where_it_is_and_nowhere_else(predictions, model, task):
    expert, halfway, random = (predictions[f"{task}_{skill}"] for skill in ("expert", "stop_halfway", "random"))
    assert expert.success[-1] >= model.success_threshold
    assert max(halfway.success[-1], random.success[-1]) < model.success_threshold


@pytest.mark.parametrize("task", TASKS)
def test_another_task_is_worth_less(predictions, model, task):
    wrong = model.predict_steps([_clip(f"{task}_expert", "press the button from above")])[0]
    assert wrong.progress[-1] < predictions[f"{task}_expert"].progress[-1] - 0.3


@pytest.mark.parametrize("task", TASKS)
def test_the_better_trajectory_is_preferred_in_both_orders(model, task):
    def ending(name):
        clip = _clip(name)
        return Clip(clip.read(model.default_protocol.slots(len(clip) - 1).tolist()), clip.task)

    better, worse = ending(f"{task}_expert"), ending(f"{task}_random")
    assert model.compare([(better, worse)])[0] > 0.5
    assert model.compare([(worse, better)])[0] < 0.5
