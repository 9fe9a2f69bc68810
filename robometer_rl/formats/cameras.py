"""Which of several cameras is read, and which arrays are pictures at all: by shape and type, before a pixel is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from robometer_rl.data.reading import SourceError
from robometer_rl.frames import FrameError, rgb_shape

__all__ = ["Cameras", "cameras_among", "choose_camera"]

_SMALLEST: Final = 8  # pixels of a grey picture's side; smaller ones are matrices
_LISTED: Final = 5


class Cameras(NamedTuple):
    """The pictures of a data set.

    Attributes:
        names: Of those in colour.
        refused: Names of those that look like pictures and cannot be shown, with reasons: depth, grey, stacked frames.
    """

    names: tuple[str, ...]
    refused: Mapping[str, str]


def cameras_among(arrays: Mapping[str, tuple[Sequence[int], np.dtype[Any]]]) -> Cameras:
    """Tells pictures from other arrays of an episode.

    Args:
        arrays: Shape, the first axis of which is time, and type of each array by its name.

    Example:
        >>> found = cameras_among({
        ...     "front": ((50, 64, 64, 3), np.dtype("uint8")),
        ...     "depth": ((50, 64, 64), np.dtype("uint16")),
        ...     "joints": ((50, 7), np.dtype("float32")),
        ... })
        >>> found.names, list(found.refused)
        (('front',), ['depth'])
    """
    names: list[str] = []
    refused: dict[str, str] = {}
    for name, (shape, dtype) in arrays.items():
        if len(shape) < 3 or (len(shape) == 3 and min(shape[1:]) < _SMALLEST) or dtype.kind not in "uif":
            continue
        try:
            rgb_shape(shape, dtype)
            names.append(name)
        except FrameError as error:
            refused[name] = str(error)
    return Cameras(tuple(names), refused)


def choose_camera(
    where: object, cameras: Sequence[str], asked: str | None, refused: Mapping[str, str] | None = None
) -> str:
    """The camera asked for, or the only one there is.

    Args:
        where: What error messages call the data set.
        cameras: Those that it has.
        asked: The name of one of them; None if nobody chose.
        refused: Pictures that it has and that cannot be shown, see `Cameras`.

    Raises:
        SourceError: There is no such camera, or there are several and nobody chose; the message lists them.
    """
    if asked is None and len(cameras) == 1:
        return cameras[0]
    if asked is not None and asked in cameras:
        return asked
    refused = refused or {}
    if asked is not None and asked in refused:
        raise SourceError(f"{where}: {asked!r} cannot be shown: {refused[asked]}")
    given = "no camera was named" if asked is None else f"no camera is called {asked!r}"
    others = "; ".join(f"{name} cannot be shown: {why}" for name, why in list(refused.items())[:_LISTED])
    none = f"none: it holds no pictures in colour ({others})" if others else "none: it holds no pictures"
    raise SourceError(f"{where}: {given}; expected one of {', '.join(cameras) or none}")
