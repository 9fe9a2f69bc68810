"""Do agents learn from `robometer-mini`, before a sceptic: tasks, seeds, arms and settings fixed before the first run.

    python -m benchmarks.evidence             # everything, about a day on two cores; goes on where it was stopped
    python -m benchmarks.evidence --report    # tables and picture from the runs there are

Final success over 50 unseen episodes, of the policy without noise. **Tasks** are every fifth of mini's 33 in the order
of the alphabet; nobody looked at a result. **Budget**: 4,000 decisions in each of them. **Arms**: mini + sparse and
sparse, five seeds each, none of them used before; on the first and the last task also, three seeds each: the
simulator's dense reward, sparse and a clock, mini's success rule alone, mini as a potential beside sparse, and mini
alone. **LIBERO**: the two drawer tasks of libero_90 that mini knows, 40,000 steps, three seeds. **Settings** are those
that benchmarks/collapse.py recommends. No run is dropped; seeds are outermost, so that an unfinished benchmark has all
tasks. Runs are commands of the examples. Writes results/evidence.json and .png, and the tables of docs/results.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import tyro
from rich.console import Console

from benchmarks.evidence_report import Measured, arms_picture, picture, tables
from benchmarks.recording import RESULTS, write_result, write_tables
from benchmarks.runs import METAWORLD, Run, kept, merged, recalled, run_all, words
from robometer_rl.report.figures import save_picture

TASKS: Final = ("button-press-topdown-wall", "door-lock", "faucet-open", "peg-unplug-side", "plate-slide-side", "sweep")
"""The 5th, 10th, ... and 30th of the tasks that robometer-mini was trained on, in the order of the alphabet."""

SEEDS: Final = (11, 12, 13, 14, 15)

ARMS: Final[Mapping[str, Mapping[str, object]]] = {
    "mini + sparse": {},
    "sparse": {"arm": "sparse"},
}
MORE_ARMS: Final[Mapping[str, Mapping[str, object]]] = {
    "dense": {"arm": "dense"},
    "clock + sparse": {"arm": "clock"},
    "success rule": {"arm": "robometer", "mode": "success", "scale": 1.0},
    "potential + sparse": {"mode": "potential"},
    "mini": {"arm": "robometer"},
}
"""Compared in the first and in the last task."""

LIBERO: Final[Mapping[str, object]] = {
    "arm": "robometer_sparse", "model": "mini", "mode": "delta", "scale": 2.0, "envs": 1, "max-steps": 400, "size": 128,
    "gamma": 0.95, "updates": 2.0, "learning-rate": 0.001, "entropy": 0.1,
}  # fmt: skip
STEADY: Final[Mapping[str, object]] = {"steady.schedule": "linear", "steady.critics": "plain"}


@dataclass(frozen=True)
class Args:
    """Options. Sizes are fixed by the protocol; others are for trying whether it works.

    Attributes:
        tasks: Meta-World tasks.
        seeds: One run each of the two arms.
        more_seeds: How many of them the other arms have, and LIBERO.
        libero: Tasks of libero_90.
        model: Reward model.
        decisions: Decisions to learn from.
        steps: Simulator steps to learn from in LIBERO.
        episodes: Episodes of an evaluation, and of the last one.
        workers: Runs at the same time.
        runs: Where runs are kept until they are finished.
        report: Collect what there is without running anything.
        name: Of the result; tables are written into docs/results.md under its own name only.
    """

    tasks: tuple[str, ...] = TASKS
    seeds: tuple[int, ...] = SEEDS
    more_seeds: int = 3
    libero: tuple[int, ...] = (0, 28)
    model: str = "mini"
    decisions: int = 4_000
    steps: int = 40_000
    episodes: tuple[int, int] = (20, 50)
    workers: int = 2
    runs: Path = Path("outputs/evidence")
    report: bool = False
    name: str = "evidence"


@dataclass(frozen=True)
class Cell:
    """What a run is a run of."""

    simulator: str
    task: str
    arm: str
    seed: int


def plan(args: Args) -> dict[Cell, Run]:
    """The runs in their order: by seed, then the two arms in all tasks, then the other arms; LIBERO last."""
    planned: dict[Cell, Run] = {}
    for number, seed in enumerate(args.seeds):
        for task in args.tasks:
            for arm, options in ARMS.items():
                planned[Cell("metaworld", task, arm, seed)] = _metaworld(args, task, arm, seed, options)
        for task in (args.tasks[0], args.tasks[-1]) if number < args.more_seeds else ():
            for arm, options in MORE_ARMS.items():
                planned[Cell("metaworld", task, arm, seed)] = _metaworld(args, task, arm, seed, options)
    for seed in args.seeds[: args.more_seeds]:
        for task in args.libero:
            for arm, options in ARMS.items():
                planned[Cell("libero", f"libero_90-{task}", arm, seed)] = _libero(args, task, arm, seed, options)
    return dict(zip(planned, recalled(list(planned.values()), args.name), strict=True))


def _metaworld(args: Args, task: str, arm: str, seed: int, changed: Mapping[str, object]) -> Run:
    options = {
        **METAWORLD, **STEADY, "model": args.model, "decisions": args.decisions,
        "evaluate-every": args.decisions // 4, "evaluation-episodes": args.episodes, **changed,
        "task": task, "seed": seed,
    }  # fmt: skip
    return _run(args, "sb3_metaworld", f"{task}-{options['arm']}-{seed}", arm, options)


def _libero(args: Args, task: int, arm: str, seed: int, changed: Mapping[str, object]) -> Run:
    options = {
        **LIBERO, **STEADY, "model": args.model, "steps": args.steps, "evaluate-every": args.steps // 4,
        "evaluation-episodes": (args.episodes[0] // 2, args.episodes[1]), **changed,
        "suite": "libero_90", "task-id": task, "seed": seed,
    }  # fmt: skip
    return _run(args, "sb3_libero", f"libero_90-{task}-{options['arm']}-{seed}", arm, options)


def _run(args: Args, example: str, name: str, arm: str, options: Mapping[str, object]) -> Run:
    folder = args.runs / arm.replace(" + ", "-").replace(" ", "-")
    return Run(name, words(example, {**options, "output": folder}), folder / name / "result.json")


def measured(planned: Mapping[Cell, Run]) -> list[Measured]:
    """The finished runs."""
    found = []
    for cell, run in planned.items():
        result = run.read()
        if result is not None and result["finished"]:
            found.append(Measured(cell.simulator, cell.task, cell.arm, cell.seed, result))
    return found


def main(args: Args) -> list[Measured]:
    """Runs what is missing and reports."""
    planned = plan(args)
    runs = list(planned.values())

    def write() -> None:
        cells = {run.shown: cell for cell, run in planned.items()}
        entries = [{**entry, **vars(cells[entry["command"]])} for entry in kept(runs)]
        write_result(args.name, {"runs": merged(entries, args.name)})

    if not args.report:
        run_all(runs, args.workers, after=write)
    found = measured(planned)
    if not found:
        raise SystemExit(f"no finished runs in {args.runs}, and none in results/{args.name}.json")
    write()
    text = tables(found, [(cell.simulator, cell.task, cell.arm, cell.seed) for cell in planned])
    Console(width=160).print(text, markup=False)
    save_picture(picture(found, args.model), RESULTS / f"{args.name}.png")
    others = arms_picture(found, args.model)
    if others is not None:
        save_picture(others, RESULTS / f"{args.name}_arms.png")
    if args.name == Args.name:
        write_tables("results.md", args.name, text)
    return found


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
