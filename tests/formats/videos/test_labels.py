from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from robometer_rl.data.reading import SourceError
from robometer_rl.formats.dataset import DatasetOptions
from robometer_rl.formats.table import detect_format
from robometer_rl.formats.videos.labels import open_dataset
from robometer_rl.relabeling.commands import relabel
from robometer_rl.relabeling.engine import Labeller
from robometer_rl.rewards import RewardSpec
from robometer_rl.video import VideoError, read_recording, write_video
from tests.fixed_models import PixelModel
from tests.relabeling.episodes import TASK, Recorded, live_rewards, record
from tests.relabeling.kinds import content


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, length in enumerate((4, 9)):
        write_video(folder / f"take_{number}.mp4", record(length, number, size=32).cameras["front"], fps=10)
    return folder


def label(folder, spec=None, **options):
    dataset = open_dataset(DatasetOptions(folder, **options))
    writer = dataset.writer("sidecar")
    return relabel(dataset, Labeller(PixelModel(), spec or RewardSpec()), writer), writer.destination


def rows(output):
    with (output / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_videos_gets_a_table_with_what_the_live_wrapper_pays(folder):
    before = content(folder)
    labels, output = label(folder, RewardSpec("level"), tasks=(TASK,))
    assert output == folder.with_name("videos-robometer")
    assert content(folder) == before
    for name in ("take_0.mp4", "take_1.mp4"):
        frames = read_recording(folder / name).frames
        recorded = Recorded({"front": frames}, np.zeros(len(frames) - 1))
        found = [row for row in rows(output) if row["video"] == name]
        assert [int(row["frame"]) for row in found] == list(range(len(frames)))
        assert found[0]["reward"] == ""
        paid = np.array([float(row["reward"]) for row in found[1:]])
        np.testing.assert_allclose(paid, live_rewards(recorded, PixelModel(), RewardSpec("level")), rtol=0, atol=1e-6)
        progress = np.array([row["progress"] for row in found], np.float32)
        np.testing.assert_array_equal(progress, labels.episodes[name].progress)
        np.testing.assert_array_equal(paid, labels.episodes[name].rewards)


def test_a_list_says_what_videos_show_and_bad_entries_are_skipped(folder):
    lines = [
        {"video": "take_0.mp4", "task": "open", "quality": "successful", "instructions": ["pull"], "split": "test"},
        {"video": "take_0.mp4", "task": "close", "quality": "failure"},
        {"video": "take_0.mp4", "task": "close"},
        {"video": "take_1.mp4", "task": " "},
        {"video": "gone.mp4", "task": "open"},
        {"video": "notes.mp4", "task": "open"},
    ]
    (folder / "notes.mp4").write_text("not a video")
    (folder / "videos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = open_dataset(DatasetOptions(folder))
    first, second = (dataset.episode(key) for key in dataset.keys[:2])
    assert (first.tasks, first.success) == (("open", "pull"), True)
    assert (second.tasks, second.success) == (("close",), False)
    assert (first.num_frames, first.num_steps, first.terminated, first.truncated) == (5, 4, False, True)
    labels, output = label(folder)
    reasons = {entry.name: entry.reason for entry in labels.skipped}
    assert len(reasons) == 4
    for message in ("listed with this task before", "'task' is ' '", "no video", "cannot be decoded"):
        assert any(message in reason for reason in reasons.values())
    assert {(row["video"], row["task"]) for row in rows(output)} == {("take_0.mp4", "open"), ("take_0.mp4", "close")}


def test_a_damaged_video_is_skipped(folder):
    whole = (folder / "take_1.mp4").read_bytes()
    (folder / "take_1.mp4").write_bytes(whole[: len(whole) // 3])
    labels, _ = label(folder, tasks=(TASK,))
    assert list(labels.episodes) == ["take_0.mp4"]
    assert [entry.name for entry in labels.skipped] == ["take_1.mp4"]


def test_videos_without_a_task_need_one(folder, tmp_path):
    assert detect_format(folder) == "videos"
    with pytest.raises(SourceError, match="what the task is; give it"):
        open_dataset(DatasetOptions(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds neither"):
        open_dataset(DatasetOptions(tmp_path / "empty", tasks=(TASK,)))
    with pytest.raises(SourceError, match="no camera is called"):
        open_dataset(DatasetOptions(folder, ("left",), (TASK,)))


def test_frames_are_read_when_they_are_asked_for_and_turned(folder):
    path = folder / "take_1.mp4"
    expected = read_recording(path).frames
    dataset = open_dataset(DatasetOptions(folder, (), (TASK,), "flip"))
    video = dataset.episode("take_1.mp4").cameras["video"]
    assert video.shape == expected.shape
    for part in (slice(0, 4), slice(4, 10), slice(1, 9, 3), slice(3, 3)):
        np.testing.assert_array_equal(video[part], expected[part, ::-1])
    path.write_bytes((folder / "take_0.mp4").read_bytes())
    with pytest.raises(VideoError, match="changed since it was opened, when it had 10 frames"):
        video[0:10]


def test_another_list_is_another_dataset(folder):
    (folder / "videos.jsonl").write_text(json.dumps({"video": "take_0.mp4", "task": "open"}))
    before = open_dataset(DatasetOptions(folder)).fingerprint()
    assert open_dataset(DatasetOptions(folder)).fingerprint() == before
    (folder / "videos.jsonl").write_text(json.dumps({"video": "take_0.mp4", "task": "shut"}))
    assert open_dataset(DatasetOptions(folder)).fingerprint() != before


def test_names_that_lead_out_of_the_folder_are_skipped(folder):
    (folder.parent / "secret.mp4").write_bytes((folder / "take_0.mp4").read_bytes())
    (folder / "link.mp4").symlink_to(folder.parent / "secret.mp4")
    names = ("../secret.mp4", "x/../../secret.mp4", str(folder.parent / "secret.mp4"), "link.mp4", "take_0.mp4")
    lines = [{"video": name, "task": "open"} for name in names]
    (folder / "videos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = open_dataset(DatasetOptions(folder))
    assert dataset.keys == ("take_0.mp4",)
    assert len(dataset.skipped) == 4


def test_outcomes_that_import_would_refuse_are_refused(folder):
    lines = [{"video": "take_0.mp4", "task": "open", "quality": "sucessful"}, {"video": "take_1.mp4", "task": "open"}]
    (folder / "videos.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = open_dataset(DatasetOptions(folder))
    assert dataset.keys == ("take_1.mp4",)
    assert "expected one of successful, suboptimal, failure" in dataset.skipped[0].reason
