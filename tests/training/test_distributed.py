"""Training in two processes, on CPU through gloo, against training in one with the same global batch."""

import json
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

from robometer_rl.data.store import TrajectoryStore
from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.robometer.checkpoint import load_checkpoint
from robometer_rl.training.config import Selection, StageConfig, TrainConfig, VisionPretraining
from robometer_rl.training.sampling import SamplingConfig
from tests.data.episodes import make_episodes_of_two_tasks
from tests.training.tiny import SHAPE
from tests.training.workers import PROCESSES, SHARDED_LAYERS, launch, losses, sharded_steps, train_stage

CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    directory = tmp_path_factory.mktemp("one")
    train_stage(directory, batch_size=2 * PROCESSES)
    sharded_steps(directory, rank=None)
    return directory


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two")
    store = TrajectoryStore(directory / "store")
    for trajectory in make_episodes_of_two_tasks(4):
        store.append(trajectory)
    config = TrainConfig(
        data=(store.path,),
        output=directory / "run",
        shape=SHAPE,
        pretraining=VisionPretraining(steps=1, batch_size=2),
        frozen=StageConfig(steps=2, batch_size=2),
        sampling=SamplingConfig(max_frames=4),
        selection=Selection(every=1, keep=1, metrics=("success_auroc",)),
        validation_fraction=0.25,
        bf16=False,
    )
    launch(directory, config)
    return directory


def _compare(directory, expected):
    reference = load_checkpoint(expected).network.state_dict()
    for key, value in load_checkpoint(directory).network.state_dict().items():
        torch.testing.assert_close(value, reference[key], atol=2e-4, rtol=1e-3, msg=f"{directory.name}: {key}")


def test_two_processes_have_the_losses_of_one(one, two):
    assert len(losses(one)) == 3
    for step, (several, single) in enumerate(zip(losses(two), losses(one), strict=True)):
        assert several == pytest.approx(single, rel=1e-4, abs=1e-5), step


@pytest.mark.parametrize("name", ["final", "saves/checkpoint-3"])
def test_two_processes_save_what_one_does(one, two, name):
    _compare(two / name, one / name)
    episode = make_episodes_of_two_tasks(1)[0]
    assert len(load_reward_model(two / name).predict_steps([episode.clip()])[0].progress) == len(episode)


def test_all_stages_of_a_run_work_in_two_processes(two):
    assert load_reward_model(two / "run" / "checkpoint")
    assert json.loads((two / "run" / "report.json").read_text())["train_episodes"] == 12
    assert [path.name for path in (two / "run" / "best").iterdir()] in (["frozen-000001"], ["frozen-000002"])


def test_sharded_weights_train_as_whole_ones_do_and_can_be_gathered(one, two):
    several, single = (json.loads((directory / "gathered.json").read_text()) for directory in (two, one))
    assert several == pytest.approx(single, rel=1e-4)
    _compare(two / "gathered", one / "gathered")


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_the_configurations_are_accelerates(name):
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.distributed_type == {"ddp": "MULTI_GPU", "fsdp": "FSDP"}[name]


def test_the_sharded_configuration_fits_the_code():
    settings = load_config_from_file(str(CONFIGS / "fsdp.yaml")).fsdp_config
    named = settings["fsdp_transformer_layer_cls_to_wrap"].split(",")
    assert named == [layer.__name__ for layer in SHARDED_LAYERS], "what the test above shards"
    assert settings["fsdp_version"] == 2
    assert settings["fsdp_state_dict_type"] == "FULL_STATE_DICT", "saves would not be complete checkpoints"
