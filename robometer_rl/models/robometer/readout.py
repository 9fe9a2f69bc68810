"""From what the heads read to checked numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.models.robometer.heads import decode_progress
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.prediction import NonFiniteOutputError, StepPrediction

__all__ = ["frame_values", "require_finite"]


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
    progress, success = progress.float().cpu(), success.float().cpu()
    # As the heads gave them: a sigmoid would make a number of infinity.
    require_finite("progress", progress.numpy(), names)
    require_finite("success", success.numpy(), names)
    if network.config.discrete:
        value, distribution = decode_progress(progress)
    else:
        value, distribution = progress.clamp(0.0, 1.0), progress.new_zeros((len(progress), 0))
    return StepPrediction(value.numpy(), success.sigmoid().numpy(), distribution.numpy())


def require_finite(what: str, values: NDArray[np.float32], names: Sequence[str]) -> None:
    """Raises `NonFiniteOutputError` if an entry of ``values`` (first axis) is NaN or infinite, naming which."""
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        bad = "; ".join(names[int(index)] for index in np.flatnonzero(~finite)[:8])
        raise NonFiniteOutputError(f"the model gave {what} that is not finite for {bad}")
