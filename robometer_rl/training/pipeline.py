"""Training from a store of trajectories to a calibrated checkpoint, in stages that survive an interruption.

The layout of a run::

    config.json        what was asked for; the same run goes on only with the same configuration
    report.json        what was done: steps, seconds, episodes, calibration
    vision/            pre-trained tower of a new network
    features.npy       what the frozen tower makes of every frame
    best/              the best checkpoints, if they are evaluated during training
    start/             a Robometer made of a language model, if the start is one
    frozen/ joint/     one complete checkpoint per finished stage
    checkpoint/        the result
"""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainingArguments

from robometer_rl.data.judgements import Compared, compared
from robometer_rl.data.labels import group_key
from robometer_rl.data.trajectories import Described, Trajectories, are_tiled
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.documents import DocumentError, parse_json, read_text
from robometer_rl.evaluation.calibration import SuccessCalibration, calibrate_success
from robometer_rl.files import remove_all_left_over, write_text
from robometer_rl.formats.opening import OpenedEpisodes, open_episodes, place_name
from robometer_rl.models.locations import locate
from robometer_rl.models.robometer.checkpoint import SETTINGS_FILE, Checkpoint, load_checkpoint, save_checkpoint
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.provenance import provenance
from robometer_rl.rewards import DEFAULT_REWARD
from robometer_rl.training.bucketing import TokenCounts
from robometer_rl.training.collate import Collator, FrameSource, PixelSource
from robometer_rl.training.config import StageConfig, TrainConfig, VisionPretraining
from robometer_rl.training.episodes import make_episodes
from robometer_rl.training.features import FeatureCache
from robometer_rl.training.from_scratch import instructions_with, make_checkpoint
from robometer_rl.training.language_model import is_language_model, write_start
from robometer_rl.training.pretrain import pretrain_vision
from robometer_rl.training.record import write_record
from robometer_rl.training.sampling import Sampler
from robometer_rl.training.sharding import divide_batch
from robometer_rl.training.trainable import attach_lora, require_trainable
from robometer_rl.training.trainer import StageData, last_save, run_stage, training_arguments
from robometer_rl.training.validation import Validation

if TYPE_CHECKING:
    from accelerate import PartialState

__all__ = [
    "TrainConfig",
    "calibrate",
    "configure_checkpoint",
    "is_main_process",
    "main_process_first",
    "make_sampler",
    "select_trajectories",
    "split_episodes",
    "start_checkpoint",
    "train",
    "wait_for_everyone",
]

logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> Path:
    """Runs all stages.

    Returns:
        The directory of the finished checkpoint.

    Raises:
        StoreError: There is no store, or all that is asked for of it is damaged.
        SamplingError: The data lacks what a sampling strategy needs.
        UnknownModelError: There is no such checkpoint to start from.
        UnsupportedByModelError: It was trained on tiled pictures, and the trajectories show single views.
        TrajectoryError: Some of them show tiled pictures and some do not.
        ValueError: No trajectory of the split, or an output directory that belongs to another configuration.
    """
    opened = select_trajectories(config)
    run = _Run.open(config)
    kept, held_out = split_episodes(opened.trajectories, config.validation_fraction, config.seed)
    logger.info("training on %d episodes, %d held out for calibration", len(kept), len(held_out))
    sampler, people = make_sampler(config, opened, kept)
    data = _Data(kept, sampler, _validation(config, held_out), run.report["processes"])
    checkpoint = start_checkpoint(config, kept, tiled=are_tiled(opened.trajectories.facts()))
    if config.pretraining.steps:
        checkpoint = run.stage("vision", checkpoint, lambda made, saves: _pretrain(config, made, data, saves))
    if config.frozen.steps:
        checkpoint = run.stage("frozen", checkpoint, lambda made, saves: _frozen(config, made, data, saves))
    if config.joint.steps:
        source = PixelSource(kept, config.augment, config.seed)
        checkpoint = run.stage(
            "joint", checkpoint, lambda made, saves: _train(config, made, source, data, config.joint, saves, 1)
        )
    if _tell_success_apart(held_out):
        choice = calibrate(checkpoint, held_out)
        run.note(calibration=choice.as_dict())
    elif held_out:
        logger.warning(
            "no success threshold is chosen: of the %d held-out episodes none has frames recorded as done, or "
            "none has frames recorded as not done",
            len(held_out),
        )
    run.note(
        train_episodes=len(kept),
        calibration_episodes=len(held_out),
        excluded_episodes=opened.excluded,
        human_pairs=len(people.pairs) if people else 0,
        frames=sum(map(len, kept.facts())),
    )
    _save(config.output / "checkpoint", checkpoint)
    if is_main_process():
        write_record(config.output / "checkpoint", config, kept, run.report)
        _tell(config, run.report.get("calibration"), opened.excluded, people)
    return config.output / "checkpoint"


