"""A reward for somebody else's environment: recorded, adapted and judged on four of them.

    python -m benchmarks.own_environment
    python -m benchmarks.own_environment --worlds pusht reacher --labels progress --seeds 0
    python -m benchmarks.own_environment --episodes 15 30 60 120 240 --name own_environment_curve
    python -m benchmarks.own_environment --report     # only writes the tables of docs/results.md from what there is
    python -m benchmarks.own_environment --smoke      # minutes: the smallest sizes

Needs the extras ``foreign``, ``robosuite`` and ``adapt``. Goes on where it was stopped: a cell that its file of results
has, made with the same options, is not made again, and recordings and features of frames are kept under
``outputs/own_environment``, shared by all labels. Trainings take as many steps on a busy machine as on an idle one;
`--minutes` only has to be enough for them. Each model is judged on episodes of seeds that it has not seen:

* ``success_above_failure``: pairs of a success and a failure whose final progress is in the right order.
* ``success_auroc``: of the success probability in the last frame.
* ``final``, ``true_final``: progress in the last frame by kind of episode, and what the simulator says of it.
* ``correlation``: of progress and truth over all frames, beside those of a clock and of the model shown single frames.
* ``still``: how much progress moves while one picture is shown over and over.
* ``recall``, ``false_alarms``: parts of the successes that the success rule sees, and of all episodes in which it fires
  before the task is done or for nothing; ``verdict`` has what was expected of both.
* ``wrapped_return``: what `RobometerReward` pays experts in the running environment, less what it pays random motion.
* ``altered``: order, AUROC and final progress on the first of the same episodes in other light, and seen by a camera
  moved by 3 cm and turned by 5 degrees, which no training episode shows; ``warned`` is whether the model says so.
* ``streaming_ms``: medians of one frame for the model, for ``mini``, and of drawing it, in turns.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.foreign.recording import LABELS, TEST_SEEDS, WORLDS, play, record, relabelled_store
from benchmarks.foreign.tables import tables
from benchmarks.foreign.worlds import ALTERED, KINDS, World
from benchmarks.recording import write_tables
from robometer_rl import RewardSpec, load_reward_model
from robometer_rl.adapting.adapt import CHECKPOINT, adapt
from robometer_rl.adapting.config import AdaptConfig
from robometer_rl.adapting.examples import make_examples
from robometer_rl.adapting.features import FOLDER
from robometer_rl.adapting.verdict import Seen, ask, success_evidence
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.evaluation.metrics import auroc, pearson, ranking_accuracy
from robometer_rl.files import write_text
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.provenance import provenance
from robometer_rl.rewards import DEFAULT_REWARD
from robometer_rl.wrappers import RobometerReward

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        worlds: Which environments.
        labels: What is said of each frame of the recordings.
        episodes: How many episodes there are to learn from; several numbers for a curve.
        seeds: Of the training episodes and of adapting.
        test: Episodes to judge by.
        minutes: How long a model may take.
        steps: Steps of training; by default as many as ``robometer-rl adapt`` takes.
        size: Pixels of a frame.
        altered: Episodes in other light, and seen by another camera.
        wrapped: Episodes of experts, and of random motion, that are paid in the running environment.
        output: Where recordings and models go.
        name: Of the file with the results.
        report: Only write the tables of what there is.
        smoke: Run at the smallest sizes, to see that it works.
    """

    worlds: tuple[str, ...] = ("fetch", "lift", "pusht", "reacher")
    labels: tuple[str, ...] = ("distance", "state", "success")
    episodes: tuple[int, ...] = (60,)
    seeds: tuple[int, ...] = (0, 1, 2)
    test: int = 36
    minutes: float = 10.0
    steps: int | None = None
    size: int = 128
    altered: int = 18
    wrapped: int = 6
    output: Path = Path("outputs/own_environment")
    name: str = "own_environment"
    report: bool = False
    smoke: bool = False

    def __post_init__(self) -> None:
        for given, known in ((self.worlds, list(WORLDS)), (self.labels, list(LABELS))):
            if unknown := sorted(set(given) - set(known)):
                raise ValueError(f"unknown {unknown}; expected some of {known}")


def smallest(args: Args) -> Args:
    """What takes minutes."""
    return replace(
        args, labels=("progress",), episodes=(12,), seeds=(0,), test=6, altered=3, minutes=0.3, steps=10, wrapped=1,
        output=args.output / "smoke", name=f"{args.name}_smoke", smoke=False,
    )  # fmt: skip


