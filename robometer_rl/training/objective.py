"""What training minimises: the network and its losses as one module, and what the losses are divided by.

Beside the published losses stands an auxiliary one (`AuxiliaryTaskLoss`) for decoders that have never read. Whether an
instruction fits a video is a function of both together; neither alone says anything. Gradient descent from random
weights sits on that plateau for a long time. Two linear heads on the frames' tokens that name the task of the
instruction and the task of the video make both readable separately, which is easy; that they agree is then easy too.
The heads are thrown away. A decoder that comes from a language model does not need this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robometer_rl.models.robometer.checkpoint import Checkpoint
from robometer_rl.models.robometer.network import RobometerOutput
from robometer_rl.training.collate import TrainingBatch
from robometer_rl.training.config import LossWeights
from robometer_rl.training.losses import (
    ClassCounts,
    ProgressLossType,
    count_classes,
    preference_loss,
    progress_loss,
    success_loss,
)

__all__ = ["AuxiliaryTaskLoss", "Objective", "TargetCounts", "count_targets", "legacy_losses"]


class AuxiliaryTaskLoss(nn.Module):
    """Two heads that name the tasks, and their loss.

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


class TargetCounts(NamedTuple):
    """What the losses of one optimiser step are divided by; scalars."""

    frames: Tensor
    progress: Tensor
    positives: Tensor
    negatives: Tensor
    pairs: Tensor


def count_targets(batches: Sequence[TrainingBatch]) -> TargetCounts:
    """Counts over all micro-batches of a step."""
    classes = [count_classes(batch.success, batch.success_mask) for batch in batches]
    return TargetCounts(
        torch.tensor(float(sum(len(batch.progress) for batch in batches))),
        torch.stack([batch.progress_mask.sum() for batch in batches]).sum(),
        torch.stack([count.positives for count in classes]).sum(),
        torch.stack([count.negatives for count in classes]).sum(),
        torch.tensor(float(sum(len(batch.preference) for batch in batches))),
    )


class Objective(nn.Module):
    """The network and its losses: progress and success of every frame shown, and the preference of pairs.

    Both trajectories of a pair are supervised, unless the weights ask for the reference's losses.

    Args:
        checkpoint: The network to train.
        weights: Of the losses.
        tasks: How many tasks there are to name, see `AuxiliaryTaskLoss`.
    """

    accepts_loss_kwargs = True
    """Tells the Trainer that the loss is normalised over all micro-batches of a step."""

    def __init__(self, checkpoint: Checkpoint, weights: LossWeights, tasks: int = 1) -> None:
        super().__init__()
        self.network = checkpoint.network
        self.weights = weights
        hidden = checkpoint.network.model.language_model.config.hidden_size
        self.grounding = AuxiliaryTaskLoss(hidden, tasks) if weights.grounding else None
        self._sums: dict[str, float] = defaultdict(float)

    def forward(self, batch: TrainingBatch, num_items_in_batch: TargetCounts | None = None) -> dict[str, Tensor]:
        """The weighted loss of a batch.

        Args:
            batch: Clips, pairs and their targets.
            num_items_in_batch: What to divide by; this batch's own counts by default.
        """
        counts = num_items_in_batch or count_targets([batch])
        outputs = [self.network(inputs) for inputs in (batch.clips, batch.pairs) if inputs is not None]
        if self.weights.legacy:
            losses = legacy_losses(outputs, batch, self.network.config.progress_type)
        else:
            losses = self._losses(outputs, batch, counts)
        if self.grounding is not None:
            losses["grounding"] = self.grounding([output.frames for output in outputs], batch, counts.frames)
        if torch.is_grad_enabled():  # what is logged is the training
            self._note(losses, outputs[-1].preference, batch)
        return {"loss": torch.stack([getattr(self.weights, name) * loss for name, loss in losses.items()]).sum()}

    def _losses(
        self, outputs: Sequence[RobometerOutput], batch: TrainingBatch, counts: TargetCounts
    ) -> dict[str, Tensor]:
        progress = torch.cat([output.progress for output in outputs]).float()
        success = torch.cat([output.success for output in outputs]).float()
        preference = outputs[-1].preference
        if preference is None:
            # No pairs, but all processes have to agree on which weights get a gradient, if only of 0.
            preference = self.network.preference_head(outputs[-1].frames[:0]).squeeze(-1)
        kind = self.network.config.progress_type
        classes = ClassCounts(counts.positives, counts.negatives)
        return {
            "progress": progress_loss(progress, batch.progress, batch.progress_mask, kind, counts.progress),
            "success": success_loss(success, batch.success, batch.success_mask, classes),
            "preference": preference_loss(preference.float(), batch.preference, counts.pairs),
        }

    def _note(self, losses: dict[str, Tensor], preference: Tensor | None, batch: TrainingBatch) -> None:
        for name, loss in losses.items():
            self._sums[name] += loss.item()
        if preference is not None:
            self._sums["pairs"] += len(batch.preference)
            self._sums["right_pairs"] += ((preference > 0) == (batch.preference > 0.5)).sum().item()

    def take_sums(self) -> dict[str, float]:
        """The parts of the loss, pairs shown and pairs judged rightly: added up since the last call."""
        parts = ("progress", "success", "preference", *(["grounding"] if self.grounding else []))
        sums = {name: self._sums[name] for name in (*parts, "pairs", "right_pairs")}
        self._sums.clear()
        return sums


def legacy_losses(
    outputs: Sequence[RobometerOutput], batch: TrainingBatch, loss_type: ProgressLossType
) -> dict[str, Tensor]:
    """The reference's losses, for runs that must reproduce its numbers (docs/reference.md §7.2).

    Clips and pairs are averaged separately and added up. Of a pair only the first trajectory is supervised. Progress is
    divided by the number of frames of a clip once more than its mean, and success is not balanced.

    Args:
        outputs: Of the batch's clips and of its pairs, as far as it has them, in this order.
        batch: Targets.
        loss_type: Of progress.

    Returns:
        Progress, success and, with pairs, preference: scalars by name.
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
