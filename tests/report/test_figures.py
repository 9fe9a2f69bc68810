from __future__ import annotations

import warnings

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.report.figures import (
    DARK,
    LIGHT,
    Curve,
    Key,
    Panel,
    Theme,
    draw_figure,
    draw_histogram,
    fitted,
    house_style,
    new_figure,
    panels,
    rendered,
    save_picture,
    text_width,
)


def near(picture: Image.Image, color: str) -> NDArray[np.bool_]:
    """Where a picture has a colour."""
    rgb = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)])
    return np.asarray((np.abs(np.asarray(picture).astype(int) - rgb) < 12).all(axis=2))


def curve(values: list[float], color: str = LIGHT.progress, label: str = "progress") -> Curve:
    return Curve(label, np.arange(len(values)), np.array(values), color)


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


def test_a_curve_rises_from_the_lower_left_to_the_upper_right() -> None:
    picture = draw_figure("open the drawer", "mini", [Panel("Progress", [curve(list(np.linspace(0, 1, 20)))])])
    rows, columns = np.nonzero(near(picture, LIGHT.progress)[200:])  # below the legend
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


def test_equal_curves_lie_side_by_side() -> None:
    equal = [curve([0, 0], color, label) for color, label in zip(LIGHT.series, "abc", strict=False)]
    picture = draw_figure("", "", [Panel("", equal)])
    for color in LIGHT.series[:3]:
        assert near(picture, color)[200:].sum() > 3000


def test_a_curve_is_where_its_values_are_unless_it_would_hide_another() -> None:
    alone = draw_figure("", "", [Panel("", [curve([0.99] * 9, LIGHT.series[0], " ")], threshold=0.98)])
    low = curve([0.0] * 9, LIGHT.series[1], " ")
    beside = draw_figure("", "", [Panel("", [curve([0.99] * 9, LIGHT.series[0], " "), low], threshold=0.98)])
    rows = [np.nonzero(near(each, LIGHT.series[0])[150:].any(axis=1))[0] for each in (alone, beside)]
    np.testing.assert_array_equal(rows[0], rows[1])


