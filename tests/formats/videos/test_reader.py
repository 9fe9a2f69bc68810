from __future__ import annotations

import json
import pickle
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from robometer_rl.data import video_frames
from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.data.video_frames import VideoFrames
from robometer_rl.formats.videos.reader import VideosConfig, read_videos
from robometer_rl.frames import Clip
from robometer_rl.video import VideoError, read_recording, write_video


def moving_square(count: int = 6, height: int = 32, width: int = 48) -> np.ndarray:
    frames = np.full((count, height, width, 3), 60, np.uint8)
    for number, frame in enumerate(frames):
        frame[4:20, 6 * number : 6 * number + 12] = (230, 120, 30)
    return frames


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One recording of every kind."""
    frames = moving_square()
    videos = tmp_path / "videos"
    (videos / "photos").mkdir(parents=True)
    write_video(videos / "pick 01.mp4", frames, fps=10)
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(videos / "pick_02.gif", save_all=True, append_images=images[1:], duration=100)
    for number, image in enumerate(images):
        image.save(videos / "photos" / f"{number}.png")
    writer = imageio_ffmpeg.write_frames(
        str(videos / "pick_03.webm"), (48, 32), fps=10, codec="libvpx", macro_block_size=1
    )
    next(writer)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    return tmp_path


def write_lines(folder: Path, *records: dict[str, Any] | str) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path = folder / "videos.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def record(video: str = "videos/photos", **fields: Any) -> dict[str, Any]:
    return {"video": video, "task": "pick up the cube", "quality": "successful"} | fields


def read_one(folder: Path, **fields: Any) -> Trajectory | Unreadable:
    write_lines(folder, record(**fields))
    (reading,) = read_videos(VideosConfig(folder))
    return reading


def test_every_kind_of_recording_is_read_in_the_order_of_the_lines(folder: Path) -> None:
    names = ["pick_03.webm", "photos", "pick 01.mp4", "pick_02.gif"]
    write_lines(folder, *(record(f"videos/{name}") for name in names))
    trajectories = list(read_videos(VideosConfig(folder, data_source="kitchen")))
    assert [trajectory.source for trajectory in trajectories] == [f"videos/{name}" for name in names]
    assert [trajectory.metadata.get("fps") for trajectory in trajectories] == [10, None, 10, 10]
    for trajectory in trajectories:
        assert isinstance(trajectory, Trajectory)
        assert trajectory.data_source == "kitchen"
        assert np.abs(trajectory.frames[:].astype(int) - moving_square()).mean() < 6


def test_every_field_reaches_the_trajectory(folder: Path) -> None:
    trajectory = read_one(
        folder,
        quality="suboptimal",
        partial_success=0.5,
        success_frame=4,
        instructions=["grab the cube", "pick up the cube", "lift the cube"],
        skill="expert",
        is_robot=False,
        split="test",
        metadata={"operator": "A"},
    )
    assert isinstance(trajectory, Trajectory)
    assert (trajectory.task, trajectory.quality_label) == ("pick up the cube", "suboptimal")
    assert trajectory.partial_success == 0.5
    assert trajectory.success.tolist() == [False, False, False, False, True, True]
    assert trajectory.instructions == ("grab the cube", "lift the cube")
    assert (trajectory.skill, trajectory.is_robot, trajectory.split) == ("expert", False, "test")
    assert (trajectory.source, trajectory.metadata) == ("videos/photos", {"operator": "A"})


def test_what_the_file_does_not_say_is_not_estimated(folder: Path) -> None:
    trajectory = read_one(folder, partial_success=None)
    assert isinstance(trajectory, Trajectory)
    assert trajectory.partial_success is None
    assert trajectory.success is None
    assert trajectory.steps is None
    assert (trajectory.skill, trajectory.instructions) == (None, ())
    assert (trajectory.is_robot, trajectory.split) == (True, "train")


def test_readings_can_be_stored_and_ids_do_not_depend_on_the_order_of_lines(folder: Path, tmp_path: Path) -> None:
    # One video may be shown with several tasks.
    records = [record("videos/pick 01.mp4"), record(), record("videos/pick 01.mp4", task="wave", quality="failure")]
    path = write_lines(folder, *records)
    store = TrajectoryStore(tmp_path / "store")
    for trajectory in read_videos(VideosConfig(path)):
        assert isinstance(trajectory, Trajectory)
        store.append(trajectory)
    assert len(store) == 3
    assert all(name.startswith(("videos-videos+pick=2001.mp4-", "videos-videos+photos-")) for name in store.ids())
    write_lines(folder, *reversed(records))
    assert {reading.id for reading in read_videos(VideosConfig(folder))} == set(store.ids())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task": ""}, ["'task' is ''", "instruction"]),
        ({"task": None}, ["'task' is missing"]),
        ({"quality": "perfect"}, ["'perfect'", "successful, suboptimal, failure"]),
        ({"partial_success": 1.5}, ["1.5", "[0, 1]"]),
        ({"partial_success": -0.1}, ["-0.1", "[0, 1]"]),
        ({"partial_success": True}, ["True", "[0, 1]"]),
        ({"partial_success": "half"}, ["'half'", "[0, 1]"]),
        ({"success_frame": 6}, ["6", "frames 0 to 5"]),
        ({"success_frame": 2.0}, ["2.0", "number of a frame"]),
        ({"success_frame": 2, "quality": "failure"}, ["'failure'", "'success_frame' is 2"]),
        ({"instructions": "grab it"}, ["'grab it'", "list"]),
        ({"metadata": [1]}, ["[1]", "object"]),
        ({"partial_sucess": 0.5}, ["unknown field 'partial_sucess'", "partial_success"]),
        ({"video": "videos/missing.mp4"}, ["no video", "missing.mp4"]),
        ({"video": "videos/broken.mp4"}, ["broken.mp4", "cannot be decoded"]),
        ({"video": "videos/notes.txt"}, ["notes.txt", ".mp4"]),
        ({"video": "/videos/pick_02.gif"}, ["relative"]),
        ({"video": "videos/short"}, ["1 frame", "at least 2"]),
    ],
)
def test_a_bad_line_is_unreadable_and_says_why(folder: Path, fields: dict[str, Any], words: list[str]) -> None:
    (folder / "videos" / "broken.mp4").write_bytes(b"not a video" * 100)
    (folder / "videos" / "notes.txt").write_text("hello")
    (folder / "videos" / "short").mkdir()
    Image.fromarray(moving_square(1)[0]).save(folder / "videos" / "short" / "0.png")
    write_lines(folder, record(), record(**fields), record("videos/pick_02.gif"))
    first, bad, last = read_videos(VideosConfig(folder))
    assert isinstance(first, Trajectory)
    assert isinstance(last, Trajectory)
    assert isinstance(bad, Unreadable)
    assert bad.name == f"{folder / 'videos.jsonl'}, line 2"
    for word in words:
        assert word in bad.reason


@pytest.mark.parametrize(
    "line", ['{"video": ', '["videos/photos"]', '{"video": "videos/photos", "partial_success": NaN}']
)
def test_a_line_that_is_no_object_is_unreadable_and_blank_lines_count(folder: Path, line: str) -> None:
    write_lines(folder, record(), "", line)
    first, bad = read_videos(VideosConfig(folder))
    assert isinstance(first, Trajectory)
    assert isinstance(bad, Unreadable)
    assert bad.name.endswith("line 3")
    assert "JSON" in bad.reason


@pytest.mark.parametrize("text", ["", "[\n]", "video,task\na.mp4,open\n"])
def test_a_file_of_another_structure_raises_at_once(folder: Path, text: str) -> None:
    (folder / "videos.jsonl").write_text(text)
    with pytest.raises(SourceError, match="one object per line"):
        read_videos(VideosConfig(folder))


def test_a_missing_or_binary_file_raises_at_once(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"there is no file .*videos\.jsonl"):
        read_videos(VideosConfig(folder))
    with pytest.raises(SourceError, match="UTF-8"):
        read_videos(VideosConfig(folder / "videos" / "pick 01.mp4"))


def test_frames_stay_in_the_file(folder: Path) -> None:
    path = folder / "videos" / "pick 01.mp4"
    frames = VideoFrames(path)
    everything = read_recording(path).frames
    assert frames.shape == everything.shape == (6, 32, 48, 3)
    assert len(pickle.dumps(frames)) < 1000
    copy = pickle.loads(pickle.dumps(frames))
    np.testing.assert_array_equal(copy[2:5], everything[2:5])
    np.testing.assert_array_equal(copy[-1], everything[5])
    np.testing.assert_array_equal(Clip(copy, "push").read([5, 0, 3]), everything[[5, 0, 3]])
    np.testing.assert_array_equal(np.asarray(copy), everything)
    with pytest.raises(IndexError):
        copy[6]


def test_a_video_that_changed_is_noticed(folder: Path) -> None:
    path = folder / "videos" / "pick 01.mp4"
    frames = VideoFrames(path)
    write_video(path, moving_square(4), fps=10)
    with pytest.raises(VideoError, match="changed"):
        frames[:]
    path.unlink()
    with pytest.raises(VideoError, match="no video"):
        frames[:]


def test_one_recording_at_most_is_remembered(folder: Path) -> None:
    for name in ("pick_02.gif", "pick_03.webm"):
        VideoFrames(folder / "videos" / name)
    assert video_frames._decode_version.cache_info().currsize == 1


def test_a_video_that_a_telephone_turned_is_upright(folder: Path) -> None:
    upright, turned = folder / "videos" / "pick 01.mp4", folder / "videos" / "turned.mp4"
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run(
        [ffmpeg, "-loglevel", "error", "-display_rotation", "90", "-i", upright, "-c", "copy", turned], check=True
    )
    frames = VideoFrames(turned)
    assert frames.shape == (6, 48, 32, 3)
    np.testing.assert_array_equal(frames[:], np.rot90(VideoFrames(upright)[:], axes=(1, 2)))


@pytest.mark.parametrize("video", ["../secret.mp4", "/tmp/secret.mp4", "videos/../../secret.mp4", "videos/link.mp4"])
def test_a_line_names_recordings_of_its_folder(tmp_path: Path, video: str) -> None:
    folder = tmp_path / "robot"
    (folder / "videos").mkdir(parents=True)
    write_video(tmp_path / "secret.mp4", moving_square(), fps=10)
    write_video(folder / "videos" / "own.mp4", moving_square(), fps=10)
    (folder / "videos" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    write_lines(folder, record(video), record("videos/own.mp4"))
    refused, own = read_videos(VideosConfig(folder))
    assert isinstance(refused, Unreadable)
    assert "secret.mp4" in refused.reason
    assert isinstance(own, Trajectory)


def test_a_stated_orientation_wins_and_an_assumed_one_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_lines(folder, record())
    with caplog.at_level("INFO", "robometer_rl"):
        (stored,) = read_videos(VideosConfig(path))
        assert ["--orientation says otherwise" in message for message in caplog.messages] == [True]
        (flipped,) = read_videos(VideosConfig(path, orientation="flip"))
        assert len(caplog.messages) == 1
    np.testing.assert_array_equal(flipped.frames[:], stored.frames[:][:, ::-1])
