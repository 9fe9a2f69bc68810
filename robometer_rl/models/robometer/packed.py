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
behind the part of the chain that they see (`prefix`). A keyframe is itself the last frame of the step that it belongs
to, so chains give values too. Nothing is masked out that was computed, no attention matrix spans the episode, and
between levels only the root and the features of later keyframes are kept: memory does not grow with the episode.
Several episodes walk their trees together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.frames import Clip, NestedFrames, scored_steps
from robometer_rl.models.robometer.decoder import KeyValues, Prefix
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.models.robometer.patches import Grid
from robometer_rl.models.robometer.prefix import Row, extend
from robometer_rl.models.robometer.processing import RobometerProcessor
from robometer_rl.models.robometer.tokens import Segment, join

__all__ = ["PackedSteps"]


@dataclass
class _Episode:
    """One episode while its tree is walked.

    Attributes:
        clip: Where frames are read from.
        steps: Frame numbers of the scored steps; a step is an index into this.
        grid: Patches per frame.
        head: Prompt before the first frame.
        starts: Rope position at which the k-th shown frame starts, k counted from 0.
        vectors: (steps, hidden) what the heads read for each step.
        features: Vision features of the keyframes in use, by step.
    """

    clip: Clip
    steps: NDArray[np.int64]
    grid: Grid
    head: Segment
    starts: list[int]
    vectors: torch.Tensor
    features: dict[int, torch.Tensor] = field(default_factory=dict)


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
        """What leaves see; each is the number of its episode here and of the frames shown before it."""
        caches = [episode for episode, _ in leaves]
        ends = torch.tensor([self.ends[episode][shown - 1] for episode, shown in leaves])
        longest = int(ends.max())
        device = self.root.device
        places = torch.arange(longest, device=device)
        visible = self.root[caches, :longest]
        # After the root's padding, everything up to the last keyframe shown.
        visible = visible | ((places >= self.ends[0][0]) & (places < ends.to(device)[:, None]))
        layers = [(keys[:, :, :longest], values[:, :, :longest]) for keys, values in self.layers]
        return Prefix(layers, visible, torch.tensor(caches, device=device))


