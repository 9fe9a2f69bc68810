"""A compact model as a reward model: one picture per step goes through the image network, and never again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.frames import Clip, FrameProtocol, as_frames, parse_protocol, scored_steps
from robometer_rl.models.compact.checkpoint import CONFIG_FILE, WEIGHTS_FILE, CompactCheckpoint, load_compact
from robometer_rl.models.compact.familiarity import pooled
from robometer_rl.models.compact.network import Answers
from robometer_rl.models.compact.streaming import CompactStream
from robometer_rl.models.compact.texts import normalised
from robometer_rl.models.devices import usable_device
from robometer_rl.models.locations import locate
from robometer_rl.models.reward_model import RewardModel, RewardStream
from robometer_rl.models.robometer.threads import at_most
from robometer_rl.prediction import Prediction

__all__ = ["CompactModel", "load"]

_READ = 64  # frames that are read at once
_BATCH = 64  # pictures that go through the image network together
_BATCH_OF_PROCESSOR = 4  # the same where the cache of a processor has to hold them
_FEW = 4  # pictures that one thread is given: beside busy processes, more threads wait for each other
_SHARP = 10.0  # of preferences: clips whose ends differ by a tenth are told apart with a chance of 73 %


def load(where: str, device: str | torch.device = "cpu") -> CompactModel:
    """Loads a compact model; see `robometer_rl.load_reward_model`.

    Args:
        where: A checkpoint directory, or a Hub id with an optional revision.
        device: Where to run.

    Raises:
        CompactCheckpointError: There is no such model, or it is damaged.
        ValueError: A device that is not to be had here.
    """
    target = usable_device(device)
    found = locate(where, (CONFIG_FILE, WEIGHTS_FILE))
    checkpoint = load_compact(found.directory)
    name = found.model_id if found.revision else _name(found.directory)
    return CompactModel(checkpoint, where, name, found.revision, target)


def _name(directory: Path) -> str:
    """What a local model is called in outputs: a run's ``checkpoint`` by the run."""
    resolved = directory.resolve()
    return resolved.parent.name if resolved.name == "checkpoint" else resolved.name


