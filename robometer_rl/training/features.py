"""What a frozen vision tower makes of every stored frame, computed once and kept on disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robometer_rl.data.augment import augment_frames
from robometer_rl.data.sampling import ClipSample
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.frames import Clip
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.models.robometer.processing import RobometerProcessor
from robometer_rl.models.robometer.vision import encode_frames

__all__ = ["FeatureCache"]

logger = logging.getLogger(__name__)


class FeatureCache:
    """Features of all frames of a data set in several views: as recorded, and with each trajectory changed at random.

    A source for `robometer_rl.data.collate.Collator`: the view that a sample asks for is one of those computed. All
    frames must have one size.

    Args:
        trajectories: In the order in which the sampler numbers them.
        features: (views, frames, 1 + D, tokens, hidden) float16; the frames of all trajectories one after another.
    """

    def __init__(self, trajectories: Sequence[Trajectory], features: NDArray[np.float16]) -> None:
        self._features = features
        self._shapes = [tuple(trajectory.frames.shape[1:]) for trajectory in trajectories]
        self._starts = np.cumsum([0, *(len(trajectory) for trajectory in trajectories)])

    @classmethod
    def compute(
        cls,
        network: RobometerNetwork,
        processor: RobometerProcessor,
        trajectories: Sequence[Trajectory],
        path: Path,
        views: int = 2,
        seed: int = 0,
    ) -> FeatureCache:
        """Encodes every frame and keeps the features in ``path``; a file that is there already is used as it is.

        Args:
            network: Only its vision tower is used.
            processor: Of the same checkpoint.
            trajectories: Frames of one size.
            path: File (.npy), which belongs to this tower and these trajectories.
            views: How many; each but the first, which is unchanged, changes every trajectory at random.
            seed: Of these changes.

        Raises:
            ValueError: Frames of different sizes, or a file of another shape.
        """
        shape = _shape(network, processor, trajectories, views)
        if path.exists():
            features = np.load(path, mmap_mode="r")
            if features.shape != shape:
                raise ValueError(f"{path} holds features of shape {features.shape}, expected {shape}; remove it")
            return cls(trajectories, features)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        features = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float16, shape=shape)
        starts = cls(trajectories, features)._starts
        for number, trajectory in enumerate(trajectories):
            pictures = trajectory.clip().read()
            for view in range(views):
                seen = augment_frames(pictures, (seed, view, number)) if view else pictures
                features[view, starts[number] : starts[number + 1]] = _encode(network, processor, seen)
        features.flush()
        unfinished.rename(path)
        logger.info("cached %d views of %d frames (%.0f MB)", views, shape[1], features.nbytes / 1e6)
        return cls(trajectories, np.load(path, mmap_mode="r"))

    def clip(self, sample: ClipSample) -> Clip:
        """A clip of the right length and size; its pixels are not read, since the features are known."""
        blank = np.broadcast_to(np.uint8(0), (len(sample), *self._shapes[sample.episode]))
        return Clip(blank, sample.task)

    def features(self, sample: ClipSample) -> list[Tensor]:
        """See `robometer_rl.data.collate.FrameSource.features`."""
        rows = self._starts[sample.episode] + sample.indices
        view = self._features[sample.view % len(self._features)]
        return list(torch.from_numpy(np.asarray(view[rows]).astype(np.float32)))


def _shape(
    network: RobometerNetwork, processor: RobometerProcessor, trajectories: Sequence[Trajectory], views: int
) -> tuple[int, int, int, int, int]:
    grids = {processor.patcher.grid(*trajectory.frames.shape[1:3]) for trajectory in trajectories}
    if len(grids) != 1:
        raise ValueError(f"cached features need frames of one size, got patch grids {sorted(grids)}")
    return (
        views,
        sum(len(trajectory) for trajectory in trajectories),
        1 + len(network.model.visual.deepstack_visual_indexes),
        processor.patcher.tokens(grids.pop()),
        network.model.language_model.config.hidden_size,
    )


@torch.inference_mode()
def _encode(network: RobometerNetwork, processor: RobometerProcessor, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    return encode_frames(network.model.visual, processor.patcher(frames)).float().cpu().numpy()
