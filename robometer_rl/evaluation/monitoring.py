"""Choosing how long a monitor looks back, on recorded episodes of some tasks, and judging it on those of others.

What is chosen is the shortest window in which successes hardly ever fail to gain. Constants of one task say little
about another, so they are chosen on every second task and reported on the rest; with a single task, on every second
episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.labels import group_key, label_trajectories
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.evaluation.metrics import Estimate, bootstrap
from robometer_rl.frames import scored_steps
from robometer_rl.monitor import MonitorSpec, episode_states
from robometer_rl.prediction import Prediction

__all__ = ["MonitorCalibration", "MonitorRates", "Watched", "choose_monitor", "judge_monitor", "watched"]

_LONGEST_WINDOW: Final = 60
_LEAST_LOSS: Final = 0.05
_GAINED: Final = 0.02  # of labelled progress: less is standing still


@dataclass(frozen=True, eq=False)
class Watched:
    """An episode as a monitor sees it, and what is true of it.

    Attributes:
        task: What it is an attempt at.
        said: What the model says of its scored frames.
        done: (S,) bool, whether the task is done or was done before.
        stopped: The scored frame from which labelled progress gains nothing any more, in an episode that is never done;
            None where that is not known.
    """

    task: str
    said: Prediction
    done: NDArray[np.bool_]
    stopped: int | None

    @property
    def before_done(self) -> int:
        """Scored frames before the task is done."""
        return int(np.argmax(self.done)) if self.done.any() else len(self.done)


@dataclass(frozen=True)
class MonitorRates:
    """What a monitor does in episodes whose outcome is known.

    Attributes:
        tasks: Of these tasks.
        false_alarms: Part of the successes that are called stalled or regressing before they are done.
        noticed: Part of the failures that are, after their labelled progress has stopped, or ever where that is not
            known.
        delay: Median scored frames from there to the first alarm behind it; NaN if that is not known of any.
        called_done: Part of the failures that are called done.
    """

    tasks: tuple[str, ...]
    false_alarms: Estimate
    noticed: Estimate
    delay: float
    called_done: Estimate

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; null for what nothing is known of."""
        rates = {name: getattr(self, name).as_dict() for name in ("false_alarms", "noticed", "called_done")}
        return {"tasks": list(self.tasks), **rates, "delay": None if np.isnan(self.delay) else self.delay}


@dataclass(frozen=True)
class MonitorCalibration:
    """A monitor, and what it does.

    Attributes:
        spec: The monitor.
        chosen_on: On the episodes that it was chosen on.
        reported_on: On the others.
    """

    spec: MonitorSpec
    chosen_on: MonitorRates
    reported_on: MonitorRates


def watched(
    episodes: Sequence[Trajectory], said: Sequence[Prediction], done: Sequence[NDArray[np.bool_]], every: int
) -> list[Watched]:
    """Episodes with what a model says of them.

    Args:
        episodes: Recorded ones.
        said: Of each.
        done: (S,) for each, see `Watched`.
        every: Scoring interval in recorded frames.
    """
    found = []
    for episode, answer, ended, labels in zip(episodes, said, done, label_trajectories(episodes), strict=True):
        scored = scored_steps(len(episode), every)
        stopped = None
        if labels.progress_known[scored].all() and not ended.any():
            progress = labels.progress[scored]
            stopped = int(np.argmax(progress >= progress.max() - _GAINED))
        found.append(Watched(group_key(episode), answer, ended, stopped))
    return found


def choose_monitor(
    episodes: Sequence[Watched],
    spec: MonitorSpec | None = None,
    *,
    max_false_alarms: float,
    calibrated: float | None = None,
    seed: int = 0,
) -> MonitorCalibration:
    """The shortest window, and the smallest loss, with few enough false alarms on every second task.

    Args:
        episodes: Of several tasks at best.
        spec: What is kept of it: everything but ``window`` and ``loss``.
        max_false_alarms: Part of the successes that may be called stalled, and as many regressing.
        calibrated: The model's own success threshold.
        seed: Of the bootstrap.

    Raises:
        ValueError: No success to choose by in one of the halves, or none of the windows will do.
    """
    spec = spec or MonitorSpec()
    halves = _halves(episodes)
    for half in halves:
        if not any(each.done.any() for each in half):
            raise ValueError(
                f"a monitor is chosen by the successes of one half of the tasks and judged by the others; of "
                f"{len(half)} episodes in one half none succeeds: record successes of more tasks, or more of this one"
            )
    successes = [each for each in halves[0] if each.done.any()]
    for window in range(2, _LONGEST_WINDOW + 1):
        least = np.array([_least_gain(each, window) for each in successes])
        if (least < spec.gain).mean() <= max_false_alarms:
            break
    else:
        raise ValueError(
            f"more than {max_false_alarms:.0%} of the successes gain less than {spec.gain:g} in some "
            f"{_LONGEST_WINDOW} scored frames: the model does not see them advance. Allow more false alarms, score "
            "less often, or train the model on such episodes"
        )
    worst = -np.quantile(least[np.isfinite(least)], max_false_alarms, method="lower") if np.isfinite(least).any() else 0
    loss = float(np.clip(np.ceil(100 * (worst + 0.01)) / 100, _LEAST_LOSS, 1.0))
    chosen = replace(spec, window=window, loss=loss)
    return MonitorCalibration(
        chosen,
        judge_monitor(halves[0], chosen, calibrated, seed),
        judge_monitor(halves[1], chosen, calibrated, seed),
    )


def judge_monitor(
    episodes: Sequence[Watched], spec: MonitorSpec, calibrated: float | None = None, seed: int = 0
) -> MonitorRates:
    """What a monitor does in episodes; see `choose_monitor` for the arguments."""
    false_alarms, noticed, called_done, delays = [], [], [], []
    for each in episodes:
        states = np.array(episode_states(each.said, spec, calibrated))
        alarms = np.flatnonzero((states == "stalled") | (states == "regressing"))
        if each.done.any():
            false_alarms.append(bool((alarms < each.before_done).any()))
            continue
        called_done.append(bool((states == "done").any()))
        behind = alarms[alarms >= (each.stopped or 0)]
        noticed.append(bool(len(behind)))
        if each.stopped is not None and len(behind):
            delays.append(int(behind[0]) - each.stopped)
    rates = [bootstrap(np.array(part, np.float64), seed=seed) for part in (false_alarms, noticed, called_done)]
    tasks = tuple(sorted({each.task for each in episodes}))
    return MonitorRates(tasks, rates[0], rates[1], float(np.median(delays)) if delays else np.nan, rates[2])


def _least_gain(episode: Watched, window: int) -> float:
    """The least that progress gains in any window before the task is done; infinite in shorter episodes."""
    progress = episode.said.progress[: episode.before_done].astype(np.float64)
    return float((progress[window:] - progress[:-window]).min()) if len(progress) > window else np.inf


def _halves(episodes: Sequence[Watched]) -> tuple[list[Watched], list[Watched]]:
    """Every second task, or of a single one every second success and failure."""
    tasks = sorted({each.task for each in episodes})
    if len(tasks) > 1:
        parts = {task: number % 2 for number, task in enumerate(tasks)}
        return (
            [each for each in episodes if parts[each.task] == 0],
            [each for each in episodes if parts[each.task] == 1],
        )
    ordered = sorted(episodes, key=lambda each: bool(each.done.any()))
    return ordered[::2], ordered[1::2]
