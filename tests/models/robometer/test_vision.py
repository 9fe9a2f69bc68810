"""The tower over a batch of frames against transformers' own forward over one packed sequence.

Features reach 5: sums in another order differ by up to 1e-5 there, on some processors by more.
"""

from __future__ import annotations

import pytest
import torch

from robometer_rl.models.robometer.patches import PatchedFrames
from robometer_rl.models.robometer.vision import embed_patches, encode_frames
from tests.golden import clips, frames, tiny


def tower_output(patched: PatchedFrames) -> torch.Tensor:
    """(F, 1 + D, tokens, hidden) of transformers' forward; both temporal halves of a patch given."""
    tower = tiny().network.model.visual
    still = patched.pixels.shape[-1] == 3 * 16 * 16
    pixels = patched.pixels.unflatten(2, (3, 1, -1)).expand(-1, -1, -1, 2, -1).flatten(2) if still else patched.pixels
    grids = torch.tensor([[1, *patched.grid]] * len(patched))
    output = tower(pixels.flatten(0, 1), grid_thw=grids)
    return torch.stack(
        [part.unflatten(0, (len(patched), -1)) for part in (output.pooler_output, *output.deepstack_features)], 1
    )


@torch.inference_mode()
@pytest.mark.parametrize("name", ["prog0", "prog1", "odd", "small"])
def test_features_are_those_of_transformers(name: str) -> None:
    patched = tiny().processor.patcher(frames(name))
    features = encode_frames(tiny().network.model.visual, patched, batch_size=3)
    torch.testing.assert_close(features, tower_output(patched), rtol=0, atol=1e-4)


@torch.inference_mode()
def test_pairs_of_frames_too() -> None:
    patched = tiny().processor.patcher.frame_pairs(frames("prog1"))
    features = encode_frames(tiny().network.model.visual, patched)
    torch.testing.assert_close(features, tower_output(patched), rtol=0, atol=1e-4)


@torch.inference_mode()
def test_a_still_image_is_a_pair_of_equal_frames() -> None:
    patcher, tower = tiny().processor.patcher, tiny().network.model.visual
    still = frames("prog0")[:2]
    pairs = patcher.frame_pairs(still.repeat(2, axis=0))
    torch.testing.assert_close(
        embed_patches(tower, patcher(still).pixels), embed_patches(tower, pairs.pixels), rtol=0, atol=1e-4
    )


@torch.inference_mode()
def test_a_frames_features_do_not_depend_on_its_neighbours() -> None:
    network, processor = tiny().network, tiny().processor
    runs = [processor.patch(clip) for clip in clips("progress_batch", "prog0", "prog1", "prog2")]
    together = network.encode(runs)
    apart = [feature for run in runs for feature in network.encode([run])]
    assert len(together) == 24
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
