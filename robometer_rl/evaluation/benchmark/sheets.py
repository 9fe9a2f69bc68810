"""The tables of a benchmark: bad behaviour first, and everybody, controls too, in every one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from robometer_rl.data.published import published
from robometer_rl.evaluation.benchmark.asking import MEAN, JudgedSet
from robometer_rl.evaluation.benchmark.definitions import Benchmark, PublishedNumber
from robometer_rl.evaluation.metrics import Estimate
from robometer_rl.evaluation.published.judging import Judged, Kind, Row

__all__ = ["Sheet", "sheets_of"]


@dataclass(frozen=True)
class Sheet:
    """A table with its words.

    Attributes:
        title: Above it.
        about: What it says.
        columns: Headings.
        rows: As many texts each.
    """

    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


# Of `measure`, by heading. The reference has no such numbers, so there is nothing to stand beside them.
_BEHAVIOUR: Final[Sequence[tuple[str, str, Mapping[str, str]]]] = (
    (
        "Paid for nothing",
        "Low is good: progress gained after the robot stops (stall), final progress of experts under another task's "
        "instruction (wrong task), how far progress moves over one picture (still), part of the episodes without "
        "success in which the success rule fires (false alarms). High is good: pairs of a task in which a success "
        "ends above a failure (failures), rank correlation with true progress where what was done is undone (undone).",
        {
            "stall": "stall_rise",
            "wrong task": "wrong_task_progress",
            "still": "still_progress_range",
            "false alarms": "success_rule_false_alarms",
            "failures": "success_above_failure",
            "undone": "regression_correlation",
        },
    ),
    (
        "Final progress by what the robot did",
        "Only experts should end near 1.",
        {
            name.replace("_", " "): f"final_progress_{name}"
            for name in (
                *("expert", "noisy", "undo", "stop_halfway", "hover", "flail", "wrong_push", "wrong_place", "drop"),
                *("wrong_object", "random"),
            )
        },
    ),
    (
        "Along the frames",
        "VOC: Pearson's r of experts' progress with true progress, in which a clock does well by construction. AUROC: "
        "frames in which the task is done against the others. Recall: part of the successes in which the success rule "
        "fires. Graded: pairs of a task with different partial success in the right order.",
        {
            "VOC": "voc_pearson",
            "VOC, Spearman": "voc_spearman",
            "AUROC": "success_auroc",
            "recall": "success_rule_recall",
            "graded": "graded_ranking_accuracy",
        },
    ),
)


@dataclass(frozen=True)
class _Evaluation:
    """What is shown of an evaluation: our numbers, and what the reference has in the place of each."""

    title: str
    about: str
    numbers: Mapping[str, tuple[str, ...]]


_EVALUATIONS: Final[Mapping[Kind, _Evaluation]] = {
    "preference": _Evaluation(
        "Pairs",
        "Is the better of two episodes of a task preferred? The reference shows the better one first throughout.",
        {"preference_accuracy_mean": ("preference_accuracy",), "preference_accuracy_both": ()},
    ),
    "ranking": _Evaluation(
        "Order by final progress",
        "Do episodes of a task come out in the order of their quality? Ties count half; in the reference the order of "
        "a set decides them.",
        {
            "successful_above_failure": ("ranking_acc_failure_vs_successful_last",),
            "ranking_accuracy": ("ranking_acc_last", "ranking_acc_rba_last"),
            "final_tau_a": ("kendall_last",),
            "success_fail_difference": ("avg_succ_fail_diff_last",),
        },
    ),
    "confusion": _Evaluation(
        "Instructions",
        "Is a video worth most under its own instruction?",
        {"own_task_first": (), "own_task_margin": ("normalized_trace_minus_offdiag",)},
    ),
    "alignment": _Evaluation(
        "Progress and time",
        "Does progress of successful episodes grow with time? A clock is perfect here, so this comes last. Graded "
        "outcomes: how far final progress is off, and the same on the levels 1 to 5.",
        {
            "level_error": ("mae",),
            "graded_error": ("partial_success_abs_delta",),
            "voc_pearson_time": ("pearson",),
            "voc_spearman": (),
            "squared_error": ("loss",),
        },
    ),
}


def sheets_of(benchmark: Benchmark, judged: JudgedSet, alone: bool, sources: Mapping[str, str]) -> list[Sheet]:
    """The tables of one set.

    Args:
        benchmark: What was asked.
        judged: What came of it.
        alone: Whether it is the only set, so that numbers of all sets are its own.
        sources: What loads each model, by its name in tables.
    """
    numbers = [
        each
        for each in benchmark.published
        if judged.name == (MEAN if each.set == MEAN else published().short_name([each.set]))
        or (alone and each.set == MEAN)
    ]
    sheets = list(_behaviour(judged.measured))
    for kind, evaluation in _EVALUATIONS.items():
        if kind in judged.judged:
            of_kind = [each for each in numbers if each.kind == kind]
            sheets.append(_evaluation(evaluation, judged.judged[kind], of_kind, sources))
    return sheets


def _behaviour(measured: Mapping[str, Mapping[str, Estimate]]) -> Iterator[Sheet]:
    for title, about, metrics in _BEHAVIOUR:
        known = {
            heading: name
            for heading, name in metrics.items()
            if any(name in found and found[name].count for found in measured.values())
        }
        if known:
            rows = [(who, *(_shown(found.get(name)) for name in known.values())) for who, found in measured.items()]
            yield Sheet(title, about, ("", *known), tuple(rows))


def _evaluation(
    evaluation: _Evaluation, judged: Judged, numbers: Sequence[PublishedNumber], sources: Mapping[str, str]
) -> Sheet:
    rows: list[tuple[str, ...]] = []
    for ours, theirs in evaluation.numbers.items():
        about = [each for each in numbers if each.metric in (ours, *theirs)]
        of_number: list[tuple[str, ...]] = []
        for row in judged.rows:
            legacy = next((f"{row.legacy[each]:.3f}" for each in theirs if each in row.legacy), "")
            estimate = row.corrected.get(ours)
            if not legacy and (estimate is None or not estimate.count):
                continue
            said = next((f"{each.value:.3f}" for each in about if each.model == sources.get(row.name)), "")
            count = str(estimate.count) if estimate is not None else ""
            of_number.append((row.name, said, legacy, _shown(estimate), count))
        of_number += [(f"{each.model}: {each.where}", f"{each.value:.3f}", "", "", "") for each in about]
        name = ours if not theirs else f"{ours} ({_used(theirs, judged.rows)})"
        rows += [("" if place else name, *cells) for place, cells in enumerate(of_number)]
    title = f"{evaluation.title}: {judged.frame_rule}"
    return Sheet(title, evaluation.about, ("number (the reference's)", "", *_COLUMNS), tuple(rows))


_COLUMNS: Final = ("published", "legacy", "corrected (95 %)", "n")


def _used(theirs: Sequence[str], rows: Sequence[Row]) -> str:
    return next((name for name in theirs if any(name in row.legacy for row in rows)), theirs[0])


def _shown(estimate: Estimate | None) -> str:
    if estimate is None or not estimate.count:
        return ""
    interval = "" if estimate.low != estimate.low else f" ({estimate.low:.3f} to {estimate.high:.3f})"
    return f"{estimate.value:.3f}{interval}"
