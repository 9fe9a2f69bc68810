"""Policies that act in LIBERO with knowledge of the scene: they pick and place, push and pull drawers, or fail to.

Most are scripts: generators of actions that look at the scene before each of them, read from top to bottom as the
motion they make. An action is LIBERO's: translation (3) and rotation (3) of the hand, and the gripper (-1 opens).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robometer_rl.collecting.libero_scene import UP, Scene, Vector

__all__ = [
    "Action",
    "Grasp",
    "NoisyPolicy",
    "Policy",
    "RandomPolicy",
    "Script",
    "ScriptedPolicy",
    "StopHalfwayPolicy",
    "choose_grasp",
    "drop_on_the_way",
    "hover",
    "pick_and_place",
    "push_drawer",
    "take_elsewhere",
    "visit",
]

Action = NDArray[np.float32]
Script = Iterator[Action]

OPEN, CLOSED = -1.0, 1.0

_GAIN = 15.0  # action per metre; 1 asks for 5 cm
_TURN_GAIN = 2.0  # action per radian; 1 asks for half a radian
_ARRIVED = 0.012  # metres
_TURNED = 0.1  # radians
_GRIP_STEPS = 9  # the gripper needs 8 to open or close

# The Panda's hand around the point between its pads, in metres.
_PINCH = 0.07  # widest thing that the open fingers go around
_FINGERTIP = 0.014  # they end this far below
_PALM = 0.045  # the palm is this far above
_FINGER_REACH, _FINGER_WIDTH = 0.075, 0.022  # half sizes of the open fingers along and across their travel
_HAND_REACH, _HAND_WIDTH = 0.11, 0.045  # and of the hand above them
_RIM = 0.004  # how far inside of the outermost point a rim is taken
_ELSEWHERE = 0.03  # metres between two grasps that are not the same
_LIFTED = 0.02  # a thing that has not risen as far is not in the hand
_DEEP = 0.012  # and how far below its edge
_IN_FRONT = 0.17  # in front of the middle of a drawer, free of its handle


class Policy(Protocol):
    """Acts for one episode; a new episode takes a new policy."""

    def act(self) -> Action:
        """The next action (7,) float32 in [-1, 1]."""
        ...


class ScriptedPolicy:
    """Follows a script; when it has ended, the hand stands still and the gripper stays as it is."""

    def __init__(self, script: Script) -> None:
        """Follows ``script``."""
        self._script = script
        self._gripper = np.float32(OPEN)

    def act(self) -> Action:
        """See `Policy.act`."""
        action = next(self._script, None)
        if action is None:
            return _still(self._gripper)
        self._gripper = action[6]
        return action


class NoisyPolicy:
    """Another policy disturbed by smooth Gaussian noise."""

    def __init__(self, policy: Policy, rng: np.random.Generator, magnitude: float) -> None:
        """Adds noise of standard deviation ``magnitude`` to the translations of ``policy``, less to its turns."""
        self._policy = policy
        self._noise = _SmoothNoise(rng, memory=0.7, magnitude=magnitude)

    def act(self) -> Action:
        """See `Policy.act`."""
        return np.clip(self._policy.act() + self._noise.next(), -1.0, 1.0).astype(np.float32)


class StopHalfwayPolicy:
    """Another policy that stands still from some step on."""

    def __init__(self, policy: Policy, stop_step: int) -> None:
        """Follows ``policy`` for ``stop_step`` steps, then keeps the hand and the gripper as they are."""
        self._policy = policy
        self._left = stop_step
        self._gripper = np.float32(OPEN)

    def act(self) -> Action:
        """See `Policy.act`."""
        if self._left == 0:
            return _still(self._gripper)
        self._left -= 1
        action = self._policy.act()
        self._gripper = action[6]
        return action


class RandomPolicy:
    """Smooth random motion."""

    def __init__(self, rng: np.random.Generator, magnitude: float = 0.8) -> None:
        """Translations of standard deviation ``magnitude`` before they are clipped to [-1, 1], and smaller turns."""
        self._noise = _SmoothNoise(rng, memory=0.85, magnitude=magnitude)

    def act(self) -> Action:
        """See `Policy.act`."""
        return np.clip(self._noise.next(), -1.0, 1.0).astype(np.float32)


class _SmoothNoise:
    """A stationary first-order autoregressive process in the dimensions of an action."""

    _SCALE = np.array([1.0, 1.0, 1.0, 0.25, 0.25, 0.25, 0.6])

    def __init__(self, rng: np.random.Generator, memory: float, magnitude: float) -> None:
        self._rng = rng
        self._memory = memory
        self._scale = magnitude * self._SCALE
        self._value = rng.standard_normal(7)

    def next(self) -> NDArray[np.float64]:
        fresh = np.sqrt(1.0 - self._memory**2) * self._rng.standard_normal(7)
        self._value = self._memory * self._value + fresh
        return self._scale * self._value


def _still(gripper: np.float32) -> Action:
    return np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, gripper], np.float32)


# Motions


def _move(
    scene: Scene,
    place: Vector,
    axes: Vector,
    gripper: float,
    pace: float,
    patience: int = 60,
    arrived: float = _ARRIVED,
) -> Script:
    """Takes the hand to ``place`` (3,) and turns it to ``axes`` (3, 3); gives up after ``patience`` steps."""
    for _ in range(round(patience / pace)):
        way, turn = place - scene.hand, _rotation_to(scene.hand_axes, axes)
        if np.linalg.norm(way) < arrived and np.linalg.norm(turn) < _TURNED:
            return
        longest = max(float(np.abs(_GAIN * way).max()), 1.0)  # straight ahead, however far it is
        yield np.array([*(pace * _GAIN / longest * way), *np.clip(_TURN_GAIN * turn, -1.0, 1.0), gripper], np.float32)


def _grip(scene: Scene, place: Vector, axes: Vector, gripper: float, steps: int = _GRIP_STEPS) -> Script:
    """Opens or closes the gripper while holding the hand at ``place``."""
    for _ in range(steps):
        way, turn = place - scene.hand, _rotation_to(scene.hand_axes, axes)
        yield np.array([*np.clip(_GAIN * way, -1.0, 1.0), *np.clip(_TURN_GAIN * turn, -1.0, 1.0), gripper], np.float32)


def visit(scene: Scene, places: list[Vector], gripper: float, pace: float, linger: int = 0) -> Script:
    """Takes the hand from place to place, without turning it, and lingers at each for so many steps."""
    axes = scene.hand_axes
    for place in places:
        yield from _move(scene, place, axes, gripper, pace)
        for _ in range(linger):
            yield _still(np.float32(gripper))


def _rotation_to(axes: Vector, wanted: Vector) -> Vector:
    """The rotation vector (3,), in radians, that turns ``axes`` into ``wanted``."""
    turn = wanted @ axes.T
    around = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    sine, cosine = np.linalg.norm(around) / 2.0, (np.trace(turn) - 1.0) / 2.0
    return around / 2.0 * (np.arctan2(sine, cosine) / max(sine, 1e-6))


def _pointing_down(travel: Vector) -> Vector:
    """Axes (3, 3) of a hand that points down, with its fingers travelling along ``travel`` (3,), horizontal."""
    return np.stack([travel, np.cross(-UP, travel), -UP], axis=1)


# Picking and placing


@dataclass(frozen=True)
class Grasp:
    """Where the hand closes.

    Attributes:
        place: (3,) of the point between the pads.
        axes: (3, 3) of the hand.
    """

    place: Vector
    axes: Vector


def choose_grasp(scene: Scene, item: str, failed: Sequence[Grasp] = ()) -> Grasp:
    """The grasp from above that meets the fewest obstacles with the least turning of the hand.

    What fits between the fingers is taken around its middle, anything wider by its rim, and, if it can be, elsewhere
    than where it was tried before.
    """
    points, obstacles = scene.points(item), scene.obstacles(without=item)
    present = scene.hand_axes[:, 0]
    turns = [(degrees, _pointing_down(_turned(present, np.radians(degrees)))) for degrees in range(-75, 90, 15)]
    fitting = [(degrees, axes) for degrees, axes in turns if np.ptp(points @ axes[:, 0]) <= _PINCH]
    costs: list[tuple[float, Grasp]] = []
    for degrees, axes in fitting or turns:
        for place in _places_to_grip(points @ axes[:, :2], points[:, 2]):
            grasp = Grasp(axes[:, :2] @ place[:2] + place[2] * UP, axes)
            costs.append((abs(degrees) / 75.0 + 0.5 * _collisions(obstacles, grasp), grasp))
    untried = [
        (cost, grasp)
        for cost, grasp in costs
        if all(np.linalg.norm(grasp.place - other.place) > _ELSEWHERE for other in failed)
    ]
    return min(untried or costs, key=lambda each: each[0])[1]


def _places_to_grip(points: Vector, heights: Vector) -> list[Vector]:
    """Where to close, given (N, 2) points along and across the fingers' travel: (3,) in the same directions and up."""
    along = points[:, 0]
    middle = (points.min(axis=0) + points.max(axis=0)) / 2.0
    bottom, top = heights.min(), heights.max()
    if np.ptp(along) <= _PINCH:
        height = max(top - _PALM + 0.01, (bottom + top) / 2.0, bottom + _FINGERTIP + 0.004)
        return [np.append(middle, height)]
    places = []
    for side in (-1.0, 1.0):
        edge = (side * along).max()
        outermost = side * along > edge - 0.015
        between_fingers = outermost & (np.abs(points[:, 1] - middle[1]) < 0.012)
        rim = heights[between_fingers].max()  # lower than the top if the thing stands askew
        places.append(np.array([side * (edge - _RIM), middle[1], rim - _DEEP]))
    return places


