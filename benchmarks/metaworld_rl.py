"""Do agents learn Meta-World from what a reward model sees? Tasks x rewards x seeds of examples/sb3_metaworld.py.

    python -m benchmarks.metaworld_rl             # everything; goes on where it was stopped
    python -m benchmarks.metaworld_rl --report    # only collects what there is so far

For trying out tasks, rewards and settings; benchmarks/evidence.py is what counts. Tasks, budgets and seeds are the
defaults below, committed before their first run. They were chosen by runs with seed 0, which is therefore not among
them; docs/results.md has every task and setting that was tried. The committed results were made before agents were made
steadier, which is `--settings.schedule constant --settings.critics plain`, the default here. A run is a command of the
example, listed in the result beside its curve. Evaluation is on true success, the last one in 50 episodes, with seeds
that training never uses. Writes results/metaworld_rl.json and a picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.curves import Series, draw_learning_curves
from benchmarks.recording import RESULTS, mean_of_each, write_result
from benchmarks.runs import ROOT, Run, run_all
from robometer_rl.report.figures import save_picture

ARMS = ("robometer", "robometer_sparse", "sparse", "dense", "clock")
REWARD = ("model", "mode", "scale", "success_bonus")
"""Options that say nothing to arms without a model."""
STEADY = ("schedule", "critics")
"""Options of `examples/steady_sac.py`."""


@dataclass(frozen=True)
class Settings:
    """How all runs learn; see examples/sb3_metaworld.py.

    Attributes:
        decisions: Decisions to learn from, in tasks without a budget of their own.
        envs: Environments side by side.
        evaluate_every: Decisions between evaluations.
        evaluation_episodes: Episodes of an evaluation, and of the last one.
        max_decisions: Decisions per episode.
        mode: How predictions become a reward.
        scale: Weight of the learned reward.
        success_bonus: Paid when the model first believes in success.
        gamma: Discount per decision.
        updates: Gradient steps per decision.
        entropy: Weight of the policy's entropy at the beginning.
        schedule: Of the learning rate.
        critics: Which critics.
    """

    decisions: int = 4_000
    envs: int = 4
    evaluate_every: int = 1_000
    evaluation_episodes: tuple[int, int] = (20, 50)
    max_decisions: int = 30
    mode: str = "delta"
    scale: float = 2.0
    success_bonus: float = 0.0
    gamma: float = 0.95
    updates: float = 2.0
    entropy: float = 0.1
    schedule: str = "constant"
    critics: str = "plain"


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        tasks: Meta-World tasks.
        arms: Rewards.
        seeds: One run each.
        model: Reward model of the robometer arms.
        budgets: Decisions of tasks that take fewer or more than the others.
        settings: How all runs learn.
        workers: Runs at the same time.
        runs: Where runs are kept.
        report: Collect what there is without running anything.
        name: Of the result.
    """

    tasks: tuple[str, ...] = ("plate-slide", "plate-slide-side", "door-open")
    arms: tuple[str, ...] = ("robometer_sparse", "sparse")
    seeds: tuple[int, ...] = (1, 2, 3)
    model: str = "mini"
    budgets: dict[str, int] = field(default_factory=lambda: {"door-open": 10_000})
    settings: Settings = field(default_factory=Settings)
    workers: int = 2
    runs: Path = Path("outputs/metaworld_rl")
    report: bool = False
    name: str = "metaworld_rl"


def plan(args: Args) -> dict[tuple[str, str, int], Run]:
    """The runs by task, arm and seed; seeds outermost, so that an unfinished benchmark has all tasks and arms."""
    planned = {}
    for seed in args.seeds:
        for task in args.tasks:
            for arm in args.arms:
                name = f"{task}-{arm}-{seed}"
                planned[task, arm, seed] = Run(name, command(args, task, arm, seed), args.runs / name / "result.json")
    return planned


def command(args: Args, task: str, arm: str, seed: int) -> tuple[str, ...]:
    """One run of the example."""
    words = ["examples/sb3_metaworld.py", "--task", task, "--arm", arm, "--seed", str(seed), "--output", str(args.runs)]
    options = {"model": args.model, **vars(args.settings)}
    options["decisions"] = args.budgets.get(task, args.settings.decisions)
    if not arm.startswith("robometer"):
        options = {name: value for name, value in options.items() if name not in REWARD}
    for name, value in options.items():
        words.append(f"--steady.{name}" if name in STEADY else f"--{name.replace('_', '-')}")
        words += [str(each) for each in value] if isinstance(value, tuple) else [str(value)]
    return tuple(words)


def summary(planned: dict[tuple[str, str, int], Run]) -> dict[str, Any]:
    """What is known of every run, by task and arm."""
    found: dict[str, Any] = {}
    for (task, arm, seed), run in planned.items():
        result = run.read()
        if result is None:
            continue
        numbers = {key: value for key, value in result.items() if key != "arguments"}
        numbers["scoring_share"] = result["scoring_seconds"] / result["seconds"] if result["seconds"] else 0.0
        found.setdefault(task, {}).setdefault(arm, {})[str(seed)] = {"command": run.shown, **numbers}
    return found


def tables(found: dict[str, Any]) -> list[Table]:
    """Final true success, and what it took."""
    success = Table(title="true success at the last evaluation: mean of seeds (each)", title_justify="left")
    cost = Table(title="minutes per run, and share spent in scoring", title_justify="left")
    arms = list(dict.fromkeys(arm for task in found.values() for arm in task))
    for table in (success, cost):
        table.add_column("task")
        for arm in arms:
            table.add_column(arm, justify="right")
    for task, by_arm in found.items():
        runs = {arm: list(by_arm.get(arm, {}).values()) for arm in arms}
        success.add_row(task, *(_successes(runs[arm]) for arm in arms))
        cost.add_row(task, *(_costs(runs[arm]) for arm in arms))
    return [success, cost]


def _successes(runs: list[dict[str, Any]]) -> str:
    finals = [run["success"][-1] for run in runs if run["success"]]
    marks = "" if all(run["finished"] for run in runs) else " (unfinished)"
    return f"{mean_of_each(finals)}{marks}" if finals else ""


def _costs(runs: list[dict[str, Any]]) -> str:
    if not runs:
        return ""
    return f"{mean(run['seconds'] for run in runs) / 60:.0f}, {mean(run['scoring_share'] for run in runs):.0%}"


def picture(found: dict[str, Any], args: Args) -> None:
    """Curves of all tasks."""
    panels = {
        task: [
            Series(arm, [(run["decisions"], run["success"]) for run in by_seed.values()])
            for arm, by_seed in sorted(by_arm.items(), key=lambda item: ARMS.index(item[0]))
        ]
        for task, by_arm in found.items()
    }
    subtitle = f"SAC on states, rewards from {args.model} ({args.settings.mode}) · thin: seeds · thick: their mean"
    image = draw_learning_curves("True success on unseen seeds", subtitle, panels, "decisions")
    save_picture(image, RESULTS / f"{args.name}.png")


def main(args: Args) -> dict[str, Any]:
    """Runs what is missing and reports."""
    planned = plan(args)
    if not args.report:
        run_all(list(planned.values()), args.workers)
    found = summary(planned)
    if not found:
        raise SystemExit(f"no runs in {ROOT / args.runs}")
    for table in tables(found):
        Console().print(table)
    options = {"model": args.model, "settings": vars(args.settings), "budgets": args.budgets}
    write_result(args.name, {**options, "tasks": found})
    picture(found, args)
    return found


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
