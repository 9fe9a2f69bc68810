"""One stage of training: the objective as a module, and a small subclass of the Hugging Face Trainer."""

from __future__ import annotations

import logging
import pickle
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from robometer_rl.files import check_regular
from robometer_rl.models.robometer.adapters import ADAPTER_CONFIG_FILE, adapter_of, read_adapter, restore_adapter
from robometer_rl.models.robometer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.models.robometer.weights import WEIGHTS_FILE, read_file, write_file
from robometer_rl.training.bucketing import Buckets, TokenCounts
from robometer_rl.training.config import LossWeights, StageConfig
from robometer_rl.training.objective import Objective, TargetCounts, count_targets
from robometer_rl.training.samples import Sample
from robometer_rl.training.sampling import Sampler
from robometer_rl.training.sharding import (
    computes_in,
    gathered_weights,
    load_optimizer,
    load_weights,
    optimizer_state,
)
from robometer_rl.training.trainable import choose_trainable, training_precision
from robometer_rl.training.validation import Judge

__all__ = [
    "DamagedSaveError",
    "LogLines",
    "RobometerTrainer",
    "SampleDataset",
    "SavingTrainer",
    "StageData",
    "TrainingDivergedError",
    "last_save",
    "resumed",
    "run_stage",
    "samples_of",
    "training_arguments",
]

logger = logging.getLogger(__name__)

