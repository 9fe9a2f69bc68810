"""Dense scores of whole episodes under any protocol: features once per frame, steps in batches.

Where the frames shown for neighbouring steps are not nested, as under `UniformFrames`, each step needs a pass of its
own through the decoder::

    step 8     prompt 0 | 1 2 3 5 6 7 8
    step 9     prompt 0 | 1 3 4 5 6 8 9
    step 10    prompt 0 | 1 3 4 6 7 9 10

What can be shared is the beginning that all steps show, the prompt and mostly frame 0, which is computed once and
stands in front of every row (`prefix`), and the vision features of a frame, which are computed once however often it
is shown, padding included. They are kept up to a fixed size, those used longest ago dropped first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

from robometer_rl.frames import FrameProtocol
from robometer_rl.models.robometer.decoder import KeyValues, Prefix
from robometer_rl.models.robometer.episodes import Episode, EpisodePass
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.models.robometer.prefix import Row, extend
from robometer_rl.models.robometer.processing import RobometerProcessor
from robometer_rl.models.robometer.tokens import join

__all__ = ["RepeatedPass"]

_FEATURE_BYTES = 1 << 30


class RepeatedPass(EpisodePass):
    """Scores every step of episodes under any protocol; see `EpisodePass`."""

    def __init__(
        self, network: RobometerNetwork, processor: RobometerProcessor, protocol: FrameProtocol, token_budget: int
    ) -> None:
        super().__init__(network, processor, protocol.max_frames, token_budget)
        self._protocol = protocol

    def _score(self, pack: list[Episode]) -> None:
        shown = {episode.number: self._slots(episode) for episode in pack}
        # Frame 0 goes into the shared beginning if every step shows it first and something else last.
        shared = int(all(len(slots) > 1 and slots[0] == 0 for steps in shown.values() for slots in steps))
        layers, lengths = self._root(pack, shared)
        longest = max(lengths)
        visible = torch.arange(longest) < torch.tensor(lengths)[:, None]
        used: OrderedDict[tuple[int, int], int] = OrderedDict()
        steps = [(episode, t) for episode in pack for t in range(len(episode.steps))]
        for batch in self._batches(steps, max(episode.tokens for episode in pack)):
            rows = []
            frames = [(episode, frame) for episode, t in batch for frame in shown[episode.number][t][shared:]]
            self._keep(frames, used)
            for episode, t in batch:
                slots = shown[episode.number][t]
                blocks = episode.blocks[shared : len(slots)]
                rows.append(
                    Row.of_frames(episode.starts[shared], blocks, [episode.features[f] for f in slots[shared:]])
                )
            numbers = torch.tensor([episode.number for episode, _ in batch])
            device = self._network.device
            prefix = Prefix(layers, visible[numbers].to(device), numbers.to(device))
            reads, _ = extend(self._network, rows, prefix, keep=False)
            for (episode, t), read in zip(batch, reads, strict=True):
                episode.vectors[t] = read[-1]
            self._drop(pack, used)

    def _slots(self, episode: Episode) -> list[list[int]]:
        return [self._protocol.slots(t).tolist() for t in range(len(episode.steps))]

    def _root(self, pack: list[Episode], shared: int) -> tuple[KeyValues, list[int]]:
        """Keys and values of the beginnings that all steps share, and their lengths."""
        rows = []
        for episode in pack:
            episode.features = dict(zip(range(shared), self._encode([(episode, 0)][:shared]), strict=True))
            rows.append(Row(0, join([episode.head, *episode.blocks[:shared]]), list(episode.features.values())))
        _, layers = extend(self._network, rows)
        return layers, [len(row.tokens) for row in rows]

    def _keep(self, frames: Sequence[tuple[Episode, int]], used: OrderedDict[tuple[int, int], int]) -> None:
        """Makes sure that the features of these frames are at hand, and notes that they were used last."""
        wanted = {(episode.number, frame): (episode, frame) for episode, frame in frames}
        for (key, (episode, frame)), feature in zip(wanted.items(), self._encode(wanted.values()), strict=True):
            episode.features[frame] = feature
            used[key] = feature.nbytes
            used.move_to_end(key)

    def _drop(self, pack: list[Episode], used: OrderedDict[tuple[int, int], int]) -> None:
        size = sum(used.values())
        while size > _FEATURE_BYTES:
            (number, frame), freed = used.popitem(last=False)
            del pack[number].features[frame]
            size -= freed
