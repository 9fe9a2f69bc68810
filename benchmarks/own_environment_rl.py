"""Do agents learn a foreign environment from an adapted reward? What is learned beside the sparse and the dense reward.

    python -m benchmarks.own_environment_rl
    python -m benchmarks.own_environment_rl --worlds reach --arms dense --seeds 0    # one run
    python -m benchmarks.own_environment_rl --report                                 # the table of docs/results.md
    python -m benchmarks.own_environment_rl --smoke                                  # minutes: the smallest sizes

Needs the extras ``foreign``, ``adapt``, ``examples``. For each world a compact model is adapted to 60 recorded episodes
with distances, as in benchmarks/own_environment.py, and never trained again. Then Soft Actor-Critic learns from states:

* ``adapted_sparse``: what the model sees of frames, plus 1 per decision in which the task is done; by ``level``,
  as docs/reward_design.md says of episodes that have a fixed length and in which success can be held
* ``sparse``: 1 per decision in which the task is done
* ``dense``: minus the distance that the world measures: FetchReach's own dense reward; the suite's reacher has none

Success is true success in 50 unseen episodes at the end, 20 in between. Goes on where it was stopped: runs that the
file of results has, made with the same options, are not made again. ``honesty`` is what `RewardHonestyCallback` counts:
the correlation of learned and true return over the episodes of training, and false successes of the success rule.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from benchmarks.curves import Series, draw_learning_curves
from benchmarks.foreign.recording import TEST_SEEDS, WORLDS, record, relabelled_store
from benchmarks.foreign.worlds import World
from benchmarks.recording import RESULTS, markdown_table, mean_of_each, write_tables
from robometer_rl import RewardSpec, load_reward_model
from robometer_rl.adapting.adapt import CHECKPOINT, adapt
from robometer_rl.adapting.config import AdaptConfig
from robometer_rl.documents import without_nan
from robometer_rl.evaluation.reward_hacking import EpisodeOutcome, agreement
from robometer_rl.files import write_text
from robometer_rl.provenance import provenance
from robometer_rl.report.figures import save_picture
from robometer_rl.wrappers import RenderToInfo, VecRobometerReward
from robometer_rl.wrappers.sb3.callback import RewardHonestyCallback

ARMS = ("adapted_sparse", "sparse", "dense")
EVALUATION_SEED = 2 * TEST_SEEDS  # neither training nor recordings come here


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        worlds: Which environments.
        arms: Rewards.
        seeds: Of agents, one run each; the model is the same.
        decisions: Steps that an agent learns from, by world; the same for all its arms.
        evaluate_every: Steps between evaluations.
        evaluation_episodes: Of an evaluation, and of the last one.
        mode: How progress is paid.
        scale: Weight of the learned reward.
        episodes: Recorded to adapt to.
        minutes: Of adapting.
        steps: Of adapting; by default as many as ``robometer-rl adapt`` takes.
        size: Pixels of a frame.
        output: Where recordings and models go.
        report: Only show what there is, and write it into the docs.
        name: Of the file with the results.
        smoke: Run at the smallest sizes, to see that it works.
    """

    worlds: tuple[str, ...] = ("reach", "reacher")
    arms: tuple[str, ...] = ARMS
    seeds: tuple[int, ...] = (0, 1, 2)
    decisions: tuple[tuple[str, int], ...] = (("reach", 2_000), ("reacher", 8_000))
    evaluate_every: int = 500
    evaluation_episodes: tuple[int, int] = (20, 50)
    mode: Literal["level", "delta"] = "level"
    scale: float = 1.0
    episodes: int = 60
    minutes: float = 10.0
    steps: int | None = None
    size: int = 128
    output: Path = Path("outputs/own_environment")
    report: bool = False
    name: str = "own_environment_rl"
    smoke: bool = False

    def __post_init__(self) -> None:
        for given, known in ((self.worlds, [*dict(self.decisions)]), (self.arms, list(ARMS))):
            if unknown := sorted(set(given) - set(known)):
                raise ValueError(f"unknown {unknown}; expected some of {known}")


def smallest(args: Args) -> Args:
    """What takes minutes."""
    return replace(
        args, worlds=("reach",), seeds=(0,), decisions=(("reach", 150),), evaluate_every=100,
        evaluation_episodes=(1, 2), episodes=12, minutes=0.3, steps=10, output=args.output / "smoke",
        name=f"{args.name}_smoke", smoke=False,
    )  # fmt: skip


