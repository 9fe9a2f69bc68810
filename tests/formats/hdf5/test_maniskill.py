"""Trajectories as ManiSkill's recorder lays them out, and what can be wrong with them."""

from __future__ import annotations

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
from tests.formats.hdf5.maniskill_files import ENDS, STEPS, TASK, actions, pictures, record


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
