from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from robometer_rl.report.canvas import DARK, LIGHT, Box, Canvas, Theme, shortened, text_width


def luminance(color: str) -> float:
    """Relative luminance of the Web Content Accessibility Guidelines."""
    channels = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_and_curves_can_be_read_on_every_ground(theme: Theme) -> None:
    for ground in (theme.background, theme.surface):
        assert contrast(theme.ink, ground) > 7
        assert contrast(theme.muted, ground) > 4.5
        assert all(contrast(color, ground) > 3 for color in (theme.progress, theme.success, *theme.series))


def test_a_canvas_is_as_large_as_its_units_and_density_say() -> None:
    assert Canvas(30, 20, "#ffffff", density=2).finish().size == (60, 40)


def test_drawings_land_where_they_were_put() -> None:
    canvas = Canvas(40, 40, "#ffffff", density=1)
    canvas.rectangle(Box(10, 10, 20, 20), fill="#000000")
    canvas.dot((30, 30), 4, "#000000")
    canvas.paste(Image.new("RGB", (4, 4), "#ff0000"), Box(0, 20, 10, 40))
    pixels = np.asarray(canvas.finish())
    assert pixels[15, 15].tolist() == pixels[30, 30].tolist() == [0, 0, 0]
    assert pixels[5, 5].tolist() == pixels[15, 25].tolist() == [255, 255, 255]
    assert pixels[30, 5].tolist() == [255, 0, 0]


def test_edges_are_smooth() -> None:
    canvas = Canvas(40, 40, "#ffffff")
    canvas.line([(2, 2), (38, 17)], "#000000", 2)
    assert len(np.unique(np.asarray(canvas.finish()))) > 5


def test_a_dashed_line_covers_half_of_its_way() -> None:
    canvas = Canvas(82, 10, "#ffffff")
    canvas.dashed((1, 5), (81, 5), "#000000", width=1, dash=4)
    row = np.asarray(canvas.finish())[:, :, 0].min(axis=0)
    assert 0.4 < (row < 128).mean() < 0.65


def test_a_box_counts_upwards() -> None:
    assert Box(10, 20, 30, 60).at(0.5, 0.25) == (20, 50)


def test_long_text_is_shortened_to_fit() -> None:
    text = "open the drawer on the left"
    assert shortened(text, 1000, 12) == text
    cut = shortened(text, 80, 12)
    assert cut.endswith("…")
    assert text.startswith(cut[:-1])
    assert 60 < text_width(cut, 12) <= 80
    assert shortened(text, 1, 12) == "…"


def test_a_text_of_any_length_is_shortened_at_once_and_to_one_line() -> None:
    measured = shortened("open\nthe\tdrawer " * 50_000, 120, 12)
    assert measured.startswith("open the drawer o")
    assert 100 < text_width(measured, 12) <= 120


@pytest.mark.parametrize("text", ["two\nlines", "a\x1b[2J\r\x00b", "caf\udce9", "", "😀 抽屉"])
def test_any_text_can_be_drawn_as_one_line(text: str) -> None:
    canvas = Canvas(300, 40, "#ffffff")
    canvas.text((5, 20), shortened(text, 280, 12), "#000000", size=12)
    pixels = np.asarray(canvas.finish())
    assert (pixels[:6] == 255).all()
    assert (pixels[27:] == 255).all()
