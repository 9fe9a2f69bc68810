"""A help for decoders that have never read: name the task that is said, and the task that is shown.

Whether an instruction fits a video is a function of both together; neither alone says anything. Gradient descent from
random weights sits on that plateau for a long time. Two linear heads on the frames' tokens that name the task of the
instruction and the task of the video make both readable separately, which is easy; that they agree is then easy too.
The heads are thrown away. A decoder that comes from a language model does not need this.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robometer_rl.training.collate import TrainingBatch

__all__ = ["Grounding"]


class Grounding(nn.Module):
    """The two heads and their loss.

    Args:
        hidden: Width of a frame's token.
        tasks: How many there are.
    """

    def __init__(self, hidden: int, tasks: int) -> None:
        super().__init__()
        self.said = nn.Linear(hidden, tasks)
        self.shown = nn.Linear(hidden, tasks)

    def forward(self, tokens: Sequence[Tensor], batch: TrainingBatch, normalizer: Tensor | float) -> Tensor:
        """Cross-entropy of both names over all frames.

        Args:
            tokens: (frames, hidden) of each forward pass, see `RobometerOutput.frames`.
            batch: What these passes were about.
            normalizer: What the sum over frames is divided by.
        """
        frames = torch.cat(list(tokens))
        errors = [
            F.cross_entropy(head(frames).float(), names, reduction="sum")
            for head, names in ((self.said, batch.said), (self.shown, batch.shown))
        ]
        return torch.stack(errors).sum() / (2 * normalizer)
