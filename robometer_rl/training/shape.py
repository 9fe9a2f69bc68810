"""The sizes of a network that is made from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from robometer_rl.ranges import require_counts

__all__ = ["HEAD_DIM", "VISION_HEAD_DIM", "NetworkShape"]

HEAD_DIM: Final = 64
"""Width of a head of the decoder."""

VISION_HEAD_DIM: Final = 32
"""Width of a head of the vision tower."""

_PIXELS_PER_TOKEN: Final = 32  # of a side: patches of 16 pixels, merged by squares of 2


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of the backbone; the defaults are those of robometer-mini.

    Attributes:
        hidden: Width of the decoder, a multiple of 64.
        layers: Of the decoder.
        feed_forward: Width inside a decoder layer.
        key_value_heads: Of the decoder; it has ``hidden // 64`` query heads.
        vision_hidden: Width of the vision tower, a multiple of 32.
        vision_layers: Of the vision tower.
        vision_feed_forward: Width inside a vision layer.
        deepstack: Vision layers whose output is also given to the decoder's first layers.
        side: Frames are brought close to this many pixels a side, keeping their shape.
    """

    hidden: int = 256
    layers: int = 4
    feed_forward: int = 512
    key_value_heads: int = 2
    vision_hidden: int = 160
    vision_layers: int = 5
    vision_feed_forward: int = 512
    deepstack: tuple[int, ...] = (2,)
    side: int = 128

    def __post_init__(self) -> None:
        require_counts(self, 1, "hidden", "layers", "feed_forward", "key_value_heads")
        require_counts(self, 1, "vision_hidden", "vision_layers", "vision_feed_forward")
        require_counts(self, 2 * _PIXELS_PER_TOKEN, "side")
        for name, width, head in (
            ("hidden", self.hidden, HEAD_DIM),
            ("vision_hidden", self.vision_hidden, VISION_HEAD_DIM),
        ):
            if width % head:
                raise ValueError(f"{name} must be a multiple of {head}, got {width}")
        if (self.hidden // HEAD_DIM) % self.key_value_heads:
            raise ValueError(
                f"key_value_heads must divide the {self.hidden // HEAD_DIM} query heads of a decoder of width "
                f"{self.hidden}, got {self.key_value_heads}"
            )
        inside = [layer for layer in self.deepstack if 0 <= layer < self.vision_layers]
        if len(set(inside)) < len(self.deepstack) or len(self.deepstack) > self.layers:
            raise ValueError(
                f"deepstack must name different vision layers from 0 to {self.vision_layers - 1}, at most one for each "
                f"of the {self.layers} decoder layers, got {self.deepstack}"
            )
