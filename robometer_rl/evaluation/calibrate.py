"""``robometer-rl calibrate``: the success rule of a model for your episodes, written where a reward reads it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.table import Table

from robometer_rl.data.trajectory import Trajectory
from robometer_rl.data.verified import open_verified
from robometer_rl.documents import read_text
from robometer_rl.files import write_text
from robometer_rl.frames import parse_protocol, scored_steps
from robometer_rl.models.locations import is_compact
from robometer_rl.monitor import MonitorSpec
from robometer_rl.prediction import Prediction
from robometer_rl.provenance import provenance, read_record
from robometer_rl.report.figures import save_picture
from robometer_rl.report.terminal import open_console
from robometer_rl.rewards import DEFAULT_REWARD, RewardSpec

if TYPE_CHECKING:
    from robometer_rl.evaluation.calibration import SuccessCalibration
    from robometer_rl.evaluation.metrics import Estimate
    from robometer_rl.evaluation.monitoring import MonitorCalibration

__all__ = ["CalibrateConfig", "run_calibrate"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CalibrateConfig:
    """Finds the success threshold and patience on episodes whose success was recorded.

    The rule is written as a `RewardSpec` (``reward.json``) beside its ROC and its numbers. With ``--write-checkpoint``
    the threshold also becomes that of the checkpoint, which all rewards take that state none.

    Attributes:
        model: What `load_reward_model` takes.
        data: Store of trajectories.
        split: The splits of it to calibrate on; if none is given, the episodes that the model was not trained on by its
            record. Keep the episodes that you evaluate on out of them.
        patience: Candidates for the number of consecutive scored frames.
        max_false_alarms: Part of the episodes in which the rule may fire before the task is done.
        protocol: Which frames each step is scored with, as in ``nested(8)``; the model's default if None.
        every: Scoring interval in recorded frames. Choose it so that frames are as far apart as your environment's
            scored ones, since patience counts scored frames.
        reward: JSON file of the `RewardSpec` to start from; one with defaults if None.
        monitor: Choose a monitor on every second task, too, and judge it on the others (``monitor.json``).
        write_checkpoint: Write a threshold into the settings of the model, a local directory. Settings hold no
            patience, so it is the one for the default patience.
        output: Folder for ``reward.json``, ``calibration.json`` and ``roc.png``.
        device: Where to run.
        dtype: Precision; as stored if None.
        seed: Of the bootstrap.
    """

    model: tyro.conf.Positional[str]
    data: tyro.conf.Positional[Path]
    split: tuple[str, ...] = ()
    patience: tuple[int, ...] = (1, 2, 3, 5)
    max_false_alarms: float = 0.05
    protocol: str | None = None
    every: int = 1
    reward: Path | None = None
    monitor: bool = False
    write_checkpoint: bool = False
    output: Path = Path("outputs/calibration")
    device: str = "cpu"
    dtype: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.patience or min(self.patience) < 1:
            raise ValueError(f"patience must be one or more numbers of at least 1, got {self.patience}")
        if not 0.0 <= self.max_false_alarms < 1.0:
            raise ValueError(f"max_false_alarms is a part in [0, 1), got {self.max_false_alarms}")
        if self.protocol is not None:
            parse_protocol(self.protocol)
        scored_steps(1, self.every)
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        if self.output.exists() and not self.output.is_dir():
            raise ValueError(f"output must be a folder, got the file {self.output}")


def run_calibrate(config: CalibrateConfig) -> SuccessCalibration:
    """Calibrates as ``config`` says.

    Returns:
        The best rule.

    Raises:
        StoreError: There is no such store, or all such episodes in it are damaged.
        ValueError: No episodes to choose between, a model that is not a local directory where its settings are to be
            written, or no rule that recognises enough successes to be written anywhere.
    """
    episodes = _episodes(config)
    splits = sorted({episode.split for episode in episodes})
    if config.write_checkpoint and not Path(config.model).is_dir():
        raise ValueError(f"{config.model!r} is no local directory whose settings could be written")
    spec = RewardSpec() if config.reward is None else RewardSpec.from_json(read_text(config.reward))
    # Imported here: they need torch, which the command line has no time for before it knows what to do.
    from robometer_rl.evaluation.calibration import choose_rules, score_judged, success_of
    from robometer_rl.evaluation.plots import draw_calibration
    from robometer_rl.models.loading import load_reward_model

    model = load_reward_model(config.model, config.device, config.dtype)
    protocol = None if config.protocol is None else parse_protocol(config.protocol)
    said, done = score_judged(model, episodes, protocol=protocol, every=config.every)
    patiences = sorted({*config.patience, DEFAULT_REWARD.patience})
    rules = choose_rules(success_of(said), done, patiences, config.max_false_alarms, config.seed)
    best = next(rule for rule in rules if rule.patience in config.patience)
    open_console().print(_table(rules, best, model.model_id))
    config.output.mkdir(parents=True, exist_ok=True)
    save_picture(draw_calibration(rules, model.model_id), config.output / "roc.png")
    _write_numbers(config, rules, best, splits, len(episodes))
    _require_usable(best, config.max_false_alarms)
    chosen = replace(spec, success_threshold=_rounded(best.threshold), patience=best.patience)
    write_text(config.output / "reward.json", chosen.to_json() + "\n")
    logger.info("wrote %s", config.output / "reward.json")
    if config.write_checkpoint:
        _write_checkpoint(config, rules)
    if config.monitor:
        _calibrate_monitor(config, episodes, said, done, chosen)
    return best


def _calibrate_monitor(
    config: CalibrateConfig,
    episodes: list[Trajectory],
    said: list[Prediction],
    done: list[NDArray[np.bool_]],
    rule: RewardSpec,
) -> None:
    """Writes ``monitor.json``, and says what the monitor does on tasks that it was not chosen on."""
    from robometer_rl.evaluation.monitoring import choose_monitor, watched

    spec = MonitorSpec(success_threshold=rule.success_threshold, needed=rule.patience, out_of=rule.patience)
    found = choose_monitor(
        watched(episodes, said, done, config.every), spec, max_false_alarms=config.max_false_alarms, seed=config.seed
    )
    open_console().print(_monitor_table(found))
    numbers = {"chosen_on": found.chosen_on.as_dict(), "reported_on": found.reported_on.as_dict()}
    write_text(config.output / "monitor_calibration.json", json.dumps(numbers, indent=2) + "\n")
    write_text(config.output / "monitor.json", found.spec.to_json() + "\n")
    logger.info("wrote %s; MonitorSpec.from_json reads it (docs/monitoring.md)", config.output / "monitor.json")


def _monitor_table(found: MonitorCalibration) -> Table:
    table = Table(
        title=f"monitor: looks back {found.spec.window} scored frames, a loss is one of {found.spec.loss:.2f}\n"
        "(false: of the successes; noticed, and called done: of the failures)",
        title_justify="left",
    )
    for name in ("tasks", "false", "noticed", "frames late", "called done"):
        table.add_column(name, justify="right", no_wrap=True)
    for where, rates in (("chosen on", found.chosen_on), ("others", found.reported_on)):
        shown = [_percent(rate) for rate in (rates.false_alarms, rates.noticed, rates.called_done)]
        table.add_row(f"{where} ({len(rates.tasks)})", *shown[:2], f"{rates.delay:.0f}", shown[2])
    return table


def _episodes(config: CalibrateConfig) -> list[Trajectory]:
    """What to calibrate on: where no split is named, episodes that the model has not seen, if there are any."""
    found = open_verified(config.data, lambda episode: not config.split or episode.split in config.split).trajectories
    judged = [episode for episode in found if episode.success is not None]
    if not judged:
        where = f" of the split {' or '.join(config.split)}" if config.split else ""
        raise ValueError(
            f"{config.data} has no episodes{where} whose success was recorded; it has {len(found)} others{where}"
        )
    trained = _trained_on(config.model)
    unseen = [episode for episode in judged if not trained.holds(episode)]
    if unseen and not config.split:
        if len(unseen) < len(judged):
            logger.info("%d of %d episodes are left out: %s", len(judged) - len(unseen), len(judged), trained.reason)
        return unseen
    if len(unseen) < len(judged):
        logger.warning(
            "%s was trained on %d of these %d episodes%s: the rule will look better than it is. Record others, in a "
            "split of their own, and name it by --split",
            config.model,
            len(judged) - len(unseen),
            len(judged),
            "" if trained.ids else " or on others of their split and source",
        )
    return judged


@dataclass(frozen=True)
class _Trained:
    """What a model was trained on, as far as its checkpoint says.

    Attributes:
        ids: Of single episodes, which `robometer-rl adapt` notes.
        sources: Splits and data sources, which a record of `robometer-rl train` names.
    """

    ids: frozenset[str] = frozenset()
    sources: frozenset[tuple[str, str]] = frozenset()

    def holds(self, episode: Trajectory) -> bool:
        """Whether the model may have been trained on this episode."""
        return episode.id in self.ids or (episode.split, episode.data_source) in self.sources

    @property
    def reason(self) -> str:
        """Why episodes that it holds are none to calibrate on."""
        return "the model was trained on them" if self.ids else "the model was trained on their split and source"


def _trained_on(model: str) -> _Trained:
    """What a checkpoint in a folder was trained on; nothing where it does not say."""
    directory = Path(model)
    if is_compact(directory):
        from robometer_rl.models.compact.checkpoint import read_compact_config

        return _Trained(ids=frozenset(read_compact_config(directory).trained_on))
    record = read_record(directory)
    if record is not None and isinstance(noted := record.get("episodes"), dict):  # by `robometer-rl adapt`
        return _Trained(ids=frozenset(map(str, noted.get("training", ()))))
    if record is None or "split" not in record["options"]:
        return _Trained()
    split = str(record["options"]["split"])
    return _Trained(sources=frozenset((split, str(source)) for source in record["data"]))


def _write_checkpoint(config: CalibrateConfig, rules: list[SuccessCalibration]) -> None:
    from robometer_rl.models.compact.checkpoint import write_compact_threshold
    from robometer_rl.models.robometer.checkpoint import write_success_threshold

    rule = next(rule for rule in rules if rule.patience == DEFAULT_REWARD.patience)
    _require_usable(rule, config.max_false_alarms)
    write = write_compact_threshold if is_compact(Path(config.model)) else write_success_threshold
    write(Path(config.model), _rounded(rule.threshold))
    logger.info("%s has the success threshold %.4f now", config.model, rule.threshold)


def _require_usable(rule: SuccessCalibration, max_false_alarms: float) -> None:
    if not rule.usable:
        raise ValueError(
            f"with patience {rule.patience} and at most {max_false_alarms:.0%} false alarms the success rule fires in "
            f"{rule.true_positive_rate.value:.0%} of the successes only; nothing is written. Train the model on such "
            "episodes, or allow more false alarms"
        )


def _table(rules: list[SuccessCalibration], best: SuccessCalibration, model: str) -> Table:
    table = Table(title=f"{model}: success rules, best first (95 % intervals over episodes)", title_justify="left")
    for name in ("patience", "threshold", "fires rightly", "fires falsely", "AUROC"):
        table.add_column(name, justify="right", no_wrap=True)
    for rule in rules:
        table.add_row(
            f"{rule.patience}",
            f"{rule.threshold:.2f} ({rule.threshold_low:.2f} to {rule.threshold_high:.2f})",
            _percent(rule.true_positive_rate),
            _percent(rule.false_positive_rate),
            f"{rule.auroc:.3f}",
            style="bold" if rule is best else None,
        )
    return table


def _percent(rate: Estimate) -> str:
    return f"{rate.value:.0%} ({100 * rate.low:.0f} to {100 * rate.high:.0f})"


def _write_numbers(
    config: CalibrateConfig,
    rules: list[SuccessCalibration],
    best: SuccessCalibration,
    splits: list[str],
    episodes: int,
) -> None:
    numbers = {
        "provenance": provenance(),
        "model": config.model,
        "split": splits,
        "every": config.every,
        "max_false_alarms": config.max_false_alarms,
        "episodes": episodes,
        "chosen": best.as_dict(),
        "rules": [rule.as_dict() for rule in rules],
    }
    write_text(config.output / "calibration.json", json.dumps(numbers, indent=2) + "\n")


def _rounded(threshold: float) -> float:
    return round(threshold, 4)
