"""Frames of an episode above what the model says about them, as a video."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.frames import FrameSequence, as_frame, same_length
from robometer_rl.report.canvas import DARK, Box, Canvas, Theme, shortened
from robometer_rl.report.episode import EpisodeScores
from robometer_rl.report.figure import Curve, draw_curve

__all__ = ["overlay_frames"]

_MIN_WIDTH: Final = 480
_MAX_WIDTH: Final = 960
_MAX_HEIGHT: Final = 720
_STRIP_HEIGHT: Final = 150
_MARGIN: Final = 16


def overlay_frames(frames: FrameSequence, scores: EpisodeScores, theme: Theme = DARK) -> Iterator[NDArray[np.uint8]]:
    """Draws below each frame the progress, the success probability and both curves up to that frame.

    Args:
        frames: (N, H, W, 3) RGB, one per value of ``scores``; small ones are enlarged, large ones reduced.
        scores: What is shown.
        theme: Colours of the strip below the frames.

    Yields:
        uint8 images of one size with even height and width.
    """
    same_length("frames", len(frames), len(scores))
    picture = _picture_size(frames.shape[1], frames.shape[2])
    width = max(_MIN_WIDTH, picture[0])
    for index in range(len(scores)):
        image = Image.new("RGB", (width, picture[1] + _STRIP_HEIGHT), theme.background)
        frame = Image.fromarray(as_frame(frames[index : index + 1][0]))
        image.paste(frame.resize(picture, Image.Resampling.LANCZOS), ((width - picture[0]) // 2, 0))
        image.paste(_draw_strip(width, scores, index, theme), (0, picture[1]))
        yield np.asarray(image)


def _picture_size(height: int, width: int) -> tuple[int, int]:
    """Even width and height that show a frame at a comfortable size, in its own proportions."""
    scale = min(max(width, _MIN_WIDTH), _MAX_WIDTH) / width
    scale = min(scale, _MAX_HEIGHT / height)
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def _draw_strip(width: int, scores: EpisodeScores, index: int, theme: Theme) -> Image.Image:
    canvas = Canvas(width, _STRIP_HEIGHT, theme.background)
    right = width - _MARGIN
    number, last = int(scores.numbers[index]), int(scores.numbers[-1])
    canvas.text((right, 24), f"frame {number} / {last}", theme.muted, size=11, anchor="rs")
    canvas.text((_MARGIN, 24), shortened(scores.task, width - 2 * _MARGIN - 100, 14), theme.ink, size=14)
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
    _draw_history(canvas, Box(_MARGIN, 80, right, _STRIP_HEIGHT - 14), scores, index, theme)
    return canvas.finish()


def _draw_bar(canvas: Canvas, middle: float, label: str, value: float, color: str, theme: Theme) -> Box:
    bar = Box(_MARGIN + 62, middle - 4, canvas.width - _MARGIN - 58, middle + 4)
    canvas.text((_MARGIN, middle), label, theme.muted, size=12, anchor="lm")
    canvas.rectangle(bar, fill=theme.grid, radius=4)
    if value >= 0.005:  # what is not written as 0.00
        end = bar.left + max(value * bar.width, bar.height)
        canvas.rectangle(Box(bar.left, bar.top, end, bar.bottom), fill=color, radius=4)
    canvas.text((bar.right + 8, middle), f"{value:.2f}", theme.ink, size=12, anchor="lm")
    return bar


def _draw_history(canvas: Canvas, box: Box, scores: EpisodeScores, index: int, theme: Theme) -> None:
    canvas.rectangle(box, fill=theme.surface, radius=4)
    plot = Box(box.left + 5, box.top + 5, box.right - 5, box.bottom - 5)
    last = int(scores.numbers[-1])
    curves = [(scores.progress, theme.progress)]
    if scores.success is not None:
        left, height = plot.at(0, scores.threshold)
        canvas.dashed((left, height), (plot.right, height), theme.grid)
        curves.insert(0, (scores.success, theme.success))
    seen = slice(0, index + 1)
    for values, color in curves:
        curve = Curve("", scores.numbers[seen], values[seen], color)
        draw_curve(canvas, plot, curve, last, width=1.6)
        canvas.dot(plot.at(scores.numbers[index] / max(last, 1), float(values[index])), 2.6, color)
