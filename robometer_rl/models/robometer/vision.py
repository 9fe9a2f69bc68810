"""The vision tower over frames of one size as one batch.

transformers' Qwen3-VL tower packs all images into one sequence and, without a variable-length attention kernel, loops
over them in every layer. Frames of an episode have one size, so here they are a batch dimension instead. Numbers are
those of the tower's own forward (spec section 0); its modules and weights are used as they are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLVisionModel,
    apply_rotary_pos_emb_vision,
)
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from robometer_rl.models.robometer.patches import Grid, PatchedFrames

__all__ = ["embed_patches", "encode_frames"]

Rotation = tuple[torch.Tensor, torch.Tensor]


def encode_frames(tower: Qwen3VLVisionModel, frames: PatchedFrames, batch_size: int = 64) -> torch.Tensor:
    """Features of every frame.

    Args:
        tower: The checkpoint's vision tower.
        frames: F frames of one grid.
        batch_size: Frames per pass, which bounds the memory of long episodes.

    Returns:
        (F, 1 + D, tokens, hidden): the merged output, then the D deepstack outputs that the decoder adds to its first
        D layers.
    """
    positions = _positions(tower, frames.grid)
    batches = frames.pixels.to(tower.device).split(batch_size)
    return torch.cat([_encode(tower, pixels, positions) for pixels in batches])


def embed_patches(tower: Qwen3VLVisionModel, pixels: torch.Tensor) -> torch.Tensor:
    """Patch embedding of (..., 3 * patch ** 2) still pixels or (..., 3 * 2 * patch ** 2) pixels of frame pairs.

    The published embedding is a 3-D convolution whose stride is its kernel, that is, a linear map of a patch. For a
    still image both temporal halves are the same pixels, so the two halves of the weight are added instead of the
    pixels being repeated: half the memory and half the multiplications.
    """
    convolution = tower.patch_embed.proj
    weight = convolution.weight
    still = pixels.shape[-1] * weight.shape[2] == weight[0].numel()
    flat = (weight.sum(dim=2) if still else weight).flatten(1)
    return F.linear(pixels.to(weight.dtype), flat, convolution.bias)


def _encode(tower: Qwen3VLVisionModel, pixels: torch.Tensor, positions: tuple[torch.Tensor, Rotation]) -> torch.Tensor:
    learned, rotation = positions
    hidden = embed_patches(tower, pixels) + learned
    deepstack = []
    taps = list(tower.deepstack_visual_indexes)
    for depth, block in enumerate(tower.blocks):
        if tower.gradient_checkpointing and tower.training:
            hidden = checkpoint(_block, block, hidden, rotation, use_reentrant=False)
        else:
            hidden = _block(block, hidden, rotation)
        if depth in taps:
            merger = tower.deepstack_merger_list[taps.index(depth)]
            deepstack.append(merger(hidden).unflatten(0, (len(pixels), -1)))
    merged = tower.merger(hidden).unflatten(0, (len(pixels), -1))
    return torch.stack([merged, *deepstack], dim=1)


def _block(block: Any, hidden: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    attention = block.attn
    qkv = attention.qkv(block.norm1(hidden)).unflatten(-1, (3, attention.num_heads, -1))
    query, key, value = qkv.unbind(dim=-3)
    query, key = apply_rotary_pos_emb_vision(query, key, *rotation)
    attended = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), scale=attention.scaling
    )
    hidden = hidden + attention.proj(attended.transpose(1, 2).flatten(2))
    return hidden + block.mlp(block.norm2(hidden))


def _positions(tower: Qwen3VLVisionModel, grid: Grid) -> tuple[torch.Tensor, Rotation]:
    """Learned position embeddings (P, hidden) resampled to the grid, and rotary angles (P, head_dim)."""
    indices, weights, places = _grid_positions(
        grid,
        tower.num_grid_per_side,
        tower.interpolation_mode,
        tower.interpolation_align_corners,
        tower.spatial_merge_size,
        tower.device,
    )
    learned = (tower.pos_embed(indices) * weights[:, :, None]).sum(1).to(tower.dtype)
    return learned, tower.rotary_pos_emb(learned, places)


@lru_cache(maxsize=32)
def _grid_positions(
    grid: Grid, table_side: int, mode: str, align_corners: bool, merge: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What depends on the grid alone: table rows and weights of the resampling, and (P, 2) places."""
    # Whoever asks first, training may ask next, and tensors made in inference mode cannot be used there.
    with torch.inference_mode(False):
        grid_thw = torch.tensor([[1, *grid]], device=device)
        indices, weights = get_vision_interpolation_indices_and_weights(
            grid_thw,
            num_grid_per_side=table_side,
            mode=mode,
            align_corners=align_corners,
            spatial_merge_size=merge,
        )
        return indices, weights, get_vision_position_ids(grid_thw, merge)
