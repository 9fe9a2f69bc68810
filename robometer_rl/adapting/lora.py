"""Learning a LoRA of a Robometer, by the stage of `robometer_rl.training.pipeline` that trains with the tower frozen.

The options are those of the recipe ``lora``, and without a GPU of ``lora-cpu``. What they leave to the user is decided
here: labels are those that the verdict goes by, strategies that the episodes have nothing for are left out, the
learning rate falls with the steps or with the time, whichever is ahead, and held-out episodes say which weights are
kept.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from robometer_rl.adapting.config import AdaptConfig
from robometer_rl.adapting.examples import Example, Split
from robometer_rl.adapting.learner import CHECKPOINT, JUDGING_TIME, Learned, begun_checkpoint, device_of
from robometer_rl.adapting.learning import SUCCESS_WEIGHT, progress_bar, rate_at
from robometer_rl.adapting.verdict import Seen
from robometer_rl.data.trajectories import Trajectories, are_tiled
from robometer_rl.models.locations import EMBEDDED, locate
from robometer_rl.models.robometer.adapters import ADAPTER_CONFIG_FILE
from robometer_rl.models.robometer.checkpoint import Checkpoint, save_checkpoint
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.models.robometer.weights import State
from robometer_rl.provenance import provenance, read_record
from robometer_rl.training.bucketing import TokenCounts
from robometer_rl.training.collate import Collator
from robometer_rl.training.config import LoRA
from robometer_rl.training.episodes import Episode, make_episodes
from robometer_rl.training.features import FeatureCache
from robometer_rl.training.pipeline import configure_checkpoint, start_checkpoint
from robometer_rl.training.recipes import load_recipe
from robometer_rl.training.record import write_record
from robometer_rl.training.sampling import ClipStrategies, PairStrategies, Sampler, SamplingConfig
from robometer_rl.training.trainable import choose_trainable
from robometer_rl.training.trainer import StageData, run_stage, training_arguments

__all__ = ["RobometerLearner", "sampling_for"]

logger = logging.getLogger(__name__)

_WORK: Final = "training"  # folder of a run that is gone when it ends
_LARGE: Final = 2e9  # bytes of weights that no processor trains in minutes
_PARTS: Final = 4  # of training, after each of which held-out episodes are asked about
_MOST_HELD_OUT: Final = 24  # episodes that are asked about each time
_CERTAIN: Final = 1e-6


class RobometerLearner:
    """See `robometer_rl.adapting.learner.Learner`.

    Args:
        config: Of the run; it names a base, or a run of such to go on from.

    Raises:
        UnknownModelError: There is no such Robometer.
        ValueError: It is too large for a machine without a GPU.
    """

    def __init__(self, config: AdaptConfig) -> None:
        self._config = config
        self._device = device_of(config)
        begun = begun_checkpoint(config)
        start = str(begun or config.base)
        record = None if begun is None else read_record(begun)
        episodes = {} if record is None else record.get("episodes", {})
        self.trained_on: tuple[str, ...] = tuple(episodes.get("training", ()))
        self.judged_by: tuple[str, ...] = tuple(episodes.get("held_out", ()))
        if self._device.type == "cpu":
            _require_small(start)
        recipe = load_recipe("lora-cpu" if self._device.type == "cpu" else "lora").config
        # What is adapted already is trained further, without another adapter.
        adapted = (locate(start).directory / ADAPTER_CONFIG_FILE).exists()
        steps = config.steps or (recipe.frozen.steps if begun is None else recipe.frozen.steps // 3)
        self._options = replace(
            recipe,
            data=(config.store, *config.also),
            output=config.output / _WORK,
            exclude=config.exclude,
            start=start,
            lora=LoRA() if adapted else recipe.lora,
            frozen=replace(recipe.frozen, steps=steps),
            seed=config.seed,
            bf16=self._device.type != "cpu",
        )
        self._checkpoint: Checkpoint | None = None
        self._trained: Sequence[Example] = ()
        self.options = f"--continue {config.continued}" if config.base is None else f"--base {config.base}"
        self.facts: Mapping[str, Any] = {"base": None if config.base is None else Path(config.base).name}

    def learn(self, split: Split, began: float) -> Learned:
        """See `Learner.learn`."""
        with _work_in(self._options.output):
            return self._learn(split, began)

    def model(self) -> Robometer:
        """See `Learner.model`."""
        return Robometer(self._learned(), str(self._config.output / CHECKPOINT), self._config.output.name)

    def uncertainty(self, seen: Seen) -> NDArray[np.floating[Any]]:
        """See `Learner.uncertainty`: the standard deviation of what it holds possible; 0 of a head without bins."""
        return np.zeros_like(seen.progress) if seen.spread is None else seen.spread

    def save(self, directory: Path, threshold: float | None = None, trained: Mapping[str, Any] | None = None) -> None:
        """See `Learner.save`; what it was trained on is in the record beside the weights."""
        configure_checkpoint(self._learned(), success_threshold=threshold)
        save_checkpoint(directory, self._learned())
        report = {"provenance": provenance(), **(trained or {})}
        # `data` is the table of sources there, and that of people is the survey.
        report["survey"] = report.pop("data", None)
        write_record(directory, self._options, [each.episode for each in self._trained], report)

    def _learned(self) -> Checkpoint:
        if self._checkpoint is None:
            raise RuntimeError("the model is there once it has learned")
        return self._checkpoint

    def _learn(self, split: Split, began: float) -> Learned:
        options, start = self._options, time.monotonic()
        episodes = [each.episode for each in split.training]
        tiled = are_tiled(each.episode for each in (*split.training, *split.held_out))
        checkpoint = start_checkpoint(options, episodes, tiled=tiled)
        checkpoint.network.to(self._device)
        judging = split.held_out or split.training
        judge = _HeldOut(judging[:: -(-len(judging) // _MOST_HELD_OUT)])
        deadline = began + (1 - JUDGING_TIME) * self._config.time_limit
        interrupted = False
        with progress_bar(options.frozen.steps) as advance:
            clock = _Clock(options.frozen.steps, deadline, advance)
            try:
                self._run_stage(checkpoint, split.training, judge, clock)
            except KeyboardInterrupt:
                if not clock.steps:  # there is nothing yet that could be kept
                    raise
                interrupted = True
                logger.warning("training was interrupted after %d steps: the best model so far is kept", clock.steps)
        if not interrupted or not judge.best.step:
            # Afterwards a stage leaves everything trainable, and what is kept is what was trained.
            choose_trainable(checkpoint.network, vision=False, preference=True)
            judge.best.offer("last", clock.steps, judge.measure(checkpoint), checkpoint)
        judge.best.restore(checkpoint.network)
        checkpoint.network.requires_grad_(True)
        checkpoint.network.eval()
        self._checkpoint, self._trained = checkpoint, split.training
        self._options = replace(options, frozen=replace(options.frozen, steps=clock.steps))
        return Learned(clock.steps, judge.best.step, judge.best.loss, time.monotonic() - start, interrupted)

    def _run_stage(self, checkpoint: Checkpoint, training: Sequence[Example], judge: _HeldOut, clock: _Clock) -> None:
        options = self._options
        trajectories = Trajectories.of([each.episode for each in training])
        episodes = make_episodes(trajectories, labels=[each.labels for each in training])
        sampler = Sampler(episodes, sampling_for(episodes, options.sampling), options.seed)
        stage = options.frozen
        arguments = training_arguments(
            options.output / "saves",
            steps=stage.steps,
            batch_size=stage.batch_size,
            learning_rate=stage.learning_rate,
            weight_decay=stage.weight_decay,
            warmup=stage.warmup,
            accumulate=stage.accumulate,
            max_grad_norm=stage.max_grad_norm,
            seed=options.seed,
            bf16=options.bf16,
            use_cpu=self._device.type == "cpu",
            save_strategy="no",
            logging_steps=options.log_every,
        )
        with torch.autocast(self._device.type, torch.bfloat16, enabled=options.bf16):
            cache = FeatureCache.compute(
                checkpoint.network,
                checkpoint.processor,
                trajectories,
                options.output / "features.npy",
                options.feature_views,
                options.seed,
            )
        tokens = TokenCounts(checkpoint.processor, trajectories)
        data = StageData(sampler, Collator(checkpoint.processor, cache), tokens, 0)
        run_stage(checkpoint, data, stage, options.losses, arguments, judge, [clock])


def sampling_for(episodes: Sequence[Episode], config: SamplingConfig) -> SamplingConfig:
    """Usual frequencies of strategies, without those that these episodes have nothing for.

    Args:
        episodes: To train on.
        config: The rest of the settings.
    """
    done = {each.task for each in episodes if each.successful}
    failed = {each.task for each in episodes if not each.successful}
    texts: dict[str, set[str]] = {}
    for each in episodes:
        texts.setdefault(each.task, set()).update(each.instructions)

    def strange(tasks: set[str]) -> bool:
        """Whether a success has one of these tasks that shares no instruction with its own."""
        return any(texts[task].isdisjoint(texts[other]) for task in done for other in tasks)

    usual = (ClipStrategies(), PairStrategies())
    clips = ClipStrategies(
        success=usual[0].success if done else 0.0,
        failure=usual[0].failure if failed else 0.0,
        rewind=usual[0].rewind if done else 0.0,
        reverse=usual[0].reverse if done else 0.0,
        other_task=usual[0].other_task if strange(done | failed) else 0.0,
    )
    pairs = PairStrategies(
        failure=usual[1].failure if done & failed else 0.0,
        other_task=usual[1].other_task if strange(done) else 0.0,
    )
    return replace(config, clips=clips, pairs=pairs, pair_fraction=config.pair_fraction if done else 0.0)


def _require_small(start: str) -> None:
    """Refuses what no processor trains in the time that this takes.

    Raises:
        ValueError: It is large, or on the Hub, where Robometers are.
    """
    advice = (
        "Run it on a machine with a GPU; or leave out --base, which trains a compact model in minutes; or take the "
        "small Robometer, --base mini"
    )
    if start not in EMBEDDED and not Path(start).is_dir():
        raise ValueError(
            f"{start!r} is no folder, and there is no GPU to train what the Hub has by that name: a Robometer of 4 "
            f"billion parameters takes minutes per step on a processor. {advice}"
        )
    size = sum(file.stat().st_size for file in locate(start).directory.glob("*.safetensors"))
    if size > _LARGE:
        raise ValueError(
            f"{start} has {size / 1e9:.0f} GB of weights, and there is no GPU: a step of training would take minutes, "
            f"and hundreds are needed. {advice}"
        )


@contextmanager
def _work_in(folder: Path) -> Iterator[None]:
    """A folder for what training keeps on its way; afterwards it is gone, and so is that of a run that left nothing."""
    shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()


class _Clock(TrainerCallback):
    """Ends training with its steps or with its time, whichever is first, and lets the learning rate fall with it.

    Attributes:
        steps: That were taken.
    """

    def __init__(self, steps: int, deadline: float, advance: Callable[[int, float], None]) -> None:
        self.steps = 0
        self._most, self._deadline, self._advance = steps, deadline, advance
        self._began = time.monotonic()
        self._judged = 0  # parts after which held-out episodes were asked about

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Time is counted from here."""
        self._began = time.monotonic()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **known: Any
    ) -> None:
        """The learning rate of this step."""
        part = self._part(state.global_step)
        self._advance(state.global_step, part)
        for group in known["optimizer"].param_groups:
            group["lr"] = group["initial_lr"] * rate_at(part)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Whether to ask about held-out episodes, and whether that was all."""
        self.steps = state.global_step
        part = self._part(self.steps)
        if part < 1 and int(part * _PARTS) > self._judged:
            self._judged = int(part * _PARTS)
            control.should_evaluate = True
        if time.monotonic() >= self._deadline:
            control.should_training_stop = True

    def _part(self, step: int) -> float:
        spent = (time.monotonic() - self._began) / max(self._deadline - self._began, 1e-3)
        return max(step / self._most, spent)


class _Kept:
    """The best weights of those that are trained, in memory.

    Attributes:
        step: After which they were found; 0 before there are any.
        loss: On the episodes that they were chosen by.
    """

    def __init__(self) -> None:
        self.step, self.loss = 0, math.inf
        self._weights: dict[str, torch.Tensor] = {}

    def offer(
        self,
        name: str,
        step: int,
        metrics: Mapping[str, float],
        checkpoint: Checkpoint,
        gathered: State | None = None,
    ) -> None:
        """See `robometer_rl.training.validation.Keeper`."""
        (loss,) = metrics.values()
        if loss < self.loss:
            trained = [(name, weight) for name, weight in checkpoint.network.named_parameters() if weight.requires_grad]
            self._weights = {name: weight.detach().clone() for name, weight in trained}
            self.step, self.loss = step, loss

    def restore(self, network: nn.Module) -> None:
        """Puts them back."""
        with torch.no_grad():
            for name, weight in self._weights.items():
                network.get_parameter(name).copy_(weight)


class _HeldOut:
    """Measures how wrong a Robometer is about episodes, see `robometer_rl.training.validation.Judge`."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self.best = _Kept()

    def check(self, checkpoint: Checkpoint) -> dict[str, float]:
        """The start is measured like everything else."""
        return self.measure(checkpoint)

    def measure(self, checkpoint: Checkpoint) -> dict[str, float]:
        """Mean cross-entropy of progress and success, as `robometer_rl.adapting.learning` counts it."""
        checkpoint.network.eval()
        model = Robometer(checkpoint, "held out", "held out")
        losses = []
        for example in self._examples:
            said, labels = model.predict_steps([example.episode.clip()])[0], example.labels
            assert said.success is not None
            progress = _entropy(said.progress, labels.progress, labels.progress_known)
            losses.append(progress + SUCCESS_WEIGHT * _entropy(said.success, labels.success, labels.success_known))
        return {"held_out_loss": float(np.mean(losses))}


def _entropy(said: NDArray[np.float32], true: NDArray[np.float32], known: NDArray[np.bool_]) -> float:
    """Mean cross-entropy where the truth is known."""
    chance = np.clip(said.astype(np.float64), _CERTAIN, 1 - _CERTAIN)
    entropy = -(true * np.log(chance) + (1 - true) * np.log(1 - chance))
    return float((entropy * known).sum() / max(int(known.sum()), 1))
