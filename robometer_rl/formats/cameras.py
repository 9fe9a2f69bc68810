"""Which of several cameras is read."""

from __future__ import annotations

from collections.abc import Sequence

from robometer_rl.data.reading import SourceError

__all__ = ["choose_camera"]


def choose_camera(where: object, cameras: Sequence[str], asked: str | None) -> str:
    """The camera asked for, or the only one there is.

    Args:
        where: What error messages call the data set.
        cameras: Those that it has.
        asked: The name of one of them; None if nobody chose.

    Raises:
        SourceError: There is no such camera, or there are several and nobody chose; the message lists them.
    """
    if asked is None and len(cameras) == 1:
        return cameras[0]
    if asked is not None and asked in cameras:
        return asked
    given = "no camera was named" if asked is None else f"no camera is called {asked!r}"
    raise SourceError(f"{where}: {given}; expected one of {', '.join(cameras) or 'none: it holds no pictures'}")
