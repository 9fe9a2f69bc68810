"""Which of the rules for what a frame is trained to say apply, and the reference's table of when tasks are done."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from robometer_rl.documents import DocumentError, read_text

__all__ = ["CutoffError", "TargetConfig", "TargetRule", "published_cutoffs", "read_cutoffs"]

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
