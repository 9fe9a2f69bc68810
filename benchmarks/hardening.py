"""Does `robometer-rl harden` help? Farmed progress on unseen agents after each round, in two environments.

    python -m benchmarks.hardening                     # both, an hour on one core; goes on where it was stopped
    python -m benchmarks.hardening --worlds reacher    # a compact model of 60 recordings, dm_control's reacher
    python -m benchmarks.hardening --worlds metaworld  # robometer-mini, Meta-World's faucet-close

Recordings and models are kept under ``outputs/hardening``. Needs the extras ``foreign``, ``metaworld``, ``adapt`` and
``sb3``. The table has, for each round, what the later half of an agent's failures are paid above what they are worth
(``farmed``), and what recorded successes are paid (``successes``): by ``delta`` in an episode, by ``level`` in a step,
and by both of confident progress where the model says how sure it is. No agent is one that the model was trained on.
Writes results/hardening.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import tyro

from benchmarks.foreign.reacher import Reacher
from benchmarks.foreign.recording import record, relabelled_store
from benchmarks.recording import RESULTS, write_result
from robometer_rl.adapting.adapt import CHECKPOINT, adapt
from robometer_rl.adapting.config import AdaptConfig
from robometer_rl.collecting.collect import CollectConfig, collect
from robometer_rl.envs.metaworld import TASKS, make_env, state_of
from robometer_rl.hardening.config import HardenConfig
from robometer_rl.hardening.harden import harden

METAWORLD_TASK = "faucet-close"
SIZE = 128


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        worlds: Where.
        decisions: Of each agent.
        rounds: Most times that a model is trained.
        episodes: Recordings of the reacher to begin with.
        seed: Of everything.
        output: Where recordings and models go.
        name: Of the file with the results.
    """

    worlds: tuple[str, ...] = ("reacher", "metaworld")
    decisions: int = 2_000
    rounds: int = 3
    episodes: int = 60
    seed: int = 0
    output: Path = Path("outputs/hardening")
    name: str = "hardening"

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.worlds) - set(WORLDS)):
            raise ValueError(f"unknown {unknown}; expected some of {list(WORLDS)}")


class _Told(gym.Wrapper[Any, Any, Any, Any]):
    """Puts something of each moment into the info."""

    def __init__(self, env: gym.Env[Any, Any], key: str, of: Callable[[Any, dict[str, Any]], Any]) -> None:
        super().__init__(env)
        self._key, self._of = key, of

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {**info, self._key: self._of(observation, info)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {**info, self._key: self._of(observation, info)}


def reacher() -> gym.Env[Any, Any]:
    """The reacher, which says how far its tip is from the target."""
    world = Reacher()
    return _Told(world.make(SIZE), "distance", world.distance)


def metaworld() -> gym.Env[Any, Any]:
    """A task of Meta-World, which says its state as recordings have it."""
    env = make_env(METAWORLD_TASK, size=SIZE, max_episode_steps=300)
    return _Told(env, "state", lambda observation, info: state_of(observation))


def harden_reacher(args: Args) -> dict[str, Any]:
    """A compact model of recordings that say success and distance."""
    folder, world = args.output / f"reacher-{args.seed}", Reacher()
    every = record(world, folder / "everything", train=args.episodes, test=36, seed=args.seed, size=SIZE)
    recordings = relabelled_store(every, folder / "recordings", "distance")
    if not (folder / "adapted" / "verdict.json").exists():
        adapt(AdaptConfig(recordings, folder / "adapted", minutes=240.0, seed=args.seed))
    model = str(folder / "adapted" / CHECKPOINT)
    config = HardenConfig(
        model, "benchmarks.hardening:reacher", recordings, folder / "hardened", world.task,
        rounds=args.rounds, decisions=args.decisions, action_repeat=world.every, distance="info/distance",
        seed=args.seed,
    )  # fmt: skip
    return _result(config)


def harden_metaworld(args: Args) -> dict[str, Any]:
    """The embedded model, on the task whose agents it pays most for nothing."""
    folder = args.output / f"metaworld-{args.seed}"
    recordings = folder / "recordings"
    collect(CollectConfig(recordings, (METAWORLD_TASK,), frame_interval=10, seed=args.seed, workers=1))
    config = HardenConfig(
        "mini", "benchmarks.hardening:metaworld", recordings, folder / "hardened", TASKS[METAWORLD_TASK].task,
        rounds=args.rounds, decisions=args.decisions, action_repeat=10, mode="level", state="info/state",
        seed=args.seed,
    )  # fmt: skip
    return _result(config)


WORLDS: dict[str, Callable[[Args], dict[str, Any]]] = {"reacher": harden_reacher, "metaworld": harden_metaworld}


def _result(config: HardenConfig) -> dict[str, Any]:
    found = harden(config)
    names = {each.number: f"round-{each.number}" if each.number else "as given" for each in found.rounds}
    rounds = [{**each.as_dict(), "model": names[each.number]} for each in found.rounds]
    return {
        "env": config.env, "task": config.task, "mode": config.mode, "decisions": config.decisions, "keep": config.keep,
        "pays": config.pays, "seed": config.seed, "holds": found.holds, "best": found.best.number, "rounds": rounds,
    }  # fmt: skip


def main(args: Args) -> None:
    """Everything."""
    path = RESULTS / f"{args.name}.json"
    results = json.loads(path.read_text())["worlds"] if path.exists() else {}
    for world in args.worlds:
        results[world] = WORLDS[world](args)
        write_result(args.name, {"worlds": results})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