def changed_by(panel: Panel) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns in which ``panel`` differs from its curves alone."""
    drawn, plain = (np.asarray(draw_figure("", "", [each])) for each in (panel, Panel("", panel.curves)))
    rows, columns = np.nonzero((drawn != plain).any(axis=2))
    return rows, columns


def test_the_threshold_is_a_line_at_its_height() -> None:
    low, _ = changed_by(Panel("", [curve([0, 0])], threshold=0.25))
    high, columns = changed_by(Panel("", [curve([0, 0])], threshold=0.75))
    assert np.ptp(columns) > 1500
    assert np.ptp(high) < 44  # the line and its label above it
    axes_height = 2 * (320 - 34 - 40)
    assert low.max() - high.max() == pytest.approx(0.5 / 1.06 * axes_height, abs=2)


@pytest.mark.parametrize("frame", [1, 9])
def test_the_success_frame_is_a_line_with_its_label_inside_the_axes(frame: int) -> None:
    rows, columns = changed_by(Panel("", [curve([0.5] * 11)], mark=frame, mark_label="success"))
    left, right = 2 * (24 + 34), 2 * (24 + 860 - 8)
    assert np.ptp(rows) > 440
    assert np.bincount(columns).argmax() == pytest.approx(left + frame / 10 * (right - left), abs=3)
    assert columns.min() > left
    assert columns.max() < right


def test_several_panels_stand_side_by_side_in_either_theme() -> None:
    drawn = [Panel("Progress", [curve([0, 1])]), Panel("Success probability", [curve([0, 0.5])])]
    light, dark = draw_figure("t", "s", drawn), draw_figure("t", "s", drawn, DARK)
    assert light.size == dark.size
    assert light.width == 2 * (3 * 24 + 2 * 430)
    assert near(light, LIGHT.background).mean() > 0.3
    assert near(dark, DARK.background).mean() > 0.3


def test_a_subtitle_takes_as_many_lines_as_it_needs() -> None:
    one, many = (
        draw_figure("t", "a · b", [Panel("p", [curve([0, 1])])]),
        draw_figure("t", " · ".join(["a sentence of some length"] * 8), [Panel("p", [curve([0, 1])])]),
    )
    assert one.width == many.width
    assert many.height == one.height + 2 * 17


def test_a_subtitle_is_whole_however_long_its_parts_and_words_are() -> None:
    def height(subtitle: str) -> int:
        return draw_figure("t", subtitle, [Panel("p", [curve([0, 1])])]).height

    words = "frames of episodes whose success was recorded " * 6
    assert height(words) == height("short") + 2 * 17
    assert height("w" * 160) == height("short") + 2 * 17, "a path may be one word"


def test_true_success_is_a_bar_along_the_upper_edge() -> None:
    rows, columns = changed_by(Panel("", [curve([0.2] * 11)], done=[(0, 2), (8, 10)]))
    counts = np.bincount(columns[rows < rows.min() + 6], minlength=2 * 908)
    left, right = 2 * (24 + 34), 2 * (24 + 860 - 8)

    def at(frame: float) -> bool:
        return bool(counts[round(left + frame / 10 * (right - left))])

    assert [at(frame) for frame in (0.1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9.8)] == [*[True] * 3, *[False] * 5, *[True] * 3]


def test_every_quantity_is_drawn_in_its_own_colour() -> None:
    rng = np.random.default_rng(0)
    image = draw_histogram("Rewards", {"learned": rng.normal(size=500), "original": rng.normal(size=20)})
    assert all(near(image, color).sum() > 300 for color in LIGHT.series[:2])
    assert near(image, LIGHT.series[2]).sum() == 0


@pytest.mark.parametrize("values", [np.zeros(5), np.array([1.0]), np.array([-3.0, 1e6])])
def test_any_finite_values_can_be_drawn(values: NDArray[np.float64]) -> None:
    assert draw_histogram("x", {"values": values}).width > 0


def test_where_the_values_are_is_where_the_bars_are() -> None:
    low = draw_histogram("x", {"a": np.array([0.0] * 9 + [1.0])})
    high = draw_histogram("x", {"a": np.array([1.0] * 9 + [0.0])})
    left, right = (near(image, LIGHT.series[0]).nonzero()[1].mean() for image in (low, high))
    assert left < right


def test_bins_cover_what_is_asked_for() -> None:
    values = {"a": np.array([0.5, 0.51])}
    columns = near(draw_histogram("x", values, span=(0.0, 1.0)), LIGHT.series[0]).nonzero()[1]
    wide = near(draw_histogram("x", values), LIGHT.series[0]).nonzero()[1]
    assert 0 < np.ptp(columns) < 0.1 * np.ptp(wide)


def test_long_text_is_shortened_to_fit() -> None:
    text = "open the drawer on the left"
    assert fitted(text, 1000, 12) == text
    cut = fitted(text, 80, 12)
    assert cut.endswith("…")
    assert text.startswith(cut[:-1])
    assert 55 < text_width(cut, 12) <= 80
    assert fitted(text, 1, 12) == "…"


def test_a_text_of_any_length_is_shortened_at_once_and_to_one_line() -> None:
    measured = fitted("open\nthe\tdrawer " * 50_000, 120, 12)
    assert measured.startswith("open the drawe")
    assert 95 < text_width(measured, 12) <= 120


@pytest.mark.parametrize(
    "text", ["two\nlines", "a\x1b[2J\r\x00b", "caf\udce9", "", "😀 抽屉", "$5 {x}_y^", "_hidden", "%"]
)
def test_any_text_is_drawn_as_it_is(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        panel = Panel(text, [curve([0, 1], label=text), curve([1, 0], label=text)], mark=1, mark_label=text)
        assert draw_figure(text, text, [panel]).width > 0
        assert draw_histogram(text, {text: np.zeros(3), text + "2": np.ones(3)}, text, text).width > 0


def test_names_that_begin_with_an_underscore_are_in_the_legend() -> None:
    drawn = [draw_figure("", "", [Panel("", [curve([0, 1], label=label)])]) for label in ("_a", " ")]
    assert (np.asarray(drawn[0]) != np.asarray(drawn[1])).any()


def test_settings_of_the_user_do_not_change_pictures_nor_are_they_changed() -> None:
    usual = draw_figure("t", "s", [Panel("p", [curve([0, 1])])])
    with matplotlib.rc_context({"font.size": 40, "axes.facecolor": "red", "text.parse_math": True}):
        np.testing.assert_array_equal(
            np.asarray(draw_figure("t", "s", [Panel("p", [curve([0, 1])])])), np.asarray(usual)
        )
        assert matplotlib.rcParams["font.size"] == 40


def test_many_names_of_lines_take_rows_and_are_not_cut_off() -> None:
    keys = [Key(f"a measurement of somebody else, number {number}", LIGHT.series[number]) for number in range(4)]
    with house_style(LIGHT):
        figure, top = new_figure("t", "s", (400, 100), LIGHT, keys)
        rendered(figure)
        legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.width
    assert legend.y0 >= figure.bbox.height - 2 * top


def test_panels_are_as_large_as_asked_and_labels_lie_in_the_picture() -> None:
    with house_style(LIGHT):
        figure, axes = panels("t", "s", 2, 3, (200, 150), LIGHT, "x label", "y label")
        rendered(figure)
        assert len(axes) == 6
        for each in axes:
            box = each.get_tightbbox()
            assert box is not None
            assert box.x0 >= 0
            assert box.y0 >= 0
        assert figure.bbox.width == 2 * (4 * 24 + 3 * 200)


@pytest.mark.parametrize("name", ["curves.png", "curves.jpg", "curves.webp"])
def test_pictures_are_written_by_their_ending(tmp_path, name: str) -> None:
    save_picture(Image.new("RGB", (3, 2)), tmp_path / name)
    assert Image.open(tmp_path / name).size == (3, 2)
    with pytest.raises(ValueError, match="expected a name ending in"):
        save_picture(Image.new("RGB", (3, 2)), tmp_path / "curves.txt")
