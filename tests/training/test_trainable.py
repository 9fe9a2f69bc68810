"""LoRA, frozen parts, precision and gradient checkpointing."""

import copy
import json

import numpy as np
import pytest
import torch

from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.robometer.adapters import ADAPTER_CONFIG_FILE, is_adapter_key
from robometer_rl.models.robometer.checkpoint import load_checkpoint, save_checkpoint
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.training.bucketing import TokenCounts
from robometer_rl.training.collate import Collator, PixelSource
from robometer_rl.training.config import LoRA, LossWeights, StageConfig
from robometer_rl.training.episodes import make_episodes
from robometer_rl.training.objective import Objective
from robometer_rl.training.sampling import Sampler, SamplingConfig
from robometer_rl.training.trainable import attach_lora, choose_trainable, training_precision
from robometer_rl.training.trainer import StageData, run_stage, training_arguments
from tests.data.episodes import make_episodes_of_two_tasks
from tests.golden import assert_same_weights
from tests.training.tiny import make_tiny

LORA = LoRA(rank=2, alpha=4, targets=("q_proj", "down_proj"), new_tokens=True)
TOWER = LoRA(rank=2, alpha=4, targets=("qkv",), part="visual")
WEIGHTS = LossWeights(grounding=0.0)


@pytest.fixture(scope="module")
def trajectories():
    return make_episodes_of_two_tasks(2)


@pytest.fixture(scope="module")
def sampler(trajectories):
    return Sampler(make_episodes(trajectories), SamplingConfig(max_frames=4, pair_fraction=0.4))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    directory = tmp_path_factory.mktemp("base")
    checkpoint = make_tiny()
    save_checkpoint(directory, checkpoint)
    return directory


def _data(checkpoint, sampler, trajectories):
    collator = Collator(checkpoint.processor, PixelSource(trajectories, augment=False, seed=0))
    return StageData(sampler, collator, TokenCounts(checkpoint.processor, trajectories), 0)


def _run(checkpoint, data, directory, stage=None, **settings):
    stage = stage or StageConfig(steps=4, batch_size=2, bucket_batches=2, accumulate=2)
    arguments = training_arguments(
        directory,
        stage.steps,
        stage.batch_size,
        1e-2,
        0.0,
        0.0,
        stage.accumulate,
        seed=0,
        use_cpu=True,
        save_steps=2,
        logging_steps=1,
        **settings,
    )
    run_stage(checkpoint, data, stage, WEIGHTS, arguments)


def _adapted(base, lora=LORA, stated=True):
    checkpoint = load_checkpoint(base)
    attach_lora(checkpoint, lora, str(base) if stated else None, seed=0)
    return checkpoint


def _progress(checkpoint, trajectories):
    return Robometer(checkpoint, "here", "here").predict_steps([trajectories[0].clip()])[0].progress


def test_a_new_lora_changes_nothing_and_is_decided_by_its_seed(base, trajectories):
    first, again = _adapted(base), _adapted(base)
    before = _progress(load_checkpoint(base), trajectories)
    np.testing.assert_allclose(_progress(first.network.eval() and first, trajectories), before, atol=1e-6)
    for (name, parameter), other in zip(first.network.named_parameters(), again.network.parameters(), strict=True):
        assert torch.equal(parameter, other), name


@pytest.mark.parametrize("stated", [True, False])
def test_a_trained_lora_loads(base, stated, sampler, trajectories, tmp_path):
    checkpoint = _adapted(base, stated=stated)
    before = {name: parameter.clone() for name, parameter in checkpoint.network.named_parameters()}
    _run(checkpoint, _data(checkpoint, sampler, trajectories), tmp_path / "saves")
    changed = {name for name, value in checkpoint.network.named_parameters() if not torch.equal(value, before[name])}
    assert all(is_adapter_key(name) or "head" in name for name in changed)
    assert {part for part in ("q_proj", "down_proj", "trainable_tokens") if any(part in name for name in changed)} == {
        "q_proj",
        "down_proj",
        "trainable_tokens",
    }
    assert any(name.startswith("preference_head") for name in changed)
    save_checkpoint(tmp_path / "final", checkpoint)
    assert (tmp_path / "final" / ADAPTER_CONFIG_FILE).exists() == stated
    expected = _progress(checkpoint, trajectories)
    for directory in (tmp_path / "final", tmp_path / "saves" / "checkpoint-4"):
        prediction = load_reward_model(directory).predict_steps([trajectories[0].clip()])[0]
        np.testing.assert_allclose(prediction.progress, expected, rtol=0, atol=1e-5)


class _Interrupted(RuntimeError):
    pass


def test_an_interrupted_lora_in_buckets_goes_on_with_the_same_losses(base, sampler, trajectories, tmp_path):
    unbroken = _adapted(base)
    _run(unbroken, _data(unbroken, sampler, trajectories), tmp_path / "a")
    broken, calls = _adapted(base), []
    data = _data(broken, sampler, trajectories)

    def interrupted(samples):
        calls.append(samples)
        if len(calls) > 6:
            raise _Interrupted
        return data.collator(samples)

    with pytest.raises(_Interrupted):
        _run(broken, StageData(sampler, interrupted, data.tokens, 0), tmp_path / "b")
    resumed = _adapted(base)
    _run(resumed, _data(resumed, sampler, trajectories), tmp_path / "b")
    assert _losses(tmp_path / "b") == pytest.approx(_losses(tmp_path / "a"), rel=1e-5)
    for (name, value), other in zip(resumed.network.named_parameters(), unbroken.network.parameters(), strict=True):
        torch.testing.assert_close(value, other, atol=1e-6, rtol=1e-5, msg=name)


