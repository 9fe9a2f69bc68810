from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.frames import FrameError
from robometer_rl.video import VideoError, read_recording, write_video
from tests.limits import files_up_to

NOISE = np.random.default_rng(0).integers(0, 255, (12, 96, 96, 3), np.uint8)  # several times 10 kB once encoded


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("old", [None, b"the one before"])
def test_a_full_disk_is_noticed_and_leaves_what_was_there(tmp_path, part, old):
    write_video(tmp_path / "whole.mp4", NOISE, 10)
    path = tmp_path / "out" / "clip.mp4"
    path.parent.mkdir()
    if old is not None:
        path.write_bytes(old)
    size = int(part * (tmp_path / "whole.mp4").stat().st_size)
    with files_up_to(size), pytest.raises(OSError, match=r"clip\.mp4"):
        write_video(path, NOISE, 10)
    assert [file.read_bytes() for file in path.parent.iterdir()] == ([] if old is None else [old])


def test_what_ffmpeg_says_is_passed_on(tmp_path):
    (tmp_path / "clip.mp4").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left.*clip\.mp4"):
        write_video(tmp_path / "clip.mp4", NOISE, 10)
    with pytest.raises(OSError, match=r"FFmpeg could not write it: .*wide\.mp4"):
        write_video(tmp_path / "wide.mp4", np.zeros((1, 2, 20_000, 3), np.uint8), 10)
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("name", ["-y", "file:x", "concat:a|b", "%d", "a b'\"", "täglich 12:30", "tee|[f=mp4]x"])
def test_any_name_is_the_name_of_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for path in (Path(f"{name}.mp4"), Path(name) / "clip.mp4"):
        path.parent.mkdir(exist_ok=True)
        write_video(path, NOISE, 10)
        assert len(read_recording(path.absolute())) == len(NOISE)
    assert sorted(os.listdir()) == sorted([name, f"{name}.mp4"])


def test_an_error_of_whoever_draws_the_frames_leaves_nothing(tmp_path):
    def drawn():
        yield NOISE[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "clip.mp4", drawn(), 10)
    with pytest.raises(FrameError, match="one size"):
        write_video(tmp_path / "clip.mp4", [NOISE[0], NOISE[0][:50]], 10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_rate_at_which_nothing_plays_is_refused(tmp_path, fps):
    with pytest.raises(VideoError, match="fps"):
        write_video(tmp_path / "clip.mp4", NOISE, fps)


def test_equal_frames_give_equal_bytes(tmp_path):
    contents = set()
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", NOISE, 10)
        contents.add((tmp_path / f"{number}.mp4").read_bytes())
    (content,) = contents
    # The encoder notes its settings in the file: the number of processors is not among what decides.
    assert b" threads=1 lookahead_threads=1 sliced_threads=0 " in content
