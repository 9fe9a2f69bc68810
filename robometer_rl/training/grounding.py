"""A help for decoders that have never read: name the task that is said, and the task that is shown.

Whether an instruction fits a video is a function of both together; neither alone says anything. Gradient descent from
random weights sits on that plateau for a long time. Two linear heads on the frames' tokens that name the task of the
instruction and the task of the video make both readable separately, which is easy; that they agree is then easy too.
The heads are thrown away. A decoder that comes from a language model does not need this.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robometer_rl.data.collate import TrainingBatch
from robometer_rl.models.robometer.network import RobometerNetwork

__all__ = ["Grounding"]


class Grounding(nn.Module):
    """The two heads and their loss.

    Args:
        network: Whose frame tokens are read; those of its last forward passes.
        tasks: How many there are.
    """

    def __init__(self, network: RobometerNetwork, tasks: int) -> None:
        super().__init__()
        hidden = network.model.language_model.config.hidden_size
        self.said = nn.Linear(hidden, tasks)
        self.shown = nn.Linear(hidden, tasks)
        self._frames: list[Tensor] = []
        # What the heads of the network read is not among its outputs.
        network.progress_head.register_forward_pre_hook(self._remember)

    def forward(self, batch: TrainingBatch, normalizer: Tensor | float) -> Tensor:
        """Cross-entropy of both names over all frames of the passes since the last call.

        Args:
            batch: What these passes were about.
            normalizer: What the sum over frames is divided by.
        """
        frames = torch.cat(self._frames)
        self._frames.clear()
        errors = [
            F.cross_entropy(head(frames).float(), names, reduction="sum")
            for head, names in ((self.said, batch.said), (self.shown, batch.shown))
        ]
        return torch.stack(errors).sum() / (2 * normalizer)

    def _remember(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        self._frames.append(inputs[0])
