"""The values that figures, overlays and tables show of one episode."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robometer_rl.files import new_file

__all__ = ["EpisodeScores", "runs_of_true"]


@dataclass(frozen=True)
class EpisodeScores:
    """What a model said about an episode, frame by frame.

    Attributes:
        task: The instruction.
        numbers: (N,) int64, which frames of the episode these are.
        progress: (N,) float32 in [0, 1].
        success: (N,) float32 probability; None of a model that says none.
        success_detected: (N,) bool, whether the success rule holds.
        threshold: Probability that the success rule asks for.
        uncertainty: (N,) float32 of progress, see `robometer_rl.prediction.progress_uncertainty`; None of a model that
            does not say.
    """

    task: str
    numbers: NDArray[np.int64]
    progress: NDArray[np.float32]
    success: NDArray[np.float32] | None
    success_detected: NDArray[np.bool_]
    threshold: float
    uncertainty: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.numbers), len(self.progress), len(self.success_detected)}
        lengths |= {len(values) for values in (self.success, self.uncertainty) if values is not None}
        if len(lengths) != 1 or lengths == {0}:
            raise ValueError(f"an episode's values belong to the same frames, at least one; got lengths {lengths}")

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def first_detected(self) -> int | None:
        """Which of the N frames is the first in which the success rule holds, None if there is none."""
        return int(np.argmax(self.success_detected)) if self.success_detected.any() else None

    @property
    def success_frame(self) -> int | None:
        """Number of that frame."""
        return None if self.first_detected is None else int(self.numbers[self.first_detected])

    def hold(self, numbers: NDArray[np.int64]) -> EpisodeScores:
        """The values at other frames, none before the first: between frames the last value is held."""
        source = np.searchsorted(self.numbers, numbers, side="right") - 1
        return EpisodeScores(
            self.task,
            numbers,
            self.progress[source],
            None if self.success is None else self.success[source],
            self.success_detected[source],
            self.threshold,
            None if self.uncertainty is None else self.uncertainty[source],
        )

    def write_csv(self, path: str | Path, seconds: NDArray[np.float64] | None = None) -> None:
        """Writes ``frame,seconds,progress,success,success_detected,uncertainty``, a row per frame.

        Args:
            path: File to write.
            seconds: (N,) when each frame is shown; the column is empty if that is not known, as success and uncertainty
                are where the model says none.
        """
        with new_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["frame", "seconds", "progress", "success", "success_detected", "uncertainty"])
            shown = [""] * len(self) if seconds is None else [f"{second:.3f}" for second in seconds]
            success, uncertainty = (
                [""] * len(self) if values is None else [f"{value:.6f}" for value in values]
                for values in (self.success, self.uncertainty)
            )
            rows = zip(self.numbers, shown, self.progress, success, self.success_detected, uncertainty, strict=True)
            for number, second, progress, probability, success_detected, spread in rows:
                writer.writerow([number, second, f"{progress:.6f}", probability, int(success_detected), spread])


def runs_of_true(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of each run of True.

    Examples:
        >>> runs_of_true(np.array([False, True, True, False, True]))
        [(1, 2), (4, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]
