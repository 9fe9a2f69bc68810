"""Offline learning with an adapted reward in an environment that no model has seen: PointMaze of gymnasium-robotics.

    python -m benchmarks.offline_rl

Needs the extras ``foreign``, ``adapt`` and ``offline``. Records a ball in a maze at five kinds of skill, a fifth of
them experts; adapts a compact model to these recordings; has `robometer-rl relabel` write its rewards into them; and
runs examples/offline_rl.py on the result: implicit Q-learning on the learned rewards, on the environment's sparse ones,
and behaviour cloning, judged by true success over unseen episodes. Each part is kept and not done again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.recording import write_result
from benchmarks.runs import ROOT, Run, run_all
from robometer_rl.adapting.adapt import CHECKPOINT, adapt
from robometer_rl.adapting.config import AdaptConfig
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.extras import require
from robometer_rl.files import new_file
from robometer_rl.relabeling.commands import RelabelConfig, run_relabel

ENV = "PointMaze_UMaze-v3"
TASK = "move the ball to the red mark"
KINDS = ("expert", "noisy", "half_way", "wrong_place", "random")
EVERY = 4  # steps between frames that the reward model is adapted to

Floats = NDArray[np.float64]

# Middles of the cells of the U, one metre each, from one end to the other.
WAY = np.array([(-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)], np.float64)


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        episodes: Recorded, a fifth of them by each kind of policy.
        steps: Of an episode.
        size: Pixels of a frame.
        minutes: Of adapting.
        updates: Gradient steps of each arm.
        seeds: Of the learners.
        workers: Learners at the same time.
        output: Where recordings, model and policies go.
        name: Of the file with the results.
    """

    episodes: int = 60
    steps: int = 100
    size: int = 128
    minutes: float = 10.0
    updates: int = 5_000
    seeds: tuple[int, ...] = (0,)
    workers: int = 1
    output: Path = Path("outputs/offline_rl_benchmark")
    name: str = "offline_rl"


def along(place: Floats) -> float:
    """How far along the U a place is, in metres from its first cell."""
    starts, ways = WAY[:-1], np.diff(WAY, axis=0)
    parts = np.clip(((place - starts) * ways).sum(axis=1), 0.0, 1.0)
    off = np.linalg.norm(starts + parts[:, None] * ways - place, axis=1)
    nearest = int(np.argmin(off))
    return nearest + float(parts[nearest])


def next_place(place: Floats, goal: Floats) -> Floats:
    """Where to go next on the way to a goal."""
    here, there = along(place), along(goal)
    if abs(here - there) < 0.7:
        return goal
    step = float(np.clip(here + 0.6 * np.sign(there - here), 0.0, len(WAY) - 1.001))
    return WAY[int(step)] + (step % 1.0) * (WAY[int(step) + 1] - WAY[int(step)])


def play(env: Any, kind: str, seed: int) -> dict[str, NDArray[Any]]:
    """Acts out one episode; returns what is kept of it, by the names of the format ``npz``."""
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    goal = np.asarray(observation["desired_goal"])
    if kind == "wrong_place":
        goal = max(WAY[::3], key=lambda place: abs(along(place) - along(goal)))
    stop = rng.uniform(10, 30) if kind == "half_way" else np.inf
    noise, drift = {"noisy": 1.0, "random": 1.0}.get(kind, 0.0), np.zeros(2)
    seen, frames, actions, rewards, done = [observation], [env.render()], [], [], [False]
    over = False
    while not over:
        place, velocity = seen[-1]["observation"][:2], seen[-1]["observation"][2:]
        drift = 0.9 * drift + 0.4 * rng.normal(size=2)
        way = 6.0 * (next_place(place, goal) - place) - velocity if kind != "random" else np.zeros(2)
        action = np.clip((way if len(actions) < stop else -2.0 * velocity) + noise * drift, -1.0, 1.0)
        observation, reward, terminated, truncated, info = env.step(action.astype(np.float32))
        over = terminated or truncated
        seen.append(observation)
        frames.append(env.render())
        actions.append(action)
        rewards.append(float(reward))
        done.append(bool(info["success"]))
    return {
        "front": np.stack(frames),
        "observation": np.stack([each["observation"] for each in seen]).astype(np.float32),
        "desired_goal": np.stack([each["desired_goal"] for each in seen]).astype(np.float32),
        "actions": np.array(actions, np.float32),
        "rewards": np.array(rewards),
        "success": np.array(done[1:]),
        "truncated": np.array(True),
        "task": np.array(TASK),
    }


