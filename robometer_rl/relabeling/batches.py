"""Packs: episodes that go through the model together, decoded while the model works on those before them.

Which episodes share a pack decides the last bits of their labels, since a network sums in another order in a larger
batch, as it does with another number of threads or on another processor. So packs depend on the order of the dataset
and on the settings alone, and a pack is labelled whole or not at all: a run that goes on after the last whole pack
makes the packs that an unbroken one would have made. Episodes are put together by their sizes, before any is decoded,
so that packs can be decoded elsewhere.

Frames are decoded once, from front to back, before the model sees them. So it is known whether all of them can be
decoded, and reading them again, in any order, is cheap. Those of long episodes go to a temporary file, so that memory
does not grow with the length of an episode.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import EPISODE_DAMAGE, Unreadable, unreadable
from robometer_rl.formats.dataset import EpisodeError, RecordedEpisode, RelabelDataset
from robometer_rl.formats.trajectories import tiled
from robometer_rl.frames import Clip, FrameSequence, as_frames, scored_steps

__all__ = [
    "IN_MEMORY_BYTES",
    "PACK_TOKENS",
    "Decoded",
    "Opened",
    "Pack",
    "ScratchFrames",
    "ahead",
    "decode",
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

IN_MEMORY_BYTES: Final = 64 << 20
"""Decoded frames of one camera beyond this size go to a temporary file."""

# Frames that are decoded at a time.
_PIECE: Final = 64

Frames = NDArray[np.uint8]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Decoded:
    """An episode whose scored frames have been decoded.

    Attributes:
        episode: The episode.
        cameras: (S, H, W, 3) by camera, see `decode`.
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
        return tiled(episode) if dataset.options.tile else episode
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


class ScratchFrames:
    """Frames in a temporary file that vanishes with this object; see `robometer_rl.frames.FrameSequence`.

    They are read, not mapped: mapped pages would count as memory of the process.

    Attributes:
        shape: ``(T, H, W, 3)``.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="robometer-frames-")  # noqa: SIM115 - closed with us
        self._frame_bytes = int(np.prod(shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def append(self, frames: Frames) -> None:
        """Adds frames behind those there are.

        Raises:
            OSError: The disk with temporary files is full.
        """
        try:
            self._file.write(np.ascontiguousarray(frames).data)
            self._file.flush()
        except OSError as error:
            raise OSError(
                error.errno,
                f"decoded frames of a long episode could not be written to a temporary file ({error.strerror}); "
                f"free some space in {tempfile.gettempdir()}, or name another directory in TMPDIR",
            ) from error

    def __getitem__(self, index: slice) -> Frames:
        """Reads a slice of frames."""
        start, stop, step = index.indices(len(self))
        numbers = range(start, stop, step)
        if step == 1:
            return self._read(start, len(numbers))
        return np.concatenate([self._read(number, 1) for number in numbers])

    def _read(self, start: int, count: int) -> Frames:
        content = os.pread(self._file.fileno(), count * self._frame_bytes, start * self._frame_bytes)
        return np.frombuffer(content, np.uint8).reshape(count, *self.shape[1:])


def decode(frames: FrameSequence, every: int) -> FrameSequence:
    """Decodes the scored frames of an episode: numbers 0, every, 2 every, ... and the last one.

    Args:
        frames: (F, H, W, 3) as a format gives them.
        every: Scoring interval.

    Returns:
        (S, H, W, 3) uint8, with S = ``len(scored_steps(F, every))``, that can be read in any order.

    Raises:
        EpisodeError: They cannot be decoded, or are not RGB frames of one size.
        OSError: There is no room for them in the directory of temporary files.
    """
    height, width = Clip(frames, "decode").size
    count = len(range(0, len(frames), every)) + int((len(frames) - 1) % every != 0)
    shape = (count, height, width, 3)
    if np.prod(shape) > IN_MEMORY_BYTES:
        scratch = ScratchFrames(shape)
        for piece in _pieces(frames, every, shape[1:]):
            scratch.append(piece)
        return scratch
    decoded = np.empty(shape, np.uint8)
    filled = 0
    for piece in _pieces(frames, every, shape[1:]):
        decoded[filled : filled + len(piece)] = piece
        filled += len(piece)
    return decoded


def _pieces(frames: FrameSequence, every: int, shape: tuple[int, ...]) -> Iterator[Frames]:
    """The scored frames in order, a few at a time, each of the given shape."""
    span = _PIECE * every
    slices = [slice(start, min(start + span, len(frames)), every) for start in range(0, len(frames), span)]
    if (len(frames) - 1) % every:
        slices.append(slice(len(frames) - 1, len(frames)))
    for part in slices:
        try:
            piece = as_frames(frames[part])
        except EPISODE_DAMAGE as error:
            raise EpisodeError(unreadable("", error).reason) from error
        expected = (len(range(len(frames))[part]), *shape)
        if piece.shape != expected:
            raise EpisodeError(f"its pictures from number {part.start} on have the shape {piece.shape}, not {expected}")
        yield piece
