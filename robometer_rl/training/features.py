"""What a frozen vision tower makes of every stored frame, computed once and kept on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.data.augment import augment_frames
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.files import new_file
from robometer_rl.models.robometer.network import RobometerNetwork
from robometer_rl.models.robometer.processing import EncodedFrames, RobometerProcessor
from robometer_rl.models.robometer.vision import encode_frames
from robometer_rl.training.samples import ClipSample

__all__ = ["FeatureCache"]

logger = logging.getLogger(__name__)


class FeatureCache:
    """Features of all frames of a data set in several views: as recorded, and with each trajectory changed at random.

    A source for `robometer_rl.training.collate.Collator`: the view that a sample asks for is one of those computed.

    Args:
        trajectories: In the order in which the sampler numbers them; their frames may differ in size.
        processor: Knows how many tokens a frame has.
        features: (views, 1 + D, tokens, hidden) float16; the frames of all trajectories one after another.
    """

    def __init__(
        self, trajectories: Sequence[Trajectory], processor: RobometerProcessor, features: NDArray[np.float16]
    ) -> None:
        self._features = features
        self._grids = [processor.patcher.grid(*trajectory.frames.shape[1:3]) for trajectory in trajectories]
        self._tokens = np.array([processor.patcher.tokens(grid) for grid in self._grids], np.int64)
        self._starts = np.cumsum([0, *(self._tokens * [len(trajectory) for trajectory in trajectories])])

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
            trajectories: In the order in which the sampler numbers them.
            path: File (.npy), which belongs to this tower and these trajectories.
            views: How many; each but the first, which is unchanged, changes every trajectory at random.
            seed: Of these changes.

        Raises:
            ValueError: The file holds features of another shape.
        """
        shape = _shape(network, processor, trajectories, views)
        if path.exists():
            features = np.load(path, mmap_mode="r")
            if features.shape != shape:
                raise ValueError(f"{path} holds features of shape {features.shape}, expected {shape}; remove it")
            return cls(trajectories, processor, features)
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as unfinished:
            features = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float16, shape=shape)
            _reserve(unfinished)
            starts = cls(trajectories, processor, features)._starts
            for number, trajectory in enumerate(trajectories):
                pictures = trajectory.clip().read()
                for view in range(views):
                    seen = augment_frames(pictures, (seed, view, number)) if view else pictures
                    features[view, :, starts[number] : starts[number + 1]] = _encode(network, processor, seen)
            features.flush()
        frames = sum(len(trajectory) for trajectory in trajectories)
        logger.info("cached %d views of %d frames (%.0f MB)", views, frames, features.nbytes / 1e6)
        return cls(trajectories, processor, np.load(path, mmap_mode="r"))

    def frames(self, sample: ClipSample) -> EncodedFrames:
        """See `robometer_rl.training.collate.FrameSource.frames`."""
        tokens = self._tokens[sample.episode]
        view = self._features[sample.view % len(self._features)]
        firsts = self._starts[sample.episode] + sample.indices * tokens
        features = [torch.from_numpy(view[:, first : first + tokens].astype(np.float32)) for first in firsts]
        return EncodedFrames(features, self._grids[sample.episode])


def _reserve(path: Path) -> None:
    """Takes the disk that a file says it has: writing to a mapped file on a full disk ends the process, not the call.

    Raises:
        OSError: There is not enough.
    """
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _tokens(trajectories: Sequence[Trajectory], processor: RobometerProcessor) -> NDArray[np.int64]:
    """Tokens of a frame of each trajectory."""
    patcher = processor.patcher
    return np.array([patcher.tokens(patcher.grid(*each.frames.shape[1:3])) for each in trajectories], np.int64)


def _shape(
    network: RobometerNetwork, processor: RobometerProcessor, trajectories: Sequence[Trajectory], views: int
) -> tuple[int, int, int, int]:
    return (
        views,
        1 + len(network.model.visual.deepstack_visual_indexes),
        int(_tokens(trajectories, processor) @ [len(trajectory) for trajectory in trajectories]),
        network.model.language_model.config.hidden_size,
    )


@torch.inference_mode()
def _encode(network: RobometerNetwork, processor: RobometerProcessor, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(1 + D, tokens, hidden) of all frames one after another."""
    features = encode_frames(network.model.visual, processor.patcher(frames))
    return features.transpose(0, 1).flatten(1, 2).float().cpu().numpy()
