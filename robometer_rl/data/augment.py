"""Changes of a picture that leave its meaning: light, colour, a camera that hangs a little differently, more things."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["add_distractors", "augment_frames"]

_MAX_SHIFT = 1 / 24  # of the frame's side
_LIGHT = (0.75, 1.25)
_COLOUR = (0.9, 1.1)
_CONTRAST = (0.8, 1.2)
_THINGS = 3  # that are added at most
_RADIUS = (1 / 32, 1 / 14)  # of a thing, along each of its axes, as part of the shorter side: 3 of them cover 4 %
_PLACES = 6  # that are tried for a thing
_STRIPES = (0.25, 1.0)  # radii that a stripe is wide


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


def add_distractors(frames: NDArray[np.uint8], seed: int | tuple[int, ...]) -> NDArray[np.uint8]:
    """A few small things that lie about, at the same place in all frames of a clip.

    A thing is an ellipse or a rectangle, in one colour or with stripes. Of a few places it takes the one where least
    moves in the clip, so that it does not lie on what the clip is about.

    Args:
        frames: (T, H, W, 3) uint8.
        seed: Equal seeds give equal things.

    Returns:
        (T, H, W, 3) uint8.
    """
    rng = np.random.default_rng(seed)
    size = frames.shape[1:3]
    moving = (frames.max(0) - frames.min(0)).max(-1).astype(np.float32)
    cover, colours = np.zeros(size, np.float32), np.zeros((*size, 3), np.float32)
    for _ in range(int(rng.integers(1, _THINGS + 1))):
        places = rng.uniform(0, 1, (_PLACES, 2)) * size
        radii = rng.uniform(*_RADIUS, size=2) * min(size)
        angle, square = rng.uniform(0, np.pi), bool(rng.random() < 0.5)
        tried = [_thing(size, place, radii, angle, square) for place in places]
        inside, along = min(tried, key=lambda each: float((each[0] * moving).sum() / max(each[0].sum(), 1e-6)))
        first, second = rng.uniform(0, 255, (2, 3))
        second = first if rng.random() < 0.5 else second
        striped = np.floor(along / rng.uniform(*_STRIPES)) % 2
        painted = first + striped[..., None] * (second - first)
        colours += inside[..., None] * (painted - colours)
        cover += inside * (1 - cover)
    rows, columns = np.nonzero(cover)
    behind = (1 - cover[rows, columns, None]) * frames[:, rows, columns]
    added = frames.copy()
    added[:, rows, columns] = np.clip(np.rint(colours[rows, columns] + behind), 0, 255).astype(np.uint8)
    return added


def _thing(
    size: tuple[int, ...], place: NDArray[np.float64], radii: NDArray[np.float64], angle: float, square: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(H, W) how much of each pixel a thing covers, and (H, W) how far along its first axis that is, in radii."""
    rows, columns = np.arange(size[0])[:, None] - place[0], np.arange(size[1]) - place[1]
    one = (columns * np.cos(angle) + rows * np.sin(angle)) / radii[0]
    other = (rows * np.cos(angle) - columns * np.sin(angle)) / radii[1]
    distance = np.maximum(abs(one), abs(other)) if square else np.hypot(one, other)
    # Its edge is a pixel wide.
    covered = np.clip(0.5 + (1 - distance) * radii.min(), 0, 1)
    return covered.astype(np.float32), one.astype(np.float32)
