"""Figures by matplotlib, which is imported when one is drawn: the house style, curves of an episode, distributions.

Sizes and places are in units of a hundredth of an inch, two pixels, counted from the upper left. What is drawn comes
back as a Pillow image, so that every picture is written in one way (`save_picture`).
"""

from __future__ import annotations

import io
import math
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.files import write_bytes
from robometer_rl.report.markup import single_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

__all__ = [
    "DARK",
    "LIGHT",
    "MARGIN",
    "Curve",
    "Key",
    "Panel",
    "Theme",
    "dodge",
    "draw_figure",
    "draw_histogram",
    "fitted",
    "house_style",
    "name_lines",
    "new_figure",
    "panels",
    "place_axes",
    "points",
    "rendered",
    "save_picture",
    "shortened",
    "text_width",
    "write_line",
]

MARGIN: Final = 24
_UNITS: Final = 100  # per inch
_DENSITY: Final = 2  # pixels per unit
_TITLE, _SUBTITLE, _PANEL_TITLE, _NAME, _LABEL = 16.0, 11.0, 12.5, 11.0, 10.0  # sizes of the letters
_PAD_LEFT, _PAD_TOP, _PAD_RIGHT, _PAD_BOTTOM = 34, 34, 8, 40  # around the axes of a panel
_PAD_UNTITLED: Final = 10
_Y_LABEL: Final = 20
_LEGEND_ROW: Final = 20
_LOW, _HIGH = -0.03, 1.03  # a curve at 0 or 1 keeps its width inside the axes
_BINS: Final = 40
_LINE: Final = 2.2  # width of a curve
# No picture has room for more, and a task may be a page of text.
_MOST_LETTERS: Final = 1000


@dataclass(frozen=True)
class Theme:
    """Colours of a picture, as hexadecimal RGB.

    Attributes:
        background: Around the panels.
        surface: Inside a panel.
        ink: Titles and values.
        muted: Labels.
        grid: Grid lines and frames.
        progress: The progress curve and bar.
        success: The success probability.
        series: Colours that tell several episodes apart, safe for colour-blind readers.
    """

    background: str
    surface: str
    ink: str
    muted: str
    grid: str
    progress: str
    success: str
    series: tuple[str, ...]


LIGHT: Final = Theme(
    background="#ffffff",
    surface="#f8fafc",
    ink="#0f172a",
    muted="#64748b",
    grid="#e2e8f0",
    progress="#2563eb",
    success="#059669",
    series=("#0284c7", "#d97706", "#be185d", "#4d7c0f", "#6d28d9", "#334155"),
)
DARK: Final = Theme(
    background="#0f172a",
    surface="#17213a",
    ink="#f1f5f9",
    muted="#94a3b8",
    grid="#2b3852",
    progress="#60a5fa",
    success="#34d399",
    series=("#38bdf8", "#fbbf24", "#f472b6", "#a3e635", "#c4b5fd", "#cbd5e1"),
)


