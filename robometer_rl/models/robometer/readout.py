"""From what the heads read to checked numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from robometer_rl.models.robometer.heads import decode_progress
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.prediction import StepPrediction

__all__ = ["frame_values", "probabilities"]


def frame_values(
    network: RobometerNetwork, progress: torch.Tensor, success: torch.Tensor, names: Sequence[str]
) -> StepPrediction:
    """Progress, success probability and progress distribution of raw head outputs.

    Args:
        network: Says whether progress is a distribution.
        progress: (F, bins) logits, or (F,) values of a continuous head.
        success: (F,) logits.
        names: What the F frames are, for error messages.

    Raises:
        NonFiniteOutputError: NaN or infinity in an output.
    """
    progress = _overflow_as_nan(progress)
    if network.config.discrete:
        value, distribution = decode_progress(progress)
    else:
        value, distribution = progress.clamp(0.0, 1.0), progress.new_zeros((len(progress), 0))
    return StepPrediction(value.numpy(), probabilities(success).numpy(), distribution.numpy(), names)


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Of logits of a yes-no question, float32 on the host; NaN where the network has overflowed."""
    return _overflow_as_nan(logits).sigmoid()


def _overflow_as_nan(outputs: torch.Tensor) -> torch.Tensor:
    """A sigmoid would make 1 of infinity, which is an overflow and no certainty."""
    outputs = outputs.float().cpu()
    return outputs.where(outputs.isfinite(), torch.nan)
