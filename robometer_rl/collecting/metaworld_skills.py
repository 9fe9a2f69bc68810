"""Recorded Meta-World episodes by policies that differ in skill.

A reward model that has only seen experts takes any motion for progress, and pays for poses that no expert visits. So
the same task, with goals drawn the same way, is also acted out badly: with noise, half-way, in the wrong place, at
random, and as an agent explores, close to the object and to the goal. Every episode is planned from a rehearsal: the
expert on the same goal, without rendering. So bad episodes are about as long as good ones, and nothing can be read
off the length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from robometer_rl.collecting.metaworld_policies import (
    Action,
    ExpertPolicy,
    FlailPolicy,
    NoisyPolicy,
    Observation,
    Policy,
    RandomPolicy,
    StopHalfwayPolicy,
    SwitchPolicy,
    Visit,
    VisitPolicy,
    WrongPlacePolicy,
)
from robometer_rl.collecting.rollouts import Moment, judge, paraphrases_heard, part_covered, record
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.envs.metaworld import CAMERA, CONTROL_HZ, MetaWorldEnv, state_of

__all__ = ["DATA_SOURCE", "SKILLS", "Plan", "Skill", "record_episode", "record_policy"]

DATA_SOURCE = "metaworld"

Skill = Literal[
    "expert", "noisy", "stop_halfway", "wrong_place", "random", "hover", "undo", "wrong_push", "flail"
]  # fmt: skip
SKILLS: tuple[Skill, ...] = get_args(Skill)

_PATIENCE = 200  # steps after which a rehearsal counts as failed
_TOUCHED = 0.005  # metres that the object has moved when the expert is said to have it
_SETTLED = 5  # steps after which objects that fall at reset lie still, and no expert has come near one
_LOW, _HIGH = np.array([-0.45, 0.4, 0.04]), np.array([0.45, 0.95, 0.45])  # where explorers take the hand
_HAND, _OBJECT, _SECOND, _GOAL = slice(0, 3), slice(4, 7), slice(11, 14), slice(36, 39)


@dataclass(frozen=True, eq=False)
class _Scene:
    """What a plan is made from.

    Attributes:
        task: Name in `robometer_rl.envs.metaworld.TASKS`.
        rng: Source of everything that is drawn.
        pace: Of the expert's hand.
        tail: Steps recorded after first success.
        observations: (N + 1, 39) of the rehearsal.
        actions: (N, 4) of the rehearsal.
        success_step: Number of steps in which the expert succeeds; None if it does not.
    """

    task: str
    rng: np.random.Generator
    pace: float
    tail: int
    observations: NDArray[np.float64]
    actions: NDArray[np.float32]
    success_step: int | None

    @property
    def usual(self) -> int:
        """Steps that the expert takes."""
        return _PATIENCE if self.success_step is None else self.success_step

    @property
    def start(self) -> Observation:
        """The reset observation."""
        return self.observations[0]

    @property
    def path(self) -> NDArray[np.float64]:
        """The expert's hand (N + 1, 3)."""
        return self.observations[:, _HAND]

    @property
    def touch_step(self) -> int:
        """When the expert begins to move an object; half-way where it moves none."""
        things = np.concatenate([self.observations[:, _OBJECT], self.observations[:, _SECOND]], axis=1)[_SETTLED:]
        moved = np.abs(things - things[0]).max(axis=1) > _TOUCHED
        return _SETTLED + int(np.argmax(moved)) if moved.any() else len(self.actions) // 2

    def expert(self) -> ExpertPolicy:
        """The policy that was rehearsed, from the beginning."""
        return ExpertPolicy(self.task, self.pace)

    def grip(self, step: int) -> float:
        """The expert's gripper effort at ``step``."""
        return float(self.actions[min(step, len(self.actions) - 1), 3])


@dataclass(frozen=True)
class Plan:
    """One episode, before it is recorded.

    Attributes:
        policy: Who acts.
        max_steps: When it ends at the latest.
        tail: Steps recorded after first success.
        facts: What was drawn, for the metadata.
    """

    policy: Policy
    max_steps: int
    tail: int
    facts: dict[str, Any] = field(default_factory=dict)


def _plan(env: gym.Env[Any, Any], task: str, skill: Skill, seed: int, rng: np.random.Generator) -> Plan:
    pace = float(rng.uniform(0.7, 1.0))
    tail = int(rng.integers(8, 25))
    scene = _rehearse(env, task, seed, rng, pace, tail)
    plan = _PLANNERS[skill](scene)
    facts = {"pace": pace, "expert_success_step": scene.success_step, **plan.facts}
    return Plan(plan.policy, plan.max_steps, plan.tail, facts)


