from __future__ import annotations

import json
import multiprocessing
import operator
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robometer_rl.data.labels import group_key
from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.formats.hdf5.demonstrations import HDF5Frames, Images, instruction_from_name
from robometer_rl.formats.hdf5.reader import (
    LiberoHDF5Config,
    RobomimicHDF5Config,
    read_libero_hdf5,
    read_robomimic_hdf5,
)
from robometer_rl.frames import Clip
from robometer_rl.tiles import tile
from robometer_rl.video import VideoError

FIXTURES = Path(__file__).parents[2] / "fixtures"
LIBERO_TASK = "KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet"
LIBERO = FIXTURES / "libero_hdf5" / f"{LIBERO_TASK}_demo.hdf5"
ROBOMIMIC = FIXTURES / "robomimic_hdf5" / "lift.hdf5"


def stored(path: Path, dataset: str) -> np.ndarray:
    with h5py.File(path, "r") as file:
        return np.asarray(file[dataset])


def set_values(file: h5py.File, dataset: str, values: Any) -> None:
    found: Any = file[dataset]
    found[:] = values


def libero(path: Path = LIBERO, **options: Any) -> list[Trajectory]:
    trajectories = list(read_libero_hdf5(LiberoHDF5Config(path, **options)))
    assert all(isinstance(trajectory, Trajectory) for trajectory in trajectories), trajectories
    return trajectories  # pyright: ignore[reportReturnType]


def robomimic(path: Path = ROBOMIMIC, **options: Any) -> list[Trajectory]:
    arguments: dict[str, Any] = {"task": "lift the cube"} | options
    trajectories = list(read_robomimic_hdf5(RobomimicHDF5Config(path, **arguments)))
    assert all(isinstance(trajectory, Trajectory) for trajectory in trajectories), trajectories
    return trajectories  # pyright: ignore[reportReturnType]


@pytest.fixture
def changeable(tmp_path: Path) -> Iterator[Path]:
    """A folder with copies of the fixtures."""
    for source in (LIBERO, ROBOMIMIC):
        shutil.copy(source, tmp_path / source.name)
    return tmp_path  # pyright: ignore[reportReturnType]


# --- LIBERO ---


def test_libero_demonstrations_are_upright_successes_of_the_task_in_the_file() -> None:
    first, second = libero()
    pictures = stored(LIBERO, "data/demo_0/obs/agentview_rgb")
    np.testing.assert_array_equal(first.frames[:], pictures[:, ::-1])
    # The table fills the lower half of this kitchen, and the dark wall behind the robot is above it.
    assert first.frames[:][:, 40:].mean() > first.frames[:][:, :24].mean() + 50
    assert {each.task for each in (first, second)} == {"close the top drawer of the cabinet"}
    assert {each.quality_label for each in (first, second)} == {"successful"}
    assert first.success.tolist() == [False] * 5 + [True]
    assert (len(first), len(second)) == (6, 7)
    assert first.id == f"libero-{LIBERO_TASK}_demo-demo_0-agentview_rgb"
    assert first.source == f"{LIBERO.name}#data/demo_0"
    assert (first.data_source, first.skill, first.state, first.steps) == ("libero", "expert", None, None)
    assert first.metadata == {
        "environment": LIBERO_TASK,
        "camera": "agentview_rgb",
        "frame_interval": 1,
        "control_hz": 20,
    }


@pytest.mark.parametrize(
    ("orientation", "view"),
    [("as_stored", np.s_[:]), ("flip", np.s_[:, ::-1]), ("rotate", np.s_[:, ::-1, ::-1])],
)
def test_orientation_is_chosen_explicitly(orientation: str, view: Any) -> None:
    pictures = stored(LIBERO, "data/demo_1/obs/eye_in_hand_rgb")
    trajectory = libero(camera=("eye_in_hand_rgb",), orientation=orientation)[1]
    np.testing.assert_array_equal(trajectory.frames[:], pictures[view])
    np.testing.assert_array_equal(trajectory.frames[2:3], pictures[view][2:3])