def _turned(travel: Vector, angle: float) -> Vector:
    horizontal = np.array([travel[0], travel[1], 0.0]) / np.linalg.norm(travel[:2])
    return np.cos(angle) * horizontal + np.sin(angle) * np.array([-horizontal[1], horizontal[0], 0.0])


def _collisions(obstacles: Vector, grasp: Grasp) -> int:
    """How many points (N, 3) an open hand would go through on its way down to ``grasp``."""
    relative = (obstacles - grasp.place) @ grasp.axes
    along, aside, above = np.abs(relative[:, 0]), np.abs(relative[:, 1]), -relative[:, 2]
    fingers = (along < _FINGER_REACH) & (aside < _FINGER_WIDTH) & (above > -_FINGERTIP)
    hand = (along < _HAND_REACH) & (aside < _HAND_WIDTH) & (above > _PALM)
    return int((fingers | hand).sum())


def _safe_height(scene: Scene, start: Vector, end: Vector, item: str) -> float:
    """Height above everything on the way from ``start`` to ``end`` but ``item``."""
    obstacles = scene.obstacles(without=item)
    way = (end - start)[:2]
    part = np.clip((obstacles - start)[:, :2] @ way / max(way @ way, 1e-9), 0.0, 1.0)
    aside = np.linalg.norm(obstacles[:, :2] - start[:2] - part[:, None] * way, axis=1)
    near = obstacles[aside < 0.12, 2]
    return float(near.max(initial=scene.surface)) + 0.03


