"""Training a compact model on features: steps against the clock, the best of them kept.

A batch is some episodes, half of them successes, with some frames of each in order: every frame is trained to say what
it is worth from those before it, so that one pass through the network teaches histories of many lengths. The weights
that are judged, and kept, are an average over the last steps.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.nn import functional as F

from robometer_rl.adapting.arithmetic import fast_arithmetic
from robometer_rl.adapting.examples import Example
from robometer_rl.adapting.features import from_rows
from robometer_rl.adapting.learner import Learned
from robometer_rl.models.compact.network import KeypointNetwork
from robometer_rl.models.compact.tower import Features, Maps
from robometer_rl.report.terminal import open_console

__all__ = ["SUCCESS_WEIGHT", "Lesson", "learn", "progress_bar", "rate_at"]

logger = logging.getLogger(__name__)

_EPISODES = 16  # of a batch
_FRAMES = 8  # of each of them, as many as a question shows
_PEAK_RATE = 1e-3
_WARMUP = 0.1  # part of the steps until the learning rate is at its peak
_DECAY = 0.3  # of the weights
SUCCESS_WEIGHT = 0.5  # of the loss of success, beside that of progress
_AVERAGE_OVER = 100  # steps, of the weights that are kept
_JUDGED_EVERY = 100  # steps
_WRONG_TASK = 0.15  # of the clips are shown with the instruction of another task, where there are several
_MOVED = 1  # pixels of the coarse map, a twelfth of the picture, by which clips are moved at most
_GAIN = 0.2  # by which channels of a clip's features are scaled


@dataclass(frozen=True, eq=False)
class Lesson:
    """An episode as it is learned from.

    Attributes:
        example: Its labels and instructions.
        views: (T, numbers) features of its frames, as they are and in other lights and cameras.
    """

    example: Example
    views: list[NDArray[np.float16]]


def learn(
    network: KeypointNetwork,
    training: Sequence[Lesson],
    held_out: Sequence[Lesson],
    *,
    maps: Maps,
    steps: int,
    deadline: float,
    device: torch.device,
    seed: int,
) -> Learned:
    """Trains a network, which has its best weights afterwards.

    Args:
        network: What is trained, on ``device``.
        training: Episodes to train on.
        held_out: Episodes by whose loss the best weights are chosen.
        maps: Sizes of the features.
        steps: The most to take.
        deadline: `time.monotonic` at which it ends whatever has been done.
        device: Where it runs.
        seed: Of everything drawn.
    """
    torch.manual_seed(seed)
    batches = _Batches(training, maps, device, seed)
    judge = _Judge(held_out or training, maps, device)
    optimizer = torch.optim.AdamW(network.parameters(), _PEAK_RATE, weight_decay=_DECAY)
    average = deepcopy(network).requires_grad_(False)
    start, step, interrupted = time.monotonic(), 0, False
    best = (math.inf, 0, deepcopy(network.state_dict()))
    try:
        with progress_bar(steps) as advance:
            while step < steps and (step == 0 or time.monotonic() < deadline):
                spent = (time.monotonic() - start) / max(deadline - start, 1e-3)
                part = max(step / steps, spent)  # it ends with the steps or with the time
                advance(step, part)
                for group in optimizer.param_groups:
                    group["lr"] = _PEAK_RATE * rate_at(part)
                network.train()
                loss = batches.loss(network)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                _follow(average, network, step)
                if step % _JUDGED_EVERY == 0:
                    best = _better(best, judge.loss(average), step, average)
    except KeyboardInterrupt:
        interrupted = True
        logger.warning("training was interrupted after %d of %d steps: the best model so far is kept", step, steps)
    if not interrupted or not best[1]:
        best = _better(best, judge.loss(average), step, average)
    network.load_state_dict(best[2])
    network.eval()
    return Learned(step, best[1], best[0], time.monotonic() - start, interrupted)


def _better(
    best: tuple[float, int, dict[str, torch.Tensor]], loss: float, step: int, network: nn.Module
) -> tuple[float, int, dict[str, torch.Tensor]]:
    logger.debug("after %d steps the held-out loss is %.4f", step, loss)
    return (loss, step, deepcopy(network.state_dict())) if loss < best[0] else best


def rate_at(part: float) -> float:
    """Learning rate as part of its peak, after this part of training: linear up, then along a cosine down."""
    if part < _WARMUP:
        return 0.04 + 0.96 * part / _WARMUP
    return 0.5 * (1 + math.cos(math.pi * min((part - _WARMUP) / (1 - _WARMUP), 1.0)))


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, step: int) -> None:
    """Lets averaged weights follow; early on they forget faster."""
    weight = 1.0 / min(step, _AVERAGE_OVER)
    for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, weight)
        else:
            kept.copy_(new)


@contextmanager
def progress_bar(steps: int) -> Iterator[Callable[[int, float], None]]:
    """A bar with the time that is left, on standard error; gives what is told steps and the part that is done."""
    columns = (TextColumn("training, {task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=open_console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda step, part: progress.update(task, completed=part, description=f"step {step} of {steps}")


def _labels(example: Example, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """(4, T) progress, whether it is known, success, whether that is known."""
    labels = example.labels
    rows = (labels.progress, labels.progress_known, labels.success, labels.success_known)
    return np.stack([row[chosen].astype(np.float32) for row in rows])


def _loss(progress: torch.Tensor, success: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of (heads, B, T) logits against (4, B, T) labels, mean over what is known."""
    value, value_known, done, done_known = labels
    parts = []
    for logits, target, known in ((progress, value, value_known), (success, done, done_known)):
        entropy = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
        parts.append((entropy * known).sum() / known.sum().clamp_min(1.0) / len(logits))
    return parts[0] + SUCCESS_WEIGHT * parts[1]


