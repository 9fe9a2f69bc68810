"""Trajectories as ManiSkill's recorder lays them out, and what can be wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robometer_rl.cli import main
from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.formats.hdf5.maniskill import ManiSkillConfig, read_maniskill
from robometer_rl.formats.hdf5.reader import RobomimicHDF5Config, read_robomimic_hdf5
from robometer_rl.tiles import tile

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


def read(path: Path, **options: Any) -> list[Any]:
    """Trajectories and `Unreadable`, whose fields a test looks into: where it is the other one, the test fails."""
    return list(read_maniskill(ManiSkillConfig(path, **{"task": TASK, **options})))


@pytest.mark.parametrize("sensors", ["sensor_data", "image"])
def test_frames_outcomes_and_seeds_are_those_recorded(tmp_path: Path, sensors: str) -> None:
    path = record(tmp_path / "trajectory.rgb.pd_joint_pos.h5", sensors)
    found = read(path)
    for number, trajectory in enumerate(found):
        np.testing.assert_array_equal(trajectory.frames[:], pictures(number))
        assert trajectory.success.tolist() == [False] * STEPS[number] + [ENDS[number]]
        assert trajectory.steps.tolist() == list(range(STEPS[number] + 1))
        np.testing.assert_array_equal(trajectory.actions, actions(number))
        assert trajectory.proprioception.shape == (STEPS[number] + 1, 9)
        assert (trajectory.proprioception == number).all()
    assert [each.quality_label for each in found] == ["successful", "failure", "successful"]
    assert [each.seed for each in found] == [100, 101, 102]
    assert {(each.task, each.data_source, each.skill) for each in found} == {(TASK, "maniskill", None)}
    assert found[1].id == "maniskill-trajectory.rgb.pd_joint_pos-traj_1-base_camera"
    assert found[0].source == "trajectory.rgb.pd_joint_pos.h5#traj_0"
    assert found[0].metadata == {
        "camera": "base_camera",
        "frame_interval": 1,
        "env_id": "PickCube-v1",
        "control_mode": "pd_joint_pos",
        "source_type": "motionplanning",
    }


def test_each_camera_has_a_trajectory_or_all_have_a_tiled_one(tmp_path: Path) -> None:
    path = record(tmp_path / "two.h5", cameras=("base_camera", "hand_camera"))
    (listed,) = read(path)
    assert isinstance(listed, Unreadable)
    assert "no camera was named; expected one of base_camera, hand_camera" in listed.reason
    found = read(path, camera=("hand_camera", "base_camera"))
    assert [each.metadata["camera"] for each in found[:2]] == ["hand_camera", "base_camera"]
    assert len({each.id for each in found}) == 6
    pytest.importorskip("cv2")
    tiled, *_ = read(path, camera=("base_camera", "hand_camera"), tile=True)
    assert tiled.tiled
    np.testing.assert_array_equal(tiled.frames[2:3][0], tile([pictures(0)[2], pictures(0, "hand_camera")[2]]))


def test_what_the_user_states_wins(tmp_path: Path) -> None:
    path = record(tmp_path / "a.h5")
    stated = read(path, quality="suboptimal", orientation="flip", skill="expert")
    assert {(each.quality_label, each.skill) for each in stated} == {("suboptimal", "expert")}
    np.testing.assert_array_equal(stated[0].frames[:], pictures(0)[:, ::-1])


def test_without_success_of_steps_the_word_of_the_list_counts(tmp_path: Path) -> None:
    path = record(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        for name in ("traj_0", "traj_1", "traj_2"):
            del file[f"{name}/success"]
    assert [(each.quality_label, each.success) for each in read(path)] == [
        ("successful", None),
        ("failure", None),
        ("successful", None),
    ]
    path.with_suffix(".json").unlink()
    assert all("'quality'" in each.reason for each in read(path))
    assert [each.seed for each in read(path, quality="successful")] == [None] * 3


def test_a_seed_that_no_store_holds_is_left_out(tmp_path: Path) -> None:
    path = record(tmp_path / "a.h5")
    notes = path.with_suffix(".json")
    notes.write_text(notes.read_text().replace('"episode_seed": 100', f'"episode_seed": {2**70}'))
    assert [each.seed for each in read(path)] == [None, 101, 102]


def test_what_is_missing_is_said_with_what_is_there(tmp_path: Path) -> None:
    path = record(tmp_path / "a.h5")
    with pytest.raises(SourceError, match="ManiSkill records no instructions"):
        read(path, task=None)
    (wrong,) = read(path, camera=("left",))
    assert "no camera is called 'left'; expected one of base_camera" in wrong.reason
    (depth,) = read(path, camera=("base_camera/depth",))
    assert "'base_camera/depth' cannot be shown" in depth.reason
    with h5py.File(path, "a") as file:
        for number in range(3):
            del file[f"traj_{number}/obs"]
            file[f"traj_{number}/obs"] = np.zeros((STEPS[number] + 1, 42), np.float32)
    (states,) = read(path)
    assert "hold no pictures; make some with ManiSkill's own replay" in states.reason
    (other,) = read_robomimic_hdf5(RobomimicHDF5Config(path))
    assert isinstance(other, Unreadable)
    assert other.reason.endswith("it has traj_0, traj_1, traj_2, as the format maniskill does")


def test_damage_costs_one_episode(tmp_path: Path) -> None:
    path = record(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        del file["traj_1/success"]
        file["traj_1/success"] = np.zeros(2, bool)
        del file["traj_2/obs"]
    first, second, third = read(path)
    assert first.quality_label == "successful"
    assert "success of shape (2,); expected (6,)" in second.reason
    assert "it has no camera 'base_camera'; it has none" in third.reason
    path.with_suffix(".json").write_text("[]")
    (notes,) = read(path)
    assert "has no list of episodes" in notes.reason


def test_it_is_imported_by_its_name(tmp_path: Path) -> None:
    record(tmp_path / "a.h5")
    words = ["data", "import", "maniskill", str(tmp_path), str(tmp_path / "store"), "--task", TASK]
    assert main(words) == 0
    store = TrajectoryStore.open(tmp_path / "store")
    np.testing.assert_array_equal(store["maniskill-a-traj_1-base_camera"].frames[:], pictures(1))
