"""One pass through the decoder's layers, with or without cached keys and values in front.

The layers are transformers' own; the loop over them is ours, because the packed and the streaming pass need to say
which cached prefix stands in front of each row, where its tokens stand in rope space, and which rows of which layers
the vision tower's deepstack features are added to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextDecoderLayer, apply_rotary_pos_emb

from robometer_rl.models.robometer.written_out import can_write_out, decoder_layer, signed

__all__ = ["KeyValues", "Prefix", "UnsupportedAttentionError", "decode", "decode_chosen", "require_masks"]

KeyValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Per layer, keys and values (B, key/value heads, length, head_dim), rotary positions applied."""


class UnsupportedAttentionError(ValueError):
    """An attention implementation that cannot do what is asked of it."""


@dataclass
class Prefix:
    """Cached tokens in front of the rows of a pass.

    Attributes:
        layers: Keys and values of C caches.
        visible: (B, P) bool, which of the cached tokens each row sees.
        caches: (B,) which cache stands in front of each row; None if each row has its own, in order.
    """

    layers: KeyValues
    visible: torch.Tensor
    caches: torch.Tensor | None

    def mask(self, length: int) -> torch.Tensor:
        """(B, 1, length, P + length) bool, True where a new token may look."""
        batch, cached = self.visible.shape
        mask = self.visible.new_ones((batch, 1, length, cached + length))
        mask[..., :cached] = self.visible[:, None, None, :]
        mask[..., cached:].tril_()
        return mask


class _Recorder:
    """What the attention layers see as their cache: fixed prefixes in front, the new keys and values written down."""

    # No dataclass: FSDP hands layers copies of those, and what a copy writes down is lost.
    def __init__(self, prefix: Prefix | None, keep: bool) -> None:
        self.prefix = prefix
        self.keep = keep
        self.new: KeyValues = []

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a layer attends to: the prefix's keys and values, and its own; see `transformers.Cache`."""
        if self.keep:
            self.new.append((key, value))
        if self.prefix is None:
            return key, value
        keys, values = self.prefix.layers[layer_idx]
        if self.prefix.caches is not None:
            keys, values = keys.index_select(0, self.prefix.caches), values.index_select(0, self.prefix.caches)
        return torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)


@dataclass
class _Given:
    """What an attention layer sees as its cache, where keys and values of all tokens are known already."""

    keys: torch.Tensor
    values: torch.Tensor

    def update(self, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
        """What the layer attends to; see `transformers.Cache`."""
        return self.keys, self.values


def decode(
    decoder: Any,
    embeddings: torch.Tensor,
    positions: torch.Tensor,
    deepstack: torch.Tensor,
    visual_rows: torch.Tensor,
    prefix: Prefix | None = None,
    keep: bool = False,
) -> tuple[torch.Tensor, KeyValues]:
    """Runs new tokens through the decoder.

    Every token sees the new tokens of its row up to itself, and what is visible of its prefix. Padding on the right
    needs no mask, since nothing before it looks at it.

    Args:
        decoder: The checkpoint's language model, of any kind in `backbone`.
        embeddings: (B, S, hidden) inputs, visual features already in place.
        positions: (3, B, S) rope positions, or (B, S) where they count tokens.
        deepstack: (D, N, hidden) features added after the first D layers at the N visual tokens.
        visual_rows: (N,) where these tokens stand in the flattened (B * S) batch.
        prefix: Cached tokens in front of the rows.
        keep: Whether to return the keys and values of the new tokens.

    Returns:
        (B, S, hidden) outputs after the final norm, and the new keys and values, empty unless ``keep``.
    """
    recorder = _Recorder(prefix, keep)
    rotation = decoder.rotary_emb(embeddings, positions)
    mask = _mask_for(decoder, prefix, embeddings)
    hidden = _through(decoder.layers, decoder, embeddings, rotation, mask, deepstack, visual_rows, recorder)
    return decoder.norm(hidden), recorder.new


def decode_chosen(
    decoder: Any,
    embeddings: torch.Tensor,
    positions: torch.Tensor,
    deepstack: torch.Tensor,
    visual_rows: torch.Tensor,
    chosen: torch.Tensor,
) -> torch.Tensor:
    """Outputs of a few tokens of each row: what is not asked for is left out of the last layer.

    Of a token that nothing is read at the last layer needs keys and values only. In a decoder of four layers that saves
    more than a fifth of a pass, forwards and backwards.

    Args:
        decoder: As for `decode`.
        embeddings: As for `decode`.
        positions: As for `decode`.
        deepstack: As for `decode`.
        visual_rows: As for `decode`.
        chosen: (B, R) which tokens of each row, none of them a visual one.

    Returns:
        (B, R, hidden), those that `decode` gives for these tokens.
    """
    *layers, last = decoder.layers
    rotation = decoder.rotary_emb(embeddings, positions)
    mask = _mask_for(decoder, None, embeddings)
    if not _can_choose(decoder, last):
        hidden = _through(decoder.layers, decoder, embeddings, rotation, mask, deepstack, visual_rows, None)
        return decoder.norm(_of(chosen, hidden))
    hidden = _through(layers, decoder, embeddings, rotation, mask, deepstack, visual_rows, None)
    return decoder.norm(_last_layer(last, hidden, rotation, chosen))


def _can_choose(decoder: Any, layer: nn.Module) -> bool:
    """Whether a layer can be asked for some of its tokens.

    It is taken apart for that, which is known of one kind of layers and takes a mask. Gradient checkpointing leaves out
    caches, and FSDP has a layer's weights together during the layer's own forward only.
    """
    if not isinstance(layer, Qwen3VLTextDecoderLayer) or isinstance(layer, FSDPModule):
        return False
    checkpointing = decoder.gradient_checkpointing and decoder.training
    return not checkpointing and decoder.config._attn_implementation in ("sdpa", "eager")


def _last_layer(
    layer: Any, hidden: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], chosen: torch.Tensor
) -> torch.Tensor:
    """(B, R, hidden) outputs of the chosen tokens, which see all tokens up to themselves."""
    attention = layer.self_attn
    seen = layer.input_layernorm(hidden)
    heads = (*seen.shape[:2], -1, attention.head_dim)
    keys = attention.k_norm(attention.k_proj(seen).view(heads)).transpose(1, 2)
    keys = apply_rotary_pos_emb(keys, keys, *rotation)[1]
    given = _Given(keys, attention.v_proj(seen).view(heads).transpose(1, 2))
    visible = torch.arange(hidden.shape[1], device=hidden.device) <= chosen[:, None, :, None]
    mask = visible if attention.config._attn_implementation == "sdpa" else _blocking(visible, hidden.dtype)
    turned = tuple(_of(chosen, part) for part in rotation)
    return layer(_of(chosen, hidden), position_embeddings=turned, attention_mask=mask, past_key_values=given)


