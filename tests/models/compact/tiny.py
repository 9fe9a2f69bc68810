"""Small compact models with random weights, and pictures for them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.models.compact.checkpoint import CompactCheckpoint, CompactConfig
from robometer_rl.models.compact.inference import CompactModel
from robometer_rl.models.compact.network import NetworkShape
from robometer_rl.models.compact.tower import EfficientNetTower

TASK = "open the drawer"
SHAPE = NetworkShape(channels=8, keypoints=4, history=4, words=4, hidden=8, heads=2)


def tiny_checkpoint(resolution: int = 32) -> CompactCheckpoint:
    torch.manual_seed(0)
    checkpoint = CompactCheckpoint.build(
        CompactConfig((TASK, "close the drawer"), shape=SHAPE, resolution=resolution), EfficientNetTower(resolution)
    )
    # Answers that depend on what is seen: with usual random weights, signals fade from layer to layer.
    for layer in checkpoint.tower.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    with torch.no_grad():
        for weight in checkpoint.network.heads.weights:
            weight.mul_(8.0)
    for part in (checkpoint.tower, checkpoint.network, checkpoint.familiarity):
        part.eval().requires_grad_(False)
    return checkpoint


def tiny_model() -> CompactModel:
    return CompactModel(tiny_checkpoint(), "tests/compact", "tiny")


def pictures(count: int, seed: int = 0, height: int = 24, width: int = 40) -> NDArray[np.uint8]:
    """Coarse random patterns: what a network of few pixels can tell apart."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, height // 8, width // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)
