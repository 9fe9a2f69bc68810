from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.report.canvas import DARK, LIGHT
from robometer_rl.report.figure import Curve, Panel, draw_figure, ticks


def near(picture: Image.Image, color: str) -> NDArray[np.bool_]:
    """Where a picture has a colour."""
    rgb = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)])
    return np.asarray((np.abs(np.asarray(picture).astype(int) - rgb) < 12).all(axis=2))


def curve(values: list[float], color: str = LIGHT.progress, label: str = "progress") -> Curve:
    return Curve(label, np.arange(len(values)), np.array(values), color)


def test_a_curve_rises_from_the_lower_left_to_the_upper_right() -> None:
    picture = draw_figure("open the drawer", "mini", [Panel("Progress", [curve(list(np.linspace(0, 1, 20)))])])
    rows, columns = np.nonzero(near(picture, LIGHT.progress)[160:])  # below the legend
    first, last = columns.argmin(), columns.argmax()
    assert rows[first] > rows[last] + 0.9 * np.ptp(rows)
    assert np.corrcoef(rows, columns)[0, 1] < -0.99


def test_values_outside_the_unit_interval_stay_in_the_panel() -> None:
    flat = draw_figure("", "", [Panel("", [curve([1, 1, 0, 0])])])
    outside = draw_figure("", "", [Panel("", [curve([7, 7, -3, -3])])])
    np.testing.assert_array_equal(np.asarray(flat), np.asarray(outside))


def test_one_value_is_a_dot() -> None:
    picture = draw_figure("", "", [Panel("", [curve([0.5], label="")])])
    assert 20 < near(picture, LIGHT.progress)[160:].sum() < 400


def changed_by(panel: Panel) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns in which ``panel`` differs from its curves alone."""
    drawn, plain = (np.asarray(draw_figure("", "", [each])) for each in (panel, Panel("", panel.curves)))
    rows, columns = np.nonzero((drawn != plain).any(axis=2))
    return rows, columns


def test_the_threshold_is_a_line_at_its_height() -> None:
    low, _ = changed_by(Panel("", [curve([0, 0])], threshold=0.25))
    high, columns = changed_by(Panel("", [curve([0, 0])], threshold=0.75))
    assert np.ptp(columns) > 1600
    assert np.ptp(high) < 40  # the line and its label above it
    assert low.max() - high.max() == pytest.approx(0.5 * 2 * 248, abs=2)  # half of the height of the axes


@pytest.mark.parametrize("frame", [1, 9])
def test_the_success_frame_is_a_line_with_its_label_inside_the_axes(frame: int) -> None:
    rows, columns = changed_by(Panel("", [curve([0] * 11)], mark=frame, mark_label="success"))
    assert np.ptp(rows) > 480
    assert np.bincount(columns).argmax() == pytest.approx(2 * (54 + frame / 10 * 820), abs=3)
    assert columns.min() > 2 * 54
    assert columns.max() < 2 * 874


def test_several_panels_stand_side_by_side_in_either_theme() -> None:
    panels = [Panel("Progress", [curve([0, 1])]), Panel("Success probability", [curve([0, 0.5])])]
    light, dark = draw_figure("t", "s", panels), draw_figure("t", "s", panels, DARK)
    assert light.size == dark.size == (1840, 816)
    assert near(light, LIGHT.background).mean() > 0.3
    assert near(dark, DARK.background).mean() > 0.3


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (0, [0]),
        (7, [0, 1, 2, 3, 4, 5, 6, 7]),
        (9, [0, 2, 4, 6, 8]),
        (79, [0, 10, 20, 30, 40, 50, 60, 70]),
        (500, [0, 100, 200, 300, 400, 500]),
        (1234, [0, 200, 400, 600, 800, 1000, 1200]),
    ],
)
def test_ticks_are_round_numbers(last: int, expected: list[int]) -> None:
    assert ticks(last) == expected
