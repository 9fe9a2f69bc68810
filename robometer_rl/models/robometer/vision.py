"""The vision tower over frames of one size as one batch.

transformers' Qwen3-VL tower packs all images into one sequence and, without a variable-length attention kernel, loops
over them in every layer. Frames of an episode have one size, so here they are a batch dimension instead. Numbers are
those of the tower's own forward (docs/reference.md §2.5); its modules and weights are used as they are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLVisionModel,
    apply_rotary_pos_emb_vision,
)

from robometer_rl.models.robometer.patches import Grid, PatchedFrames
from robometer_rl.models.robometer.written_out import can_write_out, signed, tower_block

__all__ = ["embed_patches", "encode_frames", "rotary_frequencies"]

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


def rotary_frequencies(config: Qwen3VLVisionConfig) -> torch.Tensor:
    """(head_dim / 4,) float32: the angles by which one step along a row or a column turns the tower's heads."""
    # Releases of transformers that have no such setting have this base.
    base = (config.to_dict().get("rope_parameters") or {}).get("rope_theta", 10_000.0)
    dims = config.hidden_size // config.num_heads // 2
    return 1.0 / (base ** (torch.arange(0, dims, 2, dtype=torch.float32) / dims))


def _encode(tower: Qwen3VLVisionModel, pixels: torch.Tensor, positions: tuple[torch.Tensor, Rotation]) -> torch.Tensor:
    learned, rotation = positions
    hidden = embed_patches(tower, pixels) + learned
    deepstack = []
    taps = list(tower.deepstack_visual_indexes)
    turning = None
    if can_write_out(tower, hidden.device):
        turning = rotation[0][:, None, None], signed(rotation[1])[:, None, None]
    for depth, block in enumerate(tower.blocks):
        if turning is not None:
            hidden = tower_block(block, hidden, turning)
        elif tower.gradient_checkpointing and tower.training:
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
    places, indices, weights = _grid_positions(grid, tower.num_grid_per_side, tower.spatial_merge_size, tower.device)
    learned = (tower.pos_embed(indices) * weights[:, :, None]).sum(1).to(tower.dtype)
    # Row and column turn a quarter of a head's dimensions each, and the other half by the same angles.
    angles = (places[:, :, None] * tower.rotary_pos_emb.inv_freq.float()).flatten(1).repeat(1, 2)
    return learned, (angles.cos(), angles.sin())


@lru_cache(maxsize=32)
def _grid_positions(
    grid: Grid, table_side: int, merge: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What depends on the grid alone: (P, 2) places, and (P, 4) rows and weights of the resampling of the table."""
    # Whoever asks first, training may ask next, and tensors made in inference mode cannot be used there.
    with torch.inference_mode(False):
        blocks = torch.meshgrid(*(torch.arange(side, device=device) for side in grid), indexing="ij")
        # Patches that are merged into one token follow each other.
        shape = (grid[0] // merge, merge, grid[1] // merge, merge)
        places = torch.stack([axis.view(shape).transpose(1, 2).flatten() for axis in blocks], dim=1)
        # Bilinear, the corners of the table on the corners of the grid: two neighbours per axis, four per patch.
        last = torch.tensor([max(side - 1, 1) for side in grid], device=device)
        at = places * (table_side - 1) / last
        lower = at.long()
        row, column = torch.stack([lower, (lower + 1).clamp(max=table_side - 1)], dim=2).unbind(1)
        row_weight, column_weight = torch.stack([1 - (at - lower), at - lower], dim=2).unbind(1)
        indices = (row[:, :, None] * table_side + column[:, None, :]).flatten(1)
        return places, indices, (row_weight[:, :, None] * column_weight[:, None, :]).flatten(1)