def main(args: Args) -> dict[str, Any]:
    """Everything."""
    if args.smoke:
        return main(smallest(args))
    results = _found(args)
    if args.report:
        write_tables("results.md", args.name, tables(results))
        return {"results": results}
    for seed in args.seeds:
        for labels in args.labels:
            for name in args.worlds:
                for episodes in args.episodes:
                    cell = _cell(args, name, labels, episodes, seed)
                    if not any(cell.items() <= each.items() for each in results):
                        results.append(_result(args, cell))
                        _write(args, results)
    _show(results)
    return {"results": results}


def _cell(args: Args, world: str, labels: str, episodes: int, seed: int) -> dict[str, Any]:
    """What a result is the result of."""
    return {
        "world": world, "labels": labels, "episodes": episodes, "seed": seed,
        "steps": args.steps, "test": args.test, "size": args.size, "wrapped": args.wrapped,
    }  # fmt: skip


def _result(args: Args, cell: dict[str, Any]) -> dict[str, Any]:
    """Of one model, which is made and judged."""
    world, seed = WORLDS[cell["world"]](), cell["seed"]
    folder = args.output / f"{world.name}-{seed}"
    train = max(args.episodes)
    store = record(world, folder / "recordings", train=train, test=args.test, seed=seed, size=args.size)
    run = folder / f"{cell['labels']}-{cell['episodes']}"
    taken = _adapted(args, store, run, cell)
    checkpoint = str(run / "model" / CHECKPOINT)
    model = load_reward_model(checkpoint)
    test = [trajectory for trajectory in store if trajectory.split == "test"][: args.test]
    seen = ask(model, make_examples(test))
    return {
        **cell,
        **taken,
        "origin": provenance(),
        "verdict": json.loads((run / "model" / "verdict.json").read_text()),
        **_measures(test, seen, world),
        **_rule(model, seen),
        "wrapped_return": _wrapped(model, world, args),
        "altered": {what: _altered(checkpoint, world, folder / what, args, what) for what in ALTERED},
        "streaming_ms": _streaming(model, world, args),
    }


def _adapted(args: Args, store: TrajectoryStore, run: Path, cell: dict[str, Any]) -> dict[str, float]:
    """Makes the model; returns the seconds that it took, and those of all processors."""
    shutil.rmtree(run, ignore_errors=True)  # what an interrupted run has left
    # Of the seeds in their order the first so many: experts and failures are as mixed in a small set as in a large one.
    chosen = sorted((each for each in store if each.split == "train"), key=lambda each: each.seed or 0)
    part = relabelled_store(chosen[: cell["episodes"]], run / "recordings", cell["labels"])
    # Labels change nothing in the pictures, which are looked at once for all of them.
    features = run.parent / FOLDER
    features.mkdir(exist_ok=True)
    known = len(list(features.iterdir()))
    (part / FOLDER).symlink_to(features.resolve())
    began, used = time.monotonic(), time.process_time()
    adapt(AdaptConfig(part, run / "model", minutes=args.minutes, steps=args.steps, seed=cell["seed"]))
    return {
        "seconds": time.monotonic() - began,
        "processor_seconds": time.process_time() - used,
        "features_found": known,
    }


def _measures(test: Sequence[Trajectory], seen: Sequence[Seen], world: World) -> dict[str, Any]:
    succeeded = [trajectory.quality_label == "successful" for trajectory in test]
    truth = [np.asarray(trajectory.progress) for trajectory in test]
    clock = [np.asarray(trajectory.steps) / world.max_steps for trajectory in test]
    kinds = [kind for kind in KINDS if any(trajectory.skill == kind for trajectory in test)]

    def by_kind(values: Sequence[float]) -> dict[str, float]:
        return {
            kind: float(np.mean([value for value, each in zip(values, test, strict=True) if each.skill == kind]))
            for kind in kinds
        }

    def above(values: Sequence[float]) -> float:
        return ranking_accuracy(values, np.array(succeeded, float))

    everything = np.concatenate(truth)
    return {
        "success_above_failure": above([each.final for each in seen]),
        "success_above_failure_clock": above([float(each[-1]) for each in clock]),
        "success_above_failure_one_frame": above([float(each.alone[-1]) for each in seen]),
        "success_auroc": auroc([float(each.success[-1]) for each in seen], succeeded),
        "final": by_kind([each.final for each in seen]),
        "true_final": by_kind([float(each[-1]) for each in truth]),
        "correlation": pearson(np.concatenate([each.progress for each in seen]), everything),
        "correlation_clock": pearson(np.concatenate(clock), everything),
        "correlation_one_frame": pearson(np.concatenate([each.alone for each in seen]), everything),
        "still": max(each.still for each in seen),
    }


