"""How pictures hang, how episodes ended and what they were for: found out once, for import and relabelling."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.formats.dataset import DatasetOptions
from robometer_rl.formats.hdf5.detection import open_dataset
from robometer_rl.formats.hdf5.reader import (
    LiberoHDF5Config,
    RobomimicHDF5Config,
    read_libero_hdf5,
    read_robomimic_hdf5,
)
from robometer_rl.relabeling.batches import open_episode
from robometer_rl.relabeling.commands import relabel
from robometer_rl.relabeling.engine import Labeller
from tests.fixed_models import PixelModel
from tests.library import ROOT

LIBERO = next((ROOT / "tests/fixtures/libero_hdf5").glob("*.hdf5"))
ROBOMIMIC = ROOT / "tests/fixtures/robomimic_hdf5/lift.hdf5"
STEPS = 6
PICTURES = np.random.default_rng(0).integers(0, 255, (STEPS, 32, 32, 3), np.uint8)


def write(path: Path, demonstrations: int = 2, env: dict[str, Any] | None = None, **arrays: Any) -> Path:
    """A file without attributes, or with those of robosuite's environments."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        if env is not None:
            data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": env})
        for number in range(demonstrations):
            demo = data.create_group(f"demo_{number}")
            for name, values in ({"actions": np.zeros((STEPS, 7))} | arrays).items():
                demo[name.replace("__", "/")] = values
    return path


def shown(path: Path, camera: str, **options: Any) -> np.ndarray:
    dataset = open_dataset(DatasetOptions(path, (camera,), ("push",), **options))
    return np.asarray(dataset.episode(dataset.keys[0]).cameras[camera][0:STEPS])


def paid(last: float = 1.0) -> np.ndarray:
    return np.append(np.zeros(STEPS - 1), last)


# --- orientation ---


@pytest.mark.parametrize("orientation", [None, "as_stored", "flip", "rotate"])
@pytest.mark.parametrize(
    ("camera", "env", "upright"),
    [
        ("agentview_rgb", None, np.s_[:, ::-1]),  # what OpenVLA makes of LIBERO's files
        ("eye_in_hand_rgb", {"reward_shaping": False}, np.s_[:, ::-1]),
        ("agentview_image", {"reward_shaping": False}, np.s_[:]),  # robomimic
        ("front", None, np.s_[:]),  # nobody knows
    ],
)
def test_import_and_relabelling_show_the_same_pictures(tmp_path, camera, env, upright, orientation):
    path = write(tmp_path / "push_the_plate_demo.hdf5", 1, env, rewards=paid(), **{f"obs__{camera}": PICTURES})
    options: dict[str, Any] = {"camera": (camera,), "orientation": orientation, "task": "push", "quality": "successful"}
    (as_libero,) = read_libero_hdf5(LiberoHDF5Config(path, **options))
    (as_robomimic,) = read_robomimic_hdf5(RobomimicHDF5Config(path, **options))
    views = {"as_stored": np.s_[:], "flip": np.s_[:, ::-1], "rotate": np.s_[:, ::-1, ::-1], None: upright}
    expected = PICTURES[views[orientation]]
    np.testing.assert_array_equal(as_libero.frames[:], expected)
    np.testing.assert_array_equal(as_robomimic.frames[:], expected)
    np.testing.assert_array_equal(shown(path, camera, orientation=orientation), expected)


@pytest.mark.parametrize(("convention", "upright"), [("opencv", np.s_[:]), ("opengl", np.s_[:, ::-1])])
@pytest.mark.parametrize("camera", ["agentview_rgb", "front"])
def test_what_the_file_says_of_its_pictures_comes_before_who_wrote_it(tmp_path, convention, upright, camera):
    path = write(tmp_path / "a.hdf5", 1, None, rewards=paid(), **{f"obs__{camera}": PICTURES})
    with h5py.File(path, "a") as file:
        file["data"].attrs["macros_image_convention"] = convention
    (imported,) = read_libero_hdf5(LiberoHDF5Config(path, camera=(camera,), task="push", quality="successful"))
    np.testing.assert_array_equal(imported.frames[:], PICTURES[upright])
    np.testing.assert_array_equal(shown(path, camera), PICTURES[upright])