def make_sampler(
    config: TrainConfig, opened: OpenedEpisodes, kept: Sequence[Trajectory]
) -> tuple[Sampler, Compared | None]:
    """What draws the samples of a training, and the pairs of people among them.

    Args:
        config: Of the training.
        opened: See `select_trajectories`.
        kept: Those of them that are trained on, see `split_episodes`.
    """
    place_of = opened.place_of if config.weights or config.preferences else {}
    episodes = make_episodes(kept, config.targets, place_of)
    people = _compared(config, kept, place_of)
    return Sampler(episodes, config.sampling, config.seed, config.weights, people.pairs if people else ()), people


def _compared(config: TrainConfig, kept: Sequence[Trajectory], place_of: Mapping[str, int]) -> Compared | None:
    """The pairs of people among the episodes that are trained on."""
    if config.preferences is None:
        return None
    names = [place_name(place) for place in config.data]
    return compared(config.preferences, kept, [names[place_of[each.id]] for each in Trajectories.of(kept).facts()])


def _tell(config: TrainConfig, calibration: Mapping[str, Any] | None, excluded: int, people: Compared | None) -> None:
    """Says where the checkpoint is, how good it is on what was held out, and what to type next."""
    made = config.output / "checkpoint"
    if config.exclude is not None:
        logger.info("trained without the %d episodes that are flagged in %s", excluded, config.exclude)
    if people is not None:
        logger.info("trained on %s", people)
    if calibration is None:
        quality = "nothing was held out to judge it by"
    else:
        fires, falsely = calibration["true_positive_rate"]["value"], calibration["false_positive_rate"]["value"]
        quality = (
            f"on held-out episodes success AUROC {calibration['auroc']:.2f}, and the success rule fires in "
            f"{fires:.0%} of the successes and falsely in {falsely:.0%} of the episodes"
        )
    logger.info("made %s: %s", made, quality)
    logger.info("next: robometer-rl evaluate %s %s", shlex.quote(str(made)), shlex.quote(str(config.data[0])))


def select_trajectories(config: TrainConfig) -> OpenedEpisodes:
    """The trajectories that ``config`` is to be trained on.

    Damaged trajectories are skipped and listed in the log.

    Raises:
        StoreError: There is no store, or all such trajectories in it are damaged.
        ValueError: It has no such trajectories, or one of several weighted stores has none.
    """

    def wanted(trajectory: Described) -> bool:
        sources = config.data_sources
        return trajectory.split == config.split and (not sources or trajectory.data_source in sources)

    opened = open_episodes(config.data, wanted, config.select, config.exclude)
    chosen = opened.trajectories
    missing = set(config.data_sources) - {source for split, source in opened.held if split == config.split}
    if missing or not chosen:
        places = ", ".join(map(str, config.data))
        raise ValueError(
            f"{places} holds no trajectories of the split {config.split!r}"
            + (f" that are not among the {opened.excluded} flagged ones" if opened.excluded else "")
            + (f" and the data sources {sorted(missing)}" if missing else "")
            + f"; it holds (split, data source): {sorted(opened.held)}"
        )
    empty = [number for number, _ in enumerate(config.weights) if not opened.counts[number]]
    if empty:
        raise ValueError(
            f"{config.data[empty[0]]} has the weight {config.weights[empty[0]]:g} and no trajectories of the split "
            f"{config.split!r} and the data sources asked for that are not in a place before it, too: leave it out"
        )
    return opened


