"""Shards in the layout of AgiBot World, made here: whole episodes and the actions in them, read in place."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.formats.agibot import AgiBotConfig, read_agibot
from tests.formats import counters
from tests.video.test_decoding import write

LENGTH = 20
ACTIONS = [
    {"start_frame": 2, "end_frame": 9, "action_text": "Retrieve cucumber from the shelf.", "skill": "Pick"},
    {"start_frame": 9, "end_frame": 20, "action_text": "Place it into the bag.", "skill": "Place"},
]


def description(episode: int, **changes: Any) -> dict[str, Any]:
    return {
        "episode_id": episode,
        "label_info": {"action_config": ACTIONS},
        "task_name": "Pickup items in the supermarket",
        "init_scene_text": "The robot is in front of the fruit stand.",
    } | changes


def write_shard(path: Path, videos: dict[str, bytes]) -> None:
    """A shard with the given members, and what is to be skipped between them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    depth = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(depth, format="png")
    with tarfile.open(path, "w") as archive:
        for name, content in videos.items():
            episode = name.split("/")[0]
            for member, data in ((f"{episode}/depth/head_depth_000000.png", depth.getvalue()), (name, content)):
                information = tarfile.TarInfo(member)
                information.size = len(data)
                archive.addfile(information, io.BytesIO(data))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(
        tmp_path_factory.mktemp("video") / "counter.mp4", LENGTH, "libx264", {"g": "6", "bf": "2"}
    ).read_bytes()


@pytest.fixture
def dataset(tmp_path: Path, video: bytes) -> Path:
    root = tmp_path / "agibot"
    (root / "task_info").mkdir(parents=True)
    for task, episodes in ((327, (648642, 648649)), (1024, (700001,))):
        records = [description(episode) for episode in episodes]
        (root / f"task_info/task_{task}.json").write_text(json.dumps(records))
        members = {
            f"{episode}/videos/{camera}.mp4": video
            for episode in episodes
            for camera in ("head_color", "hand_left_color")
        }
        write_shard(root / f"observations/{task}/{episodes[0]}-{episodes[-1]}.tar", members)
    return root


def read(path: Path | str, **options: Any) -> list[Trajectory | Unreadable]:
    return list(read_agibot(AgiBotConfig(str(path), **options)))


def test_whole_episodes_and_their_actions(dataset: Path) -> None:
    found = read(dataset)
    assert [entry.id for entry in found] == [
        f"agibotworld-{task}-{episode}-head_color{suffix}"
        for task, episode in ((327, 648642), (327, 648649), (1024, 700001))
        for suffix in ("", "-action00", "-action01")
    ]
    whole, first, second = found[:3]
    assert whole.task == "Pickup items in the supermarket"
    assert (first.task, second.task) == ("Retrieve cucumber from the shelf.", "Place it into the bag.")
    assert counters.frame_numbers(whole.frames[:]) == list(range(LENGTH))
    assert counters.frame_numbers(first.frames[:]) == list(range(2, 9))
    assert counters.frame_numbers(second.frames[:]) == list(range(9, 20))
    assert {entry.data_source for entry in found} == {"agibotworld"}
    assert {entry.quality_label for entry in found} == {"successful"}
    assert first.source == "observations/327/648642-648649.tar#648642/videos/head_color.mp4-action00"
    assert first.metadata["action_skill"] == "Pick"
    assert first.metadata["control_hz"] == pytest.approx(10)
    assert whole.success is None
    assert whole.skill is None


def test_what_is_read_can_be_stored(dataset: Path, tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path / "store")
    for trajectory in read(dataset, tasks=(1024,)):
        assert isinstance(trajectory, Trajectory)
        store.append(trajectory)
    assert len(store) == 3
    assert counters.frame_numbers(store["agibotworld-1024-700001-head_color-action01"].frames[:]) == list(range(9, 20))


def test_tasks_cameras_and_quality_are_chosen(dataset: Path) -> None:
    found = read(dataset, tasks=(1024,), camera=("hand_left_color",), quality="suboptimal", data_source="mine")
    assert found[0].id == "mine-1024-700001-hand_left_color"
    assert {entry.quality_label for entry in found} == {"suboptimal"}
    missing = read(dataset, camera=("no_such_camera",))
    assert [(entry.name, entry.reason) for entry in missing if isinstance(entry, Unreadable)] == [
        (f"observations/{shard}.tar", "it has no camera 'no_such_camera'; it has hand_left_color, head_color")
        for shard in ("327/648642-648649", "1024/700001-700001")
    ]
    both = read(dataset, tasks=(1024,), camera=("hand_left_color", "head_color"))
    assert [entry.metadata["camera"] for entry in both] == ["head_color"] * 3 + ["hand_left_color"] * 3


