import numpy as np
import pytest
import torch

from robometer_rl.frames import Clip, NestedFrames
from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.robometer.checkpoint import save_checkpoint
from robometer_rl.training.from_scratch import make_checkpoint
from robometer_rl.training.shape import NetworkShape
from robometer_rl.training.tokenizer import instructions
from tests.training.tiny import make_tiny


def test_the_seed_decides_the_weights():
    first, again, other = make_tiny(0), make_tiny(0), make_tiny(1)
    for key, tensor in first.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[key]), key
    assert not torch.equal(first.network.frame_pool_attn.weight, other.network.frame_pool_attn.weight)


def test_it_is_a_checkpoint_like_any_other(tmp_path):
    checkpoint = make_tiny()
    save_checkpoint(tmp_path, checkpoint)
    model = load_reward_model(tmp_path)
    assert model.default_protocol == NestedFrames(4)
    frames = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    prediction = model.predict([Clip(frames, "push the block")])[0]
    inputs = checkpoint.processor.progress_inputs([Clip(frames, "push the block")])
    with torch.inference_mode():
        expected = checkpoint.network.eval()(inputs).success.sigmoid().numpy()
    assert prediction.success is not None
    np.testing.assert_allclose(prediction.success, expected, rtol=0, atol=1e-6)


def test_mini_is_small_enough_to_ship():
    checkpoint = make_checkpoint(NetworkShape(), instructions(), seed=0)
    size = sum(parameter.numel() * 4 for parameter in checkpoint.network.parameters())
    assert size < 25e6
    patcher = checkpoint.processor.patcher
    assert patcher.tokens(patcher.grid(128, 128)) == 16


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 64), (128, 128)), ((480, 480), (128, 128)), ((240, 320), (96, 160))]
)
def test_frames_of_any_size_are_brought_to_the_size_it_was_trained_on(size, expected):
    checkpoint = make_checkpoint(NetworkShape(), ["push"], seed=0)
    assert checkpoint.processor.patcher.resized(*size) == expected


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="multiple of 64"):
        NetworkShape(hidden=100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers of NetworkShape"),
        ({"hidden": 0}, "hidden of NetworkShape"),
        ({"key_value_heads": 3}, "key_value_heads must divide the 4 query heads"),
        ({"deepstack": (5,)}, "different vision layers from 0 to 4"),
        ({"deepstack": (1, 1)}, "different vision layers"),
        ({"side": 32}, "side of NetworkShape must be a whole number of at least 64"),
    ],
)
def test_sizes_that_make_no_network(changes, message):
    with pytest.raises(ValueError, match=message):
        NetworkShape(**changes)
