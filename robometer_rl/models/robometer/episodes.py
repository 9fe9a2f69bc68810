"""Whole episodes on their way through the model: what every dense pass over them needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.frames import Clip, scored_steps
from robometer_rl.models.robometer.decoder import require_masks
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.models.robometer.processing import RobometerProcessor
from robometer_rl.models.robometer.tokens import FrameBlocks

__all__ = ["Episode", "EpisodePass"]


@dataclass
class Episode:
    """One episode while its steps are scored.

    Attributes:
        number: Its place in the pack.
        clip: Where frames are read from.
        steps: Frame numbers of the scored steps; a step is an index into this.
        layout: Where the shown frames stand.
        vectors: (steps, hidden) what the heads read for each step.
    """

    number: int
    clip: Clip
    steps: NDArray[np.int64]
    layout: FrameBlocks
    vectors: torch.Tensor

    @property
    def tokens(self) -> int:
        """Tokens of the prompt with as many frames as can be shown."""
        return self.layout.ends[-1]


class EpisodePass(ABC):
    """Scores every step of episodes, several episodes at a time.

    Args:
        network: The model; one progress token per frame.
        processor: Its processor.
        max_frames: Most frames shown for a step.
        token_budget: New tokens per pass of the decoder, which bounds memory.
    """

    def __init__(
        self, network: RobometerNetwork, processor: RobometerProcessor, max_frames: int, token_budget: int
    ) -> None:
        require_masks(network.decoder)
        self._network = network
        self._processor = processor
        self._max_frames = max_frames
        self._token_budget = token_budget

    def vectors(self, clips: Sequence[Clip], every: int = 1) -> Iterator[torch.Tensor]:
        """Yields, clip by clip, what the heads read for each scored step: (steps, hidden)."""
        for pack in self._packs(clips, every):
            self._score(pack)
            for episode in pack:
                yield episode.vectors

    @abstractmethod
    def _score(self, pack: list[Episode]) -> None:
        """Fills in ``vectors`` of every episode of a pack."""

    def _most_shown(self, steps: int) -> int:
        """The most frames that are shown at once of an episode of so many steps."""
        return self._max_frames

    def _packs(self, clips: Sequence[Clip], every: int) -> Iterator[list[Episode]]:
        """Episodes that go together: one row of each fits the token budget."""
        pack: list[Episode] = []
        for clip in clips:
            episode = self._episode(clip, every)
            if pack and sum(other.tokens for other in pack) + episode.tokens > self._token_budget:
                yield pack
                pack = []
            episode.number = len(pack)
            pack.append(episode)
        if pack:
            yield pack

    def _episode(self, clip: Clip, every: int) -> Episode:
        grid = self._processor.patcher.grid(*clip.size)
        steps = scored_steps(len(clip), every)
        layout = self._processor.frame_blocks(clip.task, grid, self._most_shown(len(steps)))
        self._network.require_room(layout)
        hidden = self._network.backbone.hidden_size
        vectors = torch.empty((len(steps), hidden), device=self._network.device, dtype=self._network.dtype)
        return Episode(0, clip, steps, layout, vectors)

    def _encode(self, wanted: Iterable[tuple[Episode, int]]) -> list[torch.Tensor]:
        """Vision features of steps' frames."""
        patched = []
        for _, run in groupby(wanted, key=lambda item: item[0].number):
            frames = list(run)
            episode = frames[0][0]
            patched.append(self._processor.patcher(episode.clip.read([int(episode.steps[t]) for _, t in frames])))
        return self._network.encode(patched)

    def _batches(self, rows: list[tuple[Episode, int]], tokens: int) -> Iterator[list[tuple[Episode, int]]]:
        """Rows of at most ``tokens`` new tokens each, in passes that fit the token budget."""
        size = max(1, self._token_budget // tokens)
        for start in range(0, len(rows), size):
            yield rows[start : start + size]
