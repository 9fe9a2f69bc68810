"""What a frame is trained to say: by which rule, progress, its two-hot bins, success, and which frames count.

Recordings without a simulator have only time and a quality label; the three target modes of the published datasets turn
these into a ramp. What a simulator knows beyond that is in `robometer_rl.data.labels`.

``legacy=True`` reproduces the reference's numbers, defects included; without it the corrections named in each docstring
apply.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robometer_rl.documents import DocumentError, read_text

__all__ = [
    "FAILING_QUALITIES",
    "CutoffError",
    "ProgressMode",
    "TargetConfig",
    "TargetRule",
    "last_frame_mask",
    "progress_targets",
    "published_cutoffs",
    "read_cutoffs",
    "success_cutoff",
    "success_labels",
    "success_mask",
    "supervises_progress",
    "two_hot",
]

_COLUMNS = ["data_source", "fraction"]


class CutoffError(ValueError):
    """A table of cutoffs that cannot be read; the message names the line."""


@cache
def published_cutoffs() -> Mapping[str, float]:
    """The table that the published model was trained with (docs/reference.md §4.2)."""
    return _parse((files("robometer_rl") / "assets" / "success_cutoffs.csv").read_text(), "success_cutoffs.csv")


def read_cutoffs(path: Path) -> Mapping[str, float]:
    """Reads a table of one's own: a CSV file with the columns ``data_source`` and ``fraction``.

    Raises:
        CutoffError: No such file, another heading, a fraction outside (0, 1], or a data source that is listed twice.
    """
    try:
        text = read_text(path)
    except (OSError, DocumentError) as error:
        raise CutoffError(f"the success cutoffs {path} cannot be read: {error}") from error
    return _parse(text, str(path))


def _parse(text: str, name: str) -> Mapping[str, float]:
    rows = csv.reader(text.splitlines(), skipinitialspace=True)
    heading = [column.strip() for column in next(rows, [])]
    if heading != _COLUMNS:
        raise CutoffError(f"{name} begins with {','.join(heading)!r}; expected {','.join(_COLUMNS)!r}")
    cutoffs: dict[str, float] = {}
    for row in rows:
        if not row:
            continue
        fraction = _fraction(row)
        if fraction is None or row[0].strip() in cutoffs:
            raise CutoffError(
                f"line {rows.line_num} of {name} is {','.join(row)!r}; expected a data source that is not listed "
                "before, a comma, and a fraction above 0 and at most 1"
            )
        cutoffs[row[0].strip()] = fraction
    return cutoffs


def _fraction(row: list[str]) -> float | None:
    try:
        _, fraction = row
        value = float(fraction)
    except ValueError:
        return None
    return value if 0.0 < value <= 1.0 else None


TargetRule = Literal["recorded", "absolute_first_frame", "absolute_wrt_total_frames"]


@dataclass(frozen=True)
class TargetConfig:
    """Where progress and success of a frame come from.

    Attributes:
        rule: ``recorded``: what was judged in each frame and what simulator states are worth, and time only where a
            recording has neither (`robometer_rl.data.labels`). The others are the reference's, which go by time and
            outcome whatever else was recorded (`robometer_rl.training.clip_targets`): progress counted from the first
            frame of a clip, as the published model was trained, or from that of the recording. Its third,
            ``relative_first_frame``, has targets below 0, which no head of a Robometer can say.
        reaching: The most that an expert's episode is worth before it moves the object, where simulator states say when
            that is; 1 makes all of them linear in time. An agent that is paid by progress goes where it is paid.
        cutoffs: CSV file with the columns ``data_source`` and ``fraction``: after which fraction of a recording that
            goes by time its task is done; the whole of it for other sources. The published table if None.
        preference_only: Data sources of which only the order of trajectories is learned, and no progress.
        legacy: With the reference's rules, keep their defects; `robometer_rl.data.targets` names them.
    """

    rule: TargetRule = "recorded"
    reaching: float = 0.25
    cutoffs: Path | None = None
    preference_only: tuple[str, ...] = ()
    legacy: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.reaching <= 1.0:
            raise ValueError(f"reaching is the progress of having reached the object, in (0, 1]; got {self.reaching}")
        if self.legacy and self.rule == "recorded":
            raise ValueError(
                "legacy targets are those of the reference's rules; set the rule to absolute_first_frame or "
                "absolute_wrt_total_frames"
            )

    def table(self) -> Mapping[str, float]:
        """Fractions by data source.

        Raises:
            CutoffError: The file cannot be read.
        """
        return published_cutoffs() if self.cutoffs is None else read_cutoffs(self.cutoffs)


ProgressMode = Literal["absolute_first_frame", "absolute_wrt_total_frames", "relative_first_frame"]

Floats = NDArray[np.float64]

FAILING_QUALITIES = frozenset({"failure", "failed", "suboptimal"})
"""Quality labels, in lower case, of trajectories that never count as success."""

_WHOLE = 1e-6
"""A partial success this close to 1 is an ordinary success."""


def progress_targets(
    indices: Sequence[int] | NDArray[np.integer[Any]],
    num_frames: int,
    mode: ProgressMode = "absolute_first_frame",
    cutoff: float | None = None,
    partial_success: float | None = None,
    legacy: bool = False,
) -> Floats:
    """Progress of the chosen frames of a successful recording, from time alone (docs/reference.md §5.2).

    Args:
        indices: (T,) positions in the recording, in the order in which they are shown; not necessarily increasing.
        num_frames: N, the length of the recording.
        mode: ``absolute_first_frame`` measures from the earliest frame shown, ``absolute_wrt_total_frames`` from the
            start of the recording, ``relative_first_frame`` gives the differences of the first.
        cutoff: Fraction of the recording at which its task is done; None if that is not known.
        partial_success: Graded outcome in [0, 1]. Unless it is 1, only the recording's last frame has a known
            progress (see `last_frame_mask`), this one in every mode; the other targets are 0.
        legacy: As the reference: a clip that starts after the cutoff has progress 0 in its first frame; a partial
            success is ignored if the last frame is not shown, and only its first copy gets it.

    Returns:
        (T,) float64; in [0, 1] except for ``relative_first_frame``.

    Raises:
        ValueError: An index outside the recording, or a cutoff or partial success outside [0, 1].
    """
    path = np.asarray(indices, dtype=np.int64)
    if path.size and (path.min() < 0 or path.max() >= num_frames):
        raise ValueError(f"got frame indices {path.tolist()} of a recording of {num_frames} frames")
    _require_fraction("cutoff", cutoff)
    _require_fraction("partial_success", partial_success)
    if not path.size:
        return np.zeros(0)
    if partial_success is not None and abs(partial_success - 1.0) > _WHOLE:
        shown = path == num_frames - 1
        if legacy and shown.any():
            shown = np.arange(len(path)) == np.argmax(shown)
        if not legacy or shown.any():
            return np.where(shown, partial_success, 0.0)
    if mode == "absolute_wrt_total_frames":
        return _fraction_of_recording(path, num_frames, cutoff)
    return _differences(_from_first_frame(path, num_frames, cutoff, legacy), mode)


def _from_first_frame(path: NDArray[np.int64], num_frames: int, cutoff: float | None, legacy: bool) -> Floats:
    start = int(path.min())
    if not cutoff:
        return (path - start) / max(1, num_frames - start - 1)
    done = int(cutoff * num_frames)
    if not legacy:
        # Without this a clip that begins with the task already done would be trained to say 0 in its first frame.
        start = min(start, max(0, done - 2))
    return np.minimum(1.0, (path - start) / max(1, done - start - 1))


def _fraction_of_recording(path: NDArray[np.int64], num_frames: int, cutoff: float | None) -> Floats:
    fraction = (path + 1) / num_frames
    return np.where(path >= int(cutoff * num_frames), 1.0, fraction) if cutoff else fraction


def _differences(progress: Floats, mode: ProgressMode) -> Floats:
    return np.diff(progress, prepend=progress[:1]) if mode == "relative_first_frame" else progress


def two_hot(values: ArrayLike, bins: int) -> NDArray[np.float32]:
    """Splits each value between the two nearest of ``bins`` equally spaced support points (docs/reference.md §5.3).

    The expectation of the result over ``linspace(0, 1, bins)`` is the value.

    Args:
        values: (...) in [0, 1].
        bins: Number of support points, at least 2.

    Returns:
        (..., bins) float32; every row sums to 1.

    Raises:
        ValueError: A value outside [0, 1] or NaN (a relative target, say: those have no bins).
    """
    points = np.asarray(values, dtype=np.float64)
    if bins < 2:
        raise ValueError(f"two-hot targets need at least 2 bins, got {bins}")
    if points.size and not (points.min() >= 0.0 and points.max() <= 1.0):
        raise ValueError(f"two-hot targets need values in [0, 1], got {points.min():g} to {points.max():g}")
    position = points * (bins - 1)
    lower = np.floor(position).astype(np.int64)
    share = (position - lower).astype(np.float32)
    upper = np.minimum(lower + 1, bins - 1)
    target = np.zeros((*points.shape, bins), np.float32)
    np.put_along_axis(target, upper[..., None], share[..., None], axis=-1)
    # On a support point the share is 0 and, at the last one, both indices agree: the lower one is written last.
    np.put_along_axis(target, lower[..., None], 1.0 - share[..., None], axis=-1)
    return target


def success_cutoff(
    data_source: str | None, table: Mapping[str, float] | None = None, max_success: float = 1.0
) -> float:
    """Progress from which a frame of this source counts as success: its entry in ``table``, else ``max_success``."""
    return table.get(data_source, max_success) if table and data_source is not None else max_success


def success_labels(progress: ArrayLike, quality_label: str | None, cutoff: float = 1.0) -> NDArray[np.float32]:
    """Success of frames that have only progress and a quality label (docs/reference.md §5.5).

    Args:
        progress: (T,) targets before binning.
        quality_label: As recorded, in any case; one of `FAILING_QUALITIES` makes every label 0.
        cutoff: See `success_cutoff`.

    Returns:
        (T,) float32, 0 or 1.
    """
    values = np.asarray(progress, dtype=np.float64)
    if _fails(quality_label):
        return np.zeros(values.shape, np.float32)
    return (values >= cutoff).astype(np.float32)


def success_mask(
    progress: ArrayLike, labels: ArrayLike, quality_label: str | None, min_success: float = 0.5
) -> NDArray[np.bool_]:
    """Frames that the success loss uses when success is only known through progress (docs/reference.md §5.7).

    Between ``min_success`` and the cutoff a demonstration may or may not look done, so these frames are left out.

    Returns:
        (T,) bool.
    """
    values = np.asarray(progress, dtype=np.float64)
    if _fails(quality_label):
        return np.ones(values.shape, bool)
    return (values < min_success) | (np.asarray(labels) == 1)


def last_frame_mask(
    indices: Sequence[int] | NDArray[np.integer[Any]],
    num_frames: int,
    partial_success: float | None,
) -> NDArray[np.bool_]:
    """Frames whose progress is known: all of them, or with a partial success those that show the last frame.

    Args:
        indices: (T,) positions in the recording.
        num_frames: Length of the recording.
        partial_success: As in `progress_targets`.

    Returns:
        (T,) bool.
    """
    path = np.asarray(indices, dtype=np.int64)
    if partial_success is None or abs(partial_success - 1.0) <= _WHOLE:
        return np.ones(len(path), bool)
    return path == num_frames - 1


def supervises_progress(
    quality_label: str | None,
    strategy: str | None = None,
    data_source: str = "",
    partial_success: float | None = None,
    preference_only: frozenset[str] = frozenset(),
) -> bool:
    """Whether the progress targets of a recording without a simulator may be trusted (docs/reference.md §5.7).

    A failure without a graded outcome says nothing about how far it got.

    Args:
        quality_label: As recorded.
        strategy: How the clip was made; a rewound clip has a known course whatever its recording.
        data_source: Tag of the recording's source.
        partial_success: Graded outcome, which RoboReward recordings have and which makes them usable.
        preference_only: Sources of which only the order of trajectories is used.
    """
    if data_source in preference_only:
        return False
    if partial_success is not None and "roboreward" in data_source:
        return True
    if _fails(quality_label):
        return False
    return quality_label == "successful" or strategy == "rewind"


def _fails(quality_label: str | None) -> bool:
    return quality_label is not None and quality_label.lower() in FAILING_QUALITIES


def _require_fraction(name: str, value: float | None) -> None:
    if value is not None and not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")
