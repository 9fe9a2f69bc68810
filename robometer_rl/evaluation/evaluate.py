"""Evaluates a reward model on recorded episodes whose truth is known: one table, one JSON file.

Beside every correlation with progress stand the same numbers of three impostors, since a correlation alone says little:
a clock that knows how long the episode is, the model shown each frame alone (repeated to a full clip), and the model
shown a still picture, the episode's first frame over and over.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from robometer_rl.data.labels import EXPERT, group_key
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory, linear_progress
from robometer_rl.evaluation.metrics import (
    Estimate,
    auroc,
    average_precision,
    best_threshold,
    bootstrap,
    mean_tau_a,
    preference_accuracy,
    ranking_accuracy,
    stall_rise,
    voc_pearson,
    voc_spearman,
)
from robometer_rl.evaluation.ranking import QUALITY_RANKS
from robometer_rl.frames import Clip, FrameProtocol, parse_protocol
from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.prediction import Prediction
from robometer_rl.rewards import DEFAULT_REWARD, DEFAULT_SUCCESS_THRESHOLD, success_holds

__all__ = ["EvaluateConfig", "Evaluation", "evaluate", "evaluate_model"]

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_BATCH = 8  # episodes per call


@dataclass(frozen=True)
class EvaluateConfig:
    """Scores recorded episodes and measures how right the scores are.

    Attributes:
        model: What `load_reward_model` takes: ``mini``, a checkpoint directory, or a Hub id.
        data: Store of trajectories.
        split: The split of them to evaluate on.
        output: JSON file to write.
        protocol: Which frames each step is scored with, as in ``nested(8)``; the model's default if None.
        every: Scoring interval in recorded frames.
        pairs: Most pairs per task that preference is asked about.
        device: Where to run.
        dtype: Precision; as stored if None.
        seed: Of the choice of pairs, wrong tasks and resamples.
    """

    model: str
    data: Path
    split: str = "test"
    output: Path | None = None
    protocol: str | None = None
    every: int = 1
    pairs: int = 20
    device: str = "cpu"
    dtype: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Evaluation:
    """The results.

    Attributes:
        metrics: By name; see `evaluate_model`.
        facts: What was evaluated on what.
    """

    metrics: Mapping[str, Estimate]
    facts: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        metrics = {name: estimate.as_dict() for name, estimate in self.metrics.items()}
        return {"schema_version": SCHEMA_VERSION, **self.facts, "metrics": metrics}

    def table(self) -> Table:
        """The metrics as a table for the terminal."""
        table = Table(title=f"{self.facts['model']}, {self.facts['protocol']}, every {self.facts['every']}")
        for heading, justify in (("metric", "left"), ("value", "right"), ("95 % interval", "right"), ("n", "right")):
            table.add_column(heading, justify=justify)  # pyright: ignore[reportArgumentType]
        for name, estimate in self.metrics.items():
            interval = f"{estimate.low:.3f} to {estimate.high:.3f}"
            table.add_row(name, f"{estimate.value:.3f}", interval, str(estimate.count))
        return table


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Evaluates, prints the table and writes the JSON file.

    Raises:
        ValueError: The split has no successful expert episodes.
    """
    model = load_reward_model(config.model, config.device, config.dtype)
    episodes = [episode for episode in TrajectoryStore(config.data) if episode.split == config.split]
    protocol = parse_protocol(config.protocol) if config.protocol else None
    evaluation = evaluate_model(model, episodes, protocol, config.every, config.pairs, config.seed)
    Console().print(evaluation.table())
    if config.output is not None:
        config.output.parent.mkdir(parents=True, exist_ok=True)
        config.output.write_text(json.dumps(_without_nan(evaluation.as_dict()), indent=2) + "\n")
        logger.info("wrote %s", config.output)
    return evaluation


def evaluate_model(
    model: RewardModel,
    episodes: Sequence[Trajectory],
    protocol: FrameProtocol | None = None,
    every: int = 1,
    pairs: int = 20,
    seed: int = 0,
) -> Evaluation:
    """Measures a model on episodes with recorded success.

    Args:
        model: What to measure.
        episodes: Of any tasks and skills; those of the skill ``expert`` that succeed carry the correlations.
        protocol: See `RewardModel.predict_steps`.
        every: Likewise.
        pairs: Most pairs per task that preference is asked about.
        seed: Of everything drawn.

    Returns:
        Metrics by name. ``voc_pearson`` is against true progress (linear in time until first success, then 1),
        ``voc_spearman`` against time until first success; both over successful expert episodes, also for the
        impostors (``..._clock``, ``..._single_frame``, ``..._still``). The others are named as in
        `robometer_rl.evaluation.metrics` or say what they are.

    Raises:
        ValueError: No successful expert episode.
    """
    protocol = protocol or model.default_protocol
    scored = _Scored(model, protocol, every, list(episodes))
    if not scored.experts:
        raise ValueError(f"got {len(episodes)} episodes, none of them a successful one of the skill {EXPERT!r}")
    rng = np.random.default_rng(seed)
    metrics = {
        **_correlations(scored),
        **_success(scored),
        **_ordering(scored),
        **_farming(scored, rng),
        **_preference(scored, pairs, rng),
    }
    skills = sorted({str(episode.skill) for episode in episodes})
    facts = {
        "model": model.model_id,
        "revision": model.revision,
        "dtype": model.dtype,
        "protocol": str(protocol),
        "every": every,
        "seed": seed,
        "success_threshold": scored.threshold,
        "episodes": {skill: sum(episode.skill == skill for episode in episodes) for skill in skills},
        "tasks": sorted({group_key(episode) for episode in episodes}),
        "versions": {name: version(name) for name in ("robometer-rl", "torch", "transformers")},
        "machine": platform.machine(),
    }
    return Evaluation(metrics, facts)


