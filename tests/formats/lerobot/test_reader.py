"""LeRobot datasets that lerobot itself recorded (tools/make_lerobot_fixtures.py), and what can be wrong with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.formats.dataset import DatasetOptions
from robometer_rl.formats.lerobot.layout import LeRobotLayout
from robometer_rl.formats.lerobot.reader import (
    LeRobotConfig,
    episode_frames,
    frame_times,
    open_dataset,
    read_lerobot,
)
from robometer_rl.tiles import tile
from robometer_rl.video import VideoError
from tests.formats import counters
from tests.library import ROOT

FIXTURES = ROOT / "tests" / "fixtures"
V30, IMAGES, V21 = (FIXTURES / name for name in ("lerobot_v30", "lerobot_v30_images", "lerobot_v21"))
TASKS = ("open the drawer", "close the drawer", "open the drawer", "push the button")
LENGTHS = (12, 9, 15, 7)
TOP, WRIST = "observation.images.top", "observation.images.wrist"


def read(path: Path, **options: Any) -> list[Any]:
    """Trajectories and `Unreadable`, whose fields a test looks into: where it is the other one, the test fails."""
    return list(read_lerobot(LeRobotConfig(path, **options)))


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def set_column(name: str, values: Callable[[list[Any]], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        column = pa.array(values(table[name].to_pylist()), table.schema.field(name).type)
        return table.set_column(table.column_names.index(name), table.schema.field(name), column)

    return change


@pytest.fixture
def v30(tmp_path: Path) -> Path:
    return Path(shutil.copytree(V30, tmp_path / "drawers"))


@pytest.mark.parametrize(("camera", "name"), [(TOP, "top"), (WRIST, "wrist")])
def test_v30_frames_are_the_ones_recorded(camera: str, name: str) -> None:
    found = read(V30, camera=(camera,))
    assert [len(entry) for entry in found] == list(LENGTHS)
    for episode, trajectory in enumerate(found):
        expected = [(episode, number, name) for number in range(LENGTHS[episode])]
        assert [counters.read(image) for image in trajectory.frames[:]] == expected


def test_v30_fields() -> None:
    first, second, *_ = read(V30, camera=(TOP,), skill="expert")
    assert [entry.id for entry in (first, second)] == ["lerobot_v30-000000-top", "lerobot_v30-000001-top"]
    assert (first.task, second.task) == TASKS[:2]
    assert (first.quality_label, second.quality_label) == ("successful", "failure")
    # The action of frame 10 succeeds, so the task is done in frame 11.
    assert first.success.tolist() == [False] * 11 + [True]
    assert second.success.tolist() == [False] * 9
    assert first.steps.tolist() == list(range(12))
    assert (first.data_source, first.skill, first.split) == ("lerobot_v30", "expert", "train")
    assert first.source == "lerobot_v30#episode 0"
    assert first.metadata == {
        "format": "lerobot v3.0",
        "episode_index": 0,
        "camera": TOP,
        "control_hz": 10.0,
        "frame_interval": 1,
        "robot_type": "counter",
    }
    rows = pq.read_table(min(V30.glob("data/*/*.parquet"))).slice(0, 12)
    for values, column in ((first.actions, "action"), (first.proprioception, "observation.state")):
        np.testing.assert_array_equal(values, np.asarray(rows[column].to_pylist()).reshape(12, -1))
    assert (first.state, first.distance, first.seed, first.partial_success) == (None, None, None, None)


def test_v30_images_inside_parquet_files() -> None:
    found = read(IMAGES, quality="successful", data_source="pictures")
    assert [entry.id for entry in found] == ["pictures-000000-top", "pictures-000001-top"]
    assert counters.frame_numbers(found[1].frames[[8, 0, 3, 3]]) == [8, 0, 3, 3]
    for episode, trajectory in enumerate(found):
        drawn = np.stack([counters.draw(episode, number) for number in range(LENGTHS[episode])])
        np.testing.assert_array_equal(trajectory.frames[:], drawn)  # PNG loses nothing


def test_v21_one_file_per_episode() -> None:
    found = read(V21, success_reward=1.0)
    assert [entry.task for entry in found] == list(TASKS[:3])
    assert [entry.quality_label for entry in found] == ["successful", "failure", "successful"]
    assert found[2].success.tolist() == [False] * 14 + [True]
    for episode, trajectory in enumerate(found):
        expected = [(episode, number, "top") for number in range(LENGTHS[episode])]
        assert [counters.read(image) for image in trajectory.frames[:]] == expected
    assert found[0].metadata["format"] == "lerobot v2.1"


def test_what_is_read_can_be_stored(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path / "store")
    for trajectory in read(V30, camera=(TOP,)):
        assert isinstance(trajectory, Trajectory)
        store.append(trajectory)
    assert counters.frame_numbers(store["lerobot_v30-000003-top"].frames[:]) == list(range(7))


def test_pictures_that_hang_otherwise_are_turned() -> None:
    stored, rotated = (
        read(path, quality="successful", orientation=orientation)[0].frames[2]
        for path, orientation in ((IMAGES, "as_stored"), (IMAGES, "rotate"))
    )
    np.testing.assert_array_equal(rotated, stored[::-1, ::-1])


def test_the_camera_is_chosen() -> None:
    with pytest.raises(SourceError, match=f"no camera was named; expected one of {TOP}, {WRIST}"):
        read_lerobot(LeRobotConfig(V30))
    with pytest.raises(SourceError, match="no camera is called 'front'"):
        read_lerobot(LeRobotConfig(V30, camera=("front",)))


def test_each_camera_has_a_trajectory_or_all_have_a_tiled_one(tmp_path: Path) -> None:
    found = read(V30, camera=(TOP, WRIST))
    assert [each.id for each in found[:2]] == ["lerobot_v30-000000-top", "lerobot_v30-000000-wrist"]
    assert len(found) == 2 * len(LENGTHS)
    pytest.importorskip("cv2")
    tiled = read(V30, camera=(TOP, WRIST), tile=True)
    assert [each.id for each in tiled] == [f"lerobot_v30-{number:06d}-top-wrist" for number in range(len(LENGTHS))]
    views = [np.asarray(each.frames[5:6])[0] for each in found[:2]]
    np.testing.assert_array_equal(tiled[0].frames[5:6][0], tile(views))
    store = TrajectoryStore(tmp_path / "store")
    store.append(tiled[0])
    assert store[tiled[0].id].tiled


def test_depth_is_no_camera(v30: Path) -> None:
    path = v30 / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"][WRIST]["info"]["video.is_depth_map"] = True
    path.write_text(json.dumps(info))
    assert LeRobotLayout(v30).cameras == (TOP,)


def test_quality_is_stated_where_it_was_not_recorded() -> None:
    with pytest.raises(SourceError, match="does not say which episodes succeeded"):
        read_lerobot(LeRobotConfig(IMAGES))
    with pytest.raises(SourceError, match=r"no next\.reward"):
        read_lerobot(LeRobotConfig(IMAGES, success_reward=1.0))
    first = read(IMAGES, quality="suboptimal")[0]
    assert (first.quality_label, first.success) == ("suboptimal", None)
    assert {entry.quality_label for entry in read(V30, camera=(TOP,), quality="successful")} == {"successful"}


def test_splits_are_those_of_the_dataset(v30: Path) -> None:
    path = v30 / "meta/info.json"
    path.write_text(path.read_text().replace('"train": "0:4"', '"train": "0:3", "test": "3:4"'))
    assert [entry.split for entry in read(v30, camera=(TOP,))] == ["train", "train", "train", "test"]


def test_v20_is_read_like_v21(tmp_path: Path) -> None:
    root = Path(shutil.copytree(V21, tmp_path / "old"))
    path = root / "meta/info.json"
    path.write_text(path.read_text().replace('"v2.1"', '"v2.0"'))
    assert [len(entry) for entry in read(root, quality="failure")] == list(LENGTHS[:3])


@pytest.mark.parametrize("version", ["v1.6", "v4.0"])
def test_other_versions_are_refused(v30: Path, version: str) -> None:
    path = v30 / "meta/info.json"
    path.write_text(path.read_text().replace('"v3.0"', f'"{version}"'))
    with pytest.raises(SourceError, match=rf"has the version '{version}'; expected one of v2\.0, v2\.1, v3\.0"):
        read_lerobot(LeRobotConfig(v30, camera=(TOP,)))


def test_what_is_no_dataset_is_refused(v30: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no meta/info\.json"):
        read_lerobot(LeRobotConfig(tmp_path / "elsewhere"))
    (v30 / "meta/tasks.parquet").write_bytes(b"broken")
    with pytest.raises(SourceError, match=r"cannot be read as LeRobot v3\.0"):
        read_lerobot(LeRobotConfig(v30, camera=(TOP,)))
    (v30 / "meta/info.json").write_text("{")
    with pytest.raises(SourceError, match="not the description"):
        read_lerobot(LeRobotConfig(v30, camera=(TOP,)))


BAD: dict[str, tuple[Callable[[Path], object], list[int], str]] = {
    "video missing": (
        lambda root: (root / f"videos/{TOP}/chunk-000/file-001.mp4").unlink(),
        [2, 3],
        "there is no video",
    ),
    "video broken": (
        lambda root: (root / f"videos/{TOP}/chunk-000/file-000.mp4").write_bytes(b"broken" * 99),
        [0, 1],
        "cannot be decoded",
    ),
    "video of others": (
        lambda root: shutil.copy(
            root / f"videos/{TOP}/chunk-000/file-001.mp4", root / f"videos/{TOP}/chunk-000/file-000.mp4"
        ),
        [],  # one frame more than needed: nobody can tell
        "",
    ),
    "video too short": (
        lambda root: shutil.copy(
            V21 / f"videos/chunk-000/{TOP}/episode_000001.mp4", root / f"videos/{TOP}/chunk-000/file-001.mp4"
        ),
        [2, 3],
        "belongs at",
    ),
    "rows missing": (
        lambda root: rewrite(root / "data/chunk-000/file-001.parquet", lambda table: table.slice(0, 5)),
        [1],
        "has 5 rows of episode 1; expected frames 0 to 8",
    ),
    "rows out of order": (
        lambda root: rewrite(
            root / "data/chunk-000/file-001.parquet", set_column("frame_index", lambda old: old[::-1])
        ),
        [1],
        "each once and in order",
    ),
    "column missing": (
        lambda root: rewrite(
            root / "data/chunk-000/file-002.parquet", lambda table: table.drop_columns(["next.success"])
        ),
        [2],
        "has no column next.success",
    ),
    "irregular times": (
        lambda root: rewrite(
            root / "data/chunk-000/file-002.parquet",
            set_column("timestamp", lambda old: [*old[:5], old[5] + 0.01, *old[6:]]),
        ),
        [2],
        "frame 5 has the timestamp 0.510000 s; expected 0.500000 s",
    ),
    "two instructions": (
        lambda root: rewrite(
            root / "data/chunk-000/file-003.parquet", set_column("task_index", lambda old: [0, *old[1:]])
        ),
        [3],
        "its instruction changes on the way",
    ),
    "unknown instruction": (
        lambda root: rewrite(
            root / "data/chunk-000/file-003.parquet", set_column("task_index", lambda old: [9] * len(old))
        ),
        [3],
        "the number 9",
    ),
    "empty instruction": (
        lambda root: rewrite(root / "meta/tasks.parquet", set_column("__index_level_0__", lambda old: [*old[:2], " "])),
        [3],
        "non-empty instruction",
    ),
    "no table": (lambda root: (root / "data/chunk-000/file-000.parquet").write_bytes(b"broken"), [0], "Parquet"),
}


@pytest.mark.parametrize(("damage", "bad", "reason"), BAD.values(), ids=list(BAD))
def test_what_is_bad_is_named_and_the_rest_is_read(
    v30: Path, damage: Callable[[Path], object], bad: list[int], reason: str
) -> None:
    damage(v30)
    found = read(v30, camera=(TOP,))
    assert [position for position, entry in enumerate(found) if isinstance(entry, Unreadable)] == bad
    for position in bad:
        assert found[position].name == f"{v30}#episode {position}"
        assert reason in found[position].reason


def test_an_image_that_is_broken_is_named(tmp_path: Path) -> None:
    root = Path(shutil.copytree(IMAGES, tmp_path / "pictures"))

    def break_images(old: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"bytes": b"broken", "path": None}, *old[1:15], {"bytes": None, "path": "lost.png"}, *old[16:]]

    rewrite(root / "data/chunk-000/file-000.parquet", set_column(TOP, break_images))
    first, second = read(root, quality="successful")
    assert "image 0 of" in first.reason
    assert counters.frame_numbers(second.frames[:3]) == [0, 1, 2]
    with pytest.raises(ValueError, match="image 3 is not embedded"):
        second.frames[:]


def test_long_episodes_are_found_on_the_grid_and_not_at_rounded_times() -> None:
    """Three hours at 30 frames per second: float32 is off by a quarter of a millisecond, and that is no error."""
    grid = np.arange(3 * 3600 * 30) / 30
    rounded = grid.astype(np.float32)
    assert np.abs(rounded - grid).max() > 1e-4
    np.testing.assert_array_equal(frame_times(rounded, 30.0), grid)
    rounded[5] += np.float32(2e-4)
    with pytest.raises(VideoError, match="frame 5 has the timestamp"):
        frame_times(rounded, 30.0)


def test_times_that_are_a_little_off_are_met_with_a_larger_tolerance(v30: Path) -> None:
    late = set_column("timestamp", lambda times: [time + 0.004 * (number > 2) for number, time in enumerate(times)])
    rewrite(v30 / "data/chunk-000/file-000.parquet", late)
    spans = set_column(f"videos/{WRIST}/from_timestamp", lambda starts: [start + 0.003 for start in starts])
    rewrite(v30 / "meta/episodes/chunk-000/file-000.parquet", spans)
    top, wrist = (read(v30, camera=(camera,)) for camera in (TOP, WRIST))
    assert [type(entry) for entry in top] == [Unreadable, Trajectory, Trajectory, Trajectory]
    assert "has the timestamp 0.304000 s" in top[0].reason
    assert all("expected one within 0.0001 s; --tolerance-s allows more" in entry.reason for entry in wrist[1:])
    met = read(v30, camera=(WRIST,), tolerance_s=0.01)
    assert [counters.read(image) for image in met[0].frames[:]] == [(0, number, "wrist") for number in range(12)]
    options = DatasetOptions(v30, (WRIST,), tolerance_s=0.01)
    relabelled = open_dataset(options)
    np.testing.assert_array_equal(relabelled.episode("episode_000000").cameras[WRIST][:], met[0].frames[:])
    strict = open_dataset(replace(options, tolerance_s=None))
    with pytest.raises(VideoError, match="tolerance-s"):
        strict.episode("episode_000000")
    assert strict.fingerprint() != relabelled.fingerprint(), "another run skips other episodes"


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_a_tolerance_is_a_positive_number(wrong: float) -> None:
    with pytest.raises(ValueError, match="tolerance_s of LeRobotConfig"):
        LeRobotConfig(V30, tolerance_s=wrong)
    with pytest.raises(ValueError, match="tolerance_s of DatasetOptions"):
        DatasetOptions(V30, tolerance_s=wrong)


def test_the_layout_serves_other_readers() -> None:
    layout = LeRobotLayout(V30)
    assert (len(layout), layout.version, layout.cameras) == (4, "v3.0", (TOP, WRIST))
    assert [episode.index for episode in layout] == [0, 1, 2, 3]
    episode = layout[3]
    assert episode.tasks == ("push the button",)
    assert episode.data_path == V30 / "data/chunk-000/file-003.parquet"
    assert episode.videos[WRIST].path == V30 / f"videos/{WRIST}/chunk-000/file-001.mp4"
    assert episode.videos[WRIST].start_s == pytest.approx(1.5)
    rows = layout.rows(episode, ["action"])
    np.testing.assert_allclose(rows.values("action"), np.arange(7) / 10, atol=1e-6)
    frames = episode_frames(layout, episode, rows, WRIST)
    assert [counters.read(image) for image in frames[5:]] == [(3, 5, "wrist"), (3, 6, "wrist")]
    with pytest.raises(IndexError, match="4 episodes"):
        layout[4]


def test_rows_of_an_episode_inside_a_shared_file() -> None:
    layout = LeRobotLayout(IMAGES)
    rows = layout.rows(layout[1], ["observation.state"])
    assert (rows.first, len(rows)) == (12, 9)
    np.testing.assert_array_equal(rows.values("observation.state"), [[1, number] for number in range(9)])


@pytest.mark.parametrize("which", ["data_path", "video_path"])
@pytest.mark.parametrize(
    "template",
    [
        "../secret/file-{file_index:03d}.parquet",
        "/etc/file-{file_index:03d}.parquet",
        "data/link/file-{file_index:03d}.parquet",
        "data/{file_index:9999999999d}.parquet",
        "data/{file_index.__class__}.parquet",
        "data/{home}.parquet",
    ],
)
def test_the_templates_of_paths_stay_in_the_dataset(v30: Path, tmp_path: Path, which: str, template: str) -> None:
    (tmp_path / "secret").mkdir()
    shutil.copy(next((v30 / "data").rglob("*.parquet")), tmp_path / "secret" / "file-000.parquet")
    (v30 / "data" / "link").symlink_to(tmp_path / "secret")
    info = json.loads((v30 / "meta" / "info.json").read_text())
    (v30 / "meta" / "info.json").write_text(json.dumps(info | {which: template}))
    with pytest.raises(ValueError, match=r"expected the fields|leads out of|is a link to"):
        _ = LeRobotLayout(v30)[0]