_GROUNDING_FILE = "grounding.safetensors"
_SAVE = f"{PREFIX_CHECKPOINT_DIR}-"
_SHOWN = 500  # letters of what a library says
_SAVE_DAMAGE = (
    pickle.UnpicklingError,
    SafetensorError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


class LogLines(TrainerCallback):
    """Writes the Trainer's log to the package's logger; takes the place of its own callback, which prints."""

    _began = (0, 0.0)  # after which step, and when

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """What went before is no measure of how long the rest takes."""
        self._began = state.global_step, time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """One line per log entry, with the time that is left."""
        values = ", ".join(f"{name} {value:.4g}" for name, value in (logs or {}).items())
        logger.info("step %d of %d%s: %s", state.global_step, state.max_steps, self._time_left(state), values)

    def _time_left(self, state: TrainerState) -> str:
        first, when = self._began
        done, to_do = state.global_step - first, state.max_steps - state.global_step
        if done <= 0 or to_do <= 0:
            return ""
        return f", {timedelta(seconds=round((time.monotonic() - when) / done * to_do))} left"

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
        order: Which of the samples, as drawn, stands in each place; as drawn if None.
    """

    def __init__(self, sampler: Sampler, length: int, stage: int, order: Callable[[int], int] | None = None) -> None:
        self._sampler = sampler
        self._length = length
        self._stage = stage
        self._order = order

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return self._sampler.sample(self._stage, index if self._order is None else self._order(index))


class TrainingDivergedError(ValueError):
    """A loss or a gradient that is NaN or infinite; saves from before are sound."""


class DamagedSaveError(ValueError):
    """A save of a training that cannot be gone on from; the message says which, and what to do."""


class SavingTrainer(Trainer):
    """A Trainer whose saves are whole and can predict, and that says which save it cannot read.

    It leaves no half of a save where the disk is full, and ends with a `TrainingDivergedError` where the loss or the
    norm of the gradient is no number any more, before that is in the weights of a save. Any number of processes goes on
    from a save, however many wrote it.
    """

    _last: tuple[nn.Module, dict[str, Any]] | None = None

    def create_accelerator_and_postprocess(self) -> None:
        """See the Trainer's."""
        super().create_accelerator_and_postprocess()
        plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        if plugin is not None and self.accelerator.mixed_precision == "bf16":
            plugin.mixed_precision_policy = computes_in(torch.bfloat16)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """See the Trainer's."""
        result = super().train(*args, **kwargs)
        self._require_sound()
        return result

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """See the Trainer's."""
        self._last = model, inputs
        loss = super().training_step(model, inputs, *args, **kwargs)
        step = self.state.global_step + 1
        self._require_finite(loss, f"the loss of step {step}")
        if self.accelerator.sync_gradients:  # all passes of the step are in
            gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
            # Before gradients are clipped, which makes zeros of those whose norm is infinite.
            self._require_finite(nn.utils.get_total_norm(gradients), f"the norm of the gradient of step {step}")
        return loss

    def _require_sound(self) -> None:
        """Computes the loss of the last batch once more: no step comes after this one that would notice a bad update.

        Without randomness, so that a training is the same however often it is saved.
        """
        if self._last is None:  # it went on from a save that was its end
            return
        model, inputs = self._last
        was_training = model.training
        model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        model.train(was_training)
        assert isinstance(loss, Tensor)
        self._require_finite(loss, f"the loss after step {self.state.global_step}")

    def _require_finite(self, value: Tensor, what: str) -> None:
        if not torch.isfinite(value).all():
            raise TrainingDivergedError(
                f"{what} is {value.float().mean().item()}: the training has diverged. Lower the learning rate, and "
                "train into another output"
            )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._require_sound()
        save = Path(str(self.args.output_dir)) / f"{_SAVE}{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
        # PyTorch's and safetensors' words for a file that cannot be written.
        except (OSError, RuntimeError, SafetensorError) as error:
            if self.args.should_save:
                shutil.rmtree(save, ignore_errors=True)
            raise OSError(f"{save} could not be saved ({error}); make room and run the same command again") from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with _reading_save(resume_from_checkpoint):
            self._load_weights(resume_from_checkpoint, model)

    def _load_weights(self, save: str, model: nn.Module | None) -> None:
        super()._load_from_checkpoint(save, model)

    def _save_optimizer_and_scheduler(self, output_dir: str | None) -> None:
        assert output_dir is not None
        module, optimizer, scheduler = self._parts_of_a_save()
        state = optimizer_state(module, optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        module, optimizer, scheduler = self._parts_of_a_save()
        with _reading_save(checkpoint):
            load_optimizer(module, optimizer, Path(checkpoint) / OPTIMIZER_NAME)
            scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _parts_of_a_save(self) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
        """What is trained, its optimizer and its schedule."""
        assert isinstance(self.model, nn.Module)
        assert isinstance(self.optimizer, torch.optim.Optimizer)
        return self.model, self.optimizer, self.lr_scheduler

    def _load_scaler(self, checkpoint: str | None) -> None:
        with _reading_save(checkpoint):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _reading_save(checkpoint):
            super()._load_rng_state(checkpoint)


class RobometerTrainer(SavingTrainer):
    """Trains an `Objective`; every save is a complete checkpoint that `load_reward_model` loads.

    Args:
        objective: What to train.
        checkpoint: The checkpoint that the objective's network belongs to.
        vision_learning_rate: Of the vision tower; None if it is frozen.
        validation: What to measure during training.
        kwargs: As for the Trainer.
    """

    def __init__(
        self,
        objective: Objective,
        checkpoint: Checkpoint,
        vision_learning_rate: float | None,
        validation: Judge | None = None,
        **kwargs: Any,
    ) -> None:
        # The Trainer wants a data set where it is to evaluate; what is measured is the validation's business.
        super().__init__(model=objective, eval_dataset=kwargs["train_dataset"] if validation else None, **kwargs)
        LogLines.attach(self)
        self.objective = objective
        self.checkpoint = checkpoint
        self.vision_learning_rate = vision_learning_rate
        self.validation = validation
        self._steps_to_log = 0

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro-batches of a step, and the counts that normalise their losses, over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._steps_to_log += 1
        # The reference averages each forward pass by itself.
        if not batches or self.objective.weights.legacy:
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
        super().log({**logs, **(self._parts() if "loss" in logs else {})}, start_time)

    def _parts(self) -> dict[str, float]:
        """Parts of the loss per step since the last call, and the accuracy of preferences, over all processes."""
        sums = self.objective.take_sums()
        values = torch.tensor(list(sums.values()), device=self.args.device)
        if self.args.world_size > 1:
            values = self.accelerator.reduce(values, "sum")
            assert isinstance(values, Tensor)
        *parts, pairs, right = values.tolist()
        steps, self._steps_to_log = self._steps_to_log, 0
        means = {name: value / steps for name, value in zip(sums, parts, strict=False)}
        return means | ({"preference_accuracy": right / pairs} if pairs else {})

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measures the metrics of the validation, and keeps the checkpoint if it is among the best."""
        assert self.validation is not None
        with self.autocast(), self._gathered():
            metrics = self.validation.measure(self.checkpoint)
        named = {f"eval_{name}": value for name, value in metrics.items()}
        self.log(dict(named))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        # All processes have to give their shares, the first one is given the whole.
        state: Any = self.accelerator.get_state_dict(self.model) if self.is_fsdp_enabled else None
        network = None if state is None else _part(state, "network")
        if self.args.should_save:
            step = self.state.global_step
            stage = Path(str(self.args.output_dir)).parent.name
            self.validation.best.offer(f"{stage}-{step:06d}", step, metrics, self.checkpoint, network)
        return named

    def _gathered(self) -> AbstractContextManager[None]:
        """All weights in every process, for what reads the network outside of the objective's forward pass."""
        plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        return nullcontext() if plugin is None else gathered_weights(self.objective, bool(plugin.reshard_after_forward))

    def autocast(self) -> AbstractContextManager[None]:
        """Computes in the precision of the forward passes of training."""
        return self.accelerator.autocast()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        directory = Path(output_dir or str(self.args.output_dir))
        # Sharded weights are gathered by the Trainer, which passes them on.
        network = None if state_dict is None else _part(state_dict, "network")
        save_checkpoint(directory, self.checkpoint, network)
        if self.objective.grounding is not None:
            grounding = self.objective.grounding.state_dict() if state_dict is None else _part(state_dict, "grounding")
            write_file(directory / _GROUNDING_FILE, grounding)

    def _load_weights(self, save: str, model: nn.Module | None) -> None:
        directory, network = Path(save), self.checkpoint.network
        if (directory / ADAPTER_CONFIG_FILE).exists():
            adapter, heads = read_adapter(directory)
            restore_adapter(network, adapter, directory)
            network.load_state_dict(heads, strict=False)
        else:
            load_weights(network, read_file(directory / WEIGHTS_FILE))
        if self.objective.grounding is not None:
            load_weights(self.objective.grounding, read_file(directory / _GROUNDING_FILE))


@contextmanager
def _reading_save(save: str | None) -> Iterator[None]:
    """Makes one error of all that libraries say of files of a save that are damaged, missing or of another training.

    Optimizer, scheduler and random numbers are pickles, which PyTorch opens without running what they name.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except _SAVE_DAMAGE as error:
        said = " ".join(str(error).split())[:_SHOWN] or type(error).__name__
        raise DamagedSaveError(
            f"the save {save} is damaged, or of another training ({said}); remove it, and the same command goes on "
            "from the save before it, or begins this stage again"
        ) from error


@dataclass(frozen=True)
class StageData:
    """What a stage is trained on.

    Attributes:
        sampler: Draws samples.
        collator: Makes batches of them, see `robometer_rl.training.collate.Collator`.
        tokens: Lengths of samples, for stages with length bucketing.
        number: Of the stage; no two stages of a run have one number.
    """

    sampler: Sampler
    collator: Callable[[Sequence[Sample]], Mapping[str, Any]]
    tokens: TokenCounts
    number: int

    def samples(self, stage: StageConfig, total: int, seed: int) -> SampleDataset:
        """All samples of the stage, for all processes; the same however these divide them."""
        order = None
        if stage.bucket_batches > 1:
            draw = partial(self.sampler.sample, self.number)
            order = Buckets(draw, self.tokens, total, stage.batch_size, stage.bucket_batches, (seed, self.number))
        return SampleDataset(self.sampler, total, self.number, order)


def run_stage(
    checkpoint: Checkpoint,
    data: StageData,
    stage: StageConfig,
    weights: LossWeights,
    arguments: TrainingArguments,
    validation: Judge | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Trains ``checkpoint`` in place; goes on from the last save in the arguments' output directory, if there is one.

    Args:
        checkpoint: What to train: all of it, or its adapter and heads if it has an adapter.
        data: Samples.
        stage: How long and how fast.
        weights: Of the losses.
        arguments: See `training_arguments`. They say how the processes divide the batch of a step, which is the stage's
            unless the stage began with another number of processes.
        validation: What to measure during training.
        callbacks: What else the Trainer is to tell about its steps.
    """
    network, stored = checkpoint.network, checkpoint.network.dtype
    choose_trainable(network, stage.vision_learning_rate is not None, data.sampler.config.pair_fraction > 0)
    with training_precision(network, arguments.bf16), _gradient_checkpointing(network, stage.gradient_checkpointing):
        torch.manual_seed(arguments.seed)  # the objective has weights of its own
        trainer = RobometerTrainer(
            Objective(checkpoint, weights, len(data.sampler.tasks)),
            checkpoint,
            stage.vision_learning_rate,
            validation,
            args=arguments,
            train_dataset=data.samples(stage, samples_of(arguments), arguments.seed),
            data_collator=data.collator,
            callbacks=list(callbacks),
        )
        if trainer.is_fsdp_enabled and adapter_of(network) is not None:
            raise ValueError("a LoRA is small enough to be trained without FSDP; use a configuration for DDP")
        if validation is not None:
            network.to(arguments.device)  # where FSDP would put no more than a share of it
            with trainer.autocast():
                logger.info("before training: %s", validation.check(checkpoint))
        trainer.train(resume_from_checkpoint=resumed(arguments))
    if trainer.is_fsdp_enabled:
        _gather(trainer, checkpoint, stored)
    checkpoint.network.requires_grad_(True)
    checkpoint.network.eval()


def samples_of(arguments: TrainingArguments) -> int:
    """Of all steps, in all processes."""
    step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    return arguments.max_steps * step


def _gather(trainer: RobometerTrainer, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    """Gives every process the whole network back, which FSDP has cut into shares in place."""
    directory = Path(str(trainer.args.output_dir)) / "gathered"
    trainer.save_model(str(directory))
    trainer.accelerator.wait_for_everyone()
    checkpoint.network = load_checkpoint(directory, trainer.args.device, dtype).network


@contextmanager
def _gradient_checkpointing(network: RobometerNetwork, enabled: bool) -> Iterator[None]:
    if enabled:
        network.model.activation_checkpointing_enable()
    try:
        yield
    finally:
        if enabled:
            network.model.activation_checkpointing_disable()


def last_save(directory: Path) -> Path | None:
    """The last complete save of a stage that was interrupted, None if there is none.

    The Trainer writes its state last and removes the save before only then, so that what is without a readable state
    of its own step is what a killed process was writing.
    """
    numbers = (path.name.removeprefix(_SAVE) for path in directory.glob(f"{_SAVE}*"))
    steps = sorted((int(number) for number in numbers if number.isdecimal()), reverse=True)
    return next((path for step in steps if _is_complete(path := directory / f"{_SAVE}{step}", step)), None)


def resumed(arguments: TrainingArguments) -> str | None:
    """What a Trainer goes on from, `last_save`; what else lies in the place of a save is removed, or is in its way."""
    directory = Path(str(arguments.output_dir))
    save = last_save(directory)
    if arguments.should_save:
        for path in directory.glob(f"{_SAVE}*"):
            if path != save:
                shutil.rmtree(path, ignore_errors=True)
    return None if save is None else str(save)


def _is_complete(save: Path, step: int) -> bool:
    state = save / TRAINER_STATE_NAME
    try:
        check_regular(state)
        return TrainerState.load_from_json(str(state)).global_step == step
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def training_arguments(
    directory: Path,
    steps: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    warmup: float,
    accumulate: int = 1,
    max_grad_norm: float = 1.0,
    report_to: Sequence[str] = (),
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
        # Every weight that is not frozen takes part in every step, see `Objective`.
        ddp_find_unused_parameters=False,
        report_to=list(report_to),
        **settings,
    )


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of one submodule."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in state.items() if key.startswith(f"{name}.")}


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
