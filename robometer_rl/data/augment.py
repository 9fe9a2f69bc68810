"""Changes of a picture that leave its meaning: light, colour, and a camera that hangs a little differently."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["augment_frames"]

_MAX_SHIFT = 1 / 24  # of the frame's side
_LIGHT = (0.75, 1.25)
_COLOUR = (0.9, 1.1)
_CONTRAST = (0.8, 1.2)


def augment_frames(frames: NDArray[np.uint8], seed: int | tuple[int, ...]) -> NDArray[np.uint8]:
    """One random change, the same for all frames of a clip.

    Args:
        frames: (T, H, W, 3) uint8.
        seed: Equal seeds give equal changes.

    Returns:
        (T, H, W, 3) uint8: shifted by up to a twenty-fourth of a side (edges repeated), then scaled per channel and
        around the mean.
    """
    rng = np.random.default_rng(seed)
    height, width = frames.shape[1:3]
    rows, columns = (
        np.clip(
            np.arange(side) + int(rng.integers(-round(side * _MAX_SHIFT), round(side * _MAX_SHIFT) + 1)), 0, side - 1
        )
        for side in (height, width)
    )
    shifted = frames[:, rows[:, None], columns[None, :]]
    gain = rng.uniform(*_LIGHT) * rng.uniform(*_COLOUR, size=3)
    contrast = rng.uniform(*_CONTRAST)
    # Both are the same straight line for every pixel of a channel, so a table of 256 entries does it.
    mean = shifted.mean(axis=(0, 1, 2)) * gain
    levels = np.arange(256)[:, None]
    table = np.clip(np.rint((levels * gain - mean) * contrast + mean), 0, 255).astype(np.uint8)
    return np.stack([table[shifted[..., channel], channel] for channel in range(3)], axis=-1)
