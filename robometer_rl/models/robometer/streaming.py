"""Histories that grow by a frame at a time: only what changed goes through the decoder.

For every history the stream holds the keys and values of the frames that its last question began with. The next
question begins with some of the same frames; the rest is computed anew. Under nested frames with four at most::

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

All histories of a call are rows of one pass (`prefix`), however long they are; those that have to compute more than
their newest frame do the rest in a pass of their own first, so that one history whose stride doubles does not make
all others wait for its padding.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.frames import FrameError, FrameProtocol, check_task
from robometer_rl.models.reward_model import RewardStream
from robometer_rl.models.robometer.decoder import KeyValues, Prefix, require_masks
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.models.robometer.prefix import Row, extend
from robometer_rl.models.robometer.processing import RobometerProcessor
from robometer_rl.models.robometer.readout import frame_values
from robometer_rl.models.robometer.tokens import Segment, join
from robometer_rl.prediction import StepPrediction

__all__ = ["RobometerStream"]

_FEATURE_BYTES = 1 << 30


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
        lengths = torch.tensor([self.lengths[row] for row in rows], device=device)
        longest = int(lengths.max())
        if longest == 0:
            return None
        visible = torch.arange(longest, device=device) < lengths[:, None]
        layers = [(keys[:, :, :longest], values[:, :, :longest]) for keys, values in self._layers]
        return Prefix(layers, visible, torch.tensor(rows, device=device))

    def append(self, rows: Sequence[int], layers: KeyValues, counts: Sequence[int]) -> None:
        """Adds the first ``counts`` new tokens of a pass over the given histories behind what is valid of each."""
        if not any(counts):
            return
        width = max(counts)
        self._reserve(max(self.lengths[row] for row in rows) + width, layers)
        device = layers[0][0].device
        # Shorter rows write some padding behind their end, where it is never seen and overwritten later.
        places = torch.tensor([self.lengths[row] for row in rows], device=device)[:, None]
        index = (torch.tensor(rows, device=device)[:, None], slice(None), places + torch.arange(width, device=device))
        for held, new in zip(self._layers, layers, strict=True):
            for buffer, tokens in zip(held, new, strict=True):
                buffer[index] = tokens[:, :, :width].transpose(1, 2)
        for row, count in zip(rows, counts, strict=True):
            self.lengths[row] += count

    def _reserve(self, tokens: int, like: KeyValues) -> None:
        held = self._layers[0][0].shape[2] if self._layers else 0
        if tokens <= held:
            return
        grown = []
        for number, parts in enumerate(like):
            buffers = []
            for part_number, part in enumerate(parts):
                buffer = part.new_zeros((len(self.lengths), part.shape[1], tokens + tokens // 2, part.shape[3]))
                if held:
                    buffer[:, :, :held] = self._layers[number][part_number]
                buffers.append(buffer)
            grown.append(tuple(buffers))
        self._layers = grown


@dataclass
class _Layout:
    """Where the shown frames of a history stand, given its task and frame size.

    Attributes:
        size: Height and width of the frames.
        blocks: Tokens of the k-th shown frame; the first one brings the prompt.
        starts: Rope position of each block.
        ends: Cached tokens up to the end of each block.
    """

    size: tuple[int, int]
    blocks: list[Segment]
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        start = end = 0
        for block in self.blocks:
            self.starts.append(start)
            start += block.advance
            end += len(block)
            self.ends.append(end)


@dataclass
class _History:
    """One history.

    Attributes:
        layout: Known once the first frame has shown its size.
        length: Frames seen.
        kept: Frames whose tokens are cached, in the order shown.
        frames: Frames that a later step may show, by number.
    """

    layout: _Layout | None = None
    length: int = 0
    kept: list[int] = field(default_factory=list)
    frames: dict[int, NDArray[np.uint8]] = field(default_factory=dict)


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
    layout: _Layout
    shown: list[int]
    cached: int

    def tokens(self, until: int, features: list[torch.Tensor]) -> Row:
        """The blocks from the first that is not cached up to ``until``."""
        blocks = self.layout.blocks[self.cached : until]
        return Row.of_frames(self.layout.starts[self.cached], blocks, features)

    def count(self, until: int) -> int:
        """Tokens from the first block that is not cached up to ``until``."""
        before = self.layout.ends[self.cached - 1] if self.cached else 0
        return max(0, self.layout.ends[until - 1] - before) if until else 0


class RobometerStream(RewardStream):
    """See `RewardStream`; the same numbers as `RewardModel.predict_steps`.

    Args:
        network: One progress token per frame.
        processor: Its processor.
        lock: Held while the network is in use.
        tasks: One per history.
        protocol: Which frames are shown.
    """

    def __init__(
        self,
        network: RobometerNetwork,
        processor: RobometerProcessor,
        lock: threading.RLock,
        tasks: Sequence[str],
        protocol: FrameProtocol,
    ) -> None:
        if isinstance(tasks, str):
            raise TypeError(f"got one task, {tasks!r}; expected a list with one task per history")
        require_masks(network.model.language_model)
        self.tasks = [check_task(task) for task in tasks]
        self.protocol = protocol
        self._network = network
        self._processor = processor
        self._lock = lock
        self._histories = [_History() for _ in self.tasks]
        self._cache = _Cache(len(self.tasks))
        self._features: OrderedDict[tuple[int, int], torch.Tensor] = OrderedDict()

    @torch.inference_mode()
    def append(self, frames: Sequence[Any] | NDArray[Any], indices: Sequence[int] | None = None) -> StepPrediction:
        """See `RewardStream.append`."""
        chosen = self._chosen(indices)
        images = self._frames_for(frames, chosen)
        if not chosen:
            bins = self._network.config.progress_bins if self._network.config.discrete else 0
            return StepPrediction(np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros((0, bins), np.float32))
        layouts = [self._layout(row, image) for row, image in zip(chosen, images, strict=True)]
        with self._lock:
            for row, layout, image in zip(chosen, layouts, images, strict=True):
                history = self._histories[row]
                history.layout = layout
                history.frames[history.length] = image
                # From an append that failed, perhaps with another image.
                self._features.pop((row, history.length), None)
            questions = [self._question(row) for row in chosen]
            vectors = self._answer(questions)
            values = frame_values(self._network, *self._network.read(vectors), where="newest frames of a stream")
            for question in questions:
                self._step(question)
        return values

    def reset(self, indices: Sequence[int] | None = None, tasks: Sequence[str] | None = None) -> None:
        """See `RewardStream.reset`."""
        chosen = self._chosen(indices)
        self._change_tasks(chosen, tasks)
        for row in chosen:
            self._histories[row] = _History()
            self._cache.lengths[row] = 0
        emptied = set(chosen)
        for key in [key for key in self._features if key[0] in emptied]:
            del self._features[key]

    def _layout(self, row: int, image: NDArray[np.uint8]) -> _Layout:
        """The history's layout; its frames must keep their size."""
        height, width = image.shape[:2]
        layout = self._histories[row].layout
        if layout is None:
            grid = self._processor.patcher.grid(height, width)
            tokens = self._processor.tokens
            later = [tokens.frame(number + 1, grid) for number in range(1, self.protocol.max_frames)]
            first = join([self._processor.progress_head(self.tasks[row]), tokens.frame(None, grid)])
            return _Layout((height, width), [first, *later])
        if layout.size != (height, width):
            raise FrameError(f"history {row} got a frame of {(height, width)} pixels after frames of {layout.size}")
        return layout

    def _question(self, row: int) -> _Question:
        history = self._histories[row]
        assert history.layout is not None  # set in append
        shown = self.protocol.slots(history.length).tolist()
        # The newest frame, and padding that repeats it, is always new.
        cached = _common(history.kept, shown[:-1])
        del history.kept[cached:]
        self._cache.lengths[row] = history.layout.ends[cached - 1] if cached else 0
        return _Question(row, history.layout, shown, cached)

    def _answer(self, questions: list[_Question]) -> torch.Tensor:
        """(questions, hidden): what the heads read at each newest frame."""
        features = self._encode(questions)
        behind = [question for question in questions if len(question.shown) - question.cached > 1]
        if 0 < len(behind) < len(questions):
            self._run(behind, features, ahead=1)
        return self._run(questions, features, ahead=0)

    def _run(
        self, questions: list[_Question], features: dict[tuple[int, int], torch.Tensor], ahead: int
    ) -> torch.Tensor:
        """Computes the blocks that are not cached, all but the last ``ahead``, and caches those to be shown again."""
        rows, counts, kept = [], [], []
        for question in questions:
            until = len(question.shown) - ahead
            wanted = question.shown[question.cached : until]
            rows.append(question.tokens(until, [features[question.row, frame] for frame in wanted]))
            # What only this step shows is not worth caching; what the last pass still needs is.
            again = until if ahead else _common(question.shown, self.protocol.slots(self._now(question) + 1).tolist())
            kept.append(max(again, question.cached))
            counts.append(question.count(again))
        prefix = self._cache.prefix([question.row for question in questions], self._network.device)
        reads, layers = extend(self._network, rows, prefix, keep=any(counts))
        self._cache.append([question.row for question in questions], layers, counts)
        for question, until in zip(questions, kept, strict=True):
            self._histories[question.row].kept = question.shown[:until]
            question.cached = until if ahead else question.cached
        return torch.stack([read[-1] for read in reads])

    def _now(self, question: _Question) -> int:
        return self._histories[question.row].length

    def _encode(self, questions: list[_Question]) -> dict[tuple[int, int], torch.Tensor]:
        """Vision features of all frames that are computed in this step, from the cache where possible."""
        wanted = {(question.row, frame): None for question in questions for frame in question.shown[question.cached :]}
        missing = [key for key in wanted if key not in self._features]
        patched = [self._processor.patcher(self._histories[row].frames[frame][None]) for row, frame in missing]
        encoded = dict(zip(missing, self._network.encode(patched), strict=True))
        found = {key: encoded[key] if key in encoded else self._features[key] for key in wanted}
        for key, feature in found.items():
            self._features[key] = feature
            self._features.move_to_end(key)
        return found

    def _step(self, question: _Question) -> None:
        """Ends a step: forgets frames and features that no later step shows, and bounds the features' memory."""
        history = self._histories[question.row]
        retained = set(self.protocol.retained(history.length).tolist())
        for frame in [frame for frame in history.frames if frame not in retained]:
            del history.frames[frame]
            self._features.pop((question.row, frame), None)
        history.length += 1
        size = sum(feature.nbytes for feature in self._features.values())
        while size > _FEATURE_BYTES:
            size -= self._features.popitem(last=False)[1].nbytes


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    for place, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return place
    return min(len(first), len(second))
