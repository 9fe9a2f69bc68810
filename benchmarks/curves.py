"""Learning curves as a picture: true success against experience, a panel per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from robometer_rl.report.canvas import LIGHT, Box, Canvas, Theme, shortened, text_width

__all__ = ["Series", "draw_learning_curves"]

_WIDTH: Final = 380
_HEIGHT: Final = 280
_MARGIN: Final = 24
_HEAD: Final = 70
_LEGEND: Final = 20


@dataclass(frozen=True)
class Series:
    """What was measured under one arm.

    Attributes:
        label: In the legend.
        curves: One per seed: (experience, success in [0, 1]).
        dashed: Whether it is somebody else's measurement.
    """

    label: str
    curves: Sequence[tuple[Sequence[float], Sequence[float]]]
    dashed: bool = False


def draw_learning_curves(
    title: str, subtitle: str, panels: Mapping[str, Sequence[Series]], x_label: str, theme: Theme = LIGHT
) -> Image.Image:
    """Draws a panel per task: thin lines are seeds, the thick one is their mean, dashed lines are others' numbers."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    wide = _WIDTH if columns > 1 else 2 * _WIDTH  # a single panel leaves room for the title and the legend
    room = columns * (wide + _MARGIN) - _MARGIN
    labels = list(dict.fromkeys(series.label for panel in panels.values() for series in panel))
    colors = {label: theme.series[number % len(theme.series)] for number, label in enumerate(labels)}
    places = _legend_places(labels, room)
    head = _HEAD + _LEGEND * (1 + max(row for row, _ in places.values()))
    canvas = Canvas(room + 2 * _MARGIN, head + rows * (_HEIGHT + _MARGIN), theme.background, 2)
    canvas.text((_MARGIN, 30), shortened(title, room, 17), theme.ink, size=17)
    canvas.text((_MARGIN, 49), shortened(subtitle, room, 11.5), theme.muted, size=11.5)
    for label, (row, left) in places.items():
        height = _HEAD + row * _LEGEND
        canvas.line([(left, height), (left + 16, height)], colors[label], 2.8)
        canvas.text((left + 22, height + 4), label, theme.ink, size=12)
    for number, (name, panel) in enumerate(panels.items()):
        left = _MARGIN + (number % columns) * (wide + _MARGIN)
        top = head + (number // columns) * (_HEIGHT + _MARGIN)
        _panel(canvas, Box(left, top, left + wide, top + _HEIGHT), name, panel, colors, x_label, theme)
    return canvas.finish()


def _legend_places(labels: Sequence[str], room: float) -> dict[str, tuple[int, float]]:
    """Row and left edge of each label, begun anew where a row is full."""
    places: dict[str, tuple[int, float]] = {}
    row, left = 0, float(_MARGIN)
    for label in labels:
        width = text_width(label, 12) + 46
        if places and left + width - 24 > _MARGIN + room:
            row, left = row + 1, float(_MARGIN)
        places[label] = (row, left)
        left += width
    return places


def _panel(
    canvas: Canvas,
    box: Box,
    name: str,
    panel: Sequence[Series],
    colors: Mapping[str, str],
    x_label: str,
    theme: Theme,
) -> None:
    axes = Box(box.left + 34, box.top + 26, box.right - 8, box.bottom - 36)
    last = max((max(x) for series in panel for x, _ in series.curves if len(x)), default=1.0)
    canvas.text((axes.left, box.top + 16), shortened(name, axes.width, 13), theme.ink, size=13)
    canvas.rectangle(axes, fill=theme.surface)
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        left, height = axes.at(0, value)
        canvas.line([(left, height), (axes.right, height)], theme.grid)
        canvas.text((left - 6, height), f"{value:.0%}", theme.muted, size=10, anchor="rm")
    for part in (0.0, 0.5, 1.0):
        x, bottom = axes.at(part, 0)
        canvas.text((x, bottom + 6), f"{part * last:,.0f}", theme.muted, size=10, anchor="mt")
    canvas.text(((axes.left + axes.right) / 2, axes.bottom + 20), x_label, theme.muted, size=10.5, anchor="mt")
    for series in panel:
        _series(canvas, axes, series, last, colors[series.label])


def _series(canvas: Canvas, axes: Box, series: Series, last: float, color: str) -> None:
    curves = [(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in series.curves if len(x)]
    if not curves:
        return
    if len(curves) > 1:
        for x, y in curves:
            _line(canvas, axes, x / last, y, color, 0.8)
    common = min((x for x, _ in curves), key=len)
    mean = np.mean([np.interp(common, x, y) for x, y in curves], axis=0)
    if series.dashed:
        for x, y in zip(common / last, mean, strict=True):
            canvas.ring(axes.at(float(x), float(y)), 3.5, color)
    _line(canvas, axes, common / last, mean, color, 1.2 if series.dashed else 2.6)


def _line(canvas: Canvas, axes: Box, x: np.ndarray, y: np.ndarray, color: str, width: float) -> None:
    points = [axes.at(float(a), float(b)) for a, b in zip(x, np.clip(y, 0, 1), strict=True)]
    if len(points) > 1:
        canvas.line(points, color, width)
    else:
        canvas.dot(points[0], 2 * width, color)
