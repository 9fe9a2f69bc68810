"""What many runs say together: interquartile means with intervals over seeds, tables, and curves as bands.

Interquartile mean and stratified bootstrap are those of rliable (arXiv 2108.13264): the mean of the middle half of all
runs of all tasks, and percentiles of it over resamples of the runs within each task. rliable itself wants an older
pandas than the tested set has; `tests/benchmarks/test_evidence.py` holds numbers of it against these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.stats import trim_mean

from benchmarks.curves import Series, draw_learning_curves
from benchmarks.recording import markdown_table, mean_of_each
from robometer_rl.evaluation.metrics import Estimate, bootstrap

__all__ = ["Measured", "arms_picture", "difference", "interquartile_mean", "picture", "tables"]

PAIR = ("mini + sparse", "sparse")
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Measured:
    """A finished run, with the result that its example wrote."""

    simulator: str
    task: str
    arm: str
    seed: int
    result: dict[str, Any]

    @property
    def final(self) -> float:
        """Success in the last evaluation."""
        return self.result["success"][-1]

    @property
    def kept(self) -> float | None:
        """The last evaluation, in parts of the best one; None if there never was a success."""
        best = max(self.result["success"])
        return self.final / best if best else None


def _resampled(scores: ArrayLike, rng: np.random.Generator) -> NDArray[np.float64]:
    values = np.asarray(scores, np.float64)
    return values[rng.integers(len(values), size=(_RESAMPLES, len(values)))]


def _interval(value: float, samples: NDArray[np.float64], count: int) -> Estimate:
    low, high = np.percentile(samples, [2.5, 97.5])
    return Estimate(value, float(low), float(high), count)


def interquartile_mean(by_task: Sequence[Sequence[float]], seed: int = 0) -> Estimate:
    """Mean of the middle half of all runs, with its 95 % interval over the runs of each task.

    Args:
        by_task: Scores of the runs of each task, at least one.
        seed: Of the resampling.
    """
    everything = np.concatenate([np.asarray(scores, np.float64) for scores in by_task])
    rng = np.random.default_rng(seed)
    samples = np.concatenate([_resampled(scores, rng) for scores in by_task], axis=1)
    return _interval(float(trim_mean(everything, 0.25)), trim_mean(samples, 0.25, axis=1), len(everything))


def difference(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Estimate:
    """Mean of the first less that of the second, with its 95 % interval over the runs of both."""
    rng = np.random.default_rng(seed)
    samples = _resampled(first, rng).mean(axis=1) - _resampled(second, rng).mean(axis=1)
    return _interval(mean(first) - mean(second), samples, len(first) + len(second))


def _of(found: Sequence[Measured], simulator: str, task: str, arm: str) -> list[Measured]:
    return [run for run in found if (run.simulator, run.task, run.arm) == (simulator, task, arm)]


def _tasks(found: Sequence[Measured], simulator: str) -> list[str]:
    return list(dict.fromkeys(run.task for run in found if run.simulator == simulator))


def tables(found: Sequence[Measured], planned: Sequence[tuple[str, str, str, int]]) -> str:
    """All tables as Markdown, with what is missing.

    Args:
        found: The finished runs.
        planned: Simulator, task, arm and seed of all runs of the protocol.
    """
    others = _others(found)
    pictures = "![Curves of the two arms, with intervals](../benchmarks/results/evidence.png)\n"
    if others:
        pictures += "![Curves of the other arms](../benchmarks/results/evidence_arms.png)\n"
    parts = [
        _state(found, planned),
        _pairs(found, "metaworld"),
        others,
        _pairs(found, "libero"),
        _costs(found),
        pictures,
    ]
    return "\n".join(part for part in parts if part)


def _state(found: Sequence[Measured], planned: Sequence[tuple[str, str, str, int]]) -> str:
    done = {(run.simulator, run.task, run.arm, run.seed) for run in found}
    if len(done) == len(planned):
        return f"All {len(planned)} runs of the protocol are finished.\n"
    lacking: dict[tuple[str, str], list[str]] = {}
    for simulator, task, arm, seed in planned:
        if (simulator, task, arm, seed) not in done:
            lacking.setdefault((simulator, arm), []).append(f"{task} {seed}")
    names = {"metaworld": "Meta-World", "libero": "LIBERO"}
    lines = [f"  - {names[simulator]}, {arm}: {', '.join(runs)}" for (simulator, arm), runs in lacking.items()]
    return (
        f"**Not finished: {len(done)} of the protocol's {len(planned)} runs are.** What follows is of these alone, and "
        f"intervals of few seeds say little.\n\n<details><summary>Runs that are missing (task and seed)</summary>\n\n"
        + "\n".join(line.strip() for line in lines)
        + "\n\n</details>\n"
    )


def _pairs(found: Sequence[Measured], simulator: str) -> str:
    """The two arms in each task, and over all of those in which both have runs of the same seeds."""
    if not _tasks(found, simulator):
        return ""
    head = ("Task", *PAIR, "difference (95 %)", "final / best: mini + sparse", "sparse")
    lines = []
    both: tuple[list[list[float]], list[list[float]]] = ([], [])
    for task in _tasks(found, simulator):
        arms = [_of(found, simulator, task, arm) for arm in PAIR]
        if not any(arms):
            continue
        seeds = {run.seed for run in arms[0]} & {run.seed for run in arms[1]}
        scores = [[run.final for run in runs if run.seed in seeds] for runs in arms]
        shown = ""
        if seeds:
            shown = _signed(difference(scores[0], scores[1]))
            both[0].append(scores[0])
            both[1].append(scores[1])
        lines.append((task, *map(_finals, arms), shown, *map(_kept, arms)))
    if both[0]:
        means = [interquartile_mean(scores) for scores in both]
        count = sum(map(len, both[0]))
        ends = [_kept([run for run in found if run.simulator == simulator and run.arm == arm]) for arm in PAIR]
        lines.append((f"**IQM, {count} runs of each**", *(f"**{_percent(each)}**" for each in means), "", *ends))
    return markdown_table(head, lines)


def _others(found: Sequence[Measured]) -> str:
    """All arms in the tasks that have more than two."""
    arms = list(dict.fromkeys(run.arm for run in found if run.simulator == "metaworld"))
    tasks = [task for task in _tasks(found, "metaworld") if any(_of(found, "metaworld", task, arm) for arm in arms[2:])]
    if not tasks:
        return ""
    cells = [[_finals(_of(found, "metaworld", task, arm)) for task in tasks] for arm in arms]
    return markdown_table(("Paid", *tasks), [(arm, *row) for arm, row in zip(arms, cells, strict=True)])


def _costs(found: Sequence[Measured]) -> str:
    lines = []
    for simulator, name in (("metaworld", "Meta-World"), ("libero", "LIBERO")):
        for arm in dict.fromkeys(run.arm for run in found if run.simulator == simulator):
            results = [run.result for run in found if (run.simulator, run.arm) == (simulator, arm)]
            minutes = mean(result["seconds"] for result in results) / 60
            scoring = [
                result["scoring_seconds"] / result["seconds"] for result in results if "scoring_seconds" in result
            ]
            share = f"{mean(scoring):.0%}" if scoring and any(scoring) else ""
            lines.append((f"{name}, {arm}", f"{minutes:.0f}", share))
    return markdown_table(("", "Minutes of a run", "Share of scoring"), lines)


def _finals(runs: Sequence[Measured]) -> str:
    if not runs:
        return ""
    return mean_of_each([run.final for run in runs])


def _kept(runs: Sequence[Measured]) -> str:
    ratios = [run.kept for run in runs if run.kept is not None]
    return f"{mean(ratios):.2f}" if ratios else ""


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%})"


def _signed(estimate: Estimate) -> str:
    return f"{100 * estimate.value:+.0f} ({100 * estimate.low:+.0f} to {100 * estimate.high:+.0f})"


def picture(found: Sequence[Measured], model: str) -> Image.Image:
    """Success of the two arms during learning, a panel per task and one for all of Meta-World."""
    panels: dict[str, list[Series]] = {}
    tasks = _tasks(found, "metaworld")
    if len(tasks) > 1:
        panels["Meta-World, interquartile mean"] = [_band(found, "metaworld", tasks, arm) for arm in PAIR]
    for simulator in ("metaworld", "libero"):
        for task in _tasks(found, simulator):
            panels[task] = [_band(found, simulator, [task], arm) for arm in PAIR]
    panels = {name: [series for series in panel if series.curves] for name, panel in panels.items()}
    subtitle = f"SAC on states, {model} · lines: means · bands: 95 % bootstrap intervals over seeds"
    return draw_learning_curves("True success on unseen seeds", subtitle, panels, "decisions; in LIBERO, steps")


def arms_picture(found: Sequence[Measured], model: str) -> Image.Image | None:
    """Success under all rewards but the sparse one, in the tasks that have them; None if none has."""
    arms = list(dict.fromkeys(run.arm for run in found if run.simulator == "metaworld" and run.arm != PAIR[1]))
    tasks = [task for task in _tasks(found, "metaworld") if any(_of(found, "metaworld", task, arm) for arm in arms[1:])]
    if not tasks:
        return None
    panels = {
        task: [
            Series(arm, [(run.result["decisions"], run.result["success"]) for run in runs])
            for arm in arms
            if (runs := _of(found, "metaworld", task, arm))
        ]
        for task in tasks
    }
    subtitle = f"SAC on states, {model} · thin: seeds · thick: their mean"
    return draw_learning_curves("True success by what is paid", subtitle, panels, "decisions")


def _band(found: Sequence[Measured], simulator: str, tasks: Sequence[str], arm: str) -> Series:
    """An arm in one task, its mean over seeds; in several, the interquartile mean over runs of all of them."""
    by_task = [runs for task in tasks if (runs := _of(found, simulator, task, arm))]
    if not by_task:
        return Series(arm, [])
    places = by_task[0][0].result["decisions" if simulator == "metaworld" else "steps"]
    estimates = []
    for place in range(len(places)):
        scores = [[run.result["success"][place] for run in runs] for runs in by_task]
        single = len(tasks) == 1
        estimates.append(bootstrap(scores[0]) if single else interquartile_mean(scores))
    low, high = [each.low for each in estimates], [each.high for each in estimates]
    return Series(arm, [(places, [each.value for each in estimates])], band=(low, high))
