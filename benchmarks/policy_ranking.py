"""Can a reward model rank policies from recordings alone? examples/offline_policy_ranking.py on several tasks.

    python -m benchmarks.policy_ranking              # Meta-World; goes on where it was stopped
    python -m benchmarks.libero.policy_ranking       # LIBERO

For each task, Kendall's tau between mean final progress and true success over six policies of different success rates.
Writes results/NAME.json and a picture beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.curves import Series, draw_learning_curves
from benchmarks.recording import RESULTS, write_result
from benchmarks.runs import Run, run_all
from robometer_rl.report.figures import save_picture


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        tasks: Tasks of Meta-World or LIBERO.
        model: Whatever ``load_reward_model`` takes.
        policies: Policies per task.
        episodes: Episodes per policy.
        size: Height and width of frames.
        every: Scoring interval in recorded frames.
        workers: Tasks at the same time.
        runs: Where recordings are kept.
        name: Of the result.
    """

    tasks: tuple[str, ...] = ("door-close", "drawer-open", "window-open")
    model: str = "mini"
    policies: int = 6
    episodes: int = 20
    size: int = 128
    every: int = 1
    workers: int = 2
    runs: Path = Path("outputs/policy_ranking")
    name: str = "policy_ranking"


def plan(args: Args) -> dict[str, Run]:
    """One run of the example per task. Recordings are shared by all models, results are not."""
    planned = {}
    model = args.model.strip("/").replace("/", "-")
    for task in args.tasks:
        output = args.runs / model
        words = {
            "task": task,
            "store": args.runs / "recordings" / task,
            "model": args.model,
            "policies": args.policies,
            "episodes": args.episodes,
            "size": args.size,
            "every": args.every,
            "output": output,
        }
        options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
        planned[task] = Run(f"{task}", ("examples/offline_policy_ranking.py", *options), output / f"{task}.json")
    return planned


def table(found: dict[str, dict[str, Any]]) -> Table:
    """Tau by task."""
    shown = Table("task", "tau_a (95 %)", "tau_b", "success rates, best score first")
    for task, result in found.items():
        tau = result["tau_a"]
        rates = ", ".join(f"{policy['success_rate']:.0%}" for policy in result["policies"])
        interval = f"{tau['value']:.2f} ({tau['low']:.2f} to {tau['high']:.2f})"
        shown.add_row(task, interval, f"{result['tau_b']['value']:.2f}", rates)
    return shown


def main(args: Args) -> dict[str, dict[str, Any]]:
    """Runs what is missing and reports."""
    planned = plan(args)
    run_all(list(planned.values()), args.workers)
    found = {task: {"command": run.shown, **(run.read() or {})} for task, run in planned.items()}
    Console().print(table(found))
    write_result(args.name, {"model": args.model, "tasks": found})
    panels = {}
    for task, result in found.items():
        policies = sorted(result["policies"], key=lambda policy: policy["success_rate"])
        points = [100 * policy["success_rate"] for policy in policies], [each["score"]["value"] for each in policies]
        panels[task] = [Series("mean final progress of a policy", [points], rings=True)]
    title = "Ranked by their videos, and in truth"
    subtitle = f"final progress by {args.model}"
    picture = draw_learning_curves(title, subtitle, panels, "true success (%)", "final progress")
    save_picture(picture, RESULTS / f"{args.name}.png")
    return found


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
