"""How values are distributed, drawn as bars."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.report.canvas import LIGHT, Box, Canvas, Theme, shortened, text_width

__all__ = ["draw_histogram"]

_WIDTH, _HEIGHT, _MARGIN = 620, 260, 20
_BINS = 40


def draw_histogram(title: str, values: Mapping[str, NDArray[np.floating]], theme: Theme = LIGHT) -> Image.Image:
    """Draws the distributions of several quantities over the same bins.

    Args:
        title: What the values are.
        values: (N,) finite values by name, at least one of each.
        theme: Colours.
    """
    low = min(float(array.min()) for array in values.values())
    high = max(float(array.max()) for array in values.values())
    edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
    canvas = Canvas(_WIDTH, _HEIGHT, theme.background, density=2)
    canvas.text((_MARGIN, 32), shortened(title, _WIDTH / 2, 15), theme.ink, size=15)
    axes = Box(_MARGIN, 50, _WIDTH - _MARGIN, _HEIGHT - 34)
    canvas.rectangle(axes, fill=theme.surface)
    right = axes.right
    for (name, array), color in reversed(list(zip(values.items(), theme.series, strict=False))):
        # The share of each name's own values, so that few can be compared with many; the tallest bar fills the axes.
        counts = np.histogram(array, edges)[0]
        _draw_outline(canvas, axes, counts / counts.max(), color)
        left = right - text_width(name, 11.5)
        canvas.text((left, 32), name, theme.ink, size=11.5)
        canvas.line([(left - 20, 28), (left - 7, 28)], color, 2.6)
        right = left - 36
    canvas.line([(axes.left, axes.bottom), (axes.right, axes.bottom)], theme.muted)
    for share, anchor in ((0.0, "lt"), (0.5, "mt"), (1.0, "rt")):
        x, bottom = axes.at(share, 0.0)
        value = edges[0] + share * (edges[-1] - edges[0])
        canvas.text((x, bottom + 8), f"{value:.3g}", theme.muted, size=11, anchor=anchor)
    return canvas.finish()


def _draw_outline(canvas: Canvas, axes: Box, heights: NDArray[np.floating], color: str) -> None:
    corners = [axes.at(0.0, 0.0)]
    for index, height in enumerate(heights.tolist()):
        corners += [axes.at(index / len(heights), height), axes.at((index + 1) / len(heights), height)]
    canvas.line([*corners, axes.at(1.0, 0.0)], color, 1.8)
