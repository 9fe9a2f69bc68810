"""What a model is asked in the reference's evaluations: which episodes are drawn, and which frames are shown.

Draws are those of Python's ``random.Random(seed)`` in the order in which the reference makes them, so that the same
episodes are judged. Lists that the reference keeps in sets, whose order changes from run to run, are sorted here.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Final

import numpy as np

from robometer_rl.data.trajectory import Trajectory
from robometer_rl.evaluation.ranking import QUALITY_RANKS

__all__ = [
    "Dataset",
    "Drawing",
    "Pair",
    "Question",
    "alignment_questions",
    "by_episode",
    "confusion_questions",
    "grade_level",
    "preference_pairs",
    "ranking_questions",
    "shown_frames",
]

_LEAST_FRAMES: Final = 6  # of episodes that are filtered by quality


@dataclass(frozen=True)
class Dataset:
    """Episodes that are judged together.

    Attributes:
        names: Of the sets that they are from, more than one if these are judged jointly.
        episodes: Of robots, in the order of the sets.
        compared: Positions of two episodes of which people said that the first one is better; None where nobody was
            asked.
    """

    names: tuple[str, ...]
    episodes: tuple[Trajectory, ...]
    compared: tuple[tuple[int, int], ...] | None = None

    @property
    def graded(self) -> bool:
        """Whether outcomes are graded, as the first episode has it."""
        return self.episodes[0].partial_success is not None


@dataclass(frozen=True)
class Drawing:
    """Which episodes are drawn, and how they are shown.

    Attributes:
        max_frames: T, most frames of a question; longer clips are thinned evenly to it.
        padded: Repeat the last frame of shorter clips up to T, as the reference does.
        prefixes: Growing prefixes of an episode instead of the whole: so many, or 0 for one per frame; None for the
            whole episode.
        trajectories: Alignment: most episodes of a set; None for all.
        per_quality: Ranking: most episodes of each task and quality; None for all.
        tasks: Ranking: most tasks; None for all.
        graded: Ranking by graded outcomes: most episodes of a task.
        per_task: Preference: most pairs of a task; None for all.
        pairs: Preference: most pairs in all; None for all.
        seed: Of the draws.
    """

    max_frames: int = 8
    padded: bool = False
    prefixes: int | None = None
    trajectories: int | None = 10
    per_quality: int | None = None
    tasks: int | None = 20
    graded: int = 5
    per_task: int | None = None
    pairs: int | None = 100
    seed: int = 42


@dataclass(frozen=True, eq=False)
class Question:
    """A clip that a model is asked about.

    Attributes:
        episode: What it is cut from.
        task: The instruction that is asked about.
        frames: The recorded frame in each slot; the last is repeated where the clip is padded.
        last: The last frame of a prefix; None of a whole episode.
    """

    episode: Trajectory
    task: str
    frames: tuple[int, ...]
    last: int | None = None

    @property
    def real(self) -> int:
        """Slots that are no padding: they come first."""
        return len(set(self.frames))

    def targets(self, corrected: bool) -> list[float]:
        """What each slot is worth.

        Args:
            corrected: Linear from 0 in the first frame to 1 at the first success, or at the last frame where success
                was not judged frame by frame. Else as the reference has it: (i + 1) / N, and for a graded outcome
                other than 1 it alone, in the last frame.
        """
        count, grade = len(self.episode), self.episode.partial_success
        if corrected:
            done = self.episode.success_index or count - 1
            return [min(frame / done, 1.0) for frame in self.frames]
        if grade is not None and grade != 1.0:
            return [grade if frame == count - 1 else 0.0 for frame in self.frames]
        return [(frame + 1) / count for frame in self.frames]


@dataclass(frozen=True)
class Pair:
    """Two questions of one task, about a better and a worse episode."""

    better: Question
    worse: Question


def shown_frames(count: int, max_frames: int, padded: bool) -> tuple[int, ...]:
    """Which of ``count`` frames are shown: ``rint(linspace(0, count - 1, max_frames))`` of longer clips.

    Examples:
        >>> shown_frames(32, 8, padded=False)
        (0, 4, 9, 13, 18, 22, 27, 31)
        >>> shown_frames(3, 5, padded=True)
        (0, 1, 2, 2, 2)
    """
    if count > max_frames:
        return tuple(int(frame) for frame in np.rint(np.linspace(0, count - 1, max_frames)))
    return (*range(count), *([count - 1] * (max_frames - count if padded else 0)))


def _question(episode: Trajectory, drawing: Drawing, last: int | None = None, task: str | None = None) -> Question:
    count = len(episode) if last is None else last + 1
    return Question(episode, task or episode.task, shown_frames(count, drawing.max_frames, drawing.padded), last)


def _prefixed(episodes: Iterable[Trajectory], drawing: Drawing, every_frame: bool = False) -> list[Question]:
    questions = []
    for episode in episodes:
        ends: Iterable[int | None] = [None]
        if drawing.prefixes is not None:
            ends, few = range(len(episode)), drawing.prefixes
            if few and not every_frame and few <= len(episode):
                ends = np.linspace(0, len(episode) - 1, few).astype(int).tolist()
        questions += [_question(episode, drawing, end) for end in ends]
    return questions


def _of_quality(dataset: Dataset, *labels: str) -> list[Trajectory]:
    """As the reference filters, which leaves a single set of RoboReward as it is."""
    rows = list(dataset.episodes)
    if len(dataset.names) == 1 and "roboreward" in dataset.names[0]:
        return rows
    kept = [each for each in rows if each.quality_label in labels and len(each) >= _LEAST_FRAMES]
    if len(kept) == len(rows):
        return kept
    solved = {each.task for each in kept if each.quality_label == "successful"}
    return [each for each in kept if each.partial_success is not None or each.task in solved]


def alignment_questions(dataset: Dataset, drawing: Drawing) -> list[Question]:
    """Successful episodes, whole or by their prefixes."""
    rows, most = _of_quality(dataset, "successful"), drawing.trajectories
    if most is not None and len(rows) > most:
        rows = random.Random(drawing.seed).sample(rows, most)
    return _prefixed(rows, drawing)


def ranking_questions(dataset: Dataset, drawing: Drawing) -> list[Question]:
    """Episodes of tasks with several qualities, by quality label or by graded outcome.

    Raises:
        ValueError: A set of graded outcomes of which some episodes have none.
    """
    rng, by_task = random.Random(drawing.seed), dict[str, dict[float | str, list[Trajectory]]]()
    for each in dataset.episodes:
        by_task.setdefault(each.task, {}).setdefault(_quality(each, dataset.graded), []).append(each)
    tasks = sorted(task for task, qualities in by_task.items() if len(qualities) > 1)
    if drawing.tasks:
        rng.shuffle(tasks)
        tasks = tasks[: drawing.tasks]
    drawn: list[Trajectory] = []
    for task in sorted(tasks):
        groups = [by_task[task][quality] for quality in sorted(by_task[task])]  # pyright: ignore[reportArgumentType]
        if dataset.graded:
            drawn += _in_turn([list(group) for group in groups], drawing.graded, rng)
            continue
        for group in groups:
            drawn += rng.sample(group, min(drawing.per_quality or len(group), len(group)))
    return _prefixed(drawn, drawing, every_frame=True)


def _quality(episode: Trajectory, graded: bool) -> float | str:
    if not graded:
        return episode.quality_label
    if episode.partial_success is None:
        raise ValueError(
            f"episode {episode.id!r} has no graded outcome, and the first of its set has one; rank graded sets and "
            "others one by one"
        )
    return round(episode.partial_success, 2)


def _in_turn(groups: list[list[Trajectory]], most: int, rng: random.Random) -> list[Trajectory]:
    """One of each group in turn, at random, until there are ``most`` or none is left."""
    drawn: list[Trajectory] = []
    while any(groups) and len(drawn) < most:
        for group in groups:
            if group and len(drawn) < most:
                chosen = rng.choice(group)
                group.remove(chosen)
                drawn.append(chosen)
    return drawn


def confusion_questions(dataset: Dataset, drawing: Drawing) -> list[Question]:
    """Every episode that is no failure, under the instruction of every task of the set."""
    rng, rows = random.Random(drawing.seed), _of_quality(dataset, "successful", "suboptimal")
    drawn: list[Trajectory] = []
    for source in dict.fromkeys(each.data_source for each in rows):
        by_task: dict[str, list[Trajectory]] = {}
        for each in rows:
            if each.data_source == source:
                by_task.setdefault(each.task, []).append(each)
        for group in by_task.values():
            rng.shuffle(group)
        # The reference draws an order of tasks, too, which decides nothing as long as all of them are judged.
        rng.shuffle(list(by_task))
        drawn += [each for group in by_task.values() for each in group]
    instructions = sorted({each.task for each in rows})
    rng.shuffle(instructions)
    asked = list(product(drawn, instructions))
    rng.shuffle(asked)
    return [_question(each, drawing, task=task) for each, task in asked]


def preference_pairs(dataset: Dataset, drawing: Drawing) -> list[Pair]:
    """A better and a worse episode of one task: as people have it, or else by their quality."""
    rng, chosen = random.Random(drawing.seed), list[Pair]()
    for pairs in _pairs_by_task(dataset):
        most = drawing.per_task
        chosen += [
            Pair(_question(better, drawing), _question(worse, drawing))
            for better, worse in (pairs if most is None or len(pairs) <= most else rng.sample(pairs, most))
        ]
    most = drawing.pairs
    return chosen if most is None or len(chosen) <= most else rng.sample(chosen, most)


def _pairs_by_task(dataset: Dataset) -> list[list[tuple[Trajectory, Trajectory]]]:
    if dataset.compared is not None:
        said: dict[str, list[tuple[Trajectory, Trajectory]]] = {}
        for better, worse in dataset.compared:
            pair = dataset.episodes[better], dataset.episodes[worse]
            said.setdefault(pair[0].task, []).append(pair)
        return list(said.values())
    by_task: dict[str, list[Trajectory]] = {}
    for each in dataset.episodes:
        by_task.setdefault(each.task, []).append(each)
    return [_better_and_worse(members) for members in by_task.values()]


def _better_and_worse(members: Sequence[Trajectory]) -> list[tuple[Trajectory, Trajectory]]:
    def rank(each: Trajectory) -> float:
        if each.partial_success is not None:
            return round(each.partial_success, 2)
        return QUALITY_RANKS[each.quality_label]

    ranks = list(dict.fromkeys(rank(each) for each in members))
    pairs: list[tuple[Trajectory, Trajectory]] = []
    for one, other in combinations(ranks, 2):
        better, worse = ([each for each in members if rank(each) == value] for value in sorted((one, other))[::-1])
        pairs += product(better, worse)
    return pairs


def by_episode(questions: Sequence[Question]) -> list[list[int]]:
    """Places of the questions about each episode."""
    # Joint sets may have episodes of one name, so by the object.
    groups: dict[int, list[int]] = {}
    for number, each in enumerate(questions):
        groups.setdefault(id(each.episode), []).append(number)
    return list(groups.values())


def grade_level(value: float) -> int:
    """One of RoboReward's five levels, 0 to 4; ties go to the even one."""
    return round(4.0 * min(max(value, 0.0), 1.0))
