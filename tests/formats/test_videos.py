from __future__ import annotations

import csv
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
from robometer_rl.formats.dataset import DatasetOptions
from robometer_rl.formats.table import detect_format
from robometer_rl.formats.videos import VideosConfig, open_dataset, read_videos
from robometer_rl.frames import Clip
from robometer_rl.relabeling.commands import relabel
from robometer_rl.relabeling.engine import Labeller
from robometer_rl.rewards import RewardSpec
from robometer_rl.video import VideoError, read_recording, write_video
from tests.fixed_models import PixelModel
from tests.relabeling.episodes import TASK, Recorded, live_rewards, record
from tests.relabeling.kinds import content


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


def listed(video: str = "videos/photos", **fields: Any) -> dict[str, Any]:
    return {"video": video, "task": "pick up the cube", "quality": "successful"} | fields


def read_one(folder: Path, **fields: Any) -> Trajectory | Unreadable:
    write_lines(folder, listed(**fields))
    (reading,) = read_videos(VideosConfig(folder))
    return reading


def test_every_kind_of_recording_is_read_in_the_order_of_the_lines(folder: Path) -> None:
    names = ["pick_03.webm", "photos", "pick 01.mp4", "pick_02.gif"]
    write_lines(folder, *(listed(f"videos/{name}") for name in names))
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
    records = [listed("videos/pick 01.mp4"), listed(), listed("videos/pick 01.mp4", task="wave", quality="failure")]
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
    write_lines(folder, listed(), listed(**fields), listed("videos/pick_02.gif"))
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
    write_lines(folder, listed(), "", line)
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
    write_lines(folder, listed(video), listed("videos/own.mp4"))
    refused, own = read_videos(VideosConfig(folder))
    assert isinstance(refused, Unreadable)
    assert "secret.mp4" in refused.reason
    assert isinstance(own, Trajectory)


def test_a_stated_orientation_wins_and_an_assumed_one_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_lines(folder, listed())
    with caplog.at_level("INFO", "robometer_rl"):
        (stored,) = read_videos(VideosConfig(path))
        assert ["--orientation says otherwise" in message for message in caplog.messages] == [True]
        (flipped,) = read_videos(VideosConfig(path, orientation="flip"))
        assert len(caplog.messages) == 1
    np.testing.assert_array_equal(flipped.frames[:], stored.frames[:][:, ::-1])


# --- labels ---


@pytest.fixture
def takes(tmp_path):
    takes = tmp_path / "videos"
    takes.mkdir()
    for number, length in enumerate((4, 9)):
        write_video(takes / f"take_{number}.mp4", record(length, number, size=32).cameras["front"], fps=10)
    return takes


def label(takes, spec=None, **options):
    dataset = open_dataset(DatasetOptions(takes, **options))
    writer = dataset.writer("sidecar")
    return relabel(dataset, Labeller(PixelModel(), spec or RewardSpec()), writer), writer.destination


