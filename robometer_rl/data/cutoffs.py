"""Success cutoffs: after which fraction of a recording its task is done, by data source.

Demonstrations of people end with a pause or with the way back, so that time alone says too little: a robot that has
just put the cup down has not 90 % of its task behind it but all.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

__all__ = ["CutoffError", "published_cutoffs", "read_cutoffs"]

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
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
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