def _of(chosen: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(B, R, n) of (B, S, n)."""
    return values.gather(1, chosen[..., None].expand(-1, -1, values.shape[-1]))


def _through(
    layers: Iterable[Any],
    decoder: Any,
    hidden: torch.Tensor,
    rotation: tuple[torch.Tensor, torch.Tensor],
    mask: torch.Tensor | None,
    deepstack: torch.Tensor,
    visual_rows: torch.Tensor,
    recorder: _Recorder | None,
) -> torch.Tensor:
    """What layers make of their tokens, those of a cache in front of them included."""
    checkpointing = decoder.gradient_checkpointing and decoder.training
    if checkpointing and recorder is not None and (recorder.prefix is not None or recorder.keep):
        raise ValueError("a decoder in training with gradient checkpointing has neither prefixes nor a cache")
    turning = None
    if can_write_out(decoder, hidden.device):
        turning = rotation[0][:, :, None], signed(rotation[1])[:, :, None]
    for depth, layer in enumerate(layers):
        if turning is not None:
            hidden = decoder_layer(layer, hidden, turning, mask, recorder)
        elif checkpointing:
            # Without the recorder, which the second forward of a checkpointed layer would write to again.
            hidden = checkpoint(layer, hidden, position_embeddings=rotation, attention_mask=mask, use_reentrant=False)
        else:
            hidden = layer(hidden, position_embeddings=rotation, attention_mask=mask, past_key_values=recorder)
        if depth < len(deepstack):
            flat = hidden.flatten(0, 1).index_add(0, visual_rows, deepstack[depth].to(hidden.dtype))
            hidden = flat.view_as(hidden)
    return hidden


def require_masks(decoder: Any) -> None:
    """Raises `UnsupportedAttentionError` if the decoder's attention cannot see a part of a prefix only."""
    implementation = decoder.config._attn_implementation
    if implementation not in ("sdpa", "eager"):
        raise UnsupportedAttentionError(
            f"attn_implementation {implementation!r} takes no attention masks, which scoring steps behind shared "
            "prefixes needs; load the model with attn_implementation='sdpa' or 'eager'"
        )


def _mask_for(decoder: Any, prefix: Prefix | None, embeddings: torch.Tensor) -> torch.Tensor | None:
    """The mask as the decoder's attention implementation takes it, None where it is causal by itself."""
    implementation = decoder.config._attn_implementation
    length = embeddings.shape[1]
    if implementation == "sdpa":
        return None if prefix is None else prefix.mask(length)
    if implementation == "eager":
        causal = torch.ones((1, 1, length, length), dtype=torch.bool, device=embeddings.device).tril()
        return _blocking(causal if prefix is None else prefix.mask(length), embeddings.dtype)
    if prefix is not None:
        require_masks(decoder)
    return None


def _blocking(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to attention weights, so that they are 0 where a token may not look."""
    added = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return added.masked_fill(~visible, torch.finfo(dtype).min)