def test_each_camera_has_a_trajectory_of_its_own_or_all_have_a_tiled_one() -> None:
    cameras = ("agentview_rgb", "eye_in_hand_rgb")
    several = libero(camera=cameras)
    assert [each.metadata["camera"] for each in several] == [*cameras] * 2
    assert len({each.id for each in several}) == 4
    pytest.importorskip("cv2")
    tiled, _ = libero(camera=cameras, tile=True)
    assert tiled.tiled
    assert not several[0].tiled
    assert tiled.metadata["camera"] == "agentview_rgb, eye_in_hand_rgb"
    assert tiled.frames.shape == (6, 96, 64, 3)
    views = [Clip(each.frames, each.task).read([3])[0] for each in several[:2]]
    np.testing.assert_array_equal(Clip(tiled.frames, tiled.task).read([3])[0], tile(views))
    with pytest.raises(SourceError, match="a tiled picture needs several cameras, got agentview_rgb"):
        libero(tile=True)


def test_files_that_say_they_are_upright_are_not_turned_over(changeable: Path) -> None:
    path = changeable / LIBERO.name
    with h5py.File(path, "a") as file:
        file["data"].attrs["macros_image_convention"] = "opencv"
    pictures = stored(path, "data/demo_0/obs/agentview_rgb")
    np.testing.assert_array_equal(libero(path)[0].frames[:], pictures)
    np.testing.assert_array_equal(libero(path, orientation="flip")[0].frames[:], pictures[:, ::-1])


@pytest.mark.parametrize(
    ("problem_info", "task"),
    [
        ({"language_instruction": ["open", " the ", "door"]}, "open the door"),
        ({"language_instruction": '"open the door"'}, "open the door"),
        ({}, "close the top drawer of the cabinet"),
    ],
)
def test_the_instruction_comes_from_the_file_or_its_name(changeable: Path, problem_info: dict, task: str) -> None:
    path = changeable / LIBERO.name
    with h5py.File(path, "a") as file:
        file["data"].attrs["problem_info"] = json.dumps(problem_info)
    assert libero(path)[0].task == task


def test_instructions_are_made_of_names_as_libero_makes_them() -> None:
    assert instruction_from_name("LIVING_ROOM_SCENE5_put_the_red_mug_on_the_left_plate") == (
        "put the red mug on the left plate"
    )
    assert instruction_from_name("pick_up_the_milk_and_place_it_in_the_basket") == (
        "pick up the milk and place it in the basket"
    )


def test_rollouts_in_the_same_structure_may_fail_or_say_nothing(changeable: Path) -> None:
    path = changeable / LIBERO.name
    with h5py.File(path, "a") as file:
        set_values(file, "data/demo_0/rewards", 0)
        del file["data/demo_1/rewards"]
    failure, silent = libero(path)
    assert (failure.quality_label, failure.success.any(), failure.skill) == ("failure", False, None)
    assert (silent.quality_label, silent.success, silent.skill) == ("successful", None, "expert")


# --- robomimic ---


def test_robomimic_episodes_end_with_the_state_after_the_last_action() -> None:
    lifts, drops = robomimic()
    before = stored(ROBOMIMIC, "data/demo_0/obs/agentview_image")
    after = stored(ROBOMIMIC, "data/demo_0/next_obs/agentview_image")
    np.testing.assert_array_equal(lifts.frames[:], np.concatenate([before, after[-1:]]))
    rewards = stored(ROBOMIMIC, "data/demo_0/rewards")
    assert rewards.any()
    np.testing.assert_array_equal(lifts.success, [False, *(rewards > 0)])
    assert (lifts.quality_label, drops.quality_label) == ("successful", "failure")
    assert not drops.success.any()
    assert lifts.steps.tolist() == list(range(len(before) + 1))
    assert (lifts.split, drops.split) == ("train", "valid")
    assert (lifts.task, lifts.skill, lifts.data_source) == ("lift the cube", None, "robomimic")
    assert lifts.metadata == {
        "camera": "agentview_image",
        "env_name": "Lift",
        "frame_interval": 1,
        "control_hz": 20,
    }
    # The robot's arm comes down from above, in front of a grey wall.
    assert lifts.frames[:][:, 40:].mean() > lifts.frames[:][:, :16].mean() + 50


