"""Small recorded episodes of two made-up tasks, for tests of labels, sampling and training.

A frame shows where the hand is (a bright column that moves to the right) on a background that tells the task, so that
progress can be learned from pixels. The state has the layout of Meta-World's.
"""

from __future__ import annotations

import numpy as np

from robometer_rl.data.trajectory import Trajectory

TASKS = {
    "push": ("push the block", ("shove the block",)),
    "pull": ("pull the rope", ("tug at the rope", "haul the rope in")),
}
SIZE = 32


def make_episode(task: str, skill: str, number: int, length: int = 12) -> Trajectory:
    """An expert reaches the goal two frames before the end; anyone else stops half-way."""
    done = length - 3
    time = np.arange(length)
    place = np.minimum(time, done if skill == "expert" else done // 2) / done
    success = place >= 1.0
    state = np.zeros((length, 21), np.float32)
    state[:, 0] = place - 1.0 + 0.01 * number
    state[:, 4] = state[:, 18] = 0.01 * number
    instruction, paraphrases = TASKS[task]
    return Trajectory(
        id=f"{task}-{skill}-{number}",
        task=instruction,
        frames=_draw(task, place, number),
        quality_label="successful" if success[-1] else "suboptimal",
        data_source="made-up",
        success=success,
        state=state,
        steps=time * 3,
        instructions=paraphrases,
        skill=skill,
        metadata={"environment": task} | ({} if skill == "expert" else {"stop_step": 3 * (done // 2)}),
    )


def make_episodes_of_two_tasks(each: int = 3) -> list[Trajectory]:
    """Experts and half-way stops of both tasks."""
    return [
        make_episode(task, skill, number, length=12 + number)
        for task in TASKS
        for skill in ("expert", "stop_halfway")
        for number in range(each)
    ]


def _draw(task: str, place: np.ndarray, number: int) -> np.ndarray:
    frames = np.full((len(place), SIZE, SIZE, 3), 40 + 5 * number, np.uint8)
    frames[..., 0 if task == "push" else 2] = 120
    for frame, position in zip(frames, place, strict=True):
        column = int(position * (SIZE - 8))
        frame[:, column : column + 8, 1] = 250
    return frames