def record(args: Args, folder: Path) -> TrajectoryStore:
    """Records what is missing of a folder of ``.npz`` episodes, and what is learned from as a store beside it."""
    gym.register_envs(require("gymnasium_robotics", "foreign"))
    env = gym.make(ENV, render_mode="rgb_array", width=args.size, height=args.size, max_episode_steps=args.steps)
    folder.mkdir(parents=True, exist_ok=True)
    store = TrajectoryStore(folder.with_name("store"))
    for seed in track(range(args.episodes), "recording", console=Console(stderr=True)):
        path, kind = folder / f"{seed:03d}.npz", KINDS[seed % len(KINDS)]
        if not path.exists():
            with new_file(path) as partial, partial.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **play(env, kind, seed))
        if f"{seed:03d}" not in store:
            store.append(trajectory(dict(np.load(path)), kind, seed))
    env.close()
    return store


def trajectory(episode: dict[str, NDArray[Any]], kind: str, seed: int) -> Trajectory:
    """What a reward model learns from an episode."""
    kept = np.append(np.arange(0, len(episode["front"]) - 1, EVERY), len(episode["front"]) - 1)
    success = np.append(False, episode["success"])[kept]
    ways = zip(episode["observation"][kept, :2], episode["desired_goal"][kept], strict=True)
    return Trajectory(
        id=f"{seed:03d}",
        task=TASK,
        frames=episode["front"][kept],
        quality_label="successful" if success.any() else "failure",
        data_source=ENV,
        success=success,
        distance=np.array([abs(along(place) - along(goal)) for place, goal in ways]),
        steps=kept,
        skill=kind,
        seed=seed,
    )


def main(args: Args) -> dict[str, Any]:
    """Everything."""
    recordings, model = args.output / "recordings", args.output / "run"
    labelled = args.output / "recordings-robometer"
    store = record(args, recordings)
    if not (model / "verdict.json").exists():
        adapt(AdaptConfig(store.path, model, minutes=args.minutes))
    if not labelled.exists():
        run_relabel(RelabelConfig(recordings, str(model / CHECKPOINT), reward="level"))
    results = args.output / "policies"
    options = ("--env", ENV, "--imports", "gymnasium_robotics", "--observations", "observation", "desired_goal")
    options += ("--env-options", json.dumps({"max_episode_steps": args.steps}), "--updates", str(args.updates))
    runs = [
        Run(
            f"seed-{seed}",
            ("examples/offline_rl.py", str(labelled), *options, "--seed", str(seed), "--output", str(results)),
            results / f"{labelled.name}-{seed}.json",
        )
        for seed in args.seeds
    ]
    run_all(runs, args.workers)
    found = [run.read() or {} for run in runs]
    table = Table("learned from", "true success, by seed", title=ENV, title_justify="left")
    for arm in found[0]["true_success"]:
        table.add_row(arm, ", ".join(f"{each['true_success'][arm]:.0%}" for each in found))
    Console().print(table)
    verdict = json.loads((ROOT / model / "verdict.json").read_text())["verdict"]
    numbers = {
        "env": ENV,
        "data_success": found[0]["data_success"],
        "verdict": {"verdict": verdict["verdict"], "reasons": verdict["reasons"], "checks": verdict["checks"]},
        "runs": [
            {"command": run.shown, "true_success": each["true_success"]} for run, each in zip(runs, found, strict=True)
        ],
    }
    write_result(args.name, numbers)
    return numbers


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
