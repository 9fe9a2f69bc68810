"""Each frame of a video is found by its own time, whatever the encoder did to their order."""

from __future__ import annotations

import pickle
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from benchmarks.lerobot_dataset import kept_scheduling
from robometer_rl.frames import Clip
from robometer_rl.video import VideoError
from robometer_rl.video.decoding import TimedFrames, VideoFile, VideoIndex, index_file, index_video
from tests.formats import counters

LENGTH = 60
ENCODINGS = {
    "every second frame a key frame": ("libsvtav1", {"g": "2", "crf": "30"}),
    "one key frame": ("libx264", {"g": "250", "bf": "0"}),
    "frames that depend on later ones": ("libx264", {"g": "12", "bf": "3"}),
    "and on the next key frame": ("libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}),
}


def write(path: Path, length: int, codec: str = "libx264", options: dict[str, str] | None = None) -> Path:
    with kept_scheduling(), av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options or {})
        assert isinstance(stream, VideoStream)
        stream.width = stream.height = counters.SIZE
        stream.pix_fmt = "yuv420p"
        for number in range(length):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(counters.draw(5, number), format="rgb24")))
        container.mux(stream.encode())
    return path


def open_video(path: Path) -> TimedFrames:
    index = index_video(VideoFile(path))
    return TimedFrames(VideoFile(path), index, range(len(index)))


@pytest.fixture(scope="module", params=ENCODINGS.values(), ids=list(ENCODINGS))
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("video") / "counter.mp4", LENGTH, *request.param)


def test_all_frames_in_order(video: Path) -> None:
    frames = open_video(video)
    assert frames.shape == (LENGTH, 64, 64, 3)
    assert [counters.read(image) for image in frames[:]] == [(5, number, "top") for number in range(LENGTH)]
    assert counters.frame_numbers(Clip(frames, "count").read([59, 0, 7])) == [59, 0, 7]


def test_any_frames_in_any_order(video: Path) -> None:
    frames = open_video(video)
    draw = np.random.default_rng(0)
    for _ in range(20):
        chosen = draw.integers(0, LENGTH, 5)
        assert counters.frame_numbers(frames[chosen]) == chosen.tolist()
    assert all(counters.read(frames[number])[1] == number for number in range(LENGTH))
    assert counters.frame_numbers(frames[::-7]) == list(range(LENGTH))[::-7]
    assert counters.frame_numbers(frames[[3, 3, -1]]) == [3, 3, LENGTH - 1]
    assert frames[:0].shape == (0, 64, 64, 3)


def test_index_has_the_times_of_all_frames(video: Path) -> None:
    index = index_video(VideoFile(video))
    np.testing.assert_allclose(index.seconds, np.arange(LENGTH) / 10)
    assert index.fps == pytest.approx(10)
    assert index.keyframes[0] == index.pts[0]


def test_pictures_are_turned_on_request_only(tmp_path: Path) -> None:
    path = write(tmp_path / "counter.mp4", 3)
    index = index_video(VideoFile(path))
    stored, flipped, rotated = (
        TimedFrames(VideoFile(path), index, range(3), orientation)[1] for orientation in ("as_stored", "flip", "rotate")
    )
    assert counters.read(stored)[1] == 1
    np.testing.assert_array_equal(flipped, stored[::-1])
    np.testing.assert_array_equal(rotated, stored[::-1, ::-1])


def test_the_nearest_frame_is_meant_if_it_is_near_enough() -> None:
    index = VideoIndex(np.array([0, 100, 200]), np.array([0]), Fraction(1, 1000), 8, 8)
    wanted = np.array([0.2, 0.1, 0.10009, 0.0, 0.09991])
    assert index.frames_at(wanted, 1e-4).tolist() == [2, 1, 1, 0, 1]
    with pytest.raises(VideoError, match=r"frame 1 belongs at 0\.100110 s.*shown at 0\.100000 s.*within 0\.0001 s"):
        index.frames_at(np.array([0.0, 0.10011]), 1e-4)
    with pytest.raises(VideoError, match="frame 0"):
        index.frames_at(np.array([0.3]), 1e-4)
    assert VideoIndex(np.array([5]), np.array([5]), Fraction(1, 1000), 8, 8).frames_at(np.array([0.005]), 1e-4) == [0]


def test_frames_travel_to_worker_processes(tmp_path: Path) -> None:
    frames = open_video(write(tmp_path / "counter.mp4", 5))
    assert counters.frame_numbers(pickle.loads(pickle.dumps(frames))[:]) == [0, 1, 2, 3, 4]


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"not a video" * 100)
    with pytest.raises(VideoError, match=r"broken\.mp4 cannot be decoded"):
        index_video(VideoFile(path))
    with pytest.raises(VideoError, match=r"missing\.mp4 cannot be decoded: No such file"):
        index_video(VideoFile(tmp_path / "missing.mp4"))
    with pytest.raises(VideoError, match=r"there is no video .*missing\.mp4"):
        index_file(tmp_path / "missing.mp4")


def test_an_encoding_that_is_not_known_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 5)
    content = path.read_bytes()
    place = content.index(b"avc1", content.index(b"stsd"))
    path.write_bytes(content[:place] + b"zzz9" + content[place + 4 :])
    with pytest.raises(VideoError, match=r"a\.mp4 is encoded in a way that is not known here, or damaged"):
        index_file(path)


def test_a_file_that_was_cut_lacks_frames_or_cannot_be_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "counter.mkv", LENGTH, "libx264", {"g": "10"})
    whole = index_video(VideoFile(path))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    cut = index_video(VideoFile(path))
    assert 0 < len(cut) < LENGTH
    with pytest.raises(VideoError, match=r"counter\.mkv has no intact frame"):
        TimedFrames(VideoFile(path), whole, range(LENGTH))[-1]


def test_a_file_that_is_gone_is_named_when_frames_are_asked_for(tmp_path: Path) -> None:
    frames = open_video(write(tmp_path / "counter.mp4", 4))
    (tmp_path / "counter.mp4").unlink()
    with pytest.raises(VideoError, match=r"counter\.mp4 cannot be decoded: No such file"):
        frames[0]


def test_damage_inside_a_file_is_not_painted_over(tmp_path: Path) -> None:
    path = write(tmp_path / "counter.mp4", LENGTH, "libx264", {"g": "10", "bf": "0"})
    frames = open_video(path)
    content = bytearray(path.read_bytes())
    data = content.index(b"mdat")
    content[data + 1000 : data + 1600] = bytes(600)
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"counter\.mp4"):
        frames[:]


def test_an_index_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "counter.mp4", 4)
    assert index_file(path) is index_file(path)
    assert len(index_file(path)) == 4
    write(path, 6)
    assert len(index_file(path)) == 6
