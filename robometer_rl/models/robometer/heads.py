"""The heads that read the decoder, and how a frame's patch tokens are pooled where no token follows the frame."""

from __future__ import annotations

import torch
from torch import nn

from robometer_rl.models.robometer.config import FramePooling

__all__ = ["decode_progress", "make_head", "pool_frames"]


def make_head(hidden_size: int, outputs: int, sigmoid: bool = False) -> nn.Sequential:
    """A published head; the indices of its layers are part of the checkpoint's key names (docs/reference.md §2.6)."""
    half = hidden_size // 2
    layers = [nn.Linear(hidden_size, half), nn.LayerNorm(half), nn.GELU(), nn.Dropout(0.1), nn.Linear(half, outputs)]
    return nn.Sequential(*layers, *([nn.Sigmoid()] if sigmoid else []))


def decode_progress(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Expected progress and the distribution it comes from.

    Args:
        logits: (..., bins).

    Returns:
        (...,) expectation over ``linspace(0, 1, bins)``, and (..., bins) probabilities; both float32.
    """
    distribution = logits.float().softmax(dim=-1)
    centres = torch.linspace(0.0, 1.0, logits.shape[-1], device=logits.device)
    return (distribution * centres).sum(dim=-1).clamp(0.0, 1.0), distribution


def pool_frames(
    tokens: torch.Tensor, counts: list[int], pooling: FramePooling, attention: nn.Linear, temperature: float
) -> torch.Tensor:
    """One vector per frame from its patch tokens.

    Args:
        tokens: (sum(counts), hidden) decoder outputs at the patch tokens of all frames in order.
        counts: Tokens of each frame.
        pooling: Mean, last patch ("boundary"), or attention.
        attention: Scores of attention pooling, hidden to 1.
        temperature: Divides the scores.

    Returns:
        (frames, hidden).
    """
    frames = tokens.split(counts)
    if pooling == "mean":
        return torch.stack([frame.mean(dim=0) for frame in frames])
    if pooling == "boundary":
        return torch.stack([frame[-1] for frame in frames])
    weights = [(attention(frame) / temperature).softmax(dim=0) for frame in frames]
    return torch.stack([(weight * frame).sum(dim=0) for weight, frame in zip(weights, frames, strict=True)])
