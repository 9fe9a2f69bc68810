"""What a Robometer is trained on: clips with what each of their frames should say, and pairs of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClipSample", "PairSample", "Sample"]


@dataclass(frozen=True, eq=False)
class ClipSample:
    """Frames to show and what each of them should say.

    Attributes:
        episode: Position of the trajectory in the data set.
        indices: (T,) frames to show, in order.
        task: The instruction to show them with.
        progress: (T,) float32 in [0, 1].
        progress_known: (T,) bool.
        success: (T,) float32, 0 or 1.
        success_known: (T,) bool.
        strategy: How it was made.
        said: Number of the task that the instruction names, see `Sampler.tasks`.
        shown: Number of the task that the frames are an attempt at.
        view: A number for whoever augments frames: equal numbers, equal augmentation.
    """

    episode: int
    indices: NDArray[np.int64]
    task: str
    progress: NDArray[np.float32]
    progress_known: NDArray[np.bool_]
    success: NDArray[np.float32]
    success_known: NDArray[np.bool_]
    strategy: str
    said: int
    shown: int
    view: int

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True, eq=False)
class PairSample:
    """Two clips with one instruction, in the order in which they are shown.

    Attributes:
        first: Trajectory A.
        second: Trajectory B.
        first_is_better: The label.
        strategy: How the worse one was made.
    """

    first: ClipSample
    second: ClipSample
    first_is_better: bool
    strategy: str


Sample = ClipSample | PairSample
