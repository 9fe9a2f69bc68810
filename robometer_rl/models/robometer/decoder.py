"""One pass through the decoder's layers, with or without cached keys and values in front.

The layers are transformers' own; the loop over them is ours, because the packed and the streaming pass need to say
which cached prefix stands in front of each row, where its tokens stand in rope space, and which rows of which layers
the vision tower's deepstack features are added to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

__all__ = ["KeyValues", "Prefix", "UnsupportedAttentionError", "decode", "require_masks"]

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


@dataclass
class _Recorder:
    """What the attention layers see as their cache: fixed prefixes in front, the new keys and values written down."""

    prefix: Prefix | None
    keep: bool
    new: KeyValues = field(default_factory=list)

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
    mask = _mask_for(decoder, prefix, embeddings)
    rotation = decoder.rotary_emb(embeddings, positions)
    checkpointing = decoder.gradient_checkpointing and decoder.training
    if checkpointing and (prefix is not None or keep):
        raise ValueError("a decoder in training with gradient checkpointing has neither prefixes nor a cache")
    hidden = embeddings
    for depth, layer in enumerate(decoder.layers):
        if checkpointing:
            # Without the recorder, which the second forward of a checkpointed layer would write to again.
            hidden = checkpoint(layer, hidden, position_embeddings=rotation, attention_mask=mask, use_reentrant=False)
        else:
            hidden = layer(hidden, position_embeddings=rotation, attention_mask=mask, past_key_values=recorder)
        if depth < len(deepstack):
            flat = hidden.flatten(0, 1).index_add(0, visual_rows, deepstack[depth].to(hidden.dtype))
            hidden = flat.view_as(hidden)
    return decoder.norm(hidden), recorder.new


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
        mask = causal if prefix is None else prefix.mask(length)
        blocked = torch.finfo(embeddings.dtype).min
        return torch.zeros(mask.shape, dtype=embeddings.dtype, device=mask.device).masked_fill(~mask, blocked)
    if prefix is not None:
        require_masks(decoder)
    return None
