"""Anti-aliased drawing on a Pillow image, and the colours that every picture shares."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from robometer_rl.files import write_bytes
from robometer_rl.report.markup import single_line

__all__ = ["DARK", "LIGHT", "Box", "Canvas", "Theme", "save_picture", "shortened", "text_width"]

Point = tuple[float, float]

# No picture has room for more, and a task may be a page of text.
_MOST_LETTERS: Final = 1000

# Lines are drawn this many times larger and then scaled down, which smooths their edges.
_OVERSAMPLING: Final = 3


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
    series=("#0284c7", "#d97706", "#be185d", "#4d7c0f"),
)
DARK: Final = Theme(
    background="#0f172a",
    surface="#17213a",
    ink="#f1f5f9",
    muted="#94a3b8",
    grid="#2b3852",
    progress="#60a5fa",
    success="#34d399",
    series=("#38bdf8", "#fbbf24", "#f472b6", "#a3e635"),
)


@dataclass(frozen=True)
class Box:
    """A rectangle in units of the canvas."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Distance from left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Distance from top to bottom."""
        return self.bottom - self.top

    def at(self, x: float, y: float) -> Point:
        """The point ``x`` of the way to the right and ``y`` of the way *up*, both in [0, 1]."""
        return self.left + x * self.width, self.bottom - y * self.height


class Canvas:
    """A picture addressed in units that do not depend on its resolution.

    Args:
        width: Width in units.
        height: Height in units.
        background: Colour it is filled with.
        density: Pixels per unit of the finished picture.
    """

    def __init__(self, width: int, height: int, background: str, density: int = 1) -> None:
        self.width, self.height, self.density = width, height, density
        self._scale = density * _OVERSAMPLING
        self._image = Image.new("RGB", (width * self._scale, height * self._scale), background)
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Sequence[Point], color: str, width: float = 1.0) -> None:
        """A line through ``points``, with round ends and corners."""
        scaled = [(x * self._scale, y * self._scale) for x, y in points]
        thickness = max(1, round(width * self._scale))
        self._draw.line(scaled, fill=color, width=thickness, joint="curve")
        if width > 1.0:
            for point in (points[0], points[-1]):
                self.dot(point, width / 2.0, color)

    def dashed(self, start: Point, end: Point, color: str, width: float = 1.0, dash: float = 4.0) -> None:
        """A dashed line, horizontal or vertical, with gaps as long as its dashes."""
        length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
        count = max(1, int(length // (2 * dash)) + 1)
        for number in range(count):
            ends = [min(2 * dash * number / length, 1.0), min(dash * (2 * number + 1) / length, 1.0)]
            self.line(
                [(start[0] + (end[0] - start[0]) * s, start[1] + (end[1] - start[1]) * s) for s in ends], color, width
            )

    def dot(self, center: Point, radius: float, color: str) -> None:
        """A filled circle."""
        x, y = center
        self._draw.ellipse([v * self._scale for v in (x - radius, y - radius, x + radius, y + radius)], fill=color)

    def ring(self, center: Point, radius: float, color: str, width: float = 1.5) -> None:
        """The outline of a circle."""
        x, y = center
        corners = [v * self._scale for v in (x - radius, y - radius, x + radius, y + radius)]
        self._draw.ellipse(corners, outline=color, width=round(width * self._scale))

    def rectangle(self, box: Box, fill: str | None = None, outline: str | None = None, radius: float = 0.0) -> None:
        """A rectangle with rounded corners."""
        corners = [v * self._scale for v in (box.left, box.top, box.right, box.bottom)]
        self._draw.rounded_rectangle(corners, radius * self._scale, fill, outline, self._scale if outline else 0)

    def text(
        self, point: Point, text: str, color: str, size: float = 12.0, anchor: str = "ls", halo: str | None = None
    ) -> None:
        """A line of text at a Pillow anchor (``"ls"`` starts on the baseline, ``"mm"`` is centred), with a halo."""
        scaled = (point[0] * self._scale, point[1] * self._scale)
        outline, font = round(2.5 * self._scale) if halo else 0, _font(size * self._scale)
        self._draw.text(scaled, single_line(text), color, font, anchor, stroke_width=outline, stroke_fill=halo)

    def paste(self, image: Image.Image, box: Box) -> None:
        """Fills ``box`` with a picture."""
        size = (round(box.width * self._scale), round(box.height * self._scale))
        filtering = Image.Resampling.BICUBIC if size[0] > image.width else Image.Resampling.LANCZOS
        self._image.paste(image.resize(size, filtering), (round(box.left * self._scale), round(box.top * self._scale)))

    def finish(self) -> Image.Image:
        """The picture in its final resolution."""
        return self._image.resize((self.width * self.density, self.height * self.density), Image.Resampling.BOX)


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


@cache
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def text_width(text: str, size: float) -> float:
    """Width of ``text``, drawn as one line, in the units that ``size`` is in."""
    return _font(size * _OVERSAMPLING).getlength(single_line(text)) / _OVERSAMPLING


def shortened(text: str, width: float, size: float) -> str:
    """``text`` as one line, or as much of its start as fits ``width`` with an ellipsis."""
    line = single_line(text)
    if len(line) <= _MOST_LETTERS and text_width(line, size) <= width:
        return line
    lengths = range(1, min(len(line), _MOST_LETTERS))
    fitting = bisect_right(lengths, width, key=lambda length: text_width(f"{line[:length]}…", size))
    return f"{line[:fitting].rstrip()}…"
