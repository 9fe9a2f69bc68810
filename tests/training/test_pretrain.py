from dataclasses import replace

import numpy as np
import pytest
import torch

from robometer_rl.training.pretrain import FrameStates, StateReader, pretrain_vision
from robometer_rl.training.trainer import training_arguments
from tests.data.episodes import make_episodes_of_two_tasks
from tests.training.tiny import make_tiny


@pytest.fixture(scope="module")
def trajectories():
    return make_episodes_of_two_tasks(2)


def test_every_frame_comes_once_an_epoch_with_its_own_state(trajectories):
    total = sum(len(trajectory) for trajectory in trajectories)
    data = FrameStates(trajectories, 2 * total, seed=0)
    states = np.concatenate([trajectory.state for trajectory in trajectories])
    moving = states.std(axis=0) > 1e-3
    expected = np.sort(((states - states.mean(0)) / np.where(moving, states.std(0), 1))[:, moving][:, 0])
    assert data.width == moving.sum()
    for epoch in range(2):
        drawn = [data[index][1][0] for index in range(epoch * total, (epoch + 1) * total)]
        np.testing.assert_allclose(np.sort(drawn), expected, atol=1e-5)


def test_the_position_decides_however_it_is_reached(trajectories):
    first, second = FrameStates(trajectories, 40, seed=1), FrameStates(trajectories, 40, seed=1)
    backwards = [second[index] for index in reversed(range(40))][::-1]
    for index in range(40):
        np.testing.assert_array_equal(first[index][0], backwards[index][0])
        np.testing.assert_array_equal(first[index][1], backwards[index][1])


def test_states_are_needed(trajectories):
    with pytest.raises(ValueError, match="some have none"):
        FrameStates([*trajectories, replace(trajectories[0], state=None)], 4, seed=0)


def test_the_tower_learns_to_read_the_state(trajectories, tmp_path):
    checkpoint = make_tiny()
    before = checkpoint.network.model.visual.patch_embed.proj.weight.clone()
    arguments = training_arguments(
        tmp_path,
        steps=40,
        batch_size=16,
        learning_rate=3e-3,
        weight_decay=0.0,
        warmup=0.1,
        use_cpu=True,
        seed=0,
        logging_steps=1,
        save_steps=100,
    )
    pretrain_vision(checkpoint, trajectories, arguments)
    assert not torch.equal(before, checkpoint.network.model.visual.patch_embed.proj.weight)
    state = (tmp_path / "checkpoint-40" / "trainer_state.json").read_text()
    losses = [float(part.split(",")[0]) for part in state.split('"loss": ')[1:]]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_the_reader_reads_every_level(trajectories):
    checkpoint = make_tiny()
    patched = checkpoint.processor.patcher(trajectories[0].frames[:2])
    reader = StateReader(checkpoint.network.model.visual, checkpoint.processor.patcher.tokens(patched.grid), width=3)
    reader(patched.pixels, *patched.grid, torch.zeros(2, 3))["loss"].backward()
    without = [name for name, parameter in reader.named_parameters() if parameter.grad is None]
    assert without == []
