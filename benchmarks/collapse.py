"""Why agents unlearn what they could do: one change at a time, on the cheapest task on which they do.

    python -m benchmarks.collapse             # changes x seeds; goes on where it was stopped
    python -m benchmarks.collapse --report    # only collects what there is so far

plate-slide of Meta-World, 4,000 decisions, `robometer-mini` beside the sparse reward. Seeds are outermost, so that an
unfinished study has all changes, and none of them is used elsewhere. `dense` is no remedy: it is paid the simulator's
own reward, which makes no mistakes, so that what falls there is not the model's fault.
Writes results/collapse.json and a picture; a run that the result has is not made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Final

import tyro
from PIL import Image
from rich.console import Console

from benchmarks.curves import Series, draw_learning_curves
from benchmarks.recording import RESULTS, markdown_table, mean_of_each, write_result, write_tables
from benchmarks.runs import METAWORLD, ROOT, Run, kept, merged, recalled, run_all, words
from robometer_rl.report.figures import save_picture

CHANGES: Final[Mapping[str, Mapping[str, object]]] = {
    "as before": {},
    "falling rate": {"steady.schedule": "linear"},
    "layer norm": {"steady.critics": "layer_norm"},
    "half as much paid": {"scale": 1.0},
    "dense": {"arm": "dense"},
    "potential": {"mode": "potential"},
    "falling rate, layer norm": {"steady.schedule": "linear", "steady.critics": "layer_norm"},
    "clipped reward": {"clip": 0.1},
    "more entropy": {"steady.target-entropy": -2.0},
    "lower rate": {"learning-rate": 0.0003},
    "dropout": {"steady.critics": "dropout"},
    "CrossQ": {"steady.critics": "crossq"},
}

_LEARNED: Final = 0.4
_FALLEN: Final = 0.2


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        changes: Some of `CHANGES`.
        seeds: One run each.
        task: Meta-World task.
        model: Reward model.
        decisions: Decisions to learn from.
        evaluate_every: Decisions between evaluations.
        evaluation_episodes: Episodes of an evaluation, and of the last one.
        workers: Runs at the same time.
        runs: Where runs are kept until they are finished.
        report: Collect what there is without running anything.
        name: Of the result.
    """

    changes: tuple[str, ...] = tuple(CHANGES)
    seeds: tuple[int, ...] = (7, 8, 9)
    task: str = "plate-slide"
    model: str = "mini"
    decisions: int = 4_000
    evaluate_every: int = 500
    evaluation_episodes: tuple[int, int] = (20, 50)
    workers: int = 1
    runs: Path = Path("outputs/collapse")
    report: bool = False
    name: str = "collapse"


def plan(args: Args) -> dict[tuple[str, int], Run]:
    """The runs by change and seed."""
    planned = {}
    for seed in args.seeds:
        for change in args.changes:
            folder = args.runs / change.replace(", ", "-").replace(" ", "-")
            options = {
                **METAWORLD, "model": args.model, "decisions": args.decisions, "evaluate-every": args.evaluate_every,
                "task": args.task, "seed": seed, **CHANGES[change], "output": folder,
                "evaluation-episodes": args.evaluation_episodes,
            }  # fmt: skip
            name = f"{args.task}-{options['arm']}-{seed}"
            run = Run(name, words("sb3_metaworld", options), folder / name / "result.json")
            planned[change, seed] = run
    return dict(zip(planned, recalled(list(planned.values()), args.name), strict=True))


def table(planned: Mapping[tuple[str, int], Run]) -> str:
    """What became of the agents under each change, as Markdown; means of the finished runs."""
    head = (
        "Change", "Final success (each seed)", "Final / best", "Final with noise", "Largest fall",
        "Critics promise", "Worth", "Paid by the model: successes", "Failures",
    )  # fmt: skip
    by_change = {change: finished(planned, change) for change in dict.fromkeys(change for change, _ in planned)}
    return markdown_table(head, [(change, *_cells(runs)) for change, runs in by_change.items() if runs])


