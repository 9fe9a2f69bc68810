"""What is learned from each episode, and which episodes are kept out to be judged by."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from robometer_rl.data.labels import FrameLabels, group_key, has_known_layout, label_trajectories
from robometer_rl.data.subsampling import kept_frames, thin
from robometer_rl.data.trajectory import Trajectory

__all__ = ["MOST_FRAMES", "Example", "Split", "make_examples", "outcome", "split_examples"]

MOST_FRAMES = 48
"""Frames of an episode that are looked at, spread evenly over it."""


@dataclass(frozen=True, eq=False)
class Example:
    """An episode and what its frames are worth.

    Attributes:
        episode: With `MOST_FRAMES` frames at most.
        labels: Of these frames.
        basis: What the labels were taken from: ``progress``, ``distance``, ``state``, ``success`` or ``outcome``.
        measured: Whether progress was measured in every frame, so that a model can be held against it.
    """

    episode: Trajectory
    labels: FrameLabels
    basis: str
    measured: bool

    @property
    def succeeds(self) -> bool:
        """Whether the task is done in some frame."""
        return bool(self.labels.success.any())

    @property
    def task(self) -> str:
        """What it is an attempt at."""
        return group_key(self.episode)

    @property
    def texts(self) -> tuple[str, ...]:
        """Its instruction and paraphrases."""
        return (self.episode.task, *self.episode.instructions)


def make_examples(trajectories: Sequence[Trajectory]) -> list[Example]:
    """Labels episodes; every failure is worth something.

    Where only success was judged, nobody measured what failures are worth. Then the frames of the second half of an
    episode without success are worth nothing, and those before are left open, since they may look like those of a
    success. What is learned is then how far time has come, times the chance that such a frame leads to success. That
    orders episodes rightly and pays nothing for what never succeeds, and pays too little for half of a task.

    Raises:
        TrajectoryError: States of different widths in one task.
    """
    labels = label_trajectories(trajectories)
    examples = []
    for trajectory, known in zip(trajectories, labels, strict=True):
        measured = bool(known.progress_known.all())
        basis = _basis(trajectory, measured)
        example = Example(trajectory, known if measured else _supervised(trajectory, known), basis, measured)
        indices = kept_frames(len(trajectory), max_frames=MOST_FRAMES)
        kept = thin(trajectory, max_frames=MOST_FRAMES)
        examples.append(replace(example, episode=kept, labels=example.labels.at(indices)))
    return examples


def outcome(example: Example) -> str:
    """What an episode is called in tables: its skill, or where none was recorded how it ended."""
    return example.episode.skill or ("success" if example.succeeds else "failure")


def _basis(trajectory: Trajectory, measured: bool) -> str:
    if trajectory.progress is not None:
        return "progress"
    if trajectory.state is not None and has_known_layout(trajectory) and measured:
        return "state"
    if trajectory.distance is not None:
        return "distance"
    if trajectory.state is not None and measured and trajectory.success is not None:
        return "state"
    return "outcome" if trajectory.success is None else "success"


def _supervised(trajectory: Trajectory, labels: FrameLabels) -> FrameLabels:
    """Labels in which the end of what never succeeds is worth nothing, unless something else is known of it."""
    if labels.success.any() or trajectory.quality_label == "successful":
        return labels
    late = np.arange(len(trajectory)) >= len(trajectory) // 2
    return replace(labels, progress_known=labels.progress_known | late)


@dataclass(frozen=True)
class Split:
    """Episodes to train on, and others to stop, calibrate and judge by.

    Attributes:
        training: Trained on.
        held_out: Never trained on.
        by: ``seed``, or ``episode`` where episodes have none.
    """

    training: list[Example]
    held_out: list[Example]
    by: str


def split_examples(
    examples: Sequence[Example],
    fraction: float,
    seed: int,
    trained_on: Collection[str] = (),
    kept: Collection[str] = (),
) -> Split:
    """Keeps a part of the seeds out, of successes and of failures of each task and kind alike.

    Episodes with one seed begin alike and stay together.

    Args:
        examples: All of them.
        fraction: Part that is kept out.
        seed: Of the choice.
        trained_on: Ids of episodes that the model has been trained on: they can judge it no more.
        kept: Ids of episodes that were kept out then, and are again.
    """
    trained, before = frozenset(trained_on), frozenset(kept)
    seeds = [example.episode.seed for example in examples]
    by_seed = all(each is not None for each in seeds)
    units: dict[object, list[int]] = {}
    for index, each in enumerate(seeds):
        units.setdefault((examples[index].task, each) if by_seed else index, []).append(index)
    strata: dict[tuple[str, str, bool], list[list[int]]] = {}
    held_out: set[int] = set()
    for members in units.values():
        first = examples[members[0]]
        ids = {examples[index].episode.id for index in members}
        if ids & trained:
            continue
        if ids & before:
            held_out.update(members)
            continue
        strata.setdefault((first.task, outcome(first), first.succeeds), []).append(members)
    rng = np.random.default_rng(seed)
    carried = 0.0
    for key in sorted(strata):
        groups = strata[key]
        carried += fraction * len(groups)
        # One of a kind is trained on; what is due is made up for by the next kind.
        count = min(int(carried + 0.5), len(groups) - 1)
        carried -= count
        chosen = rng.permutation(len(groups))[:count]
        held_out.update(index for number in chosen for index in groups[number])
    training = [example for index, example in enumerate(examples) if index not in held_out]
    return Split(training, [examples[index] for index in sorted(held_out)], "seed" if by_seed else "episode")
