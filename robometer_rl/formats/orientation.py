"""How stored images hang: upright, with the bottom row first, or turned round."""

from __future__ import annotations

from typing import Any, Literal

from numpy.typing import NDArray

__all__ = ["Orientation", "orient"]

Orientation = Literal["as_stored", "flip", "rotate"]
"""What is done to stored images: nothing; their rows reversed, top to bottom; or turned by 180 degrees."""


def orient(frames: NDArray[Any], orientation: Orientation) -> NDArray[Any]:
    """A view of frames (T, H, W, 3) with their rows, or their rows and columns, in the other order."""
    if orientation == "as_stored":
        return frames
    return frames[:, ::-1] if orientation == "flip" else frames[:, ::-1, ::-1]
