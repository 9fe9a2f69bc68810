from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.formats.roboreward import RoboRewardConfig, read_roboreward
from robometer_rl.video import write_video


def row(file_name: str = "bridge/0001.mp4", **fields: Any) -> dict[str, Any]:
    return {"file_name": file_name, "task": "put the pot in the sink", "reward": 3} | fields


def write_split(folder: Path, *rows: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    for each in rows:
        video = folder / str(each.get("file_name", "unnamed.mp4"))
        video.parent.mkdir(exist_ok=True)
        write_video(video, np.full((4, 32, 32, 3), 90, np.uint8), fps=5)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two splits of the layout in which RoboReward is published."""
    path = tmp_path / "RoboReward"
    write_split(
        path / "train",
        row(reward=1, gpt5_mini_check="The pot stays on the table."),
        row("bridge/0002.mp4", reward=4),
        row("robo_arena/a.mp4", reward=5),
    )
    write_split(path / "test", row("droid/a.mp4"))
    return path


def test_rewards_become_partial_success_and_folders_become_splits_and_sources(dataset: Path, tmp_path: Path) -> None:
    trajectories = list(read_roboreward(RoboRewardConfig(dataset)))
    found = [(t.split, t.data_source, t.partial_success, t.quality_label) for t in trajectories]
    assert found == [
        ("test", "roboreward_droid", 0.5, "failure"),
        ("train", "roboreward_bridge", 0.0, "failure"),
        ("train", "roboreward_bridge", 0.75, "failure"),
        ("train", "roboreward_roboarena", 1.0, "successful"),
    ]
    assert trajectories[1].metadata == {"reward": 1, "gpt5_mini_check": "The pot stays on the table.", "fps": 5}
    assert trajectories[1].source == "train/bridge/0001.mp4"
    assert trajectories[1].frames[:].shape == (4, 32, 32, 3)
    assert trajectories[1].success is None
    store = TrajectoryStore(tmp_path / "store")
    for trajectory in trajectories:
        assert isinstance(trajectory, Trajectory)
        store.append(trajectory)
    assert len(store) == 4


def test_a_split_or_a_file_may_be_read_alone_and_gives_the_same_ids(dataset: Path) -> None:
    everything = [trajectory.id for trajectory in read_roboreward(RoboRewardConfig(dataset))]
    for path in (dataset / "train", dataset / "train" / "metadata.jsonl"):
        assert [trajectory.id for trajectory in read_roboreward(RoboRewardConfig(path))] == everything[1:]


def test_one_video_may_be_graded_for_several_tasks(tmp_path: Path) -> None:
    write_split(tmp_path / "train", row(reward=5), row(task="open the drawer", reward=1))
    first, second = read_roboreward(RoboRewardConfig(tmp_path))
    assert first.id != second.id
    assert first.id.startswith("roboreward-train-bridge+0001.mp4-")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"reward": 0}, ["'reward' is 0", "from 1 to 5"]),
        ({"reward": 6}, ["'reward' is 6"]),
        ({"reward": 2.5}, ["'reward' is 2.5"]),
        ({"reward": None}, ["'reward' is missing"]),
        ({"reward": True}, ["'reward' is True"]),
        ({"task": " "}, ["'task'"]),
    ],
)
def test_a_bad_row_is_unreadable_and_says_why(tmp_path: Path, fields: dict[str, Any], words: list[str]) -> None:
    write_split(tmp_path / "val", row(), row("bridge/0002.mp4", **fields), row("bridge/0003.mp4"))
    first, bad, last = read_roboreward(RoboRewardConfig(tmp_path))
    assert isinstance(first, Trajectory)
    assert isinstance(last, Trajectory)
    assert isinstance(bad, Unreadable)
    assert bad.name == f"{tmp_path / 'val' / 'metadata.jsonl'}, line 2"
    assert all(word in bad.reason for word in words)


def test_a_missing_video_is_unreadable(dataset: Path) -> None:
    (dataset / "train" / "bridge" / "0002.mp4").unlink()
    readings = list(read_roboreward(RoboRewardConfig(dataset)))
    assert [isinstance(reading, Trajectory) for reading in readings] == [True, True, False, True]
    assert "0002.mp4" in readings[2].reason


def test_a_folder_without_metadata_raises_at_once(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"metadata\.jsonl"):
        read_roboreward(RoboRewardConfig(tmp_path))
    with pytest.raises(SourceError, match="there is no file"):
        read_roboreward(RoboRewardConfig(tmp_path / "metadata.jsonl"))


def test_a_line_names_videos_of_its_folder(tmp_path: Path) -> None:
    write_split(tmp_path / "train", row("a.mp4"))
    write_split(tmp_path / "other", row("b.mp4"))
    lines = [row("../other/b.mp4"), row("a.mp4")]
    (tmp_path / "train" / "metadata.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    refused, own = read_roboreward(RoboRewardConfig(tmp_path / "train"))
    assert isinstance(refused, Unreadable)
    assert "leads out" in refused.reason
    assert isinstance(own, Trajectory)