@dataclass(frozen=True)
class Key:
    """A line of a legend.

    Attributes:
        label: What the line is.
        color: Hexadecimal RGB.
        ring: Whether its points are marked by rings.
    """

    label: str
    color: str
    ring: bool = False


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
        done: First and last frame of each time that the task truly is done, which get a bar along the upper edge.
    """

    title: str
    curves: Sequence[Curve]
    threshold: float | None = None
    mark: int | None = None
    mark_label: str = ""
    done: Sequence[tuple[int, int]] = ()


def draw_figure(title: str, subtitle: str, drawn: Sequence[Panel], theme: Theme = LIGHT) -> Image.Image:
    """Draws progress and success against the frames of an episode: panels side by side; one alone is twice as wide."""
    with house_style(theme):
        size = (430 * (2 if len(drawn) == 1 else 1), 320)
        figure, places = panels(title, subtitle, 1, len(drawn), size, theme, "frame")
        for axes, panel in zip(places, drawn, strict=True):
            _draw_panel(axes, panel, theme)
        return rendered(figure)


def _draw_panel(axes: Axes, panel: Panel, theme: Theme) -> None:
    from matplotlib.ticker import MaxNLocator

    last = max(1, *(int(curve.x[-1]) for curve in panel.curves))
    axes.set(xlim=(0, last), ylim=(_LOW, _HIGH), yticks=(0.0, 0.25, 0.5, 0.75, 1.0))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_locator(MaxNLocator(9, integer=True, steps=[1, 2, 5, 10]))
    axes.set_title(fitted(panel.title, 200, _PANEL_TITLE))
    name_lines(axes, [Key(curve.label, curve.color) for curve in panel.curves])
    step = _LINE * (_HIGH - _LOW) / (axes.bbox.height / _DENSITY)
    for curve, values in zip(panel.curves, _apart(panel.curves, step), strict=True):
        axes.plot(curve.x, values, marker="o" if len(values) == 1 else "", color=curve.color, clip_on=False)
    if panel.threshold is not None:
        axes.axhline(panel.threshold, color=theme.muted, linewidth=points(1), dashes=(4, 4), zorder=1.5)
        offset = (6, 4 if panel.threshold < 0.9 else -12)  # below one that has no room above
        _note(axes, offset, (0, panel.threshold), f"threshold {panel.threshold:.2f}", theme.muted, theme)
    if panel.mark is not None:
        axes.axvline(panel.mark, color=theme.success, linewidth=points(1.2), dashes=(4, 4), zorder=1.5)
        # On the right, below the curves that have risen by then, unless there is no room.
        room = (1 - panel.mark / last) * axes.bbox.width / _DENSITY
        left = text_width(panel.mark_label, _LABEL) + 8 > room
        place = ((-6 if left else 6), 0)
        _note(axes, place, (panel.mark, 0.07), panel.mark_label, theme.success, theme, "right" if left else "left")
    if panel.done:
        _draw_truth(axes, panel.done, last, theme)


def _draw_truth(axes: Axes, done: Sequence[tuple[int, int]], last: int, theme: Theme) -> None:
    """A bar over the frames in which the task truly is done, above all curves."""
    bars = [(first - 0.5, end - first + 1.0) for first, end in done]
    axes.broken_barh(bars, (0.982, 0.018), transform=axes.get_xaxis_transform(), color=theme.ink, zorder=4)
    start = done[0][0]
    label = f"true success from frame {start}"
    # Before the bar, at its height, unless there is no room.
    before = text_width(label, _LABEL) + 8 < start / last * axes.bbox.width / _DENSITY
    place = (-6, -7) if before else (4, -18)
    _note(axes, place, (start - 0.5, _HIGH), label, theme.ink, theme, "right" if before else "left")


def _apart(curves: Sequence[Curve], step: float) -> list[NDArray[np.float64]]:
    """Values to draw: as they are, but a line's width above an earlier curve that they would hide."""
    drawn: list[NDArray[np.float64]] = []
    for curve in curves:
        values = np.clip(np.asarray(curve.y, np.float64), 0, 1)
        for other, above in zip(curves, list(drawn), strict=False):
            there = np.interp(curve.x, other.x, above)
            values = np.where(np.abs(values - there) < step, there + step, values)
        drawn.append(values)
    return drawn


def _note(
    axes: Axes,
    offset: tuple[float, float],
    at: tuple[float, float],
    text: str,
    color: str,
    theme: Theme,
    align: str = "left",
) -> None:
    """A few words beside a point, legible on top of curves."""
    from matplotlib.patheffects import withStroke

    axes.annotate(
        single_line(text),
        at,
        (points(offset[0]), points(offset[1])),
        textcoords="offset points",
        color=color,
        fontsize=points(_LABEL),
        ha=align,
        path_effects=[withStroke(linewidth=points(4), foreground=theme.surface)],
        zorder=4,
    )