class _Batches:
    """Draws batches and says how wrong a network is about them."""

    def __init__(self, lessons: Sequence[Lesson], maps: Maps, device: torch.device, seed: int) -> None:
        self._lessons, self._maps, self._device = lessons, maps, device
        self._rng = np.random.default_rng(seed)
        self._pools = [
            pool
            for pool in (
                [n for n, each in enumerate(lessons) if each.example.succeeds == done] for done in (True, False)
            )
            if pool
        ]
        self._by_task: dict[str, list[str]] = {}
        for lesson in lessons:
            self._by_task.setdefault(lesson.example.task, []).extend(lesson.example.texts)

    def loss(self, network: KeypointNetwork) -> torch.Tensor:
        """Loss of one batch that was not drawn before."""
        drawn = [self._draw(self._pools[number % len(self._pools)]) for number in range(_EPISODES)]
        rows = np.concatenate([lesson.views[view][frames] for lesson, view, frames in drawn])
        labels = np.stack([_labels(lesson.example, frames) for lesson, _, frames in drawn], axis=1)
        texts = []
        for number, (lesson, _, _) in enumerate(drawn):
            text, wrong = self._instruction(lesson.example)
            texts.append(text)
            if wrong:
                labels[:, number] = np.array([0.0, 1.0, 0.0, 1.0])[:, None]
        features = self._altered(from_rows(rows, self._maps, self._device))
        with fast_arithmetic(self._device):
            vectors = network.encode(features).float().unflatten(0, (len(drawn), _FRAMES))
        answers = network(vectors, network.tasks(texts))
        return _loss(answers.progress, answers.success, torch.from_numpy(labels).to(self._device))

    def _draw(self, pool: list[int]) -> tuple[Lesson, int, NDArray[np.int64]]:
        """An episode, a view of it, and some of its frames in order, the first among them."""
        lesson = self._lessons[pool[int(self._rng.integers(len(pool)))]]
        others = np.arange(1, len(lesson.views[0]))
        more = self._rng.choice(others, _FRAMES - 1, replace=len(others) < _FRAMES - 1)
        return lesson, int(self._rng.integers(len(lesson.views))), np.append(0, np.sort(more))

    def _instruction(self, example: Example) -> tuple[str, bool]:
        """An instruction to ask with, and whether it is that of another task."""
        others = [task for task in self._by_task if task != example.task]
        wrong = bool(others) and self._rng.random() < _WRONG_TASK
        texts = self._by_task[others[int(self._rng.integers(len(others)))]] if wrong else example.texts
        text = texts[int(self._rng.integers(len(texts)))]
        return text, wrong and text not in example.texts

    def _altered(self, features: Features) -> Features:
        """Features of clips whose channels are scaled a little and whose pictures are moved, each clip in its way."""
        features = self._moved(features)
        clips = [(part, 1.0 + _GAIN * torch.randn(_EPISODES, part.shape[1], device=part.device)) for part in features]
        return Features(*(part * gain.repeat_interleave(_FRAMES, 0)[..., None, None] for part, gain in clips))

    def _moved(self, features: Features) -> Features:
        """Features of pictures that are moved by whole pixels of the coarse map; what comes in repeats the edge."""
        by = self._rng.integers(-_MOVED, _MOVED + 1, (_EPISODES, 2)).repeat(_FRAMES, axis=0)
        moved = []
        for scale, part in zip((2, 1), features, strict=True):
            side = part.shape[-1]
            places = np.clip(np.arange(side) + scale * by[..., None], 0, side - 1)
            rows, columns = torch.from_numpy(places).to(part.device).unbind(1)
            clips = torch.arange(len(part), device=part.device)[:, None, None]
            # Channels are behind places in memory, so whole rows of them are copied.
            moved.append(part.permute(0, 2, 3, 1)[clips, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2))
        return Features(*moved)


class _Judge:
    """How wrong a network is about episodes as they are, all frames of each."""

    def __init__(self, lessons: Sequence[Lesson], maps: Maps, device: torch.device) -> None:
        self._lessons, self._maps, self._device = lessons, maps, device

    @torch.inference_mode()
    def loss(self, network: KeypointNetwork) -> float:
        """Mean over episodes."""
        network.eval()
        losses = []
        for lesson in self._lessons:
            features = from_rows(np.asarray(lesson.views[0]), self._maps, self._device)
            with fast_arithmetic(self._device):
                vectors = network.encode(features).float()
            answers = network(vectors[None], network.tasks([lesson.example.episode.task]))
            labels = _labels(lesson.example, np.arange(len(lesson.views[0])))[:, None]
            # The mean of the heads is what is said.
            said = [logits.sigmoid().mean(0, keepdim=True).logit(1e-6) for logits in answers]
            losses.append(float(_loss(said[0], said[1], torch.from_numpy(labels).to(self._device))))
        return float(np.mean(losses))
