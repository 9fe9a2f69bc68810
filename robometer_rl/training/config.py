"""What a training run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from robometer_rl.data.sampling import SamplingConfig
from robometer_rl.training.shape import NetworkShape

__all__ = ["LossWeights", "StageConfig", "TrainConfig", "VisionPretraining"]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the three losses.

    Attributes:
        progress: Of frame-level progress. The published model was trained with 1 / clip length.
        success: Of frame-level success.
        preference: Of pairs.
        grounding: Of naming the task said and the task shown, which teaches a new decoder to read; see `grounding`.
            0 for networks that come from a language model.
    """

    progress: float = 1.0
    success: float = 0.5
    preference: float = 1.0
    grounding: float = 0.3


@dataclass(frozen=True)
class VisionPretraining:
    """Pre-trains the vision tower of a new network by reading the simulator's state off single frames.

    Attributes:
        steps: Optimiser steps; 0 leaves the stage out.
        batch_size: Frames per step.
        learning_rate: Peak of a cosine schedule.
        weight_decay: On matrices only.
        warmup: Part of the steps in which the learning rate rises.
    """

    steps: int = 2500
    batch_size: int = 32
    learning_rate: float = 8e-4
    weight_decay: float = 0.05
    warmup: float = 0.05


@dataclass(frozen=True)
class StageConfig:
    """One stage of training on clips and pairs.

    Attributes:
        steps: Optimiser steps; 0 leaves the stage out.
        batch_size: Samples per forward pass.
        accumulate: Forward passes per step; losses are normalised over all of them.
        learning_rate: Peak of a cosine schedule, for everything but the vision tower.
        vision_learning_rate: The same for the vision tower; None freezes it, and its features are cached.
        weight_decay: On matrices only.
        warmup: Part of the steps in which the learning rate rises.
        max_grad_norm: Gradients are clipped to this norm.
    """

    steps: int = 850
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 1e-3
    vision_learning_rate: float | None = None
    weight_decay: float = 0.05
    warmup: float = 0.05
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class TrainConfig:
    """Trains a Robometer on a store of trajectories; the defaults make robometer-mini.

    Stages that are finished are not repeated, and one that was interrupted goes on from its last save: run the same
    command again.

    Attributes:
        data: Store of trajectories.
        split: The split of them to train on.
        output: Directory of the run; the finished checkpoint is in ``output/checkpoint``.
        start: Checkpoint to start from; a new network if None.
        shape: Sizes of a new network.
        pretraining: Of a new network's vision tower.
        frozen: Training with the vision tower frozen.
        joint: Training of everything together, afterwards; left out by default.
        sampling: What clips and pairs are made of.
        losses: Loss weights.
        feature_views: Versions of every frame that are cached for a frozen tower, the first of them unchanged.
        augment: Change light, colour and camera of clips where the tower is trained.
        validation_fraction: Part of the successful and of the other episodes of each task that is kept out of training
            to calibrate the success threshold.
        seed: Everything random is drawn from it.
        bf16: Compute in bfloat16; weights stay in float32.
        save_every: Steps between saves.
        log_every: Steps between log lines.
    """

    data: Path
    output: Path
    split: str = "train"
    start: Path | None = None
    shape: NetworkShape = field(default_factory=NetworkShape)
    pretraining: VisionPretraining = field(default_factory=VisionPretraining)
    frozen: StageConfig = field(default_factory=StageConfig)
    joint: StageConfig = field(
        default_factory=lambda: StageConfig(steps=0, batch_size=12, learning_rate=2e-4, vision_learning_rate=1e-4)
    )
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    feature_views: int = 2
    augment: bool = True
    validation_fraction: float = 0.1
    seed: int = 0
    bf16: bool = True
    save_every: int = 200
    log_every: int = 25

    def __post_init__(self) -> None:
        if self.feature_views < 1:
            raise ValueError(f"feature_views must be at least 1, got {self.feature_views}")
        if not 0.0 <= self.validation_fraction < 1.0:
            raise ValueError(f"validation_fraction must be in [0, 1), got {self.validation_fraction}")
        if self.frozen.vision_learning_rate is not None:
            raise ValueError("the frozen stage has no vision learning rate: its vision features are cached")
        if self.start is not None and self.pretraining.steps:
            raise ValueError("vision pre-training is for new networks; with a start checkpoint set its steps to 0")