def pick_and_place(scene: Scene, item: str, destination: Callable[[], Vector], pace: float) -> Script:
    """Takes ``item`` and lets go of it where its origin is at ``destination()`` (3,); tries a failed grasp again."""
    failed: list[Grasp] = []
    for _ in range(3):
        before = scene.position(item)
        grasp = choose_grasp(scene, item, failed)
        yield from _pick(scene, item, grasp, destination, pace)
        if scene.position(item)[2] > before[2] + _LIFTED:
            yield from _carry(scene, item, grasp.axes, destination, pace)
            yield from _put_down(scene, item, grasp.axes, destination, pace)
            return
        failed.append(grasp)


def take_elsewhere(scene: Scene, item: str, place: Vector, pace: float) -> Script:
    """Takes ``item`` and puts it down on the table at ``place`` (3,), whose height does not matter."""
    above_bottom = scene.position(item)[2] - scene.points(item)[:, 2].min()
    destination = np.array([place[0], place[1], scene.surface + above_bottom + 0.005])
    return pick_and_place(scene, item, lambda: destination, pace)


def drop_on_the_way(scene: Scene, item: str, destination: Callable[[], Vector], part: float, pace: float) -> Script:
    """Takes ``item`` and lets go of it in the air when it has come ``part`` of the way to ``destination()``."""
    start = scene.position(item)

    def on_the_way() -> Vector:
        return start + part * (destination() - start)

    grasp = choose_grasp(scene, item)
    yield from _pick(scene, item, grasp, destination, pace)
    yield from _carry(scene, item, grasp.axes, on_the_way, pace)
    yield from _grip(scene, scene.hand, grasp.axes, OPEN, steps=_GRIP_STEPS)


