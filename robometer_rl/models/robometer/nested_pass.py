"""Dense scores of whole episodes under nested frames: each frame through the tower once, each step's tokens once.

Under `NestedFrames` the frames shown for a step are the keyframes of its stride and the step's own frame. All steps of
one stride therefore hang off one chain of keyframes, and all chains hang off the prompt and frame 0. With four frames
at most, steps 0 to 12 are this tree (a number is a frame, brackets are leaves that only one step sees)::

    prompt ─ 0 ┬─ 1 ── 2 ── 3                        stride 1: steps 0..3
               ├─ 2 ── 4 ── 6                        stride 2: steps 4..6
               │   └─ [5]
               └─ 4 ── 8 ── 12                       stride 4: steps 7..12
                  │    └─ [9] [10] [11]
                  └─ [7]

The tree is walked level by level: the root, one chain per stride, then the leaves of that stride as a batch of rows
behind the part of the chain that they see (`kv_cache`). A keyframe is itself the last frame of the step that it belongs
to, so chains give values too. Nothing is masked out that was computed, no attention matrix spans the episode, and
between levels only the root and the features of later keyframes are kept: memory does not grow with the episode.
Several episodes walk their trees together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from robometer_rl.frames import NestedFrames
from robometer_rl.models.robometer.decoder import KeyValues, Prefix
from robometer_rl.models.robometer.episodes import Episode, EpisodePass
from robometer_rl.models.robometer.kv_cache import Row, extend
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.models.robometer.processing import RobometerProcessor

__all__ = ["NestedPass"]

Features = dict[tuple[int, int], torch.Tensor]
"""Vision features by episode and step."""


@dataclass
class _Chain:
    """Cached keys and values from the prompt to the last keyframe of one stride, for several episodes.

    Attributes:
        layers: (E, ...) per layer; the root's tokens first, padded on the right, then the keyframes'.
        root: (E, P) bool, which of the P cached tokens belong to the root.
        ends: Per episode, where each keyframe after frame 0 ends; the first entry is where the first one begins.
    """

    layers: KeyValues
    root: torch.Tensor
    ends: list[list[int]]

    def of(self, numbers: list[int]) -> _Chain:
        """The chains of some of the episodes."""
        layers = [(keys[numbers], values[numbers]) for keys, values in self.layers]
        return _Chain(layers, self.root[numbers], [self.ends[number] for number in numbers])

    def followed_by(self, layers: KeyValues, ends: list[list[int]]) -> _Chain:
        """Roots with keyframes behind them, whose ends count from the end of the root's padding."""
        joined = [
            (torch.cat([root[0], new[0]], dim=2), torch.cat([root[1], new[1]], dim=2))
            for root, new in zip(self.layers, layers, strict=True)
        ]
        width = self.root.shape[1]
        root = torch.nn.functional.pad(self.root, (0, layers[0][0].shape[2]))
        return _Chain(joined, root, [[width, *(width + end for end in row)] for row in ends])

    def before(self, leaves: Sequence[tuple[int, int]]) -> Prefix:
        """What leaves see; each gives the place of its episode here and the number of frames shown before it."""
        caches = [episode for episode, _ in leaves]
        ends = [self.ends[episode][shown - 1] for episode, shown in leaves]
        longest = max(ends)
        device = self.root.device
        places = torch.arange(longest, device=device)
        visible = self.root[caches, :longest]
        # After the root's padding, everything up to the last keyframe shown.
        visible = visible | ((places >= self.ends[0][0]) & (places < torch.tensor(ends, device=device)[:, None]))
        layers = [(keys[:, :, :longest], values[:, :, :longest]) for keys, values in self.layers]
        in_order = caches == list(range(len(self.ends)))
        return Prefix(layers, visible, None if in_order else torch.tensor(caches, device=device))


