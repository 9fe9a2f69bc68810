"""Packs: episodes that go through the model together, decoded while the model works on those before them.

Which episodes share a pack decides the last bits of their labels, since a network sums in another order in a larger
batch, as it does with another number of threads or on another processor. So packs depend on the order of the dataset
and on the settings alone, and a pack is labelled whole or not at all: a run that goes on after the last whole pack
makes the packs that an unbroken one would have made. Episodes are put together by their sizes, before any is decoded,
so that packs can be decoded elsewhere.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from robometer_rl.data.reading import EPISODE_DAMAGE, Unreadable, unreadable
from robometer_rl.formats.dataset import EpisodeError, RecordedEpisode, RelabelDataset
from robometer_rl.frames import Clip, FrameSequence, scored_steps
from robometer_rl.relabeling.decoding import decode

__all__ = [
    "PACK_TOKENS",
    "Decoded",
    "Opened",
    "Pack",
    "ahead",
    "decode_pack",
    "groups",
    "open_episode",
    "tokens",
]

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

    episode: RecordedEpisode
    cameras: Mapping[str, FrameSequence]

    @property
    def clips(self) -> list[Clip]:
        """What a model is asked about it: every camera with every instruction."""
        return [Clip(frames, task) for frames in self.cameras.values() for task in self.episode.tasks]


Opened = RecordedEpisode | Unreadable
"""An episode of which nothing has been decoded, or what is wrong with it."""

Pack = list[Decoded | Unreadable]
"""Consecutive episodes of a dataset; those that cannot be labelled are in their place."""


def open_episode(dataset: RelabelDataset, key: str) -> Opened:
    """Opens an episode; what the format says is wrong with it takes its place."""
    try:
        episode = dataset.episode(key)
        episode.check_steps()
        return episode
    except EPISODE_DAMAGE as error:
        return unreadable(key, error)


def decode_pack(together: Iterable[Opened], every: int) -> Pack:
    """Decodes what of the episodes of a pack is scored.

    Args:
        together: The episodes.
        every: Scoring interval.

    Raises:
        OSError: There is no room for the decoded frames of a long episode.
    """
    return [opened if isinstance(opened, Unreadable) else _decode_episode(opened, every) for opened in together]


def tokens(opened: Opened, every: int) -> int:
    """About as many tokens as a model reads of an episode: every camera with every instruction.

    Args:
        opened: The episode.
        every: Scoring interval.
    """
    if isinstance(opened, Unreadable):
        return 0
    of_a_frame = 0
    for frames in opened.cameras.values():
        height, width = Clip(frames, opened.tasks[0]).size
        of_a_frame += -(-height // _TOKEN_PIXELS) * -(-width // _TOKEN_PIXELS) + _TOKENS_AROUND
    return of_a_frame * len(opened.tasks) * len(scored_steps(opened.num_frames, every))


def groups(sized: Iterable[tuple[T, int]], budget: int) -> Iterator[list[T]]:
    """Puts the episodes of a dataset, or those from the beginning of a pack on, together.

    Args:
        sized: Episodes, or what stands for them, in the order of the dataset, each with its `tokens`.
        budget: Tokens that the episodes of a group have together; one that has more is alone.
    """
    together: list[T] = []
    total = 0
    for item, size in sized:
        if total and total + size > budget:
            yield together
            together, total = [], 0
        together.append(item)
        total += size
    if together:
        yield together


def ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """Yields ``items``, the next of which is made in another thread while the caller uses the last."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, iterator, None)
        while (item := upcoming.result()) is not None:
            upcoming = thread.submit(next, iterator, None)
            yield item


def _decode_episode(episode: RecordedEpisode, every: int) -> Decoded | Unreadable:
    cameras: dict[str, FrameSequence] = {}
    for name, frames in episode.cameras.items():
        try:
            cameras[name] = decode(frames, every)
        except EpisodeError as error:
            return Unreadable(episode.key, f"camera {name}: {error}")
    return Decoded(episode, cameras)