def _rehearse(env: gym.Env[Any, Any], task: str, seed: int, rng: np.random.Generator, pace: float, tail: int) -> _Scene:
    policy = ExpertPolicy(task, pace)
    observation, info = env.reset(seed=seed)
    observations: list[Observation] = [observation]
    actions: list[Action] = []
    while len(actions) < _PATIENCE and not (actions and info["is_success"]):
        actions.append(policy.act(observation, info["is_success"]))
        observation, _, _, _, info = env.step(actions[-1])
        observations.append(observation)
    success_step = len(actions) if info["is_success"] else None
    return _Scene(task, rng, pace, tail, np.stack(observations), np.stack(actions), success_step)


def _expert(scene: _Scene) -> Plan:
    return Plan(scene.expert(), scene.usual + scene.tail, scene.tail)


def _noisy(scene: _Scene) -> Plan:
    noise = float(scene.rng.uniform(0.2, 1.0))
    policy = NoisyPolicy(scene.expert(), scene.rng, noise)
    return Plan(policy, int(1.25 * scene.usual) + scene.tail, scene.tail, {"noise": noise})


def _stop_halfway(scene: _Scene) -> Plan:
    stop_step = round(scene.usual * float(scene.rng.uniform(0.3, 0.7)))
    policy = StopHalfwayPolicy(scene.expert(), stop_step)
    return Plan(policy, scene.usual + scene.tail, scene.tail, {"stop_step": stop_step})


def _go_to_wrong_place(scene: _Scene) -> Plan:
    rng = scene.rng
    leave_step = round(scene.usual * float(rng.uniform(0.1, 0.6))) if rng.random() < 0.4 else 0
    place = _wrong_place(rng, around=scene.start[_OBJECT], goal=scene.start[_GOAL])
    grip_every = int(rng.integers(8, 25)) if rng.random() < 0.5 else 0
    policy = WrongPlacePolicy(scene.expert(), leave_step, place, scene.pace, grip_every)
    facts = {"leave_step": leave_step, "place": place.tolist()}
    return Plan(policy, scene.usual + scene.tail, scene.tail, facts)


def _random(scene: _Scene) -> Plan:
    noise = float(scene.rng.uniform(0.4, 1.2))
    return Plan(RandomPolicy(scene.rng, noise), scene.usual + scene.tail, scene.tail, {"noise": noise})