def _pick(scene: Scene, item: str, grasp: Grasp, destination: Callable[[], Vector], pace: float) -> Script:
    bottom = scene.points(item)[:, 2].min()
    above = grasp.place.copy()
    above[2] = max(above[2] + 0.06, _safe_height(scene, scene.hand, above, item) + _FINGERTIP)
    yield from _move(scene, above, grasp.axes, OPEN, pace, arrived=0.02)
    yield from _move(scene, grasp.place, grasp.axes, OPEN, pace, arrived=0.006)
    yield from _grip(scene, grasp.place, grasp.axes, CLOSED)
    lifted = grasp.place.copy()
    lifted[2] += max(_safe_height(scene, lifted, destination(), item) - bottom, 0.05)
    yield from _move(scene, lifted, grasp.axes, CLOSED, pace)


def _carry(scene: Scene, item: str, axes: Vector, destination: Callable[[], Vector], pace: float) -> Script:
    place = destination() + scene.hand - scene.position(item)
    place[2] = scene.hand[2]
    yield from _move(scene, place, axes, CLOSED, pace)


def _put_down(scene: Scene, item: str, axes: Vector, destination: Callable[[], Vector], pace: float) -> Script:
    place = destination() + scene.hand - scene.position(item)
    yield from _move(scene, place, axes, CLOSED, pace, patience=20, arrived=0.006)
    yield from _grip(scene, scene.hand, axes, OPEN)
    yield from _move(scene, scene.hand + 0.1 * UP, axes, OPEN, pace)


def hover(scene: Scene, places: list[Vector], rng: np.random.Generator, pace: float) -> Script:
    """Goes from place to place with a gripper that opens and closes at random, and lingers at each."""
    for place in places:
        yield from visit(scene, [place], float(rng.choice([OPEN, CLOSED])), pace, linger=int(rng.integers(2, 15)))


# Drawers


def push_drawer(scene: Scene, pace: float) -> Script:
    """Goes in front of the goal's drawer and pushes it shut with a closed gripper."""
    axes = scene.hand_axes
    drawer, shut = scene.position(scene.goal.subject), scene.target_position()
    inward = (shut - drawer) / np.linalg.norm(shut - drawer)
    front = drawer - _IN_FRONT * inward + _FINGERTIP * UP
    yield from _move(scene, front + 0.09 * UP, axes, CLOSED, pace, arrived=0.03)
    yield from _move(scene, front, axes, CLOSED, pace, arrived=0.02)
    yield from _move(scene, shut + 0.04 * inward + _FINGERTIP * UP, axes, CLOSED, pace, patience=90)
