"""Several synchronised cameras in one picture, laid out as published checkpoints were trained on it.

The primary view is on top and takes two thirds of the height; the others are below in a grid. Averaging the
predictions of one history per camera is another function, and one that other checkpoints were trained for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.extras import require
from robometer_rl.frames import Clip, FrameError, FrameSequence, as_frame, as_frames
from robometer_rl.ranges import require_counts, require_numbers

__all__ = ["TileLayout", "TiledFrames", "tile", "tile_views"]

_PRIMARY: Final = 2 / 3  # of the height
_WINDOW: Final = 64  # frames that are read at once


@dataclass(frozen=True)
class TileLayout:
    """Where views are in a tiled picture.

    Attributes:
        width: Of the picture; that of the primary view if None.
        height: Of the picture; if None, so much that the primary view keeps its own.
        primary_fraction: Part of the height that the primary view takes.
    """

    width: int | None = None
    height: int | None = None
    primary_fraction: float = _PRIMARY

    def __post_init__(self) -> None:
        require_numbers(self, "(0, 1)", "primary_fraction")
        for name in ("width", "height"):
            if getattr(self, name) is not None:
                require_counts(self, 1, name)

    def size(self, primary: Sequence[int]) -> tuple[int, int]:
        """Height and width of the picture, of the height and width of the primary view.

        Examples:
            >>> TileLayout().size((360, 640))
            (540, 640)
        """
        height, width = primary
        return self.height or round(height / self.primary_fraction), self.width or width

    def panels(self, size: tuple[int, int], count: int) -> list[tuple[slice, slice]]:
        """Rows and columns of the primary view and of ``count`` others, in a picture of (height, width) ``size``.

        Raises:
            FrameError: There is no other view, or the picture is too small for them.
        """
        if count < 1:
            raise FrameError("a tiled picture needs a primary view and at least one other")
        height, width = size
        top = int(height * self.primary_fraction)
        columns = max(1, math.ceil(math.sqrt(count)))
        rows = math.ceil(count / columns)
        wide, high = width // columns, (height - top) // rows
        if not (top and wide and high):
            raise FrameError(f"a picture of {width} x {height} pixels is too small for {count + 1} views")
        found = [(slice(0, top), slice(0, width))]
        for number in range(count):
            row, column = divmod(number, columns)
            end = height if row == rows - 1 else top + (row + 1) * high
            right = width if column == columns - 1 else (column + 1) * wide
            found.append((slice(top + row * high, end), slice(column * wide, right)))
        return found


def tile(views: Sequence[Any], layout: TileLayout | None = None) -> NDArray[np.uint8]:
    """One tiled picture.

    Args:
        views: RGB images of any size, see `robometer_rl.frames.as_frame`, the primary one first.
        layout: Where they are; as in published checkpoints if None.

    Returns:
        (height, width, 3) uint8; cells of the grid that no view fills are black. Views are resized by area (where they
        grow, bilinearly) and do not keep their aspect.

    Raises:
        FrameError: Fewer than two views, one that is no RGB image, or no room for them.
        ImportError: opencv-python is not installed.
    """
    cv2 = require("cv2", "tiles")
    layout = layout or TileLayout()
    images = [as_frame(view) for view in views]
    if not images:
        raise FrameError("a tiled picture needs a primary view and at least one other")
    height, width = layout.size(images[0].shape[:2])
    picture = np.zeros((height, width, 3), np.uint8)
    for image, (rows, columns) in zip(images, layout.panels((height, width), len(images) - 1), strict=True):
        size = (columns.stop - columns.start, rows.stop - rows.start)
        picture[rows, columns] = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
    return picture


def tile_views(
    views: Mapping[str, FrameSequence],
    primary: str,
    secondary: Sequence[str] | None = None,
    layout: TileLayout | None = None,
) -> TiledFrames:
    """A recording of tiled pictures.

    Args:
        views: (T, H, W, 3) RGB by name, synchronised; the shortest decides T.
        primary: Which of them is on top.
        secondary: The others in their order; if None, all, in the order of ``views``.
        layout: Where they are.

    Raises:
        FrameError: A name that is not among the views, or no view besides the primary one.
    """
    others = [name for name in views if name != primary] if secondary is None else list(secondary)
    unknown = [name for name in (primary, *others) if name not in views]
    if unknown:
        raise FrameError(f"there is no view {unknown[0]!r} to be tiled; there are {', '.join(views) or 'none'}")
    return TiledFrames([views[name] for name in (primary, *others)], layout)


class TiledFrames:
    """Tiled pictures, made when they are asked for; see `robometer_rl.frames.FrameSequence`.

    Attributes:
        shape: ``(T, H, W, 3)`` of the pictures.
    """

    def __init__(self, views: Sequence[FrameSequence], layout: TileLayout | None = None) -> None:
        """Pictures of ``views``, (T, H, W, 3) RGB each, the primary one first; the shortest decides T.

        Raises:
            FrameError: Fewer than two views, an empty one, or no room for them.
        """
        self._views = tuple(views)
        self._layout = layout or TileLayout()
        count = min((len(view) for view in self._views), default=0)
        if not count:
            raise FrameError("got views without frames to be tiled")
        # The task is not looked at: a clip knows the size of frames in every layout.
        size = self._layout.size(Clip(self._views[0], "any").size)
        self._layout.panels(size, len(self._views) - 1)
        self.shape: tuple[int, ...] = (count, *size, 3)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | NDArray[np.integer] | list[int]) -> NDArray[np.uint8]:
        """The chosen pictures as uint8; an integer gives one (H, W, 3), anything else a stack of them."""
        chosen = np.arange(len(self))[index]
        pictures = np.empty((np.size(chosen), *self.shape[1:]), np.uint8)
        for start in range(0, len(pictures), _WINDOW):
            numbers = np.atleast_1d(chosen)[start : start + _WINDOW]
            first, last = int(numbers.min()), int(numbers.max())
            # Recordings promise slices and no more.
            windows = [as_frames(view[first : last + 1]) for view in self._views]
            for place, number in enumerate(numbers):
                pictures[start + place] = tile([window[number - first] for window in windows], self._layout)
        return pictures[0] if np.ndim(chosen) == 0 else pictures

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)