def test_robomimic_without_next_obs_ends_with_the_last_observation(changeable: Path) -> None:
    path = changeable / ROBOMIMIC.name
    with h5py.File(path, "a") as file:
        del file["data/demo_0/next_obs"]
        set_values(file, "data/demo_0/rewards", [0] * 9 + [1])
    trajectory = robomimic(path)[0]
    assert (len(trajectory), trajectory.steps.tolist()) == (10, list(range(10)))
    assert trajectory.success.tolist() == [False] * 9 + [True]
    assert trajectory.quality_label == "successful"


def test_rewards_that_are_shaped_do_not_say_what_came_out(changeable: Path) -> None:
    path = changeable / ROBOMIMIC.name
    with h5py.File(path, "a") as file:
        description = json.loads(str(file["data"].attrs["env_args"]))
        description["env_kwargs"]["reward_shaping"] = True
        file["data"].attrs["env_args"] = json.dumps(description)
    (reading, _) = read_robomimic_hdf5(RobomimicHDF5Config(path, task="lift the cube"))
    assert isinstance(reading, Unreadable)
    assert "'quality'" in reading.reason
    trajectory = robomimic(path, quality="suboptimal", skill="expert")[0]
    assert (trajectory.quality_label, trajectory.success, trajectory.skill) == ("suboptimal", None, "expert")


def test_an_instruction_is_asked_for_unless_the_episode_has_one(changeable: Path) -> None:
    path = changeable / ROBOMIMIC.name
    with h5py.File(path, "a") as file:
        file["data/demo_1"].attrs["ep_meta"] = json.dumps({"lang": "pick up the red cube"})
    first, second = read_robomimic_hdf5(RobomimicHDF5Config(path))
    assert isinstance(first, Unreadable)
    assert "'task'" in first.reason
    assert isinstance(second, Trajectory)
    assert second.task == "pick up the red cube"


def test_episodes_of_one_environment_with_other_instructions_are_other_tasks(changeable: Path) -> None:
    path = changeable / ROBOMIMIC.name
    with h5py.File(path, "a") as file:
        for number, colour in enumerate(("red", "blue")):
            file[f"data/demo_{number}"].attrs["ep_meta"] = json.dumps({"lang": f"pick up the {colour} cube"})
    assert [group_key(each) for each in robomimic(path, task=None)] == ["pick up the red cube", "pick up the blue cube"]


# --- what both have in common ---


def test_frames_stay_in_the_file_and_travel_to_other_processes() -> None:
    frames = robomimic()[0].frames
    assert len(pickle.dumps(frames)) < 1000
    everything = frames[:]
    assert frames.shape == everything.shape
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(operator.getitem, (frames, np.s_[1:4])), everything[1:4])


@pytest.mark.parametrize(
    "index", [0, -1, 10, np.s_[8:], np.s_[9:11], np.s_[::4], np.s_[::-3], np.s_[3:3], [10, 0, 0, 9]]
)
def test_any_selection_reads_the_frames_it_names(index: Any) -> None:
    frames = robomimic()[0].frames
    np.testing.assert_array_equal(frames[index], np.asarray(frames)[index])


def test_a_frame_that_does_not_exist_is_an_index_error() -> None:
    frames: Any = libero()[0].frames
    with pytest.raises(IndexError):
        frames[6]
    np.testing.assert_array_equal(Clip(frames, "push").read([5, 1]), frames[:][[5, 1]])


def test_many_parts_are_one_sequence() -> None:
    dataset = "data/demo_0/obs/agentview_image"
    frames = HDF5Frames(ROBOMIMIC, (Images(dataset, 2, 4), Images(dataset, 7, 10)), (64, 64, 3), "flip")
    np.testing.assert_array_equal(frames[1:4], stored(ROBOMIMIC, dataset)[[3, 7, 8]][:, ::-1])


