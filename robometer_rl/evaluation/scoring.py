"""What a model says about recorded episodes: everything that needs the model, kept for the measures.

Beside every dense score stand those of impostors, since a correlation alone says little: the model shown each frame
alone (repeated to a full clip), and the model shown a still picture, the episode's first frame over and over.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from robometer_rl.data.augment import augment_frames
from robometer_rl.data.labels import EXPERT, group_key, label_trajectories
from robometer_rl.data.targets import TargetConfig
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.frames import Clip, FrameProtocol, FrameSequence, same_length
from robometer_rl.models.reward_model import RewardModel, UnsupportedByModelError
from robometer_rl.prediction import Prediction, as_probabilities
from robometer_rl.report.terminal import open_console
from robometer_rl.rewards import DEFAULT_REWARD

__all__ = [
    "Condition",
    "ScoredEpisode",
    "ScoredPair",
    "Scores",
    "Scoring",
    "frames_under",
    "score_episodes",
    "task_under",
]

Condition = Literal["recorded", "paraphrased", "jitter"]
"""``recorded`` changes nothing, ``paraphrased`` says one of the episode's other instructions, ``jitter`` changes light,
colour and the place of the camera as training does (`robometer_rl.data.augment`)."""


def task_under(condition: Condition, episode: Trajectory, seed: int) -> str:
    """The instruction that a model is given; the recorded one where the episode has no paraphrase."""
    if condition != "paraphrased" or not episode.instructions:
        return episode.task
    return episode.instructions[int(np.random.default_rng(_seed_of(episode, seed)).integers(len(episode.instructions)))]


def frames_under(condition: Condition, episode: Trajectory, seed: int) -> FrameSequence:
    """The frames that a model is shown; lazy unless the condition changes them."""
    if condition != "jitter":
        return episode.frames
    return augment_frames(episode.clip().read(), _seed_of(episode, seed))


def _seed_of(episode: Trajectory, seed: int) -> tuple[int, int]:
    """Every episode its own draw, whatever else is evaluated with it."""
    return seed, zlib.crc32(episode.id.encode())


logger = logging.getLogger(__name__)

_BATCH = 8  # episodes or pairs per call
_PICTURES = 16  # single frames per call, each repeated to a full clip

Floats = NDArray[np.floating[Any]]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Scoring:
    """How a model is asked.

    Attributes:
        protocol: Which frames each step is scored with.
        every: Scoring interval in recorded frames.
        pairs: Most pairs per task that preference is asked about.
        seed: Of the choice of pairs, wrong tasks, paraphrases and jitter.
        reaching: What an expert's way to the object is worth at most, see `TargetConfig`.
        controls: Ask about impostors and wrong tasks, too, which costs several times as much.
        show_progress: Draw progress bars on standard error.
    """

    protocol: FrameProtocol
    every: int = 1
    pairs: int = 20
    seed: int = 0
    reaching: float = TargetConfig.reaching
    controls: bool = True
    show_progress: bool = False


@dataclass(frozen=True, eq=False)
class ScoredEpisode:
    """An episode and what was said about it; one value per recorded frame, held between scored ones.

    Attributes:
        episode: As recorded.
        progress: (T,).
        success: (T,) probability; None of a model that says none.
        single_frame: (T,) progress of each frame when it is all that the model sees. Of experts only, like the rest;
            None without controls.
        still: (T,) progress when the first frame is shown over and over.
        wrong_task: (T,) progress under another task's instruction; None if there is no other task.
        distribution: (T, bins) over progress; no bins of a model that says none, None where it was not kept.
        truth: (T,) true progress as training labels it (`robometer_rl.data.labels`): of the simulator's states, where
            experts among the episodes show what they are worth; None where it is not known in every frame.
    """

    episode: Trajectory
    progress: Floats
    success: Floats | None
    single_frame: Floats | None = None
    still: Floats | None = None
    wrong_task: Floats | None = None
    truth: Floats | None = None
    distribution: Floats | None = None

    @property
    def task(self) -> str:
        """What it is an attempt at."""
        return group_key(self.episode)

    @property
    def final(self) -> float:
        """Progress at the last frame."""
        return float(self.progress[-1])

    @property
    def successful(self) -> bool:
        """Whether the task is done in the last frame."""
        return self.episode.quality_label == "successful"

    @property
    def is_expert(self) -> bool:
        """Whether it is a successful episode of an expert, whose true progress is known."""
        return _is_expert(self.episode)


@dataclass(frozen=True)
class ScoredPair:
    """Two episodes of a task, compared in both orders.

    Attributes:
        better: Position of the successful episode.
        worse: Position of the other one.
        better_first: Probability given to the first when the better one stands first.
        better_second: The same when it stands second.
    """

    better: int
    worse: int
    better_first: float
    better_second: float


@dataclass(frozen=True)
class Scores:
    """All that a model said under one condition.

    Attributes:
        episodes: In the order in which they were given.
        pairs: Drawn per task.
        threshold: Success probability that the model's reward asks for.
        every: Scoring interval in recorded frames: what was said between scored frames is only held.
    """

    episodes: Sequence[ScoredEpisode]
    pairs: Sequence[ScoredPair]
    threshold: float
    every: int = 1


def score_episodes(
    model: RewardModel, episodes: Sequence[Trajectory], scoring: Scoring, condition: Condition = "recorded"
) -> Scores:
    """Asks a model about everything that is measured.

    Raises:
        ValueError: The condition is ``paraphrased`` and no episode has a paraphrase.
        UnsupportedByModelError: The model does not say how far a task has come, or was trained on tiled pictures and
            these are single views.
    """
    if condition == "paraphrased" and not any(episode.instructions for episode in episodes):
        raise ValueError("none of these episodes has a second instruction to be paraphrased with")
    labelled = label_trajectories(episodes, config=TargetConfig(reaching=scoring.reaching))
    model.require("evaluation on episodes", progress=True)
    model.require_views("evaluation on episodes", tiled=all(episode.tiled for episode in episodes))
    questions = _Questions(model, list(episodes), scoring, condition)
    rng = np.random.default_rng(scoring.seed)
    dense = questions.dense()
    for said in dense:
        model.doubts.episode(model.model_id, float(said.progress.max()))
    wrong = questions.wrong_tasks(rng)  # drawn in any case: the pairs are the same with and without controls
    beside = questions.beside_experts(wrong) if scoring.controls else {}
    truths = [each.progress if each.progress_known.all() else None for each in labelled]
    scored = [
        ScoredEpisode(
            episode,
            said.progress,
            said.success,
            *beside.get(index, ()),
            truth=truth,
            distribution=said.progress_distribution,
        )
        for index, (episode, said, truth) in enumerate(zip(episodes, dense, truths, strict=True))
    ]
    threshold = DEFAULT_REWARD.threshold(model.success_threshold)
    return Scores(scored, questions.pairs(rng), threshold, scoring.every)


class _Questions:
    """Everything that is asked under one condition."""

    def __init__(self, model: RewardModel, episodes: list[Trajectory], scoring: Scoring, condition: Condition) -> None:
        self.model, self.episodes, self.scoring = model, episodes, scoring
        self.condition: Condition = condition
        self.by_task: dict[str, list[int]] = {}
        for index, episode in enumerate(episodes):
            self.by_task.setdefault(group_key(episode), []).append(index)

    def dense(self) -> list[Prediction]:
        """What is said of every frame of every episode."""
        values: list[Prediction] = []
        for batch in self._batches(self.episodes, "episodes"):
            values += self._steps([self._clip(episode) for episode in batch])
        return values

    def wrong_tasks(self, rng: np.random.Generator) -> dict[int, str | None]:
        """Another task's instruction, if there is one, by position of the expert episode."""
        experts = [index for index, episode in enumerate(self.episodes) if _is_expert(episode)]
        return {index: self._other_instruction(index, rng) for index in experts}

    def beside_experts(self, wrong: Mapping[int, str | None]) -> dict[int, tuple[Floats, Floats, Floats | None]]:
        """Single frames, the still picture and the wrong task, by position of the expert episode."""
        values: dict[int, tuple[Floats, Floats, Floats | None]] = {}
        for (index,) in self._batches(list(wrong), "impostors", size=1):
            clip = self._clip(self.episodes[index])
            frames, other = clip.read(), wrong[index]
            asked = [Clip(np.repeat(frames[:1], len(frames), axis=0), clip.task)]
            asked += [Clip(frames, other)] if other is not None else []
            steps = self._steps(asked)
            single = self._single_frames(frames, clip.task)
            values[index] = (single, steps[0].progress, steps[1].progress if other is not None else None)
        return values

    def pairs(self, rng: np.random.Generator) -> list[ScoredPair]:
        """Pairs of a successful episode and one of the same task that is not, asked in both orders."""
        chosen: list[tuple[int, int]] = []
        for members in self.by_task.values():
            done = [index for index in members if self.episodes[index].quality_label == "successful"]
            candidates = [(better, worse) for better in done for worse in members if worse not in set(done)]
            chosen += [candidates[int(n)] for n in rng.permutation(len(candidates))[: self.scoring.pairs]]
        try:
            return self._compare(chosen)
        except UnsupportedByModelError as error:
            logger.warning("preference accuracy is left out: %s", error)
            return []

    def _compare(self, chosen: list[tuple[int, int]]) -> list[ScoredPair]:
        scored: list[ScoredPair] = []
        for batch in self._batches(chosen, "pairs"):
            clips = [self._pair(better, worse) for better, worse in batch]
            first = self._preferences(clips)
            second = self._preferences([(worse, better) for better, worse in clips])
            scored += [
                ScoredPair(better, worse, float(a), float(b))
                for (better, worse), a, b in zip(batch, first, second, strict=True)
            ]
        return scored

    def _preferences(self, pairs: list[tuple[Clip, Clip]]) -> Floats:
        names = [f"pair {number} of {len(pairs)}" for number in range(len(pairs))]
        said = as_probabilities(self.model.compare(pairs), "a preference", names, self.model.model_id)
        same_length("preferences of the model", len(said), len(pairs))
        return said

    def _clip(self, episode: Trajectory) -> Clip:
        seed = self.scoring.seed
        return Clip(frames_under(self.condition, episode, seed), task_under(self.condition, episode, seed))

    def _pair(self, better: int, worse: int) -> tuple[Clip, Clip]:
        """Both as a model is shown whole episodes, with one instruction."""
        clips = [self._clip(self.episodes[index]) for index in (better, worse)]
        shown = [clip.read(self.scoring.protocol.slots(len(clip) - 1).tolist()) for clip in clips]
        return Clip(shown[0], clips[0].task), Clip(shown[1], clips[0].task)

    def _other_instruction(self, index: int, rng: np.random.Generator) -> str | None:
        own, seed = self.by_task[group_key(self.episodes[index])], self.scoring.seed
        # Simulators have tasks of the same name in other scenes; that would not be a wrong one.
        said = {text for member in own for text in (self.episodes[member].task, *self.episodes[member].instructions)}
        firsts = [self.episodes[members[0]] for members in self.by_task.values()]
        others = sorted({task_under(self.condition, episode, seed) for episode in firsts} - said)
        return others[int(rng.integers(len(others)))] if others else None

    def _steps(self, clips: list[Clip]) -> list[Prediction]:
        predictions = self.model.predict_steps(clips, self.scoring.protocol, self.scoring.every)
        return [prediction.hold(len(clip)) for prediction, clip in zip(predictions, clips, strict=True)]

    def _single_frames(self, frames: NDArray[np.uint8], task: str) -> Floats:
        copies = self.scoring.protocol.max_frames
        values: list[float] = []
        for start in range(0, len(frames), _PICTURES):
            clips = [Clip(np.repeat(frame[None], copies, axis=0), task) for frame in frames[start : start + _PICTURES]]
            values += [float(prediction.progress[-1]) for prediction in self.model.predict_last(clips)]
        return np.array(values, np.float32)

    def _batches(self, items: list[_Item], name: str, size: int = _BATCH) -> Iterator[list[_Item]]:
        starts = range(0, len(items), size)
        description = name if self.condition == "recorded" else f"{name}, {self.condition}"
        console, hidden = open_console(stderr=True), not self.scoring.show_progress
        for start in track(starts, description, console=console, transient=True, disable=hidden):
            yield items[start : start + size]


def _is_expert(episode: Trajectory) -> bool:
    return episode.skill == EXPERT and bool(episode.success_index)
