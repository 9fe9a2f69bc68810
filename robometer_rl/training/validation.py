"""Evaluation during training: a few metrics on episodes that are not trained on, and the best checkpoints kept.

The full table, with intervals and impostors beside every correlation, is `robometer_rl.evaluation.evaluate`'s.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.labels import FrameLabels, group_key, label_trajectories
from robometer_rl.data.target_config import TargetConfig
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.evaluation.metrics import (
    auroc,
    average_precision,
    mean_tau_a,
    preference_accuracy,
    ranking_accuracy,
    voc_pearson,
    voc_spearman,
)
from robometer_rl.evaluation.ranking import QUALITY_RANKS
from robometer_rl.files import new_directory
from robometer_rl.frames import Clip
from robometer_rl.models.robometer.checkpoint import Checkpoint, save_checkpoint
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.prediction import Prediction
from robometer_rl.training.config import Selection

__all__ = ["METRICS", "BestCheckpoints", "Validation", "choose_episodes"]

logger = logging.getLogger(__name__)

_RECORD = "metrics.json"


@dataclass
class _Scored:
    """Episodes of a validation split, their truth, and what a model says of every step."""

    model: Robometer
    episodes: Sequence[Trajectory]
    labels: Sequence[FrameLabels]
    predictions: Sequence[Prediction]

    def tasks(self) -> Iterator[list[int]]:
        """Episodes of each task."""
        groups: dict[str, list[int]] = {}
        for index, episode in enumerate(self.episodes):
            groups.setdefault(group_key(episode), []).append(index)
        yield from groups.values()

    def ranks(self, members: Sequence[int]) -> NDArray[np.int64]:
        return np.array([QUALITY_RANKS[self.episodes[index].quality_label] for index in members])

    def finals(self, members: Sequence[int]) -> NDArray[np.float64]:
        return np.array([self.predictions[index].progress[-1] for index in members], np.float64)

    def successes(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Predicted and true progress of successful episodes, where the truth is known."""
        for episode, labels, prediction in zip(self.episodes, self.labels, self.predictions, strict=True):
            if episode.quality_label == "successful":
                yield prediction.progress[labels.progress_known], labels.progress[labels.progress_known]

    def frames(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Predicted and true success of all frames whose truth is known."""
        known = [labels.success_known for labels in self.labels]
        predicted = [
            prediction.success[mask]
            for prediction, mask in zip(self.predictions, known, strict=True)
            if prediction.success is not None
        ]
        return np.concatenate(predicted), np.concatenate(
            [labels.success[mask] for labels, mask in zip(self.labels, known, strict=True)]
        )


def _voc_pearson(scored: _Scored) -> float:
    return _mean([voc_pearson(predicted, truth) for predicted, truth in scored.successes()])


def _voc_spearman(scored: _Scored) -> float:
    """Until the task is done."""
    return _mean([voc_spearman(predicted[: _first_done(truth)]) for predicted, truth in scored.successes()])


def _ranking_accuracy(scored: _Scored) -> float:
    return _mean([ranking_accuracy(scored.finals(members), scored.ranks(members)) for members in scored.tasks()])


def _tau_a(scored: _Scored) -> float:
    taus = []
    for members in scored.tasks():
        finals, ranks = scored.finals(members), scored.ranks(members)
        taus.append(mean_tau_a({int(rank): finals[ranks == rank] for rank in np.unique(ranks)}))
    return _mean(taus)


def _preference_accuracy(scored: _Scored) -> float:
    """One pair for each episode that fails, with a successful one of its task."""
    pairs = []
    for members in scored.tasks():
        ranks = scored.ranks(members)
        best = [index for index, rank in zip(members, ranks, strict=True) if rank == QUALITY_RANKS["successful"]]
        rest = [index for index in members if index not in best]
        pairs += [(best[number % len(best)], worse) for number, worse in enumerate(rest) if best]
    if not pairs:
        return float("nan")
    clips = [(_ending(scored, better, better), _ending(scored, worse, better)) for better, worse in pairs]
    first, second = scored.model.compare(clips), scored.model.compare([(b, a) for a, b in clips])
    return preference_accuracy(first, second).mean


METRICS: Mapping[str, Callable[[_Scored], float]] = {
    "voc_pearson": _voc_pearson,
    "voc_spearman": _voc_spearman,
    "ranking_accuracy": _ranking_accuracy,
    "tau_a": _tau_a,
    "success_auroc": lambda scored: auroc(*scored.frames()),
    "success_auprc": lambda scored: average_precision(*scored.frames()),
    "preference_accuracy": _preference_accuracy,
}
"""By name; all of them are better when higher. See `robometer_rl.evaluation.metrics`."""


class Validation:
    """Measures the network that is being trained.

    Args:
        episodes: Of the validation split.
        selection: What to measure.
        directory: Where the best checkpoints are kept.
        references: Episodes that say what progress is, see `label_trajectories`.
        targets: Likewise.

    Attributes:
        episodes: Those that are measured on.
        every: Steps between two measurements.
        best: The checkpoints kept.

    Raises:
        ValueError: An unknown metric, or no episodes.
    """

    def __init__(
        self,
        episodes: Sequence[Trajectory],
        selection: Selection,
        directory: Path,
        references: Sequence[Trajectory],
        targets: TargetConfig | None = None,
    ) -> None:
        if unknown := sorted(set(selection.metrics) - set(METRICS)):
            raise ValueError(f"unknown metrics {unknown} for evaluation during training; there are {sorted(METRICS)}")
        self.episodes = choose_episodes(episodes, selection.episodes)
        if not self.episodes:
            raise ValueError("evaluation during training has no episodes; see the settings of the selection")
        self.every = selection.every
        self.best = BestCheckpoints(directory, selection.keep)
        self._metrics = selection.metrics
        self._labels = label_trajectories(self.episodes, references, targets)

    def check(self, checkpoint: Checkpoint) -> dict[str, float]:
        """Measures before training, so that what cannot be measured shows before it and not after.

        Raises:
            ValueError: A metric is not defined on these episodes.
        """
        values = self.measure(checkpoint)
        if undefined := [name for name, value in values.items() if np.isnan(value)]:
            raise ValueError(
                f"{undefined} are not defined on the {len(self.episodes)} validation episodes: correlations need "
                "successful ones; the other metrics need episodes of one task that differ in their outcome. Add some, "
                "or leave these metrics out of the selection"
            )
        return values

    def measure(self, checkpoint: Checkpoint) -> dict[str, float]:
        """Metrics by name; puts the network in evaluation mode."""
        checkpoint.network.eval()
        model = Robometer(checkpoint, "validation", "validation")
        predictions = model.predict_steps([episode.clip() for episode in self.episodes])
        scored = _Scored(model, self.episodes, self._labels, predictions)
        return {name: METRICS[name](scored) for name in self._metrics}


class BestCheckpoints:
    """The best checkpoints of a run, complete, each with its metrics; what is on disk is all that it knows.

    Args:
        directory: Where they are.
        keep: How many.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory = directory
        self._keep = keep

    def ranking(self) -> list[tuple[float, Path]]:
        """Scores and directories, best first; of equal ones the earlier first."""
        records = [(json.loads(file.read_text()), file.parent) for file in self._directory.glob(f"*/{_RECORD}")]
        ordered = sorted(records, key=lambda entry: (-entry[0]["score"], entry[0]["step"], entry[1].name))
        return [(record["score"], path) for record, path in ordered]

    def offer(self, name: str, step: int, metrics: Mapping[str, float], checkpoint: Checkpoint) -> Path | None:
        """Keeps a checkpoint if it is among the best by the mean of its metrics, and drops the one it displaces.

        Args:
            name: Of its directory; one of this name is replaced.
            step: At which it was saved.
            metrics: By name.
            checkpoint: To be saved.

        Returns:
            Where it was saved; None if enough others are as good, or a metric is not a number.
        """
        score = float(np.mean(list(metrics.values())))
        if np.isnan(score):
            logger.warning("step %d is not kept: its metrics are %s", step, dict(metrics))
            return None
        target = self._directory / name
        others = [(other, path) for other, path in self.ranking() if path != target]
        if sum(other >= score for other, _ in others) >= self._keep:
            return None
        with new_directory(target) as unfinished:
            save_checkpoint(unfinished, checkpoint)
            record = {"step": step, "score": score, "metrics": dict(metrics)}
            (unfinished / _RECORD).write_text(json.dumps(record, indent=2))
            shutil.rmtree(target, ignore_errors=True)
        for _, path in self.ranking()[self._keep :]:
            shutil.rmtree(path)
        logger.info("kept %s with a score of %.4f", target, score)
        return target


def choose_episodes(episodes: Sequence[Trajectory], most: int) -> list[Trajectory]:
    """At most so many episodes, in turn from every outcome of every task."""
    groups: dict[tuple[str, str], list[Trajectory]] = {}
    for episode in episodes:
        groups.setdefault((group_key(episode), episode.quality_label), []).append(episode)
    turns = [(turn, key) for key, members in groups.items() for turn in range(len(members))]
    return [groups[key][turn] for turn, key in sorted(turns)[:most]]


def _ending(scored: _Scored, index: int, task_of: int) -> Clip:
    """What the model is shown of a whole episode, with the instruction of another one of its task."""
    episode = scored.episodes[index]
    slots = scored.model.default_protocol.slots(len(episode) - 1)
    return Clip(episode.clip().read(slots.tolist()), scored.episodes[task_of].task)


def _first_done(truth: NDArray[np.float32]) -> int:
    done = truth >= 1.0
    return int(np.argmax(done)) + 1 if done.any() else len(truth)


def _mean(values: Sequence[float]) -> float:
    """Of the values that are defined; NaN if none is."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
