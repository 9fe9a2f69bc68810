"""LIBERO as a source of recordings: its scripted tasks in words, and what a script may know of a scene.

`Scene` reads the simulator: poses, extents, the goal, and the low-dimensional state that Meta-World's recordings have,
in the same frame of reference, so that one model can regress both. The frame stands where the robot stands: x to the
robot's right, y forward, z up, metres. (LIBERO's own x points forward, and its origin is the middle of the table.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robometer_rl.envs.libero import LiberoEnv

__all__ = ["CAMERA", "CONTROL_HZ", "TASKS", "UP", "Goal", "LiberoTask", "Scene", "Vector", "make_env", "task_name"]

CAMERA = "agentview"
CONTROL_HZ = 20

Vector = NDArray[np.float64]
UP: Vector = np.array([0.0, 0.0, 1.0])

_FINGER_TRAVEL = 0.08  # metres between the pads when the gripper is open
_RIGHT_AND_FORWARD = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # from LIBERO's axes
_RESTS_ABOVE = 0.004  # a bowl's origin above that of the plate it stands on
_CONTAINED_BELOW = 0.01  # LIBERO counts an object as inside a region from this far below it


class LiberoTask(NamedTuple):
    """Where a task is found, and how else a person would ask for it.

    Attributes:
        suite: Name of the suite.
        task_id: Number of the task in its suite.
        paraphrases: Other ways to say the instruction.
        moves_an_object: Whether something is to be picked up and put somewhere; else a drawer is moved.
    """

    suite: str
    task_id: int
    paraphrases: tuple[str, ...]
    moves_an_object: bool


def task_name(suite: str, task_id: int) -> str:
    """The name of a task within recordings, as in ``libero_90-28``."""
    return f"{suite}-{task_id}"


_GROCERIES = (
    "alphabet soup",
    "cream cheese",
    "salad dressing",
    "bbq sauce",
    "ketchup",
    "tomato sauce",
    "butter",
    "milk",
    "chocolate pudding",
    "orange juice",
)  # in the order of libero_object
_BOWLS = (
    "between the plate and the ramekin",
    "next to the ramekin",
    "in the middle of the table",
    "on the cookie box",
    "in the top drawer of the wooden cabinet",
    "on the ramekin",
    "next to the cookie box",
    "on the stove",
    "next to the plate",
    "on top of the wooden cabinet",
)  # in the order of libero_spatial
_DRAWERS = {
    0: ("shut the top drawer", "push the top drawer of the cabinet in", "slide the cabinet's top drawer shut"),
    28: (
        "shut the top drawer",
        "push the top drawer of the cabinet in",
        "slide the cabinet's top drawer shut",
        "close the uppermost drawer of the white cabinet",
    ),
}  # by number in libero_90


def _grocery_paraphrases(item: str) -> tuple[str, ...]:
    return (
        f"put the {item} in the basket",
        f"move the {item} into the basket",
        f"grab the {item} and drop it into the basket",
        f"take the {item} and put it inside the basket",
    )


def _bowl_paraphrases(place: str) -> tuple[str, ...]:
    return (
        f"take the black bowl {place} and put it on the plate",
        f"move the black bowl that is {place} onto the plate",
        f"grab the bowl {place} and set it down on the plate",
        f"the bowl {place} belongs on the plate, put it there",
    )


def _scripted_tasks() -> dict[str, LiberoTask]:
    tasks = [
        *(
            LiberoTask("libero_object", number, _grocery_paraphrases(item), True)
            for number, item in enumerate(_GROCERIES)
        ),
        *(LiberoTask("libero_spatial", number, _bowl_paraphrases(place), True) for number, place in enumerate(_BOWLS)),
        *(LiberoTask("libero_90", number, paraphrases, False) for number, paraphrases in _DRAWERS.items()),
    ]
    return {task_name(task.suite, task.task_id): task for task in tasks}


TASKS: Mapping[str, LiberoTask] = _scripted_tasks()
"""Tasks that a script was seen to solve, by `task_name`."""


def make_env(task: str, *, size: int = 128, render_mode: str | None = "rgb_array") -> LiberoEnv:
    """The environment of a scripted task.

    Args:
        task: Name in `TASKS`, as in ``libero_90-28``.
        size: Height and width of a frame in pixels.
        render_mode: ``rgb_array``, or None if no frame is ever asked for.

    Raises:
        ValueError: An unknown task, render mode or size.
        ImportError: LIBERO is not installed.
    """
    if task not in TASKS:
        raise ValueError(f"unknown LIBERO task {task!r}; scripts solve {sorted(TASKS)}")
    found = TASKS[task]
    return LiberoEnv(
        found.suite, found.task_id, camera_names=(CAMERA,), width=size, height=size, render_mode=render_mode
    )


class Goal(NamedTuple):
    """What a task asks for, as LIBERO says it.

    Attributes:
        relation: ``on`` (an object on another), ``in`` (an object inside a region), ``close`` (a drawer).
        subject: The object, or the drawer's region.
        target: The other object or the region; empty for drawers.
    """

    relation: str
    subject: str
    target: str = ""

    @property
    def moves_an_object(self) -> bool:
        """Whether something is to be picked up and put somewhere."""
        return self.relation in ("on", "in")


class Scene:
    """What a script may know of a running environment; always that of the simulator's present state.

    Positions and directions are LIBERO's own, except in `state`.
    """

    def __init__(self, env: LiberoEnv) -> None:
        """Reads the goal of ``env``.

        Raises:
            ValueError: The task has several goals, or one that is not in `Goal`.
        """
        self._domain = env.domain
        goals = self._domain.parsed_problem["goal_state"]
        if len(goals) != 1 or goals[0][0] not in ("on", "in", "close"):
            raise ValueError(f"{env.task!r} asks for {goals}; scripts know one 'on', 'in' or 'close'")
        self.goal = Goal(*goals[0])

    @property
    def hand(self) -> Vector:
        """(3,) the point between the finger pads."""
        return self._data.site_xpos[self._grip_site].copy()

    @property
    def hand_axes(self) -> Vector:
        """(3, 3) the hand's axes as columns: x along the fingers' travel, z from the wrist to the fingers."""
        return self._data.site_xmat[self._grip_site].reshape(3, 3).copy()

    @property
    def opening(self) -> float:
        """Distance between the pads, 0 (closed) to 1 (open)."""
        left, right = (self._data.qpos[i] for i in self._domain.robots[0]._ref_gripper_joint_pos_indexes)
        return float(np.clip((left - right) / _FINGER_TRAVEL, 0.0, 1.0))

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of everything that can be moved."""
        return tuple(self._domain.objects_dict)

    def position(self, name: str) -> Vector:
        """(3,) origin of an object, a piece of furniture or a region."""
        return self._domain.object_states_dict[name].get_geom_state()["pos"].copy()

    def points(self, name: str) -> Vector:
        """(N, 3) points throughout the solid parts of an object or a piece of furniture."""
        model, data = self._model, self._data
        body = self._domain.obj_body_id[name]
        of_body = model.body_rootid[model.geom_bodyid] == model.body_rootid[body]
        solid = of_body & ((model.geom_contype != 0) | (model.geom_conaffinity != 0))
        return np.concatenate(
            [
                data.geom_xpos[geom]
                + (model.geom_aabb[geom, :3] + _GRID * model.geom_aabb[geom, 3:]) @ data.geom_xmat[geom].reshape(3, 3).T
                for geom in np.flatnonzero(solid)
            ]
        )

    def obstacles(self, without: str) -> Vector:
        """(N, 3) points of everything on the table but one object."""
        return np.concatenate([self.points(name) for name in self._domain.obj_body_id if name != without])

    @property
    def surface(self) -> float:
        """Height of the table."""
        return float(min(self.points(name)[:, 2].min() for name in self.objects))

    def target_position(self) -> Vector:
        """(3,) where the goal wants its subject: `position` of an object or of a drawer's region."""
        goal = self.goal
        if goal.relation == "in":
            return self.position(goal.target)
        if goal.relation == "on":
            return self.position(goal.target) + _RESTS_ABOVE * UP
        joint = self._drawer_joint()
        return self.position(goal.subject) + self._data.xaxis[joint] * self._drawer_travel()

    def release_position(self) -> Vector:
        """(3,) where the goal's subject is to be let go of: just above its place, or at the mouth of a basket."""
        if self.goal.relation == "on":
            return self.target_position() + 0.014 * UP
        mouth = self.position(self.goal.target)
        mouth[2] += self._region_half_size(self.goal.target)[2]
        return mouth

    def distance(self) -> float:
        """How far the goal's subject is from where it should be, in metres.

        To the region for ``in`` (0 within it), to the resting place on the other object for ``on``, along the rail for
        drawers.
        """
        goal = self.goal
        if not goal.moves_an_object:
            return self._drawer_travel()
        offset = self.position(goal.subject) - self.target_position()
        if goal.relation == "in":
            half = self._region_half_size(goal.target)
            offset = np.where(offset > 0, np.maximum(offset - half, 0.0), np.minimum(offset + half, 0.0))
        return float(np.linalg.norm(offset))

    def state(self) -> NDArray[np.float32]:
        """Low-dimensional state, (21,) named by `robometer_rl.envs.metaworld.STATE_NAMES`.

        The object is what the goal moves; what it is to be put on or into is the goal, so there is no second object.
        """
        base = self._domain.robots[0].base_pos
        places = [self.hand, self.position(self.goal.subject), self.target_position()]
        hand, thing, goal = (_RIGHT_AND_FORWARD @ (place - base) for place in places)
        turned = _quaternion(_RIGHT_AND_FORWARD @ self._axes(self.goal.subject))
        return np.concatenate([hand, [self.opening], thing, turned, np.zeros(7), goal]).astype(np.float32)

    def _drawer_joint(self) -> int:
        return self._domain.sim.model.joint_name2id(self._domain.object_sites_dict[self.goal.subject].joints[0])

    def _drawer_travel(self) -> float:
        """How far the drawer still has to go, in metres: its joint stands at 0 when it is shut, below when open."""
        return max(-float(self._data.qpos[self._model.jnt_qposadr[self._drawer_joint()]]), 0.0)

    def _region_half_size(self, name: str) -> Vector:
        half = np.abs(self._axes(name) @ self._domain.object_sites_dict[name].size)
        return half + _CONTAINED_BELOW * UP

    def _axes(self, name: str) -> Vector:
        if name in self._domain.object_sites_dict:
            return self._domain.sim.data.get_site_xmat(name).copy()
        return self._data.xmat[self._domain.obj_body_id[name]].reshape(3, 3).copy()

    @property
    def _grip_site(self) -> int:
        return self._domain.robots[0].eef_site_id

    @property
    def _model(self) -> Any:
        return self._domain.sim.model._model

    @property
    def _data(self) -> Any:
        return self._domain.sim.data._data


_GRID = np.stack(np.meshgrid(*3 * [np.linspace(-1.0, 1.0, 9)]), axis=-1).reshape(-1, 3)  # a box from -1 to 1


def _quaternion(axes: Vector) -> Vector:
    """(x, y, z, w) of a rotation matrix (3, 3)."""
    import mujoco

    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, axes.reshape(9))  # pyright: ignore[reportAttributeAccessIssue]
    return np.roll(quaternion, -1)
