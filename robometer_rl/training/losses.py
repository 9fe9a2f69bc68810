"""The three losses of a Robometer, as pure functions (docs/reference.md §7.1, arXiv 2603.02115).

Every loss is a sum over frames or pairs divided by a count. Pass the count of the whole batch as ``normalizer`` when
it arrives in pieces (gradient accumulation, several processes): the pieces then add up to exactly the whole batch's
loss, whatever each piece's masks are. ``legacy=True`` reproduces the reference's numbers, defects included.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ClassCounts", "count_classes", "preference_loss", "progress_loss", "success_loss"]

ProgressLossType = Literal["discrete", "l1", "l2"]

_LOGIT_LIMIT = 50.0
"""Beyond it the gradient of a logistic loss is 0 or 1 in float32; the reference clamps here."""

_EPSILON = 1e-8


def progress_loss(
    predictions: Tensor,
    targets: Tensor,
    mask: Tensor | None = None,
    loss_type: ProgressLossType = "discrete",
    normalizer: Tensor | float | None = None,
    legacy: bool = False,
) -> Tensor:
    """Error of per-frame progress, averaged over the frames that count.

    Args:
        predictions: (..., K) logits over bins if ``discrete``, else (...) values.
        targets: ``discrete``: (..., K) two-hot distributions, or (...) bin numbers; else (...) values.
        mask: (...) or broadcastable to it, 1 for frames that count; all of them by default.
        loss_type: Cross-entropy, absolute or squared error.
        normalizer: What the sum is divided by; the number of frames that count by default.
        legacy: The last axis of the mask's shape is time, and the sum is divided by its length once more, so that the
            loss has 1 / T of its documented scale whenever the mask is per frame.

    Returns:
        Scalar; 0 if no frame counts.
    """
    errors = _progress_errors(predictions, targets, loss_type)
    if mask is None:
        mask = torch.ones_like(errors)
    mask = mask.to(errors.dtype)
    if legacy:
        return (errors * mask).mean(dim=-1).sum() / (mask.sum() + _EPSILON)
    return _mean(errors, mask.expand_as(errors), normalizer)


def _progress_errors(predictions: Tensor, targets: Tensor, loss_type: ProgressLossType) -> Tensor:
    if loss_type == "discrete":
        bins = predictions.shape[-1]
        shape = predictions.shape[:-1]
        flat = targets.reshape(-1, bins) if targets.is_floating_point() else targets.reshape(-1)
        return F.cross_entropy(predictions.reshape(-1, bins), flat, reduction="none").reshape(shape)
    difference = predictions - targets
    return difference.abs() if loss_type == "l1" else difference.square()


class ClassCounts(NamedTuple):
    """How many frames that count are successes and how many are not; scalars."""

    positives: Tensor
    negatives: Tensor


def count_classes(labels: Tensor, mask: Tensor) -> ClassCounts:
    """Counts the frames of each class, for `success_loss` over a batch in pieces."""
    weight = mask.to(torch.float32)
    return ClassCounts((weight * labels).sum(), (weight * (1.0 - labels)).sum())


def success_loss(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor,
    normalizer: ClassCounts | None = None,
    legacy: bool = False,
) -> Tensor:
    """Binary cross-entropy of per-frame success, in which both classes weigh the same.

    Success is rare, so without balancing the loss is mostly about the frames that are easy.

    Args:
        logits: (...).
        labels: (...), 0 or 1.
        mask: (...), 1 for frames that count.
        normalizer: Class counts of the whole batch; those of this piece by default.
        legacy: The plain mean over the frames that count. (The reference weighs the rarer class up and divides the
            weight out again.)

    Returns:
        Scalar; 0 if no frame counts. If only one class is present, its mean.
    """
    labels = labels.to(logits.dtype)
    weight = mask.to(logits.dtype)
    errors = _binary_errors(logits, labels)
    if legacy:
        return _mean(errors, weight, None)
    counts = normalizer or count_classes(labels, weight)
    positives = _mean(errors, weight * labels, counts.positives)
    negatives = _mean(errors, weight * (1.0 - labels), counts.negatives)
    classes = (counts.positives > 0).to(logits.dtype) + (counts.negatives > 0).to(logits.dtype)
    return (positives + negatives) / classes.clamp(min=1.0)


def preference_loss(logits: Tensor, labels: Tensor, normalizer: Tensor | float | None = None) -> Tensor:
    """Binary cross-entropy of pairs.

    Args:
        logits: (B,), positive if the first trajectory is preferred.
        labels: (B,), 1 if the first trajectory is the better one.
        normalizer: What the sum is divided by; B by default.
    """
    errors = _binary_errors(logits, labels.to(logits.dtype))
    return _mean(errors, torch.ones_like(errors), normalizer)


def _binary_errors(logits: Tensor, labels: Tensor) -> Tensor:
    clamped = logits.clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)
    return F.binary_cross_entropy_with_logits(clamped, labels, reduction="none")


def _mean(errors: Tensor, weight: Tensor, normalizer: Tensor | float | None) -> Tensor:
    total = (errors * weight).sum()
    count = weight.sum() if normalizer is None else torch.as_tensor(normalizer, dtype=total.dtype, device=total.device)
    return total / count.clamp(min=1.0)
