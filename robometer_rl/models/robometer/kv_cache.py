"""The KV cache: rows of new tokens behind cached prefixes, of which the packed and the streaming pass are made.

The decoder is causal and the heads read a token that follows each frame. So what a frame contributes to the decoder,
its keys and values, depends on the prompt and the frames before it alone, and serves every later question that begins
with the same frames. A question then costs the tokens of its last frame only::

                 cached keys and values                       new tokens of this pass
    row 0   prompt  frame a  frame b  frame c            |  frame x  (read)
    row 1   prompt  frame a  frame b  -------            |  frame y  (read)
    row 2   prompt  frame d  frame e  frame f            |  frame z  (read)

Row 1 sees less of the same cache, row 2 another one. Each new token sees the visible part of its row's prefix and the
new tokens before it; a row shorter than others is padded on the right, which no real token sees. Rope positions go on
where the visible prefix ends, not where the cache does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from robometer_rl.models.robometer.decoder import KeyValues, Prefix
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.models.robometer.tokens import Segment, join, pad

__all__ = ["Row", "extend"]


@dataclass
class Row:
    """New tokens.

    Attributes:
        start: Rope position of the first one.
        tokens: All of them, positions relative to ``start``.
        features: Vision features of the frames among them, see `vision.encode_frames`.
        reads: Offsets of the tokens that the heads read.
    """

    start: int
    tokens: Segment
    features: list[torch.Tensor] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)

    @classmethod
    def of_frames(cls, start: int, frames: Sequence[Segment], features: list[torch.Tensor]) -> Row:
        """Frames one after the other, each read at its last token, which is its progress token."""
        row = cls(start, join(frames), features)
        end = 0
        for frame in frames:
            end += len(frame)
            row.reads.append(end - 1)
        return row


def extend(
    network: RobometerNetwork, rows: Sequence[Row], prefix: Prefix | None = None, keep: bool = True
) -> tuple[list[torch.Tensor], KeyValues]:
    """Runs new tokens behind their prefixes.

    Args:
        network: The model.
        rows: B rows of new tokens.
        prefix: What stands in front of them, nothing if None.
        keep: Whether the keys and values of the new tokens are wanted.

    Returns:
        Per row, (reads, hidden) decoder outputs at its reads; and the new tokens' keys and values, rows padded on the
        right, empty unless ``keep``.
    """
    # The image token of a vocabulary may be the padding of another, so padding must not be taken for images.
    batch = pad([row.tokens for row in rows], pad_id=network.special.progress)
    starts = torch.tensor([row.start for row in rows])
    width = batch.ids.shape[1]
    reads = [number * width + read for number, row in enumerate(rows) for read in row.reads]
    device = network.device
    hidden, layers = network.decode(
        batch.ids.to(device),
        (batch.positions + starts[None, :, None]).to(device),
        [feature for row in rows for feature in row.features],
        prefix,
        keep,
        network.visual_rows(batch.ids).to(device),
    )
    vectors = hidden.flatten(0, 1)[torch.tensor(reads, dtype=torch.long, device=device)]
    return list(vectors.split([len(row.reads) for row in rows])), layers