class Paid(gym.Wrapper[Any, Any, Any, Any]):
    """Pays 1 where the task is done, or minus the distance."""

    def __init__(self, env: gym.Env[Any, Any], world: World, dense: bool) -> None:
        super().__init__(env)
        self._world, self._dense = world, dense

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One decision."""
        observation, _, terminated, truncated, info = self.env.step(action)
        done = float(info[self._world.success_key])
        paid = -self._world.distance(observation, info) if self._dense else done
        return observation, paid, terminated, truncated, info


def make_envs(args: Args, world: World, arm: str, model: str) -> VecEnv:
    """The environment to learn in; states are scaled as they come."""

    def make() -> gym.Env[Any, Any]:
        env = Paid(world.make(args.size), world, dense=arm == "dense")
        if isinstance(env.observation_space, gym.spaces.Dict):
            env = gym.wrappers.FlattenObservation(env)
        return RenderToInfo(env, world.every) if arm == "adapted_sparse" else env

    venv: VecEnv = DummyVecEnv([make])
    if arm == "adapted_sparse":
        reward = RewardSpec(mode=args.mode, scale=args.scale, task_weight=1.0, every=world.every)
        loaded = load_reward_model(model)
        venv = VecRobometerReward(venv, loaded, world.task, reward, success_key=world.success_key)
    return VecNormalize(venv, norm_reward=False)


class Evaluate(BaseCallback):
    """Counts true success at fixed numbers of decisions."""

    def __init__(self, args: Args, world: World, decisions: int) -> None:
        super().__init__()
        self._args, self._world, self._decisions = args, world, decisions
        self.curve: list[tuple[int, float]] = []
        self.seconds = 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps % self._args.evaluate_every == 0 or self.num_timesteps >= self._decisions:
            began = time.perf_counter()
            last = self.num_timesteps >= self._decisions
            self.curve.append((self.num_timesteps, self._success(self._args.evaluation_episodes[int(last)])))
            self.seconds += time.perf_counter() - began
        return True

    def _success(self, episodes: int) -> float:
        env: Any = gym.wrappers.FlattenObservation(self._world.make(self._args.size))
        normalize = self.model.get_vec_normalize_env()
        assert normalize is not None
        ended = []
        for episode in range(episodes):
            observation, info = env.reset(seed=EVALUATION_SEED + episode)
            over = False
            while not over:
                action, _ = self.model.predict(normalize.normalize_obs(observation), deterministic=True)
                observation, _, terminated, truncated, info = env.step(action)
                over = terminated or truncated
            ended.append(bool(info[self._world.success_key]))
        env.close()
        return float(np.mean(ended))


def adapted(args: Args, world: World) -> Path:
    """The model of a world, made once."""
    folder = args.output / f"{world.name}-rl"
    checkpoint = folder / "model" / CHECKPOINT
    if not (folder / "model" / "verdict.json").exists():
        store = record(world, folder / "all", train=args.episodes, test=0, seed=0, size=args.size)
        part = relabelled_store(store, folder / "recordings", "distance")
        shutil.rmtree(folder / "model", ignore_errors=True)  # of an interrupted run
        adapt(AdaptConfig(part, folder / "model", minutes=args.minutes, steps=args.steps))
    return checkpoint


def run(args: Args, cell: dict[str, Any]) -> dict[str, Any]:
    """One agent."""
    world, decisions = WORLDS[cell["world"]](), cell["decisions"]
    learned = cell["arm"] == "adapted_sparse"
    model = str(adapted(args, world)) if learned else ""
    torch.manual_seed(cell["seed"])
    venv = make_envs(args, world, cell["arm"], model)
    agent = SAC(
        "MlpPolicy", venv, gamma=0.95, learning_rate=1e-3, learning_starts=500, batch_size=256, train_freq=1,
        gradient_steps=1, buffer_size=decisions + 1, ent_coef="auto_0.1", seed=cell["seed"], device="cpu",
    )  # fmt: skip
    watch = Evaluate(args, world, decisions)
    record_to = args.output / f"{world.name}-rl" / f"honesty-{cell['seed']}.jsonl"
    record_to.unlink(missing_ok=True)
    honesty = [RewardHonestyCallback(record=record_to)] if learned else []
    began = time.perf_counter()
    agent.learn(decisions, callback=[watch, *honesty])
    seconds = time.perf_counter() - began
    venv.close()
    result = {
        **cell,
        "curve": watch.curve,
        "final": watch.curve[-1][1],
        "seconds": seconds,
        "evaluation_seconds": watch.seconds,
        "origin": provenance(),
    }
    return result | ({"honesty": honest(record_to), "verdict": verdict_of(Path(model))} if learned else {})


def honest(path: Path) -> dict[str, float | None]:
    """What the recorded episodes of training say; None for what is undefined."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    names = EpisodeOutcome.__dataclass_fields__
    outcomes = [EpisodeOutcome(**{name: line[name] for name in names}) for line in lines]
    return without_nan(agreement(outcomes).as_dict())