def draw_histogram(
    title: str,
    values: Mapping[str, NDArray[np.floating]],
    x_label: str = "value",
    y_label: str = "share of values",
    span: tuple[float, float] | None = None,
    theme: Theme = LIGHT,
) -> Image.Image:
    """Draws the distributions of several quantities over the same bins, each as shares of its own values.

    Args:
        title: What the values are.
        values: (N,) finite values by name, at least one of each.
        x_label: What is counted.
        y_label: What the shares are of.
        span: What the bins cover, which has all values in it; from the lowest to the highest value if None.
        theme: Colours.
    """
    from matplotlib.ticker import MaxNLocator

    low, high = span or (
        min(float(array.min()) for array in values.values()),
        max(float(array.max()) for array in values.values()),
    )
    edges = np.linspace(low, high, _BINS + 1) if high > low else np.linspace(low - 0.5, low + 0.5, _BINS + 1)
    colors = dict(zip(values, theme.series, strict=False))
    with house_style(theme):
        keys = [Key(name, color) for name, color in colors.items()] if len(values) > 1 else []
        figure, (axes,) = panels(title, "", 1, 1, (432, 232), theme, x_label, y_label, keys, titled=False)
        for name, color in colors.items():
            shares = np.histogram(values[name], edges)[0] / len(values[name])
            # Empty bins are left open: there, one line would hide the other.
            shares = np.where(shares > 0, shares, np.nan)
            axes.stairs(shares, edges, fill=True, color=color, alpha=0.16)
            axes.stairs(shares, edges, color=color, linewidth=points(1.6), clip_on=False)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, None))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
        axes.xaxis.set_major_formatter("{x:g}")
        return rendered(figure)


