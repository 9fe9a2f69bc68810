"""Frames that stay in the video they came in; archives of images are tested with the store."""

import hashlib
import os
import zipfile

import numpy as np
import pytest

from robometer_rl.data.frame_files import write_frames
from robometer_rl.data.store import ChecksumError, TrajectoryStore
from robometer_rl.data.subsampling import thin
from robometer_rl.data.video_frames import VideoFrames
from robometer_rl.frames import FrameError
from robometer_rl.video import VideoError, write_video
from tests.data.runs import trajectory


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "recorded" / "pick.mp4"
    path.parent.mkdir()
    write_video(path, [np.full((32, 48, 3), 12 * number, np.uint8) for number in range(20)], fps=10)
    return path


def run_of(video, name="a", **fields):
    plain = dict.fromkeys(("success", "progress", "distance", "steps", "proprioception", "actions"))
    return trajectory(name, frames=VideoFrames(video), **plain, **fields)


def test_a_video_is_kept_as_it_is(tmp_path, video):
    store = TrajectoryStore(tmp_path / "store")
    store.append(run_of(video), keep_video=True)
    store.append(thin(run_of(video, "b"), every=7), keep_video=True)
    store.seal()
    (kept,) = (tmp_path / "store" / "videos").iterdir()
    assert kept.read_bytes() == video.read_bytes()
    assert os.path.samefile(kept, video), "no second copy on the same disk"
    assert list((tmp_path / "store" / "frames").iterdir()) == []

    store = TrajectoryStore.open(tmp_path / "store")
    expected = np.asarray(VideoFrames(video))
    np.testing.assert_array_equal(store["a"].frames[:], expected)
    np.testing.assert_array_equal(store["a"].clip().read([3, 19, 0]), expected[[3, 19, 0]])
    np.testing.assert_array_equal(store["b"].frames[:], expected[[0, 7, 14, 19]])
    np.testing.assert_array_equal(store["b"].clip().read([1, 3]), expected[[7, 19]])
    store.verify()


def test_a_link_that_a_killed_process_left_is_no_obstacle(tmp_path, video):
    store = TrajectoryStore.create(tmp_path / "store")
    (store.path / "videos").mkdir()
    sha256 = hashlib.sha256(video.read_bytes()).hexdigest()
    left = store.path / "videos" / f".{sha256}.mp4.partial"
    left.mkdir()
    os.link(video, left / f"{sha256}.mp4")
    store.append(run_of(video), keep_video=True)
    assert [file.name for file in (store.path / "videos").iterdir()] == [f"{sha256}.mp4"]
    assert video.exists()


def test_it_outlives_the_original(tmp_path, video):
    store = TrajectoryStore(tmp_path / "store")
    store.append(run_of(video), keep_video=True)
    video.unlink()
    assert TrajectoryStore.open(tmp_path / "store")["a"].frames[:].shape == (20, 32, 48, 3)


def test_a_changed_video_is_found(tmp_path, video):
    store = TrajectoryStore(tmp_path / "store")
    store.append(run_of(video), keep_video=True)
    (kept,) = (tmp_path / "store" / "videos").iterdir()
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    with pytest.raises(ChecksumError, match=r"'a'.*has the checksum"):
        store["a"].frames[:1]


def test_other_frames_become_images_all_the_same(tmp_path, video):
    store = TrajectoryStore(tmp_path / "store")
    store.append(trajectory(), keep_video=True)
    store.append(run_of(video, "b"))
    assert sorted(path.name for path in (tmp_path / "store" / "frames").iterdir()) == ["a.zip", "b.zip"]
    assert not (tmp_path / "store" / "videos").exists()


def test_a_video_that_breaks_off_is_refused(tmp_path, video):
    frames = VideoFrames(video)
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 2])
    store = TrajectoryStore(tmp_path / "store")
    with pytest.raises(VideoError):
        store.append(trajectory(frames=frames, num_frames=20), keep_video=True)
    assert len(store) == 0


class Failing:
    """A source that cannot be read to its end."""

    shape = (100, 4, 4, 3)

    def __len__(self):
        return 100

    def __getitem__(self, index):
        if index.stop > 64:
            raise OSError("inflate failed")
        return np.zeros((index.stop - index.start, 4, 4, 3), np.uint8)


def test_a_source_that_fails_leaves_nothing(tmp_path):
    store = TrajectoryStore.create(tmp_path)
    with pytest.raises(FrameError, match=r"frame 64 or one soon after.*inflate failed"):
        store.append(trajectory("a", num_frames=100, frames=Failing()))
    assert list((tmp_path / "frames").iterdir()) == []
    assert list((tmp_path / "rows").iterdir()) == []


def test_images_that_are_missing_or_of_another_size_are_found(tmp_path):
    store = TrajectoryStore(tmp_path)
    for name, shape in (("fewer", (4, 6, 7, 3)), ("smaller", (5, 6, 6, 3))):
        store.append(trajectory(name))
        written = write_frames(tmp_path / "frames" / f"{name}.zip", name, np.zeros(shape, np.uint8))
        frames = store[name].frames
        frames._expected = written.sha256
        with pytest.raises(ChecksumError, match=f"'{name}'.*(4 images, expected 5|shape)"):
            frames.verify()


def test_an_image_that_is_none_is_found(tmp_path):
    store = TrajectoryStore(tmp_path)
    store.append(trajectory())
    frames = store["a"].frames
    with zipfile.ZipFile(frames.source, "w") as archive:
        for number in range(5):
            archive.writestr(f"{number:06d}.png", b"no picture")
    frames._expected = None
    with pytest.raises(ChecksumError, match=r"'a'.*cannot be decoded"):
        frames.verify()
    with pytest.raises(ChecksumError, match=r"'a'.*cannot be decoded"):
        frames[2:3]