def test_what_is_assumed_is_said_once_and_not_of_what_is_stated(tmp_path, caplog):
    path = write(tmp_path / "open_it_demo.hdf5", 3, obs__agentview_rgb=PICTURES)
    with caplog.at_level(logging.INFO, "robometer_rl"):
        list(read_libero_hdf5(LiberoHDF5Config(path)))
    assert len(caplog.messages) == 3
    assert "rows in the other order (upside down, as LIBERO stores them); --orientation" in caplog.messages[0]
    assert "names of the files; --task" in caplog.messages[1]
    assert "successful demonstrations; --quality" in caplog.messages[2]
    caplog.clear()
    with caplog.at_level(logging.INFO, "robometer_rl"):
        list(read_libero_hdf5(LiberoHDF5Config(path, task="open", orientation="flip", quality="successful")))
        open_dataset(DatasetOptions(path, ("agentview_rgb",), ("open",), "flip"))
    assert caplog.messages == []
    with caplog.at_level(logging.INFO, "robometer_rl"):
        open_dataset(DatasetOptions(path, ("agentview_rgb",), ("open",)))
    assert len(caplog.messages) == 1


# --- outcome ---

SPARSE = {"reward_shaping": False, "control_freq": 20}


def read(path: Path, **options: Any) -> list[Trajectory | Unreadable]:
    return list(read_robomimic_hdf5(RobomimicHDF5Config(path, task="lift", camera=("front",), **options)))


def test_a_file_in_which_nobody_was_paid_does_not_say_how_it_ended(tmp_path):
    path = write(tmp_path / "a.hdf5", 3, SPARSE, obs__front=PICTURES, rewards=np.zeros(STEPS))
    for entry in read(path):
        assert isinstance(entry, Unreadable)
        assert "'quality'" in entry.reason
    for quality in ("successful", "failure", "suboptimal"):
        assert {(each.quality_label, each.success) for each in read(path, quality=quality)} == {(quality, None)}
    dataset = open_dataset(DatasetOptions(path, (), ("lift",)))
    assert {dataset.episode(key).success for key in dataset.keys} == {None}
    with h5py.File(path, "a") as file:
        rewards: Any = file["data/demo_2/rewards"]
        rewards[-1] = 1.0
    assert [each.quality_label for each in read(path)] == ["failure", "failure", "successful"]
    dataset = open_dataset(DatasetOptions(path, (), ("lift",)))
    assert [dataset.episode(key).success for key in dataset.keys] == [False, False, True]


@pytest.mark.parametrize("reader", ["libero", "robomimic"])
def test_a_stated_quality_wins_and_notes_that_contradict_it_are_left_out(tmp_path, reader):
    path = write(tmp_path / "a_demo.hdf5", 1, SPARSE, rewards=paid(), obs__agentview_rgb=PICTURES)

    def read_one(quality: Any) -> Any:
        options = {"task": "lift", "camera": ("agentview_rgb",), "quality": quality}
        if reader == "libero":
            return next(read_libero_hdf5(LiberoHDF5Config(path, **options)))
        return next(read_robomimic_hdf5(RobomimicHDF5Config(path, **options)))

    assert (read_one(None).quality_label, read_one(None).success.tolist()) == ("successful", [False] * 5 + [True])
    assert (read_one("failure").quality_label, read_one("failure").success) == ("failure", None)
    assert read_one("successful").success.any()
    with h5py.File(path, "a") as file:
        rewards: Any = file["data/demo_0/rewards"]
        rewards[:] = 0
    assert (read_one("successful").quality_label, read_one("successful").success) == ("successful", None)


@pytest.mark.parametrize("source", [LIBERO, ROBOMIMIC], ids=["libero", "robomimic"])
def test_of_a_labelled_copy_the_recorded_outcome_is_imported(tmp_path, source):
    path = Path(shutil.copy(source, tmp_path / source.name))
    camera = "agentview_rgb" if source is LIBERO else "agentview_image"
    dataset = open_dataset(DatasetOptions(path, (camera,), ("lift",)))
    relabel(dataset, Labeller(PixelModel()), dataset.writer("copy", tmp_path / "labelled.hdf5"))

    def outcomes(where: Path) -> list[Any]:
        options: dict[str, Any] = {"task": "lift", "camera": (camera,)}
        reading = (
            read_libero_hdf5(LiberoHDF5Config(where, **options))
            if source is LIBERO
            else read_robomimic_hdf5(RobomimicHDF5Config(where, **options))
        )
        return [(each.quality_label, each.success.tolist()) for each in reading]

    assert outcomes(tmp_path / "labelled.hdf5") == outcomes(path)


# --- instruction ---


