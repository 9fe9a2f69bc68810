from __future__ import annotations

import numpy as np
import pytest

from robometer_rl.report.canvas import LIGHT
from robometer_rl.report.histogram import draw_histogram


def pixels_of(image, color: str) -> int:
    rgb = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    return int((np.asarray(image) == rgb).all(axis=2).sum())


def test_every_quantity_is_drawn_in_its_own_colour():
    rng = np.random.default_rng(0)
    image = draw_histogram("Rewards", {"learned": rng.normal(size=500), "original": rng.normal(size=20)})
    assert all(pixels_of(image, color) > 300 for color in LIGHT.series[:2])
    assert pixels_of(image, LIGHT.series[2]) == 0


@pytest.mark.parametrize("values", [np.zeros(5), np.array([1.0]), np.array([-3.0, 1e6])])
def test_any_finite_values_can_be_drawn(values):
    assert draw_histogram("x", {"values": values}).width > 0


def test_where_the_values_are_is_where_the_bars_are():
    low = np.asarray(draw_histogram("x", {"a": np.array([0.0] * 9 + [1.0])}))
    high = np.asarray(draw_histogram("x", {"a": np.array([1.0] * 9 + [0.0])}))
    rgb = [int(LIGHT.series[0][place : place + 2], 16) for place in (1, 3, 5)]
    left, right = ((image[120:400] == rgb).all(axis=2).any(axis=0).nonzero()[0].mean() for image in (low, high))
    assert left < right
