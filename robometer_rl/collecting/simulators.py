"""The simulators that can be recorded, side by side: what `robometer_rl.collecting.collect` needs to know of each."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from robometer_rl.collecting import libero_scene, libero_skills, metaworld_skills
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.envs import metaworld

__all__ = ["LIBERO", "METAWORLD", "SIMULATORS", "SKILLS", "Simulator", "simulator_of"]


@dataclass(frozen=True)
class Simulator:
    """How episodes of one simulator are recorded.

    Attributes:
        tasks: Names of its tasks; no two simulators share one.
        skills_of: The skills that a task can be acted out at.
        make_env: Builds the environment of a task, with frames of ``size=`` pixels.
        record_episode: Records an episode: see `robometer_rl.collecting.metaworld_skills.record_episode`.
        prefix: What the ids of its trajectories begin with, in front of the task.
        frame_interval: Environment steps between kept frames of a task, so that an episode has about 30 of them.
        batch: Episodes per process: long enough to pay for its start, short enough to balance workers and tasks.
    """

    tasks: Collection[str]
    skills_of: Callable[[str], tuple[str, ...]]
    make_env: Callable[..., Any]
    record_episode: Callable[..., Trajectory]
    prefix: str
    frame_interval: Callable[[str], int]
    batch: int


METAWORLD = Simulator(
    tasks=metaworld.TASKS,
    skills_of=lambda _: metaworld_skills.SKILLS,
    make_env=metaworld.make_env,
    record_episode=metaworld_skills.record_episode,
    prefix=f"{metaworld_skills.DATA_SOURCE}-",
    frame_interval=lambda _: 3,
    batch=16,
)
LIBERO = Simulator(
    tasks=libero_scene.TASKS,
    skills_of=libero_skills.skills_of,
    make_env=libero_scene.make_env,
    record_episode=libero_skills.record_episode,
    prefix="",  # the names of its tasks begin with those of its suites
    frame_interval=lambda task: 4 if libero_scene.TASKS[task].moves_an_object else 2,
    batch=4,
)
SIMULATORS = (METAWORLD, LIBERO)

SKILLS = tuple(dict.fromkeys((*metaworld_skills.SKILLS, *libero_skills.SKILLS)))
"""Every skill that some simulator knows."""


def simulator_of(task: str) -> Simulator:
    """The simulator that has ``task``.

    Raises:
        ValueError: None has; the message lists all tasks.
    """
    for simulator in SIMULATORS:
        if task in simulator.tasks:
            return simulator
    raise ValueError(
        f"unknown task {task!r}; expected one of {[name for each in SIMULATORS for name in sorted(each.tasks)]}"
    )
