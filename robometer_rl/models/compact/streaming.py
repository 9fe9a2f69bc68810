"""Histories that grow by a frame at a time: what a frame showed is kept as a vector, the frame itself is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.frames import FrameError, FrameProtocol
from robometer_rl.models.compact.network import Answers
from robometer_rl.models.reward_model import RewardStream
from robometer_rl.prediction import StepPrediction

__all__ = ["CompactStream", "FrameReader"]


class FrameReader(Protocol):
    """What a stream needs of its model."""

    def vectors(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """(n, frame_size) vectors of (n, H, W, 3) pictures."""
        ...

    def newest(self, vectors: torch.Tensor, shown: torch.Tensor, tasks: Sequence[str]) -> Answers:
        """Logits of the last frames of histories, see `KeypointNetwork.newest`."""
        ...

    def computing(self, images: int) -> AbstractContextManager[None]:
        """Holds the model while it computes."""
        ...


@dataclass
class _History:
    """One history: vectors of the frames that a later step may still show, by their number.

    Attributes:
        size: Height and width of its frames, known from the first one on.
    """

    vectors: dict[int, torch.Tensor] = field(default_factory=dict)
    length: int = 0
    size: tuple[int, int] | None = None


class CompactStream(RewardStream):
    """See `RewardStream`; one append is one pass through the image network for all histories of one size."""

    def __init__(self, model: FrameReader, tasks: Sequence[str], protocol: FrameProtocol) -> None:
        super().__init__(tasks, protocol)
        self.model = model
        self._histories = [_History() for _ in self.tasks]

    def append(self, frames: Sequence[Any] | NDArray[Any], indices: Sequence[int] | None = None) -> StepPrediction:
        """See `RewardStream.append`."""
        chosen = self._chosen(indices)
        images = self._frames_for(frames, chosen)
        names = [f"history {index}, frame {self._histories[index].length}" for index in chosen]
        said, newest = self._ask(chosen, images, names)
        for index, image, vector in zip(chosen, images, newest, strict=True):
            self._keep(self._histories[index], image, vector)
        return said

    def peek(self, frames: Sequence[Any] | NDArray[Any], indices: Sequence[int] | None = None) -> StepPrediction:
        """See `RewardStream.peek`."""
        rows = self._of_candidates(len(frames), indices)
        names = [f"candidate {number} of history {row}" for number, row in enumerate(rows)]
        return self._ask(rows, self._frames_for(frames, rows), names)[0]

    def restore(self, index: int, length: int, frames: Mapping[int, Any]) -> None:
        """See `RewardStream.restore`."""
        self._histories[index] = _History()
        images = self._restored(index, length, frames)
        vectors = self._vectors(list(images.values())) if images else []
        sizes = {(image.shape[0], image.shape[1]) for image in images.values()}
        kept = dict(zip(images, vectors, strict=True))
        self._histories[index] = _History(kept, length, sizes.pop() if sizes else None)

    def reset(self, indices: Sequence[int] | None = None, tasks: Sequence[str] | None = None) -> None:
        """See `RewardStream.reset`."""
        chosen = self._chosen(indices)
        self._change_tasks(chosen, tasks)
        for index in chosen:
            self._histories[index] = _History()

    @torch.inference_mode()
    def _ask(
        self, rows: Sequence[int], images: Sequence[NDArray[np.uint8]], names: Sequence[str]
    ) -> tuple[StepPrediction, list[torch.Tensor]]:
        """What is said of pictures behind histories, a history perhaps several times, and their vectors."""
        for row, image in zip(rows, images, strict=True):
            size = self._histories[row].size
            if size is not None and image.shape[:2] != size:
                raise FrameError(f"history {row} has frames of {size} pixels, got one of {image.shape[:2]}")
        if not rows:
            nothing = np.zeros(0, np.float32)
            return StepPrediction(nothing, nothing, np.zeros((0, 0), np.float32)), []
        newest = self._vectors(images)
        shown = [self._shown(row, vector) for row, vector in zip(rows, newest, strict=True)]
        lengths = torch.tensor([len(each) for each in shown], device=newest[0].device)
        padded = torch.nn.utils.rnn.pad_sequence([torch.stack(each) for each in shown], batch_first=True)
        with self.model.computing(len(rows)):
            answers = self.model.newest(padded, lengths, [self.tasks[row] for row in rows])
        progress, success = (logits.sigmoid().mean(0).cpu().numpy() for logits in answers)
        return StepPrediction(progress, success, np.zeros((len(rows), 0), np.float32), names=names), newest

    def _vectors(self, images: Sequence[NDArray[np.uint8]]) -> list[torch.Tensor]:
        """Vectors of pictures, in their order."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for position, image in enumerate(images):
            groups.setdefault(image.shape, []).append(position)
        found: dict[int, torch.Tensor] = {}
        for members in groups.values():
            vectors = self.model.vectors(np.stack([images[position] for position in members]))
            found.update(zip(members, vectors, strict=True))
        return [found[position] for position in range(len(images))]

    def _shown(self, index: int, newest: torch.Tensor) -> list[torch.Tensor]:
        """The vectors of the frames that are shown once ``newest`` is the last of a history, which it is not yet."""
        history = self._histories[index]
        vectors = {**history.vectors, history.length: newest}
        return [vectors[slot] for slot in self.protocol.slots(history.length).tolist()]

    def _keep(self, history: _History, image: NDArray[np.uint8], vector: torch.Tensor) -> None:
        """Adds a frame to a history, and forgets those that no later step shows."""
        history.vectors = self._still_shown(history.vectors, history.length, vector)
        history.length += 1
        history.size = (image.shape[0], image.shape[1])