def test_cameras_are_shown_in_one_picture(dataset: Path, video: bytes) -> None:
    pytest.importorskip("cv2")
    with pytest.raises(SourceError, match="a tiled picture needs several cameras"):
        read(dataset, tile=True)
    cameras = ("hand_left_color", "head_color")
    found = read(dataset, tasks=(1024,), camera=cameras, tile=True)
    assert [entry.id for entry in found] == [
        f"agibotworld-1024-700001-hand_left_color-head_color{suffix}" for suffix in ("", "-action00", "-action01")
    ]
    whole, first, _ = found
    assert isinstance(whole, Trajectory)
    assert isinstance(first, Trajectory)
    assert (whole.tiled, whole.metadata["camera"], whole.frames.shape[1:3]) == (
        True,
        "hand_left_color, head_color",
        (96, 64),
    )
    assert counters.frame_numbers(first.frames[:][:, :64]) == list(range(2, 9))
    shard = dataset / "observations/1024/700001-700001.tar"
    names = ("700001/videos/head_color.mp4", "700002/videos/hand_left_color.mp4")
    (dataset / "task_info/task_1024.json").write_text(json.dumps([description(700001), description(700002)]))
    write_shard(shard, dict.fromkeys(names, video))
    lacking = read(dataset, tasks=(1024,), camera=cameras, tile=True)
    assert [entry.reason for entry in lacking if isinstance(entry, Unreadable)] == [
        "it has no camera 'hand_left_color'; it has head_color",
        "it has no camera 'head_color'; it has hand_left_color",
    ]


def test_shards_are_read_where_they_are(dataset: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(dataset), "/agibot", recursive=True)
    local, remote = read(dataset), read("memory://agibot")
    assert [entry.id for entry in remote] == [entry.id for entry in local]
    assert counters.frame_numbers(remote[2].frames[:]) == list(range(9, 20))
    memory.rm("/agibot", recursive=True)


def bad_episodes(video: bytes) -> Iterator[tuple[str, dict[str, Any] | None, bytes, str]]:
    yield "not described", None, video, "does not describe the episode 1"
    yield "no task", description(1, task_name="  "), video, "non-empty instruction"
    yield "damaged video", description(1), b"not a video" * 50, "cannot be decoded"
    yield "actions of another kind", description(1, label_info=["?"]), video, "list"
    yield "action without a text", description(1, label_info={"action_config": [{"start_frame": 1}]}), video, "action 0"
    reversed_action = {"start_frame": 9, "end_frame": 4, "action_text": "go back"}
    yield "action reversed", description(1, label_info={"action_config": [reversed_action]}), video, "frames 9 to 4"
    long_action = {"start_frame": 9, "end_frame": 40, "action_text": "go on"}
    yield "action too long", description(1, label_info={"action_config": [long_action]}), video, "of a video of 20"
    short_action = {"start_frame": 9, "end_frame": 10, "action_text": "stop"}
    yield "action of one frame", description(1, label_info={"action_config": [short_action]}), video, "at least 2"


def test_what_is_bad_is_named_and_the_rest_is_read(tmp_path: Path, video: bytes) -> None:
    for name, record, content, reason in bad_episodes(video):
        root = tmp_path / name
        (root / "task_info").mkdir(parents=True)
        records = [*([record] if record else []), description(2)]
        (root / "task_info/task_5.json").write_text(json.dumps(records))
        shard = {"1/videos/head_color.mp4": content, "2/videos/head_color.mp4": video}
        write_shard(root / "observations/5/1-2.tar", shard)
        found = read(root)
        bad = [entry for entry in found if isinstance(entry, Unreadable)]
        assert [entry.name.startswith("observations/5/1-2.tar#1/videos/head_color.mp4") for entry in bad] == [True], (
            name
        )
        assert reason in bad[0].reason, name
        assert [entry.id for entry in found if isinstance(entry, Trajectory)][-3:] == [
            "agibotworld-5-2-head_color",
            "agibotworld-5-2-head_color-action00",
            "agibotworld-5-2-head_color-action01",
        ], name


