"""Asking everybody everything that a benchmark is about, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from robometer_rl.data.published import published
from robometer_rl.evaluation.benchmark.definitions import Benchmark
from robometer_rl.evaluation.benchmark.sets import manifest_of_episodes
from robometer_rl.evaluation.measures import measure
from robometer_rl.evaluation.metrics import Estimate, bootstrap, plain_metrics
from robometer_rl.evaluation.published.answers import Answerer
from robometer_rl.evaluation.published.judging import Judged, Kind, NothingToAskError, Row, judge, may_be_asked
from robometer_rl.evaluation.published.questions import Dataset, Drawing, shown_frames
from robometer_rl.evaluation.scoring import Scoring, score_episodes
from robometer_rl.evaluation.verdict import EvaluationVerdict, judge_metrics
from robometer_rl.frames import Clip
from robometer_rl.models.reward_model import RewardModel, UnreadableAnswerError, UnsupportedByModelError

__all__ = ["MEAN", "JudgedSet", "ask_everybody", "manifest", "manifest_differences", "mean_of_sets"]

MEAN: Final = "mean"
"""What the mean over all sets is called among them."""


@dataclass(frozen=True)
class JudgedSet:
    """One set of a benchmark.

    Attributes:
        name: Of the set.
        episodes: How many, by quality label.
        tasks: How many.
        manifest: SHA-256 of the episodes, see `manifest_of_episodes`; empty of a mean.
        measured: What `robometer_rl.evaluation.measures.measure` found of each answerer; empty where no success was
            recorded frame by frame, which these measures are about.
        protocols: Which frames each answerer was shown for that.
        verdicts: On the models among them.
        judged: Each evaluation of the benchmark that could be made.
        left_out: What could not be, and why.
    """

    name: str
    episodes: Mapping[str, int]
    tasks: int
    manifest: str
    measured: Mapping[str, Mapping[str, Estimate]]
    protocols: Mapping[str, str]
    verdicts: Mapping[str, EvaluationVerdict]
    judged: Mapping[Kind, Judged]
    left_out: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined is None."""
        return {
            "set": self.name,
            "episodes": dict(self.episodes),
            "tasks": self.tasks,
            "manifest": self.manifest,
            "protocols": dict(self.protocols),
            "metrics": {name: plain_metrics(metrics) for name, metrics in self.measured.items()},
            "verdicts": {name: verdict.as_dict() for name, verdict in self.verdicts.items()},
            "evaluations": {kind: judged.as_dict() for kind, judged in self.judged.items()},
            "left_out": dict(self.left_out),
        }


def ask_everybody(benchmark: Benchmark, dataset: Dataset, asked: Sequence[Answerer]) -> JudgedSet:
    """Judges everybody on one set.

    Args:
        benchmark: What is asked.
        dataset: Of which episodes.
        asked: Models, and controls.
    """
    measured: dict[str, Mapping[str, Estimate]] = {}
    protocols: dict[str, str] = {}
    verdicts: dict[str, EvaluationVerdict] = {}
    left_out: dict[str, str] = {}
    if all(each.success is not None for each in dataset.episodes):
        for each in asked:
            try:
                measured[each.name] = _measured(each, dataset)
            except (UnsupportedByModelError, UnreadableAnswerError) as error:
                left_out[f"{each.name}, frame by frame"] = str(error)
                continue
            protocols[each.name] = str(each.model.default_protocol)
            if not each.is_control:
                verdicts[each.name] = _verdict(each.model, measured[each.name], dataset)
    judged: dict[Kind, Judged] = {}
    # What simulators measure is a grade, too; as in the reference's sets of them, quality labels decide the order.
    by_label = tuple(replace(each, partial_success=None) for each in dataset.episodes)
    labelled = Dataset(dataset.names, by_label) if benchmark.recordings else dataset
    for kind, drawing in benchmark.kinds.items():
        made, silent = _judged(kind, labelled, drawing, asked)
        left_out |= silent
        if made is not None:
            judged[kind] = made
    return JudgedSet(
        name=published().short_name(dataset.names),
        episodes=Counter(each.quality_label for each in dataset.episodes),
        tasks=len({each.task for each in dataset.episodes}),
        manifest=manifest_of_episodes(dataset.episodes),
        measured=measured,
        protocols=protocols,
        verdicts=verdicts,
        judged=judged,
        left_out=left_out,
    )


