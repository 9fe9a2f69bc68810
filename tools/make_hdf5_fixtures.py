"""Makes the HDF5 fixtures with the simulators whose data sets have these formats, and pictures of their cameras.

    MUJOCO_GL=egl python tools/make_hdf5_fixtures.py

``tests/fixtures/libero_hdf5/`` is what LIBERO's own ``scripts/create_dataset.py`` writes, with LIBERO's environment and
the settings of its data sets. ``tests/fixtures/robomimic_hdf5/`` is what robomimic's documentation describes as a data
set with image observations, with the robosuite environment that robomimic records: one episode lifts the cube, the
other lets go of it. What is different in both: pictures are 64 pixels wide, a few motions stand for a demonstration,
data sets are compressed, and the XML of the scene is left out. robomimic itself is not needed; the
script ``get_dataset_info.py`` of its release 0.3.0 accepts the file.

``docs/images/sources/`` gets what the readers make of such files at 128 pixels, one picture per orientation.

Needs the extras ``libero`` and ``hdf5``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import robosuite
from libero.libero import get_libero_path
from libero.libero.envs import TASK_MAPPING, bddl_utils
from PIL import Image
from robosuite import macros
from robosuite.utils import transform_utils

from robometer_rl.data.reading import Reading
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.formats.hdf5.demonstrations import HDF5Frames
from robometer_rl.formats.hdf5.reader import (
    LiberoHDF5Config,
    RobomimicHDF5Config,
    read_libero_hdf5,
    read_robomimic_hdf5,
)
from robometer_rl.video.lazy import Orientation

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
PICTURES = ROOT / "docs" / "images" / "sources"

LIBERO_TASK = "libero_90/KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet"
LIBERO_SKIPPED = 5  # LIBERO leaves out the first frames, in which its force sensor is not stable


def write(group: h5py.Group, name: str, values: Any) -> None:
    """Writes one data set."""
    group.create_dataset(name, data=np.asarray(values), compression="gzip")


def make_libero(path: Path, size: int) -> None:
    """A file of two demonstrations, in the steps of LIBERO's script."""
    bddl = Path(get_libero_path("bddl_files")) / f"{LIBERO_TASK}.bddl"
    problem = bddl_utils.get_problem_info(str(bddl))
    arguments = {
        "robots": ["Panda"],
        "controller_configs": robosuite.load_controller_config(default_controller="OSC_POSE"),
        "bddl_file_name": str(bddl),
        "has_renderer": False,
        "has_offscreen_renderer": True,
        "ignore_done": True,
        "use_camera_obs": True,
        "camera_depths": False,
        "camera_names": ["robot0_eye_in_hand", "agentview"],
        "reward_shaping": True,
        "control_freq": 20,
        "camera_heights": size,
        "camera_widths": size,
        "camera_segmentations": None,
    }
    np.random.seed(0)  # noqa: NPY002 (what the simulator draws from)
    env = TASK_MAPPING[problem["problem_name"]](**arguments)
    portable = arguments | {"bddl_file_name": f"{LIBERO_TASK}.bddl"}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_name"] = problem["problem_name"]
        data.attrs["problem_info"] = json.dumps(problem)
        data.attrs["macros_image_convention"] = macros.IMAGE_CONVENTION
        data.attrs["bddl_file_name"] = f"{LIBERO_TASK}.bddl"
        data.attrs["bddl_file_content"] = bddl.read_text()
        description = {"type": 1, "env_name": problem["problem_name"], "problem_name": problem["problem_name"]}
        data.attrs["env_args"] = json.dumps(description | {"bddl_file": f"{LIBERO_TASK}.bddl", "env_kwargs": portable})
        lengths = [write_libero_demonstration(data.create_group(f"demo_{number}"), env, number) for number in range(2)]
        data.attrs["num_demos"] = len(lengths)
        data.attrs["total"] = sum(lengths)
    env.close()


def write_libero_demonstration(group: h5py.Group, env: Any, number: int) -> int:
    """A few motions of the arm; returns how many were kept."""
    observation = env.reset()
    env.sim.forward()
    states, actions, observations = [], [], []
    for step in range(LIBERO_SKIPPED + 6 + number):
        action = np.array([1.0, 0.3 - 0.6 * number, -0.5, 0.0, 0.0, 0.0, -1.0])
        state = env.sim.get_state().flatten()
        observation, *_ = env.step(action)
        if step >= LIBERO_SKIPPED:
            states.append(state)
            actions.append(action)
            observations.append(observation)
    last = np.zeros(len(actions), np.uint8)
    last[-1] = 1
    obs = group.create_group("obs")
    write(obs, "gripper_states", [o["robot0_gripper_qpos"] for o in observations])
    write(obs, "joint_states", [o["robot0_joint_pos"] for o in observations])
    poses = [
        np.hstack((o["robot0_eef_pos"], transform_utils.quat2axisangle(o["robot0_eef_quat"]))) for o in observations
    ]
    write(obs, "ee_states", poses)
    write(obs, "ee_pos", np.array(poses)[:, :3])
    write(obs, "ee_ori", np.array(poses)[:, 3:])
    write(obs, "agentview_rgb", [o["agentview_image"] for o in observations])
    write(obs, "eye_in_hand_rgb", [o["robot0_eye_in_hand_image"] for o in observations])
    write(group, "actions", actions)
    write(group, "states", states)
    write(group, "robot_states", [env.get_robot_state_vector(o) for o in observations])
    write(group, "rewards", last)
    write(group, "dones", last)
    group.attrs["num_samples"] = len(actions)
    group.attrs["init_state"] = states[0]
    return len(actions)


