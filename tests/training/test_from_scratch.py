from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from robometer_rl.frames import Clip, NestedFrames
from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.robometer.checkpoint import save_checkpoint
from robometer_rl.models.robometer.prompts import EXTRA_TOKENS, progress_prompt
from robometer_rl.training.config import NetworkShape
from robometer_rl.training.from_scratch import QWEN_TOKENS, instructions, make_checkpoint, train_tokenizer
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
    np.testing.assert_allclose(prediction.success, expected, rtol=0, atol=1e-5)


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


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(instructions())


def test_added_tokens_come_in_the_order_that_checkpoints_expect(tokenizer):
    vocabulary = tokenizer.get_vocab()
    first = len(vocabulary) - len(QWEN_TOKENS) - len(EXTRA_TOKENS)
    added = [*QWEN_TOKENS, *EXTRA_TOKENS]
    assert [vocabulary[token] for token in added] == list(range(first, len(vocabulary)))
    assert len(tokenizer) == len(vocabulary)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_prompts_cost_few_tokens_and_any_text_survives(tokenizer):
    prompt = progress_prompt("open the drawer")
    assert len(tokenizer.encode(prompt)) < 1.5 * len(prompt.split())
    for text in (prompt, "öffne die Schublade 抽屉 \n\t 🤖", "a" * 50):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_it_is_saved_and_loaded_as_qwens_is(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "Qwen2Tokenizer"
    text = "<|im_start|>user\n" + progress_prompt("push the block") + "Picture 1: <|vision_start|><|image_pad|>"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.get_vocab() == tokenizer.get_vocab()


def test_instructions_are_plenty_and_always_the_same():
    texts = instructions()
    assert 3000 < len(texts) < 6000
    assert texts == instructions()
    assert "open the alphabet soup" in texts
    assert not any(text != text.strip() or "\n" in text for text in texts)
