"""What a learned reward costs in vectorised rollouts, beside what drawing its frames costs.

    python -m benchmarks.wrapper_overhead
    python -m benchmarks.wrapper_overhead --environments 1 --every 5 --steps 5 --rounds 1

Meta-World in a Stable-Baselines3 DummyVecEnv with random actions, 128 x 128 frames without shadows. Three kinds of
environments run in turns, so that what else the machine does hits all of them:

    bare        the simulator alone
    rendered    the same with `RenderToInfo`: frames are drawn and not looked at
    paid        the same in `VecRobometerReward`

Reported are environment steps per second (medians over rounds), and per environment step the milliseconds of drawing
(rendered - bare) and of the reward (paid - rendered). Writes results/wrapper_overhead.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from benchmarks.recording import write_result
from robometer_rl import RewardSpec, load_reward_model
from robometer_rl.envs.metaworld import TASKS, make_env
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.wrappers import RenderToInfo, VecRobometerReward

Kind = Literal["bare", "rendered", "paid"]
KINDS: tuple[Kind, ...] = ("bare", "rendered", "paid")


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        environments: Numbers of environments.
        every: Scoring intervals in steps.
        model: Whatever ``load_reward_model`` takes.
        task: Meta-World task.
        size: Height and width of frames.
        steps: Steps of all environments per round.
        rounds: How often each kind is timed.
        episode_steps: Length of episodes.
        name: Of the result.
    """

    environments: tuple[int, ...] = (1, 4, 16)
    every: tuple[int, ...] = (1, 5)
    model: str = "mini"
    task: str = "drawer-open"
    size: int = 128
    steps: int = 60
    rounds: int = 3
    episode_steps: int = 100
    name: str = "wrapper_overhead"


def make_one(args: Args, kind: Kind, every: int) -> gym.Env[Any, Any]:
    """One environment."""
    mode = None if kind == "bare" else "rgb_array"
    env = make_env(args.task, size=args.size, max_episode_steps=args.episode_steps, render_mode=mode)
    return env if kind == "bare" else RenderToInfo(env, every=every)


def make_all(args: Args, kind: Kind, num_envs: int, every: int, model: RewardModel) -> VecEnv:
    """All environments of one kind."""
    makers: list[Callable[[], gym.Env[Any, Any]]] = [partial(make_one, args, kind, every)] * num_envs
    venv = DummyVecEnv(makers)
    if kind != "paid":
        return venv
    return VecRobometerReward(venv, model, TASKS[args.task].task, RewardSpec(every=every))


def seconds_per_round(venv: VecEnv, steps: int, rng: np.random.Generator) -> float:
    """How long some steps of all environments take."""
    actions = rng.uniform(-1, 1, (steps, venv.num_envs, *venv.action_space.shape)).astype(np.float32)  # pyright: ignore
    started = time.perf_counter()
    for action in actions:
        venv.step(action)
    return time.perf_counter() - started


def measure(args: Args, num_envs: int, every: int, model: RewardModel) -> dict[str, float]:
    """One combination."""
    rng = np.random.default_rng(0)
    venvs: dict[Kind, VecEnv] = {kind: make_all(args, kind, num_envs, every, model) for kind in KINDS}
    spent: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
    for venv in venvs.values():
        venv.seed(0)
        venv.reset()
        seconds_per_round(venv, min(args.steps, 2 * every), rng)
    for _ in range(args.rounds):
        for kind, venv in venvs.items():
            spent[kind].append(seconds_per_round(venv, args.steps, rng))
    for venv in venvs.values():
        venv.close()
    steps = args.steps * num_envs
    each = {kind: median(spent[kind]) / steps for kind in KINDS}
    drawing, reward = each["rendered"] - each["bare"], each["paid"] - each["rendered"]
    return {
        **{f"{kind}_steps_per_second": 1.0 / each[kind] for kind in KINDS},
        "drawing_ms_per_step": 1e3 * drawing,
        "reward_ms_per_step": 1e3 * reward,
        "reward_over_drawing": reward / drawing,
    }


def main(args: Args) -> dict[str, Any]:
    """Measures every combination and reports."""
    model = load_reward_model(args.model)
    found = {
        str(num_envs): {str(every): measure(args, num_envs, every, model) for every in args.every}
        for num_envs in args.environments
    }
    table = Table("environments", "scored every", *(f"{kind}, steps/s" for kind in KINDS), "drawing, ms", "reward, ms")
    for num_envs, by_interval in found.items():
        for every, numbers in by_interval.items():
            rates = (f"{numbers[f'{kind}_steps_per_second']:.0f}" for kind in KINDS)
            costs = (f"{numbers[f'{name}_ms_per_step']:.1f}" for name in ("drawing", "reward"))
            table.add_row(num_envs, every, *rates, *costs)
    Console().print(table)
    facts = {"model": args.model, "task": args.task, "size": args.size, "steps": args.steps, "rounds": args.rounds}
    write_result(args.name, {**facts, "environments": found})
    return found


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
