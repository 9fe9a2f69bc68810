"""Meta-World as a Gymnasium environment with pictures to trust and instructions in words.

The simulator's own environments render slowly, upside down and with a goal that is frozen or drawn from global state.
`make_env` gives the same task with: a fresh seeded goal at every reset, shadows and reflections off (three times the
frames per second), and ``render()`` returning one fixed camera the right way up.

Camera. ``corner2`` hangs upside down, so its picture is flipped top to bottom. A camera that was turned round would
show the mirror image of that; the flip is kept because it is what published Meta-World videos show (the simulator's
first renderer returned its rows bottom up). Instructions therefore never say left, right or clockwise.

This module imports the simulator only when an environment is made.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import gymnasium as gym
import numpy as np
import yaml
from numpy.typing import NDArray

from robometer_rl.envs.opengl import free_with, import_mujoco, with_opengl
from robometer_rl.frames import FrameError, as_frame

__all__ = [
    "CAMERA",
    "CONTROL_HZ",
    "STATE_NAMES",
    "TASKS",
    "BlankFrameError",
    "Instructions",
    "MetaWorldEnv",
    "make_env",
    "state_of",
]

CAMERA = "corner2"
CONTROL_HZ = 80

STATE_NAMES = (
    *(f"hand_{axis}" for axis in "xyz"),
    "gripper_opening",
    *(f"object_{name}" for name in ("x", "y", "z", "qx", "qy", "qz", "qw")),
    *(f"second_object_{name}" for name in ("x", "y", "z", "qx", "qy", "qz", "qw")),
    *(f"goal_{axis}" for axis in "xyz"),
)
"""What `state_of` returns; positions in metres, missing objects are zeros."""


class BlankFrameError(FrameError):
    """The renderer returned one colour: its context is lost, not a picture of the scene."""


@dataclass(frozen=True)
class Instructions:
    """How a person would ask for a task: the instruction, and other ways to say it."""

    task: str
    paraphrases: tuple[str, ...]


def _instructions() -> dict[str, Instructions]:
    text = (files("robometer_rl") / "assets" / "metaworld_instructions.yaml").read_text(encoding="utf-8")
    return {name: Instructions(task, tuple(others)) for name, (task, *others) in yaml.safe_load(text).items()}


TASKS: Mapping[str, Instructions] = _instructions()
"""Tasks whose goal can be seen and whose scripted expert was seen to succeed, by Meta-World name without ``-v3``."""


class MetaWorldEnv(gym.Env[NDArray[np.float64], NDArray[np.float32]]):
    """One Meta-World task; see the module.

    Observations are the simulator's 39 numbers with the goal visible; actions are hand velocity (3) and gripper
    effort (1) in [-1, 1]; the reward is the simulator's own dense one. ``info`` holds the simulator's entries,
    ``is_success`` (bool) and ``distance`` (float), the latter two after ``reset`` as well.

    ``distance`` is the simulator's own measure of how far the object is from its goal, in metres (the joint's or the
    straight-line distance, as the task defines success). The success of nearly every task is a threshold on it; a few
    ask for more, such as a stick that is still held.

    Attributes:
        task: Name in `TASKS`.
        instruction: What the task is called in words.
        paraphrases: Other ways to say it.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012 (Gymnasium's declaration)

    def __init__(self, task: str, size: int = 128, render_mode: str | None = "rgb_array") -> None:
        """Builds the simulator.

        Args:
            task: Name in `TASKS`, as in ``drawer-open``.
            size: Height and width of a frame in pixels.
            render_mode: ``rgb_array``, or None if no frame is ever asked for.

        Raises:
            ValueError: An unknown task, render mode or size.
            ImportError: Meta-World is not installed.
        """
        if task not in TASKS:
            raise ValueError(f"unknown Meta-World task {task!r}; expected one of {sorted(TASKS)}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode {render_mode!r}; expected 'rgb_array' or None")
        if size < 16:
            raise ValueError(f"frames of {size} pixels; expected at least 16")
        self.task = task
        self.instruction = TASKS[task].task
        self.paraphrases = TASKS[task].paraphrases
        self.render_mode = render_mode
        self._size = size
        self._simulator = _simulator(task, size)
        self._camera: _Camera | None = None  # made when the first frame is asked for
        self.action_space: gym.spaces.Box = self._simulator.action_space
        self.observation_space: gym.spaces.Box = self._simulator.sawyer_observation_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Starts an episode with a new goal; the same seed gives the same episode."""
        import mujoco

        super().reset(seed=seed)
        simulator = self._simulator
        if seed is not None:
            simulator.seed(seed)
        simulator.reset()
        # Some tasks move a joint at the end of their reset without recomputing the scene: a window would be seen (and
        # judged) closed in the first frame.
        mujoco.mj_forward(simulator.model, simulator.data)  # pyright: ignore[reportAttributeAccessIssue]
        simulator._prev_obs = simulator._get_curr_obs_combined_no_goal()
        observation = np.clip(simulator._get_obs(), self.observation_space.low, self.observation_space.high)
        _, info = simulator.evaluate_state(observation, np.zeros(4, np.float32))
        return observation, self._described(observation, info)

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Applies one action for 1/80 s; the simulator truncates after 500 steps and never terminates."""
        observation, reward, terminated, truncated, info = self._simulator.step(action)
        return observation, float(reward), terminated, truncated, self._described(observation, info)

    def render(self) -> NDArray[np.uint8]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The camera's picture, uint8 (size, size, 3), the right way up.

        Raises:
            BlankFrameError: The picture has one colour only.
            RuntimeError: The environment was made with ``render_mode=None``.
        """
        if self.render_mode is None:
            raise RuntimeError("this environment was made with render_mode=None; expected render_mode='rgb_array'")
        if self._camera is None:
            self._camera = _Camera(self._simulator, self._size)
        frame = self._camera.picture()[::-1]
        if (frame == frame[0, 0]).all():
            raise BlankFrameError(
                f"{self.task}: the renderer returned nothing but the colour {frame[0, 0].tolist()}; close other "
                "environments of this process, or use one process per environment, or another MUJOCO_GL"
            )
        return np.ascontiguousarray(frame)

    def close(self) -> None:
        """Frees the rendering context."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None
        self._simulator.close()

    def _described(self, observation: NDArray[np.float64], info: dict[str, Any]) -> dict[str, Any]:
        measure = _UNREPORTED_DISTANCES.get(self.task)
        distance = float(info["obj_to_target"]) if measure is None else measure(self._simulator, observation)
        return {**info, "is_success": bool(info["success"]), "distance": distance}


# What the success of a task looks at where the simulator reports 0, or something else, as the distance: from its own
# environment and the observation (39,).
_UNREPORTED_DISTANCES: Mapping[str, Callable[[Any, NDArray[np.float64]], float]] = {
    "assembly": lambda simulator, _: _length(simulator._get_site_pos("RoundNut") - simulator._target_pos),
    "box-close": lambda simulator, observation: _length(observation[4:7] - simulator._target_pos),
    "disassemble": lambda simulator, observation: max(float(simulator._target_pos[2] - observation[6]), 0.0),
    "door-open": lambda _, observation: abs(float(observation[4] - observation[36])),
    "hammer": lambda simulator, _: max(0.09 - float(simulator.data.joint("NailSlideJoint").qpos.item()), 0.0),
    "lever-pull": lambda simulator, _: (
        simulator.LEVER_RADIUS * abs(np.pi / 2 + float(simulator.data.joint("LeverAxis").qpos.item()))
    ),
}


def _length(vector: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(vector))


class _Camera:
    """Pictures of one simulator, drawn in a rendering context of their own.

    OpenGL draws, and deletes, in whichever context is current. Gymnasium's own renderer does not see to that, and a
    second environment in the process spoils or blackens the pictures of the first.
    """

    def __init__(self, simulator: Any, size: int) -> None:
        from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer

        self._id = simulator.model.camera(CAMERA).id
        self._viewer = with_opengl(lambda: OffScreenViewer(simulator.model, simulator.data, size, size))
        self._free = free_with(self, _free_viewer, self._viewer)

    def picture(self) -> NDArray[np.uint8]:
        self._viewer.make_context_current()
        return as_frame(self._viewer.render("rgb_array", camera_id=self._id))

    def close(self) -> None:
        self._free()


def _free_viewer(viewer: Any) -> None:
    viewer.make_context_current()
    viewer.con.free()
    viewer.free()  # its close would end GLFW for every other window of the process


def _simulator(task: str, size: int) -> Any:
    """The simulator's environment with a visible goal that is drawn anew from its own seeded generator."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        import_mujoco()
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    except ImportError as error:
        raise ImportError("Meta-World is not installed: pip install 'robometer-rl[metaworld]'") from error
    simulator: Any = ALL_V3_ENVIRONMENTS[f"{task}-v3"](width=size, height=size)
    # As metaworld.env_dict makes its goal-observable environments, which take no camera and freeze the goal.
    simulator._partially_observable = False
    del simulator.sawyer_observation_space  # cached while the goal was hidden
    simulator._freeze_rand_vec = False
    simulator.seeded_rand_vec = True
    simulator._set_task_called = True
    simulator.model.light_castshadow[:] = 0
    simulator.model.mat_reflectance[:] = 0
    return simulator


def state_of(observation: NDArray[np.float64]) -> NDArray[np.float32]:
    """Low-dimensional state, (21,) float32 named by `STATE_NAMES`, of one observation (39,)."""
    return np.concatenate([observation[:18], observation[36:39]]).astype(np.float32)


def make_env(
    task: str, *, size: int = 128, max_episode_steps: int = 500, render_mode: str | None = "rgb_array"
) -> gym.Env[NDArray[np.float64], NDArray[np.float32]]:
    """A Meta-World task through ``gymnasium.make``, so that ``env.spec`` can rebuild it; see `MetaWorldEnv`.

    Args:
        task: Name in `TASKS`, as in ``drawer-open``.
        size: Height and width of a frame in pixels.
        max_episode_steps: Episodes are truncated after this many steps, at most 500.
        render_mode: ``rgb_array``, or None if no frame is ever asked for.

    Examples:
        >>> env = make_env("drawer-open")
        >>> observation, info = env.reset(seed=0)
        >>> env.render().shape, env.unwrapped.instruction
        ((128, 128, 3), 'open the drawer')
        >>> env.close()
    """
    if not 1 <= max_episode_steps <= 500:
        raise ValueError(f"max_episode_steps {max_episode_steps}; Meta-World episodes have 1 to 500 steps")
    return gym.make(
        "robometer_rl/MetaWorld-v0", task=task, size=size, render_mode=render_mode, max_episode_steps=max_episode_steps
    )
