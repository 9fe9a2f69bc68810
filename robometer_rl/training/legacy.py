"""The reference's loss of a batch, for runs that must reproduce its numbers (docs/reference.md §7.2).

Clips and pairs are averaged separately and added up. Of a pair only the first trajectory is supervised. Progress is
divided by the number of frames of a clip once more than its mean, and success is not balanced.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robometer_rl.models.robometer.network import RobometerOutput
from robometer_rl.training.collate import TrainingBatch
from robometer_rl.training.losses import ProgressLossType, preference_loss, progress_loss, success_loss

__all__ = ["legacy_losses"]


def legacy_losses(
    outputs: Sequence[RobometerOutput], batch: TrainingBatch, loss_type: ProgressLossType
) -> dict[str, Tensor]:
    """Progress, success and, with pairs, preference.

    Args:
        outputs: Of the batch's clips and of its pairs, as far as it has them, in this order.
        batch: Targets.
        loss_type: Of progress.

    Returns:
        Scalars by name.
    """
    counts = [sum(map(sum, output.sides)) for output in outputs]
    targets = zip(
        batch.progress.split(counts),
        batch.progress_mask.split(counts),
        batch.success.split(counts),
        batch.success_mask.split(counts),
        strict=True,
    )
    progress, success = [], []
    for output, (curve, curve_known, labels, labels_known) in zip(outputs, targets, strict=True):
        supervised, lengths = _first_sides(output.sides, curve_known.device)
        known = curve_known * supervised
        # A weight of 1 / T in the sum but not in the count is the extra division by T.
        progress.append(progress_loss(output.progress.float(), curve, known / lengths, loss_type, known.sum()))
        success.append(success_loss(output.success.float(), labels, labels_known * supervised, legacy=True))
    losses = {"progress": torch.stack(progress).sum(), "success": torch.stack(success).sum()}
    preference = outputs[-1].preference
    if batch.pairs is not None and preference is not None:
        losses["preference"] = preference_loss(preference.float(), batch.preference)
    return losses


def _first_sides(sides: Sequence[tuple[int, ...]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Per frame, whether it belongs to the first trajectory of its prompt, and its trajectory's number of frames."""
    runs = [(float(place == 0), length) for prompt in sides for place, length in enumerate(prompt)]
    first, lengths = torch.tensor(runs, device=device).unbind(dim=1)
    repeats = lengths.long()
    return first.repeat_interleave(repeats), lengths.repeat_interleave(repeats)
