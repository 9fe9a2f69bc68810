"""robosuite's tasks as Gymnasium environments; registered as ``robometer_rl/Robosuite-v0``.

robosuite (Zhu et al., 2020, arXiv 2009.12293) has manipulation tasks for one or two arms. Releases 1.4 and 1.5 work:
LIBERO pins 1.4.0, everything else may have the newest. They name and order some robot observations differently, so
states of one do not fit agents of the other; pictures, actions and outcomes are the same.

What differs from robosuite's own Gymnasium wrapper:

- The same seed gives the same episode. robosuite 1.4 draws from NumPy's global generator, 1.5 from one that a reset
  does not seed anew; here every reset seeds what it draws from, and the global generator is left as it was found.
- A reset restores the compiled model instead of compiling it again: milliseconds instead of seconds. What robosuite
  draws while it compiles, such as the size of Lift's cube, is the same in every environment.
- ``info["is_success"]`` says after every reset and step whether the task is done.
- Frames are drawn only when `RobosuiteEnv.render` asks for them, and they are upright.

This module imports the simulator only when an environment is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from robometer_rl.envs.robosuite_parts import Cameras, DrawnEnv, numpy_seeded, prepare_import

__all__ = ["CONTROL_HZ", "TASKS", "RobosuiteEnv"]

CONTROL_HZ = 20

TASKS: Mapping[str, str] = {
    "Lift": "lift the red cube",
    "Stack": "stack the red cube on the green cube",
    "NutAssemblySquare": "put the square nut on the square peg",
    "NutAssemblyRound": "put the round nut on the round peg",
    "PickPlaceCan": "put the can into its bin",
    "PickPlaceMilk": "put the milk into its bin",
    "PickPlaceBread": "put the bread into its bin",
    "PickPlaceCereal": "put the cereal box into its bin",
    "Door": "open the door",
    "Wipe": "wipe the marks off the table",
    "TwoArmLift": "lift the pot with both arms",
    "TwoArmPegInHole": "put the peg into the hole",
    "TwoArmHandover": "hand the hammer over to the other arm",
}
"""Instructions by robosuite's name of the task."""

_TWO_ARMS = ("TwoArmLift", "TwoArmPegInHole", "TwoArmHandover")
_SMALLEST = 16


class RobosuiteEnv(DrawnEnv[NDArray[np.float32]]):
    """One task of robosuite.

    **Action space**: ``Box(-1, 1, float32)``, the operational-space controller at 20 Hz, for each arm three
    translations (1 is 5 cm), three rotations (1 is 0.5 rad), and the gripper (negative opens, positive closes).

    **Observation space**: a float32 vector of what robosuite observes of the robot and of the objects, in metres,
    radians and quaternions (x, y, z, w); `state_layout` names its parts.

    **Reward and end**: the simulator's own dense reward, at most 1. Nothing terminates; the horizon is Gymnasium's
    ``max_episode_steps``, 500 unless `gymnasium.make` is told otherwise.

    **Info**: ``task`` (the instruction) and ``is_success``, after a reset and after every step.

    Attributes:
        instruction: What the task is called in words.
        state_layout: Where each part of the observation lies, by name, as in ``"cube_pos": slice(32, 35)``.

    Examples:
        >>> import gymnasium as gym
        >>> env = gym.make(
        ...     "robometer_rl.envs:robometer_rl/Robosuite-v0", task="Lift", render_mode="rgb_array"
        ... )  # doctest: +SKIP
        >>> observation, info = env.reset(seed=0)  # doctest: +SKIP
        >>> env.render().shape, info["is_success"]  # doctest: +SKIP
        ((128, 128, 3), False)
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        task: str,
        robots: str | Sequence[str] = "Panda",
        camera: str = "agentview",
        size: int = 128,
        shadows: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Builds the simulator; memory for drawing is taken with the first frame.

        Args:
            task: Name in `TASKS`, as in ``"Lift"``.
            robots: Name of the arm, or of both arms, as robosuite knows them: ``"Panda"``, ``"Sawyer"``, ``"UR5e"``.
                One name stands for both arms of a task for two.
            camera: Which camera `render` shows.
            size: Height and width of a frame in pixels.
            shadows: Draw shadows and reflections, which takes several times as long without a GPU.
            render_mode: ``"rgb_array"`` or None.

        Raises:
            ValueError: An unknown task, camera, render mode or size; the message lists what there is.
            ImportError: robosuite is not installed.
        """
        if task not in TASKS:
            raise ValueError(f"unknown robosuite task {task!r}; expected one of {list(TASKS)}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"unknown render_mode {render_mode!r}; expected 'rgb_array' or None")
        if size < _SMALLEST:
            raise ValueError(f"frames of {size} pixels; expected at least {_SMALLEST}")
        self.instruction = TASKS[task]
        self.render_mode = render_mode
        names = [robots] * (2 if task in _TWO_ARMS else 1) if isinstance(robots, str) else list(robots)
        robosuite = _import_robosuite()
        self._simulator = _build_simulator(robosuite, task, names)
        self._generator_owners = list(_generator_owners(self._simulator)) if _is_new(robosuite) else []
        self._cameras = Cameras(self._simulator.sim, [camera], size, size, shadows)
        self._closed = False
        try:
            self._cameras.check_names()
        except ValueError:
            self.close()
            raise
        parts = _state_parts(self._simulator._get_observations(force_update=True))
        stops = np.cumsum([part.size for part in parts.values()]).tolist()
        self.state_layout = {
            name: slice(stop - part.size, stop) for (name, part), stop in zip(parts.items(), stops, strict=True)
        }
        low, high = self._simulator.action_spec
        self.action_space = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (stops[-1],), np.float32)

    @property
    def simulator(self) -> Any:
        """The environment of robosuite itself: for scripts that may know what no camera shows. Do not step it."""
        return self._simulator

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Places robot and objects anew; the same seed gives the same episode."""
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(2**32))
        for place, owner in enumerate(self._generator_owners):
            owner.rng = np.random.default_rng((drawn, place))
        with numpy_seeded(drawn):
            raw = self._simulator.reset()
        for gripper in _grippers(self._simulator):  # robosuite forgets this integrator only when it compiles again
            gripper.current_action = np.zeros(gripper.dof)
        self._cameras.forget()
        return _vector(raw), self._info()

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Moves the arm for 1/20 s; see the class for actions, reward and info."""
        raw, reward, _, _ = self._simulator.step(np.asarray(action, np.float64))
        self._cameras.forget()
        return _vector(raw), float(reward), False, False, self._info()

    def _info(self) -> dict[str, Any]:
        return {"task": self.instruction, "is_success": bool(self._simulator._check_success())}


