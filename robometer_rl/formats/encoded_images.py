"""Frames that are stored as one PNG or JPEG file each, decoded when somebody asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robometer_rl.video.images import decode_image
from robometer_rl.video.lazy import LazyFrames, Orientation

__all__ = ["EncodedImages", "ImageFiles"]


class ImageFiles(Protocol):
    """Where the files are; holds no open file, so that it may travel to a worker process."""

    def __len__(self) -> int: ...

    def read(self, places: Sequence[int]) -> list[bytes]:
        """The files at some places, counted from 0."""
        ...

    def __str__(self) -> str:
        """What error messages call them."""
        ...


class EncodedImages(LazyFrames):
    """Images of one size; the shape is the first image's."""

    def __init__(self, files: ImageFiles, orientation: Orientation = "as_stored", bgr: bool = False) -> None:
        """The images of ``files``.

        Args:
            files: One image each.
            orientation: What is done to them.
            bgr: Whether their first and last channel are exchanged.

        Raises:
            VideoError: The first image cannot be decoded.
        """
        self._files = files
        self._bgr = bgr
        (first,) = self._read(np.zeros(1, np.int64))
        super().__init__((len(files), *first.shape), orientation)

    def __str__(self) -> str:
        return str(self._files)

    def _read(self, rows: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        contents = zip(rows.tolist(), self._files.read(rows.tolist()), strict=True)
        images = [decode_image(content, f"image {place} of {self._files}") for place, content in contents]
        return [image[..., ::-1] for image in images] if self._bgr else images
