"""The layers of Qwen3-VL written out, for inference of small models on the processor.

One new frame of a small model is some fifty matrix products of a tenth of a millisecond each, and as transformers has
the layers, ten times as many small operations around them. Here are the same layers, on the same modules and weights,
in fewer: nothing is copied, converted or rotated that need not be, results are written over what nobody needs any
more, keys and values are shared among the heads of a group instead of repeated for each, and the tower's activation is
computed by the product before it. Numbers are those of the layers' own forward to a rounding error;
``benchmarks/inference.py`` measures both.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import GELUTanh
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextDecoderLayer

from robometer_rl.models.devices import multiplies_in_bfloat16

__all__ = ["KeyValueCache", "Rotation", "can_write_out", "decoder_layer", "signed", "tower_block"]

Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of rotary positions, the latter as `signed` gives them."""


class KeyValueCache(Protocol):
    """What stands in front of a layer's own keys and values; see `transformers.Cache`."""

    def update(self, key: torch.Tensor, value: torch.Tensor, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What a layer attends to: the keys and values before, and its own."""
        ...


def can_write_out(part: Any, device: torch.device) -> bool:
    """Whether a tower or a decoder runs as written out here.

    That is without gradients, since results are written over, and with transformers' SDPA attention, which is what is
    written out; on a GPU nobody has measured it. A decoder's layers have to be Qwen3-VL's.
    """
    if torch.is_grad_enabled() or part.training or device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    layers = getattr(part, "layers", None)
    of_qwen = layers is None or all(type(layer) is Qwen3VLTextDecoderLayer for layer in layers)
    return of_qwen and part.config._attn_implementation == "sdpa"


def signed(sines: torch.Tensor) -> torch.Tensor:
    """Sines of which the first half is negative, since a half of a head that is rotated changes its sign."""
    first, second = sines.chunk(2, dim=-1)
    return torch.cat([-first, second], dim=-1)


def tower_block(block: Any, hidden: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """One layer of the tower.

    Args:
        block: The layer.
        hidden: (F, P, hidden).
        rotation: (P, 1, 1, head_dim) each.

    Returns:
        (F, P, hidden).
    """
    attention = block.attn
    qkv = attention.qkv(block.norm1(hidden)).unflatten(-1, (3, attention.num_heads, -1))
    query, key = _turned(qkv[:, :, :2], rotation).unbind(dim=2)
    attended = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), qkv[:, :, 2].transpose(1, 2), scale=attention.scaling
    )
    hidden = attention.proj(attended.transpose(1, 2).flatten(2)).add_(hidden)
    return hidden.add_(_mlp(block.mlp, block.norm2(hidden)))


def decoder_layer(
    layer: Any, hidden: torch.Tensor, rotation: Rotation, mask: torch.Tensor | None, cache: KeyValueCache | None
) -> torch.Tensor:
    """One layer of the decoder.

    Args:
        layer: The layer.
        hidden: (B, S, hidden).
        rotation: (B, S, 1, head_dim) each.
        mask: (B, 1, S, P + S), true where a token may look; causal if None.
        cache: What stands in front of the tokens.

    Returns:
        (B, S, hidden).
    """
    attention, mlp = layer.self_attn, layer.mlp
    seen = _normed(hidden, layer.input_layernorm)
    heads = (*seen.shape[:2], -1, attention.head_dim)
    query = _turned(_normed(attention.q_proj(seen).view(heads), attention.q_norm), rotation).transpose(1, 2)
    key = _turned(_normed(attention.k_proj(seen).view(heads), attention.k_norm), rotation).transpose(1, 2)
    value = attention.v_proj(seen).view(heads).transpose(1, 2)
    if cache is not None:
        key, value = cache.update(key, value, attention.layer_idx)
    attended = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=attention.scaling, enable_gqa=True
    )
    hidden = attention.o_proj(attended.transpose(1, 2).flatten(2)).add_(hidden)
    seen = _normed(hidden, layer.post_attention_layernorm)
    return hidden.add_(mlp.down_proj(mlp.act_fn(mlp.gate_proj(seen)).mul_(mlp.up_proj(seen))))


def _normed(hidden: torch.Tensor, norm: Any) -> torch.Tensor:
    """What a norm by the root of the mean square makes of (..., n), that mean in float32."""
    length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=torch.float32)
    scale = length.square_().div_(hidden.shape[-1]).add_(norm.variance_epsilon).rsqrt_()
    return (hidden * scale).to(hidden.dtype).mul_(norm.weight)


def _turned(heads: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Heads (..., n) turned by the angles of their positions, in the precision of these."""
    cosines, sines = rotation
    other = heads.roll(heads.shape[-1] // 2, -1)
    return torch.addcmul(heads * cosines, other.to(sines.dtype), sines).to(heads.dtype)


def _mlp(mlp: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The tower's two matrices, the first one's product and its activation in one operation where it is known."""
    first = mlp.linear_fc1
    if not (type(mlp.act_fn) is GELUTanh and type(first) is nn.Linear and _fuses(first.weight)):
        return mlp(hidden)
    widened = torch.ops.mkldnn._linear_pointwise(hidden, first.weight, first.bias, "gelu", [], "tanh")
    return mlp.linear_fc2(widened)


def _fuses(weight: torch.Tensor) -> bool:
    """Whether oneDNN multiplies by such a weight, and computes an activation in the same pass."""
    if type(weight) not in (torch.Tensor, nn.Parameter) or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return multiplies_in_bfloat16()
    return weight.dtype == torch.float32
