import json
import math
import multiprocessing
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from robometer_rl.models.loading import load_reward_model
from robometer_rl.training.bucketing import TokenCounts
from robometer_rl.training.collate import Collator, PixelSource
from robometer_rl.training.config import LossWeights, StageConfig
from robometer_rl.training.episodes import make_episodes
from robometer_rl.training.objective import Objective, count_targets
from robometer_rl.training.sampling import Sampler, SamplingConfig
from robometer_rl.training.trainer import (
    DamagedSaveError,
    SampleDataset,
    StageData,
    TrainingDivergedError,
    last_save,
    resumed,
    run_stage,
    training_arguments,
)
from tests.data.episodes import make_episodes_of_two_tasks
from tests.training.tiny import make_tiny

CONFIG = SamplingConfig(max_frames=4, pair_fraction=0.4)


@pytest.fixture(scope="module")
def trajectories():
    return make_episodes_of_two_tasks(2)


@pytest.fixture(scope="module")
def sampler(trajectories):
    return Sampler(make_episodes(trajectories), CONFIG)


@pytest.fixture
def checkpoint():
    return make_tiny()


def _collator(checkpoint, trajectories):
    return Collator(checkpoint.processor, PixelSource(trajectories, augment=False, seed=0))


def _arguments(directory, steps=4, **changes):
    settings = {"batch_size": 4, "learning_rate": 1e-3, "weight_decay": 0.1, "warmup": 0.0} | changes
    return training_arguments(directory, steps, seed=0, use_cpu=True, save_steps=2, logging_steps=1, **settings)


def _run(checkpoint, sampler, collator, directory, stage=None, **changes):
    stage = stage or StageConfig(steps=4, batch_size=4, vision_learning_rate=1e-4)
    data = StageData(sampler, collator, TokenCounts(checkpoint.processor, []), 0)
    run_stage(checkpoint, data, stage, LossWeights(), _arguments(directory, **changes))


def test_the_gradient_of_micro_batches_is_that_of_the_whole_batch(checkpoint, sampler, trajectories):
    collate = _collator(checkpoint, trajectories)
    samples = [sampler.sample(0, index) for index in range(10)]
    whole = collate(samples)["batch"]
    whole.progress_mask[::3] = 0  # different numbers of known frames in each piece
    pieces = [collate(samples[:3])["batch"], collate(samples[3:])["batch"]]
    objective = Objective(checkpoint, LossWeights(), len(sampler.tasks)).eval()
    masks = _mask_alike(whole, pieces, samples)
    assert masks
    objective(whole)["loss"].backward()
    expected = {name: parameter.grad.clone() for name, parameter in _with_gradient(objective)}
    objective.zero_grad()
    counts = count_targets(pieces)
    for piece in pieces:
        objective(piece, num_items_in_batch=counts)["loss"].backward()
    for name, parameter in _with_gradient(objective):
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4, msg=name)


def _with_gradient(objective):
    return [(name, parameter) for name, parameter in objective.named_parameters() if parameter.grad is not None]


