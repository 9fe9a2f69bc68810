"""``robometer-rl relabel``: a dataset with the rewards that a model sees in it."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

import tyro
from rich.table import Table

from robometer_rl.documents import read_text
from robometer_rl.files import remove_left_over
from robometer_rl.formats.conventions import views_of
from robometer_rl.formats.dataset import DatasetOptions, Labels, LabelWriter, RelabelDataset, WriteMode
from robometer_rl.formats.table import open_dataset
from robometer_rl.formats.transitions import LEARNED_FROM
from robometer_rl.frames import parse_protocol
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.relabeling.batches import PACK_TOKENS
from robometer_rl.relabeling.engine import Engine, Labeller, label_dataset, one_process, run_facts, verify_labels
from robometer_rl.relabeling.journal import Journal
from robometer_rl.relabeling.ray_engine import RayEngine
from robometer_rl.relabeling.report import write_report
from robometer_rl.relabeling.returns import Horizon
from robometer_rl.report.recordings import PAGE
from robometer_rl.report.terminal import open_console
from robometer_rl.rewards import Mode, RewardSpec
from robometer_rl.video.lazy import Orientation

__all__ = ["RelabelConfig", "journal_path", "parse_reward", "relabel", "report_path", "run_relabel"]

logger = logging.getLogger(__name__)

_LISTED: Final = 20


@dataclass(frozen=True)
class RelabelConfig:
    """Give a recorded dataset the rewards that a model sees in it.

    A run that is interrupted goes on where it was when the same command is given again: what has been labelled is in
    the file OUTPUT.journal until everything is written.
    """

    dataset: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """File or folder of the dataset."""
    model: str = "mini"
    """The embedded 'mini', a checkpoint directory, or a Hub id ('robometer/Robometer-4B', 'ID@REVISION')."""
    reward: str = "delta"
    """What a step pays: level, delta or success; or a whole RewardSpec, as JSON or as the name of a .json file."""
    every: int | None = None
    """Score every so many observations, and the last one; as the reward says if not given."""
    discount: float | None = None
    """What a reward counts for one step earlier, in returns and advantages; gamma of the reward, else 1."""
    n_step: int | None = None
    """Steps that returns and advantages look ahead; to the end of the episode (Monte Carlo) if not given."""
    protocol: str | None = None
    """Frames that a step is scored with: 'uniform' or 'nested', also as 'nested(8)'; the model's own if not given."""
    format: str | None = None
    """What kind of dataset it is; found out if not given."""
    cameras: tuple[str, ...] = ()
    """Cameras whose predictions are averaged; may be left out if there is one."""
    tile: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show the cameras in one tiled picture, the first on top, to models that were trained on such."""
    task: tuple[str, ...] = ()
    """Instruction of every episode, or several ways to say it, in place of what the dataset says."""
    orientation: Orientation | None = None
    """What is done to pictures before they are shown to the model; what is customary in the format if not given."""
    trust_pickle: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open a replay buffer with classes of your own in it, which runs whatever code the file names."""
    tolerance_s: float | None = None
    """Of a LeRobot dataset: how far, in seconds, a frame of a video may be from the time of its row; 0.0001 if not
    given, as in LeRobot."""
    write: WriteMode | None = None
    """A copy with new rewards, a sidecar of labels, the dataset itself in_place, or jsonl, a file with a line per
    episode; what is usual if not given."""
    output: Path | None = None
    """Where to write; NAME-robometer beside the dataset if not given."""
    verify: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Score a random sample of episodes again before anything is written."""
    report: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write a page with histograms, videos and curves, worst disagreements first (OUTPUT-report/index.html)."""
    device: str = "cpu"
    """Where the model runs, such as 'cuda'."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision of the model; as stored in the checkpoint if not given."""
    pack_tokens: int = PACK_TOKENS
    """About how many tokens go through the model together."""
    engine: Literal["local", "ray"] = "local"
    """Where the model runs: in this process, or in workers of Ray on this machine or a cluster (docs/ray.md)."""
    workers: int | None = None
    """Number of workers of Ray; as many as there is room for if not given."""
    gpus_per_worker: float | None = None
    """GPUs of each worker of Ray, or the share of one; 1 where the device is 'cuda' if not given."""


