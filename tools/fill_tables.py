"""Writes measured numbers into the tables of the documentation, so that no page says what no result does.

    python tools/fill_tables.py

A table to be filled follows a comment that names where each of its columns comes from, ``-`` for those that are text:

    <!-- numbers: robometer_mini, -, robometer_mini_conditions/jitter -->

That is: a file of benchmarks/results, and after a slash one of its conditions, or of a benchmark a set and a model,
as in ``benchmark_metaworld/metaworld/robometer-mini``. Rows are found by their labels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results"
CARD: Final = ROOT / "robometer_rl" / "assets" / "robometer-mini" / "README.md"
PAGES: Final = (ROOT / "README.md", CARD, *sorted((ROOT / "docs").rglob("*.md")))

ROWS: Final = {
    "VOC, Pearson r with true progress (experts)": "voc_pearson",
    "the same for a clock (t / T)": "voc_pearson_clock",
    "the same for the model shown each frame alone": "voc_pearson_single_frame",
    "the same for the model shown the first frame over and over": "voc_pearson_still",
    "VOC, Pearson r with time until success": "voc_pearson_time",
    "VOC, Spearman with time until success": "voc_spearman",
    "Success above failure by final progress, pairs of one task": "success_above_failure",
    "tau_a of final progress, failure < suboptimal < success": "final_tau_a",
    "Success AUROC over frames": "success_auroc",
    "Success rule fires on successful episodes": "success_rule_recall",
    "Success rule fires on episodes without success": "success_rule_false_alarms",
    "Preference accuracy, mean of both orders": "preference_accuracy_mean",
    "Preference accuracy, right in both orders": "preference_accuracy_both",
    "Final progress with another task's instruction": "wrong_task_progress",
    "Progress gained after the robot stops half-way": "stall_rise",
    "Progress over a still picture moves by": "still_progress_range",
    "Rank correlation with true progress where something is undone": "regression_correlation",
    "Final progress of agents that never succeed": "farming_final_progress",
    "Highest progress of their episodes": "farming_max_progress",
    "Final progress of successes of the same tasks": "farming_success_progress",
    "Rank correlation of progress with nearness to the goal, in an episode": "farming_distance_correlation",
    "the same over all frames of a task": "farming_distance_correlation_pooled",
    "Rank correlation with true progress, in an episode": "farming_truth_correlation",
}
FINAL: Final = "Final progress, "
"""How the rows of a skill's final progress begin."""

_TABLE: Final = re.compile(r"<!-- numbers: (?P<columns>[^>]+) -->\n\n?(?P<rows>(?:\|.*\n)+)")


def filled(page: str) -> str:
    """The page with the numbers of the results.

    Raises:
        KeyError: A row whose label is not known, or a metric that a result does not have.
        FileNotFoundError: A column of a result that is not there.
        ValueError: A row with another number of cells than the comment has columns, or a comment without a table.
    """
    done, count = _TABLE.subn(_fill, page)
    if count != page.count("<!-- numbers:"):
        raise ValueError(f"{page.count('<!-- numbers:')} comments ask for numbers, {count} of them before a table")
    return done


def _fill(match: re.Match[str]) -> str:
    sources = [None if name == "-" else _metrics(name) for name in re.split(r",\s*", match["columns"].strip())]
    lines = match["rows"].splitlines(keepends=True)
    made = [*lines[:2], *(_row(line, sources) for line in lines[2:])]
    return match[0].replace(match["rows"], "".join(made))


def _metrics(name: str) -> dict[str, Any]:
    file, *part = name.split("/", 2)
    result = json.loads((RESULTS / f"{file}.json").read_text())
    if "sets" in result:
        wanted, model = part
        (judged,) = [each for each in result["sets"] if each["set"] == wanted]
        compared = judged.get("evaluations", {}).get("preference", {"rows": []})["rows"]
        preference = [row["corrected"] for row in compared if row["name"] == model]
        # What others are measured by and this one is not, as a clock by success, is an empty cell.
        silent = {metric: None for metrics in judged["metrics"].values() for metric in metrics}
        return silent | judged["metrics"][model] | (preference[0] if preference else {})
    return result["conditions"][part[0]] if part else result["metrics"]


def _row(line: str, sources: Sequence[dict[str, Any] | None]) -> str:
    label, *cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    metric = f"final_progress_{label.removeprefix(FINAL)}" if label.startswith(FINAL) else ROWS[label]
    shown = [cell if source is None else _cell(source[metric]) for cell, source in zip(cells, sources, strict=True)]
    return f"| {' | '.join([label, *shown])} |\n"


def _cell(estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return ""
    if estimate["value"] is None:
        return "undefined"
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(filled(path.read_text()))
