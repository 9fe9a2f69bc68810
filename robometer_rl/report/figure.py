"""Progress and success against the frames of an episode, drawn as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.report.canvas import LIGHT, Box, Canvas, Theme, shortened, text_width

__all__ = ["Curve", "Panel", "draw_curve", "draw_figure"]

_DENSITY: Final = 2
_MARGIN: Final = 20
_TITLE_HEIGHT: Final = 58
_PANEL_WIDTH: Final = 430
_PANEL_HEIGHT: Final = 330


@dataclass(frozen=True)
class Curve:
    """Values of one episode, each in [0, 1].

    Attributes:
        label: Name in the legend.
        x: (S,) numbers of the frames.
        y: (S,) values.
        color: Hexadecimal RGB.
    """

    label: str
    x: NDArray[Any]
    y: NDArray[Any]
    color: str


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: What the values are.
        curves: The episodes or quantities shown.
        threshold: Height of a dashed line, if any.
        mark: A frame to point out with a vertical line, if any.
        mark_label: What is said beside it.
    """

    title: str
    curves: Sequence[Curve]
    threshold: float | None = None
    mark: int | None = None
    mark_label: str = ""


def draw_figure(title: str, subtitle: str, panels: Sequence[Panel], theme: Theme = LIGHT) -> Image.Image:
    """Draws panels side by side under a title; one panel alone is twice as wide."""
    panel_width = _PANEL_WIDTH * (2 if len(panels) == 1 else 1)
    width = _MARGIN + len(panels) * (panel_width + _MARGIN)
    canvas = Canvas(width, _MARGIN + _TITLE_HEIGHT + _PANEL_HEIGHT, theme.background, _DENSITY)
    room = width - 2 * _MARGIN
    canvas.text((_MARGIN, 36), shortened(title, room, 19), theme.ink, size=19)
    canvas.text((_MARGIN, 58), shortened(subtitle, room, 12), theme.muted, size=12)
    for number, panel in enumerate(panels):
        left = _MARGIN + number * (panel_width + _MARGIN)
        top = _MARGIN + _TITLE_HEIGHT
        _draw_panel(canvas, Box(left, top, left + panel_width, top + _PANEL_HEIGHT), panel, theme)
    return canvas.finish()


def draw_curve(canvas: Canvas, box: Box, curve: Curve, last_x: float, width: float) -> None:
    """Draws a curve into ``box``, which spans the frames 0 .. ``last_x`` and the values 0 .. 1."""
    points = [box.at(x, y) for x, y in zip(curve.x / max(last_x, 1), np.clip(curve.y, 0.0, 1.0), strict=True)]
    if len(points) > 1:
        canvas.line(points, curve.color, width)
    else:
        canvas.dot(points[0], 1.5 * width, curve.color)


def _draw_panel(canvas: Canvas, box: Box, panel: Panel, theme: Theme) -> None:
    axes = Box(box.left + 34, box.top + 36, box.right - 6, box.bottom - 46)
    last_x = max(int(curve.x[-1]) for curve in panel.curves)
    canvas.text((axes.left, box.top + 22), panel.title, theme.ink, size=14)
    _draw_legend(canvas, axes.right, box.top + 22, panel.curves, theme)
    _draw_axes(canvas, axes, last_x, theme)
    if panel.threshold is not None:
        _, height = axes.at(0, panel.threshold)
        canvas.dashed((axes.left, height), (axes.right, height), theme.muted)
    if panel.mark is not None:
        foot, top = axes.at(panel.mark / max(last_x, 1), 0), axes.at(panel.mark / max(last_x, 1), 1)
        canvas.dashed(foot, top, theme.success, 1.2)
    for curve in panel.curves:
        draw_curve(canvas, axes, curve, last_x, width=2.2)
    _draw_labels(canvas, axes, panel, last_x, theme)


def _draw_axes(canvas: Canvas, axes: Box, last_x: int, theme: Theme) -> None:
    canvas.rectangle(axes, fill=theme.surface)
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        left, height = axes.at(0, value)
        canvas.line([(left, height), (axes.right, height)], theme.grid)
        canvas.text((axes.left - 7, height), f"{value:g}", theme.muted, size=11, anchor="rm")
    for value in ticks(last_x):
        x, bottom = axes.at(value / max(last_x, 1), 0)
        canvas.line([(x, bottom), (x, bottom + 4)], theme.muted)
        canvas.text((x, bottom + 8), str(value), theme.muted, size=11, anchor="mt")
    canvas.line([(axes.left, axes.bottom), (axes.right, axes.bottom)], theme.muted)
    canvas.text(((axes.left + axes.right) / 2, axes.bottom + 26), "frame", theme.muted, size=11.5, anchor="mt")


def _draw_legend(canvas: Canvas, right: float, baseline: float, curves: Sequence[Curve], theme: Theme) -> None:
    for curve in reversed(curves):
        left = right - text_width(curve.label, 11.5)
        canvas.text((left, baseline), curve.label, theme.ink, size=11.5)
        canvas.line([(left - 20, baseline - 4), (left - 7, baseline - 4)], curve.color, 2.6)
        right = left - 36


def _draw_labels(canvas: Canvas, axes: Box, panel: Panel, last_x: int, theme: Theme) -> None:
    """Names the dashed lines, on top of the curves."""
    if panel.threshold is not None:
        x, y = axes.at(0, panel.threshold)
        canvas.text((x + 6, y - 5), f"threshold {panel.threshold:.2f}", theme.muted, 10.5, halo=theme.surface)
    if panel.mark is not None:
        x, y = axes.at(panel.mark / max(last_x, 1), 0.07)
        # On the right, below the curves that have risen by then, unless there is no room.
        fits = x + 6 + text_width(panel.mark_label, 10.5) < axes.right
        place, anchor = (x + 6, "ls") if fits else (x - 6, "rs")
        canvas.text((place, y), panel.mark_label, theme.success, 10.5, anchor, halo=theme.surface)


def ticks(last: int, most: int = 9) -> list[int]:
    """Round numbers from 0 to at most ``last``: multiples of 1, 2 or 5 times a power of ten."""
    size = 1
    while True:
        for factor in (1, 2, 5):
            if last // (size * factor) < most:
                return list(range(0, last + 1, size * factor))
        size *= 10
