"""Evaluation during training: a few metrics on episodes that are not trained on, and the best checkpoints kept.

The metrics are those of `robometer_rl.evaluation.evaluate`, computed by its functions: what a checkpoint is chosen by
is the number that ``robometer-rl evaluate`` reports on the same episodes. Intervals and impostors are left out.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from robometer_rl.data.labels import EXPERT, group_key
from robometer_rl.data.targets import TargetConfig
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.evaluation.measures import measure
from robometer_rl.evaluation.scoring import Scoring, score_episodes
from robometer_rl.files import new_directory
from robometer_rl.models.robometer.checkpoint import Checkpoint, save_checkpoint
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.models.robometer.weights import State
from robometer_rl.training.config import Selection

__all__ = ["METRICS", "BestCheckpoints", "Judge", "Keeper", "Validation", "choose_episodes"]

logger = logging.getLogger(__name__)

_RECORD = "metrics.json"


METRICS: Final = (
    "voc_pearson",
    "voc_pearson_time",
    "voc_spearman",
    "success_above_failure",
    "final_tau_a",
    "success_fail_difference",
    "graded_ranking_accuracy",
    "success_auroc",
    "success_auprc",
    "success_best_balanced_accuracy",
    "preference_accuracy_mean",
    "preference_accuracy_both",
)
"""Those of `robometer_rl.evaluation.measures.measure` that a model can be chosen by: higher is better."""


class Keeper(Protocol):
    """Who keeps the best of what is trained, see `BestCheckpoints`."""

    def offer(
        self,
        name: str,
        step: int,
        metrics: Mapping[str, float],
        checkpoint: Checkpoint,
        gathered: State | None = None,
    ) -> object:
        """Keeps a checkpoint if it is good enough."""
        ...


class Judge(Protocol):
    """What measures a network that is being trained, see `Validation`."""

    @property
    def best(self) -> Keeper:
        """Who keeps the best."""
        ...

    def check(self, checkpoint: Checkpoint) -> dict[str, float]:
        """Measures before training."""
        ...

    def measure(self, checkpoint: Checkpoint) -> dict[str, float]:
        """Metrics by name; puts the network in evaluation mode."""
        ...


class Validation:
    """Measures the network that is being trained.

    Args:
        episodes: Of the validation split.
        selection: What to measure.
        directory: Where the best checkpoints are kept.
        reaching: What an expert's way to the object is worth at most, see `TargetConfig`.

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
        reaching: float = TargetConfig.reaching,
    ) -> None:
        if unknown := sorted(set(selection.metrics) - set(METRICS)):
            raise ValueError(f"unknown metrics {unknown} for evaluation during training; there are {sorted(METRICS)}")
        self.episodes = choose_episodes(episodes, selection.episodes)
        if not self.episodes:
            raise ValueError("evaluation during training has no episodes; see the settings of the selection")
        self.every = selection.every
        self.best = BestCheckpoints(directory, selection.keep)
        self._metrics = selection.metrics
        self._reaching = reaching

    def check(self, checkpoint: Checkpoint) -> dict[str, float]:
        """Measures before training, so that what cannot be measured shows before it and not after.

        Raises:
            ValueError: A metric is not defined on these episodes.
        """
        values = self.measure(checkpoint)
        if undefined := [name for name, value in values.items() if np.isnan(value)]:
            raise ValueError(
                f"{undefined} are not defined on the {len(self.episodes)} validation episodes: correlations need "
                f"successful ones of the skill {EXPERT!r}, metrics of success need it recorded frame by frame, the "
                "others need episodes of one task that differ in their outcome. Add some, or leave these metrics out "
                "of the selection"
            )
        return values

    def measure(self, checkpoint: Checkpoint) -> dict[str, float]:
        """Metrics by name; puts the network in evaluation mode."""
        checkpoint.network.eval()
        model = Robometer(checkpoint, "validation", "validation")
        wants_pairs = any(name.startswith("preference") for name in self._metrics)
        scoring = Scoring(
            model.default_protocol,
            pairs=Scoring.pairs if wants_pairs else 0,
            reaching=self._reaching,
            controls=False,
        )
        measured = measure(score_episodes(model, self.episodes, scoring))
        return {name: measured[name].value if name in measured else float("nan") for name in self._metrics}


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

    def offer(
        self,
        name: str,
        step: int,
        metrics: Mapping[str, float],
        checkpoint: Checkpoint,
        gathered: State | None = None,
    ) -> Path | None:
        """Keeps a checkpoint if it is among the best by the mean of its metrics, and drops the one it displaces.

        Args:
            name: Of its directory; one of this name is replaced.
            step: At which it was saved.
            metrics: By name.
            checkpoint: To be saved.
            gathered: Its weights, where the network is spread over several processes.

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
            save_checkpoint(unfinished, checkpoint, gathered)
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
