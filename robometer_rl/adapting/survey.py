"""A look at recordings before anything is trained: what is there, what was assumed, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from rich.table import Table

from robometer_rl.adapting.examples import Example, Split, outcome
from robometer_rl.evaluation.verdict import LEAST_EPISODES
from robometer_rl.frames import as_frames

__all__ = ["Survey", "look_at"]

_LEAST_OF_EACH: Final = 10  # successes, and failures
_FLAT: Final = 2.0  # grey values that pictures vary by, in which nothing can be seen
_UNMOVED: Final = 0.05  # grey values that episodes change by on average, in which nothing happens
_NEAR: Final = 0.25  # progress of a failure that has at least begun
_LOOKED_AT: Final = 40  # episodes whose pixels are looked at

_ASSUMED: Final = {
    "progress": "progress was recorded",
    "distance": "from the recorded distance: 0 as in the first frame, 1 as where the task is done",
    "state": "from the recorded states: how far what success brings about still is",
    "success": "only success was recorded: successes advance in time, and the second half of what never succeeds is "
    "worth nothing. Record a distance, and half of a task is worth half",
    "outcome": "only outcomes were recorded: successes advance in time to their last frame, and the second half of "
    "what fails is worth nothing. Record success in each frame, or better a distance",
}


@dataclass(frozen=True)
class Survey:
    """What recordings hold.

    Attributes:
        facts: Names and values, for people.
        missing: What should be recorded besides, and why; sentences.
        hopeless: Why nothing can be learned, or nothing be said of what was; sentences.
    """

    facts: dict[str, str]
    missing: tuple[str, ...]
    hopeless: tuple[str, ...]

    def table(self, title: str) -> Table:
        """The facts as a table."""
        table = Table(title=title, title_justify="left", show_header=False)
        table.add_column(style="dim")
        table.add_column()
        for name, value in self.facts.items():
            table.add_row(name, value)
        return table


def look_at(examples: Sequence[Example], split: Split) -> Survey:
    """Looks at recordings and how they were divided.

    Args:
        examples: All of them, at least one.
        split: The same, divided.
    """
    tasks = Counter(example.task for example in examples)
    outcomes = Counter(outcome(example) for example in examples)
    done = sum(example.succeeds for example in examples)
    sizes = Counter(example.episode.clip().size for example in examples)
    basis = Counter(example.basis for example in examples)
    kept = f"{len(split.held_out)} episodes kept out, by {split.by}, to choose, calibrate and judge by"
    unseeded = "" if split.by == "seed" else " (they have no seeds: episodes that begin alike may be on both sides)"
    facts = {
        "episodes": f"{len(examples)}, of which {done} succeed",
        "tasks": _counted(tasks),
        "outcomes": _counted(outcomes),
        "frames": ", ".join(f"{height} x {width}" for height, width in sizes),
        "worth of a frame": "; ".join(f"{_ASSUMED[name]} ({count})" for name, count in basis.items()),
        "training": f"{len(split.training)} episodes; {kept}{unseeded}",
    }
    return Survey(facts, tuple(_missing(examples, done)), tuple(_hopeless(examples, split, done)))


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common())


def _missing(examples: Sequence[Example], done: int) -> list[str]:
    missing = []
    failures = [example for example in examples if not example.succeeds]
    if len(examples) < LEAST_EPISODES:
        missing.append(f"there are {len(examples)} episodes: record {2 * LEAST_EPISODES} or more, of several kinds")
    if done < _LEAST_OF_EACH:
        missing.append(f"{done} episodes succeed: record {2 * _LEAST_OF_EACH} successes")
    if len(failures) < _LEAST_OF_EACH:
        missing.append(
            f"{len(failures)} episodes fail: record {2 * _LEAST_OF_EACH} failures of the kinds that a learning agent "
            "will make: random motion, stopping half-way, the wrong place"
        )
    best = [float(example.labels.progress.max()) for example in failures if example.measured]
    if len(best) >= _LEAST_OF_EACH and max(best) < _NEAR:
        missing.append(
            f"no failure gets anywhere near (the best is worth {max(best):.2f}): record 20 that stop "
            "half-way, drop it, or bring it to the wrong place"
        )
    if len(best) >= _LEAST_OF_EACH and min(best) > _NEAR:
        missing.append(f"every failure gets somewhere (the worst is worth {min(best):.2f}): record 10 of random motion")
    return missing


def _hopeless(examples: Sequence[Example], split: Split, done: int) -> list[str]:
    reasons = []
    if not done:
        reasons.append("no episode succeeds, so nothing shows what success looks like")
    if done == len(examples):
        reasons.append("no episode fails, so nothing shows what must not be paid, and nothing can be told apart")
    if len(examples) < LEAST_EPISODES:
        reasons.append(
            f"{len(examples)} episodes are too few: what is learned from fewer than {LEAST_EPISODES} is mostly chance"
        )
    variation, change = _pixels(examples)
    if variation < _FLAT:
        reasons.append(
            f"the pictures show nothing (their pixels vary by {variation:.1f} of 255): look at them with "
            "`robometer-rl data inspect`"
        )
    elif change < _UNMOVED:
        reasons.append(
            "nothing moves in the pictures: the camera does not see the robot, or one frame was recorded over and over"
        )
    held_out = Counter(example.succeeds for example in split.held_out)
    if done and done < len(examples) and min(held_out[True], held_out[False]) < 2:
        reasons.append(
            f"of the episodes that are kept out {held_out[True]} succeed and {held_out[False]} fail, which "
            "is not enough to judge by"
        )
    return reasons


def _pixels(examples: Sequence[Example]) -> tuple[float, float]:
    """Standard deviation of pixels within a picture, and mean change between first, middle and last frames."""
    deviations, changes = [], []
    for example in examples[:: max(len(examples) // _LOOKED_AT, 1)]:
        last = len(example.episode) - 1
        frames = [as_frames(example.episode.frames[t : t + 1])[0].astype(np.float32) for t in (0, last // 2, last)]
        deviations += [float(frame.std()) for frame in frames]
        changes += [float(np.abs(frame - frames[0]).mean()) for frame in frames[1:]]
    return float(np.mean(deviations)), float(np.mean(changes))
