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
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

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


TASKS: Mapping[str, Instructions] = {
    "assembly": Instructions(
        "put the ring on the peg",
        ("fit the ring over the peg", "lift the wrench and place its ring on the peg", "place the nut on the peg"),
    ),
    "bin-picking": Instructions(
        "move the cube to the other bin",
        (
            "put the cube in the empty bin",
            "pick the cube out of one bin and place it in the other",
            "carry the block from bin to bin",
        ),
    ),
    "box-close": Instructions(
        "put the lid on the box",
        ("close the box with its lid", "cover the box", "place the lid on top of the box"),
    ),
    "button-press": Instructions(
        "press the button on the box",
        ("push the button on the side of the box", "press the button in", "push the red button"),
    ),
    "button-press-topdown": Instructions(
        "press the button from above",
        ("push the button down", "press down on top of the box", "push the button on top of the box"),
    ),
    "button-press-topdown-wall": Instructions(
        "reach over the bricks and press the button from above",
        (
            "push the button down behind the wall",
            "press down on the box that stands behind the wall",
            "press the button on top of the box behind the wall",
        ),
    ),
    "button-press-wall": Instructions(
        "reach over the wall and press the button",
        (
            "push the button behind the wall",
            "press the button of the box that stands behind the wall",
            "go over the bricks and push the button in",
        ),
    ),
    "coffee-button": Instructions(
        "press the button on the coffee machine",
        ("start the coffee machine", "push the coffee machine's button", "turn the coffee maker on"),
    ),
    "coffee-pull": Instructions(
        "pull the mug away from the coffee machine",
        (
            "take the mug from under the coffee machine",
            "drag the coffee mug to the marker",
            "move the cup away from the coffee maker",
        ),
    ),
    "coffee-push": Instructions(
        "push the mug under the coffee machine",
        (
            "slide the mug to the coffee machine",
            "put the cup below the coffee maker's spout",
            "move the coffee mug to the machine",
        ),
    ),
    "dial-turn": Instructions(
        "turn the dial", ("rotate the dial", "turn the knob on the table", "twist the dial around")
    ),
    "disassemble": Instructions(
        "take the ring off the peg",
        ("lift the ring off the peg", "remove the nut from the peg", "pull the wrench up and off the peg"),
    ),
    "door-close": Instructions(
        "close the door", ("shut the door", "push the door closed", "close the safe's door", "swing the door shut")
    ),
    "door-lock": Instructions("lock the door", ("turn the lock to lock the door", "bolt the door", "secure the door")),
    "door-open": Instructions("open the door", ("pull the door open", "swing the door open", "open the safe's door")),
    "door-unlock": Instructions(
        "unlock the door", ("turn the lock to unlock the door", "release the door's lock", "unbolt the door")
    ),
    "drawer-close": Instructions(
        "close the drawer", ("shut the drawer", "push the drawer in", "slide the drawer closed", "push the drawer shut")
    ),
    "drawer-open": Instructions(
        "open the drawer", ("pull the drawer open", "pull out the drawer", "slide the drawer open")
    ),
    "faucet-close": Instructions(
        "close the faucet", ("turn off the faucet", "shut the tap", "turn the faucet handle to close it")
    ),
    "faucet-open": Instructions(
        "open the faucet", ("turn on the faucet", "open the tap", "turn the faucet handle to open it")
    ),
    "hammer": Instructions(
        "hammer the nail in",
        ("drive the nail in with the hammer", "hit the nail with the hammer", "pick up the hammer and pound the nail"),
    ),
    "hand-insert": Instructions(
        "put the block into the hole",
        (
            "drop the cube into the hole in the table",
            "insert the block in the hole",
            "push the cube down into the opening",
        ),
    ),
    "handle-press": Instructions(
        "press the handle down",
        ("push the handle down", "lower the handle on the box", "press down on the handle"),
    ),
    "handle-press-side": Instructions(
        "press the sideways handle down",
        (
            "push the handle on the box's side down",
            "lower the side handle",
            "press down on the lever at the side of the box",
        ),
    ),
    "handle-pull": Instructions(
        "pull the handle up", ("lift the handle", "raise the handle on the box", "pull up the handle")
    ),
    "handle-pull-side": Instructions(
        "pull the sideways handle up",
        ("lift the handle on the box's side", "raise the side handle", "pull the lever at the side of the box upwards"),
    ),
    "lever-pull": Instructions(
        "pull the lever up",
        ("raise the lever", "lift the lever until it points up", "turn the lever upright"),
    ),
    "peg-insert-side": Instructions(
        "insert the peg into the hole",
        ("put the peg in the box's hole", "pick up the peg and push it into the box", "plug the peg in"),
    ),
    "peg-unplug-side": Instructions(
        "unplug the peg", ("pull the peg out", "remove the peg from the hole", "take the peg out of the box")
    ),
    "pick-place": Instructions(
        "pick up the puck and hold it at the goal",
        ("lift the puck to the marker", "grasp the puck and bring it to the goal", "carry the puck to the target"),
    ),
    "pick-place-wall": Instructions(
        "lift the puck over the wall to the goal",
        (
            "carry the puck over the wall",
            "pick up the puck and bring it to the marker behind the wall",
            "bring the puck past the bricks to the target",
        ),
    ),
    "plate-slide": Instructions(
        "slide the plate into the cabinet",
        ("push the plate into the goal", "move the plate into the cabinet", "shove the plate into the net"),
    ),
    "plate-slide-back": Instructions(
        "slide the plate out of the cabinet",
        ("pull the plate back", "move the plate out of the goal", "drag the plate out of the cabinet"),
    ),
    "plate-slide-back-side": Instructions(
        "slide the plate sideways out of the cabinet",
        (
            "pull the plate out of the cabinet to the side",
            "move the plate sideways out of the net",
            "drag the plate out through the cabinet's open side",
        ),
    ),
    "plate-slide-side": Instructions(
        "slide the plate sideways into the cabinet",
        (
            "push the plate to the side, into the net",
            "move the plate sideways into the cabinet",
            "shove the plate into the cabinet from the side",
        ),
    ),
    "push": Instructions(
        "push the puck to the goal", ("slide the puck to the marker", "move the puck to the target on the table")
    ),
    "push-wall": Instructions(
        "push the puck around the wall to the goal",
        (
            "slide the puck past the wall",
            "move the puck around the bricks to the marker",
            "push the puck to the target behind the wall",
        ),
    ),
    "reach": Instructions(
        "reach the goal position", ("move the hand to the marker", "bring the gripper to the red dot")
    ),
    "reach-wall": Instructions(
        "reach the goal behind the wall",
        (
            "move the hand over the wall to the marker",
            "bring the gripper around the bricks to the red dot",
            "reach past the wall to the target",
        ),
    ),
    "soccer": Instructions(
        "push the ball into the goal",
        ("kick the ball into the net", "score a goal with the ball", "roll the soccer ball into the goal"),
    ),
    "stick-pull": Instructions(
        "pull the thermos with the stick",
        (
            "use the stick to pull the bottle",
            "hook the thermos' handle with the stick and pull it to the marker",
            "drag the thermos with the stick",
        ),
    ),
    "stick-push": Instructions(
        "push the thermos with the stick",
        (
            "use the stick to push the bottle",
            "pick up the stick and shove the thermos to the marker",
            "slide the thermos away with the stick",
        ),
    ),
    "sweep": Instructions(
        "sweep the block off the table",
        ("push the block off the table", "move the cube over the table's edge", "knock the block off the table"),
    ),
    "sweep-into": Instructions(
        "sweep the block into the hole",
        (
            "push the cube into the hole in the table",
            "sweep the cube to the opening",
            "slide the block over the table until it falls into the hole",
        ),
    ),
    "window-close": Instructions(
        "close the window", ("shut the window", "slide the window shut", "push the window closed")
    ),
    "window-open": Instructions(
        "open the window", ("slide the window open", "push the window open", "pull the window open")
    ),
}
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
        self._viewer = OffScreenViewer(simulator.model, simulator.data, size, size)
        self._free = weakref.finalize(self, _free_viewer, self._viewer)  # at exit too, before EGL itself ends

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

    Example:
        >>> env = make_env("drawer-open")                     # doctest: +SKIP
        >>> observation, info = env.reset(seed=0)             # doctest: +SKIP
        >>> env.render().shape, env.unwrapped.instruction     # doctest: +SKIP
        ((128, 128, 3), 'open the drawer')
    """
    if not 1 <= max_episode_steps <= 500:
        raise ValueError(f"max_episode_steps {max_episode_steps}; Meta-World episodes have 1 to 500 steps")
    return gym.make(
        "robometer_rl/MetaWorld-v0", task=task, size=size, render_mode=render_mode, max_episode_steps=max_episode_steps
    )
