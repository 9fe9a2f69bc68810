"""One stage of training: the objective as a module, and a small subclass of the Hugging Face Trainer."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from robometer_rl.data.collate import Collator, TrainingBatch
from robometer_rl.data.sampling import Sample, Sampler
from robometer_rl.models.robometer.checkpoint import Checkpoint, save_checkpoint
from robometer_rl.training.config import LossWeights, StageConfig
from robometer_rl.training.grounding import Grounding, frame_tokens
from robometer_rl.training.losses import ClassCounts, count_classes, preference_loss, progress_loss, success_loss

__all__ = [
    "LogLines",
    "Objective",
    "RobometerTrainer",
    "SampleDataset",
    "TargetCounts",
    "count_targets",
    "has_save",
    "run_stage",
    "training_arguments",
]

logger = logging.getLogger(__name__)

_GROUNDING_FILE = "grounding.safetensors"


class TargetCounts(NamedTuple):
    """What the losses of one optimiser step are divided by; scalars."""

    frames: Tensor
    progress: Tensor
    positives: Tensor
    negatives: Tensor
    pairs: Tensor


def count_targets(batches: list[TrainingBatch]) -> TargetCounts:
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

    Both trajectories of a pair are supervised.

    Args:
        checkpoint: The network to train.
        weights: Of the losses.
        tasks: How many tasks there are to name, see `Grounding`.
    """

    accepts_loss_kwargs = True
    """Tells the Trainer that the loss is normalised over all micro-batches of a step."""

    def __init__(self, checkpoint: Checkpoint, weights: LossWeights, tasks: int = 1) -> None:
        super().__init__()
        self.network = checkpoint.network
        self.weights = weights
        hidden = checkpoint.network.model.language_model.config.hidden_size
        self.grounding = Grounding(hidden, tasks) if weights.grounding else None
        self.parts: dict[str, list[float]] = defaultdict(list)

    def forward(self, batch: TrainingBatch, num_items_in_batch: TargetCounts | None = None) -> dict[str, Tensor]:
        """The weighted loss of a batch.

        Args:
            batch: Clips, pairs and their targets.
            num_items_in_batch: What to divide by; this batch's own counts by default.
        """
        counts = num_items_in_batch or count_targets([batch])
        with frame_tokens(self.network) as tokens:
            outputs = [self.network(inputs) for inputs in (batch.clips, batch.pairs) if inputs is not None]
        progress = torch.cat([output.progress for output in outputs]).float()
        success = torch.cat([output.success for output in outputs]).float()
        kind = self.network.config.progress_type
        losses = {
            "progress": progress_loss(progress, batch.progress, batch.progress_mask, kind, counts.progress),
            "success": success_loss(
                success, batch.success, batch.success_mask, ClassCounts(counts.positives, counts.negatives)
            ),
        }
        if batch.pairs is not None:
            preference = outputs[-1].preference.float()
            losses["preference"] = preference_loss(preference, batch.preference, counts.pairs)
            right = (preference > 0) == (batch.preference > 0.5)
            self.parts["preference_accuracy"].append(right.float().mean().item())
        if self.grounding is not None:
            losses["grounding"] = self.grounding(tokens, batch, counts.frames)
        for name, loss in losses.items():
            self.parts[name].append(loss.item())
        weights = asdict(self.weights)
        return {"loss": torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()}

    def take_parts(self) -> dict[str, float]:
        """Means of the parts of the loss since the last call."""
        means = {name: sum(values) / len(values) for name, values in self.parts.items()}
        self.parts.clear()
        return means