class PackedSteps:
    """Scores every step of episodes under nested frames.

    Args:
        network: The model; one progress token per frame.
        processor: Its processor.
        protocol: Nested frames.
        token_budget: New tokens per pass of the decoder, which bounds memory.
    """

    def __init__(
        self, network: RobometerNetwork, processor: RobometerProcessor, protocol: NestedFrames, token_budget: int
    ) -> None:
        self._network = network
        self._processor = processor
        self._protocol = protocol
        self._token_budget = token_budget

    def vectors(self, clips: Sequence[Clip], every: int = 1) -> Iterator[torch.Tensor]:
        """Yields, clip by clip, what the heads read for each scored step: (steps, hidden)."""
        for pack in self._packs(clips, every):
            self._walk(pack)
            for episode in pack:
                yield episode.vectors

    def _packs(self, clips: Sequence[Clip], every: int) -> Iterator[list[_Episode]]:
        """Episodes that walk together: their chains fit the token budget."""
        pack: list[_Episode] = []
        tokens = 0
        for clip in clips:
            episode = self._episode(clip, every)
            chain = len(episode.head) + self._protocol.max_frames * len(self._frame(episode, 1))
            if pack and tokens + chain > self._token_budget:
                yield pack
                pack, tokens = [], 0
            pack.append(episode)
            tokens += chain
        if pack:
            yield pack

    def _episode(self, clip: Clip, every: int) -> _Episode:
        first = clip.read([0])
        grid = self._processor.patcher.grid(*first.shape[1:3])
        head = self._processor.progress_head(clip.task)
        steps = scored_steps(len(clip), every)
        hidden = self._network.model.language_model.config.hidden_size
        vectors = torch.empty((len(steps), hidden), device=self._network.device, dtype=self._network.dtype)
        episode = _Episode(clip, steps, grid, head, [head.advance], vectors)
        for shown in range(self._protocol.max_frames - 1):
            episode.starts.append(episode.starts[-1] + self._frame(episode, shown).advance)
        return episode

    def _frame(self, episode: _Episode, shown: int) -> Segment:
        """Tokens of a frame with ``shown`` frames before it; the head has captioned the first one."""
        return self._processor.tokens.frame(shown + 1 if shown else None, episode.grid)

    def _walk(self, pack: list[_Episode]) -> None:
        root = self._root(pack)
        for stride, steps in self._protocol.levels(max(len(episode.steps) for episode in pack)):
            numbers = [n for n, episode in enumerate(pack) if len(episode.steps) > max(steps.start, 1)]
            if not numbers:
                continue
            episodes = [pack[n] for n in numbers]
            chain = self._chain(root, numbers, episodes, stride, steps)
            self._leaves(chain, episodes, stride, steps)
            for episode in episodes:
                episode.features = {t: kept for t, kept in episode.features.items() if t % (2 * stride) == 0}

    def _root(self, pack: list[_Episode]) -> _Chain:
        """Prompts and first frames."""
        self._encode_keyframes(pack, [[0]] * len(pack))
        rows = []
        for episode in pack:
            tokens = join([episode.head, self._frame(episode, 0)])
            rows.append(Row(0, tokens, [episode.features[0]], [len(tokens) - 1]))
        reads, layers = extend(self._network, rows)
        for episode, read in zip(pack, reads, strict=True):
            episode.vectors[0] = read[0]
        lengths = torch.tensor([len(row.tokens) for row in rows], device=self._network.device)
        longest = int(lengths.max())
        visible = torch.arange(longest, device=self._network.device) < lengths[:, None]
        return _Chain(layers, visible, [[longest]] * len(pack))

    def _chain(self, root: _Chain, numbers: list[int], episodes: list[_Episode], stride: int, steps: range) -> _Chain:
        """The keyframes of one stride behind the root, and the values of those that are steps of this stride."""
        keyframes = [list(range(stride, min(steps.stop, len(episode.steps)), stride)) for episode in episodes]
        self._encode_keyframes(episodes, keyframes)
        if not any(keyframes):  # with two frames at most, a leaf can hang off frame 0
            return root.of(numbers)
        rows = []
        for episode, chosen in zip(episodes, keyframes, strict=True):
            frames = [self._frame(episode, shown) for shown in range(1, len(chosen) + 1)]
            rows.append(Row.of_frames(episode.starts[1], frames, [episode.features[t] for t in chosen]))
        reads, layers = extend(self._network, rows, root.before([(number, 1) for number in numbers]))
        for episode, chosen, read in zip(episodes, keyframes, reads, strict=True):
            scored = [place for place, t in enumerate(chosen) if t in steps]
            episode.vectors[[chosen[place] for place in scored]] = read[scored]
        return root.of(numbers).followed_by(layers, [[place + 1 for place in row.reads] for row in rows])

    def _leaves(self, chain: _Chain, episodes: list[_Episode], stride: int, steps: range) -> None:
        """Steps between keyframes: one row each, in passes that fit the token budget."""
        leaves = [
            (number, t)
            for number, episode in enumerate(episodes)
            for t in range(steps.start, min(steps.stop, len(episode.steps)))
            if t % stride
        ]
        width = max(
            (len(self._frame(episodes[number], self._protocol.max_frames - 1)) for number, _ in leaves), default=1
        )
        size = max(1, self._token_budget // width)
        for start in range(0, len(leaves), size):
            batch = leaves[start : start + size]
            features = self._encode((episodes[number], t) for number, t in batch)
            shown = [-(-t // stride) for _, t in batch]
            rows = []
            for (number, _), before, feature in zip(batch, shown, features, strict=True):
                episode = episodes[number]
                rows.append(Row.of_frames(episode.starts[before], [self._frame(episode, before)], [feature]))
            prefix = chain.before([(number, before) for (number, _), before in zip(batch, shown, strict=True)])
            reads, _ = extend(self._network, rows, prefix, keep=False)
            for (number, t), read in zip(batch, reads, strict=True):
                episodes[number].vectors[t] = read[0]

    def _encode_keyframes(self, episodes: list[_Episode], keyframes: list[list[int]]) -> None:
        wanted = [
            (episode, t)
            for episode, chosen in zip(episodes, keyframes, strict=True)
            for t in chosen
            if t not in episode.features
        ]
        for (episode, t), feature in zip(wanted, self._encode(wanted), strict=True):
            episode.features[t] = feature

    def _encode(self, wanted: Iterable[tuple[_Episode, int]]) -> list[torch.Tensor]:
        patched = [self._processor.patcher(episode.clip.read([int(episode.steps[t])])) for episode, t in wanted]
        return self._network.encode(patched)
