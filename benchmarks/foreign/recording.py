"""Recordings of the foreign environments, made as a user makes them: with `RecordTrajectories`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from benchmarks.foreign.fetch import Fetch
from benchmarks.foreign.lift import Lift
from benchmarks.foreign.pusht import PushT
from benchmarks.foreign.reach import Reach
from benchmarks.foreign.reacher import Reacher
from benchmarks.foreign.worlds import KINDS, World
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.files import new_directory
from robometer_rl.wrappers import RecordTrajectories

__all__ = ["LABELS", "TEST_SEEDS", "WORLDS", "episodes_of", "play", "record", "relabelled", "relabelled_store"]

WORLDS = {world.name: world for world in (Fetch, Lift, PushT, Reach, Reacher)}

LABELS = ("progress", "distance", "state", "success")
"""What is said of each frame beside success: progress itself, a distance, a state, or nothing more."""

TEST_SEEDS = 1_000_000
"""Where the seeds of test episodes begin, which no training episode has."""

_EXPERTS = 1 / 3  # of the episodes; the other kinds share the rest


def episodes_of(count: int) -> list[str]:
    """The kinds of ``count`` episodes, in turn, so that the first so many of them are a smaller such set."""
    experts = round(count * _EXPERTS)
    others = [KINDS[1 + index % (len(KINDS) - 1)] for index in range(count - experts)]
    places = np.argsort([*np.linspace(0, 1, experts), *np.linspace(0.001, 1.001, count - experts)], kind="stable")
    kinds = [*["expert"] * experts, *others]
    return [kinds[place] for place in places]


class _Truth:
    """Progress since the reset, for `RecordTrajectories`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._first: Any = None

    def begin(self) -> None:
        self._first = None

    def __call__(self, observation: Any, info: Mapping[str, Any]) -> float:
        if self._first is None:
            self._first = deepcopy(observation)
        return self._world.progress(observation, info, self._first)


def play(env: Any, world: World, kind: str, seed: int) -> float:
    """Acts out one episode; returns what it was paid."""
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed, options=world.reset_options(rng))
    script = world.script(kind, rng)
    paid, done = 0.0, False
    while not done:
        action = np.asarray(script(observation, info), np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        paid += float(reward)
        done = terminated or truncated
    return paid


def record(
    world: World, folder: Path, *, train: int, test: int, seed: int, size: int, altered: str | None = None
) -> TrajectoryStore:
    """Records what the store does not have yet.

    Args:
        world: The environment.
        folder: The store.
        train: Episodes to learn from.
        test: Episodes to judge by.
        seed: Of the training episodes.
        size: Pixels of a frame.
        altered: What is different in the pictures, one of `ALTERED`; None for the usual ones.
    """
    store = TrajectoryStore(folder)
    truth = _Truth(world)
    base = world.make(size)
    if altered is not None:
        base = world.alter(base, altered)
    try:
        for split, count, first in (("train", train, 10_000 * seed), ("test", test, TEST_SEEDS)):
            env = RecordTrajectories(
                base, store, world.task, every=world.every, size=size, success_key=world.success_key, split=split,
                state=world.state, distance=world.distance, progress=truth, data_source=world.name,
            )  # fmt: skip
            kinds = list(enumerate(episodes_of(count)))
            for index, kind in track(kinds, f"{world.name}, {split}", transient=True):
                env.skill = kind
                if not env.is_recorded(first + index):
                    truth.begin()
                    play(env, world, kind, first + index)
    finally:
        base.close()
    return store


def relabelled(trajectory: Trajectory, labels: str) -> Trajectory:
    """The episode as somebody would have recorded it who can say no more than ``labels`` of its frames."""
    unknown = [name for name in LABELS if name not in (labels, "success")]
    metadata = {key: value for key, value in trajectory.metadata.items() if labels == "state" or key != "state_parts"}
    return replace(trajectory, metadata=metadata, **dict.fromkeys(unknown))


def relabelled_store(trajectories: Iterable[Trajectory], folder: Path, labels: str) -> Path:
    """The store of the episodes as `relabelled` has them, made whole or not at all; one that is there is left."""
    if not folder.exists():
        with new_directory(folder) as partial:
            store = TrajectoryStore(partial)
            for trajectory in trajectories:
                store.append(relabelled(trajectory, labels))
    return folder