def _rule(model: RewardModel, seen: Sequence[Seen]) -> dict[str, float | None]:
    """The success rule with the threshold of the checkpoint."""
    recall, false_alarms = success_evidence(seen).rates(DEFAULT_REWARD.threshold(model.success_threshold))
    return {"threshold": model.success_threshold, "recall": recall, "false_alarms": false_alarms}


def _wrapped(model: RewardModel, world: World, args: Args) -> dict[str, float]:
    env = RobometerReward(
        world.make(args.size), model, world.task, RewardSpec(every=world.every), success_key=world.success_key
    )
    try:
        paid = {
            kind: [play(env, world, kind, TEST_SEEDS + 1000 + index) for index in range(args.wrapped)]
            for kind in ("expert", "random")
        }
    finally:
        env.close()
    means = {kind: float(np.mean(values)) for kind, values in paid.items()}
    return {**means, "difference": means["expert"] - means["random"]}


def _altered(checkpoint: str, world: World, folder: Path, args: Args, what: str) -> dict[str, Any]:
    """What is left of the order of episodes in other pictures, asked of a model that has not doubted any yet."""
    model = load_reward_model(checkpoint)
    count = min(args.altered, args.test)
    store = record(world, folder, train=0, test=count, seed=0, size=args.size, altered=what)
    test = sorted(store, key=lambda each: each.seed or 0)
    measures = _measures(test, ask(model, make_examples(test)), world)
    kept = ("success_above_failure", "success_auroc", "final", "true_final", "correlation")
    return {**{name: measures[name] for name in kept}, "warned": model.doubts.strange_pictures}


def _streaming(model: RewardModel, world: World, args: Args) -> dict[str, float]:
    """Milliseconds of one frame: drawn, and scored behind its history."""
    mini = load_reward_model("mini")
    streams = {"adapted": model.stream([world.task]), "mini": mini.stream([world.task])}
    times: dict[str, list[float]] = {"drawing": [], **{name: [] for name in streams}}
    env, rng = world.make(args.size), np.random.default_rng(0)
    try:
        env.reset(seed=TEST_SEEDS, options=world.reset_options(rng))
        for _ in range(world.max_steps - 1):
            env.step(rng.uniform(-0.3, 0.3, env.action_space.shape).astype(np.float32))
            began = time.perf_counter()
            frame = np.asarray(env.render())
            times["drawing"].append(time.perf_counter() - began)
            for name, stream in streams.items():
                began = time.perf_counter()
                stream.append(frame[None])
                times[name].append(time.perf_counter() - began)
    finally:
        env.close()
    return {name: float(np.median(each[5:])) * 1000 for name, each in times.items()}


def _found(args: Args) -> list[dict[str, Any]]:
    """Results that there are already."""
    path = RESULTS / f"{args.name}.json"
    return json.loads(path.read_text())["results"] if path.exists() else []


def _write(args: Args, results: Sequence[dict[str, Any]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    write_text(RESULTS / f"{args.name}.json", json.dumps({"results": list(results)}, indent=2) + "\n")


def _show(results: Sequence[dict[str, Any]]) -> None:
    kinds = ("expert", "wrong_place", "no_contact", "random")
    table = Table(title="final progress by kind, the truth in brackets")
    for name in ("world", "labels", "order", "AUROC", *kinds, "return", "recall", "alarms", "seconds"):
        table.add_column(name, no_wrap=True)
    for each in results:
        finals = [
            f"{each['final'][kind]:.2f} ({each['true_final'][kind]:.2f})" for kind in kinds if kind in each["final"]
        ]
        table.add_row(
            each["world"], f"{each['labels']} {each['episodes']}", f"{each['success_above_failure']:.2f}",
            f"{each['success_auroc']:.2f}", *finals, *[""] * (len(kinds) - len(finals)),
            f"{each['wrapped_return']['difference']:.2f}", f"{each['recall']:.2f}", f"{each['false_alarms']:.2f}",
            f"{each['seconds']:.0f}",
        )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
