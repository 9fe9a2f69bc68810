"""Batches of samples of like length, so that little of a batch is padding.

The samples of some consecutive batches are sorted by length and dealt out again. Which samples these are does not
change, and neither does how many pairs each batch has, on which the weight of the losses depends: clips take the places
of clips, and pairs those of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.trajectories import Trajectories
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.models.robometer.processing import RobometerProcessor
from robometer_rl.training.samples import ClipSample, PairSample, Sample

__all__ = ["Buckets", "TokenCounts", "bucketed_order"]


def bucketed_order(
    tokens: NDArray[np.int64], kinds: NDArray[np.int64], batch_size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """A new order for n samples.

    Args:
        tokens: (n,) length of each sample.
        kinds: (n,) samples of different kinds do not take each other's places within a batch.
        batch_size: A divisor of n.
        rng: Of the order of the batches, which would otherwise grow longer and longer.

    Returns:
        (n,) which sample stands in each place.
    """
    order = np.empty(len(tokens), np.int64)
    for kind in np.unique(kinds):
        places = np.flatnonzero(kinds == kind)
        order[places] = places[np.argsort(tokens[places], kind="stable")]
    return rng.permutation(order.reshape(-1, batch_size), axis=0).ravel()


class TokenCounts:
    """The number of tokens that a sample takes.

    Args:
        processor: Of the model that is trained.
        trajectories: In the order in which the sampler numbers them.
    """

    def __init__(self, processor: RobometerProcessor, trajectories: Sequence[Trajectory]) -> None:
        patcher = processor.patcher
        sizes = [each.size for each in Trajectories.of(trajectories).facts()]
        of_size = {size: patcher.tokens(patcher.grid(*size)) for size in set(sizes)}
        self._per_frame = np.array([of_size[size] for size in sizes], np.int64)
        self._encode = processor.tokenizer.encode
        self._words: dict[str, int] = {}

    def __call__(self, sample: Sample) -> int:
        """Frames and instruction; what all prompts have in common is left out."""
        sides = (sample,) if isinstance(sample, ClipSample) else (sample.first, sample.second)
        frames = sum(len(side) * int(self._per_frame[side.episode]) for side in sides)
        task = sides[0].task
        if task not in self._words:  # no cache of functools: workers that are started anew are sent this object
            self._words[task] = len(self._encode(task))
        return frames + self._words[task]


@dataclass
class Buckets:
    """Where the samples of a stage go.

    Attributes:
        draw: The sample that stands in a place as drawn.
        tokens: Its length.
        total: Samples of the stage, a multiple of ``batch_size``.
        batch_size: Samples of a batch.
        batches: Consecutive batches whose samples are exchanged.
        seed: Of the order of batches.
    """

    draw: Callable[[int], Sample]
    tokens: Callable[[Sample], int]
    total: int
    batch_size: int
    batches: int
    seed: tuple[int, ...]
    _window: int = field(default=-1, init=False)
    _order: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), init=False)

    def __call__(self, place: int) -> int:
        """The place, as drawn, of the sample that goes to ``place``; a function of ``place`` alone."""
        size = self.batch_size * self.batches
        window, position = divmod(place, size)
        if window != self._window:
            start = window * size
            samples = [self.draw(index) for index in range(start, min(start + size, self.total))]
            self._order = start + bucketed_order(
                np.array([self.tokens(sample) for sample in samples]),
                np.array([isinstance(sample, PairSample) for sample in samples], np.int64),
                self.batch_size,
                np.random.default_rng([*self.seed, window]),
            )
            self._window = window
        return int(self._order[position])
