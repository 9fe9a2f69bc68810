"""Frames that are stored as one PNG or JPEG file each, decoded when somebody asks for them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from robometer_rl.formats.orientation import Orientation, orient
from robometer_rl.video import VideoError

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


class EncodedImages:
    """Images of one size.

    Attributes:
        shape: ``(T, H, W, 3)``, the size being the first image's.
    """

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
        self._orientation: Orientation = orientation
        self._bgr = bgr
        (first,) = self._decode([0])
        self.shape: tuple[int, ...] = (len(files), *first.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | NDArray[np.integer] | list[int]) -> NDArray[np.uint8]:
        """Decodes the chosen images; an integer gives one (H, W, 3), anything else a stack of them.

        Raises:
            VideoError: An image cannot be decoded, or has another size than the first.
            IndexError: There is no such image.
        """
        chosen = np.arange(len(self))[index]
        images = self._decode(np.atleast_1d(chosen).tolist())
        if any(image.shape != self.shape[1:] for image in images):
            sizes = sorted({image.shape[:2] for image in images} | {self.shape[1:3]})
            raise VideoError(f"{self._files} has images of the sizes {sizes}; expected one size")
        if np.ndim(chosen) == 0:
            return images[0]
        return np.stack(images) if images else np.empty((0, *self.shape[1:]), np.uint8)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def _decode(self, places: Sequence[int]) -> list[NDArray[np.uint8]]:
        return [self._image(place, content) for place, content in zip(places, self._files.read(places), strict=True)]

    def _image(self, place: int, content: bytes) -> NDArray[np.uint8]:
        try:
            with Image.open(io.BytesIO(content)) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise VideoError(f"image {place} of {self._files} cannot be decoded: {error}") from error
        return orient((pixels[..., ::-1] if self._bgr else pixels)[None], self._orientation)[0]
