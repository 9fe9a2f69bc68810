"""Frames of an episode above what the model says about them, as a video; drawn on its pixels by Pillow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from robometer_rl.frames import FrameSequence, as_frame, same_length
from robometer_rl.report.episode import EpisodeScores, runs_of_true
from robometer_rl.report.figures import DARK, Theme, shortened
from robometer_rl.report.markup import single_line

__all__ = ["overlay_frames"]

_MIN_WIDTH: Final = 480
_MAX_WIDTH: Final = 960
_MAX_HEIGHT: Final = 720
_STRIP_HEIGHT: Final = 172
_MARGIN: Final = 16
_TASK: Final = 14.0  # size of its letters
_SCALE: Final = 3  # the strip is drawn so much larger than it is shown
_LINE: Final = 1.6  # width of a curve

_Point = tuple[float, float]


def overlay_frames(
    frames: FrameSequence,
    scores: EpisodeScores,
    true_success: NDArray[np.bool_] | None = None,
    theme: Theme = DARK,
) -> Iterator[NDArray[np.uint8]]:
    """Draws below each frame the progress, the success probability, both curves up to that frame, and what marks mean.

    Args:
        frames: (N, H, W, 3) RGB, one per value of ``scores``; small ones are enlarged, large ones reduced.
        scores: What is shown.
        true_success: (N,) whether the task truly is done, where that is known.
        theme: Colours of the strip below the frames.

    Yields:
        uint8 images of one size with even height and width.
    """
    same_length("frames", len(frames), len(scores))
    if true_success is not None:
        same_length("true_success", len(true_success), len(scores))
    picture = _picture_size(frames.shape[1], frames.shape[2])
    width = max(_MIN_WIDTH, picture[0])
    for index in range(len(scores)):
        image = Image.new("RGB", (width, picture[1] + _STRIP_HEIGHT), theme.background)
        frame = Image.fromarray(as_frame(frames[index : index + 1][0]))
        image.paste(frame.resize(picture, Image.Resampling.LANCZOS), ((width - picture[0]) // 2, 0))
        image.paste(_draw_strip(width, scores, true_success, index, theme), (0, picture[1]))
        yield np.asarray(image)


def _picture_size(height: int, width: int) -> tuple[int, int]:
    """Even width and height that show a frame at a comfortable size, in its own proportions."""
    scale = min(max(width, _MIN_WIDTH), _MAX_WIDTH) / width
    scale = min(scale, _MAX_HEIGHT / height)
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def _draw_strip(
    width: int, scores: EpisodeScores, true_success: NDArray[np.bool_] | None, index: int, theme: Theme
) -> Image.Image:
    canvas = _Canvas(width, _STRIP_HEIGHT, theme.background)
    right = width - _MARGIN
    number, last = int(scores.numbers[index]), int(scores.numbers[-1])
    canvas.text((right, 24), f"frame {number} / {last}", theme.muted, size=11, anchor="rs")
    canvas.text((_MARGIN, 24), shortened(scores.task, width - 2 * _MARGIN - 100, _task_width), theme.ink, _TASK)
    _draw_bar(canvas, 42, "progress", float(scores.progress[index]), theme.progress, theme)
    if scores.success is not None:
        bar = _draw_bar(canvas, 62, "success", float(scores.success[index]), theme.success, theme)
        notch = bar.left + scores.threshold * bar.width
        canvas.line([(notch, bar.top - 3), (notch, bar.bottom + 3)], theme.ink, 1.0)
        lamp = (right - 6, 62)
        if scores.success_detected[index]:
            canvas.dot(lamp, 6, theme.success)
        else:
            canvas.ring(lamp, 5.5, theme.muted)
    history = _Box(_MARGIN, 80, right, _STRIP_HEIGHT - 36)
    _draw_history(canvas, history, scores, index, theme)
    if true_success is not None:
        _draw_truth(canvas, history, scores.numbers, true_success[: index + 1], theme)
    _draw_legend(canvas, scores, true_success is not None, theme)
    return canvas.finish()


def _draw_legend(canvas: _Canvas, scores: EpisodeScores, is_known: bool, theme: Theme) -> None:
    """What the marks mean, in one line; the bars have their names beside them."""
    middle, left = _STRIP_HEIGHT - 18, float(_MARGIN)

    def name(text: str) -> float:
        canvas.text((left + 14, middle), text, theme.muted, size=11, anchor="lm")
        return left + 14 + _font(11 * _SCALE).getlength(text) / _SCALE + 22

    if scores.success is not None:
        canvas.line([(left + 5, middle - 6), (left + 5, middle + 6)], theme.ink, 1.0)
        left = name(f"threshold {scores.threshold:.2f}")
        canvas.dot((left + 4, middle), 5, theme.success)
        left = name("success rule holds")
    if is_known:
        canvas.rectangle(_Box(left, middle - 2, left + 10, middle + 2), fill=theme.ink)
        name("true success")


def _draw_truth(canvas: _Canvas, box: _Box, numbers: NDArray[np.int64], done: NDArray[np.bool_], theme: Theme) -> None:
    """A bar along the upper edge of the history, over the frames in which the task truly is done."""
    last = max(int(numbers[-1]), 1)
    for run in runs_of_true(done):
        left, right = (box.left + 5 + (box.width - 10) * float(numbers[end]) / last for end in run)
        canvas.rectangle(_Box(left - 1, box.top + 1, right + 1, box.top + 4), fill=theme.ink)


def _draw_bar(canvas: _Canvas, middle: float, label: str, value: float, color: str, theme: Theme) -> _Box:
    bar = _Box(_MARGIN + 62, middle - 4, canvas.width - _MARGIN - 58, middle + 4)
    canvas.text((_MARGIN, middle), label, theme.muted, size=12, anchor="lm")
    canvas.rectangle(bar, fill=theme.grid, radius=4)
    if value >= 0.005:  # what is not written as 0.00
        end = bar.left + max(value * bar.width, bar.height)
        canvas.rectangle(_Box(bar.left, bar.top, end, bar.bottom), fill=color, radius=4)
    canvas.text((bar.right + 8, middle), f"{value:.2f}", theme.ink, size=12, anchor="lm")
    return bar


def _draw_history(canvas: _Canvas, box: _Box, scores: EpisodeScores, index: int, theme: Theme) -> None:
    canvas.rectangle(box, fill=theme.surface, radius=4)
    plot = _Box(box.left + 5, box.top + 5, box.right - 5, box.bottom - 5)
    seen = slice(0, index + 1)
    places = _places(plot, scores, scores.progress[seen])
    curves = [(places, theme.progress)]
    if scores.success is not None:
        left, height = plot.at(0, scores.threshold)
        canvas.dashed((left, height), (plot.right, height), theme.grid)
        # Where one curve would hide the other, success is drawn its own width above.
        above = [
            (x, there - _LINE if abs(y - there) < _LINE else y)
            for (x, y), (_, there) in zip(_places(plot, scores, scores.success[seen]), places, strict=True)
        ]
        curves.insert(0, (above, theme.success))
    for drawn, color in curves:
        if len(drawn) > 1:
            canvas.line(drawn, color, _LINE)
        canvas.dot(drawn[-1], 2.6, color)


def _places(plot: _Box, scores: EpisodeScores, values: NDArray[np.float32]) -> list[_Point]:
    """Where the first values of an episode are in its plot."""
    last = max(int(scores.numbers[-1]), 1)
    x = scores.numbers[: len(values)] / last
    return [plot.at(*point) for point in zip(x.tolist(), np.clip(values, 0.0, 1.0).tolist(), strict=True)]


@dataclass(frozen=True)
class _Box:
    """A rectangle in pixels of the finished picture."""

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

    def at(self, x: float, y: float) -> _Point:
        """The point ``x`` of the way to the right and ``y`` of the way *up*, both in [0, 1]."""
        return self.left + x * self.width, self.bottom - y * self.height


class _Canvas:
    """A picture that is drawn larger than it is, which smooths its edges."""

    def __init__(self, width: int, height: int, background: str) -> None:
        self.width, self.height = width, height
        self._image = Image.new("RGB", (width * _SCALE, height * _SCALE), background)
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Sequence[_Point], color: str, width: float = 1.0) -> None:
        """A line through ``points``, with round ends and corners."""
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        thickness = max(1, round(width * _SCALE))
        self._draw.line(scaled, fill=color, width=thickness, joint="curve")
        if width > 1.0:
            for point in (points[0], points[-1]):
                self.dot(point, width / 2.0, color)

    def dashed(self, start: _Point, end: _Point, color: str, width: float = 1.0, dash: float = 4.0) -> None:
        """A dashed line, horizontal or vertical, with gaps as long as its dashes."""
        length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
        count = max(1, int(length // (2 * dash)) + 1)
        for number in range(count):
            ends = [min(2 * dash * number / length, 1.0), min(dash * (2 * number + 1) / length, 1.0)]
            self.line(
                [(start[0] + (end[0] - start[0]) * s, start[1] + (end[1] - start[1]) * s) for s in ends], color, width
            )

    def dot(self, center: _Point, radius: float, color: str) -> None:
        """A filled circle."""
        x, y = center
        self._draw.ellipse([v * _SCALE for v in (x - radius, y - radius, x + radius, y + radius)], fill=color)

    def ring(self, center: _Point, radius: float, color: str, width: float = 1.5) -> None:
        """The outline of a circle."""
        x, y = center
        corners = [v * _SCALE for v in (x - radius, y - radius, x + radius, y + radius)]
        self._draw.ellipse(corners, outline=color, width=round(width * _SCALE))

    def rectangle(self, box: _Box, fill: str, radius: float = 0.0) -> None:
        """A filled rectangle with rounded corners."""
        corners = [v * _SCALE for v in (box.left, box.top, box.right, box.bottom)]
        self._draw.rounded_rectangle(corners, radius * _SCALE, fill)

    def text(self, point: _Point, text: str, color: str, size: float = 12.0, anchor: str = "ls") -> None:
        """A line of text at a Pillow anchor (``"ls"`` starts on the baseline, ``"mm"`` is centred)."""
        scaled = (point[0] * _SCALE, point[1] * _SCALE)
        self._draw.text(scaled, single_line(text), color, _font(size * _SCALE), anchor)

    def finish(self) -> Image.Image:
        """The picture in its final size."""
        return self._image.resize((self.width, self.height), Image.Resampling.BOX)


def _task_width(text: str) -> float:
    """Width of the line above the bars, in pixels of the finished picture."""
    return _font(_TASK * _SCALE).getlength(text) / _SCALE


@cache
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
