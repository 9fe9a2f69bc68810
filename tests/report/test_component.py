"""What a replay promises, in a browser: one cursor, curves that can be switched off, what was shown, and a table."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robometer_rl.report.episode import EpisodeScores
from robometer_rl.report.recordings import write_recordings
from robometer_rl.report.replay import Replay, Series, shown_frames, spread_band
from tests.studio.browsers import Visit, visiting

pytest.importorskip("playwright")
pytestmark = pytest.mark.slow

COUNT = 24
STEPS = np.arange(0, COUNT, 1)


def series(name: str, video: int = 0) -> Series:
    progress = np.linspace(0.1, 0.9, COUNT).astype(np.float32)
    detected = np.arange(COUNT) >= 20
    scores = EpisodeScores("push", STEPS * 3, progress, progress**2, detected, 0.6)
    return Series(
        name,
        STEPS,
        scores,
        rewards=np.diff(progress, prepend=0.1),
        original=np.where(np.arange(COUNT) == 20, 10.0, 0.0),
        band=spread_band(progress, np.full(COUNT, 0.1)),
        shown=shown_frames("uniform(8)", STEPS),
        true_success=np.arange(COUNT) >= 18,
        true_progress=np.linspace(0, 1, COUNT),
        video=video,
        counted="step",
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The brightness of a frame says which one it is.
    frames = np.repeat(np.linspace(20, 230, COUNT).astype(np.uint8), 48 * 64 * 3).reshape(COUNT, 48, 64, 3)
    alone, both = Replay("alone", [series("mini")]), Replay("both", [series("a"), series("b", 1)])
    recordings = [(alone, {"front": frames}), (both, {"one": frames, "other": frames})]
    return write_recordings(tmp_path_factory.mktemp("page"), "title", "lead", recordings, {}, count=2)


@pytest.fixture
def visit(page: Path) -> Iterator[Visit]:
    with visiting(page.parent.as_uri(), at=page.name, ready=".replay-plot") as opened:
        yield opened


def point(visit: Visit, part: float) -> tuple[float, float]:
    """A place on the plot of the first replay, as a part of its time axis; 38 and 10 pixels are beside that."""
    box = visit.page.locator(".replay-plot").first.bounding_box()
    assert box is not None
    return box["x"] + 38 + part * (box["width"] - 48), box["y"] + 100


def frame(visit: Visit) -> str | None:
    return visit.page.locator(".replay-plot").first.get_attribute("aria-valuenow")


def test_pointing_and_dragging_move_the_cursor_and_the_video(visit: Visit) -> None:
    visit.page.mouse.move(*point(visit, 10 / 23))
    assert frame(visit) == "10"
    visit.page.get_by_text("frame 10 of 23 (step 30)").wait_for()
    visit.page.wait_for_function("() => Math.abs(document.querySelector('video').currentTime - 1.05) < 0.04")
    visit.page.mouse.move(*point(visit, 4 / 23))
    visit.page.mouse.down()
    for part in (8, 12, 17):
        visit.page.mouse.move(*point(visit, part / 23))
    # A drag goes on beyond the plot.
    left, top = point(visit, 21 / 23)
    visit.page.mouse.move(left, top + 600)
    assert frame(visit) == "21"
    visit.page.mouse.up()


def test_playing_moves_the_cursor_and_stops_at_the_end(visit: Visit) -> None:
    visit.page.wait_for_function("() => document.querySelector('video').readyState >= 2")
    visit.page.locator(".replay-play").first.click()
    visit.page.locator(".replay").first.get_by_text("Pause").wait_for()
    visit.page.locator(".replay").first.get_by_text("frame 23 of 23").wait_for()
    visit.page.locator(".replay").first.get_by_text("Play").wait_for()


@pytest.mark.parametrize(
    ("label", "shape"),
    [("uncertainty", "polygon"), ("success probability", "polyline"), ("true progress", "polyline")],
)
def test_curves_and_the_band_are_switched_off_and_on(visit: Visit, label: str, shape: str) -> None:
    plot = visit.page.locator(".replay-plot").first
    before = plot.locator(shape).count()
    button = visit.page.locator(".replay").first.get_by_role("button", name=label, exact=True)
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert plot.locator(shape).count() == before - 1
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    assert plot.locator(shape).count() == before


def test_of_several_series_each_is_switched_off_alone(visit: Visit) -> None:
    both = visit.page.locator(".replay").nth(1)
    both.scroll_into_view_if_needed()
    assert both.locator("polyline").count() == 4
    assert both.locator("polygon").count() == 2
    both.get_by_role("button", name="b", exact=True).click()
    assert both.locator("polyline").count() == 3
    assert both.locator("polygon").count() == 1
    both.get_by_role("button", name="a: success", exact=True).click()
    assert both.locator("polyline").count() == 2


def test_the_frames_that_the_model_was_shown_are_those_of_the_cursor(visit: Visit) -> None:
    replay = visit.page.locator(".replay").first
    plot = replay.locator(".replay-plot")
    plot.press("End")
    expected = shown_frames("uniform(8)", STEPS)[-1].tolist()
    assert replay.locator(".replay-strip figcaption").all_inner_texts() == list(map(str, expected))
    levels = np.linspace(20, 230, COUNT)[expected]
    for canvas, level in zip(replay.locator(".replay-strip canvas").all(), levels, strict=True):
        found = -1.0
        for _ in range(100):  # frames are looked for one after the other
            picture = Image.open(io.BytesIO(canvas.screenshot())).convert("L")
            found = float(picture.getpixel((picture.width // 2, picture.height // 4)))  # pyright: ignore[reportArgumentType]
            if abs(found - level) < 9:
                break
            visit.page.wait_for_timeout(100)
        assert found == pytest.approx(level, abs=9)
    replay.get_by_text("What the model was shown for frame 23 (step 69)").wait_for()


def test_all_of_it_is_read_out_and_stands_in_a_table(visit: Visit) -> None:
    replay = visit.page.locator(".replay").first
    slider = replay.get_by_role("slider", name="frame")
    slider.press("End")
    spoken = slider.get_attribute("aria-valuetext") or ""
    for words in (
        "frame 23 (step 69)",
        "progress 0.900",
        "success 0.810",
        "true progress 1.000",
        "original reward 0.000",
    ):
        assert words in spoken
    assert replay.get_attribute("aria-label") == "alone"
    assert "success from frame 20 (step 60)" in replay.inner_text()
    assert "success rule fires at frame 20 (step 60)" in (replay.locator("svg").text_content() or "")
    replay.get_by_text("Values as a table").click()
    table = replay.get_by_role("table")
    columns = [
        "series",
        "frame",
        "step",
        "progress",
        "success probability",
        "reward",
        "original reward",
        "success rule",
    ]
    assert table.get_by_role("columnheader").all_inner_texts() == columns
    cells = [row.split("\t") for row in table.locator("tbody tr").all_inner_texts()]
    assert len(cells) == COUNT
    assert cells[20] == ["mini", "20", "60", "0.796", "0.633", "0.035", "10.000", "fires here"]


@pytest.mark.parametrize("dark", [False, True])
def test_words_stay_inside_the_axes_of_a_phone(page: Path, dark: bool) -> None:
    with visiting(page.parent.as_uri(), 390, dark=dark, at=page.name, ready=".replay-plot") as visit:
        visit.page.locator(".replay-plot text").first.wait_for()
        outside = visit.page.evaluate(
            """() => {
              const plot = document.querySelector(".replay-plot"), box = plot.getBoundingClientRect();
              return [...plot.querySelectorAll("text")].filter((text) => {
                const own = text.getBoundingClientRect();
                return own.left < box.left - 1 || own.right > box.right + 1;
              }).map((text) => text.textContent);
            }"""
        )
        assert outside == []
        assert visit.page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_page_of_two_hundred_draws_what_is_near_the_screen_alone(tmp_path: Path) -> None:
    frames = np.zeros((4, 24, 32, 3), np.uint8)
    scores = EpisodeScores("push", np.arange(4), np.zeros(4, np.float32), None, np.zeros(4, bool), 0.5)
    recordings = [
        (Replay(f"recording {n}", [Series("mini", np.arange(4), scores)], values={"n": str(n)}), {"video": frames})
        for n in range(200)
    ]
    made = write_recordings(tmp_path, "title", "lead", recordings, {}, count=200)
    with visiting(tmp_path.as_uri(), at=made.name, ready=".replay") as visit:
        assert visit.page.locator(".replay").count() == 200
        assert visit.page.locator(".replay-plot").count() < 12
        assert visit.page.locator("video").count() < 12
        assert sum(address.endswith(".mp4") for address in visit.asked) < 12