def _measured(answerer: Answerer, dataset: Dataset) -> dict[str, Estimate]:
    """Every frame of every episode; impostors of a model and wrong tasks only where it is not changed itself."""
    scoring = Scoring(
        answerer.model.default_protocol,
        pairs=0,  # a kind of its own
        controls=answerer.change is None,
        show_progress=answerer.show_progress,
    )
    model = answerer.as_model([each.task for each in dataset.episodes])
    return measure(score_episodes(model, dataset.episodes, scoring))


def _verdict(model: RewardModel, metrics: Mapping[str, Estimate], dataset: Dataset) -> EvaluationVerdict:
    firsts = {each.task: each for each in reversed(dataset.episodes)}
    # A model notes what it does not know when it is asked, and answers of an earlier run are not asked for again.
    for each in firsts.values():
        shown = shown_frames(len(each), model.default_protocol.max_frames, padded=False)
        model.predict([Clip(each.clip().read(list(shown)), each.task)])
    unknown = [task for task in model.doubts.unknown_tasks if task in firsts]
    return judge_metrics(metrics, len(dataset.episodes), unknown, model.doubts.strange_pictures)


def _judged(
    kind: Kind, dataset: Dataset, drawing: Drawing, asked: Sequence[Answerer]
) -> tuple[Judged | None, dict[str, str]]:
    """One by one: what one model cannot answer, another can."""
    made: Judged | None = None
    silent: dict[str, str] = {}
    for each in asked:
        if not may_be_asked(kind, each):
            continue
        try:
            each.model.require_views(f"the evaluation {kind!r}", tiled=all(row.tiled for row in dataset.episodes))
            of_one = judge(kind, dataset, drawing, [each])
        except (UnsupportedByModelError, UnreadableAnswerError) as error:
            silent[f"{each.name}, {kind}"] = str(error)
        except NothingToAskError as error:
            return None, {kind: str(error)}
        else:
            made = of_one if made is None else replace(made, rows=[*made.rows, *of_one.rows])
    return made, silent


def mean_of_sets(sets: Sequence[JudgedSet]) -> JudgedSet:
    """The mean over sets, each of which counts alike, with intervals over sets.

    Who did not answer in all of them has no mean; its legacy is the mean of the reference's numbers.
    """
    kinds: list[Kind] = [kind for kind in sets[0].judged if all(kind in each.judged for each in sets)]
    judged: dict[Kind, Judged] = {}
    for kind in kinds:
        of_sets = [each.judged[kind] for each in sets]
        rows = [[row for row in each.rows if row.name == first.name] for first in of_sets[0].rows for each in of_sets]
        by_name = [rows[start : start + len(sets)] for start in range(0, len(rows), len(sets))]
        whole = [[found[0] for found in each] for each in by_name if all(each)]
        judged[kind] = replace(
            of_sets[0], name=MEAN, manifest="", asked=(), said=(), rows=[_mean(each) for each in whole], matrix=None
        )
    quality = sum((Counter(each.episodes) for each in sets), Counter[str]())
    return JudgedSet(MEAN, quality, sum(each.tasks for each in sets), "", {}, {}, {}, judged, {})


def _mean(rows: Sequence[Row]) -> Row:
    legacy = [name for name in rows[0].legacy if all(name in row.legacy for row in rows)]
    corrected = [name for name in rows[0].corrected if all(name in row.corrected for row in rows)]
    return Row(
        rows[0].name,
        rows[0].is_control,
        {name: float(np.mean([row.legacy[name] for row in rows])) for name in legacy},
        {name: bootstrap([row.corrected[name].value for row in rows]) for name in corrected},
    )


def manifest(sets: Sequence[JudgedSet]) -> dict[str, str]:
    """Hashes of what was asked, by set, and by set and kind."""
    kinds = {f"{each.name}/{kind}": judged.manifest for each in sets for kind, judged in each.judged.items()}
    return {each.name: each.manifest for each in sets} | kinds


def manifest_differences(benchmark: Benchmark, sets: Sequence[JudgedSet]) -> list[str]:
    """What was asked otherwise than the benchmark says, as `manifest` names it; nothing if it says nothing."""
    expected = benchmark.manifest
    return [name for name, found in manifest(sets).items() if expected and expected.get(name) != found]
