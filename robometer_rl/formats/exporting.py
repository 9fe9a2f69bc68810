"""What exports of all formats do alike: which trajectories of a store are meant, their frames, and their frame rate."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.store import StoreError, TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.frames import as_frames

__all__ = ["Fields", "chosen", "common_rate", "common_shape", "images", "stated_rate", "success_of"]

logger = logging.getLogger(__name__)

_WINDOW: Final = 64  # frames that are read at once


def chosen(
    path: Path, split: Sequence[str] = (), data_sources: Sequence[str] = ()
) -> tuple[TrajectoryStore, dict[str, str]]:
    """A store, and those of its trajectories that are to be exported: their splits by their ids, in order of ids.

    Args:
        path: Directory of the store.
        split: Only of these splits; of all if none is named.
        data_sources: Only of these data sources; of all if none is named.

    Raises:
        StoreError: There is no store, or none of its trajectories is wanted.
    """
    store = TrajectoryStore.open(path)
    columns = store.columns("split", "data_source")
    held = list(zip(columns["id"], columns["split"], columns["data_source"], strict=True))
    wanted = {
        name: own
        for name, own, source in held
        if (not split or own in split) and (not data_sources or source in data_sources)
    }
    if not wanted:
        names = {"splits": split, "data sources": data_sources}
        asked = " and ".join(f"the {kind} {', '.join(given)}" for kind, given in names.items() if given)
        found = sorted({(own, source) for _, own, source in held})
        raise StoreError(
            f"{path} has no trajectories{f' of {asked}' if asked else ''}; it has (split, data source): {found}"
        )
    return store, wanted


class Fields:
    """Which fields with a value per frame all trajectories of an export have, in one shape.

    Args:
        names: The fields that are asked for.
    """

    def __init__(self, *names: str) -> None:
        self._names = names
        self._count = 0
        self._shapes: Counter[tuple[str, tuple[int, ...]]] = Counter()

    def add(self, trajectory: Trajectory) -> None:
        """Looks at one of the trajectories."""
        self._count += 1
        arrays = ((name, getattr(trajectory, name)) for name in self._names)
        self._shapes.update((name, values.shape[1:]) for name, values in arrays if values is not None)

    def common(self) -> dict[str, tuple[int, ...]]:
        """The shape that each has in a frame, in the order asked for; the log says what is left out."""
        found = {name: shape for (name, shape), count in self._shapes.items() if count == self._count}
        if left := sorted({name for name, _ in self._shapes} - set(found)):
            logger.warning("%s: left out, since not all trajectories have them in one shape", ", ".join(left))
        return {name: found[name] for name in self._names if name in found}


def images(trajectory: Trajectory) -> Iterator[NDArray[np.uint8]]:
    """The frames of a trajectory one after the other, (H, W, 3) each, a few of which are in memory."""
    frames = trajectory.frames
    for start in range(0, len(frames), _WINDOW):
        yield from as_frames(frames[start : start + _WINDOW])


def success_of(trajectory: Trajectory) -> NDArray[np.bool_]:
    """(T,) whether the task is done in each frame; where nobody judged, a ``successful`` run is done in its last."""
    if trajectory.success is not None:
        return trajectory.success
    success = np.zeros(len(trajectory), np.bool_)
    success[-1] = trajectory.quality_label == "successful"
    return success


def stated_rate(metadata: Mapping[str, Any]) -> float | None:
    """Frames per second that the metadata of a trajectory state, or that follow from its control rate.

    Examples:
        >>> stated_rate({"control_hz": 20, "frame_interval": 4})
        5.0
    """
    rate, control, interval = (_positive(metadata.get(name)) for name in ("fps", "control_hz", "frame_interval"))
    return rate or (control / interval if control and interval else None)


def common_rate(rates: Counter[float | None], given: int | None) -> int:
    """The one frame rate of a format that has one for all episodes.

    Args:
        rates: How many trajectories state each rate, see `stated_rate`.
        given: What the user says, who has the last word.

    Raises:
        ValueError: Nobody says, or several rates are stated, or one that is no whole number; the message lists them.
    """
    if given is not None:
        return given
    (rate,) = rates if len(rates) == 1 else (None,)
    if rate is None or rate != round(rate):
        found = ", ".join(f"{count} of {'unknown' if each is None else f'{each:g}'}" for each, count in rates.items())
        raise ValueError(
            f"the format has one whole number of frames per second, and the trajectories state: {found}. Give --fps, "
            "at which all of them are then shown"
        )
    return round(rate)


def common_shape(sizes: Counter[tuple[int, int]]) -> tuple[int, int]:
    """Height and width of the frames in a format that has one size for all episodes.

    Args:
        sizes: How many trajectories have each height and width.

    Raises:
        ValueError: They differ; the message lists the sizes.
    """
    if len(sizes) > 1:
        found = ", ".join(f"{count} of {height} x {width}" for (height, width), count in sizes.most_common())
        raise ValueError(
            f"the format has frames of one size, and the trajectories have: {found} (height x width). Export those of "
            "one size, chosen by --data-sources or --split"
        )
    ((height, width),) = sizes
    return height, width


def _positive(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value < math.inf else None