def run_relabel(config: RelabelConfig) -> None:
    """Labels the dataset that ``config`` names with the model that it names."""
    # What is wrong with the words or the files should not cost the time of loading a model.
    if config.engine == "local" and (config.workers, config.gpus_per_worker) != (None, None):
        raise ValueError("workers and gpus_per_worker are for the engine ray, and the engine is local")
    spec = parse_reward(config.reward, config.every)
    protocol = parse_protocol(config.protocol) if config.protocol else None
    horizon = Horizon((spec.gamma or 1.0) if config.discount is None else config.discount, config.n_step)
    kind, dataset = open_dataset(
        DatasetOptions(
            config.dataset,
            config.cameras,
            config.task,
            config.orientation,
            config.trust_pickle,
            config.tile,
            config.tolerance_s,
        ),
        config.format,
    )
    views_of(config.dataset, dataset.cameras, config.tile)  # raises if there is nothing to tile
    if config.tolerance_s is not None and dataset.format != "lerobot":
        raise ValueError(
            f"tolerance_s is about the times of LeRobot datasets, and {config.dataset} is {dataset.format}"
        )
    writer = kind.writer(dataset, config.write, config.output)
    if not journal_path(writer).exists():
        writer.check()
    engine, model = _engine(config)
    labeller = Labeller(model, spec, protocol, config.pack_tokens, horizon)
    labels = relabel(
        dataset, labeller, writer, verify=config.verify, report=config.report, show_progress=True, engine=engine
    )
    if labels is None:
        logger.info("%s is labelled already", writer.destination)
    else:
        _print_summary(labels, writer)
        is_dataset = (config.write or kind.modes[0]) in ("copy", "in_place")
        _print_next(config, writer, can_be_learned_from=is_dataset and dataset.format in LEARNED_FROM)


def relabel(
    dataset: RelabelDataset,
    labeller: Labeller,
    writer: LabelWriter,
    *,
    verify: bool = False,
    report: bool = False,
    show_progress: bool = False,
    engine: Engine = one_process,
) -> Labels | None:
    """Labels a dataset and writes the labels, or goes on where a run that was killed has stopped.

    Args:
        dataset: The dataset.
        labeller: The model and the reward.
        writer: Of `RelabelDataset.writer`.
        verify: Whether to score a sample again before anything is written.
        report: Whether to write the page `report_path`.
        show_progress: Whether to show a progress bar.
        engine: Where the model runs. A run may go on with another engine.

    Returns:
        The labels; None if a run that was killed had written them already.

    Raises:
        FileExistsError: Something else is at the destination.
        JournalError: The journal is that of a run with another model, dataset or setting, or is damaged.
        NothingLabelledError: All episodes are skipped.
        UnsupportedByModelError: The model was trained on tiled pictures, and the dataset is not opened so.
        VerificationError: An episode has other labels when it is scored again.
        OSError: No space, no permission; the dataset is untouched, and what was labelled is in the journal.
    """
    labeller.require_views(dataset)
    path = journal_path(writer)
    provenance = labeller.provenance(dataset)
    if not path.exists():
        writer.check()
    elif writer.destination == dataset.options.path and writer.written() == provenance:
        # Killed between replacing the dataset and removing the journal, which knows the dataset as it was.
        remove_left_over(writer.destination)
        path.unlink()
        return None
    with Journal(path, run_facts(dataset, labeller)) as journal:
        is_written = len(journal.entries) == len(dataset) and writer.written() == provenance
        if not is_written:
            writer.check()
            labels = label_dataset(dataset, labeller, journal, show_progress, engine)
            if verify:
                found = verify_labels(dataset, labeller, labels, engine=engine)
                logger.info("scored %d episodes again: %.2g apart at most", len(found.episodes), found.difference)
            if report:
                write_report(report_path(writer).parent, dataset, labels, show_progress)
            writer.write(labels)
        else:
            remove_left_over(writer.destination)
        path.unlink()
    return None if is_written else labels