def verdict_of(checkpoint: Path) -> str:
    """Usable or not."""
    return json.loads((checkpoint.parent / "verdict.json").read_text())["verdict"]["verdict"]


def cells(args: Args) -> list[dict[str, Any]]:
    """All runs; seeds outermost, so that an unfinished benchmark has all worlds and arms."""
    budgets = dict(args.decisions)
    paid = {"adapted_sparse": {"mode": args.mode, "scale": args.scale}}
    return [
        {"world": world, "arm": arm, "seed": seed, "decisions": budgets[world], "episodes": args.episodes,
         **paid.get(arm, {"mode": None, "scale": None})}
        for seed in args.seeds
        for world in args.worlds
        for arm in args.arms
    ]  # fmt: skip


def main(args: Args) -> dict[str, Any]:
    """Everything."""
    if args.smoke:
        return main(smallest(args))
    path = RESULTS / f"{args.name}.json"
    runs: list[dict[str, Any]] = json.loads(path.read_text())["runs"] if path.exists() else []
    for cell in [] if args.report else cells(args):
        if not any(cell.items() <= each.items() for each in runs):
            runs.append(run(args, cell))
            write_text(path, json.dumps({"runs": runs}, indent=1) + "\n")
    if not runs:
        raise SystemExit(f"no runs in {path}; run without --report")
    show(runs)
    if args.report:
        write_tables("results.md", args.name, markdown_table(_HEAD, rows(runs)))
    save_picture(picture(runs), path.with_suffix(".png"))
    return {"runs": runs}


def label(one: dict[str, Any]) -> str:
    """What a run was paid."""
    return one["arm"] if one["mode"] is None else f"adapted {one['mode']} x {one['scale']:g} + sparse"


def by_world(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Runs by world and by what they were paid."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for each in runs:
        found.setdefault(each["world"], {}).setdefault(label(each), []).append(each)
    return found


_HEAD = (
    "World", "Paid", "True success at the end of 50 unseen episodes (each seed)",
    "Correlation of learned and true return", "Failures taken for successes", "Minutes",
)  # fmt: skip


def rows(runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """What the runs of a world and an arm came to; the last numbers but one are of the episodes of training."""

    def of_training(group: Sequence[dict[str, Any]], name: str) -> str:
        found = [each["honesty"][name] for each in group if "honesty" in each]
        return ", ".join("" if each is None else f"{each:.2f}" for each in found)

    return [
        [
            world,
            name,
            mean_of_each([each["final"] for each in group]),
            of_training(group, "return_correlation"),
            of_training(group, "false_positive_rate"),
            f"{mean(each['seconds'] for each in group) / 60:.0f}",
        ]
        for world, arms in by_world(runs).items()
        for name, group in arms.items()
    ]


def show(runs: Sequence[dict[str, Any]]) -> None:
    """The same on the console."""
    table = Table()
    for name in _HEAD:
        table.add_column(name)
    for row in rows(runs):
        table.add_row(*row)
    Console().print(table)


def picture(runs: Sequence[dict[str, Any]]) -> Any:
    """Curves of all runs."""
    panels = {
        world: [
            Series(name, [([step for step, _ in each["curve"]], [part for _, part in each["curve"]]) for each in group])
            for name, group in arms.items()
        ]
        for world, arms in by_world(runs).items()
    }
    subtitle = "SAC on states, compact models of 60 recorded episodes · thin: seeds · thick: their mean"
    return draw_learning_curves("True success on unseen seeds", subtitle, panels, "decisions")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