def make_robomimic(path: Path, size: int) -> None:
    """A data set of two episodes with a split."""
    arguments = {
        "robots": ["Panda"],
        "controller_configs": robosuite.load_controller_config(default_controller="OSC_POSE"),
        "has_renderer": False,
        "has_offscreen_renderer": True,
        "ignore_done": True,
        "use_object_obs": True,
        "use_camera_obs": True,
        "control_freq": 20,
        "reward_shaping": False,
        "camera_names": ["agentview", "robot0_eye_in_hand"],
        "camera_heights": size,
        "camera_widths": size,
        "camera_depths": False,
    }
    np.random.seed(0)  # noqa: NPY002
    env = robosuite.make("Lift", **arguments)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        lengths = [
            write_robomimic_episode(data.create_group(f"demo_{number}"), env, lifts=number == 0) for number in range(2)
        ]
        data.attrs["total"] = sum(lengths)
        version = {"env_name": "Lift", "env_version": robosuite.__version__, "type": 1}
        data.attrs["env_args"] = json.dumps(version | {"env_kwargs": arguments}, indent=4)
        mask = file.create_group("mask")
        mask.create_dataset("train", data=np.array([b"demo_0"]))
        mask.create_dataset("valid", data=np.array([b"demo_1"]))
    env.close()


def write_robomimic_episode(group: h5py.Group, env: Any, lifts: bool) -> int:
    """The end of an episode that lifts the cube, or that lets go of it; returns its number of actions."""
    observation = env.reset()
    for grip in (-1.0, 1.0):  # reach for the cube, then close the fingers; the episode starts from there
        for _ in range(40 if grip < 0 else 8):
            toward = 8 * (observation["cube_pos"] - observation["robot0_eef_pos"])
            observation, *_ = env.step(np.array([*np.clip(toward, -1, 1), 0, 0, 0, grip]))
    seen, states, actions, rewards, dones = [observation], [], [], [], []
    for _ in range(10):
        states.append(env.sim.get_state().flatten())
        actions.append(np.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0] if lifts else [0.5, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]))
        observation, reward, _, _ = env.step(actions[-1])
        seen.append(observation)
        rewards.append(reward)
        dones.append(int(env._check_success()))
    for name, steps in (("obs", seen[:-1]), ("next_obs", seen[1:])):
        obs = group.create_group(name)
        for camera in ("agentview_image", "robot0_eye_in_hand_image"):
            write(obs, camera, [o[camera][::-1] for o in steps])
        write(obs, "robot0_eef_pos", [o["robot0_eef_pos"] for o in steps])
        write(obs, "object", [o["object-state"] for o in steps])
    write(group, "states", states)
    write(group, "actions", actions)
    write(group, "rewards", rewards)
    write(group, "dones", dones)
    group.attrs["num_samples"] = len(actions)
    return len(actions)


def draw(name: str, orientations: Mapping[Orientation, HDF5Frames]) -> None:
    """The last frame under each orientation, in a row with a white line between."""
    pictures = [frames[len(frames) - 1] for frames in orientations.values()]
    line = np.full((pictures[0].shape[0], 4, 3), 255, np.uint8)
    row = [part for picture in pictures for part in (picture, line)][:-1]
    PICTURES.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(row, axis=1)).save(PICTURES / f"{name}.png", optimize=True)


def frames_of(reading: Reading) -> HDF5Frames:
    """The frames of the first episode."""
    trajectory = next(reading)
    assert isinstance(trajectory, Trajectory), trajectory
    assert isinstance(trajectory.frames, HDF5Frames)
    return trajectory.frames


def main() -> None:
    """Makes the fixtures, and larger files for the pictures."""
    orientations: tuple[Orientation, ...] = ("as_stored", "flip", "rotate")
    libero = Path("libero_hdf5") / f"{Path(LIBERO_TASK).name}_demo.hdf5"
    robomimic = Path("robomimic_hdf5") / "lift.hdf5"
    with TemporaryDirectory() as scratch:
        for folder, size in ((FIXTURES, 64), (Path(scratch), 128)):
            for file, make in ((libero, make_libero), (robomimic, make_robomimic)):
                (folder / file).parent.mkdir(exist_ok=True)
                make(folder / file, size)
        drawn = Path(scratch) / libero
        draw(
            "libero_hdf5",
            {each: frames_of(read_libero_hdf5(LiberoHDF5Config(drawn, orientation=each))) for each in orientations},
        )
        drawn = Path(scratch) / robomimic
        draw(
            "robomimic_hdf5", {"as_stored": frames_of(read_robomimic_hdf5(RobomimicHDF5Config(drawn, task="lift it")))}
        )


if __name__ == "__main__":
    main()