def _cells(runs: list[dict[str, Any]]) -> list[str]:
    finals = [run["success"][-1] for run in runs]
    best = [max(run["success"]) for run in runs]
    ratios = [final / top for final, top in zip(finals, best, strict=True) if top]
    return [
        mean_of_each(finals),
        f"{mean(ratios):.2f}" if ratios else "",
        f"{mean(run['noisy_success'][-1] for run in runs):.0%}",
        f"{mean(largest_fall(run['success']) for run in runs):.0%}",
        f"{mean(run['value'][-1] for run in runs):.1f}",
        f"{mean(run['worth'][-1] for run in runs):.1f}",
        *(_paid(runs, name) for name in ("paid_successes", "paid_failures")),
    ]


def _paid(runs: list[dict[str, Any]], name: str) -> str:
    known = [run[name] for run in runs if run.get(name) is not None]
    return f"{mean(known):.2f}" if known else ""


def paid(run: Run) -> dict[str, float | None]:
    """What the model itself paid for an episode while the agent learned, in the mean of successes and of failures."""
    episodes = ROOT / run.result.parent / "honesty.jsonl"
    outcomes = [json.loads(line) for line in episodes.read_text().splitlines()] if episodes.exists() else []
    means = {}
    for name, success in (("paid_successes", True), ("paid_failures", False)):
        parts = [each["learned_return"] - each["true_return"] for each in outcomes if each["true_success"] is success]
        means[name] = mean(parts) if parts else None
    return means


def largest_fall(curve: list[float]) -> float:
    """By how much success falls below what it was before, at most."""
    return max(max(curve[: place + 1]) - value for place, value in enumerate(curve))


def earlier() -> str:
    """How often agents of the committed results of benchmarks/metaworld_rl fell, by what they were paid, as Markdown.

    Counted are evaluations after the first with 40 %, and those of them more than 20 points below the best before.
    """
    counts: dict[str, list[int]] = {}
    for path in sorted(RESULTS.glob("metaworld_rl*.json")):
        result = json.loads(path.read_text())
        mode, scale = (result["settings"][name] for name in ("mode", "scale"))
        for by_arm in result["tasks"].values():
            for arm, by_seed in by_arm.items():
                paid = f"{arm}, {mode} x {scale:g}" if arm.startswith("robometer") else arm
                for run in by_seed.values():
                    curve = run["success"]
                    after = [place for place in range(1, len(curve)) if max(curve[:place]) >= _LEARNED]
                    fallen = [place for place in after if max(curve[:place]) - curve[place] > _FALLEN]
                    row = counts.setdefault(paid, [0, 0, 0])
                    counts[paid] = [row[0] + bool(after), row[1] + len(after), row[2] + len(fallen)]
    rows = [(paid, *map(str, row)) for paid, row in sorted(counts.items()) if row[0]]
    return markdown_table(("Paid", "Agents", "Evaluations", "Fallen"), rows)


def finished(planned: Mapping[tuple[str, int], Run], change: str) -> list[dict[str, Any]]:
    """What is kept of the finished runs under a change."""
    return kept([run for (each, _), run in planned.items() if each == change], paid)


def picture(planned: Mapping[tuple[str, int], Run], args: Args) -> Image.Image:
    """Success of every agent, a panel per change."""
    panels = {}
    for change in args.changes:
        results = finished(planned, change)
        if results:
            panels[change] = [
                Series(name, [(result["decisions"], result[key]) for result in results])
                for name, key in (("without noise", "success"), ("exploring", "noisy_success"))
            ]
    subtitle = f"{args.task}, SAC, {args.model} and sparse reward · thin: seeds · thick: their mean"
    return draw_learning_curves("True success under one change at a time", subtitle, panels, "decisions")


def main(args: Args) -> None:
    """Runs what is missing and reports."""
    planned = plan(args)
    runs = list(planned.values())

    def write() -> None:
        write_result(args.name, {"task": args.task, "runs": merged(kept(runs, paid), args.name)})

    if not args.report:
        run_all(runs, args.workers, after=write)
    if not any(run.finished for run in runs):
        raise SystemExit(f"no finished runs in {args.runs}, and none in results/{args.name}.json")
    write()
    text = f"{table(planned)}\n{earlier()}"
    Console(width=160).print(text, markup=False)
    save_picture(picture(planned, args), RESULTS / f"{args.name}.png")
    if args.name == Args.name:
        write_tables("reward_design.md", args.name, text)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