def parse_reward(text: str, every: int | None = None) -> RewardSpec:
    """The reward that the command line names.

    Args:
        text: A mode, the JSON of a `RewardSpec`, or the name of a ``.json`` file with it.
        every: Scoring interval in place of that of the reward.

    Raises:
        ValueError: Neither of these, or not a possible reward.
        FileNotFoundError: There is no such file.
    """
    if text.lstrip().startswith("{"):
        spec = RewardSpec.from_json(text)
    elif text.endswith(".json"):
        spec = RewardSpec.from_json(read_text(Path(text)))
    elif text == "potential":
        raise ValueError('potential needs gamma: give --reward \'{"mode": "potential", "gamma": 0.99, ...}\'')
    elif text in get_args(Mode):
        spec = RewardSpec(mode=text)  # pyright: ignore[reportArgumentType] - just checked
    else:
        raise ValueError(f"got the reward {text!r}; expected one of {', '.join(get_args(Mode))}, JSON or a .json file")
    return spec if every is None else replace(spec, every=every)


def journal_path(writer: LabelWriter) -> Path:
    """Where the labels are until they are written."""
    return writer.destination.with_name(f"{writer.destination.name}.journal")


def report_path(writer: LabelWriter) -> Path:
    """Where the page of ``--report`` is."""
    return writer.destination.with_name(f"{writer.destination.name}-report") / PAGE


def _engine(config: RelabelConfig) -> tuple[Engine, RewardModel]:
    """Where the model runs, and the model as far as it is needed here."""
    from robometer_rl.models.loading import family_of, load_reward_model

    load = partial(load_reward_model, config.model, dtype=config.dtype)
    if config.engine == "local":
        return one_process, load(device=config.device)
    gpus = config.gpus_per_worker
    if gpus is None:
        gpus = float(config.device.startswith("cuda"))
    # Weights are where the workers are; on the device "meta" a Robometer can say what it is, and needs no memory.
    here = "meta" if family_of(config.model) == "robometer" else "cpu"
    return RayEngine(partial(load, device=config.device), config.workers, gpus), load(device=here)


def _print_next(config: RelabelConfig, writer: LabelWriter, can_be_learned_from: bool) -> None:
    """Where the page is, or how to get one, and what the labels are for."""
    console = open_console()
    if config.report:
        console.print(f"page: {report_path(writer)}", soft_wrap=True)
    else:
        console.print("no page was asked for: --report writes one with videos and curves, worst disagreements first")
    if can_be_learned_from:
        words = ["python", "examples/offline_rl.py", str(writer.destination)]
        words += ["--cameras", *config.cameras] if config.cameras else []
        console.print(f"learn from it, where it has low-dimensional observations: {shlex.join(words)}", soft_wrap=True)
    console.print("how to train on it, by format: docs/relabeling.md", soft_wrap=True)


def _print_summary(labels: Labels, writer: LabelWriter) -> None:
    console = open_console()
    steps = sum(episode.num_steps for episode in labels.episodes.values())
    imputed = sum(int(episode.imputed.sum()) for episode in labels.episodes.values())
    console.print(
        f"{len(labels.episodes)} episodes with {steps} steps labelled in {writer.destination}"
        + (f", {imputed} last steps imputed" if imputed else ""),
        soft_wrap=True,
    )
    if labels.skipped:
        table = Table("skipped episode", "why")
        for entry in labels.skipped[:_LISTED]:
            table.add_row(entry.name, entry.reason)
        console.print(table)
        if len(labels.skipped) > _LISTED:
            console.print(f"and {len(labels.skipped) - _LISTED} more, which are listed with the labels")
