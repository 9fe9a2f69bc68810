"""``robometer-rl evaluate``: a reward model on recorded episodes whose truth is known; tables, one JSON file, plots."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import tyro
from rich.table import Table

from robometer_rl.data.labels import EXPERT, group_key
from robometer_rl.data.targets import TargetConfig
from robometer_rl.data.trajectories import Described
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.documents import without_nan
from robometer_rl.evaluation.measures import measure
from robometer_rl.evaluation.metrics import Estimate, plain_metrics
from robometer_rl.evaluation.page import metric_rows, write_evaluation_page
from robometer_rl.evaluation.plots import write_plots
from robometer_rl.evaluation.scoring import Condition, Scores, Scoring, score_episodes
from robometer_rl.evaluation.verdict import EvaluationVerdict, GateError, check, judge_metrics, read_gate
from robometer_rl.files import write_text
from robometer_rl.formats.opening import OpenedEpisodes, open_episodes
from robometer_rl.frames import FrameProtocol, parse_protocol, scored_steps
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.provenance import provenance
from robometer_rl.report.recordings import MOST_SHOWN
from robometer_rl.report.terminal import open_console

__all__ = [
    "SCHEMA_VERSION",
    "EvaluateConfig",
    "Evaluation",
    "Group",
    "Measured",
    "evaluate",
    "evaluate_model",
    "run_evaluate",
]

logger = logging.getLogger(__name__)

_WIDEST = 1000  # columns of a table

Group = Literal["task", "data_source", "skill", "split"]


@dataclass(frozen=True)
class EvaluateConfig:
    """Scores recorded episodes and measures how right the scores are.

    The reference's evaluations have commands of their own: ``robometer-rl evaluate alignment --help``, and likewise
    ``ranking``, ``confusion`` and ``preference``.

    Attributes:
        model: What `load_reward_model` takes: ``mini``, a checkpoint directory, or a Hub id.
        data: Store of trajectories, or published data where it lies, as in ``rbm:processed_datasets``.
        select: Of published data only these groups or collections, as in ``rbm-1m-ood``.
        exclude: Flags that were set in the studio, as in ``outputs/studio/flags.jsonl``: flagged episodes are left out.
        split: The splits of them to evaluate on.
        data_sources: Only trajectories of these data sources; of all if none is named.
        conditions: Also measure with other words (``paraphrased``) or another light and camera (``jitter``), beside
            the episodes as recorded.
        by: Also measure every task, data source, skill or split alone.
        output: JSON file to write, NAME.json; plots and the page go into the directory NAME beside it.
        page: Most episodes on the page, those that the model is most wrong about; 0 for no page.
        protocol: Which frames each step is scored with, as in ``nested(8)``; the model's default if None.
        every: Scoring interval in recorded frames.
        pairs: Most pairs per task that preference is asked about.
        reaching: What an expert's way to the object is worth at most, see `TargetConfig`.
        device: Where to run.
        dtype: Precision; as stored if None.
        seed: Of the choice of pairs, wrong tasks, paraphrases and jitter.
        gate: JSON file of limits, as in ``{"success_above_failure": {"at_least": 0.9}, "stall_rise": {"at_most":
            0.1}}``; the command fails where one is not kept or cannot be measured.
    """

    model: tyro.conf.Positional[str]
    data: tyro.conf.Positional[Path]
    select: tuple[str, ...] = ()
    exclude: Path | None = None
    split: tuple[str, ...] = ("test",)
    data_sources: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    by: Group | None = None
    output: Path = Path("outputs/evaluation.json")
    page: int = MOST_SHOWN
    protocol: str | None = None
    every: int = 1
    pairs: int = 20
    reaching: float = TargetConfig.reaching
    device: str = "cpu"
    dtype: str | None = None
    seed: int = 0
    gate: Path | None = None

    def __post_init__(self) -> None:
        # All before hours of scoring.
        if self.output.suffix != ".json" or self.output.is_dir():
            raise ValueError(f"output must be a file NAME.json, got {self.output}")
        if self.protocol is not None:
            parse_protocol(self.protocol)
        scored_steps(1, self.every)
        for name, least in (("pairs", 0), ("seed", 0), ("page", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        TargetConfig(reaching=self.reaching)
        if self.gate is not None:
            read_gate(self.gate)


def run_evaluate(config: EvaluateConfig) -> Evaluation:
    """Evaluates the model that ``config`` names."""
    opened = select_episodes(config)
    from robometer_rl.models.loading import load_reward_model

    model = load_reward_model(config.model, config.device, config.dtype)
    return evaluate(config, model, list(opened.trajectories), opened.excluded)


def select_episodes(config: EvaluateConfig) -> OpenedEpisodes:
    """The episodes that ``config`` is about.

    Raises:
        StoreError: There is no such store, or all such episodes in it are damaged.
        ValueError: The store has no such episodes.
    """

    def wanted(episode: Described) -> bool:
        sources = config.data_sources
        return episode.split in config.split and (not sources or episode.data_source in sources)

    opened = open_episodes((config.data,), wanted, config.select, config.exclude)
    if not opened.trajectories:
        splits, sources = ({name[place] for name in opened.held} for place in range(2))
        raise ValueError(
            f"{config.data} holds {sum(opened.held.values())} episodes, "
            f"none of them of the split {' or '.join(config.split)}"
            + (f" and of {' or '.join(config.data_sources)}" if config.data_sources else "")
            + (f" that is not among the {opened.excluded} flagged ones" if opened.excluded else "")
            + f"; its splits are {sorted(splits)}, its data sources {sorted(sources)}"
        )
    return opened


def evaluate(
    config: EvaluateConfig, model: RewardModel, episodes: Sequence[Trajectory], excluded: int = 0
) -> Evaluation:
    """Evaluates, prints the tables and writes the JSON file, the plots and the page.

    Args:
        config: How; its ``model``, ``data`` and what selects episodes are not looked at.
        model: What to measure.
        episodes: On what.
        excluded: How many episodes were left out because they are flagged, which the results say.

    Raises:
        ValueError: A condition that does not apply, see `score_episodes`.
        GateError: The numbers, which are written, are not within the limits of ``config.gate``.
    """
    protocol = model.default_protocol if config.protocol is None else parse_protocol(config.protocol)
    scoring = Scoring(protocol, config.every, config.pairs, config.seed, config.reaching, show_progress=True)
    scores = _score(model, episodes, scoring, config.conditions)
    evaluation = _evaluation(model, scoring, scores, config.by, excluded)
    for table in evaluation.tables():
        # In full even where the terminal is narrower, or there is none: numbers must not be cut.
        open_console(width=max(open_console().width, open_console(width=_WIDEST).measure(table).maximum)).print(table)
    evaluation.write(config.output)
    plots = write_plots(config.output.with_suffix(""), scores, model.model_id)
    logger.info("wrote %s and %d plots in %s", config.output, len(plots), config.output.with_suffix(""))
    _say(evaluation.verdict)
    if config.page:
        page = write_evaluation_page(
            config.output.with_suffix(""),
            scores,
            evaluation.verdict,
            evaluation.conditions,
            evaluation.facts,
            plots,
            config.page,
        )
        open_console().print(f"see it, worst episodes first: open {page}", soft_wrap=True)
    if config.gate is not None:
        _hold_against(config.gate, evaluation)
    return evaluation


def _say(verdict: EvaluationVerdict) -> None:
    open_console().print("\n".join([f"verdict: {verdict.light}", *(f"  {each}" for each in verdict.sentences)]))


def _hold_against(gate: Path, evaluation: Evaluation) -> None:
    missed, limits = [], read_gate(gate)
    for name, stated in limits.items():
        if name not in evaluation.metrics:
            close = difflib.get_close_matches(name, evaluation.metrics, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            missed.append(f"{name} is none of the metrics that these episodes have{hint}")
        elif not (made := check(name, evaluation.metrics[name].value, **stated)).passed:
            missed.append(str(made))
    if missed:
        raise GateError(f"{evaluation.facts['model']} is outside of the limits of {gate}: {'; '.join(missed)}")
    logger.info("within all %d limits of %s", len(limits), gate)


def evaluate_model(
    model: RewardModel,
    episodes: Sequence[Trajectory],
    protocol: FrameProtocol | None = None,
    every: int = 1,
    pairs: int = 20,
    seed: int = 0,
    conditions: Sequence[Condition] = (),
    by: Group | None = None,
    reaching: float = TargetConfig.reaching,
) -> Evaluation:
    """Measures a model on episodes with recorded success.

    Args:
        model: What to measure.
        episodes: Of any tasks and skills; those of the skill ``expert`` that succeed carry the correlations.
        protocol: See `RewardModel.predict_steps`.
        every: Likewise.
        pairs: Most pairs per task that preference is asked about.
        seed: Of everything drawn.
        conditions: Measured beside the episodes as recorded.
        by: What to group episodes by, if at all.
        reaching: What an expert's way to the object is worth at most, see `TargetConfig`.

    Returns:
        Metrics named as in `robometer_rl.evaluation.measures.measure`.

    Raises:
        ValueError: A condition that does not apply, see `score_episodes`.
    """
    scoring = Scoring(protocol or model.default_protocol, every, pairs, seed, reaching)
    return _evaluation(model, scoring, _score(model, episodes, scoring, conditions), by)


def _score(
    model: RewardModel, episodes: Sequence[Trajectory], scoring: Scoring, conditions: Sequence[Condition]
) -> dict[str, Scores]:
    if not any(episode.skill == EXPERT and bool(episode.success_index) for episode in episodes):
        logger.warning(
            "correlations with true progress are left out: none of %d episodes is a successful one of the skill %r "
            "whose first success is known",
            len(episodes),
            EXPERT,
        )
    every_condition: list[Condition] = ["recorded", *(name for name in conditions if name != "recorded")]
    return {name: score_episodes(model, episodes, scoring, name) for name in every_condition}


def _evaluation(
    model: RewardModel, scoring: Scoring, scores: dict[str, Scores], by: Group | None, excluded: int = 0
) -> Evaluation:
    episodes = [scored.episode for scored in scores["recorded"].episodes]
    groups: dict[str, list[int]] = {}
    for index, episode in enumerate(episodes):
        if by is not None:
            groups.setdefault(_group(episode, by), []).append(index)
    return Evaluation(
        conditions=_measured(scores, None),
        facts={**_facts(model, scoring, episodes, scores["recorded"].threshold), "excluded": excluded},
        groups={name: _measured(scores, members) for name, members in sorted(groups.items())},
        unknown_tasks=model.doubts.unknown_tasks,
        strange_pictures=model.doubts.strange_pictures,
    )


def _measured(scores: dict[str, Scores], chosen: list[int] | None) -> Measured:
    return {condition: measure(said, chosen) for condition, said in scores.items()}


def _group(episode: Trajectory, by: Group) -> str:
    names = {
        "task": group_key(episode),
        "data_source": episode.data_source,
        "skill": str(episode.skill),
        "split": episode.split,
    }
    return names[by]


def _facts(model: RewardModel, scoring: Scoring, episodes: Sequence[Trajectory], threshold: float) -> dict[str, Any]:
    skills = sorted({str(episode.skill) for episode in episodes})
    return {
        "model": model.model_id,
        "revision": model.revision,
        "dtype": model.dtype,
        "record": model.record,
        "unanswered": model.unanswered,
        "protocol": str(scoring.protocol),
        "every": scoring.every,
        "seed": scoring.seed,
        "reaching": scoring.reaching,
        "success_threshold": threshold,
        "episodes": {skill: sum(str(episode.skill) == skill for episode in episodes) for skill in skills},
        "tasks": sorted({group_key(episode) for episode in episodes}),
        "data_sources": sorted({episode.data_source for episode in episodes}),
        "splits": sorted({episode.split for episode in episodes}),
        "provenance": provenance(),
    }


SCHEMA_VERSION: Final = 2

Measured = Mapping[str, Mapping[str, Estimate]]
"""Metrics by condition, then by name."""


@dataclass(frozen=True)
class Evaluation:
    """The results.

    Attributes:
        conditions: Of all episodes; see `robometer_rl.evaluation.measures.measure` for the names.
        facts: What was evaluated on what.
        groups: The same by group of episodes, where groups were asked for.
        unknown_tasks: Instructions that the model says it was not trained on.
        strange_pictures: Whether it says that it was trained on other pictures.
    """

    conditions: Measured
    facts: Mapping[str, Any]
    groups: Mapping[str, Measured] = field(default_factory=dict)
    unknown_tasks: Sequence[str] = ()
    strange_pictures: bool = False

    @property
    def verdict(self) -> EvaluationVerdict:
        """What to make of it."""
        episodes = sum(self.facts["episodes"].values())
        return judge_metrics(self.metrics, episodes, self.unknown_tasks, self.strange_pictures)

    @property
    def metrics(self) -> Mapping[str, Estimate]:
        """Of the episodes as they were recorded."""
        return self.conditions["recorded"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined is None."""
        conditions = _plain(self.conditions)
        return without_nan(
            {
                "schema_version": SCHEMA_VERSION,
                **self.facts,
                "verdict": self.verdict.as_dict(),
                "metrics": conditions.pop("recorded"),
                "conditions": conditions,
                "groups": {name: _plain(measured) for name, measured in self.groups.items()},
            }
        )

    def write(self, path: Path) -> None:
        """Writes the JSON file; its directory is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(self.as_dict(), indent=2) + "\n")

    def tables(self) -> list[Table]:
        """One table of all episodes and one per group, with a column per condition."""
        title = f"{self.facts['model']}, {self.facts['protocol']}, every {self.facts['every']}"
        tables = [_table(title, self.conditions)]
        return tables + [_table(name, measured) for name, measured in self.groups.items()]


def _plain(measured: Measured) -> dict[str, Any]:
    return {condition: plain_metrics(metrics) for condition, metrics in measured.items()}


def _table(title: str, measured: Measured) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    for condition in measured:
        table.add_column(f"{condition}\n(95 % interval)", justify="right", no_wrap=True)
        table.add_column("n", justify="right")
    for row in metric_rows(measured):
        table.add_row(*row)
    return table