def _losses(directory):
    history = json.loads((directory / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history]
    assert len(losses) == 4
    return losses


def test_a_vision_tower_trained_beside_the_lora_is_saved_with_it(base, sampler, trajectories, tmp_path):
    checkpoint = _adapted(base, stated=False)
    before = checkpoint.network.model.visual.patch_embed.proj.weight.clone()
    stage = StageConfig(steps=1, batch_size=2, vision_learning_rate=1e-3)
    _run(checkpoint, _data(checkpoint, sampler, trajectories), tmp_path, stage)
    again = load_checkpoint(tmp_path / "checkpoint-1")
    assert not torch.equal(again.network.model.visual.patch_embed.proj.weight, before)
    assert_same_weights(again, checkpoint)


@pytest.mark.parametrize(
    ("lora", "vision", "trained"),
    [
        (None, True, {"language_model", "visual", "heads"}),
        (None, False, {"language_model", "heads"}),
        (LORA, False, {"language_model adapter", "heads"}),
        (LORA, True, {"language_model adapter", "visual", "heads"}),
        (TOWER, True, {"visual adapter", "heads"}),
        (TOWER, False, {"heads"}),
    ],
)
def test_what_is_trained(base, lora, vision, trained):
    checkpoint = load_checkpoint(base) if lora is None else _adapted(base, lora)
    choose_trainable(checkpoint.network, vision, preference=True)
    names = [name for name, parameter in checkpoint.network.named_parameters() if parameter.requires_grad]

    def part(name):
        place = name.split(".")[1] if name.startswith("model.") else "heads"
        return f"{place} adapter" if is_adapter_key(name) else place

    assert {part(name) for name in names} == trained
    assert "frame_pool_attn.weight" not in names
    choose_trainable(checkpoint.network, vision, preference=False)
    assert not any(parameter.requires_grad for parameter in checkpoint.network.preference_head.parameters())


def test_an_adapted_start_takes_no_second_adapter(base):
    checkpoint = _adapted(base)
    with pytest.raises(ValueError, match="has an adapter"):
        attach_lora(checkpoint, LORA, None, seed=0)


def test_the_backbone_beside_a_lora_stays_in_half_precision(base):
    checkpoint = load_checkpoint(base, dtype=torch.bfloat16)
    attach_lora(checkpoint, LORA, None, seed=0)
    choose_trainable(checkpoint.network, vision=False, preference=True)
    network = checkpoint.network
    with training_precision(network, half=True):
        assert network.progress_head[0].weight.dtype == torch.float32
        assert all(p.dtype == torch.float32 for p in network.parameters() if p.requires_grad)
        assert network.model.language_model.layers[0].self_attn.k_proj.weight.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    with training_precision(network, half=False):
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert network.model.language_model.rotary_emb.inv_freq.dtype == torch.float32


def test_half_precision_trains_and_what_is_saved_loads(base, sampler, trajectories, tmp_path):
    checkpoint = load_checkpoint(base, dtype=torch.bfloat16)
    save_checkpoint(tmp_path / "half", checkpoint)
    adapted = _adapted(tmp_path / "half")
    stage = StageConfig(steps=2, batch_size=2)
    _run(adapted, _data(adapted, sampler, trajectories), tmp_path / "saves", stage, bf16=True)
    save_checkpoint(tmp_path / "final", adapted)
    model = load_reward_model(tmp_path / "final")
    assert model.dtype == "bfloat16"
    expected = _progress(adapted, trajectories)
    assert_same_weights(model.checkpoint, adapted)
    np.testing.assert_allclose(_progress(model.checkpoint, trajectories), expected, rtol=0, atol=0.02)
    # A save made during training holds float32 beside a base in bfloat16.
    during = load_reward_model(tmp_path / "saves" / "checkpoint-2")
    np.testing.assert_allclose(_progress(during.checkpoint, trajectories), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("lora", [None, LORA])
def test_gradient_checkpointing_gives_the_same_loss_and_gradients(base, lora, sampler, trajectories):
    kept = load_checkpoint(base) if lora is None else _adapted(base, lora)
    repeated = copy.deepcopy(kept)
    batch = _data(kept, sampler, trajectories).collator([sampler.sample(0, place) for place in range(5)])["batch"]
    results = []
    for checkpoint in (kept, repeated):
        choose_trainable(checkpoint.network, vision=True, preference=True)
        for module in checkpoint.network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # which draws for all tokens of the last layer or for a few, depending on checkpointing
        if checkpoint is repeated:
            checkpoint.network.model.activation_checkpointing_enable()
        objective = Objective(checkpoint, WEIGHTS).train()
        torch.manual_seed(0)
        loss = objective(batch)["loss"]
        loss.backward()
        gradients = {name: value.grad for name, value in objective.named_parameters() if value.grad is not None}
        results.append((loss, gradients, _saved_bytes(objective, batch)))
    (loss, gradients, memory), (again, same, less) = results
    assert loss.item() == pytest.approx(again.item(), rel=1e-6)
    assert gradients.keys() == same.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, atol=1e-6, rtol=1e-5, msg=name)
    assert less < 0.7 * memory


def _saved_bytes(objective, batch):
    """What a forward pass keeps for the backward pass."""
    sizes = {}

    def note(tensor):
        sizes[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        objective(batch)
    return sum(sizes.values())