def _import_robosuite() -> ModuleType:
    if find_spec("robosuite") is None:
        raise ImportError(
            "robosuite environments need the robosuite package: pip install 'robometer-rl[robosuite]'; beside LIBERO, "
            "which needs 1.4.0, 'robometer-rl[libero]' brings it"
        )
    prepare_import()
    return import_module("robosuite")


def _build_simulator(robosuite: ModuleType, task: str, robots: list[str]) -> Any:
    is_new = _is_new(robosuite)
    # From 1.5 on a controller is one of the whole robot, whose arms are by default controlled in operational space.
    if is_new:
        controllers = [robosuite.load_composite_controller_config(robot=robot) for robot in robots]
    else:
        controllers = [robosuite.load_controller_config(default_controller="OSC_POSE") for _ in robots]
    with numpy_seeded(0):
        return robosuite.make(
            task,
            robots=robots,
            controller_configs=controllers,
            use_camera_obs=False,
            has_offscreen_renderer=False,  # drawn by `Cameras`
            reward_shaping=True,
            control_freq=CONTROL_HZ,
            ignore_done=True,  # the horizon is Gymnasium's
            hard_reset=False,
            **({"seed": 0} if is_new else {}),
        )


def _is_new(robosuite: ModuleType) -> bool:
    """Whether this release is 1.5 or later: composite controllers, and generators of its own."""
    major, minor, *_ = robosuite.__version__.split(".")
    return (int(major), int(minor)) >= (1, 5)


def _generator_owners(simulator: Any) -> Iterator[Any]:
    """What draws from a generator of its own in 1.5: the environment, and its samplers of places if it has some."""
    yield simulator
    samplers = [sampler for sampler in [getattr(simulator, "placement_initializer", None)] if sampler is not None]
    while samplers:
        sampler = samplers.pop(0)
        samplers += getattr(sampler, "samplers", {}).values()
        yield sampler


def _grippers(simulator: Any) -> Iterator[Any]:
    for robot in simulator.robots:
        # One per arm, by its name, from 1.5 on.
        grippers = robot.gripper.values() if isinstance(robot.gripper, Mapping) else [robot.gripper]
        yield from (gripper for gripper in grippers if gripper.dof)


def _state_parts(raw: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """The parts of an observation, without robosuite's own concatenations of them."""
    return {
        name: np.atleast_1d(np.asarray(value, np.float32)).reshape(-1)
        for name, value in raw.items()
        if not name.endswith("-state")
    }


def _vector(raw: Mapping[str, Any]) -> NDArray[np.float32]:
    return np.concatenate([*_state_parts(raw).values()])
