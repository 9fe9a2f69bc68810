"""Online learning in LIBERO, in the published setting: sparse reward with and without a reward model.

    python -m benchmarks.libero.online_rl             # goes on where it was stopped
    python -m benchmarks.libero.online_rl --report    # only collects what there is so far

libero_90 task 28, "close the top drawer of the cabinet", 400-step episodes, success against environment steps. Runs are
commands of examples/sb3_libero.py, listed in the result. The published curves (Robometer-4B; a policy that sees images)
are drawn beside; algorithm, observations and model differ, so it is the gap between the arms that can be compared.
Writes results/libero_online_rl.json and a picture beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Final

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.curves import Series, draw_learning_curves
from benchmarks.recording import RESULTS, write_result
from benchmarks.runs import ROOT, Run, run_all
from robometer_rl.report.figures import save_picture

PUBLISHED_STEPS: Final = (20_000, 30_000, 40_000, 50_000, 100_000)
PUBLISHED: Final = {
    "published: Robometer-4B + sparse": (0.09, 0.39, 0.88, 0.98, 1.0),
    "published: sparse": (0.02, 0.07, 0.17, 0.40, 0.87),
}


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        suite: LIBERO suite.
        task_id: Number of the task in its suite.
        arms: Rewards.
        seeds: One run each.
        model: Whatever ``load_reward_model`` takes.
        steps: Environment steps to learn from.
        max_steps: Environment steps per episode.
        envs: Environments side by side.
        evaluate_every: Environment steps between evaluations.
        evaluation_episodes: Episodes of an evaluation, and of the last one.
        size: Height and width of the frames that the model sees.
        workers: Runs at the same time (2 to 4 GB each).
        runs: Where runs are kept.
        report: Collect what there is without running anything.
        name: Of the result.
    """

    suite: str = "libero_90"
    task_id: int = 28
    arms: tuple[str, ...] = ("robometer_sparse", "sparse")
    seeds: tuple[int, ...] = (0, 1, 2)
    model: str = "mini"
    steps: int = 40_000
    max_steps: int = 400
    envs: int = 1
    evaluate_every: int = 10_000
    evaluation_episodes: tuple[int, int] = (10, 50)
    size: int = 128
    workers: int = 2
    runs: Path = Path("outputs/libero/online_rl")
    report: bool = False
    name: str = "libero_online_rl"


def plan(args: Args) -> dict[tuple[str, int], Run]:
    """The runs by arm and seed."""
    planned = {}
    for seed in args.seeds:
        for arm in args.arms:
            words: dict[str, Any] = {"suite": args.suite, "task-id": args.task_id, "arm": arm, "seed": seed}
            words |= {"steps": args.steps, "max-steps": args.max_steps, "envs": args.envs, "size": args.size}
            words |= {"evaluate-every": args.evaluate_every, "output": args.runs}
            words |= {"model": args.model} if arm.startswith("robometer") else {}
            options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
            options += ["--evaluation-episodes", *map(str, args.evaluation_episodes)]
            name = f"{args.suite}-{args.task_id}-{arm}-{seed}"
            planned[arm, seed] = Run(name, ("examples/sb3_libero.py", *options), args.runs / name / "result.json")
    return planned


def table(found: dict[str, dict[str, Any]]) -> Table:
    """Success by steps, mean over seeds."""
    shown = Table("steps", *found, title="true success on unseen initial states, mean of seeds", title_justify="left")
    for steps in sorted({step for runs in found.values() for run in runs.values() for step in run["steps"]}):
        cells = []
        for runs in found.values():
            values = [run["success"][run["steps"].index(steps)] for run in runs.values() if steps in run["steps"]]
            cells.append(f"{mean(values):.0%} (n={len(values)})" if values else "")
        shown.add_row(f"{steps:,}", *cells)
    return shown


def main(args: Args) -> dict[str, Any]:
    """Runs what is missing and reports."""
    planned = plan(args)
    if not args.report:
        run_all(list(planned.values()), args.workers)
    found: dict[str, dict[str, Any]] = {}
    for (arm, seed), run in planned.items():
        result = run.read()
        if result is not None:
            numbers = {key: value for key, value in result.items() if key != "arguments"}
            found.setdefault(arm, {})[str(seed)] = {"command": run.shown, **numbers}
    if not found:
        raise SystemExit(f"no runs in {ROOT / args.runs}")
    Console().print(table(found))
    published = {"steps": PUBLISHED_STEPS, **PUBLISHED}
    task = f"{args.suite} {args.task_id}"
    write_result(args.name, {"model": args.model, "task": task, "arms": found, "published": published})
    series = [Series(arm, [(run["steps"], run["success"]) for run in runs.values()]) for arm, runs in found.items()]
    series += [Series(label, [(PUBLISHED_STEPS, values)], rings=True) for label, values in PUBLISHED.items()]
    title = "Success on unseen initial states"
    subtitle = f"SAC on states, rewards from {args.model} · thin: seeds · thick: their mean · rings: published"
    picture = draw_learning_curves(title, subtitle, {task: series}, "environment steps")
    save_picture(picture, RESULTS / f"{args.name}.png")
    return found


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