def test_import_and_relabelling_read_the_same_instruction(tmp_path):
    path = write(tmp_path / "open_the_drawer_demo.hdf5", 1, rewards=paid(), obs__agentview_rgb=PICTURES)
    for lang, task in ((None, "open the drawer"), ("pull the handle", "pull the handle")):
        with h5py.File(path, "a") as file:
            if lang is not None:
                file["data/demo_0"].attrs["ep_meta"] = json.dumps({"lang": lang})
        (imported,) = read_libero_hdf5(LiberoHDF5Config(path))
        dataset = open_dataset(DatasetOptions(path))
        assert (imported.task, dataset.episode(dataset.keys[0]).tasks) == (task, (task,))
        (stated,) = read_libero_hdf5(LiberoHDF5Config(path, task="close it"))
        assert stated.task == "close it"


# --- what is no picture in colour ---


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((STEPS, 16, 16), np.uint8), "grey frames"),
        (np.zeros((STEPS, 16, 16, 1), np.uint8), "grey frames"),
        (np.zeros((STEPS, 16, 16, 12), np.uint8), "on top of each other"),
        (np.zeros((STEPS, 12, 16, 16), np.uint8), "on top of each other"),
        (np.zeros((STEPS, 4, 16, 16, 3), np.uint8), "on top of each other"),
        (np.zeros((STEPS, 16, 16, 3), np.uint16), "depth"),
        (np.zeros((STEPS, 16, 16, 3), np.int16), "depth"),
    ],
    ids=["grey", "grey channel", "stack", "stack first", "colour stack", "depth", "signed depth"],
)
def test_what_is_no_rgb_is_refused_by_shape_and_type(tmp_path, values, message):
    path = write(tmp_path / "a.hdf5", 1, SPARSE, rewards=paid(), obs__front=values, obs__wrist=PICTURES)
    (imported,) = read(path)
    assert isinstance(imported, Unreadable)
    assert message in imported.reason
    with pytest.raises(SourceError, match=message):
        open_dataset(DatasetOptions(path, ("front",), ("lift",)))
    assert open_dataset(DatasetOptions(path, (), ("lift",))).cameras == ("wrist",)


