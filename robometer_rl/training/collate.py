"""From samples to one batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robometer_rl.data.augment import augment_frames
from robometer_rl.data.targets import two_hot
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.frames import Clip, as_frames
from robometer_rl.models.robometer.patches import PatchedFrames
from robometer_rl.models.robometer.processing import EncodedFrames, RobometerInputs, RobometerProcessor
from robometer_rl.training.samples import ClipSample, PairSample, Sample

__all__ = ["Collator", "FrameSource", "PixelSource", "TrainingBatch"]


@dataclass
class TrainingBatch:
    """Inputs and targets; the F frames are those of the clips, then those of the pairs, each in order of appearance.

    Attributes:
        clips: Prompts of single clips, if there are any.
        pairs: Prompts of pairs, if there are any.
        progress: (F, bins) two-hot targets, or (F,) values for a continuous head.
        progress_mask: (F,) 1 where progress is known.
        success: (F,) 0 or 1.
        success_mask: (F,) 1 where success is known.
        preference: (pairs,) 1 if the first trajectory is the better one.
        said: (F,) number of the task that the frame's instruction names, see `robometer_rl.training.sampling.Sampler`.
        shown: (F,) number of the task that the frame is from.
    """

    clips: RobometerInputs | None
    pairs: RobometerInputs | None
    progress: Tensor
    progress_mask: Tensor
    success: Tensor
    success_mask: Tensor
    preference: Tensor
    said: Tensor
    shown: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TrainingBatch:
        """A copy on ``device``."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(
            self,
            clips=self.clips and self.clips.to(device),
            pairs=self.pairs and self.pairs.to(device),
            **{name: value.to(device, non_blocking=non_blocking) for name, value in tensors.items()},
        )


class FrameSource(Protocol):
    """Where the collator gets the frames of a sample: always pixels, or always what the vision tower makes of them."""

    def frames(self, sample: ClipSample) -> NDArray[np.uint8] | EncodedFrames:
        """(len(sample), H, W, 3) RGB, or as many encoded frames."""
        ...


class PixelSource:
    """Frames of the trajectories, for a vision tower that is being trained.

    Args:
        trajectories: In the order in which the sampler numbers them.
        augment: Change light, colour and camera per clip.
        seed: Of the augmentation.
    """

    def __init__(self, trajectories: Sequence[Trajectory], augment: bool, seed: int) -> None:
        self._trajectories = trajectories
        self._augment = augment
        self._seed = seed

    def frames(self, sample: ClipSample) -> NDArray[np.uint8]:
        """See `FrameSource.frames`."""
        frames = Clip(self._trajectories[sample.episode].frames, sample.task).read(np.unique(sample.indices))
        frames = frames[np.searchsorted(np.unique(sample.indices), sample.indices)]
        return augment_frames(as_frames(frames), (self._seed, sample.view)) if self._augment else frames


class Collator:
    """Makes a batch of samples.

    Args:
        processor: Of the model that is trained.
        source: Frames or features.
    """

    def __init__(self, processor: RobometerProcessor, source: FrameSource) -> None:
        self._processor = processor
        self._source = source

    def __call__(self, samples: Sequence[Sample]) -> dict[str, TrainingBatch]:
        """One entry, ``batch``: what the training objective takes."""
        clips = [sample for sample in samples if isinstance(sample, ClipSample)]
        pairs = [sample for sample in samples if isinstance(sample, PairSample)]
        sides = [side for pair in pairs for side in (pair.first, pair.second)]
        shown = [*clips, *sides]
        progress = np.concatenate([sample.progress for sample in shown])
        config = self._processor.config
        batch = TrainingBatch(
            clips=self._clips(clips) if clips else None,
            pairs=self._pairs(pairs) if pairs else None,
            progress=torch.from_numpy(two_hot(progress, config.progress_bins) if config.discrete else progress),
            progress_mask=_join([sample.progress_known for sample in shown]),
            success=_join([sample.success for sample in shown]),
            success_mask=_join([sample.success_known for sample in shown]),
            preference=torch.tensor([float(pair.first_is_better) for pair in pairs]),
            said=torch.tensor([sample.said for sample in shown for _ in range(len(sample))]),
            shown=torch.tensor([sample.shown for sample in shown for _ in range(len(sample))]),
        )
        return {"batch": batch}

    def _clips(self, samples: list[ClipSample]) -> RobometerInputs:
        shown = [self._frames(sample) for sample in samples]
        return self._processor.progress_prompts([sample.task for sample in samples], shown)

    def _pairs(self, samples: list[PairSample]) -> RobometerInputs:
        shown = [(self._frames(pair.first), self._frames(pair.second)) for pair in samples]
        return self._processor.preference_prompts([pair.first.task for pair in samples], shown)

    def _frames(self, sample: ClipSample) -> PatchedFrames | EncodedFrames:
        frames = self._source.frames(sample)
        return frames if isinstance(frames, EncodedFrames) else self._processor.patch(Clip(frames, sample.task))


def _join(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))