class _Scored:
    """Episodes with the predictions for their scored frames."""

    def __init__(self, model: RewardModel, protocol: FrameProtocol, every: int, episodes: list[Trajectory]) -> None:
        self.model = model
        self.protocol = protocol
        self.every = every
        self.episodes = episodes
        self.threshold = DEFAULT_SUCCESS_THRESHOLD if model.success_threshold is None else model.success_threshold
        predictions = self.steps([episode.clip() for episode in episodes])
        # One value per recorded frame, so that everything below counts in recorded frames.
        self.predictions = [value.hold(len(episode)) for value, episode in zip(predictions, episodes, strict=True)]
        self.experts = [
            index for index, episode in enumerate(episodes) if episode.skill == EXPERT and bool(episode.success_index)
        ]

    def steps(self, clips: Sequence[Clip]) -> list[Prediction]:
        """Dense scores of clips, some at a time."""
        results: list[Prediction] = []
        for start in range(0, len(clips), _BATCH):
            results += self.model.predict_steps(clips[start : start + _BATCH], self.protocol, self.every)
        return results

    def final(self, index: int) -> float:
        """Progress at the last frame of an episode."""
        return float(self.predictions[index].progress[-1])

    def by_task(self) -> dict[str, list[int]]:
        """Episodes of each task."""
        groups: dict[str, list[int]] = {}
        for index, episode in enumerate(self.episodes):
            groups.setdefault(group_key(episode), []).append(index)
        return groups

    def successful(self, index: int) -> bool:
        """Whether the task is done in the last frame."""
        return self.episodes[index].quality_label == "successful"


def _correlations(scored: _Scored) -> dict[str, Estimate]:
    """Correlations on expert episodes, of the model and of the impostors."""
    experts = [scored.episodes[index] for index in scored.experts]
    curves: dict[str, list[NDArray[np.floating[Any]]]] = {
        "": [scored.predictions[index].progress for index in scored.experts],
        "_clock": [np.linspace(0.0, 1.0, len(episode)) for episode in experts],
        "_single_frame": [_single_frames(scored, episode) for episode in experts],
    }
    still = [Clip(np.repeat(episode.clip().read([0]), len(episode), axis=0), episode.task) for episode in experts]
    held = zip(scored.steps(still), experts, strict=True)
    curves["_still"] = [prediction.hold(len(episode)).progress for prediction, episode in held]
    metrics: dict[str, Estimate] = {}
    for name, values in curves.items():
        pearson, spearman = [], []
        for episode, progress in zip(experts, values, strict=True):
            done = int(episode.success_index or 0)
            pearson.append(voc_pearson(progress, linear_progress(len(episode), done)))
            spearman.append(voc_spearman(progress[: done + 1]))
        metrics[f"voc_pearson{name}"] = bootstrap(pearson)
        metrics[f"voc_spearman{name}"] = bootstrap(spearman)
    metrics["still_progress_range"] = bootstrap([float(np.ptp(progress)) for progress in curves["_still"]])
    return metrics


def _single_frames(scored: _Scored, episode: Trajectory) -> NDArray[np.float32]:
    """Progress of each frame when it is all that the model sees, repeated to a full clip."""
    copies = scored.protocol.max_frames
    frames = episode.clip().read()
    values: list[float] = []
    for start in range(0, len(frames), 16):
        clips = [Clip(np.repeat(frame[None], copies, axis=0), episode.task) for frame in frames[start : start + 16]]
        values += [float(prediction.progress[-1]) for prediction in scored.model.predict(clips)]
    return np.array(values, np.float32)


def _success(scored: _Scored) -> dict[str, Estimate]:
    """How well success is seen, frame by frame, and by the rule that a reward uses."""
    judged = [index for index, episode in enumerate(scored.episodes) if episode.success is not None]
    scores = [scored.predictions[index].success for index in judged]
    labels = [np.asarray(scored.episodes[index].success) for index in judged]

    def over_frames(measure: Callable[[Any, Any], float]) -> Estimate:
        def of(rows: NDArray[Any]) -> float:
            chosen = rows.astype(int).tolist()
            return measure(np.concatenate([scores[i] for i in chosen]), np.concatenate([labels[i] for i in chosen]))

        # Frames of an episode are alike, so episodes are what is resampled.
        return bootstrap(np.arange(len(judged)), of, resamples=300)

    fires = {
        index: bool(success_holds(score, scored.threshold, DEFAULT_REWARD.patience).any())
        for index, score in zip(judged, scores, strict=True)
    }
    ends_well = [float(fires[index]) for index in judged if scored.successful(index)]
    never = [float(fires[index]) for index in judged if scored.episodes[index].success_index is None]
    best = best_threshold(np.concatenate(scores), np.concatenate(labels))
    return {
        "success_auroc": over_frames(auroc),
        "success_auprc": over_frames(average_precision),
        "success_best_threshold": _exact(best.threshold, len(judged)),
        "success_best_balanced_accuracy": _exact(best.balanced_accuracy, len(judged)),
        "success_rule_recall": bootstrap(ends_well),
        "success_rule_false_alarms": bootstrap(never),
    }


