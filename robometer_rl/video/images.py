"""Encoded images to RGB, in one place for every reader: files of a folder, cells of a table, members of an archive."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from robometer_rl.files import check_regular
from robometer_rl.limits import check_picture
from robometer_rl.video.lazy import LazyFrames, Orientation

__all__ = ["IMAGE_SUFFIXES", "EncodedImages", "ImageFiles", "VideoError", "check_image", "decode_image", "decode_sized"]

IMAGE_SUFFIXES: Final = (".bmp", ".jpeg", ".jpg", ".png", ".webp")

_FORMATS: Final = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")

# Pillow makes RGB of any mode by clipping: depth in 16 bits would become white.
_EIGHT_BIT_MODES: Final = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"})

# What Pillow raises for files that are damaged, are none of these formats, or claim to be huge.
_DAMAGE: Final = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class VideoError(ValueError):
    """A recording that cannot be read; the message says which file, what was wrong and what is expected."""


def decode_image(image: bytes | Path, name: object = None) -> NDArray[np.uint8]:
    """The pixels of an encoded image, the right way up as its EXIF data have it.

    Grey and palette images become RGB, transparency is dropped.

    Args:
        image: The content of a file, or its path.
        name: What error messages call it; its path by default.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        VideoError: It cannot be decoded, claims more than `robometer_rl.limits.MAX_PIXELS`, or has more than 8 bits per
            channel, as images of depth do.
    """
    name = image if name is None else name
    with _opened(image, name) as opened:
        mode = opened.mode
        if mode in _EIGHT_BIT_MODES:
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    raise VideoError(
        f"{name} is an image of mode {mode}; expected 8 bits per channel: images of depth hold distances, not colours"
    )


def decode_sized(image: bytes, height: int, width: int, name: object) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of a JPEG or PNG in RGB of this size, as it is stored; others are refused before decoding.

    Raises:
        VideoError: It is of another size or kind, or cannot be decoded.
    """
    with _opened(image, name, ("JPEG", "PNG")) as opened:
        if (opened.mode, opened.height, opened.width) != ("RGB", height, width):
            given = f"{opened.mode} image of {opened.width} x {opened.height}"
            raise VideoError(f"{name} is a {given} pixels; expected RGB and {width} x {height}")
        return np.asarray(opened)


def check_image(path: Path) -> None:
    """Raises `VideoError` unless a file begins as an image of at most `robometer_rl.limits.MAX_PIXELS` does."""
    with _opened(path, path):
        pass


@contextmanager
def _opened(image: bytes | Path, name: object, formats: tuple[str, ...] = _FORMATS) -> Iterator[Image.Image]:
    """An image of which the header has been read; what goes wrong with it is a `VideoError`."""
    try:
        _ = check_regular(image) if isinstance(image, Path) else None
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=formats) as opened:
            check_picture(opened.height, opened.width, "it")
            yield opened
    except _DAMAGE as error:
        # Only what Pillow says of files has their names in it.
        reason = str(error).partition(": ")[0] if isinstance(error, FileNotFoundError) else str(error)
        raise VideoError(f"{name} is not a readable image: {reason}") from error


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
