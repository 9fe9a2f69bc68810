"""The part that learns: where a few detectors look and what they see there, then and now, and what that is worth.

A frame becomes a vector by spatial soft-argmax (Levine et al., arXiv 1504.00702): K detectors, each with the place that
it looks at and a value that it reads there. Progress and success of a frame follow from the vectors of the first frame
and of the newest, a summary of all frames shown in between (greatest and mean values of a few learned features), and
the instruction. Several small heads answer; their mean is the answer, and their spread says how sure it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from robometer_rl.models.compact.texts import BUCKETS, word_buckets
from robometer_rl.models.compact.tower import COARSE, FINE, Features

__all__ = ["Answers", "KeypointNetwork", "NetworkShape"]


_INPUT_DROPOUT = 0.15  # of what is seen: no single detector is to be relied on


@dataclass(frozen=True)
class NetworkShape:
    """How large the network is.

    Attributes:
        channels: Of its maps.
        keypoints: Detectors.
        history: Features that sum up the frames shown.
        words: Size of an instruction's vector.
        hidden: Of the heads.
        heads: How many of them.
    """

    channels: int = 64
    keypoints: int = 32
    history: int = 32
    words: int = 16
    hidden: int = 128
    heads: int = 4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} of a network is a positive integer, got {value!r}")


class Answers(NamedTuple):
    """Logits of the heads, (heads, ...) each."""

    progress: torch.Tensor
    success: torch.Tensor


class _Heads(nn.Module):
    """Several small networks side by side, in one product of matrices per layer."""

    def __init__(self, inputs: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        sizes = (inputs, 2 * hidden, hidden, 2)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for size, following in pairwise(sizes):
            weight = torch.empty(heads, size, following)
            for one in weight:
                nn.init.kaiming_uniform_(one.T, a=5**0.5)
            self.weights.append(weight)
            self.biases.append(torch.zeros(heads, 1, following))
        self.dropout = dropout

    def forward(self, inputs: torch.Tensor) -> Answers:
        """Logits for (N, inputs), each (heads, N)."""
        hidden = F.dropout(inputs, _INPUT_DROPOUT, self.training).expand(len(self.weights[0]), *inputs.shape)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if number:
                hidden = F.dropout(F.relu(hidden), self.dropout, self.training)
            hidden = torch.baddbmm(bias, hidden, weight)
        return Answers(hidden[..., 0], hidden[..., 1])


class KeypointNetwork(nn.Module):
    """From features of frames to progress and success.

    Attributes:
        shape: Its size.
        frame_size: Numbers in the vector of a frame.

    Args:
        shape: Its size.
        dropout: Of the heads.
        channels: Of the image network's fine and coarse features.
    """

    def __init__(self, shape: NetworkShape, dropout: float = 0.3, channels: tuple[int, int] = (FINE, COARSE)) -> None:
        super().__init__()
        self.shape = shape
        self.frame_size = 3 * shape.keypoints
        self.fine = nn.Conv2d(channels[0], shape.channels, 1)
        self.coarse = nn.Conv2d(channels[1], shape.channels, 1, bias=False)
        self.reduced = nn.BatchNorm2d(shape.channels)
        self.mix = nn.Conv2d(shape.channels, shape.channels, 3, padding=1, bias=False)
        self.mixed = nn.BatchNorm2d(shape.channels)
        self.attend = nn.Conv2d(shape.channels, shape.keypoints, 1)
        self.value = nn.Conv2d(shape.channels, shape.keypoints, 1)
        self.remember = nn.Linear(self.frame_size, shape.history)
        self.words = nn.EmbeddingBag(BUCKETS, shape.words, mode="mean")
        self.heads = _Heads(2 * self.frame_size + 2 * shape.history + shape.words, shape.hidden, shape.heads, dropout)

    def encode(self, features: Features) -> torch.Tensor:
        """(N, frame_size) vectors of N frames: places of the detectors in [-1, 1], x and y, then their values."""
        fine, coarse = features
        # Scaling and a convolution of single pixels can change places, and on the small map the latter is cheaper.
        lifted = F.interpolate(self.coarse(coarse), fine.shape[-2:], mode="bilinear")
        hidden = F.relu(self.reduced(self.fine(fine) + lifted))
        hidden = F.relu(self.mixed(self.mix(hidden)))
        weights = self.attend(hidden).flatten(2).float().softmax(-1)
        places = weights @ _grid(hidden)
        values = (weights * self.value(hidden).flatten(2)).sum(-1)
        return torch.cat([places.flatten(1), values], 1)

    def tasks(self, instructions: Sequence[str]) -> torch.Tensor:
        """(n, words) vectors of instructions."""
        buckets = [word_buckets(instruction) for instruction in instructions]
        offsets = torch.tensor([0, *(len(rows) for rows in buckets[:-1])]).cumsum(0)
        device = self.words.weight.device
        return self.words(torch.cat(buckets).to(device), offsets.to(device))

    def forward(self, vectors: torch.Tensor, tasks: torch.Tensor) -> Answers:
        """Answers for every frame of clips, each from the frames up to it.

        Args:
            vectors: (B, T, frame_size) of the frames of each clip in order.
            tasks: (B, words) of their instructions.

        Returns:
            Logits, (heads, B, T).
        """
        clips, length = vectors.shape[:2]
        memories = F.relu(self.remember(vectors))
        counts = torch.arange(1, length + 1, device=vectors.device)[:, None]
        greatest, mean = memories.cummax(1).values, memories.cumsum(1) / counts
        first = vectors[:, :1].expand_as(vectors)
        words = tasks[:, None].expand(-1, length, -1)
        answers = self._answer(vectors, first, greatest, mean, words)
        return Answers(*(logits.unflatten(1, (clips, length)) for logits in answers))

    def newest(self, vectors: torch.Tensor, shown: torch.Tensor, tasks: torch.Tensor) -> Answers:
        """Answers for the last frame of histories of different lengths.

        Args:
            vectors: (B, T, frame_size), each history from its first frame on, then anything.
            shown: (B,) how many frames each history has.
            tasks: (B, words).

        Returns:
            Logits, (heads, B).
        """
        rows = torch.arange(len(vectors), device=vectors.device)
        inside = torch.arange(vectors.shape[1], device=vectors.device)[None] < shown[:, None]
        memories = F.relu(self.remember(vectors)) * inside[..., None]
        greatest, mean = memories.amax(1), memories.sum(1) / shown[:, None]  # they are not below 0
        return self._answer(vectors[rows, shown - 1], vectors[:, 0], greatest, mean, tasks)

    def _answer(self, *parts: torch.Tensor) -> Answers:
        return self.heads(torch.cat(parts, -1).reshape(-1, sum(part.shape[-1] for part in parts)))


def _grid(maps: torch.Tensor) -> torch.Tensor:
    """(height * width, 2) x and y of the pixels of a map, from -1 to 1."""
    height, width = maps.shape[-2:]
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, device=maps.device),
        torch.linspace(-1, 1, width, device=maps.device),
        indexing="ij",
    )
    return torch.stack([x.flatten(), y.flatten()], -1)
