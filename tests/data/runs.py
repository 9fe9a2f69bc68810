"""Trajectories with every field set, and how to compare two of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from robometer_rl.data.rows import PER_FRAME
from robometer_rl.data.trajectory import Trajectory

FIELDS = (
    "id",
    "task",
    "quality_label",
    "data_source",
    "is_robot",
    "partial_success",
    "instructions",
    "skill",
    "seed",
    "source",
)


def trajectory(name: str = "a", num_frames: int = 5, seed: int = 0, **fields: Any) -> Trajectory:
    frames = np.random.default_rng(seed).integers(0, 256, (num_frames, 6, 7, 3), dtype=np.uint8)
    given_fields = {
        "id": name,
        "task": "öffne die Schublade",
        "frames": frames,
        "quality_label": "suboptimal",
        "data_source": "somewhere",
        "is_robot": False,
        "partial_success": 0.1,
        "success": np.arange(num_frames) > 2,
        "progress": np.linspace(0.0, 0.9, num_frames),
        "distance": np.linspace(0.3, 0.1, num_frames),
        "steps": 3 * np.arange(num_frames),
        "proprioception": np.random.default_rng(seed).random((num_frames, 2)),
        "actions": np.random.default_rng(seed).random((num_frames - 1, 3)),
        "instructions": ("zieh sie auf",),
        "skill": "expert",
        "seed": 2**31,
        "split": "test",
        "source": "demo.hdf5#data/demo_3",
        "metadata": {"pace": 0.1, "stop_step": None},
    }
    return Trajectory(**{**given_fields, **fields})


def assert_same(found: Trajectory, expected: Trajectory) -> None:
    for name in (*FIELDS, "split", "metadata"):
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("frames", *PER_FRAME):
        one, other = getattr(found, name), getattr(expected, name)
        if other is None:
            assert one is None, name
        else:
            np.testing.assert_array_equal(one[:], other, err_msg=name)
