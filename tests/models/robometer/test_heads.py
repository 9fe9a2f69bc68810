from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robometer_rl.models.robometer.heads import decode_progress, make_head, pool_frames
from tests.golden import arrays, report


@pytest.mark.parametrize("name", ["progress_batch", "progress_odd_size", "progress_pool_attention_temp0.25"])
def test_progress_is_decoded_as_recorded(name: str) -> None:
    recorded = arrays(name)
    progress, distribution = decode_progress(torch.from_numpy(recorded["progress_logits_A"]))
    np.testing.assert_allclose(progress.numpy(), recorded["progress_decoded"], atol=1e-6)
    np.testing.assert_allclose(distribution.sum(-1).numpy(), 1.0, atol=1e-6)


def test_decoding_is_a_softmax_also_where_rows_sum_to_one() -> None:
    """The reference takes such rows for probabilities, which logits may look like by accident."""
    rows = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]])
    progress, _ = decode_progress(rows)
    expected = (rows.softmax(-1) * torch.tensor([0.0, 0.5, 1.0])).sum(-1)
    torch.testing.assert_close(progress, expected)


def test_decoding_is_float32_whatever_the_logits_are() -> None:
    progress, distribution = decode_progress(torch.randn(4, 10).bfloat16())
    assert (progress.dtype, distribution.dtype) == (torch.float32, torch.float32)


def test_certainty_in_the_last_bin_is_exactly_one() -> None:
    progress, _ = decode_progress(torch.tensor([[0.0] * 9 + [1e4]]))
    assert progress.item() == 1.0


def test_heads_have_the_published_keys_and_shapes() -> None:
    recorded = report("state_dict_keys")
    for name, outputs in (("progress_head", 10), ("preference_head", 1), ("success_head", 1)):
        head = make_head(64, outputs).state_dict()
        expected = {key: shape for key, shape in recorded.items() if key.startswith(name)}
        assert {f"{name}.{key}": list(tensor.shape) for key, tensor in head.items()} == expected
    assert isinstance(make_head(64, 1, sigmoid=True)[-1], nn.Sigmoid)


def test_a_frames_tokens_are_pooled_apart_from_the_next_frames() -> None:
    tokens = torch.randn(7, 4)
    scores = nn.Linear(4, 1, bias=False)
    frames = tokens[:3], tokens[3:]
    expected = {
        "mean": torch.stack([frame.mean(0) for frame in frames]),
        "boundary": tokens[[2, 6]],
        "attention": torch.stack([((frame @ scores.weight[0] / 0.5).softmax(0) @ frame) for frame in frames]),
    }
    for pooling, vectors in expected.items():
        torch.testing.assert_close(pool_frames(tokens, [3, 4], pooling, scores, 0.5), vectors)  # pyright: ignore[reportArgumentType]
