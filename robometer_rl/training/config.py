"""What a training run is asked to do."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Final, Literal

from robometer_rl.data.targets import TargetConfig
from robometer_rl.ranges import require_counts, require_numbers
from robometer_rl.training.sampling import SamplingConfig

__all__ = [
    "HEAD_DIM",
    "VISION_HEAD_DIM",
    "LoRA",
    "LossWeights",
    "NetworkShape",
    "Selection",
    "StageConfig",
    "TrainConfig",
    "VisionPretraining",
]

HEAD_DIM: Final = 64
"""Width of a head of the decoder."""

VISION_HEAD_DIM: Final = 32
"""Width of a head of the vision tower."""

_PIXELS_PER_TOKEN: Final = 32  # of a side: patches of 16 pixels, merged by squares of 2


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of the backbone; the defaults are those of robometer-mini.

    Attributes:
        hidden: Width of the decoder, a multiple of 64.
        layers: Of the decoder.
        feed_forward: Width inside a decoder layer.
        key_value_heads: Of the decoder; it has ``hidden // 64`` query heads.
        vision_hidden: Width of the vision tower, a multiple of 32.
        vision_layers: Of the vision tower.
        vision_feed_forward: Width inside a vision layer.
        deepstack: Vision layers whose output is also given to the decoder's first layers.
        side: Frames are brought close to this many pixels a side, keeping their shape.
    """

    hidden: int = 256
    layers: int = 4
    feed_forward: int = 512
    key_value_heads: int = 2
    vision_hidden: int = 160
    vision_layers: int = 5
    vision_feed_forward: int = 512
    deepstack: tuple[int, ...] = (2,)
    side: int = 128

    def __post_init__(self) -> None:
        require_counts(self, 1, "hidden", "layers", "feed_forward", "key_value_heads")
        require_counts(self, 1, "vision_hidden", "vision_layers", "vision_feed_forward")
        require_counts(self, 2 * _PIXELS_PER_TOKEN, "side")
        for name, width, head in (
            ("hidden", self.hidden, HEAD_DIM),
            ("vision_hidden", self.vision_hidden, VISION_HEAD_DIM),
        ):
            if width % head:
                raise ValueError(f"{name} must be a multiple of {head}, got {width}")
        if (self.hidden // HEAD_DIM) % self.key_value_heads:
            raise ValueError(
                f"key_value_heads must divide the {self.hidden // HEAD_DIM} query heads of a decoder of width "
                f"{self.hidden}, got {self.key_value_heads}"
            )
        inside = [layer for layer in self.deepstack if 0 <= layer < self.vision_layers]
        if len(set(inside)) < len(self.deepstack) or len(self.deepstack) > self.layers:
            raise ValueError(
                f"deepstack must name different vision layers from 0 to {self.vision_layers - 1}, at most one for each "
                f"of the {self.layers} decoder layers, got {self.deepstack}"
            )


_RENAMED: Final = {
    "ranking_accuracy": "success_above_failure",
    "tau_a": "final_tau_a",
    "preference_accuracy": "preference_accuracy_mean",
}
"""Metrics of evaluation during training in version 0.1, and those of `evaluate` that stand in for them."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the three losses.

    Attributes:
        progress: Of frame-level progress. The published model was trained with 1 / clip length.
        success: Of frame-level success.
        preference: Of pairs.
        grounding: Of the auxiliary loss, naming the task said and the task shown, which teaches a new decoder to read;
            see `robometer_rl.training.objective.AuxiliaryTaskLoss`.
            0 for networks that come from a language model.
        legacy: Take the losses as the reference does: success without balancing its classes, progress divided by the
            length of its clip once more, and of a pair only the first trajectory.
    """

    progress: float = 1.0
    success: float = 0.5
    preference: float = 1.0
    grounding: float = 0.3
    legacy: bool = False

    def __post_init__(self) -> None:
        names = ("progress", "success", "preference", "grounding")
        require_numbers(self, "[0, inf)", *names)
        if not any(getattr(self, name) for name in names):
            raise ValueError(f"one of the weights {', '.join(names)} of LossWeights must be above 0, got 0 for all")


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

    steps: int = 2600
    batch_size: int = 32
    learning_rate: float = 8e-4
    weight_decay: float = 0.05
    warmup: float = 0.05

    def __post_init__(self) -> None:
        require_counts(self, 0, "steps")
        require_counts(self, 1, "batch_size")
        _require_schedule(self)


@dataclass(frozen=True)
class StageConfig:
    """One stage of training on clips and pairs.

    Attributes:
        steps: Optimiser steps; 0 leaves the stage out.
        batch_size: Samples per forward pass of a process.
        accumulate: Forward passes per step; losses are normalised over all of them, in all processes.
        learning_rate: Peak of a cosine schedule, for everything but the vision tower.
        vision_learning_rate: The same for the vision tower; None freezes it, and its features are cached.
        weight_decay: On matrices only.
        warmup: Part of the steps in which the learning rate rises.
        max_grad_norm: Gradients are clipped to this norm; 0 leaves them as they are.
        bucket_batches: Samples of so many consecutive batches are exchanged between these, so that each has samples of
            like length and little padding; 1 leaves them as they are drawn. The samples of a stage are the same.
        gradient_checkpointing: Compute layers again in the backward pass instead of keeping what they computed.
    """

    steps: int = 4000
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 1e-3
    vision_learning_rate: float | None = None
    weight_decay: float = 0.05
    warmup: float = 0.05
    max_grad_norm: float = 1.0
    bucket_batches: int = 1
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        require_counts(self, 0, "steps")
        require_counts(self, 1, "batch_size", "accumulate", "bucket_batches")
        _require_schedule(self)
        require_numbers(self, "[0, inf)", "max_grad_norm")
        if self.vision_learning_rate is not None:
            require_numbers(self, "(0, 1e30]", "vision_learning_rate")


def _require_schedule(stage: VisionPretraining | StageConfig) -> None:
    require_numbers(stage, "(0, 1e30]", "learning_rate")  # more is not in float32 any more
    require_numbers(stage, "[0, inf)", "weight_decay")
    require_numbers(stage, "[0, 1]", "warmup")


@dataclass(frozen=True)
class LoRA:
    """Trains small matrices beside the weights of the start checkpoint, and the heads, instead of all weights.

    The defaults are the reference's. What is saved is an adapter that refers to the start checkpoint, unless weights of
    the backbone are trained besides.

    Attributes:
        rank: Of the matrices; 0 trains all weights.
        alpha: What they compute is scaled by ``alpha / rank``.
        dropout: Of their inputs.
        part: The part of the backbone that they adapt.
        targets: Names of the layers that they adapt.
        new_tokens: Also train the rows of the tokens that prompts use and language models do not know. Needed where the
            start is a language model, for which they are random numbers.
    """

    rank: int = 0
    alpha: int = 64
    dropout: float = 0.05
    part: Literal["language_model", "visual"] = "language_model"
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    new_tokens: bool = False

    def __post_init__(self) -> None:
        require_counts(self, 0, "rank")
        require_counts(self, 1, "alpha")
        require_numbers(self, "[0, 1)", "dropout")
        if self.rank and not self.targets:
            raise ValueError("targets of LoRA must name at least one layer, such as q_proj; got none")
        if self.new_tokens and self.part == "visual":
            raise ValueError("new_tokens are rows of the language model; the LoRA adapts the vision tower")


@dataclass(frozen=True)
class Selection:
    """Evaluation during training on episodes that are not trained on; the best checkpoints are kept.

    Attributes:
        every: Steps between evaluations; 0 leaves them out.
        metrics: Names in `robometer_rl.training.validation.METRICS`; their mean is what checkpoints are compared by.
        split: Split of the store to evaluate on; the episodes kept out of training by ``validation_fraction`` if None.
        episodes: At most so many, taken from all tasks alike.
        keep: How many of the best checkpoints to keep.
    """

    every: int = 0
    metrics: tuple[str, ...] = ("voc_pearson", "success_above_failure", "success_auroc")
    split: str | None = None
    episodes: int = 60
    keep: int = 3

    def __post_init__(self) -> None:
        if self.every and not self.metrics:
            raise ValueError("evaluation during training needs the name of at least one metric")
        for old in sorted(set(self.metrics) & set(_RENAMED)):
            message = f"the metric {old} is now {_RENAMED[old]}, as in `evaluate`; the old name goes with version 0.3"
            warnings.warn(message, DeprecationWarning, stacklevel=3)
        object.__setattr__(self, "metrics", tuple(_RENAMED.get(name, name) for name in self.metrics))
        require_counts(self, 0, "every")
        require_counts(self, 1, "episodes", "keep")


@dataclass(frozen=True)
class TrainConfig:
    """Trains a Robometer on a store of trajectories; the defaults make robometer-mini.

    Stages that are finished are not repeated, and one that was interrupted goes on from its last save: run the same
    command again.

    Attributes:
        data: Stores of trajectories, or published data where it lies, as in ``rbm:processed_datasets``.
        weights: How often samples begin with an episode of each of them, relative to each other, as in ``2 1``; as
            often as each has tasks if not given.
        select: Of published data only these groups or collections, as in ``rbm-1m-id``.
        exclude: Flags that were set in the studio, as in ``outputs/studio/flags.jsonl``: flagged episodes are left out
            of training and of what is held out of it.
        split: The split of them to train on.
        data_sources: Only trajectories of these data sources; of all if none is named.
        output: Directory of the run; the finished checkpoint is in ``output/checkpoint``.
        preferences: Answers that people gave in the studio, as in ``outputs/studio/preferences.jsonl``: pairs that they
            compared are drawn beside those that the data make, as most of them said. Where ``sampling.pairs.human``
            does not say how often, half of the pairs are of people.
        start: Checkpoint to start from, as `load_reward_model` takes it, or a Qwen3-VL, which is given the new tokens
            and heads of a Robometer; a new network if None.
        lora: Train an adapter of the start checkpoint instead of all of its weights.
        shape: Sizes of a new network.
        pretraining: Of a new network's vision tower.
        frozen: Training with the vision tower frozen.
        joint: Training of everything together, afterwards; left out by default.
        sampling: What clips and pairs are made of.
        targets: What their frames should say.
        losses: Loss weights.
        selection: Evaluation during training.
        feature_views: Versions of every frame that are cached for a frozen tower, the first of them unchanged.
        augment: Change light, colour and camera of clips where the tower is trained.
        validation_fraction: Part of the successful and of the other episodes of each task that is kept out of training
            to calibrate the success threshold.
        seed: Everything random is drawn from it.
        bf16: Compute in bfloat16; weights that are trained stay in float32.
        workers: Processes of each training process that read frames and make batches while it computes; 0 for none, so
            that it waits for every batch. They change nothing else, and a run goes on with another number of them.
        save_every: Steps between saves.
        log_every: Steps between log lines.
        report_to: Where the Trainer reports losses and metrics besides: ``tensorboard``, ``wandb``, or another of its
            integrations.
    """

    data: tuple[Path, ...]
    output: Path
    weights: tuple[float, ...] = ()
    select: tuple[str, ...] = ()
    exclude: Path | None = None
    split: str = "train"
    data_sources: tuple[str, ...] = ()
    preferences: Path | None = None
    start: str | None = None
    lora: LoRA = field(default_factory=LoRA)
    shape: NetworkShape = field(default_factory=NetworkShape)
    pretraining: VisionPretraining = field(default_factory=VisionPretraining)
    frozen: StageConfig = field(default_factory=StageConfig)
    joint: StageConfig = field(
        default_factory=lambda: StageConfig(steps=0, batch_size=12, learning_rate=2e-4, vision_learning_rate=1e-4)
    )
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    targets: TargetConfig = field(default_factory=TargetConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    selection: Selection = field(default_factory=Selection)
    feature_views: int = 2
    augment: bool = True
    validation_fraction: float = 0.1
    seed: int = 0
    bf16: bool = True
    workers: int = 0
    save_every: int = 200
    log_every: int = 25
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.data, str | Path):  # one place, in Python
            object.__setattr__(self, "data", (Path(self.data),))
        if not self.data:
            raise ValueError("data must name at least one store, or published data as in rbm:DIRECTORY; got none")
        if self.weights and len(self.weights) != len(self.data):
            raise ValueError(
                f"weights must be one number for each of the {len(self.data)} places in data, got {len(self.weights)}"
            )
        if not all(0 < weight < math.inf for weight in self.weights):
            raise ValueError(f"weights must be numbers above 0, got {self.weights}; leave out what is not to be drawn")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be from 0 to {2**32 - 1}, got {self.seed}")
        require_counts(self, 0, "workers")
        require_counts(self, 1, "save_every", "log_every", "feature_views")
        require_numbers(self, "[0, 1)", "validation_fraction")
        if self.frozen.vision_learning_rate is not None:
            raise ValueError("the frozen stage has no vision learning rate: its vision features are cached")
        if self.start is not None and self.pretraining.steps:
            raise ValueError("vision pre-training is for new networks; with a start checkpoint set its steps to 0")
        if self.frozen.steps and self.augment and self.feature_views == 1:
            raise ValueError(
                "the frozen stage reads cached features of unchanged frames, so that augment has no effect; cache "
                "changed ones too (feature_views of at least 2), or set augment to False"
            )
        self._draw_human_pairs()
        if self.selection.every and self.selection.split is None and not self.validation_fraction:
            raise ValueError("evaluation during training needs a split, or a validation_fraction above 0")
        if self.lora.rank:
            self._check_lora()

    def _draw_human_pairs(self) -> None:
        """Draws pairs of people where there are any, and only there."""
        pairs = self.sampling.pairs
        if self.preferences is None and pairs.human:
            raise ValueError("sampling.pairs.human is about pairs that people compared; name them with preferences")
        if self.preferences is None or pairs.human:
            return
        if not self.sampling.pair_fraction:
            raise ValueError("preferences are learned from pairs; set sampling.pair_fraction above 0")
        others = sum(getattr(pairs, each.name) for each in fields(pairs))
        sampling = replace(self.sampling, pairs=replace(pairs, human=others or 1.0))
        object.__setattr__(self, "sampling", sampling)

    def _check_lora(self) -> None:
        if self.start is None:
            raise ValueError("a LoRA adapts a start checkpoint; none is given")
        tower_is_trained = self.joint.steps and self.joint.vision_learning_rate is not None
        if self.lora.part == "visual" and (self.frozen.steps or not tower_is_trained):
            raise ValueError(
                "a LoRA of the vision tower is trained in the joint stage with its vision_learning_rate; set the steps "
                "of the frozen stage, whose features are cached, to 0"
            )