def _wrong_place(
    rng: np.random.Generator, around: NDArray[np.float64], goal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A hand position off the object and the goal: beside the object half of the time, else anywhere in reach."""
    low, high = np.array([-0.35, 0.45, 0.08]), np.array([0.35, 0.9, 0.4])
    while True:
        if rng.random() < 0.5:
            direction = rng.standard_normal(3)
            place = around + rng.uniform(0.1, 0.2) * direction / np.linalg.norm(direction)
        else:
            place = rng.uniform(low, high)
        place = np.clip(place, low, high)
        if min(np.linalg.norm(place - around), np.linalg.norm(place - goal)) >= 0.09:
            return place


def _hover(scene: _Scene) -> Plan:
    """Places beside the object, the goal and the expert's path, one after another, without acting."""
    rng = scene.rng
    visits = []
    for _ in range(5):
        near = str(rng.choice(["object", "goal", "end", "path"]))
        anchor = {
            "object": scene.start[_OBJECT],
            "goal": scene.start[_GOAL],
            "end": scene.path[-1],
            "path": scene.path[rng.integers(len(scene.path))],
        }[near]
        away = _direction(rng)
        away[2] = abs(away[2]) if rng.random() < 0.7 else away[2]  # most tasks are acted out from above
        place = anchor + rng.uniform(0.03, 0.12) * away
        grip = float(rng.choice([-1.0, 1.0]))
        if rng.random() < 0.7:  # else the hand sweeps over whatever stands between
            visits.append(Visit(_above(place), grip))
        visits.append(Visit(place, grip, linger=int(rng.integers(5, 30))))
    tremor = float(rng.uniform(0.0, 0.4))
    policy = VisitPolicy(_in_reach(visits), rng, scene.pace, tremor)
    return Plan(policy, _explorers_time(scene), scene.tail, {"tremor": tremor})


def _undo(scene: _Scene) -> Plan:
    """Done, in part or in full, and then: the way back, the object pushed back, or on beyond the goal."""
    rng = scene.rng
    if scene.success_step is not None and rng.random() < 0.5:
        turn_step = scene.success_step + int(rng.integers(0, 8))
    else:
        turn_step = scene.touch_step + round(float(rng.uniform(0.3, 1.0)) * (scene.usual - scene.touch_step))
    turn = min(turn_step, len(scene.actions))
    hand, grip = scene.path[turn], scene.grip(turn - 1)
    moved = _displacement(scene, turn)
    how = str(rng.choice(["retrace", "push_back", "overshoot"]))
    if how == "retrace":
        visits = [Visit(place, grip) for place in scene.path[turn::-4]]
    elif how == "push_back":
        thing = _moved_thing(scene)
        front, back = scene.observations[turn, thing] + 0.08 * moved, scene.start[thing] - 0.08 * moved
        visits = [Visit(_above(front)), Visit(front), Visit(back)]
    else:
        visits = [Visit(hand + rng.uniform(0.08, 0.2) * moved, grip)]
    policy = SwitchPolicy(scene.expert(), turn_step, VisitPolicy(_in_reach(visits), rng))
    max_steps = turn_step + int(rng.integers(30, 70)) + scene.tail
    return Plan(policy, max_steps, max_steps, {"turn_step": turn_step, "how": how})


def _wrong_push(scene: _Scene) -> Plan:
    """Moves the object, but elsewhere; or does all that the expert does, but beside the object."""
    rng = scene.rng
    how = str(rng.choice(["push", "beside", "drag"]))
    leave_step = 0
    if how == "push":
        visits = _push_elsewhere(scene)
    elif how == "beside":
        offset = rng.uniform(0.05, 0.12) * _direction(rng)
        steps = [*range(0, len(scene.actions), 4), len(scene.actions)]
        visits = [Visit(scene.path[step] + offset, scene.grip(step)) for step in steps]
    else:
        leave_step = scene.touch_step + round(float(rng.uniform(0.1, 0.7)) * (scene.usual - scene.touch_step))
        leave_step = min(leave_step, len(scene.actions))
        place = _wrong_place(rng, around=scene.start[_OBJECT], goal=scene.start[_GOAL])
        visits = [Visit(place, scene.grip(leave_step))]
    then = VisitPolicy(_in_reach(visits), rng, scene.pace, tremor=0.1)
    policy = SwitchPolicy(scene.expert(), leave_step, then)
    return Plan(policy, _explorers_time(scene), scene.tail, {"leave_step": leave_step, "how": how})


def _push_elsewhere(scene: _Scene) -> list[Visit]:
    rng, thing = scene.rng, scene.start[_OBJECT]
    towards = (scene.start[_GOAL] - thing)[:2]
    while True:
        angle = rng.uniform(0.0, 2.0 * np.pi)
        way = np.array([np.cos(angle), np.sin(angle), 0.0])
        if way[:2] @ towards <= 0.5 * np.linalg.norm(towards):
            break
    grip = float(rng.choice([-1.0, 1.0]))
    behind = thing - rng.uniform(0.07, 0.1) * way
    visits = [Visit(behind, grip), Visit(thing + rng.uniform(0.05, 0.2) * way, grip, linger=10)]
    if rng.random() < 0.7:  # else the hand sweeps over whatever stands between
        visits.insert(0, Visit(_above(behind), grip))
    if rng.random() < 0.5:
        visits.append(Visit(_above(behind)))
    return visits


def _flail(scene: _Scene) -> Plan:
    rng = scene.rng
    anchors = [scene.start[_OBJECT], scene.start[_GOAL], scene.path[-1], scene.path[scene.touch_step]]
    around = _above(anchors[rng.integers(len(anchors))], float(rng.uniform(0.0, 0.08)))
    hold = int(np.exp(rng.uniform(np.log(2.0), np.log(25.0))))
    radius = float(rng.uniform(0.06, 0.2))
    leave_step = round(scene.touch_step * float(rng.uniform(0.3, 1.0))) if rng.random() < 0.4 else 0
    policy = SwitchPolicy(scene.expert(), leave_step, FlailPolicy(rng, around, radius, hold))
    return Plan(policy, _explorers_time(scene), scene.tail, {"hold": hold, "leave_step": leave_step})


def _explorers_time(scene: _Scene) -> int:
    """An agent that finds nothing goes on to the time limit; recorded explorers go on for a while."""
    return round(max(scene.usual, 60) * float(scene.rng.uniform(0.9, 1.5))) + scene.tail


def _direction(rng: np.random.Generator) -> NDArray[np.float64]:
    direction = rng.standard_normal(3)
    return direction / np.linalg.norm(direction)


def _above(place: NDArray[np.float64], height: float = 0.12) -> NDArray[np.float64]:
    return place + np.array([0.0, 0.0, height])


def _moved_thing(scene: _Scene) -> slice:
    """Which of the two objects the expert has moved further: a stick is only the means."""
    way = scene.observations[-1] - scene.start
    return _SECOND if np.linalg.norm(way[_SECOND]) > np.linalg.norm(way[_OBJECT]) else _OBJECT


def _displacement(scene: _Scene, step: int) -> NDArray[np.float64]:
    """The direction (3,) in which the expert has moved the object by ``step``; its hand's where it has moved none."""
    way = scene.observations[step] - scene.start
    moved = way[_moved_thing(scene)]
    if np.linalg.norm(moved) < _TOUCHED:
        moved = way[_HAND]
    return moved / max(float(np.linalg.norm(moved)), 1e-6)


def _in_reach(visits: list[Visit]) -> list[Visit]:
    return [Visit(np.clip(visit.place, _LOW, _HIGH), visit.gripper, visit.linger) for visit in visits]


_PLANNERS: Mapping[Skill, Callable[[_Scene], Plan]] = {
    "expert": _expert,
    "noisy": _noisy,
    "stop_halfway": _stop_halfway,
    "wrong_place": _go_to_wrong_place,
    "random": _random,
    "hover": _hover,
    "undo": _undo,
    "wrong_push": _wrong_push,
    "flail": _flail,
}


def record_episode(
    env: gym.Env[Any, Any],
    skill: Skill,
    seeds: np.random.SeedSequence,
    *,
    trajectory_id: str,
    split: str = "train",
    frame_interval: int = 3,
) -> Trajectory:
    """Acts out and records one episode; the same seeds give the same trajectory, whatever ``env`` did before.

    Only frames that are kept are rendered: the reset frame, every ``frame_interval``-th after it, and the last.
    Successful means done in the last frame. Suboptimal is an episode that was done and undone, that stopped on the
    way, or that covered a quarter of the simulator's distance to the goal; its partial success is the part covered.

    Args:
        env: As `robometer_rl.envs.metaworld.make_env` makes it.
        skill: Who acts.
        seeds: Source of the goal and of everything the policy draws.
        trajectory_id: The id to record under.
        split: The split to record under; it decides which paraphrases are kept, see `paraphrases_heard`.
        frame_interval: Environment steps between kept frames.

    Raises:
        BlankFrameError: A frame has one colour only.
    """
    metaworld = env.unwrapped
    assert isinstance(metaworld, MetaWorldEnv)
    seed = int(seeds.generate_state(1)[0] >> 1)
    plan = _plan(env, metaworld.task, skill, seed, np.random.default_rng(seeds))
    return record_policy(
        env, plan, seed, skill=skill, trajectory_id=trajectory_id, split=split, frame_interval=frame_interval
    )


def record_policy(
    env: gym.Env[Any, Any],
    plan: Plan,
    seed: int,
    *,
    skill: str,
    trajectory_id: str,
    split: str = "train",
    frame_interval: int = 3,
) -> Trajectory:
    """Records one episode of any policy, such as an agent that is still learning; see `record_episode`.

    Args:
        env: As `robometer_rl.envs.metaworld.make_env` makes it.
        plan: Who acts, and for how long.
        seed: Of the environment.
        skill: What to call whoever acts.
        trajectory_id: The id to record under.
        split: The split to record under; it decides which paraphrases are kept, see `paraphrases_heard`.
        frame_interval: Environment steps between kept frames.

    Raises:
        BlankFrameError: A frame has one colour only.
    """
    metaworld = env.unwrapped
    assert isinstance(metaworld, MetaWorldEnv)
    kept = record(_Run(env, plan.policy, seed), plan.max_steps, plan.tail, frame_interval)
    return Trajectory(
        id=trajectory_id,
        task=metaworld.instruction,
        frames=kept.frames,
        quality_label=judge(kept, stopped_on_the_way=skill == "stop_halfway"),
        data_source=DATA_SOURCE,
        partial_success=part_covered(kept),
        success=kept.success,
        state=kept.state,
        distance=kept.distance,
        steps=kept.steps,
        instructions=paraphrases_heard(metaworld.paraphrases, split),
        skill=skill,
        seed=seed,
        split=split,
        metadata={
            "environment": metaworld.task,
            "camera": CAMERA,
            "control_hz": CONTROL_HZ,
            "frame_interval": frame_interval,
            "metaworld": version("metaworld"),
            "mujoco": version("mujoco"),
            **plan.facts,
        },
    )


class _Run:
    """One episode of a policy in an environment."""

    def __init__(self, env: gym.Env[Any, Any], policy: Policy, seed: int) -> None:
        self._env = env
        self._policy = policy
        self._seed = seed

    def start(self) -> Moment:
        return self._note(*self._env.reset(seed=self._seed))

    def step(self) -> Moment:
        observation, _, _, _, info = self._env.step(self._policy.act(self._observation, self._done))
        return self._note(observation, info)

    def render(self) -> NDArray[np.uint8]:
        frame: Any = self._env.render()
        return frame

    def _note(self, observation: Observation, info: dict[str, Any]) -> Moment:
        self._observation = observation
        self._done: bool = info["is_success"]
        return Moment(self._done, info["distance"], state_of(observation))
