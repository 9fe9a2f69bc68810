"""A second look at labels: a random sample of episodes is read and scored again, one at a time."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np

from robometer_rl.data.reading import Unreadable
from robometer_rl.formats.dataset import EpisodeLabels, Labels, RelabelDataset
from robometer_rl.relabeling.engine import Engine, Labeller, one_process

__all__ = ["SAMPLE", "Verification", "VerificationError", "verify_labels"]

SAMPLE: Final = 16
"""Episodes that are scored again."""

# Episodes were labelled in packs and are scored alone here: a network sums in another order then.
_TOLERANCE: Final = {"float32": 1e-4}
_TOLERANCE_OF_HALF_PRECISION: Final = 3e-2


class VerificationError(ValueError):
    """An episode has other labels when it is scored again; the message names it and how far they differ."""


@dataclass(frozen=True)
class Verification:
    """How a verification went.

    Attributes:
        episodes: Keys of the episodes that were scored again.
        difference: The largest difference in progress or success probability.
    """

    episodes: tuple[str, ...]
    difference: float


def verify_labels(
    dataset: RelabelDataset,
    labeller: Labeller,
    labels: Labels,
    sample: int = SAMPLE,
    seed: int = 0,
    engine: Engine = one_process,
) -> Verification:
    """Scores a random sample of labelled episodes again.

    Args:
        dataset: The dataset.
        labeller: The one that made the labels.
        labels: The labels.
        sample: Number of episodes; all of them if they are fewer.
        seed: Of the sample.
        engine: Where they are scored.

    Raises:
        VerificationError: Progress or success of one differs by more than 1e-4, or 3e-2 in half precision.
    """
    keys = sorted(labels.episodes)
    places = np.random.default_rng(seed).permutation(len(keys))[:sample]
    chosen = [keys[place] for place in sorted(places.tolist())]
    tolerance = _TOLERANCE.get(labeller.model.dtype, _TOLERANCE_OF_HALF_PRECISION)
    largest = 0.0
    with closing(engine(dataset, labeller, chosen, pack_tokens=1)) as coming:
        for key, again in zip(chosen, chain.from_iterable(coming), strict=True):
            if isinstance(again, Unreadable):
                raise VerificationError(f"episode {key} was labelled and cannot be read any more: {again.reason}")
            difference = _difference(labels.episodes[key], again)
            if not difference <= tolerance:
                raise VerificationError(
                    f"episode {key} has other labels when it is scored again: progress or success differs by "
                    f"{difference:.2g}, expected {tolerance:g} at most"
                )
            largest = max(largest, difference)
    return Verification(tuple(chosen), largest)


def _difference(first: EpisodeLabels, second: EpisodeLabels) -> float:
    if len(first.progress) != len(second.progress):
        return float("inf")
    pairs = ((first.progress, second.progress), (first.success, second.success))
    return max(float(np.abs(one - other).max()) for one, other in pairs)
