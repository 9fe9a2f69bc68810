"""How unlike those of training a picture is: a Mahalanobis distance of mean features (Lee et al., arXiv 1807.03888)."""

from __future__ import annotations

import torch
from torch import nn

from robometer_rl.models.compact.tower import COARSE, FINE, Features

__all__ = ["Familiarity", "pooled"]

_SHRINKAGE = 0.05  # of the covariance towards equal variances: a few episodes do not fill so many dimensions
_MARGIN = 1.5  # by which a picture may be farther away than any that was known


def pooled(features: Features) -> torch.Tensor:
    """(N, channels) means of features over space."""
    return torch.cat([features.fine.mean((2, 3)), features.coarse.mean((2, 3))], 1).float()


class Familiarity(nn.Module):
    """The distribution of mean features in training, and the distance from which a picture is another kind."""

    mean: torch.Tensor
    precision: torch.Tensor
    limit: torch.Tensor

    def __init__(self, size: int = FINE + COARSE) -> None:
        """Nothing is known, of so many channels of fine and coarse features."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("precision", torch.eye(size))
        self.register_buffer("limit", torch.tensor(float("inf")))

    def fit(self, training: torch.Tensor, known: torch.Tensor) -> None:
        """Learns what is familiar.

        Args:
            training: (N, channels) mean features of the pictures of training.
            known: (M, channels) those of others that are of the same kind; the farthest of all sets the limit.
        """
        values = training.double()
        mean = values.mean(0)
        covariance = (values - mean).T @ (values - mean) / max(len(values) - 1, 1)
        size = len(mean)
        variance = covariance.diagonal().mean().clamp_min(1e-12)
        shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * variance * torch.eye(size, dtype=torch.float64)
        self.mean.copy_(mean)
        self.precision.copy_(torch.linalg.inv(shrunk))
        self.limit.fill_(_MARGIN * float(self._distance(torch.cat([training, known])).max().clamp_min(1e-6)))

    def forward(self, means: torch.Tensor) -> torch.Tensor:
        """(N,) distances of (N, channels) mean features, in units of the limit: above 1 is another kind."""
        return self._distance(means) / self.limit

    def _distance(self, means: torch.Tensor) -> torch.Tensor:
        away = means - self.mean
        return ((away @ self.precision) * away).sum(1).clamp_min(0).sqrt()