def split_episodes(trajectories: Sequence[Trajectory], fraction: float, seed: int) -> tuple[Trajectories, Trajectories]:
    """Splits off a part of the successful and of the other episodes of each task; the same part for the same seed."""
    many = Trajectories.of(trajectories)
    groups: dict[tuple[str, bool], list[int]] = {}
    for index, trajectory in enumerate(many.facts()):
        groups.setdefault((group_key(trajectory), trajectory.quality_label == "successful"), []).append(index)
    rng = np.random.default_rng(seed)
    held_out: set[int] = set()
    for key in sorted(groups):
        members = groups[key]
        count = int(fraction * len(members) + 0.5) if len(members) > 1 else 0
        held_out.update(rng.choice(members, size=count, replace=False).tolist())
    kept = np.delete(np.arange(len(many)), sorted(held_out))
    return many.subset(kept), many.subset(sorted(held_out))


def calibrate(checkpoint: Checkpoint, trajectories: Sequence[Trajectory]) -> SuccessCalibration:
    """Chooses the success threshold on held-out episodes and writes it into the checkpoint's settings.

    With that threshold and the default patience the success rule fires in as many successes as it can with few false
    alarms, since those would be paid. If it would miss most of the successes, the settings stay without one.

    Raises:
        ValueError: In none of these episodes is the task done, or in all of them from the beginning.
    """
    model = Robometer(checkpoint, "calibration", "calibration")
    (choice,) = calibrate_success(model, trajectories)
    if not choice.usable:
        logger.warning("success cannot be told apart on held-out episodes (%s): no threshold is set", choice)
        return choice
    configure_checkpoint(checkpoint, success_threshold=round(choice.threshold, 4))
    logger.info("success threshold %.3f: %s", choice.threshold, choice)
    return choice


def configure_checkpoint(checkpoint: Checkpoint, **changes: Any) -> None:
    """Changes settings of a checkpoint in memory."""
    settings = checkpoint.config.updated(**changes)
    checkpoint.processor.config = settings
    checkpoint.network.config = settings


def _tell_success_apart(trajectories: Sequence[Trajectory]) -> bool:
    """Whether a success rule can be chosen on them: it takes a success, and frames before one in which it may fire."""
    judged = [trajectory.success for trajectory in trajectories if trajectory.success is not None]
    first = DEFAULT_REWARD.patience  # the first frame in which the rule can fire
    undone = any(len(success) > first and not success[: first + 1].any() for success in judged)
    return undone and any(success.any() for success in judged)


@dataclass(frozen=True)
class _Data:
    """What the stages share.

    Attributes:
        trajectories: To train on.
        sampler: Of clips and pairs.
        validation: What is measured during training.
        processes: How many the run began with, whose number the batch of a step depends on.
    """

    trajectories: Sequence[Trajectory]
    sampler: Sampler
    validation: Validation | None
    processes: int


def _validation(config: TrainConfig, held_out: Sequence[Trajectory]) -> Validation | None:
    selection = config.selection
    if not selection.every:
        return None
    episodes = held_out
    if selection.split is not None:
        opened = open_episodes(
            config.data, lambda trajectory: trajectory.split == selection.split, config.select, config.exclude
        )
        episodes = opened.trajectories
    return Validation(episodes, selection, config.output / "best", config.targets.reaching)


def _save(directory: Path, checkpoint: Checkpoint) -> None:
    """Saves once for all processes."""
    if is_main_process():
        save_checkpoint(directory, checkpoint)
    wait_for_everyone()


