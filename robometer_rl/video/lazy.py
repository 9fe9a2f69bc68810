"""Frames that stay where they are until somebody asks for them, and how stored pictures hang."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robometer_rl.frames import FrameError, as_frames, rgb_shape
from robometer_rl.limits import check_recording

__all__ = ["LazyFrames", "Orientation", "orient"]

Orientation = Literal["as_stored", "flip", "rotate"]
"""What is done to stored images: nothing; their rows reversed, top to bottom; or turned by 180 degrees."""


def orient(frames: NDArray[Any], orientation: Orientation) -> NDArray[Any]:
    """A view of frames (T, H, W, 3) with their rows, or their rows and columns, in the other order."""
    if orientation == "as_stored":
        return frames
    return frames[:, ::-1] if orientation == "flip" else frames[:, ::-1, ::-1]


class LazyFrames(ABC):
    """Frames of one recording, read on request; see `robometer_rl.frames.FrameSequence`.

    What a format stores becomes RGB here, by the rules of `robometer_rl.frames.as_frames`, whatever the format.

    Attributes:
        shape: ``(T, H, W, 3)``.
        orientation: What is done to the frames when they are read.
    """

    def __init__(
        self, shape: tuple[int, ...], orientation: Orientation = "as_stored", dtype: np.dtype[Any] | None = None
    ) -> None:
        """Frames of one recording; nothing is read.

        Args:
            shape: As they are stored, see `robometer_rl.frames.rgb_shape`.
            orientation: What is done to them when they are read.
            dtype: Of what is stored, where that is known.

        Raises:
            FrameError: Frames of this shape or type are not RGB, or claim to be more than any recording has.
        """
        self.shape: tuple[int, ...] = rgb_shape(shape, dtype)
        try:
            check_recording(self.shape, "a recording")
        except ValueError as error:
            raise FrameError(str(error)) from error
        self.orientation: Orientation = orientation

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | NDArray[np.integer] | list[int]) -> NDArray[np.uint8]:
        """Reads the chosen frames; an integer gives one image (H, W, 3), anything else a stack of them.

        Raises:
            ValueError: A frame is missing or damaged, or the frames are not RGB images of one size.
            OSError: Their file is gone.
            IndexError: There is no such frame.
        """
        chosen = np.arange(len(self))[index]
        rows, places = np.unique(chosen, return_inverse=True)
        if not len(rows):
            return np.empty((0, *self.shape[1:]), np.uint8)
        try:
            frames = orient(as_frames(self._read(rows)), self.orientation)
        except FrameError as error:
            raise FrameError(f"{self}: {error}") from error
        if frames.shape != (len(rows), *self.shape[1:]):
            raise FrameError(
                f"{self}: {len(rows)} frames have the shape {frames.shape}, expected {(len(rows), *self.shape[1:])}: "
                "all frames of a recording have one size"
            )
        # Frames in order, each once, are the rule: they need no second copy.
        is_ordered = np.ndim(chosen) == 1 and np.array_equal(places.ravel(), np.arange(len(rows)))
        return np.ascontiguousarray(frames if is_ordered else frames[places.reshape(np.shape(chosen))])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    @abstractmethod
    def _read(self, rows: NDArray[np.int64]) -> Any:
        """Frames as they are stored, an array or a list of images; ``rows`` are at least one and ascend."""

    @abstractmethod
    def __str__(self) -> str:
        """What error messages call them."""
