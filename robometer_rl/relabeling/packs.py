"""Packs: episodes that go through the model together, decoded while the model works on those before them.

Which episodes share a pack decides the last bits of their labels, since a network sums in another order in a larger
batch. So packs depend on the order of the dataset and on the settings alone, and a pack is labelled whole or not at
all: a run that goes on after the last whole pack makes the packs that an unbroken one would have made.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from robometer_rl.data.sources.reading import Unreadable
from robometer_rl.frames import Clip, FrameSequence
from robometer_rl.relabeling.dataset import Episode, EpisodeError, RelabelDataset
from robometer_rl.relabeling.decoding import decode

__all__ = ["PACK_TOKENS", "Decoded", "Pack", "ahead", "decode_episode", "packs"]

PACK_TOKENS: Final = 32768
"""Tokens of a pack by default: some 2,000 frames of 128 x 128 pixels, 100 MB of them."""

# A model reads about one token per square of so many pixels, and a few around each frame.
_TOKEN_PIXELS: Final = 32
_TOKENS_AROUND: Final = 2

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Decoded:
    """An episode whose scored frames have been decoded.

    Attributes:
        episode: The episode.
        cameras: (S, H, W, 3) by camera, see `robometer_rl.relabeling.decoding.decode`.
    """

    episode: Episode
    cameras: Mapping[str, FrameSequence]

    @property
    def clips(self) -> list[Clip]:
        """What a model is asked about it: every camera with every instruction."""
        return [Clip(frames, task) for frames in self.cameras.values() for task in self.episode.tasks]

    @property
    def tokens(self) -> int:
        """About as many tokens as a model reads."""
        total = 0
        for clip in self.clips:
            height, width = clip.size
            total += len(clip) * (-(-height // _TOKEN_PIXELS) * -(-width // _TOKEN_PIXELS) + _TOKENS_AROUND)
        return total


Pack = list[Decoded | Unreadable]
"""Consecutive episodes of a dataset; those that cannot be labelled are in their place."""


def decode_episode(dataset: RelabelDataset, key: str, every: int) -> Decoded | Unreadable:
    """Opens an episode and decodes what of it is scored.

    Args:
        dataset: The dataset.
        key: Of the episode.
        every: Scoring interval.

    Raises:
        OSError: There is no room for the decoded frames of a long episode.
    """
    try:
        episode = dataset.episode(key)
    except (ValueError, OSError) as error:
        return Unreadable(key, str(error))
    cameras: dict[str, FrameSequence] = {}
    for name, frames in episode.cameras.items():
        try:
            cameras[name] = decode(frames, every)
        except EpisodeError as error:
            return Unreadable(key, f"camera {name}: {error}")
    return Decoded(episode, cameras)


def packs(dataset: RelabelDataset, start: int, every: int, budget: int) -> Iterator[Pack]:
    """Yields the packs of a dataset from an episode on that begins one.

    Args:
        dataset: The dataset.
        start: Place of that episode in ``dataset.keys``.
        every: Scoring interval.
        budget: Tokens that the episodes of a pack have together; one that has more is alone.
    """
    pack: Pack = []
    total = 0
    for key in dataset.keys[start:]:
        entry = decode_episode(dataset, key, every)
        tokens = entry.tokens if isinstance(entry, Decoded) else 0
        if total and total + tokens > budget:
            yield pack
            pack, total = [], 0
        pack.append(entry)
        total += tokens
    if pack:
        yield pack


def ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """Yields ``items``, the next of which is made in another thread while the caller uses the last."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, iterator, None)
        while (item := upcoming.result()) is not None:
            upcoming = thread.submit(next, iterator, None)
            yield item