def test_a_folder_is_read_in_alphabetical_order_and_demonstrations_by_number(changeable: Path, tmp_path: Path) -> None:
    nested = tmp_path / "libero_90"
    nested.mkdir()
    shutil.move(changeable / LIBERO.name, nested / LIBERO.name)
    shutil.copy(nested / LIBERO.name, tmp_path / "a task.h5")
    (tmp_path / ROBOMIMIC.name).unlink()
    with h5py.File(tmp_path / "a task.h5", "a") as file:
        file.move("data/demo_0", "data/demo_10")
    trajectories = libero(tmp_path)
    assert [trajectory.id for trajectory in trajectories] == [
        "libero-a=20task-demo_1-agentview_rgb",
        "libero-a=20task-demo_10-agentview_rgb",
        f"libero-libero_90+{LIBERO_TASK}_demo-demo_0-agentview_rgb",
        f"libero-libero_90+{LIBERO_TASK}_demo-demo_1-agentview_rgb",
    ]
    store = TrajectoryStore(tmp_path / "store")
    for trajectory in trajectories:
        store.append(trajectory)
    assert len(store) == 4


def test_a_bad_demonstration_is_unreadable_and_the_others_are_read(changeable: Path) -> None:
    path = changeable / LIBERO.name
    with h5py.File(path, "a") as file:
        for number in (2, 3, 4):
            file.copy("data/demo_0", f"data/demo_{number}")
        del file["data/demo_1/obs/agentview_rgb"]
        for number, shape in ((2, (6, 64, 64)), (3, (1, 64, 64, 3))):
            del file[f"data/demo_{number}/obs/agentview_rgb"]
            file[f"data/demo_{number}/obs/agentview_rgb"] = np.zeros(shape, np.uint8)
        del file["data/demo_3/rewards"]
        del file["data/demo_4/rewards"]
        file["data/demo_4/rewards"] = np.zeros(4)
    readings = list(read_libero_hdf5(LiberoHDF5Config(path)))
    assert isinstance(readings[0], Trajectory)
    reasons = {}
    for reading in readings[1:]:
        assert isinstance(reading, Unreadable)
        reasons[reading.name.removeprefix(f"{path}#data/")] = reading.reason
    assert "'obs/agentview_rgb'" in reasons["demo_1"]
    assert "obs/eye_in_hand_rgb" in reasons["demo_1"]
    assert "(6, 64, 64)" in reasons["demo_2"]
    assert "at least 2" in reasons["demo_3"]
    assert "success" in reasons["demo_4"]


def test_a_bad_file_is_unreadable_and_the_others_are_read(changeable: Path) -> None:
    (changeable / ROBOMIMIC.name).write_bytes(ROBOMIMIC.read_bytes()[:100_000])
    (changeable / "empty.hdf5").write_bytes(b"")
    with h5py.File(changeable / "other.hdf5", "w") as file:
        file["observations"] = np.zeros(3)
    readings = list(read_libero_hdf5(LiberoHDF5Config(changeable)))
    assert [type(reading) for reading in readings] == [Trajectory, Trajectory, Unreadable, Unreadable, Unreadable]
    bad = {Path(each.name).name: each.reason for each in readings if isinstance(each, Unreadable)}
    assert "HDF5" in bad["empty.hdf5"]
    assert "HDF5" in bad[ROBOMIMIC.name]
    assert bad["other.hdf5"].endswith("it has observations")


def test_damage_inside_a_file_does_not_end_the_reading(changeable: Path) -> None:
    path = changeable / ROBOMIMIC.name
    content = bytearray(path.read_bytes())
    content[2_000:40_000] = bytes(38_000)
    path.write_bytes(bytes(content))
    readings = list(read_robomimic_hdf5(RobomimicHDF5Config(changeable, task="lift the cube")))
    assert any(isinstance(reading, Unreadable) and ROBOMIMIC.name in reading.name for reading in readings)


def test_damaged_pictures_are_noticed_when_they_are_read(changeable: Path) -> None:
    path = changeable / LIBERO.name
    with h5py.File(path, "r") as file:
        pictures: Any = file["data/demo_0/obs/agentview_rgb"]
        chunk = pictures.id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(bytes(content))
    first, second = libero(path)
    with pytest.raises(VideoError, match="demo_0/obs/agentview_rgb"):
        first.frames[:]
    assert second.frames[:].any()
    path.unlink()
    with pytest.raises(VideoError, match="there is no file"):
        second.frames[:]


@pytest.mark.parametrize("name", ["missing.hdf5", "missing", "empty"])
def test_nothing_to_read_raises_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=name):
        read_libero_hdf5(LiberoHDF5Config(tmp_path / name))