@pytest.mark.parametrize("kept", [0, 100, 600], ids=["between members", "in a header", "in a member"])
def test_a_shard_that_breaks_off_costs_its_rest(dataset: Path, kept: int) -> None:
    shard = dataset / "observations/327/648642-648649.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[: content.index(b"648649/depth") + kept])
    found = read(dataset)
    assert [type(entry) for entry in found] == [Trajectory] * 3 + [Unreadable] + [Trajectory] * 3
    assert found[3].name == "observations/327/648642-648649.tar"
    assert "breaks off" in found[3].reason


def test_a_damaged_description_costs_its_task(dataset: Path) -> None:
    (dataset / "task_info/task_327.json").write_text("{")
    (dataset / "task_info/task_1024.json").write_text(json.dumps([{"name": "?"}]))
    found = read(dataset)
    assert [entry.name for entry in found] == ["task_info/task_327.json", "task_info/task_1024.json"]


def test_no_shards(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no shards observations/TASK"):
        read_agibot(AgiBotConfig(str(tmp_path / "elsewhere")))
    with pytest.raises(SourceError, match=r"no shards of the tasks \[5\]"):
        read_agibot(AgiBotConfig(str(dataset), tasks=(5, 327)))


@pytest.mark.parametrize("damage", ["link", "device", "no name", "sparse", "size", "number"])
def test_what_tar_files_may_hold_costs_at_most_the_rest_of_the_shard(tmp_path: Path, video: bytes, damage: str) -> None:
    root = tmp_path / "data"
    (root / "task_info").mkdir(parents=True)
    (root / "task_info/task_5.json").write_text(json.dumps([description(1), description(2)]))
    (root / "observations/5").mkdir(parents=True)
    shard = root / "observations/5/1-2.tar"
    with tarfile.open(shard, "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("" if damage == "no name" else "1/videos/head_color.mp4")
        if damage in ("link", "device"):
            member.type, member.linkname = (
                (tarfile.SYMTYPE, "/etc/passwd") if damage == "link" else (tarfile.CHRTYPE, "")
            )
        if damage == "sparse":
            member.pax_headers = {"GNU.sparse.map": "a,b", "GNU.sparse.size": "x"}
        if damage == "number":
            member.pax_headers = {"size": "1e9"}
        member.size = 0
        archive.addfile(member, io.BytesIO())
        whole = tarfile.TarInfo("2/videos/head_color.mp4")
        whole.size = len(video)
        archive.addfile(whole, io.BytesIO(video))
    if damage == "size":
        content = bytearray(shard.read_bytes())
        content[124:136] = b"77777777777\0"
        shard.write_bytes(content)
    found = read(root)
    bad = [entry for entry in found if isinstance(entry, Unreadable)]
    assert all(entry.name.startswith("observations/5/1-2.tar") for entry in bad)
    if damage in ("link", "device"):
        assert "special entry" in bad[0].reason
    if damage in ("link", "device", "no name"):
        assert next(entry.id for entry in found if isinstance(entry, Trajectory)) == "agibotworld-5-2-head_color"
    else:
        assert bad


def test_a_text_that_is_none_is_one_bad_action(tmp_path: Path, video: bytes) -> None:
    root = tmp_path / "data"
    (root / "task_info").mkdir(parents=True)
    actions = [ACTIONS[0] | {"action_text": 7}, 3, ACTIONS[1]]
    record = description(1, label_info={"action_config": actions})
    (root / "task_info/task_5.json").write_text(json.dumps([record]))
    write_shard(root / "observations/5/1-1.tar", {"1/videos/head_color.mp4": video})
    found = read(root)
    assert [isinstance(entry, Unreadable) for entry in found] == [False, True, True, False]
    assert "action 0 has the text 7" in found[1].reason


def test_what_is_assumed_is_said_and_what_is_stated_wins(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "robometer_rl"):
        stored = read(dataset, tasks=(1024,))
        assert len(caplog.messages) == 2
        assert "taken for successful" in caplog.messages[0]
        assert "--orientation" in caplog.messages[1]
        caplog.clear()
        flipped = read(dataset, tasks=(1024,), orientation="flip", quality="failure")
        assert caplog.messages == []
    np.testing.assert_array_equal(flipped[0].frames[:], stored[0].frames[:][:, ::-1])
    assert {entry.quality_label for entry in flipped} == {"failure"}
