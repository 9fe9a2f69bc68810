"""Trajectories as ManiSkill's recorder lays them out, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

STEPS = (4, 6, 3)
ENDS = (True, False, True)
TASK = "pick up the cube"


def pictures(number: int, camera: str = "base_camera") -> np.ndarray:
    rng = np.random.default_rng((number, len(camera)))
    return rng.integers(0, 256, (STEPS[number] + 1, 32, 48, 3), dtype=np.uint8)


def actions(number: int) -> np.ndarray:
    return np.random.default_rng(number).random((STEPS[number], 8)).astype(np.float32)


def record(path: Path, sensors: str = "sensor_data", cameras: tuple[str, ...] = ("base_camera",)) -> Path:
    """Three trajectories, as `mani_skill.utils.wrappers.RecordEpisode` writes them with ``obs_mode="rgbd"``."""
    with h5py.File(path, "w") as file:
        for number, steps in enumerate(STEPS):
            group = file.create_group(f"traj_{number}", track_order=True)
            observations = group.create_group("obs", track_order=True)
            for camera in cameras:
                sensor = observations.create_group(f"{sensors}/{camera}", track_order=True)
                sensor.create_dataset("rgb", data=pictures(number, camera), compression="gzip", compression_opts=5)
                sensor.create_dataset("depth", data=np.zeros((steps + 1, 32, 48, 1), np.int16), compression="gzip")
            observations.create_dataset("agent/qpos", data=np.full((steps + 1, 9), number, np.float32))
            group.create_dataset("actions", data=actions(number))
            done = np.zeros(steps, bool)
            done[-1] = ENDS[number]
            for name, values in (("terminated", done), ("truncated", ~done), ("success", done)):
                group.create_dataset(name, data=values)
            group.create_dataset("env_states/actors/cube", data=np.zeros((steps + 1, 13), np.float32))
    episodes = [
        {
            "episode_id": number,
            "episode_seed": 100 + number,
            "reset_kwargs": {"seed": 100 + number, "options": {}},
            "control_mode": "pd_joint_pos",
            "elapsed_steps": steps,
            "success": end,
        }
        for number, (steps, end) in enumerate(zip(STEPS, ENDS, strict=True))
    ]
    notes = {
        "env_info": {"env_id": "PickCube-v1", "env_kwargs": {"obs_mode": "rgbd"}, "max_episode_steps": 50},
        "commit_info": None,
        "source_type": "motionplanning",
        "source_desc": "made by a planner",
        "episodes": episodes,
    }
    path.with_suffix(".json").write_text(json.dumps(notes))
    return path
