"""A look at recordings before anything is trained: what is there, what was assumed, and what is missing."""

from __future__ import annotations

import hashlib
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
_LEAST_SEEDS: Final = 10  # from which episodes begin
_SAME: Final = 0.01  # progress by which labels differ at most that are the same everywhere

_ASSUMED: Final = {
    "progress": "progress was recorded",
    "distance": "from the recorded distance: 0 as in the first frame, 1 as where the task is done",
    "state": "from the recorded states: how far what success brings about still is",
    "success": "only success was recorded: successes advance in time, and the second half of what never succeeds is "
    "worth nothing. Record a distance, and half of a task is worth half",
    "outcome": "only outcomes were recorded: successes advance in time to their last frame, and the second half of "
    "what fails is worth nothing. Record success in each frame, or better a distance",
}

_SENSIBLE: Final = {"progress": "rises on the way to success", "distance": "falls on the way to success"}
"""What is expected of labels that were measured."""


@dataclass(frozen=True)
class Survey:
    """What recordings hold.

    Attributes:
        facts: Names and values, for people.
        missing: What should be recorded besides, and why; sentences.
        hopeless: Why nothing can be learned, or nothing be said of what was; sentences.
        excluded: How many flagged episodes are left out; None where no flags were given.
    """

    facts: dict[str, str]
    missing: tuple[str, ...]
    hopeless: tuple[str, ...]
    excluded: int | None = None

    def table(self, title: str) -> Table:
        """The facts as a table."""
        table = Table(title=title, title_justify="left", show_header=False)
        table.add_column(style="dim")
        table.add_column()
        for name, value in self.facts.items():
            table.add_row(name, value)
        return table


def look_at(examples: Sequence[Example], split: Split, excluded: int | None = None) -> Survey:
    """Looks at recordings and how they were divided.

    Args:
        examples: All of them, at least one.
        split: The same, divided.
        excluded: How many others were left out because they are flagged; None where no flags were given.
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
    if excluded is not None:
        facts["left out"] = f"{excluded} flagged episodes"
    pictures = _Pictures.of(examples)
    missing = [*_missing(examples, done), *_odd(examples, split, pictures)]
    return Survey(facts, tuple(missing), tuple(_hopeless(examples, split, pictures, done)), excluded)


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


def _odd(examples: Sequence[Example], split: Split, pictures: _Pictures) -> list[str]:
    """What should be set right, where enough is left to learn from."""
    odd = []
    copies = len(examples) - pictures.distinct
    if copies:
        odd.append(f"{copies} episodes show what another one shows: each counts once, leave the copies out")
    if 0 < pictures.blank < len(examples):
        odd.append(f"{pictures.blank} episodes show nothing, in one colour from end to end: record them again")
    begun_done = sum(map(_begins_done, examples))
    if 0 < begun_done < sum(example.succeeds for example in examples):
        odd.append(
            f"in {begun_done} episodes the task counts as done in the first frame: success is said of each frame, "
            "not of the whole episode"
        )
    seeds = {example.episode.seed for example in examples}
    if split.by == "seed" and 1 < len(seeds) < _LEAST_SEEDS:
        odd.append(f"there are {len(seeds)} seeds, and episodes of one seed begin alike: record each from its own")
    return odd


def _hopeless(examples: Sequence[Example], split: Split, pictures: _Pictures, done: int) -> list[str]:
    reasons = []
    if not done:
        reasons.append("no episode succeeds, so nothing shows what success looks like")
    if done == len(examples):
        reasons.append("no episode fails, so nothing shows what must not be paid, and nothing can be told apart")
    if pictures.distinct < LEAST_EPISODES:
        differ = "" if pictures.distinct == len(examples) else f" ({len(examples)} with copies of them)"
        reasons.append(
            f"{pictures.distinct} episodes{differ} are too few: what is learned from fewer than {LEAST_EPISODES} is "
            "mostly chance"
        )
    if pictures.blank == len(examples):
        reasons.append(
            f"the pictures show nothing (their pixels vary by {pictures.variation:.1f} of 255): look at them with "
            "`robometer-rl data inspect`"
        )
    elif pictures.change < _UNMOVED:
        reasons.append(
            "nothing moves in the pictures: the camera does not see the robot, or one frame was recorded over and over"
        )
    return [*reasons, *_constant_labels(examples, done), *_unjudged(examples, split, done)]


def _constant_labels(examples: Sequence[Example], done: int) -> list[str]:
    """Why labels cannot teach anything that are the same everywhere."""
    reasons = []
    for basis, sensible in _SENSIBLE.items():
        labels = [example.labels for example in examples if example.basis == basis]
        if not labels:
            continue
        undone = np.concatenate([each.progress[each.success < 1] for each in labels])
        if len(undone) and np.ptp(undone) < _SAME:
            reasons.append(
                f"the recorded {basis} is no measure of progress: by it every frame in which the task is not done is "
                f"worth {undone[0]:.2f}. Record one that {sensible}, or leave it out"
            )
    if done and done == sum(map(_begins_done, examples)):
        reasons.append(
            "in every success the task counts as done in the first frame already, so nothing shows how it is done: say "
            "of each frame whether it is done there, not of the whole episode"
        )
    return reasons


def _begins_done(example: Example) -> bool:
    return bool(example.labels.success_known[0] and example.labels.success[0] > 0)


def _unjudged(examples: Sequence[Example], split: Split, done: int) -> list[str]:
    """Why nothing can be said of what is learned."""
    seeds = {example.episode.seed for example in examples}
    if split.by == "seed" and len(seeds) == 1:
        return [
            f"every episode has the seed {seeds.pop()}, so that all begin alike and none can be kept out to judge by: "
            "record each from a seed of its own, or leave seeds out where episodes begin differently without"
        ]
    held_out = Counter(example.succeeds for example in split.held_out)
    if done and done < len(examples) and min(held_out[True], held_out[False]) < 2:
        return [
            f"of the episodes that are kept out {held_out[True]} succeed and {held_out[False]} fail, which "
            "is not enough to judge by"
        ]
    return []


@dataclass(frozen=True)
class _Pictures:
    """What the first, the middle and the last picture of each episode show.

    Attributes:
        distinct: How many episodes there are, if those with the same pictures are one; each blank one counts.
        blank: Episodes with one colour and nothing else.
        variation: Grey values that pictures vary by within themselves, on average.
        change: Grey values by which the later ones differ from the first, on average.
    """

    distinct: int
    blank: int
    variation: float
    change: float

    @classmethod
    def of(cls, examples: Sequence[Example]) -> _Pictures:
        """Looks at all episodes."""
        seen: set[bytes] = set()
        variations, changes = [], []
        for example in examples:
            last = len(example.episode) - 1
            frames = np.stack([as_frames(example.episode.frames[t : t + 1])[0] for t in (0, last // 2, last)])
            values = frames.astype(np.float32)
            # Within each channel: a screen in one colour shows nothing, whatever the colour.
            variations.append(float(values.std(axis=(1, 2)).max()))
            changes.append(float(np.abs(values[1:] - values[0]).mean()))
            if variations[-1] >= _FLAT:
                seen.add(hashlib.sha256(f"{last} {frames.shape}".encode() + frames.tobytes()).digest())
        blank = sum(variation < _FLAT for variation in variations)
        return cls(len(seen) + blank, blank, float(np.mean(variations)), float(np.mean(changes)))