def panels(
    title: str,
    subtitle: str,
    rows: int,
    columns: int,
    size: tuple[float, float],
    theme: Theme,
    x_label: str = "",
    y_label: str = "",
    legend: Sequence[Key] = (),
    titled: bool = True,
) -> tuple[Figure, list[Axes]]:
    """A figure of panels under a title; to be called, filled and `rendered` within `house_style`.

    Args:
        title: First line, shortened to the width.
        subtitle: Below it, on as many lines as it needs.
        rows: Of panels.
        columns: Of panels.
        size: Width and height of a panel with its labels.
        theme: Colours.
        x_label: Below each panel.
        y_label: Beside each panel.
        legend: What the lines of all panels are.
        titled: Leave room for a title or a legend above each panel.

    Returns:
        The figure and the axes, row by row.
    """
    width, height = size
    figure, top = new_figure(
        title, subtitle, (MARGIN + columns * (width + MARGIN), rows * height + (rows - 1) * MARGIN), theme, legend
    )
    left_pad, top_pad = _PAD_LEFT + (_Y_LABEL if y_label else 0), _PAD_TOP if titled else _PAD_UNTITLED
    places: list[Axes] = []
    for number in range(rows * columns):
        left = MARGIN + (number % columns) * (width + MARGIN) + left_pad
        upper = top + (number // columns) * (height + MARGIN) + top_pad
        wide, high = width - left_pad - _PAD_RIGHT, height - top_pad - _PAD_BOTTOM
        axes = place_axes(figure, left, upper, wide, high)
        axes.set(xlabel=fitted(x_label, wide, _LABEL), ylabel=fitted(y_label, high, _LABEL))
        places.append(axes)
    return figure, places


def new_figure(
    title: str, subtitle: str, size: tuple[float, float], theme: Theme, legend: Sequence[Key] = ()
) -> tuple[Figure, float]:
    """An empty figure under a title, a subtitle and a legend.

    Args:
        title: First line, shortened to the width.
        subtitle: Below it, on as many lines as it needs.
        size: Width of the figure, and height of what follows the title.
        theme: Colours.
        legend: What the lines are.

    Returns:
        The figure, and how far from its top edge the rest begins.
    """
    from matplotlib.figure import Figure

    room = size[0] - 2 * MARGIN
    lines = _wrapped(subtitle, room, _SUBTITLE)
    columns = _legend_columns(legend, room)
    legend_top = 40 + 17 * len(lines) + (5 if legend else 0)
    top = legend_top + _LEGEND_ROW * math.ceil(len(legend) / columns) + (2 if legend else 0)
    height = top + size[1] + MARGIN / 2
    figure = Figure((size[0] / _UNITS, height / _UNITS), dpi=_UNITS * _DENSITY)
    write_line(figure, MARGIN, 30, fitted(title, room, _TITLE), theme.ink, _TITLE)
    for number, line in enumerate(lines):
        write_line(figure, MARGIN, 49 + 17 * number, line, theme.muted, _SUBTITLE)
    if legend:
        corner = (MARGIN / size[0], 1 - legend_top / height)
        place = {"loc": "upper left", "bbox_to_anchor": corner, "ncols": columns, "borderaxespad": 0}
        _legend(figure, legend, room, place)
    return figure, top


def place_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place of the figure."""
    whole_width, whole_height = (side * _UNITS for side in figure.get_size_inches())
    box = (
        left / whole_width,
        1 - (top + height) / whole_height,
        width / whole_width,
        height / whole_height,
    )
    return figure.add_axes(box)


def write_line(figure: Figure, left: float, baseline: float, text: str, color: str, size: float) -> None:
    """A line of text on a figure."""
    width, height = (side * _UNITS for side in figure.get_size_inches())
    figure.text(left / width, 1 - baseline / height, text, color=color, fontsize=points(size), va="baseline")


def name_lines(axes: Axes, keys: Sequence[Key], inside: bool = False) -> None:
    """A legend in the lower right corner of a panel, or above it, in the line of its title."""
    if inside:
        _legend(axes, keys, axes.bbox.width / _DENSITY, {"loc": "lower right", "borderaxespad": 0.9})
        return
    room = axes.bbox.width / _DENSITY / max(1, len(keys))
    anchor = (1.0, 1.0)
    place = {"loc": "lower right", "bbox_to_anchor": anchor, "ncols": max(1, len(keys)), "borderaxespad": 0.25}
    _legend(axes, keys, room, place)


def _legend(owner: Figure | Axes, keys: Sequence[Key], room: float, place: Mapping[str, Any]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=key.color, linewidth=points(2.6), marker="o" if key.ring else "", mfc="none")
        for key in keys
    ]
    # Names are set afterwards: matplotlib leaves out those that begin with an underscore.
    legend = owner.legend(handles, [" "] * len(keys), **place)
    for text, key in zip(legend.get_texts(), keys, strict=True):
        text.set_text(fitted(key.label, room - 30, _NAME))


def _legend_columns(keys: Sequence[Key], room: float) -> int:
    """As many as fit: matplotlib fills one column after the other, and each is as wide as its longest name."""
    widths = [40 + text_width(key.label, _NAME) for key in keys]
    for columns in range(len(keys), 1, -1):
        rows = math.ceil(len(keys) / columns)
        if sum(max(widths[start : start + rows]) for start in range(0, len(keys), rows)) <= room:
            return columns
    return 1


def dodge(axes: Axes, number: int, count: int, width: float = _LINE, slope: bool = False) -> Transform:
    """Where to draw the line ``number`` of ``count`` so that equal ones lie side by side instead of on each other.

    Args:
        axes: Where the lines are.
        number: Of the line, from 0.
        count: Of the lines.
        width: Of a line; neighbours are as far apart.
        slope: Move them to the right and down, as curves that rise at the left edge need it, instead of up.
    """
    from matplotlib.transforms import ScaledTranslation

    step = (number - (count - 1) / 2) * width / _UNITS
    figure = axes.get_figure()
    assert figure is not None
    return axes.transData + ScaledTranslation(step if slope else 0.0, -step if slope else step, figure.dpi_scale_trans)


@contextmanager
def house_style(theme: Theme) -> Iterator[None]:
    """The settings of matplotlib for what is drawn in the block, whatever the user's own are."""
    import matplotlib.style

    settings = {
        "font.family": "DejaVu Sans",
        "font.size": points(11),
        "text.color": theme.ink,
        "text.parse_math": False,  # a dollar sign in a task is a dollar sign
        "figure.facecolor": theme.background,
        "axes.facecolor": theme.surface,
        "axes.edgecolor": theme.muted,
        "axes.linewidth": points(1),
        "axes.spines.left": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": points(1),
        "axes.labelcolor": theme.muted,
        "axes.labelsize": points(_LABEL),
        "axes.labelpad": points(5),
        "axes.titlecolor": theme.ink,
        "axes.titlesize": points(_PANEL_TITLE),
        "axes.titlelocation": "left",
        "axes.titlepad": points(7),
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelsize": points(9.5),
        "ytick.labelsize": points(9.5),
        "xtick.major.size": points(4),
        "xtick.major.width": points(1),
        "xtick.minor.size": 0,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
        "ytick.major.pad": points(6),
        "lines.linewidth": points(_LINE),
        "lines.markersize": points(6),
        "lines.markeredgewidth": points(1.5),
        "lines.solid_capstyle": "round",
        "lines.solid_joinstyle": "round",
        "legend.frameon": False,
        "legend.fontsize": points(_NAME),
        "legend.handlelength": 1.3,
        "legend.handletextpad": 0.6,
        "legend.columnspacing": 1.6,
        "legend.borderpad": 0.0,
        "legend.labelspacing": 0.45,
    }
    with matplotlib.style.context(["default", settings]):
        yield


def rendered(figure: Figure) -> Image.Image:
    """The figure as RGB pixels, without a display and without the state of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with _any_letters():
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def save_picture(picture: Image.Image, path: str | Path) -> None:
    """Writes a picture in the format that the ending of ``path`` stands for; the file appears when it is whole.

    Raises:
        ValueError: No format of pictures has this ending.
        OSError: It cannot be written there.
    """
    suffix = Path(path).suffix.lower()
    kind = Image.registered_extensions().get(suffix)
    if kind not in Image.SAVE:
        raise ValueError(f"got the picture file {path}; expected a name ending in .png, .jpg, .webp or .gif")
    # In memory first: what Pillow says when a disk is full names neither the reason nor the file.
    content = io.BytesIO()
    picture.save(content, kind)
    write_bytes(path, content.getvalue())


def points(units: float) -> float:
    """A size in the points that matplotlib counts letters and lines in."""
    return 72 * units / _UNITS


def text_width(text: str, size: float) -> float:
    """Width of ``text`` on a figure, drawn as one line, in the units that ``size`` is in."""
    from matplotlib.font_manager import FontProperties

    font = FontProperties(family="DejaVu Sans", size=size)
    with _any_letters():
        return float(_outliner().get_text_width_height_descent(single_line(text), font, False)[0])


@cache
def _outliner() -> Any:
    from matplotlib.textpath import TextToPath

    return TextToPath()


@contextmanager
def _any_letters() -> Iterator[None]:
    """Letters that the font does not have are boxes, without a warning for each of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        yield


def fitted(text: str, width: float, size: float) -> str:
    """``text`` as one line of a figure, or as much of its start as fits ``width`` with an ellipsis."""
    return shortened(text, width, partial(text_width, size=size))


def shortened(text: str, width: float, measure: Callable[[str], float]) -> str:
    """``text`` as one line, or as much of its start as fits ``width`` by ``measure`` with an ellipsis."""
    line = single_line(text)
    if len(line) <= _MOST_LETTERS and measure(line) <= width:
        return line
    lengths = range(1, min(len(line), _MOST_LETTERS))
    fitting = bisect_right(lengths, width, key=lambda length: measure(f"{line[:length]}…"))
    return f"{line[:fitting].rstrip()}…"


def _wrapped(text: str, width: float, size: float) -> list[str]:
    """``text`` on as many lines as it needs, broken at its dots, or between words where a part is too long alone."""
    lines: list[str] = []
    for part in text.split(" · ") if text else []:
        longer = f"{lines[-1]} · {single_line(part)}" if lines else ""
        if longer and len(longer) <= _MOST_LETTERS and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines += _broken(shortened(part, _MOST_LETTERS, len), width, size)
    return lines


def _broken(line: str, width: float, size: float) -> list[str]:
    """``line`` on as many lines as it needs, broken between words, and within those that are too long alone."""
    lines = []
    while line:
        lengths = range(1, len(line) + 1)
        fitting = bisect_right(lengths, width, key=lambda length, text=line: text_width(text[:length], size))
        space = line.rfind(" ", 0, fitting + 1) if fitting < len(line) else -1
        end = space if space > 0 else max(1, fitting)
        lines.append(line[:end])
        line = line[end:].lstrip()
    return lines or [""]