class CompactModel(RewardModel):
    """A loaded compact model; see `RewardModel`.

    Args:
        checkpoint: The model.
        source: What `load_reward_model` was given.
        model_id: Name recorded in outputs.
        revision: Commit on the Hub, if known.
        device: Where it runs; its parts are moved there.
    """

    def __init__(
        self,
        checkpoint: CompactCheckpoint,
        source: str,
        model_id: str,
        revision: str | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.device = str(device or "cpu")
        for part in (checkpoint.tower, checkpoint.network, checkpoint.familiarity):
            part.eval().to(self.device)
        self.source = source
        self.model_id = model_id
        self.revision = revision
        self.default_protocol = parse_protocol(checkpoint.config.protocol)
        self.success_threshold = checkpoint.config.success_threshold
        self.tiled = checkpoint.config.tiled
        self._known = {normalised(task) for task in checkpoint.config.tasks}

    @torch.inference_mode()
    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict`; a value is about the frames up to its own."""
        results: list[Prediction] = []
        for clip in clips:
            vectors = self._clip_vectors(clip, np.arange(len(clip)))
            with self.computing(len(clip)):
                answers = self.checkpoint.network(vectors[None], self.tasks([clip.task]))
            results.append(self._prediction(Answers(*(logits[:, 0] for logits in answers)), "given"))
        return results

    @torch.inference_mode()
    def predict_steps(
        self, clips: Sequence[Clip], protocol: FrameProtocol | None = None, every: int = 1
    ) -> list[Prediction]:
        """See `RewardModel.predict_steps`; every picture goes through the image network once."""
        protocol = protocol or self.default_protocol
        return [self._prediction(self._steps(clip, protocol, every), str(protocol), every) for clip in clips]

    @torch.inference_mode()
    def uncertainty(self, clip: Clip, protocol: FrameProtocol | None = None) -> NDArray[np.float32]:
        """How much the heads of the network disagree about the progress of each frame.

        Args:
            clip: An episode.
            protocol: See `predict_steps`.

        Returns:
            (T,) standard deviations between heads.
        """
        progress = self._steps(clip, protocol or self.default_protocol, 1).progress.sigmoid()
        return progress.std(0, correction=0).cpu().numpy()

    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> NDArray[np.float32]:
        """See `RewardModel.compare`: whose last frame has more progress and success; no order is preferred."""
        clips = [clip for pair in pairs for clip in pair]
        ends = [
            0.5 * (float(said.progress[-1]) + float(said.success[-1]))
            for said in self.predict(clips)
            if said.success is not None
        ]
        difference = np.array(ends[::2], np.float64) - np.array(ends[1::2], np.float64)
        return (1.0 / (1.0 + np.exp(-_SHARP * difference))).astype(np.float32)

    def stream(self, tasks: Sequence[str], protocol: FrameProtocol | None = None) -> RewardStream:
        """See `RewardModel.stream`; a step costs one picture, however long its history is."""
        return CompactStream(self, tasks, protocol or self.default_protocol)

    def vectors(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """(n, frame_size) vectors of (n, H, W, 3) pictures; strange ones are noted, see `RewardModel.doubts`."""
        found, strange = [], []
        with self.computing(len(images)), torch.inference_mode():
            size = _BATCH_OF_PROCESSOR if self.device == "cpu" else _BATCH
            for start in range(0, len(images), size):
                chunk = torch.from_numpy(images[start : start + size]).to(self.device)
                features = self.checkpoint.tower(chunk)
                found.append(self.checkpoint.network.encode(features))
                strange.append(self.checkpoint.familiarity(pooled(features)).cpu())
        self.doubts.pictures(self.model_id, torch.cat(strange).numpy())
        return torch.cat(found)

    def newest(self, vectors: torch.Tensor, shown: torch.Tensor, tasks: Sequence[str]) -> Answers:
        """(heads, B) logits of the last frames of B histories; one task stands for all."""
        return self.checkpoint.network.newest(vectors, shown, self.tasks(tasks).expand(len(vectors), -1))

    def tasks(self, instructions: Sequence[str]) -> torch.Tensor:
        """(n, words) vectors of instructions; unknown ones are noted, see `RewardModel.doubts`."""
        for instruction in instructions:
            if normalised(instruction) not in self._known:
                self.doubts.unknown_task(self.model_id, instruction, list(self.checkpoint.config.tasks))
        return self.checkpoint.network.tasks(instructions)

    @contextmanager
    def computing(self, images: int) -> Iterator[None]:
        """Holds `lock` while the network computes, on one thread where there is little to do."""
        alone = self.device == "cpu" and images <= _FEW
        with self.lock, at_most(1 if alone else None):
            yield

    def _clip_vectors(self, clip: Clip, indices: NDArray[np.int64]) -> torch.Tensor:
        """(n, frame_size) vectors of some frames of a clip, which are read piece by piece."""
        pieces = np.split(indices, range(_READ, len(indices), _READ))
        return torch.cat([self.vectors(_read(clip, piece)) for piece in pieces])

    def _steps(self, clip: Clip, protocol: FrameProtocol, every: int) -> Answers:
        """(heads, S) logits of the scored steps of an episode, each with its own history."""
        steps = scored_steps(len(clip), every)
        vectors = self._clip_vectors(clip, steps)
        slots = [protocol.slots(t) for t in range(len(steps))]
        shown = torch.tensor([len(each) for each in slots])
        index = np.zeros((len(steps), int(shown.max())), np.int64)
        for row, each in zip(index, slots, strict=True):
            row[: len(each)] = each
        with self.computing(len(steps)):
            places = torch.from_numpy(index).to(self.device)
            return self.newest(vectors[places], shown.to(self.device), [clip.task])

    def _prediction(self, answers: Answers, protocol: str, every: int = 1) -> Prediction:
        progress, success = (logits.sigmoid().mean(0).cpu().numpy() for logits in answers)
        bins = np.zeros((len(progress), 0), np.float32)
        said = Prediction(progress, success, bins, protocol, self.model_id, revision=self.revision)
        return replace(said, every=every)


def _read(clip: Clip, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Some frames of a clip; neighbours are read at once, which is faster where they are decoded in order."""
    first, last = int(indices[0]), int(indices[-1])
    if last - first == len(indices) - 1:
        return as_frames(clip.frames[first : last + 1])
    return clip.read(indices.tolist())
