"""What the published training would need, against what follows from its shape, and small ones against real tensors."""

import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robometer_rl.cli import main
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.models.robometer.checkpoint import load_checkpoint
from robometer_rl.training.bucketing import TokenCounts
from robometer_rl.training.collate import Collator, PixelSource
from robometer_rl.training.config import LoRA, StageConfig
from robometer_rl.training.dry_run import _longest, _same, dry_run
from robometer_rl.training.pipeline import make_sampler, select_trajectories, split_episodes
from robometer_rl.training.recipes import parse_training
from robometer_rl.training.trainer import StageData
from tests.data.episodes import make_episodes_of_two_tasks
from tests.golden import CHECKPOINT, FIXTURES

VOCABULARY = 151_674


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = TrajectoryStore(tmp_path_factory.mktemp("data") / "store")
    for trajectory in make_episodes_of_two_tasks(2):
        store.append(trajectory)
    return store.path


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Settings, tokenizer and preprocessor of a language model of the published shape; no weights."""
    directory = tmp_path_factory.mktemp("published") / "qwen"
    shutil.copytree(FIXTURES / "base_processor", directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        shape = importlib.import_module("gpu_inference").PUBLISHED
    (directory / "config.json").write_text(json.dumps(shape))
    words = json.loads((directory / "tokenizer.json").read_text())
    known = len(words["model"]["vocab"]) + len(words["added_tokens"])
    words["model"]["vocab"] |= {f"filler {number}": number for number in range(known, VOCABULARY - 5)}
    (directory / "tokenizer.json").write_text(json.dumps(words))
    return directory


def _recipe(store, start, *more):
    words = ["rbm-1m", "--data", str(store), "--output", "run", "--start", str(start), "--joint.steps", "4", *more]
    return parse_training([*words, "--joint.batch-size", "2"], "train")


def test_the_published_training_has_the_parameters_of_its_shape(published, store):
    found = dry_run(_recipe(store, published), gpus=(1, 8))
    layer = 2560 * (2 * 4096 + 2 * 1024) + 2 * 128 + 3 * 2560 * 9728 + 2 * 2560
    decoder = VOCABULARY * 2560 + 36 * layer + 2560
    assert found.parameters["language model"] == decoder
    heads = 3 * (2560 * 1280 + 1280 + 2 * 1280) + (10 + 1 + 1) * 1281 + 2560
    assert found.parameters["heads"] == heads
    assert 4.4e9 < sum(found.parameters.values()) < 4.5e9
    assert found.trained == {"language model": decoder, "vision tower": 0, "heads": heads - 2560}
    one, eight = found.uses
    everything, trained = sum(found.parameters.values()), decoder + heads - 2560
    assert (one.weights, one.gradients, one.optimizer) == (4 * everything, 4 * trained, 8 * trained)
    assert (eight.weights, eight.gradients, eight.optimizer) == (everything // 2, trained // 2, trained)
    assert one.activations == eight.activations
    assert eight.copies == 2 * (everything - 36 * layer + 2 * layer) + 6 * (trained - 36 * layer)
    ((rows, length),) = found.rows
    kept = 36 * rows * length * 2560 * 2  # checkpointing keeps the inputs of layers
    widest = 2 * VOCABULARY * 2560  # the gradient of the table of embeddings, before it is added up
    assert kept < eight.activations < kept + 40 * rows * length * 9728 + widest
    assert found.samples == 16


def test_without_checkpointing_more_is_kept(store):
    few = dry_run(_recipe(store, CHECKPOINT)).uses[0].activations
    many = dry_run(_recipe(store, CHECKPOINT, "--joint.no-gradient-checkpointing")).uses[0].activations
    assert many > 1.5 * few


def test_a_lora_trains_little_and_is_not_shared(store):
    config = replace(
        _recipe(store, CHECKPOINT),
        joint=StageConfig(steps=0),
        frozen=StageConfig(steps=1, batch_size=2),
        lora=LoRA(rank=2, targets=("q_proj",)),
        augment=False,
    )
    found = dry_run(config)
    assert found.stage == "frozen"
    assert 0 < found.trained["language model"] < 0.02 * found.parameters["language model"]
    assert replace(found.uses[0], gpus=8) == found.uses[1]
    with pytest.raises(ValueError, match=r"gpus must be numbers of GPUs from 1, got \(0,\)"):
        dry_run(config, gpus=(0,))


def test_the_command_says_it_and_writes_nothing(store, tmp_path, capsys):
    words = ["rbm-1m", "--data", str(store), "--output", str(tmp_path / "run"), "--start", str(CHECKPOINT)]
    assert main(["train", *words, "--joint.batch-size", "2", "--dry-run", "--gpus", "1", "4"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("language model", "4 GPUs", "optimizer", "next, without --dry-run"))
    assert not (tmp_path / "run").exists()


def test_what_is_counted_is_what_tensors_take(store):
    """Memory of saved tensors on the meta device against that of the same tensors with content."""
    config = replace(_recipe(store, CHECKPOINT, "--joint.no-gradient-checkpointing"), bf16=False)
    assert torch.get_default_dtype() == torch.float32
    found = dry_run(config, gpus=(1,))
    kept = _kept_by_a_real_pass(config)
    assert kept < found.uses[0].activations < 3 * kept


def _kept_by_a_real_pass(config):
    """Bytes that the forward pass of the same batch keeps for the backward pass."""
    opened = select_trajectories(config)
    kept, _ = split_episodes(opened.trajectories, config.validation_fraction, config.seed)
    checkpoint = load_checkpoint(CHECKPOINT)
    sampler, _ = make_sampler(config, opened, kept)
    data = StageData(sampler, _same, TokenCounts(checkpoint.processor, kept), 0)
    batch = _longest(config.joint, data, config.seed)
    inputs = Collator(checkpoint.processor, PixelSource(kept, False, 0))(batch)["batch"]
    network = checkpoint.network.train()
    network.model.visual.requires_grad_(False)
    storages = {}
    weights = {each.untyped_storage().data_ptr() for each in network.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = [network(each) for each in (inputs.clips, inputs.pairs) if each is not None]
    assert outputs
    return sum(storages.values())