@dataclass
class _Run:
    """The output directory of a run."""

    directory: Path
    report: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, config: TrainConfig) -> _Run:
        """Starts a run, or goes on with one of the same configuration."""
        asked = {name: value for name, value in asdict(config).items() if name != "workers"}  # what a run depends on
        settings = json.dumps(asked, indent=2, default=str)
        file = config.output / "config.json"
        if file.exists() and file.read_text() != settings and _has_trained(config.output):
            differing = _differing(_object(file), json.loads(settings))
            raise ValueError(
                f"{config.output} holds a run with another configuration: {'; '.join(differing)}. Choose another output"
            )
        with main_process_first():
            config.output.mkdir(parents=True, exist_ok=True)
            for folder in (config.output, *config.output.glob("*/")):  # also of stages that are finished
                remove_all_left_over(folder)
            if file.exists() and file.read_text() != settings:  # of a start that failed, and with it what it computed
                shutil.rmtree(config.output / "start", ignore_errors=True)
                (config.output / "features.npy").unlink(missing_ok=True)
                for saves in config.output.glob("*/saves"):
                    shutil.rmtree(saves, ignore_errors=True)
            write_text(file, settings)
        run = cls(config.output)
        if run._report_file.exists():
            run.report = _object(run._report_file)
        processes = run.report.get("processes") if _has_trained(config.output) else None
        wait_for_everyone()  # before the report is written to
        run.note(provenance=provenance(), processes=processes or _state().num_processes)
        return run

    @property
    def _report_file(self) -> Path:
        return self.directory / "report.json"

    def note(self, **entries: Any) -> None:
        """Adds to the report."""
        self.report |= entries
        if is_main_process():
            write_text(self._report_file, json.dumps(self.report, indent=2))

    def stage(self, name: str, checkpoint: Checkpoint, work: Callable[[Checkpoint, Path], None]) -> Checkpoint:
        """Runs a stage unless it is finished; returns its result."""
        directory = self.directory / name
        saves = directory / "saves"
        if (directory / SETTINGS_FILE).exists():  # what a checkpoint is finished with
            logger.info("stage %s is finished", name)
            _remove(saves)
            return load_checkpoint(directory)
        wall, cpu = time.perf_counter(), time.process_time()
        work(checkpoint, saves)
        spent = {"wall": round(time.perf_counter() - wall), "cpu": round(time.process_time() - cpu)}
        _save(directory, checkpoint)
        _remove(saves)
        self.note(seconds=self.report.get("seconds", {}) | {name: spent})
        logger.info("stage %s took %d s (%d s of processor time)", name, spent["wall"], spent["cpu"])
        return checkpoint


def _object(file: Path) -> dict[str, Any]:
    """What an earlier start of the run wrote.

    Raises:
        ValueError: The file is damaged, or somebody else's.
    """
    try:
        content = parse_json(read_text(file), nan=True)
    except DocumentError as error:
        raise ValueError(f"{file} is damaged ({error}): remove it, or choose another output") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is not of a training: remove it, or choose another output")
    return content


def _has_trained(output: Path) -> bool:
    """Whether a run has anything to lose: a finished stage, or a save of one."""
    stages = [file for file in output.glob(f"*/{SETTINGS_FILE}") if file.parent.name != "start"]
    saves = [last_save(directory) for directory in output.glob("*/saves")]
    return bool(stages) or any(saves) or any(output.glob(f"best/*/{SETTINGS_FILE}"))


def _remove(saves: Path) -> None:
    """Removes what a stage saved on its way, which it does not need any more, but for the reports of its losses."""
    if is_main_process():
        for reports in saves.glob("runs"):
            shutil.copytree(reports, saves.parent / reports.name, dirs_exist_ok=True)
        shutil.rmtree(saves, ignore_errors=True)