def _ordering(scored: _Scored) -> dict[str, Estimate]:
    """Whether final progress puts episodes of a task in the order of their quality."""
    above_failure: list[float] = []
    taus: list[float] = []
    difference: list[float] = []
    for members in scored.by_task().values():
        done = [scored.final(index) for index in members if scored.successful(index)]
        groups: dict[int, list[float]] = {}
        for index in members:
            groups.setdefault(QUALITY_RANKS[scored.episodes[index].quality_label], []).append(scored.final(index))
            if done and not scored.successful(index):
                scores = np.array([scored.final(index), *done])
                above_failure.append(ranking_accuracy(scores, np.arange(len(scores)) > 0))
        if len(groups) == len(QUALITY_RANKS):
            taus.append(mean_tau_a(groups))
        failed = [value for rank, values in groups.items() if rank < max(QUALITY_RANKS.values()) for value in values]
        if done and failed:
            difference.append(float(np.mean(done) - np.mean(failed)))
    finals = {
        f"final_progress_{skill}": bootstrap(
            [scored.final(index) for index, episode in enumerate(scored.episodes) if episode.skill == skill]
        )
        for skill in sorted({str(episode.skill) for episode in scored.episodes})
    }
    return {
        "success_above_failure": bootstrap(above_failure),
        "final_tau_a": bootstrap(taus),
        "success_fail_difference": bootstrap(difference),
        **finals,
    }


def _farming(scored: _Scored, rng: np.random.Generator) -> dict[str, Estimate]:
    """What is paid for nothing: other tasks, standing still, going nowhere."""
    instructions = {key: scored.episodes[members[0]].task for key, members in scored.by_task().items()}
    wrong: list[Clip] = []
    for index in scored.experts:
        episode = scored.episodes[index]
        others = sorted({text for key, text in instructions.items() if key != group_key(episode)})
        if others:
            wrong.append(episode.clip(others[int(rng.integers(len(others)))]))
    rises: list[float] = []
    for episode, prediction in zip(scored.episodes, scored.predictions, strict=True):
        stop = episode.metadata.get("stop_step")
        if stop is not None and episode.steps is not None and not bool(episode.success_index):
            frame = min(int(np.searchsorted(episode.steps, stop)), len(episode) - 1)
            rises.append(stall_rise(prediction.progress, frame))
    return {
        "wrong_task_progress": bootstrap([float(prediction.progress[-1]) for prediction in scored.steps(wrong)]),
        "stall_rise": bootstrap(rises),
    }


def _preference(scored: _Scored, most: int, rng: np.random.Generator) -> dict[str, Estimate]:
    """Accuracy over pairs of a successful episode and one of the same task that is not, asked in both orders."""
    chosen: list[tuple[Clip, Clip]] = []
    for members in scored.by_task().values():
        done = [index for index in members if scored.successful(index)]
        failed = [index for index in members if not scored.successful(index)]
        pairs = [(better, worse) for better in done for worse in failed]
        for number in rng.permutation(len(pairs))[:most]:
            better, worse = (_ending(scored.episodes[index], scored.protocol) for index in pairs[int(number)])
            chosen.append((better, Clip(worse.frames, better.task)))
    if not chosen:
        return {}
    first, second = (
        np.concatenate([scored.model.compare(batch) for batch in _batches(pairs)])
        for pairs in (chosen, [(worse, better) for better, worse in chosen])
    )
    rows = np.stack([first, second], axis=1).astype(np.float64)
    names = ("better_first", "better_second", "mean", "both")
    return {
        f"preference_accuracy_{name}": bootstrap(
            rows, lambda sample, name=name: getattr(preference_accuracy(sample[:, 0], sample[:, 1]), name)
        )
        for name in names
    }


def _ending(episode: Trajectory, protocol: FrameProtocol) -> Clip:
    """What a model is shown of a whole episode."""
    slots = protocol.slots(len(episode) - 1)
    return Clip(episode.clip().read(slots.tolist()), episode.task)


def _batches(pairs: list[tuple[Clip, Clip]]) -> list[list[tuple[Clip, Clip]]]:
    return [pairs[start : start + _BATCH] for start in range(0, len(pairs), _BATCH)]


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: it becomes null."""
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, float) and np.isnan(value):
        return None
    return value


def _exact(value: float, count: int) -> Estimate:
    """A value without an interval."""
    return Estimate(value, value, value, count)
