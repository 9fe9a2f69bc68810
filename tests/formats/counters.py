"""Pictures that say which frame of which episode they are, so that a test can see which frame it was given.

They survive lossy coding: every mark is at least 8 pixels wide.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIZE = 64
COLOURS = {"top": (200, 40, 40), "wrist": (40, 40, 200)}


def draw(episode: int, frame: int, camera: str = "top") -> NDArray[np.uint8]:
    """(64, 64, 3): in the upper half the frame in 8 bits, below it the episode in 4, at the bottom a colour."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[:32] = np.repeat(_bits(frame, 8), SIZE // 8)[None, :, None] * 255
    image[32:48] = np.repeat(_bits(episode, 4), SIZE // 4)[None, :, None] * 255
    image[48:] = COLOURS[camera]
    return image


def read(image: NDArray[np.uint8]) -> tuple[int, int, str]:
    """Episode, frame and camera of a picture; the inverse of `draw`."""
    assert image.shape == (SIZE, SIZE, 3)
    bright = image.astype(int).mean(axis=2) > 128
    frame = _number(bright[16, 4 :: SIZE // 8])
    episode = _number(bright[40, 8 :: SIZE // 4])
    camera = min(COLOURS, key=lambda name: int(np.abs(image[56, 32].astype(int) - COLOURS[name]).sum()))
    return episode, frame, camera


def frame_numbers(images: NDArray[np.uint8]) -> list[int]:
    """The numbers of several pictures."""
    return [read(image)[1] for image in images]


def _bits(number: int, count: int) -> NDArray[np.int_]:
    return np.array([(number >> bit) & 1 for bit in reversed(range(count))])


def _number(bits: NDArray[np.bool_]) -> int:
    return int("".join("1" if bit else "0" for bit in bits), 2)