def test_channels_may_come_first(tmp_path):
    path = write(tmp_path / "a.hdf5", 1, SPARSE, rewards=paid(), obs__front=PICTURES.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(read(path)[0].frames[:], PICTURES)
    np.testing.assert_array_equal(shown(path, "front"), PICTURES)


# --- damage ---


def test_a_shape_that_was_never_written_is_found_before_memory_is_taken(tmp_path):
    path = write(tmp_path / "a.hdf5", 3, SPARSE, obs__front=PICTURES, rewards=paid())
    with h5py.File(path, "a") as file:
        del file["data/demo_0/obs/front"], file["data/demo_1/rewards"]
        file["data/demo_0"].create_dataset("obs/front", (1 << 40, 64, 64, 3), np.uint8, chunks=(1, 64, 64, 3))
        file["data/demo_1"].create_dataset("rewards", (1 << 45,), np.float64, chunks=(1024,))
    first, second, third = read(path)
    assert "claims to unpack" in first.reason
    assert "claims to unpack" in second.reason
    assert isinstance(third, Trajectory)


def test_one_damaged_demonstration_is_listed_and_the_others_are_read(tmp_path):
    path = write(tmp_path / "a.hdf5", 3, SPARSE, obs__front=PICTURES, rewards=paid())
    with h5py.File(path, "a") as file:
        del file["data/demo_0"]
        file["data/demo_0"] = np.zeros(3)  # no group
        del file["data/demo_1/rewards"]
        file["data/demo_1/rewards"] = np.array([b"a", b"b"])
    first, second, third = read(path)
    assert isinstance(first, Unreadable)
    assert isinstance(second, Unreadable)
    assert isinstance(third, Trajectory)
    assert first.name.endswith("#data/demo_0")
    dataset = open_dataset(DatasetOptions(path, (), ("lift",)))
    assert dataset.cameras == ("front",)
    opened = [open_episode(dataset, key) for key in dataset.keys]
    assert [isinstance(each, Unreadable) for each in opened] == [True, True, False]


# --- Isaac Lab, and others who note outcome and instruction with each demonstration ---


def isaac_lab(path: Path, said: list[Any]) -> Path:
    """As Isaac Lab's HDF5DatasetFileHandler writes episodes: no rewards, and ``success`` in the attributes."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = STEPS * len(said)
        data.attrs["env_args"] = json.dumps({"env_name": "Isaac-Stack-Cube-Franka-IK-Rel-v0", "type": 2})
        for number, success in enumerate(said):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = STEPS
            demo.attrs["seed"] = number
            if success is not None:
                demo.attrs["success"] = success
            demo.create_dataset("actions", data=np.zeros((STEPS, 7), np.float32), compression="gzip")
            demo.create_dataset(
                "initial_state/rigid_object/cube_1/root_pose", data=np.zeros((1, 7)), compression="gzip"
            )
            for camera in ("table_cam", "wrist_cam"):
                demo.create_dataset(f"obs/{camera}", data=PICTURES, compression="gzip")
    return path


def test_the_outcome_that_isaac_lab_notes_is_read(tmp_path):
    path = isaac_lab(tmp_path / "a.hdf5", [True, False, None])
    options: dict[str, Any] = {"task": "stack the cubes", "camera": ("table_cam",)}
    found = list(read_robomimic_hdf5(RobomimicHDF5Config(path, **options)))
    assert [(each.quality_label, each.success) for each in found[:2]] == [("successful", None), ("failure", None)]
    assert "'quality'" in found[2].reason
    np.testing.assert_array_equal(found[0].frames[:], PICTURES)
    assert found[0].metadata["env_name"] == "Isaac-Stack-Cube-Franka-IK-Rel-v0"
    stated = read_robomimic_hdf5(RobomimicHDF5Config(path, quality="suboptimal", **options))
    assert {each.quality_label for each in stated} == {"suboptimal"}
    dataset = open_dataset(DatasetOptions(path, ("table_cam",), ("stack",)))
    assert [dataset.episode(key).success for key in dataset.keys] == [True, False, None]


def test_an_outcome_that_is_none_is_refused(tmp_path):
    path = isaac_lab(tmp_path / "a.hdf5", ["yes"])
    (bad,) = read_robomimic_hdf5(RobomimicHDF5Config(path, task="stack", camera=("table_cam",)))
    assert isinstance(bad, Unreadable)
    assert "the attribute 'success' is 'yes'; expected true or false" in bad.reason
    (stated,) = read_robomimic_hdf5(RobomimicHDF5Config(path, "stack", ("table_cam",), quality="failure"))
    assert isinstance(stated, Trajectory)
    assert stated.quality_label == "failure"


@pytest.mark.parametrize("where", ["data", "data/demo_0"])
@pytest.mark.parametrize("name", ["task_description", "language_instruction"])
def test_an_instruction_that_is_an_attribute_is_read(tmp_path, name, where):
    path = isaac_lab(tmp_path / "a.hdf5", [True])
    with h5py.File(path, "a") as file:
        file[where].attrs[name] = "stack the red cube on the blue one"
    (found,) = read_robomimic_hdf5(RobomimicHDF5Config(path, camera=("table_cam",)))
    assert found.task == "stack the red cube on the blue one"
    (stated,) = read_robomimic_hdf5(RobomimicHDF5Config(path, task="pile them", camera=("table_cam",)))
    assert stated.task == "pile them"


def test_a_failure_that_a_libero_file_notes_is_no_demonstration(tmp_path, caplog):
    path = write(tmp_path / "open_it_demo.hdf5", 1, obs__agentview_rgb=PICTURES)
    with h5py.File(path, "a") as file:
        file["data/demo_0"].attrs["success"] = False
    with caplog.at_level(logging.INFO, "robometer_rl"):
        (found,) = read_libero_hdf5(LiberoHDF5Config(path))
    assert (found.quality_label, found.skill) == ("failure", None)
    assert not any("--quality" in message for message in caplog.messages)


def test_what_openvla_makes_of_libero_is_read_without_any_attribute(tmp_path):
    """Its script drops pauses and failures, renders at 256 pixels, and writes arrays into groups, nothing else."""
    path = tmp_path / "pick_up_the_bowl_demo.hdf5"
    with h5py.File(path, "w") as file:
        demo = file.create_group("data").create_group("demo_0")
        observations = demo.create_group("obs")
        for name, width in (("gripper_states", 2), ("joint_states", 7), ("ee_states", 6)):
            observations.create_dataset(name, data=np.zeros((STEPS, width)))
        for camera in ("agentview_rgb", "eye_in_hand_rgb"):
            observations.create_dataset(camera, data=PICTURES)
        for name in ("actions", "states", "robot_states"):
            demo.create_dataset(name, data=np.zeros((STEPS, 7)))
        for name in ("rewards", "dones"):
            demo.create_dataset(name, data=paid().astype(np.uint8))
    found = list(read_libero_hdf5(LiberoHDF5Config(path, camera=("agentview_rgb", "eye_in_hand_rgb"))))
    assert [each.metadata["camera"] for each in found] == ["agentview_rgb", "eye_in_hand_rgb"]
    assert {(each.task, each.quality_label, each.skill) for each in found} == {
        ("pick up the bowl", "successful", "expert")
    }
    np.testing.assert_array_equal(found[0].frames[:], PICTURES[:, ::-1])
    assert found[0].success.tolist() == [False] * 5 + [True]