def _mask_alike(whole, pieces, samples):
    """Gives the frames of the pieces the masks that they have in the whole batch, where clips come before pairs."""
    clips = [[number for number, sample in enumerate(samples) if hasattr(sample, "indices")], []]
    order = clips[0] + [number for number, sample in enumerate(samples) if not hasattr(sample, "indices")]
    lengths = {
        number: len(sample) if hasattr(sample, "indices") else len(sample.first) + len(sample.second)
        for number, sample in enumerate(samples)
    }
    starts, position = {}, 0
    for number in order:
        starts[number] = position
        position += lengths[number]
    for piece, members in zip(pieces, (range(3), range(3, 10)), strict=True):
        inside = [number for number in order if number in members]
        piece.progress_mask[:] = torch.cat(
            [whole.progress_mask[starts[number] : starts[number] + lengths[number]] for number in inside]
        )
    return position == len(whole.progress_mask)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_stage_in_micro_batches_is_the_stage_in_whole_ones(sampler, trajectories, tmp_path, legacy):
    """Step by step through the Trainer; the reference's losses are means of each pass, and so is their accumulation."""
    curves = []
    for name, batch_size, accumulate in (("whole", 4, 1), ("pieces", 2, 2)):
        checkpoint = make_tiny()
        _without_dropout(checkpoint)
        stage = StageConfig(steps=3, batch_size=batch_size, accumulate=accumulate, vision_learning_rate=1e-4)
        data = StageData(sampler, _collator(checkpoint, trajectories), TokenCounts(checkpoint.processor, []), 0)
        arguments = _arguments(tmp_path / name, steps=3, batch_size=batch_size, accumulate=accumulate)
        run_stage(checkpoint, data, stage, LossWeights(legacy=legacy), arguments)
        history = json.loads((tmp_path / name / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
        curves.append([(entry["loss"], entry["grad_norm"]) for entry in history if "loss" in entry])
    whole, pieces = np.array(curves)
    assert whole.shape == (3, 2)
    same = np.isclose(pieces, whole, rtol=1e-4, atol=1e-5)
    assert not same.all() if legacy else same.all(), (whole, pieces)


def _without_dropout(checkpoint):
    for module in checkpoint.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def test_both_trajectories_of_a_pair_are_supervised(checkpoint, sampler, trajectories):
    pairs = [sample for index in range(20) if not hasattr(sample := sampler.sample(0, index), "indices")]
    batch = _collator(checkpoint, trajectories)(pairs[:1])["batch"]
    objective = Objective(checkpoint, LossWeights(success=0.0, preference=0.0, grounding=0.0)).eval()
    first = len(pairs[0].first)
    batch.progress_mask[:first] = 0
    assert objective(batch)["loss"].item() > 0
    batch.progress_mask[:] = 0
    assert objective(batch)["loss"].item() == 0


def test_training_lowers_the_loss(checkpoint, sampler, trajectories, tmp_path):
    collate = _collator(checkpoint, trajectories)
    fixed = collate([sampler.sample(7, index) for index in range(24)])["batch"]
    objective = Objective(checkpoint, LossWeights(grounding=0.0))
    before = objective.eval()(fixed)["loss"].item()
    stage = StageConfig(steps=30, batch_size=8, vision_learning_rate=3e-3)
    _run(checkpoint, sampler, collate, tmp_path, stage, steps=30, batch_size=8, learning_rate=3e-3)
    assert objective.eval()(fixed)["loss"].item() < before - 0.3


class _Interrupted(RuntimeError):
    pass


def test_an_interrupted_stage_goes_on_as_if_nothing_had_happened(sampler, trajectories, tmp_path):
    unbroken, broken = make_tiny(), make_tiny()
    _run(unbroken, sampler, _collator(unbroken, trajectories), tmp_path / "a")
    collate, batches = _collator(broken, trajectories), []

    def interrupted(samples):
        batches.append(samples)
        if len(batches) > 3:
            raise _Interrupted
        return collate(samples)

    with pytest.raises(_Interrupted):
        _run(broken, sampler, interrupted, tmp_path / "b")
    fresh = make_tiny()
    _run(fresh, sampler, _collator(fresh, trajectories), tmp_path / "b")
    for key, tensor in unbroken.network.state_dict().items():
        torch.testing.assert_close(fresh.network.state_dict()[key], tensor, atol=1e-6, rtol=1e-5, msg=key)


@pytest.fixture(params=sorted({"fork", "spawn"} & {*multiprocessing.get_all_start_methods()}))
def start_method(request):
    """How processes start: anew where there is no fork, and wherever torchrl was imported."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.usefixtures("start_method")
def test_workers_make_the_batches_of_a_process_without_them(sampler, trajectories, tmp_path):
    weights = []
    for workers in (0, 2):
        checkpoint = make_tiny()
        stage = StageConfig(steps=3, batch_size=2, accumulate=2, vision_learning_rate=1e-4, bucket_batches=2)
        data = StageData(
            sampler, _collator(checkpoint, trajectories), TokenCounts(checkpoint.processor, trajectories), 0
        )
        changes = {"batch_size": 2, "accumulate": 2, "dataloader_num_workers": workers}
        run_stage(checkpoint, data, stage, LossWeights(), _arguments(tmp_path / str(workers), steps=3, **changes))
        weights.append(checkpoint.network.state_dict())
    for key, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][key], tensor, atol=1e-6, rtol=1e-5, msg=key)


@pytest.mark.parametrize("file", ["rng_state.pth", "optimizer.pt", "scheduler.pt", "model.safetensors"])
def test_a_damaged_save_is_named(checkpoint, sampler, trajectories, tmp_path, file):
    collate = _collator(checkpoint, trajectories)
    _run(checkpoint, sampler, collate, tmp_path, steps=2)
    damaged = tmp_path / "checkpoint-2" / file
    damaged.write_bytes(b"PK" + damaged.read_bytes()[9:])
    with pytest.raises(DamagedSaveError, match=r"the save .*checkpoint-2 is damaged.*remove it"):
        _run(checkpoint, sampler, collate, tmp_path)


@pytest.mark.parametrize("state", ["{}", '{"global_step": "2"}', '{"step": 2}', "[]", "{"])
def test_a_save_without_a_state_of_its_own_step_is_passed_over(tmp_path, state):
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text('{"global_step": 2}')
    assert last_save(tmp_path) == tmp_path / "checkpoint-2"
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text(state)
    assert last_save(tmp_path) is None


def test_what_stands_in_the_place_of_a_save_is_removed_before_a_stage_goes_on(tmp_path):
    arguments = training_arguments(tmp_path, 2, 1, 1e-3, 0.0, 0.0)
    for step in (1, 2):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-1" / "trainer_state.json").write_text('{"global_step": 1}')
    os.mkfifo(tmp_path / "checkpoint-2" / "trainer_state.json")
    assert resumed(arguments) == str(tmp_path / "checkpoint-1")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]


def test_every_save_is_a_complete_checkpoint(checkpoint, sampler, trajectories, tmp_path):
    _run(checkpoint, sampler, _collator(checkpoint, trajectories), tmp_path)
    saves = list(Path(tmp_path).glob("checkpoint-*"))
    assert [save.name for save in saves] == ["checkpoint-4"]
    model = load_reward_model(saves[0])
    assert model.predict([trajectories[0].clip()])[0].progress.shape == (len(trajectories[0]),)


def test_a_frozen_tower_keeps_its_weights(checkpoint, sampler, trajectories, tmp_path):
    before = {key: value.clone() for key, value in checkpoint.network.state_dict().items()}
    _run(checkpoint, sampler, _collator(checkpoint, trajectories), tmp_path, StageConfig(steps=4, batch_size=4))
    changed = {key for key, value in checkpoint.network.state_dict().items() if not torch.equal(value, before[key])}
    assert not any(".visual." in key for key in changed)
    assert any("language_model" in key for key in changed)


def test_a_stage_has_its_samples_in_their_order(sampler):
    dataset = SampleDataset(sampler, 5, stage=3)
    assert len(dataset) == 5
    assert dataset[2].strategy == sampler.sample(3, 2).strategy
    with pytest.raises(IndexError):
        dataset[5]


def test_naming_what_is_said_and_shown_is_learned_and_resumed(sampler, trajectories, tmp_path):
    checkpoint = make_tiny()
    batch = _collator(checkpoint, trajectories)([sampler.sample(0, index) for index in range(12)])["batch"]
    objective = Objective(checkpoint, LossWeights(), tasks=len(sampler.tasks))
    objective(batch)
    first = objective.take_sums()["grounding"]
    assert first == pytest.approx(math.log(2), abs=0.2), "two tasks, nothing known yet"
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        objective.take_sums()
        objective(batch)["loss"].backward()
        optimizer.step()
    assert objective.take_sums()["grounding"] < first
    _run(checkpoint, sampler, _collator(checkpoint, trajectories), tmp_path)
    assert (tmp_path / "checkpoint-4" / "grounding.safetensors").exists()


def test_without_grounding_there_are_no_heads_to_throw_away(checkpoint, sampler, trajectories):
    batch = _collator(checkpoint, trajectories)([sampler.sample(0, index) for index in range(4)])["batch"]
    objective = Objective(checkpoint, LossWeights(grounding=0.0))
    objective(batch)
    assert "grounding" not in objective.take_sums()
    assert {name.split(".")[0] for name, _ in objective.named_parameters()} == {"network"}


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_a_gradient_that_is_no_number_ends_the_training_before_it_is_in_the_weights(
    checkpoint, sampler, trajectories, tmp_path, max_grad_norm
):
    calls = []

    def spoil(gradient):
        calls.append(gradient)
        return gradient * math.nan if len(calls) == 3 else gradient

    weight = checkpoint.network.get_parameter("progress_head.4.weight")
    weight.register_hook(spoil)
    with pytest.raises(TrainingDivergedError, match="the norm of the gradient of step 3 is nan"):
        _run(checkpoint, sampler, _collator(checkpoint, trajectories), tmp_path, max_grad_norm=max_grad_norm)
    assert all(value.isfinite().all() for value in checkpoint.network.state_dict().values())
    save = last_save(tmp_path)
    assert save is not None
    model = load_reward_model(save)
    assert np.isfinite(model.predict([trajectories[0].clip()])[0].progress).all()


def test_an_update_that_goes_too_far_is_not_saved(checkpoint, sampler, trajectories, tmp_path):
    """Nothing is wrong with the loss and the gradient of the last step; what they make of the weights is."""
    stage = StageConfig(steps=1, batch_size=4)
    with pytest.raises(TrainingDivergedError, match="the loss after step 1 is"):
        _run(
            checkpoint,
            sampler,
            _collator(checkpoint, trajectories),
            tmp_path,
            stage,
            steps=1,
            learning_rate=1e30,
            weight_decay=0.0,
        )
    assert last_save(tmp_path) is None


def test_the_log_says_how_much_time_is_left(checkpoint, trajectories, sampler, tmp_path, caplog):
    with caplog.at_level("INFO", logger="robometer_rl"):
        _run(checkpoint, sampler, _collator(checkpoint, trajectories), tmp_path)
    lines = [message for message in caplog.messages if message.startswith("step ")]
    left = [re.match(r"step (\d) of 4(?:, (\d+:\d\d:\d\d) left)?: ", line) for line in lines]
    assert all(left), lines
    assert {found[1] for found in left if found[2]} == {"1", "2", "3"}
    assert all(found[2] is None for found in left if found[1] == "4")
