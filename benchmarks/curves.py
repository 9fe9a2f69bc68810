"""Learning curves as a picture: true success against experience, a panel per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from robometer_rl.report.figures import LIGHT, Key, Theme, dodge, fitted, house_style, panels, points, rendered

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Series", "draw_learning_curves"]


@dataclass(frozen=True)
class Series:
    """What was measured under one arm.

    Attributes:
        label: In the legend.
        curves: One per seed: (experience, success in [0, 1]).
        rings: Whether its points are marked, as measurements of somebody else or of different things.
        band: Lower and upper ends of an interval around the only curve, one per point.
    """

    label: str
    curves: Sequence[tuple[Sequence[float], Sequence[float]]]
    rings: bool = False
    band: tuple[Sequence[float], Sequence[float]] | None = None


def draw_learning_curves(
    title: str,
    subtitle: str,
    drawn: Mapping[str, Sequence[Series]],
    x_label: str,
    y_label: str = "true success",
    theme: Theme = LIGHT,
) -> Image.Image:
    """Draws a panel per task: thin lines are seeds, the thick one is their mean; rings mark what has few points."""
    columns = min(len(drawn), 3)
    rows = -(-len(drawn) // columns)
    all_series = {series.label: series for panel in drawn.values() for series in panel}
    colors = {label: theme.series[number % len(theme.series)] for number, label in enumerate(all_series)}
    legend = [Key(label, colors[label], series.rings) for label, series in all_series.items()]
    with house_style(theme):
        size = (390 if columns > 1 else 740, 280)  # a single panel leaves room for the title and the legend
        figure, places = panels(title, subtitle, rows, columns, size, theme, x_label, y_label, legend)
        for axes in places[len(drawn) :]:
            axes.remove()
        for axes, (name, panel) in zip(places, drawn.items(), strict=False):
            axes.set_title(fitted(name, axes.bbox.width / 2, 12.5))
            _draw_panel(axes, panel, colors)
        return rendered(figure)


def _draw_panel(axes: Axes, panel: Sequence[Series], colors: Mapping[str, str]) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

    last = max((max(x) for series in panel for x, _ in series.curves if len(x)), default=1.0)
    axes.set(xlim=(0, last), ylim=(-0.03, 1.03), yticks=(0.0, 0.25, 0.5, 0.75, 1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    for number, series in enumerate(panel):
        curves = [(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in series.curves if len(x)]
        if not curves:
            continue
        color, place = colors[series.label], dodge(axes, number, len(panel))
        if series.band is not None:
            axes.fill_between(curves[0][0], *series.band, color=color, alpha=0.18, linewidth=0, zorder=0)
        for x, y in curves if len(curves) > 1 else []:
            axes.plot(x, y, color=color, linewidth=points(0.8), alpha=0.55, transform=place, clip_on=False)
        common = min((x for x, _ in curves), key=len)
        mean = np.mean([np.interp(common, x, y) for x, y in curves], axis=0)
        mark = "o" if series.rings or len(common) == 1 else ""
        width = points(1.2 if series.rings else 2.6)
        axes.plot(common, mean, marker=mark, mfc="none", color=color, lw=width, transform=place, clip_on=False)