def _differing(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Options that are not what they were, each with both values."""
    lines: list[str] = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += _differing(old, new, f"{prefix}{name}.")
        elif old != new:
            lines.append(f"{prefix}{name} was {old!r} and is {new!r}")
    return lines


def start_checkpoint(config: TrainConfig, trajectories: Sequence[Trajectory], *, tiled: bool) -> Checkpoint:
    """What training begins with: the start that is named, with a new LoRA if there is to be one, or a new network.

    Args:
        config: Names it.
        trajectories: What a new network is to know the instructions of.
        tiled: Whether all data shows tiled pictures.

    Raises:
        UnknownModelError: There is no such checkpoint to start from.
        UnsupportedByModelError: It was trained on tiled pictures, and the data shows single views.
        ValueError: It cannot be trained, or not with this LoRA.
    """
    checkpoint = _named_or_new(config, trajectories)
    Robometer(checkpoint, str(config.start), str(config.start)).require_views("training on this data", tiled=tiled)
    configure_checkpoint(checkpoint, tiled=tiled)
    return checkpoint


def _named_or_new(config: TrainConfig, trajectories: Sequence[Trajectory]) -> Checkpoint:
    if config.start is not None:
        checkpoint = load_checkpoint(_start_directory(config, config.start))
        require_trainable(checkpoint.network)
        if config.lora.rank:
            attach_lora(checkpoint, config.lora, _adapter_base(config), config.seed)
        return checkpoint
    texts = instructions_with(trajectories)
    checkpoint = make_checkpoint(config.shape, texts, config.seed, config.sampling.max_frames)
    size = sum(parameter.numel() for parameter in checkpoint.network.parameters())
    logger.info("made a network of %.2f M parameters", size / 1e6)
    return checkpoint


def _start_directory(config: TrainConfig, start: str) -> Path:
    """Where the start checkpoint is; one made of a language model is kept with the run."""
    found = locate(start).directory
    if not is_language_model(found):
        return found
    if config.lora.rank and not config.lora.new_tokens:
        raise ValueError(
            f"{start} is a language model, which does not know the tokens that prompts use; a LoRA leaves their rows "
            "as they are unless lora.new_tokens is set"
        )
    made = config.output / "start"
    with main_process_first():
        if not (made / SETTINGS_FILE).exists():
            write_start(found, start, made, config.sampling.max_frames, config.seed)
    return made


def _adapter_base(config: TrainConfig) -> str | None:
    """What a saved adapter refers to; None where everything is saved.

    That is if the vision tower is trained besides, which an adapter cannot hold, or if the start was made here.
    """
    tower_is_trained = config.joint.steps and config.joint.vision_learning_rate is not None
    if config.start is None or (tower_is_trained and config.lora.part == "language_model"):
        return None
    directory = locate(config.start).directory
    if is_language_model(directory):
        return None
    # A directory is found from anywhere; the name of an embedded checkpoint or of one on the Hub stays a name.
    return str(directory.absolute()) if directory == Path(config.start) else config.start


def _pretrain(config: TrainConfig, checkpoint: Checkpoint, data: _Data, saves: Path) -> None:
    pretrain_vision(checkpoint, data.trajectories, _arguments(config, config.pretraining, data.processes, saves))


def _frozen(config: TrainConfig, checkpoint: Checkpoint, data: _Data, saves: Path) -> None:
    with main_process_first(), torch.autocast(checkpoint.network.device.type, torch.bfloat16, enabled=config.bf16):
        cache = FeatureCache.compute(
            checkpoint.network,
            checkpoint.processor,
            data.trajectories,
            config.output / "features.npy",
            config.feature_views,
            config.seed,
        )
    _train(config, checkpoint, cache, data, config.frozen, saves, 0)


def _train(
    config: TrainConfig,
    checkpoint: Checkpoint,
    source: FrameSource,
    data: _Data,
    stage: StageConfig,
    saves: Path,
    number: int,
) -> None:
    arguments = _arguments(
        config,
        stage,
        data.processes,
        saves,
        accumulate=stage.accumulate,
        max_grad_norm=stage.max_grad_norm,
        eval_strategy="steps" if data.validation else "no",
        eval_steps=config.selection.every or None,
    )
    tokens = TokenCounts(checkpoint.processor, data.trajectories)
    samples = StageData(data.sampler, Collator(checkpoint.processor, source), tokens, number)
    run_stage(checkpoint, samples, stage, config.losses, arguments, data.validation)


def _arguments(
    config: TrainConfig,
    stage: VisionPretraining | StageConfig,
    began: int,
    saves: Path,
    accumulate: int = 1,
    **settings: Any,
) -> TrainingArguments:
    """Arguments of a stage; its steps have the samples that they had with as many processes as the run began with."""
    batch_size, accumulate = divide_batch(stage.batch_size, accumulate, began, _state().num_processes)
    return training_arguments(
        saves,
        steps=stage.steps,
        batch_size=batch_size,
        learning_rate=stage.learning_rate,
        weight_decay=stage.weight_decay,
        warmup=stage.warmup,
        accumulate=accumulate,
        seed=config.seed,
        bf16=config.bf16,
        dataloader_num_workers=config.workers,
        use_cpu=not torch.cuda.is_available(),
        save_steps=config.save_every,
        logging_steps=config.log_every,
        report_to=config.report_to,
        **settings,
    )


def is_main_process() -> bool:
    """Whether this process is the one that writes files."""
    return _state().is_main_process


def wait_for_everyone() -> None:
    """Returns when all processes have come here."""
    _state().wait_for_everyone()


def main_process_first() -> AbstractContextManager[None]:
    """The main process runs the block before the others do, which then find what it wrote."""
    return _state().main_process_first()


def _state() -> PartialState:
    """What the processes agree on; a run that no launcher started is one process, which writes and never waits."""
    # Here, because accelerate belongs to an extra that only training needs.
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())
