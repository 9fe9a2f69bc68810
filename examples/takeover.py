"""A weak policy acts until a monitor sees that it gets nowhere; then a teacher takes over.

    python examples/takeover.py                      # a quarter of an hour on a laptop
    python examples/takeover.py --tasks door-open --monitor outputs/calibration/monitor.json

The weak policy begins as the scripted expert of a Meta-World task does and stops, goes astray or flails somewhere on
the way. It knows nothing of the simulator's state of success, and neither does the monitor: it is told what the reward
model says of the picture, every few steps. The teacher is the script. Printed is how often the task is done by the weak
policy alone, with the teacher's help, and by a teacher that takes over at a random time as often; and how many of the
steps were the teacher's. ``robometer-rl calibrate MODEL STORE --monitor`` writes a monitor for other tasks and models.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from robometer_rl import RewardModel, load_reward_model
from robometer_rl.collecting.metaworld_policies import (
    ExpertPolicy,
    FlailPolicy,
    Policy,
    StopHalfwayPolicy,
    SwitchPolicy,
    WrongPlacePolicy,
)
from robometer_rl.documents import read_text
from robometer_rl.envs.metaworld import make_env
from robometer_rl.files import write_text
from robometer_rl.monitor import Monitor, MonitorSpec, State


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        tasks: Meta-World tasks.
        model: Reward model.
        monitor: JSON file of a `MonitorSpec`; its defaults if None.
        episodes: Per task, with the same seeds for each way of acting.
        steps: Simulator steps per episode.
        every: Simulator steps between frames that are scored.
        seed: Of the first episode.
        output: Where ``takeover.json`` goes.
        smoke: Run for a few steps, to see that it works.
    """

    tasks: tuple[str, ...] = ("door-open", "drawer-open", "faucet-open")
    model: str = "mini"
    monitor: Path | None = None
    episodes: int = 12
    steps: int = 250
    every: int = 5
    seed: int = 5_000
    output: Path = Path("outputs/takeover")
    smoke: bool = False


@dataclass(frozen=True)
class Outcome:
    """One episode.

    Attributes:
        success: Whether the task was done at the end.
        taken_over: The step from which the teacher acted; None if it never did.
        reason: What the monitor said then.
    """

    success: bool
    taken_over: int | None = None
    reason: State | None = None


Decision = Callable[[int, np.ndarray], State | None]
"""Of a step and its picture: why the teacher takes over now, None while it does not."""


def weak_policy(task: str, rng: np.random.Generator) -> Policy:
    """An expert that comes to nothing somewhere on the way."""
    expert, step = ExpertPolicy(task, float(rng.uniform(0.6, 1.0))), int(rng.integers(5, 60))
    place = rng.uniform([-0.3, 0.45, 0.08], [0.3, 0.85, 0.3])
    ways: list[Policy] = [
        StopHalfwayPolicy(expert, step),
        WrongPlacePolicy(expert, step, place),
        SwitchPolicy(expert, step, FlailPolicy(rng, place, 0.1, 4)),
        expert,
    ]
    return ways[int(rng.integers(len(ways)))]


def play(task: str, seed: int, args: Args, decide: Decision | None) -> Outcome:
    """Acts out one episode."""
    env, rng = make_env(task), np.random.default_rng(seed)
    try:
        observation, _ = env.reset(seed=seed)
        policy, taken_over, reason, success = weak_policy(task, rng), None, None, False
        for step in range(args.steps):
            if decide is not None and taken_over is None and step % args.every == 0:
                reason = decide(step, np.asarray(env.render()))
                if reason is not None:
                    policy, taken_over = ExpertPolicy(task), step
            observation, _, _, _, info = env.step(policy.act(observation, success))
            success = bool(info["is_success"])
    finally:
        env.close()
    return Outcome(success, taken_over, reason)


def watched(model: RewardModel, task: str, spec: MonitorSpec) -> Decision:
    """Takes over when the monitor says that the episode stalls, falls back, or cannot be judged."""
    stream = model.stream([task])
    monitor = Monitor(spec, calibrated=model.success_threshold)

    def decide(step: int, picture: np.ndarray) -> State | None:
        (status,) = monitor.step(stream.append(picture[None]))
        return status.state if status.state in ("stalled", "regressing", "uncertain") else None

    return decide


def at_random(chosen: int | None) -> Decision:
    """Takes over at a step that was drawn before."""
    return lambda step, _: "uncertain" if chosen is not None and step >= chosen else None


def compare(task: str, model: RewardModel, spec: MonitorSpec, args: Args) -> dict[str, list[Outcome]]:
    """The same episodes three times."""
    env = make_env(task)
    instruction = env.get_wrapper_attr("instruction")
    env.close()
    seeds = range(args.seed, args.seed + args.episodes)
    with_monitor = [play(task, seed, args, watched(model, instruction, spec)) for seed in seeds]
    steps = [outcome.taken_over for outcome in with_monitor]
    shuffled = np.random.default_rng(args.seed).permutation(len(steps)).tolist()
    return {
        "weak alone": [play(task, seed, args, None) for seed in seeds],
        "monitor": with_monitor,
        "random times": [play(task, seed, args, at_random(steps[n])) for seed, n in zip(seeds, shuffled, strict=True)],
    }


def main(args: Args) -> dict[str, dict[str, list[Outcome]]]:
    """Compares, prints and writes."""
    model = load_reward_model(args.model)
    spec = MonitorSpec() if args.monitor is None else MonitorSpec.from_json(read_text(args.monitor))
    table = Table("task", "who decides", "done", "teacher's steps", "took over", "of these needlessly")
    found = {}
    for task in args.tasks:
        found[task] = compare(task, model, spec, args)
        alone = [outcome.success for outcome in found[task]["weak alone"]]
        for name, outcomes in found[task].items():
            taken = [outcome.taken_over for outcome in outcomes]
            share = np.mean([0.0 if step is None else 1.0 - step / args.steps for step in taken])
            needless = sum(step is not None and done for step, done in zip(taken, alone, strict=True))
            table.add_row(
                task, name, f"{np.mean([outcome.success for outcome in outcomes]):.0%}", f"{share:.0%}",
                f"{sum(step is not None for step in taken)} of {len(taken)}", f"{needless}",
            )  # fmt: skip
    Console().print(table)
    plain = {task: {name: [vars(each) for each in rows] for name, rows in ways.items()} for task, ways in found.items()}
    args.output.mkdir(parents=True, exist_ok=True)
    write_text(args.output / "takeover.json", json.dumps({"monitor": vars(spec), "outcomes": plain}, indent=2) + "\n")
    Console().print(f"every episode is in {args.output / 'takeover.json'}")
    return found


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    if arguments.smoke:
        arguments = replace(
            arguments, tasks=arguments.tasks[:1], episodes=1, steps=60, output=arguments.output / "smoke"
        )
    main(arguments)