class NestedPass(EpisodePass):
    """Scores every step of episodes under nested frames; see `EpisodePass`."""

    def __init__(
        self, network: RobometerNetwork, processor: RobometerProcessor, protocol: NestedFrames, token_budget: int
    ) -> None:
        super().__init__(network, processor, protocol.max_frames, token_budget)
        self._protocol = protocol

    def _most_shown(self, steps: int) -> int:
        return min(self._max_frames, steps)  # there is no padding

    def _score(self, pack: list[Episode]) -> None:
        root = self._root(pack)
        features: Features = {}
        for stride, steps in self._protocol.levels(max(len(episode.steps) for episode in pack)):
            episodes = [episode for episode in pack if len(episode.steps) > max(steps.start, 1)]
            if episodes:
                chain = self._chain(root, episodes, stride, steps, features)
                self._leaves(chain, episodes, stride, steps)
            # Every other keyframe of this stride is one of the next.
            features = {key: feature for key, feature in features.items() if key[1] % (2 * stride) == 0}

    def _root(self, pack: list[Episode]) -> _Chain:
        """Prompts and first frames."""
        features = self._encode((episode, 0) for episode in pack)
        rows = [
            Row.of_frames(0, episode.layout.blocks[:1], [feature])
            for episode, feature in zip(pack, features, strict=True)
        ]
        reads, layers = extend(self._network, rows)
        for episode, read in zip(pack, reads, strict=True):
            episode.vectors[0] = read[0]
        lengths = [len(row.tokens) for row in rows]
        own = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        return _Chain(layers, own.to(self._network.device), [[max(lengths)]] * len(pack))

    def _chain(self, root: _Chain, episodes: list[Episode], stride: int, steps: range, features: Features) -> _Chain:
        """The keyframes of one stride behind the root, and the values of those that are steps of this stride.

        Takes their features from ``features`` and adds those that are missing.
        """
        numbers = [episode.number for episode in episodes]
        keyframes = [range(stride, min(steps.stop, len(episode.steps)), stride) for episode in episodes]
        if not any(keyframes):  # with two frames at most, a leaf can hang off frame 0
            return root.of(numbers)
        wanted = [(episode, t) for episode, chosen in zip(episodes, keyframes, strict=True) for t in chosen]
        missing = [(episode, t) for episode, t in wanted if (episode.number, t) not in features]
        for (episode, t), feature in zip(missing, self._encode(missing), strict=True):
            features[episode.number, t] = feature
        rows = []
        for episode, chosen in zip(episodes, keyframes, strict=True):
            blocks = episode.layout.blocks[1 : len(chosen) + 1]
            seen = [features[episode.number, t] for t in chosen]
            rows.append(Row.of_frames(episode.layout.starts[1], blocks, seen))
        reads, layers = extend(self._network, rows, root.before([(number, 1) for number in numbers]))
        for episode, chosen, read in zip(episodes, keyframes, reads, strict=True):
            for t, vector in zip(chosen, read, strict=True):
                if t in steps:
                    episode.vectors[t] = vector
        return root.of(numbers).followed_by(layers, [[place + 1 for place in row.reads] for row in rows])

    def _leaves(self, chain: _Chain, episodes: list[Episode], stride: int, steps: range) -> None:
        """Steps between keyframes: one row each."""
        places = {episode.number: place for place, episode in enumerate(episodes)}
        leaves = [
            (episode, t)
            for episode in episodes
            for t in range(steps.start, min(steps.stop, len(episode.steps)))
            if t % stride
        ]
        longest = max(len(episode.layout.blocks[-1]) for episode in episodes)
        for batch in self._batches(leaves, longest):
            shown = [-(-t // stride) for _, t in batch]
            rows = [
                Row.of_frames(episode.layout.starts[before], [episode.layout.blocks[before]], [feature])
                for (episode, _), before, feature in zip(batch, shown, self._encode(batch), strict=True)
            ]
            prefix = chain.before([(places[e.number], before) for (e, _), before in zip(batch, shown, strict=True)])
            reads, _ = extend(self._network, rows, prefix, keep=False)
            for (episode, t), read in zip(batch, reads, strict=True):
                episode.vectors[t] = read[0]