class LogLines(TrainerCallback):
    """Writes the Trainer's log to the package's logger; takes the place of its own callback, which prints."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """One line per log entry."""
        values = ", ".join(f"{name} {value:.4g}" for name, value in (logs or {}).items())
        logger.info("step %d of %d: %s", state.global_step, state.max_steps, values)

    @classmethod
    def attach(cls, trainer: Trainer) -> None:
        """Puts it in the place of the printing callback."""
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(cls())


class SampleDataset(Dataset[Sample]):
    """Samples of one stage in their order; the position alone decides what a sample is.

    Args:
        sampler: Draws the samples.
        length: How many.
        stage: Stands for the epoch, so that stages do not repeat each other's samples.
    """

    def __init__(self, sampler: Sampler, length: int, stage: int) -> None:
        self._sampler = sampler
        self._length = length
        self._stage = stage

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return self._sampler.sample(self._stage, index)


class RobometerTrainer(Trainer):
    """Trains an `Objective`; every save is a complete checkpoint that `load_reward_model` loads.

    Args:
        objective: What to train.
        checkpoint: The checkpoint that the objective's network belongs to.
        vision_learning_rate: Of the vision tower; None if it is frozen.
        kwargs: As for the Trainer.
    """

    def __init__(
        self, objective: Objective, checkpoint: Checkpoint, vision_learning_rate: float | None, **kwargs: Any
    ) -> None:
        super().__init__(model=objective, **kwargs)
        LogLines.attach(self)
        self.objective = objective
        self.checkpoint = checkpoint
        self.vision_learning_rate = vision_learning_rate

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro-batches of a step, and the counts that normalise their losses, over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        counts = torch.stack(count_targets([entry["batch"] for entry in batches])).to(device)
        if self.args.world_size > 1:
            gathered = self.accelerator.gather(counts[None])
            assert isinstance(gathered, Tensor)
            counts = gathered.sum(dim=0)
        return batches, TargetCounts(*counts)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with weight decay on matrices only, and a learning rate of its own for the vision tower."""
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(
                _parameter_groups(self.objective, self.args.weight_decay, self.vision_learning_rate),
                lr=self.args.learning_rate,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                eps=self.args.adam_epsilon,
            )
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the parts of the loss."""
        super().log({**logs, **self.objective.take_parts()}, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        directory = Path(output_dir or str(self.args.output_dir))
        save_checkpoint(directory, self.checkpoint)
        if self.objective.grounding is not None:
            save_file(self.objective.grounding.state_dict(), directory / _GROUNDING_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        directory = Path(resume_from_checkpoint)
        self.checkpoint.network.load_state_dict(load_file(directory / "model.safetensors"))
        if self.objective.grounding is not None:
            self.objective.grounding.load_state_dict(load_file(directory / _GROUNDING_FILE))


def run_stage(
    checkpoint: Checkpoint,
    sampler: Sampler,
    collator: Collator,
    stage: StageConfig,
    weights: LossWeights,
    arguments: TrainingArguments,
    number: int,
) -> None:
    """Trains ``checkpoint`` in place; goes on from the last save in the arguments' output directory, if there is one.

    Args:
        checkpoint: What to train.
        sampler: Draws samples.
        collator: Makes batches of them.
        stage: How long and how fast.
        weights: Of the losses.
        arguments: See `training_arguments`.
        number: Of the stage; no two stages of a run have one number.
    """
    network = checkpoint.network
    network.train()
    network.requires_grad_(True)
    network.model.visual.requires_grad_(stage.vision_learning_rate is not None)
    if not sampler.config.pair_fraction:
        network.preference_head.requires_grad_(False)
    dataset = SampleDataset(sampler, stage.steps * stage.batch_size * stage.accumulate, number)
    torch.manual_seed(arguments.seed)  # the objective has weights of its own
    trainer = RobometerTrainer(
        Objective(checkpoint, weights, len(sampler.tasks)),
        checkpoint,
        stage.vision_learning_rate,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
    )
    trainer.train(resume_from_checkpoint=has_save(Path(str(arguments.output_dir))))
    network.requires_grad_(True)
    network.eval()


def has_save(directory: Path) -> bool:
    """Whether a stage was interrupted after a save."""
    return any(directory.glob("checkpoint-*/trainer_state.json"))


def training_arguments(
    directory: Path,
    steps: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    warmup: float,
    accumulate: int = 1,
    max_grad_norm: float = 1.0,
    **settings: Any,
) -> TrainingArguments:
    """Arguments that all stages share: a fixed order of samples, a cosine schedule, one save kept."""
    return TrainingArguments(
        output_dir=str(directory),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulate,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_steps=round(warmup * steps),
        lr_scheduler_type="cosine",
        max_grad_norm=max_grad_norm,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        save_total_limit=1,
        disable_tqdm=True,
        report_to=[],
        **settings,
    )


def _parameter_groups(
    objective: Objective, weight_decay: float, vision_learning_rate: float | None
) -> list[dict[str, Any]]:
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and "embed" not in name
            groups[".visual." in name, decays].append(parameter)
    settings = []
    for (vision, decays), parameters in groups.items():
        group: dict[str, Any] = {"params": parameters, "weight_decay": weight_decay if decays else 0.0}
        if vision and vision_learning_rate is not None:
            group["lr"] = vision_learning_rate
        settings.append(group)
    return settings
