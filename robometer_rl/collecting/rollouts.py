"""Recording one simulated episode: which frames are kept, and how it is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.trajectory import QualityLabel
from robometer_rl.frames import as_frame

__all__ = ["Moment", "Recording", "Run", "judge", "paraphrases_heard", "part_covered", "record"]

_SUBOPTIMAL = 0.25  # part of the way to the goal from which a failure counts as nearly there


class Moment(NamedTuple):
    """What a simulator knows of one time step.

    Attributes:
        success: Whether the task is done.
        distance: How far it is from being done, in metres.
        state: (D,) float32.
    """

    success: bool
    distance: float
    state: NDArray[np.float32]


class Run(Protocol):
    """An episode and whoever acts in it."""

    def start(self) -> Moment:
        """Resets the simulator."""
        ...

    def step(self) -> Moment:
        """Lets the policy act once."""
        ...

    def render(self) -> NDArray[np.uint8]:
        """The present frame (H, W, 3)."""
        ...


@dataclass(frozen=True, eq=False)
class Recording:
    """What is kept of an episode, one entry per frame; the fields of `robometer_rl.data.trajectory.Trajectory`."""

    frames: NDArray[np.uint8]
    steps: NDArray[np.int64]
    success: NDArray[np.bool_]
    state: NDArray[np.float32]
    distance: NDArray[np.float32]


def record(run: Run, max_steps: int, tail: int, frame_interval: int) -> Recording:
    """Acts out an episode; only frames that are kept are rendered.

    Kept are the reset frame, every ``frame_interval``-th after it, and the last: the end is rounded up to one.

    Args:
        run: The episode.
        max_steps: When it ends at the latest.
        tail: Steps recorded after first success.
        frame_interval: Environment steps between kept frames.
    """
    moments = [run.start()]
    frames, steps = [as_frame(run.render())], [0]
    end = _on_grid(max_steps, frame_interval)
    done_before = False
    step = 0
    while step < end:
        step += 1
        moment = run.step()
        if moment.success and not done_before:
            done_before = True
            end = min(end, _on_grid(step + tail, frame_interval))
        if step % frame_interval == 0:
            moments.append(moment)
            frames.append(as_frame(run.render()))
            steps.append(step)
    return Recording(
        np.stack(frames),
        np.array(steps),
        np.array([moment.success for moment in moments]),
        np.stack([moment.state for moment in moments]),
        np.array([moment.distance for moment in moments], np.float32),
    )


def _on_grid(step: int, interval: int) -> int:
    return -(-step // interval) * interval


def part_covered(recording: Recording) -> float:
    """Partial success in [0, 1]: 1 if done in the end, else how much of the first distance the last has covered."""
    if recording.success[-1]:
        return 1.0
    first, last = float(recording.distance[0]), float(recording.distance[-1])
    return float(np.clip(1.0 - last / max(first, 1e-6), 0.0, 1.0))


def judge(recording: Recording, stopped_on_the_way: bool) -> QualityLabel:
    """Successful if done in the end; suboptimal if undone again, stopped on the way, or a quarter of the way there."""
    if recording.success[-1]:
        return "successful"
    if recording.success.any() or part_covered(recording) >= _SUBOPTIMAL or stopped_on_the_way:
        return "suboptimal"
    return "failure"


def paraphrases_heard(paraphrases: tuple[str, ...], split: str) -> tuple[str, ...]:
    """Those that episodes of a split come with: training hears all but the last, and everyone else the last alone.

    So what is measured under other words is measured under words that the model was not trained on.
    """
    return paraphrases[:-1] if split == "train" else paraphrases[-1:]
