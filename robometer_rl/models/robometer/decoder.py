"""One pass through the decoder's layers, with or without cached keys and values in front.

The layers are transformers' own; the loop over them is ours, because the packed and the streaming pass need to say
which cached prefix stands in front of each row, where its tokens stand in rope space, and which rows of which layers
the vision tower's deepstack features are added to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.utils.checkpoint import checkpoint
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

__all__ = ["KeyValues", "UnsupportedAttentionError", "decode"]

KeyValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Per layer, keys and values (B, key/value heads, length, head_dim), rotary positions applied."""


class UnsupportedAttentionError(ValueError):
    """An attention implementation that cannot do what is asked of it."""


@dataclass
class _Recorder:
    """What the attention layers see as their cache: a fixed prefix in front, the new keys and values written down."""

    prefix: KeyValues | None
    new: KeyValues = field(default_factory=list)

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.new.append((key, value))
        if self.prefix is None:
            return key, value
        before = self.prefix[layer_idx]
        return torch.cat([before[0], key], dim=2), torch.cat([before[1], value], dim=2)


def decode(
    decoder: Qwen3VLTextModel,
    embeddings: torch.Tensor,
    positions: torch.Tensor,
    deepstack: torch.Tensor,
    visual_rows: torch.Tensor,
    prefix: KeyValues | None = None,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, KeyValues]:
    """Runs new tokens through the decoder.

    Args:
        decoder: The checkpoint's language model.
        embeddings: (B, S, hidden) inputs, visual features already in place.
        positions: (3, B, S) rope positions.
        deepstack: (D, N, hidden) features added after the first D layers at the N visual tokens.
        visual_rows: (N,) where these tokens stand in the flattened (B * S) batch.
        prefix: Cached keys and values in front of every row.
        mask: (B or 1, 1, S, prefix + S) bool, True where a token may look. None for plain causal attention without a
            prefix; padding on the right needs no mask, since nothing before it looks at it.

    Returns:
        (B, S, hidden) outputs after the final norm, and the keys and values of the new tokens.
    """
    if prefix is not None and mask is None:
        raise ValueError("a prefix needs a mask")
    mask = _mask_for(decoder, mask, embeddings.shape[1], embeddings.dtype)
    recorder = _Recorder(prefix)
    rotation = decoder.rotary_emb(embeddings, positions)
    hidden = embeddings
    for depth, layer in enumerate(decoder.layers):
        # A layer that is checkpointed must not be given the recorder: it would record twice.
        if decoder.gradient_checkpointing and decoder.training:
            hidden = checkpoint(layer, hidden, position_embeddings=rotation, attention_mask=mask, use_reentrant=False)
        else:
            hidden = layer(hidden, position_embeddings=rotation, attention_mask=mask, past_key_values=recorder)
        if depth < len(deepstack):
            flat = hidden.flatten(0, 1).index_add(0, visual_rows, deepstack[depth].to(hidden.dtype))
            hidden = flat.view_as(hidden)
    return decoder.norm(hidden), recorder.new


def _mask_for(
    decoder: Qwen3VLTextModel, mask: torch.Tensor | None, length: int, dtype: torch.dtype
) -> torch.Tensor | None:
    """The mask as the decoder's attention implementation takes it."""
    implementation = decoder.config._attn_implementation
    if implementation == "sdpa":
        return mask
    if implementation == "eager":
        device = decoder.embed_tokens.weight.device
        if mask is None:
            mask = torch.ones((1, 1, length, length), dtype=torch.bool, device=device).tril()
        return torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill(~mask, torch.finfo(dtype).min)
    if mask is None:
        return None
    raise UnsupportedAttentionError(
        f"attn_implementation {implementation!r} takes no attention masks, which scoring steps with a shared prefix "
        "needs; load the model with attn_implementation='sdpa' or 'eager'"
    )
