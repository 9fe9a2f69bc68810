"""The published recipe in two processes that share the weights, and saves that another number goes on from."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from robometer_rl.data.store import TrajectoryStore
from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.robometer.checkpoint import load_checkpoint
from robometer_rl.training.pipeline import train
from robometer_rl.training.recipes import parse_training
from robometer_rl.training.sharding import divide_batch
from tests.data.episodes import make_episodes_of_two_tasks
from tests.golden import CHECKPOINT, FIXTURES
from tests.training.sharded_run import Stopped, train_sharded, watched

STEPS = 4


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ((16, 1, 8), 8, (16, 1)),
        ((16, 1, 8), 4, (16, 2)),
        ((16, 1, 8), 1, (16, 8)),
        ((16, 1, 8), 16, (8, 1)),
        ((16, 4, 2), 8, (16, 1)),
        ((6, 1, 2), 3, (4, 1)),
        ((5, 1, 3), 1, (5, 3)),
        ((4, 3, 1), 1, (4, 3)),
    ],
)
def test_the_batch_of_a_step_is_divided_among_other_processes(before, now, expected):
    batch_size, accumulate, began = before
    assert divide_batch(batch_size, accumulate, began, now) == expected
    batch, passes = expected
    assert batch * passes * now == batch_size * accumulate * began


def test_a_batch_that_cannot_be_divided_is_an_error_that_says_what_can():
    with pytest.raises(
        ValueError, match=r"batches of 12 samples, of which 5 processes .*go on with 1, 2, 3, 4, 6 processes"
    ):
        divide_batch(6, 1, 2, 5)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A tiny Qwen3-VL and a store whose split "test" is measured on."""
    directory = tmp_path_factory.mktemp("material")
    shutil.copytree(FIXTURES / "base_processor", directory / "qwen")
    state = {key: tensor for key, tensor in load_file(CHECKPOINT / "model.safetensors").items() if key[:6] == "model."}
    save_file(state, directory / "qwen" / "model.safetensors")
    store = TrajectoryStore(directory / "store")
    for trajectory in make_episodes_of_two_tasks(2):
        store.append(trajectory)
        store.append(replace(trajectory, id=f"{trajectory.id}-unseen", split="test"))
    return directory


def _words(material, output, *more):
    """The published recipe, but for how long and on what."""
    return [
        *("rbm-1m", "--data", str(material / "store"), "--output", str(output), "--start", str(material / "qwen")),
        *("--joint.steps", str(STEPS), "--joint.batch-size", "2", "--joint.learning-rate", "1e-3"),
        *("--save-every", "2", "--log-every", "1", "--selection.every", "2", "--validation-fraction", "0"),
        *more,
    ]


def _train(words, losses, stop_after=None):
    """In this process, which has all weights."""
    with watched(losses, stop_after):
        train(parse_training(words, "train"))


def _losses(file):
    names = ("loss", "grad_norm", "progress", "success", "preference")
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    return {entry["step"]: [entry[name] for name in names] for entry in entries if "loss" in entry}


def _measured(file):
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    return {
        entry["step"]: entry["eval_success_above_failure"] for entry in entries if "eval_success_above_failure" in entry
    }


@pytest.mark.slow
def test_two_processes_begin_and_one_goes_on(material, tmp_path):
    """In float32, so that nothing but the order of additions differs."""
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    _train(_words(material, tmp_path / "alone", "--joint.accumulate", "2", "--no-bf16"), alone)
    words = _words(material, tmp_path / "shared", "--no-bf16")
    assert train_sharded(words, shared, stop_after=3, precision="no") != 0
    assert sorted(_losses(shared)) == [1, 2, 3]
    (save,) = (tmp_path / "shared" / "joint" / "saves").glob("checkpoint-*")
    assert save.name == "checkpoint-2"
    assert load_reward_model(save).predict([make_episodes_of_two_tasks(1)[0].clip()])
    before = _losses(shared)
    _train(words, shared)
    expected = _losses(alone)
    assert sorted(expected) == [1, 2, 3, 4]
    for step, values in (before | _losses(shared)).items():
        assert values == pytest.approx(expected[step], rel=1e-3, abs=1e-5), step
    _assert_alike(tmp_path / "shared" / "checkpoint", tmp_path / "alone" / "checkpoint", 2e-4)
    assert _measured(shared) == _measured(alone)
    assert json.loads((tmp_path / "shared" / "report.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_one_process_begins_and_two_go_on(material, tmp_path):
    """In half precision, as published."""
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    _train(_words(material, tmp_path / "alone", "--joint.accumulate", "2"), alone)
    words = _words(material, tmp_path / "shared", "--joint.accumulate", "2")
    with pytest.raises(Stopped):
        _train(words, shared, stop_after=2)
    assert train_sharded(words, shared) == 0
    several, single = _losses(shared), _losses(alone)
    assert sorted(several) == sorted(single) == [1, 2, 3, 4]
    for step, values in several.items():
        assert values == pytest.approx(single[step], rel=0.05, abs=0.01), step
    _assert_alike(tmp_path / "shared" / "checkpoint", tmp_path / "alone" / "checkpoint", 5e-3)
    kept = sorted(path.name for path in (tmp_path / "shared" / "best").iterdir())
    assert kept == ["joint-000002", "joint-000004"]
    assert load_reward_model(tmp_path / "shared" / "best" / kept[-1])


def _assert_alike(directory, expected, tolerance):
    reference = load_checkpoint(expected).network.state_dict()
    for key, value in load_checkpoint(directory).network.state_dict().items():
        torch.testing.assert_close(value, reference[key], atol=tolerance, rtol=1e-2, msg=key)
