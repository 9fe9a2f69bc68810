"""Dense scores of whole episodes under any protocol: features once per frame, steps in batches.

Where the frames shown for neighbouring steps are not nested, as under `UniformFrames`, each step needs a pass of its
own through the decoder::

    step 8     prompt 0 | 1 2 3 5 6 7 8
    step 9     prompt 0 | 1 3 4 5 6 8 9
    step 10    prompt 0 | 1 3 4 6 7 9 10

What can be shared is the beginning that all steps show, the prompt and mostly frame 0, which is computed once and
stands in front of every row (`kv_cache`), and the vision features of a frame, which are computed once however often it
is shown, padding included. They are kept up to a fixed size, those used longest ago dropped first.
"""

from __future__ import annotations

import torch

from robometer_rl.frames import FrameProtocol
from robometer_rl.models.robometer.decoder import Prefix
from robometer_rl.models.robometer.episodes import Episode, EpisodePass
from robometer_rl.models.robometer.feature_cache import FeatureStore
from robometer_rl.models.robometer.kv_cache import Row, extend
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.models.robometer.processing import RobometerProcessor

__all__ = ["RepeatedPass"]

Key = tuple[int, int]
"""Number of an episode, and one of its steps."""


class RepeatedPass(EpisodePass):
    """Scores every step of episodes under any protocol; see `EpisodePass`."""

    def __init__(
        self, network: RobometerNetwork, processor: RobometerProcessor, protocol: FrameProtocol, token_budget: int
    ) -> None:
        super().__init__(network, processor, protocol.max_frames, token_budget)
        self._protocol = protocol

    def _score(self, pack: list[Episode]) -> None:
        steps = [(episode, t) for episode in pack for t in range(len(episode.steps))]
        shown = {(episode.number, t): self._protocol.slots(t).tolist() for episode, t in steps}
        store: FeatureStore[Key] = FeatureStore()
        # Frame 0 goes into the shared beginning if every step shows it first and something after it.
        shared = int(all(len(slots) > 1 and slots[0] == 0 for slots in shown.values()))
        beginnings = self._beginnings(pack, store) if shared else None
        for batch in self._batches(steps, max(episode.tokens for episode in pack)):
            seen = [shown[episode.number, t][shared:] for episode, t in batch]
            wanted = [(episode, frame) for (episode, _), slots in zip(batch, seen, strict=True) for frame in slots]
            features = self._features(wanted, store)
            rows = []
            for (episode, _), slots in zip(batch, seen, strict=True):
                blocks = episode.layout.blocks[shared : shared + len(slots)]
                looks = [features[episode.number, frame] for frame in slots]
                rows.append(Row.of_frames(episode.layout.starts[shared], blocks, looks))
            reads, _ = extend(self._network, rows, self._prefix(beginnings, batch), keep=False)
            for (episode, t), read in zip(batch, reads, strict=True):
                episode.vectors[t] = read[-1]

    def _beginnings(self, pack: list[Episode], store: FeatureStore[Key]) -> Prefix:
        """The prompt and frame 0 of every episode."""
        features = self._features([(episode, 0) for episode in pack], store)
        rows = [Row.of_frames(0, episode.layout.blocks[:1], [features[episode.number, 0]]) for episode in pack]
        _, layers = extend(self._network, rows)
        lengths = [len(row.tokens) for row in rows]
        visible = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        return Prefix(layers, visible.to(self._network.device), None)

    def _prefix(self, beginnings: Prefix | None, batch: list[tuple[Episode, int]]) -> Prefix | None:
        """The beginning in front of each step of a batch."""
        if beginnings is None:
            return None
        numbers = torch.tensor([episode.number for episode, _ in batch], device=self._network.device)
        return Prefix(beginnings.layers, beginnings.visible[numbers], numbers)

    def _features(self, frames: list[tuple[Episode, int]], store: FeatureStore[Key]) -> dict[Key, torch.Tensor]:
        """Features of frames, from the store where possible, and then in it."""
        wanted = {(episode.number, frame): (episode, frame) for episode, frame in frames}
        found = {key: store.get(key) for key in wanted}
        missing = [key for key, feature in found.items() if feature is None]
        encoded = dict(zip(missing, self._encode(wanted[key] for key in missing), strict=True))
        for key, feature in encoded.items():
            store.put(key, feature)
        return {key: encoded[key] if feature is None else feature for key, feature in found.items()}
