"""Which clips and pairs a Robometer is trained on.

A sample is a function of (seed, epoch, index) and of nothing else, so that workers, restarts and machines agree. What
a sample shows is what a model will be shown when it scores an episode: a history that ends somewhere, of which a frame
protocol picks at most ``max_frames``. Because the decoder is causal, every frame of a clip is supervised as the end of
the history before it.

Progress belongs to the state of the world, not to the clip: the targets of a rewound or reversed clip are those of its
frames, in the order in which they are shown, and a clip that starts in the middle of an episode starts there. The
reference sees that otherwise; its rules are an option (`robometer_rl.data.targets`).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.frames import MAX_FRAMES, NestedFrames, UniformFrames, scored_steps
from robometer_rl.ranges import require_counts, require_numbers
from robometer_rl.training.episodes import Episode
from robometer_rl.training.samples import ClipSample, PairSample, Sample

__all__ = [
    "ClipStrategies",
    "PairStrategies",
    "Sampler",
    "SamplingConfig",
    "SamplingError",
    "clip_path",
]

_LONGEST_INTERVAL: Final = 1_000_000  # frames; ten hours of video
_ROUNDING: Final = 1e-9  # grades such as 0.6 and 0.4 are 0.2 apart, whatever their difference is in binary


class SamplingError(ValueError):
    """A data set in which a requested strategy has nothing to work on; the message says what is missing."""


@dataclass(frozen=True)
class ClipStrategies:
    """Relative frequency of each kind of single clip.

    Attributes:
        success: A history of a successful episode.
        failure: A history of any other episode.
        rewind: A successful episode played forwards, then some of it backwards.
        reverse: A successful episode played backwards.
        other_task: A history of a successful episode with the instruction of another task, none of whose instructions
            its own task has, too: progress and success 0.
    """

    success: float = 0.27
    failure: float = 0.38
    rewind: float = 0.07
    reverse: float = 0.03
    other_task: float = 0.25

    def __post_init__(self) -> None:
        require_numbers(self, "[0, inf)", *_weights(self))


@dataclass(frozen=True)
class PairStrategies:
    """Relative frequency of each kind of pair; the better clip is a history of a successful episode, unless graded.

    Attributes:
        rewind: Against the same episode rewound.
        reverse: Against the same episode reversed.
        failure: Against an episode of the same task that failed.
        other_task: Against a successful episode of another task that shares no instruction with it.
        graded: Two episodes of a task with graded outcomes that differ by ``grade_margin`` or more, such as those of
            RoboReward; neither need be a success.
        human: Two episodes that people compared, as most of them said; see ``preferences`` of `TrainConfig`.
    """

    rewind: float = 0.2
    reverse: float = 0.1
    failure: float = 0.5
    other_task: float = 0.2
    graded: float = 0.0
    human: float = 0.0

    def __post_init__(self) -> None:
        require_numbers(self, "[0, inf)", *_weights(self))


@dataclass(frozen=True)
class SamplingConfig:
    """What to draw.

    Attributes:
        max_frames: Most frames of a clip.
        pair_fraction: Part of the samples that are pairs; the rest are single clips.
        clips: Kinds of single clips.
        pairs: Kinds of pairs.
        nested_fraction: Part of the clips laid out by the nested protocol; the rest by the uniform one.
        whole_fraction: Part of the histories that reach to the end of their episode.
        from_start_fraction: Part of the histories that begin with their episode; the others begin within it.
        intervals: Scoring intervals, in recorded frames, to choose from.
        grade_margin: By how much the graded outcomes of a pair differ at least. Graders are not that sure of less.
    """

    max_frames: int = 8
    pair_fraction: float = 0.3
    clips: ClipStrategies = field(default_factory=ClipStrategies)
    pairs: PairStrategies = field(default_factory=PairStrategies)
    nested_fraction: float = 0.5
    whole_fraction: float = 0.3
    from_start_fraction: float = 0.8
    intervals: tuple[int, ...] = (1, 1, 2, 3, 5)
    grade_margin: float = 0.2

    def __post_init__(self) -> None:
        require_counts(self, 2, "max_frames")
        if self.max_frames > MAX_FRAMES:
            raise ValueError(f"max_frames of SamplingConfig must be at most {MAX_FRAMES}, got {self.max_frames}")
        fractions = ("pair_fraction", "nested_fraction", "whole_fraction", "from_start_fraction")
        require_numbers(self, "[0, 1]", *fractions)
        require_numbers(self, "(0, 1]", "grade_margin")
        if not self.intervals or not all(1 <= interval <= _LONGEST_INTERVAL for interval in self.intervals):
            raise ValueError(
                f"intervals of SamplingConfig must be one or more numbers of frames from 1 to {_LONGEST_INTERVAL}, got "
                f"{self.intervals}"
            )
        for name, drawn in (("clips", self.pair_fraction < 1.0), ("pairs", self.pair_fraction > 0.0)):
            if drawn and not 0.0 < sum(_weights(getattr(self, name)).values()) < math.inf:
                raise ValueError(
                    f"one of the frequencies of {name} must be above 0 and their sum finite, since pair_fraction is "
                    f"{self.pair_fraction:g}; got {getattr(self, name)}"
                )


def clip_path(num_frames: int, start: int, end: int | None, turn: int | None = None) -> NDArray[np.int64]:
    """Frames of a segment in the order in which they are played (docs/reference.md §5.1).

    Args:
        num_frames: Length of the recording; indices are clipped to it.
        start: First frame shown.
        end: Last frame shown; before ``start`` the segment is played backwards. None for one frame.
        turn: Frame beyond ``start`` and ``end`` at which a forward segment turns round. Ignored otherwise.
    """
    last = num_frames - 1
    first = min(max(start, 0), last)
    final = first if end is None else min(max(end, 0), last)
    if turn is not None and first < final < turn:
        peak = min(turn, last)
        return np.concatenate([np.arange(first, peak + 1), np.arange(peak - 1, final - 1, -1)])
    return np.arange(first, final + 1) if first <= final else np.arange(first, final - 1, -1)


@dataclass(frozen=True)
class _Instruction:
    task: str
    text: str


class Sampler:
    """Draws samples from labelled episodes.

    A sample of several weighted sources begins with an episode of one of them, drawn by the weights of those that have
    such episodes, then by task; what the episode is compared with may come from any.

    Args:
        episodes: What to draw from.
        config: What to draw.
        seed: Together with epoch and index it decides everything.
        weights: Of the sources, by their numbers; without them all episodes are one source.
        compared: Pairs of episodes that people compared, as positions in the data set, the better one first.

    Attributes:
        tasks: All tasks of the episodes, in alphabetical order.

    Raises:
        SamplingError: A strategy with a positive frequency has no candidates.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        config: SamplingConfig,
        seed: int = 0,
        weights: Sequence[float] = (),
        compared: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.config = config
        self.seed = seed
        self._by_task = _by_task(episodes)
        self.tasks = sorted(self._by_task)
        self._number = {task: number for number, task in enumerate(self.tasks)}
        self._successful = [task for task in self.tasks if self._by_task[task][0]]
        self._alike = _alike(self._by_task)
        by_index = {each.index: each for each in episodes} if compared else {}
        pairs = [(by_index[better], by_index[worse]) for better, worse in compared]
        self._sources = [
            self._source(
                [each for each in episodes if not weights or each.source == number],
                [pair for pair in pairs if not weights or pair[0].source == number],
                weight,
            )
            for number, weight in enumerate(weights or (1.0,))
        ]
        self._check()
        self._protocols = (NestedFrames(config.max_frames), UniformFrames(config.max_frames))

    def _source(self, episodes: Sequence[Episode], pairs: Sequence[tuple[Episode, Episode]], weight: float) -> _Source:
        by_task = _by_task(episodes)
        graded = {
            task: found
            for task, (done, failed) in by_task.items()
            if (found := _Graded.of([*done, *failed], self.config.grade_margin)).worse
        }
        compared: dict[str, list[tuple[Episode, Episode]]] = {}
        for better, worse in pairs:
            compared.setdefault(better.task, []).append((better, worse))
        successful = sorted(task for task, (done, _) in by_task.items() if done)
        tasks = {
            "successful": successful,
            "failed": sorted(task for task, (_, failed) in by_task.items() if failed),
            "contrasted": [task for task in successful if self._by_task[task][1]],
            "other": [task for task in successful if self._has_others(task, self.tasks)],
            "successful other": [task for task in successful if self._has_others(task, self._successful)],
            "graded": list(graded),
            "human": sorted(compared),
        }
        return _Source(weight, by_task, graded, compared, tasks)

    def _begin(self, rng: np.random.Generator, need: str) -> tuple[_Source, str]:
        """The source and the task that a sample begins with."""
        able = [source for source in self._sources if source.tasks[need]]
        source = able[_choose(rng, [each.weight for each in able])] if len(able) > 1 else able[0]
        return source, _pick(rng, source.tasks[need])

    def _check(self) -> None:
        config = self.config
        singles, pairs = 1.0 - config.pair_fraction, config.pair_fraction
        used = {name for name, weight in _weights(config.clips).items() if singles * weight > 0}
        contrasts = {name for name, weight in _weights(config.pairs).items() if pairs * weight > 0}
        has = {need for source in self._sources for need, tasks in source.tasks.items() if tasks}
        # What is needed, whether the data has it, and the frequency to set to 0 without it.
        needs: list[tuple[str, bool, str | None]] = [
            (
                "a successful episode",
                "successful" in has or not (used - {"failure"} or contrasts - {"graded", "human"}),
                None,
            ),
            ("an episode that fails", "failed" in has or "failure" not in used, "clips.failure"),
            (
                "a task with both successful episodes and others",
                "contrasted" in has or "failure" not in contrasts,
                "pairs.failure",
            ),
            (
                "successful episodes of one task and another task's instruction",
                "other" in has or "other_task" not in used,
                "clips.other_task",
            ),
            (
                "successful episodes of two tasks",
                "successful other" in has or "other_task" not in contrasts,
                "pairs.other_task",
            ),
            (
                f"two episodes of a task whose partial success differs by {config.grade_margin:g}",
                "graded" in has or "graded" not in contrasts,
                "pairs.graded",
            ),
            ("two episodes that people compared", "human" in has or "human" not in contrasts, "pairs.human"),
        ]
        missing = [(need, name) for need, met, name in needs if not met]
        if missing:
            options = sorted({f"--sampling.{name.replace('_', '-')} 0" for _, name in missing if name})
            raise SamplingError(
                f"sampling needs {' and '.join(need for need, _ in missing)}; the data set has none. Record some"
                + (f", or do without: {' '.join(options)}" if options else "")
            )

    def sample(self, epoch: int, index: int) -> Sample:
        """The sample at ``index`` of ``epoch``."""
        rng = np.random.default_rng([self.seed, epoch, index])
        if rng.random() < self.config.pair_fraction:
            return self._pair(rng)
        strategy = _strategy(rng, self.config.clips)
        if strategy == "failure":
            source, task = self._begin(rng, "failed")
            return self._history(rng, _pick(rng, source.by_task[task][1]), strategy, self._instruction(rng, task))
        source, task = self._begin(rng, "other" if strategy == "other_task" else "successful")
        return self._success_clip(rng, _pick(rng, source.by_task[task][0]), task, strategy)

    def _success_clip(self, rng: np.random.Generator, episode: Episode, task: str, strategy: str) -> ClipSample:
        if strategy == "other_task":
            other = self._other(rng, task, self.tasks)
            return self._history(rng, episode, strategy, self._instruction(rng, other))
        instruction = self._instruction(rng, task)
        if strategy == "success":
            return self._history(rng, episode, strategy, instruction)
        return self._played(rng, episode, strategy, instruction)

    def _pair(self, rng: np.random.Generator) -> PairSample:
        strategy = _strategy(rng, self.config.pairs)
        if strategy in ("graded", "human"):
            return self._judged_pair(rng, strategy)
        need = {"failure": "contrasted", "other_task": "successful other"}.get(strategy, "successful")
        source, task = self._begin(rng, need)
        instruction = self._instruction(rng, task)
        episode = _pick(rng, source.by_task[task][0])
        better = self._history(rng, episode, "success", instruction, whole=True)
        if strategy == "failure":
            worse = self._history(rng, _pick(rng, self._by_task[task][1]), strategy, instruction, whole=True)
        elif strategy == "other_task":
            other = self._other(rng, task, self._successful)
            stranger = _pick(rng, self._by_task[other][0])
            worse = self._history(rng, stranger, strategy, instruction, whole=True)
        else:
            worse = self._played(rng, episode, strategy, instruction)
        return _in_random_order(rng, better, worse, strategy)

    def _judged_pair(self, rng: np.random.Generator, strategy: str) -> PairSample:
        """Two episodes of which somebody else says which is better; neither need be a success."""
        source, task = self._begin(rng, strategy)
        instruction = self._instruction(rng, task)
        chosen = source.graded[task].pair(rng) if strategy == "graded" else _pick(rng, source.compared[task])
        better, worse = (self._history(rng, episode, strategy, instruction, whole=True) for episode in chosen)
        return _in_random_order(rng, better, worse, strategy)

    def _has_others(self, task: str, names: Sequence[str]) -> bool:
        """Whether some of ``names`` are of tasks that no instruction of ``task`` names."""
        return len(names) > len(self._places(task, names))

    def _other(self, rng: np.random.Generator, task: str, names: Sequence[str]) -> str:
        """One of ``names``, in alphabetical order, that no instruction of ``task`` names."""
        alike = self._places(task, names)
        number = int(rng.integers(len(names) - len(alike)))
        for place in alike:  # a list of all others would take longer than all the rest of a sample
            number += place <= number
        return names[number]

    def _places(self, task: str, names: Sequence[str]) -> list[int]:
        """Where in ``names`` those are that an instruction of ``task`` names."""
        places = ((bisect_left(names, name), name) for name in self._alike[task])
        return sorted(place for place, name in places if place < len(names) and names[place] == name)

    def _instruction(self, rng: np.random.Generator, task: str) -> _Instruction:
        done, failed = self._by_task[task]
        return _Instruction(task, _pick(rng, (done or failed)[0].instructions))

    def _history(
        self,
        rng: np.random.Generator,
        episode: Episode,
        strategy: str,
        instruction: _Instruction,
        whole: bool = False,
    ) -> ClipSample:
        """An episode played forwards up to some frame."""
        last = len(episode) - 1
        end = last if whole or rng.random() < self.config.whole_fraction else int(rng.integers(last + 1))
        start = 0 if rng.random() < self.config.from_start_fraction else int(rng.integers(end + 1))
        return self._clip(rng, episode, clip_path(len(episode), start, end), strategy, instruction)

    def _played(
        self, rng: np.random.Generator, episode: Episode, strategy: str, instruction: _Instruction
    ) -> ClipSample:
        """A successful episode backwards, or forwards and then backwards; it ends well before success."""
        done = int(np.argmax(episode.labels.success > 0)) if episode.labels.success.any() else len(episode) - 1
        peak = int(rng.integers(max(1, done // 2), len(episode)))
        final = int(rng.integers(max(1, min(peak, done) * 2 // 3)))
        path = np.arange(peak, final - 1, -1)
        if strategy == "rewind":
            path = np.concatenate([np.arange(peak), path])
        return self._clip(rng, episode, path, strategy, instruction)

    def _clip(
        self,
        rng: np.random.Generator,
        episode: Episode,
        path: NDArray[np.int64],
        strategy: str,
        instruction: _Instruction,
    ) -> ClipSample:
        """Lays out a path of frames as a protocol would when it scores the path's last frame."""
        path = path[scored_steps(len(path), _pick(rng, self.config.intervals))]
        protocol = self._protocols[int(rng.random() >= self.config.nested_fraction)]
        indices = path[protocol.slots(len(path) - 1)]
        targets = episode.targets(indices, strategy)
        wrong = instruction.task != episode.task
        known = np.ones(len(indices), bool)
        nothing = np.zeros(len(indices), np.float32)
        return ClipSample(
            episode=episode.index,
            indices=indices,
            task=instruction.text,
            progress=nothing if wrong else targets.progress,
            progress_known=known if wrong else targets.progress_known,
            success=nothing if wrong else targets.success,
            success_known=known if wrong else targets.success_known,
            strategy=strategy,
            said=self._number[instruction.task],
            shown=self._number[episode.task],
            view=int(rng.integers(1 << 16)),
        )


@dataclass(frozen=True)
class _Graded:
    """Graded episodes of one task.

    Attributes:
        episodes: From the worst to the best.
        worse: How many of them are worse than the best by the margin or more.
        margin: By which the grades of a pair differ at least.
    """

    episodes: Sequence[Episode]
    worse: int
    margin: float

    @classmethod
    def of(cls, episodes: Sequence[Episode], margin: float) -> _Graded:
        graded = sorted((each for each in episodes if each.grade is not None), key=_grade)
        grades = [_grade(each) for each in graded]
        return cls(graded, bisect_right(grades, grades[-1] - margin + _ROUNDING) if grades else 0, margin)

    def pair(self, rng: np.random.Generator) -> tuple[Episode, Episode]:
        """A better one and a worse one."""
        worse = self.episodes[int(rng.integers(self.worse))]
        best = bisect_left(self.episodes, _grade(worse) + self.margin - _ROUNDING, key=_grade)
        return self.episodes[int(rng.integers(best, len(self.episodes)))], worse


@dataclass(frozen=True)
class _Source:
    """What samples of one source begin with.

    Attributes:
        weight: How often, relative to other sources.
        by_task: Its successful episodes and the others.
        graded: Its graded episodes, where some of a task differ enough.
        compared: Pairs that people compared, the better episode of which is one of its own, by task.
        tasks: Tasks of its episodes by what can be done with them.
    """

    weight: float
    by_task: Mapping[str, tuple[list[Episode], list[Episode]]]
    graded: Mapping[str, _Graded]
    compared: Mapping[str, Sequence[tuple[Episode, Episode]]]
    tasks: Mapping[str, list[str]]


def _grade(episode: Episode) -> float:
    assert episode.grade is not None
    return episode.grade


def _in_random_order(rng: np.random.Generator, better: ClipSample, worse: ClipSample, strategy: str) -> PairSample:
    first_is_better = bool(rng.random() < 0.5)
    pair = (better, worse) if first_is_better else (worse, better)
    return PairSample(*pair, first_is_better=first_is_better, strategy=strategy)


def _by_task(episodes: Sequence[Episode]) -> dict[str, tuple[list[Episode], list[Episode]]]:
    """Successful episodes and the others of each task."""
    found: dict[str, tuple[list[Episode], list[Episode]]] = {}
    for episode in episodes:
        done, failed = found.setdefault(episode.task, ([], []))
        (done if episode.successful else failed).append(episode)
    return found


def _alike(by_task: Mapping[str, tuple[list[Episode], list[Episode]]]) -> dict[str, set[str]]:
    """For each task, those that share an instruction with it: simulators have tasks that only their scenes tell apart.

    With such an instruction an episode of either is one of the task that it names.
    """
    named: dict[str, set[str]] = {}
    for task, (done, failed) in by_task.items():
        for text in {text for episode in (*done, *failed) for text in episode.instructions}:
            named.setdefault(text, set()).add(task)
    alike = {task: {task} for task in by_task}
    for tasks in named.values():
        for task in tasks:
            alike[task] |= tasks
    return alike


def _weights(strategies: ClipStrategies | PairStrategies) -> Mapping[str, float]:
    return {entry.name: getattr(strategies, entry.name) for entry in fields(strategies)}


def _strategy(rng: np.random.Generator, strategies: ClipStrategies | PairStrategies) -> str:
    weights = _weights(strategies)
    return list(weights)[_choose(rng, list(weights.values()))]


def _choose(rng: np.random.Generator, weights: Sequence[float]) -> int:
    total = np.cumsum(weights)
    return int(np.searchsorted(total, rng.random() * total[-1], side="right"))


def _pick(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]
