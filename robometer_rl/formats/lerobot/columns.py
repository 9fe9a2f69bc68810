"""The columns that labels take in a LeRobot dataset, and their statistics.

=============================== ======= ==============================================================================
``next.reward``                 float32 What the step pays.
``next.success``                bool    Whether the success rule holds after the step.
``robometer.progress``          float32 Predicted progress in the observation of the row.
``robometer.success``           float32 Predicted success probability in it.
``robometer.imputed``           bool    Whether the outcome of the step was not recorded: the last one of an episode.
``robometer.original_reward``           The original ``next.reward``, if there was one.
``robometer.original_success``          The original ``next.success``, if there was one.
=============================== ======= ==============================================================================

LeRobot does not allow a slash in names of features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.formats.dataset import EpisodeLabels, Labels
from robometer_rl.formats.lerobot.layout import column_values

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "INDICES",
    "PROGRESS",
    "REWARD",
    "STATISTICS",
    "SUCCESS",
    "RowLabels",
    "describe",
    "episode_key",
    "label_features",
    "original_column",
    "originals_to_keep",
    "row_labels",
    "statistics",
]

INDICES: Final = ("index", "episode_index", "frame_index")

REWARD: Final = "next.reward"
SUCCESS: Final = "next.success"
PROGRESS: Final = "robometer.progress"

_PROBABILITY: Final = "robometer.success"
_IMPUTED: Final = "robometer.imputed"
_ORIGINALS: Final = {REWARD: "robometer.original_reward", SUCCESS: "robometer.original_success"}

_TYPES: Final = {
    REWARD: "float32",
    SUCCESS: "bool",
    PROGRESS: "float32",
    _PROBABILITY: "float32",
    _IMPUTED: "bool",
}

_QUANTILES: Final = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}

STATISTICS: Final = ("min", "max", "mean", "std", "count", *_QUANTILES)
"""What LeRobot notes of every feature, per episode and of the whole dataset."""


def episode_key(index: int) -> str:
    """`RecordedEpisode.key` of an episode by its number."""
    return f"episode_{index:06d}"


def original_column(features: Mapping[str, Any], column: str) -> str | None:
    """Where the original values of ``next.reward`` or ``next.success`` are; None if the dataset never had any."""
    if _ORIGINALS[column] in features:
        return _ORIGINALS[column]
    return column if column in features and PROGRESS not in features else None


def originals_to_keep(features: Mapping[str, Any]) -> dict[str, str]:
    """The columns that labels would replace, and where their original values go; empty at a second labelling."""
    return {name: kept for name, kept in _ORIGINALS.items() if original_column(features, name) == name}


def label_features(features: Mapping[str, Any]) -> dict[str, Any]:
    """The features that labelling makes, as ``info.json`` describes features.

    Args:
        features: Those of the dataset before.
    """
    kept = {kept: features[name] for name, kept in originals_to_keep(features).items()}
    return kept | {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in _TYPES.items()}


def describe(features: Mapping[str, Any]) -> dict[str, Any]:
    """All features of a dataset after labelling."""
    return {**features, **label_features(features)}


class RowLabels:
    """Labels by row: of the frames named by their episode and their number in it.

    Args:
        labels: Of the dataset.
        episode_index: (N,) of each row.
        frame_index: (N,) likewise.
        task_rewards: (N,) original rewards, which rows without labels keep; None for NaN.
    """

    def __init__(
        self,
        labels: Labels,
        episode_index: NDArray[np.int64],
        frame_index: NDArray[np.int64],
        task_rewards: NDArray[np.float64] | None,
    ) -> None:
        count = len(episode_index)
        self.progress = np.full(count, np.nan, np.float32)
        self.success = np.full(count, np.nan, np.float32)
        self.rewards = np.full(count, np.nan) if task_rewards is None else task_rewards.astype(np.float64)
        self.success_detected = np.zeros(count, np.bool_)
        self.imputed = np.zeros(count, np.bool_)
        for index in np.unique(episode_index).tolist():
            entry = labels.episodes.get(episode_key(index))
            if entry is not None:
                rows = np.flatnonzero(episode_index == index)
                self._fill(rows, entry, frame_index[rows])

    def _fill(self, rows: NDArray[np.int64], entry: EpisodeLabels, frames: NDArray[np.int64]) -> None:
        self.progress[rows] = entry.progress[frames]
        self.success[rows] = entry.success[frames]
        self.rewards[rows] = entry.rewards[frames]
        self.success_detected[rows] = entry.success_detected[frames]
        self.imputed[rows] = entry.imputed[frames]

    def columns(self) -> dict[str, NDArray[Any]]:
        """What a labelled dataset holds of them, by feature, in the types of `label_features`."""
        return {
            REWARD: self.rewards.astype(np.float32),
            SUCCESS: self.success_detected,
            PROGRESS: self.progress,
            _PROBABILITY: self.success,
            _IMPUTED: self.imputed,
        }


def row_labels(table: pa.Table, labels: Labels, reward: str | None) -> RowLabels:
    """Labels of the rows of a table.

    Args:
        table: With the columns `INDICES`.
        labels: Of the dataset.
        reward: The column with original rewards, if there is one.
    """
    episodes, frames = (table[name].to_numpy() for name in ("episode_index", "frame_index"))
    task_rewards = None if reward is None else column_values(table[reward]).astype(np.float64)
    return RowLabels(labels, episodes, frames, task_rewards)


def statistics(values: NDArray[Any]) -> dict[str, list[Any]] | None:
    """`STATISTICS` of a feature with one number per frame, over the frames in which it is not NaN.

    LeRobot computes the quantiles of an episode from a histogram, and those of a dataset as the mean of those of its
    episodes; these are exact.

    Returns:
        Lists of length 1; None if there is no number.
    """
    numbers = values.astype(np.float64)
    known = ~np.isnan(numbers)
    if not known.any():
        return None
    numbers = numbers[known]
    return {
        "min": [values[known].min().item()],
        "max": [values[known].max().item()],
        "mean": [float(numbers.mean())],
        "std": [float(numbers.std())],
        "count": [len(numbers)],
        **{name: [float(np.quantile(numbers, share))] for name, share in _QUANTILES.items()},
    }