def rows(output):
    with (output / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_videos_gets_a_table_with_what_the_live_wrapper_pays(takes):
    before = content(takes)
    labels, output = label(takes, RewardSpec("level"), tasks=(TASK,))
    assert output == takes.with_name("videos-robometer")
    assert content(takes) == before
    for name in ("take_0.mp4", "take_1.mp4"):
        frames = read_recording(takes / name).frames
        recorded = Recorded({"front": frames}, np.zeros(len(frames) - 1))
        found = [row for row in rows(output) if row["video"] == name]
        assert [int(row["frame"]) for row in found] == list(range(len(frames)))
        assert found[0]["reward"] == ""
        paid = np.array([float(row["reward"]) for row in found[1:]])
        np.testing.assert_allclose(paid, live_rewards(recorded, PixelModel(), RewardSpec("level")), rtol=0, atol=1e-6)
        progress = np.array([row["progress"] for row in found], np.float32)
        np.testing.assert_array_equal(progress, labels.episodes[name].progress)
        np.testing.assert_array_equal(paid, labels.episodes[name].rewards)


def test_a_list_says_what_videos_show_and_bad_entries_are_skipped(takes):
    lines = [
        {"video": "take_0.mp4", "task": "open", "quality": "successful", "instructions": ["pull"], "split": "test"},
        {"video": "take_0.mp4", "task": "close", "quality": "failure"},
        {"video": "take_0.mp4", "task": "close"},
        {"video": "take_1.mp4", "task": " "},
        {"video": "gone.mp4", "task": "open"},
        {"video": "notes.mp4", "task": "open"},
    ]
    (takes / "notes.mp4").write_text("not a video")
    (takes / "videos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = open_dataset(DatasetOptions(takes))
    first, second = (dataset.episode(key) for key in dataset.keys[:2])
    assert (first.tasks, first.success) == (("open", "pull"), True)
    assert (second.tasks, second.success) == (("close",), False)
    assert (first.num_frames, first.num_steps, first.terminated, first.truncated) == (5, 4, False, True)
    labels, output = label(takes)
    reasons = {entry.name: entry.reason for entry in labels.skipped}
    assert len(reasons) == 4
    for message in ("listed with this task before", "'task' is ' '", "no video", "cannot be decoded"):
        assert any(message in reason for reason in reasons.values())
    assert {(row["video"], row["task"]) for row in rows(output)} == {("take_0.mp4", "open"), ("take_0.mp4", "close")}


def test_a_damaged_video_is_skipped(takes):
    whole = (takes / "take_1.mp4").read_bytes()
    (takes / "take_1.mp4").write_bytes(whole[: len(whole) // 3])
    labels, _ = label(takes, tasks=(TASK,))
    assert list(labels.episodes) == ["take_0.mp4"]
    assert [entry.name for entry in labels.skipped] == ["take_1.mp4"]


def test_videos_without_a_task_need_one(takes, tmp_path):
    assert detect_format(takes) == "videos"
    with pytest.raises(SourceError, match="what the task is; give it"):
        open_dataset(DatasetOptions(takes))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds neither"):
        open_dataset(DatasetOptions(tmp_path / "empty", tasks=(TASK,)))
    with pytest.raises(SourceError, match="no camera is called"):
        open_dataset(DatasetOptions(takes, ("left",), (TASK,)))


def test_frames_are_read_when_they_are_asked_for_and_turned(takes):
    path = takes / "take_1.mp4"
    expected = read_recording(path).frames
    dataset = open_dataset(DatasetOptions(takes, (), (TASK,), "flip"))
    video = dataset.episode("take_1.mp4").cameras["video"]
    assert video.shape == expected.shape
    for part in (slice(0, 4), slice(4, 10), slice(1, 9, 3), slice(3, 3)):
        np.testing.assert_array_equal(video[part], expected[part, ::-1])
    path.write_bytes((takes / "take_0.mp4").read_bytes())
    with pytest.raises(VideoError, match="changed since it was opened, when it had 10 frames"):
        video[0:10]


def test_another_list_is_another_dataset(takes):
    (takes / "videos.jsonl").write_text(json.dumps({"video": "take_0.mp4", "task": "open"}))
    before = open_dataset(DatasetOptions(takes)).fingerprint()
    assert open_dataset(DatasetOptions(takes)).fingerprint() == before
    (takes / "videos.jsonl").write_text(json.dumps({"video": "take_0.mp4", "task": "shut"}))
    assert open_dataset(DatasetOptions(takes)).fingerprint() != before


def test_names_that_lead_out_of_the_folder_are_skipped(takes):
    (takes.parent / "secret.mp4").write_bytes((takes / "take_0.mp4").read_bytes())
    (takes / "link.mp4").symlink_to(takes.parent / "secret.mp4")
    names = ("../secret.mp4", "x/../../secret.mp4", str(takes.parent / "secret.mp4"), "link.mp4", "take_0.mp4")
    lines = [{"video": name, "task": "open"} for name in names]
    (takes / "videos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = open_dataset(DatasetOptions(takes))
    assert dataset.keys == ("take_0.mp4",)
    assert len(dataset.skipped) == 4


def test_outcomes_that_import_would_refuse_are_refused(takes):
    lines = [{"video": "take_0.mp4", "task": "open", "quality": "sucessful"}, {"video": "take_1.mp4", "task": "open"}]
    (takes / "videos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = open_dataset(DatasetOptions(takes))
    assert dataset.keys == ("take_1.mp4",)
    assert "expected one of successful, suboptimal, failure" in dataset.skipped[0].reason
