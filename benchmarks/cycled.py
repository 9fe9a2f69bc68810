"""Frames of long episodes that take no memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cycled"]


class Cycled:
    """Frames over and over again, until there are ``length`` of them; made when they are read.

    Attributes:
        shape: ``(length, H, W, 3)``.
    """

    def __init__(self, frames: NDArray[np.uint8], length: int) -> None:
        self.shape = (length, *frames.shape[1:])
        self._frames = frames

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice) -> NDArray[np.uint8]:
        return self._frames[np.arange(len(self))[index] % len(self._frames)]
