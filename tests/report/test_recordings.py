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
