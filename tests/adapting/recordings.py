"""Recordings of a made-up task for tests: a bright block is pushed to the right, to a mark at the edge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.models.compact.tower import Tower
from tests.models.compact.tiny import tiny_checkpoint

TASK = "push the block to the mark"
LENGTH = 10
SIZE = 32


def tower() -> Tower:
    """A small image network with random weights: what it makes of these pictures is enough to tell places apart."""
    return tiny_checkpoint(SIZE).tower


def recording(kind: str, seed: int, **fields: Any) -> Trajectory:
    """An expert arrives, ``half`` stops half-way, ``random`` stays near its beginning."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(0.0, 0.2)
    goal = {"expert": 1.0, "half": 0.5, "random": start}[kind]
    place = start + np.minimum(np.arange(LENGTH) / (LENGTH - 3), 1.0) * (goal - start)
    if kind == "random":
        place = np.clip(place + rng.normal(0, 0.03, LENGTH), 0, 0.3)
    done = place > 0.99
    given_fields = {
        "id": f"{kind}-{seed}",
        "task": TASK,
        "frames": draw(place, int(rng.integers(0, 12)), seed),
        "quality_label": "successful" if done[-1] else "failure",
        "data_source": "made-up",
        "success": done,
        "distance": (1.0 - place).astype(np.float32),
        "skill": kind,
        "seed": seed,
    }
    return Trajectory(**{**given_fields, **fields})


def draw(place: np.ndarray, top: int, mark: int) -> np.ndarray:
    """(T, SIZE, SIZE, 3): a block of eight pixels at a place between the left edge, 0, and the right one, 1.

    The mark, in the last pixel, makes episodes differ whose blocks are at the same places.
    """
    frames = np.full((len(place), SIZE, SIZE, 3), 60, np.uint8)
    frames[:, -1, 0, 1:] = (mark % 256, mark // 256)
    frames[:, :, -4:, 0] = 200
    for frame, where in zip(frames, place, strict=True):
        left = int(where * (SIZE - 8))
        frame[top : top + 12, left : left + 8] = (240, 240, 40)
    return frames


def recordings(each: int = 12) -> list[Trajectory]:
    """As many of each kind, every one from a seed of its own."""
    kinds = ("expert", "half", "random")
    return [recording(kind, 100 * number + index) for number, kind in enumerate(kinds) for index in range(each)]


def store_of(path: Path, trajectories: Sequence[Trajectory]) -> Path:
    store = TrajectoryStore(path)
    for trajectory in trajectories:
        store.append(trajectory)
    return path
