from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.report.recordings import Recorded, write_recordings
from robometer_rl.report.replay import Replay
from robometer_rl.video import read_recording
from tests.report.test_replay import Elements, replay
from tests.studio.browsers import visiting


def recorded(name: str, count: int = 4, cameras: tuple[str, ...] = ("front",)) -> Recorded:
    made = replay(name)
    frames = np.random.default_rng(len(name)).integers(0, 255, (count, 24, 36, 3), np.uint8)
    return Replay(name, made.series, values=made.values), dict.fromkeys(cameras, frames)


def write(folder: Path, *recordings: Recorded) -> Path:
    return write_recordings(folder, "title", "lead", recordings, {"Model": "mini"}, count=len(recordings))


def addresses(page: Path) -> list[list[str]]:
    sections = Elements(page.read_text()).all("section")
    return [[video["address"] for video in json.loads(section["data-replay"] or "")["videos"]] for section in sections]


def test_videos_are_files_beside_the_page_that_nothing_fetches_before_it_is_looked_at(tmp_path: Path) -> None:
    page = write(tmp_path / "made", recorded("one"), recorded("two", 6, ("front", "wrist")))
    assert page == tmp_path / "made" / "index.html"
    shown = Elements(page.read_text())
    assert shown.all("video") == []
    assert [name for _, given in shown.tags for name, value in given.items() if value and value.endswith(".mp4")] == []
    (first,), second = addresses(page)
    assert len(read_recording(page.parent / first)) == 4
    assert [len(read_recording(page.parent / each)) for each in second] == [6, 6]
    assert len(list(page.parent.iterdir())) == 4


def test_a_page_with_fewer_recordings_leaves_no_video_of_the_one_before_and_every_other_file(tmp_path: Path) -> None:
    page = write(tmp_path, recorded("one"), recorded("two"), recorded("three"))
    (tmp_path / "progress.png").write_bytes(b"a picture")
    write(tmp_path, recorded("four"))
    ((video,),) = addresses(page)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["index.html", "progress.png", video])


def test_what_goes_wrong_leaves_the_page_that_was_there(tmp_path: Path) -> None:
    page = write(tmp_path, recorded("one"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def broken() -> Iterator[Recorded]:
        yield recorded("another")
        raise ValueError("a hole in the file")

    with pytest.raises(ValueError, match="a hole"):
        write_recordings(tmp_path, "title", "lead", broken(), {}, count=2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert addresses(page) == [["recording-0001.mp4"]]


def test_a_page_about_nothing_is_a_page(tmp_path: Path) -> None:
    assert addresses(write(tmp_path)) == []


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("page"), *(recorded(f"recording {number}", 8) for number in range(100)))


@pytest.mark.slow
def test_in_a_browser_videos_are_fetched_as_they_are_looked_at_and_let_go_afterwards(hundred: Path) -> None:
    with visiting(hundred.parent.as_uri(), at=hundred.name, ready=".replay") as visit:
        held = visit.page.evaluate("() => document.querySelectorAll('video[src]').length")
        assert held <= 2, "the table is on the screen"
        for number in range(0, 100, 5):
            visit.page.evaluate(f"() => document.querySelectorAll('.replay')[{number}].scrollIntoView()")
            visit.page.locator(".replay").nth(number).locator("video[src]").first.wait_for()
            visit.page.wait_for_function("() => document.querySelectorAll('video[src]').length <= 12")
        visit.page.locator("a", has_text="recording 3").first.click()
        shown = visit.page.locator(".replay").nth(3)
        shown.locator("video[src]").first.wait_for()
        visit.page.wait_for_function("() => document.querySelectorAll('.replay')[3].replay.videos[0].readyState >= 2")
        box = shown.bounding_box()
        assert box is not None
        assert 0 <= box["y"] < 900, "the name in the table leads there"


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_in_a_browser_video_and_curves_have_one_cursor(hundred: Path, width: int, dark: bool) -> None:
    with visiting(hundred.parent.as_uri(), width, dark=dark, at=hundred.name, ready=".replay") as visit:
        shown = visit.page.locator(".replay").first
        shown.scroll_into_view_if_needed()
        plot = shown.locator("svg.replay-plot")
        plot.focus()
        for key, frame in (("End", 7), ("ArrowLeft", 6), ("Home", 0), ("ArrowRight", 1)):
            plot.press(key)
            shown.get_by_text(f"frame {frame} of 7").wait_for()
        time = "document.querySelector('.replay video').currentTime"
        visit.page.wait_for_function(f"() => {time} > 0.1 && {time} < 0.2")
        plot.press("Space")
        shown.get_by_text("frame 7 of 7").wait_for()
        assert visit.page.evaluate("() => document.documentElement.scrollWidth") == width
