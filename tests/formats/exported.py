"""A store that is exported in tests: frames say which they are, and nothing is as it is by default."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robometer_rl.data.store import TrajectoryStore
from tests.data.runs import trajectory
from tests.formats import counters

LENGTHS = {"a": 8, "b": 6, "c": 5}


def make_store(path: Path) -> TrajectoryStore:
    """A success whose frames are judged, a failure kept for tests, and a success of which only the outcome is known."""
    store = TrajectoryStore(path)
    for number, (name, length) in enumerate(LENGTHS.items()):
        store.append(
            trajectory(
                name,
                length,
                frames=np.stack([counters.draw(number, step, "top") for step in range(length)]),
                task="close the drawer" if name == "c" else "open the drawer",
                quality_label="failure" if name == "b" else "successful",
                success=None if name == "c" else (np.arange(length) > 5) & (name == "a"),
                split="test" if name == "b" else "train",
                state=np.random.default_rng(number).random((length, 3)).astype(np.float32),
                metadata={"control_hz": 20, "frame_interval": 4},
            )
        )
    return store
