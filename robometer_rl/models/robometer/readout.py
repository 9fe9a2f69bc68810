"""From what the heads read to checked numbers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.models.robometer.heads import decode_progress
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.prediction import NonFiniteOutputError, StepPrediction

__all__ = ["frame_values", "require_finite"]


def frame_values(
    network: RobometerNetwork, progress: torch.Tensor, success: torch.Tensor, where: str
) -> StepPrediction:
    """Progress, success probability and progress distribution of raw head outputs.

    Args:
        network: Says whether progress is a distribution.
        progress: (F, bins) logits, or (F,) values of a continuous head.
        success: (F,) logits.
        where: What the F frames are, for error messages.

    Raises:
        NonFiniteOutputError: NaN or infinity in an output.
    """
    if network.config.discrete:
        value, distribution = decode_progress(progress)
    else:
        value, distribution = progress.float().clamp(0.0, 1.0), progress.new_zeros((len(progress), 0))
    arrays = [part.float().cpu().numpy() for part in (value, success.float().sigmoid(), distribution)]
    require_finite("progress", arrays[0], where)
    require_finite("success", arrays[1], where)
    return StepPrediction(*arrays)


def require_finite(name: str, values: NDArray[np.float32], where: str) -> None:
    """Raises `NonFiniteOutputError` if one of ``values`` is NaN or infinite, naming which."""
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values)).tolist()
        raise NonFiniteOutputError(f"the model gave {name} that is not finite: {where}, entries {bad}")
