"""Histories that grow by a frame at a time: only what changed goes through the decoder.

For every history the stream holds a KV cache, the keys and values of the frames that its last question began with. The
next question begins with some of the same frames; the rest is computed anew. Under nested frames with four at most::

    step   shown          cached before       computed
    2      0 1 2          0 1                       2
    3      0 1 2 3        0 1 2                       3
    4      0 2 4          0                     2 4          the stride doubled
    5      0 2 4 5        0 2 4                     5        a leaf: seen once, not kept
    6      0 2 4 6        0 2 4                     6
    7      0 4 7          0                     4 7

Within a stride that is one frame per step. Nothing here knows the rule, though: the frames to keep are those that the
protocol shows first again at the next step. Under uniform frames that is the prompt and frame 0, and the vision
features of all other frames are reused.

All histories of a call are rows of one pass (`kv_cache`), however long they are; those that have to compute more than
their newest frame do the rest in a pass of their own first, so that one history whose stride doubles does not make
all others wait for its padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.frames import Frame, FrameError, FrameProtocol, are_tensors_of_one_kind, as_tensor_frames
from robometer_rl.models.reward_model import RewardStream
from robometer_rl.models.robometer.decoder import KeyValues, Prefix, require_masks
from robometer_rl.models.robometer.feature_cache import FeatureStore
from robometer_rl.models.robometer.kv_cache import Row, extend
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.models.robometer.patches import PatchedFrames
from robometer_rl.models.robometer.processing import RobometerProcessor
from robometer_rl.models.robometer.readout import frame_values
from robometer_rl.models.robometer.tokens import FrameBlocks
from robometer_rl.prediction import StepPrediction

__all__ = ["RobometerStream"]


class _Cache:
    """Keys and values of several histories, each from the left.

    Attributes:
        lengths: Tokens of each history that are valid.
    """

    def __init__(self, histories: int) -> None:
        self.lengths = [0] * histories
        self._layers: KeyValues = []

    def prefix(self, rows: Sequence[int], device: torch.device) -> Prefix | None:
        """What stands in front of new tokens of the given histories; None if there is nothing."""
        lengths = [self.lengths[row] for row in rows]
        longest = max(lengths)
        if longest == 0:
            return None
        visible = torch.arange(longest) < torch.tensor(lengths)[:, None]
        first, last = rows[0], rows[0] + len(rows)
        in_order = list(rows) == list(range(first, last))
        part = slice(first, last) if in_order else slice(None)
        layers = [(keys[part, :, :longest], values[part, :, :longest]) for keys, values in self._layers]
        return Prefix(layers, visible.to(device), None if in_order else torch.tensor(rows, device=device))

    def append(self, rows: Sequence[int], layers: KeyValues, counts: Sequence[int], capacity: int) -> None:
        """Adds the first ``counts`` new tokens of a pass over the given histories behind what is valid of each.

        ``capacity`` is the most tokens that one of these histories will ever hold.
        """
        if not any(counts):
            return
        width = max(counts)
        # Shorter rows write some zeros behind their end, where they are not seen and overwritten later.
        self._reserve(capacity + width, layers)
        device = layers[0][0].device
        offsets = torch.arange(width)
        ours = (offsets < torch.tensor(counts)[:, None]).to(device)[:, :, None, None]
        places = (torch.tensor([self.lengths[row] for row in rows])[:, None] + offsets).to(device)
        index = (torch.tensor(rows, device=device)[:, None], slice(None), places)
        for held, new in zip(self._layers, layers, strict=True):
            for buffer, tokens in zip(held, new, strict=True):
                added = tokens[:, :, :width].transpose(1, 2)
                buffer[index] = torch.where(ours, added, added.new_zeros(()))
        for row, count in zip(rows, counts, strict=True):
            self.lengths[row] += count

    def clear(self, row: int) -> None:
        """Empties a history for good: what is masked is multiplied by 0, which does not remove NaN."""
        self.lengths[row] = 0
        for keys, values in self._layers:
            keys[row] = 0
            values[row] = 0

    def _reserve(self, tokens: int, like: KeyValues) -> None:
        held = self._layers[0][0].shape[2] if self._layers else 0
        if tokens <= held:
            return
        grown = []
        for number, parts in enumerate(like):
            buffers = []
            for part_number, part in enumerate(parts):
                buffer = part.new_zeros((len(self.lengths), part.shape[1], tokens, part.shape[3]))
                if held:
                    buffer[:, :, :held] = self._layers[number][part_number]
                buffers.append(buffer)
            grown.append(tuple(buffers))
        self._layers = grown


@dataclass
class _History:
    """One history.

    Attributes:
        size: Height and width of its frames, known from the first one on.
        layout: Where its frames stand, likewise.
        length: Frames seen.
        kept: Frames whose tokens are cached, in the order shown.
        frames: Frames that a later step may show, by number.
    """

    size: tuple[int, int] | None = None
    layout: FrameBlocks | None = None
    length: int = 0
    kept: list[int] = field(default_factory=list)
    frames: dict[int, Frame] = field(default_factory=dict)


@dataclass
class _Question:
    """What one history asks at one step.

    Attributes:
        row: The history.
        layout: Its layout.
        shown: Frames shown, the last one the newest.
        cached: How many of them are cached already.
    """

    row: int
    layout: FrameBlocks
    shown: list[int]
    cached: int

    @property
    def newest(self) -> int:
        """Where the newest frame is shown first; what follows repeats it."""
        return self.shown.index(self.shown[-1])

    def tokens(self, until: int, features: list[torch.Tensor]) -> Row:
        """The blocks from the first that is not cached up to ``until``."""
        blocks = self.layout.blocks[self.cached : until]
        return Row.of_frames(self.layout.starts[self.cached], blocks, features)

    def count(self, until: int) -> int:
        """Tokens from the first block that is not cached up to ``until``."""
        return max(0, self.layout.ends[until] - self.layout.ends[self.cached])


class RobometerStream(RewardStream):
    """See `RewardStream`; equal to `RewardModel.predict_steps` to a rounding error.

    Args:
        network: One progress token per frame.
        processor: Its processor.
        computing: Makes the context in which the network is used for so many tokens, see `Robometer.computing`.
        tasks: One per history.
        protocol: Which frames are shown.
    """

    def __init__(
        self,
        network: RobometerNetwork,
        processor: RobometerProcessor,
        computing: Callable[[int], AbstractContextManager[None]],
        tasks: Sequence[str],
        protocol: FrameProtocol,
    ) -> None:
        self._network = network
        self._processor = processor  # which says what tasks can be asked about
        self._computing = computing
        require_masks(network.decoder)
        super().__init__(tasks, protocol)
        self._histories = [_History() for _ in self.tasks]
        self._cache = _Cache(len(self.tasks))
        self._features: FeatureStore[tuple[int, int]] = FeatureStore()

    @torch.inference_mode()
    def append(self, frames: Sequence[Any] | NDArray[Any], indices: Sequence[int] | None = None) -> StepPrediction:
        """See `RewardStream.append`."""
        chosen = self._chosen(indices)
        images = self._frames_for(frames, chosen)
        if not chosen:
            return self._nothing()
        with self._computing(self._tokens(images)), ExitStack() as undo:
            undo.callback(self._undo, chosen)
            for row, image in zip(chosen, images, strict=True):
                self._open(row, image)
            questions = [self._question(row) for row in chosen]
            features = self._encode(questions)
            vectors = self._answer(questions, features)
            names = [f"history {row}, frame {self._histories[row].length}" for row in chosen]
            values = frame_values(self._network, *self._network.read(vectors), names)
            undo.pop_all()
            for question in questions:
                self._close(question, features)
        return values

    @torch.inference_mode()
    def peek(self, frames: Sequence[Any] | NDArray[Any], indices: Sequence[int] | None = None) -> StepPrediction:
        """See `RewardStream.peek`; what the candidates of a history have in common is computed once."""
        rows = self._of_candidates(len(frames), indices)
        images = self._frames_for(frames, rows)
        if not rows:
            return self._nothing()
        with self._computing(self._tokens(images)), ExitStack() as undo:
            begun = sorted({row for row in rows if self._histories[row].length})
            undo.callback(self._undo, begun)
            for row, image in zip(rows, images, strict=True):
                self._require_size(row, image)
            questions = {row: self._question(row) for row in begun}
            behind = [question for question in questions.values() if question.cached < question.newest]
            if behind:
                ends = [question.newest for question in behind]
                self._run(behind, self._encode(behind, ends), ends)
            vectors = self._answer_candidates(rows, images, questions)
            names = [f"candidate {number} of history {row}" for number, row in enumerate(rows)]
            values = frame_values(self._network, *self._network.read(vectors), names)
            undo.pop_all()
        return values

    def reset(self, indices: Sequence[int] | None = None, tasks: Sequence[str] | None = None) -> None:
        """See `RewardStream.reset`."""
        chosen = self._chosen(indices)
        with self._computing(0):
            self._change_tasks(chosen, tasks)
            for row in chosen:
                for frame in self._histories[row].frames:
                    self._features.discard((row, frame))
                self._histories[row] = _History()
                self._cache.lengths[row] = 0

    def restore(self, index: int, length: int, frames: Mapping[int, Any]) -> None:
        """See `RewardStream.restore`; keys and values are computed when the next frame needs them."""
        images = self._restored(index, length, frames)
        with self._computing(0):
            self.reset([index])
            for image in images.values():
                self._open(index, image)
            self._histories[index].frames = images
            self._histories[index].length = length

    def memory_for(self, index: int, height: int, width: int) -> int:
        """See `RewardStream.memory_for`."""
        grid = self._processor.patcher.grid(height, width)
        layout = self._processor.frame_blocks(self.tasks[index], grid, self.protocol.max_frames)
        decoder = self._network.decoder
        per_token = 2 * len(decoder.layers) * decoder.config.num_key_value_heads * decoder.layers[0].self_attn.head_dim
        return layout.ends[-1] * per_token * self._network.dtype.itemsize

    def _frames_for(self, frames: Sequence[Any] | NDArray[Any], chosen: Sequence[int]) -> list[Frame]:
        """Tensors stay tensors, on their device."""
        if are_tensors_of_one_kind(frames) and len(frames) == len(chosen):
            # One by one again, or a frame that is kept would keep its whole batch.
            return [frame.clone() for frame in as_tensor_frames(frames)]
        return super()._frames_for(frames, chosen)

    def _patch(self, images: Sequence[Frame]) -> list[PatchedFrames]:
        """Patches of each image; of tensors on one device, or arrays of one size, all at once."""
        patcher = self._processor.patcher
        if are_tensors_of_one_kind(images):
            together = patcher(torch.stack(images))
        elif len({image.shape for image in images}) == 1 and not any(isinstance(i, torch.Tensor) for i in images):
            together = patcher(np.stack(images))
        else:
            return [patcher(image[None]) for image in images]
        return [PatchedFrames(pixels, together.grid) for pixels in together.pixels.split(1)]

    def _check_task(self, task: str) -> str:
        return self._processor.check_task(task)

    def _nothing(self) -> StepPrediction:
        """Of no frames."""
        bins = self._network.config.progress_bins if self._network.config.discrete else 0
        return StepPrediction(np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros((0, bins), np.float32))

    def _tokens(self, images: Sequence[Frame]) -> int:
        patcher = self._processor.patcher
        return sum(patcher.tokens(patcher.grid(*image.shape[:2])) for image in images)

    def _layout(self, row: int, image: Frame) -> FrameBlocks:
        """Where frames like this one stand in the prompt of a history."""
        grid = self._processor.patcher.grid(image.shape[0], image.shape[1])
        layout = self._processor.frame_blocks(self.tasks[row], grid, self.protocol.max_frames)
        self._network.require_room(layout)
        return layout

    def _require_size(self, row: int, image: Frame) -> None:
        size, given = self._histories[row].size, image.shape[:2]
        if size is not None and size != given:
            raise FrameError(f"history {row} got a frame of {given} pixels after frames of {size}")

    def _open(self, row: int, image: Frame) -> None:
        """Begins a step: the image is the history's newest frame."""
        history = self._histories[row]
        self._require_size(row, image)
        if history.layout is None:
            history.size, history.layout = (image.shape[0], image.shape[1]), self._layout(row, image)
        history.frames[history.length] = image

    def _undo(self, rows: list[int]) -> None:
        """After an error: nothing of the step stays; what was cached before it is computed again when needed."""
        for row in rows:
            history = self._histories[row]
            history.frames.pop(history.length, None)
            history.kept.clear()
            self._cache.clear(row)
            if not history.length:
                history.size = history.layout = None

    def _question(self, row: int) -> _Question:
        history = self._histories[row]
        assert history.layout is not None  # set when the step was opened
        question = _Question(row, history.layout, self.protocol.slots(history.length).tolist(), 0)
        # The newest frame is read, so it is computed, and with it the padding that repeats it.
        question.cached = _common(history.kept, question.shown[: question.newest])
        del history.kept[question.cached :]
        self._cache.lengths[row] = history.layout.ends[question.cached]
        return question

    def _answer(self, questions: list[_Question], features: dict[tuple[int, int], torch.Tensor]) -> torch.Tensor:
        """(questions, hidden): what the heads read at each newest frame."""
        behind = [question for question in questions if len(question.shown) - question.cached > 1]
        if 0 < len(behind) < len(questions):
            self._run(behind, features, [len(question.shown) - 1 for question in behind])
        return self._run(questions, features)

    def _run(
        self,
        questions: list[_Question],
        features: dict[tuple[int, int], torch.Tensor],
        ends: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Computes the blocks that are not cached, and caches those to be shown again.

        Given ``ends``, only the blocks before them, for a pass that will need them all.
        """
        rows, counts, kept = [], [], []
        for number, question in enumerate(questions):
            until = len(question.shown) if ends is None else ends[number]
            wanted = question.shown[question.cached : until]
            rows.append(question.tokens(until, [features[question.row, frame] for frame in wanted]))
            # What only this step shows is not worth caching; what the last pass still needs is.
            again = until
            if ends is None:
                again = _common(question.shown, self.protocol.slots(self._now(question) + 1).tolist())
            kept.append(max(again, question.cached))
            counts.append(question.count(again))
        histories = [question.row for question in questions]
        prefix = self._cache.prefix(histories, self._network.device)
        reads, layers = extend(self._network, rows, prefix, keep=any(counts))
        self._cache.append(histories, layers, counts, max(question.layout.ends[-1] for question in questions))
        for question, until in zip(questions, kept, strict=True):
            self._histories[question.row].kept = question.shown[:until]
            question.cached = question.cached if ends is None else until
        return torch.stack([read[-1] for read in reads])

    def _answer_candidates(
        self, rows: list[int], images: Sequence[Frame], questions: Mapping[int, _Question]
    ) -> torch.Tensor:
        """(rows, hidden): what the heads read at each candidate, behind the cached frames of its history."""
        encoded = self._network.encode(self._patch(images))
        asked = []
        for row, image, features in zip(rows, images, encoded, strict=True):
            # The first frame of a history may have any size.
            question = questions.get(row) or _Question(
                row, self._layout(row, image), self.protocol.slots(0).tolist(), cached=0
            )
            repeated = len(question.shown) - question.cached
            asked.append(question.tokens(len(question.shown), [features] * repeated))
        prefix = self._cache.prefix(rows, self._network.device)
        reads, _ = extend(self._network, asked, prefix, keep=False)
        return torch.stack([read[-1] for read in reads])

    def _now(self, question: _Question) -> int:
        return self._histories[question.row].length

    def _encode(
        self, questions: list[_Question], ends: Sequence[int] | None = None
    ) -> dict[tuple[int, int], torch.Tensor]:
        """Vision features of all frames that are computed by `_run`, from the store where possible."""
        parts = [
            slice(question.cached, end)
            for question, end in zip(questions, ends or [None] * len(questions), strict=True)
        ]
        wanted = dict.fromkeys(
            (q.row, frame) for q, part in zip(questions, parts, strict=True) for frame in q.shown[part]
        )
        found = {key: self._features.get(key) for key in wanted}
        missing = [key for key, feature in found.items() if feature is None]
        patched = self._patch([self._histories[row].frames[frame] for row, frame in missing])
        encoded = dict(zip(missing, self._network.encode(patched), strict=True))
        return {key: encoded[key] if feature is None else feature for key, feature in found.items()}

    def _close(self, question: _Question, features: dict[tuple[int, int], torch.Tensor]) -> None:
        """Ends a step: keeps the frames and features that a later step may show, and no others."""
        history = self._histories[question.row]
        retained = self.protocol.retained(history.length)
        if len(retained) < len(history.frames):
            later = set(retained.tolist())
            for frame in [frame for frame in history.frames if frame not in later]:
                del history.frames[frame]
                self._features.discard((question.row, frame))
        for frame in question.shown:
            key = (question.row, frame)
            if key in features and frame in history.frames:
                self._features.put(key, features[key])
        history.length += 1


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    for place, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return place
    return min(len(first), len(second))
