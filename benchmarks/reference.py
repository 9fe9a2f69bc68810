"""What benchmarks compare with: one forward per step, as the reference wrapper does it."""

from __future__ import annotations

import torch

from robometer_rl import Clip
from robometer_rl.models.robometer.inference import Robometer

__all__ = ["reference_forward"]


@torch.inference_mode()
def reference_forward(model: Robometer, clip: Clip) -> float:
    """The last frame's progress by transformers' own forward, as the reference computes it."""
    network, processor = model.network, model.processor
    inputs = processor.progress_inputs([clip])
    assert inputs.frames is not None
    frames = inputs.frames[0]
    patch = processor.patcher.patch_size**2
    # The published layout holds every pixel twice, once for each temporal half of the patch embedding.
    pixels = frames.pixels.unflatten(-1, (3, 1, patch)).expand(-1, -1, -1, 2, -1).flatten(2).flatten(0, 1)
    grid = torch.tensor([[1, *frames.grid]] * len(frames))
    ids = inputs.input_ids
    hidden = network.model(
        input_ids=ids,
        attention_mask=inputs.attention_mask.long(),
        pixel_values=pixels,
        image_grid_thw=grid,
        mm_token_type_ids=(ids == network.special.visual).int(),
    ).last_hidden_state
    progress, _ = network.read(hidden[ids == network.special.progress])
    return float((progress[-1].softmax(-1) * torch.linspace(0, 1, progress.shape[-1])).sum())
