"""What data sets leave open: which arrays are pictures, which cameras are read, and how the pictures hang."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from robometer_rl.data.reading import SourceError, Unreadable, attempt
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.extras import require
from robometer_rl.frames import FrameError, rgb_shape
from robometer_rl.video.lazy import Orientation

__all__ = [
    "Assumptions",
    "Cameras",
    "Shown",
    "attempt_views",
    "cameras_among",
    "choose_camera",
    "choose_cameras",
    "one_or_several",
    "views_of",
]

logger = logging.getLogger(__name__)

_SMALLEST: Final = 8  # pixels of a grey picture's side; smaller ones are matrices
_LISTED: Final = 5
_SHOWN: Final[Mapping[Orientation, str]] = {
    "as_stored": "as they are stored",
    "flip": "with their rows in the other order",
    "rotate": "turned by 180 degrees",
}


Shown = tuple[str, ...]
"""The cameras that a trajectory shows: one, or several in one tiled picture with the first on top."""


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

    Examples:
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


def choose_cameras(
    where: object, cameras: tuple[str, ...], asked: tuple[str, ...], refused: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """The cameras asked for, each once, or the only one there is; raises `SourceError` like `choose_camera`."""
    return tuple(dict.fromkeys(choose_camera(where, cameras, name, refused) for name in asked or (None,)))


def one_or_several(options: object, *names: str) -> None:
    """Lets what is several names be given as one, in Python: ``camera="top"`` stands for ``("top",)``, None for none.

    Args:
        options: Of a reader; its attributes are set.
        names: Which of its attributes.
    """
    for name in names:
        given = getattr(options, name)
        object.__setattr__(options, name, () if given is None else (given,) if isinstance(given, str) else tuple(given))


def views_of(where: object, cameras: tuple[str, ...], tile: bool) -> tuple[Shown, ...]:
    """What the trajectories of an episode show: each camera has one of its own, unless all of them are tiled.

    Args:
        where: What error messages call the data set.
        cameras: Those that were chosen, in order; one that is named twice is shown once.
        tile: Whether they are shown in one picture.

    Raises:
        SourceError: One camera is to be tiled.
        ImportError: The extra ``tiles`` is not installed, and it is asked for.

    Examples:
        >>> views_of("kitchen", ("top", "wrist"), tile=False)
        (('top',), ('wrist',))
    """
    cameras = tuple(dict.fromkeys(cameras))
    if not tile:
        return tuple((camera,) for camera in cameras)
    require("cv2", "tiles")
    if len(cameras) < 2:
        raise SourceError(
            f"{where}: a tiled picture needs several cameras, got {', '.join(cameras)}; name them in order, the one on "
            "top first"
        )
    return (cameras,)


def attempt_views(
    name: str, views: Sequence[Shown], read: Callable[[Shown], Trajectory]
) -> Iterator[Trajectory | Unreadable]:
    """An episode as often as it is shown; see `robometer_rl.data.reading.attempt`.

    Args:
        name: Of the episode.
        views: Of `views_of`.
        read: Reads the episode as these cameras show it.
    """
    for shown in views:
        yield attempt(name if len(views) == 1 else f"{name}, {', '.join(shown)}", partial(read, shown))


class Assumptions:
    """Says each assumption about a data set once, in one line of the log.

    Attributes:
        where: What the lines call the data set.
    """

    def __init__(self, where: object) -> None:
        self.where = where
        self._said: set[str] = set()

    def say(self, text: str) -> None:
        """Logs ``text``, unless it was logged before."""
        if text not in self._said:
            self._said.add(text)
            logger.info("%s: %s", self.where, text)

    def orientation(
        self,
        stated: Orientation | None,
        found: Orientation = "as_stored",
        why: str = "the data do not say how they hang",
    ) -> Orientation:
        """How pictures are shown: as the user states it, or else as ``found``, which is said.

        Args:
            stated: What the user says.
            found: What the data set says, or what is customary in its format.
            why: Where that is known from, or that it is not.
        """
        if stated is not None:
            return stated
        self.say(f"pictures are shown {_SHOWN[found]} ({why}); --orientation says otherwise")
        return found
