"""Stores as LeRobot datasets, read back by this package; tests/lerobot has LeRobot's own reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robometer_rl.cli import main
from robometer_rl.data.store import StoreError, TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.formats.lerobot.export import ENVIRONMENT_STATE, IMAGE, LeRobotExportConfig, export_lerobot
from robometer_rl.formats.lerobot.layout import ACTION, STATE
from robometer_rl.formats.lerobot.reader import LeRobotConfig, read_lerobot
from tests.data.runs import trajectory
from tests.formats import counters
from tests.formats.exported import make_store
from tests.library import ROOT

FIELDS = ("task", "quality_label", "split")


def read(path: Path) -> list[Any]:
    return list(read_lerobot(LeRobotConfig(path)))


def test_what_is_exported_comes_back(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    assert main(["data", "export", "lerobot", str(store.path), str(tmp_path / "drawers")]) == 0
    found = read(tmp_path / "drawers")
    expected = [store[name] for name in ("a", "c", "b")]
    assert [[getattr(each, name) for name in FIELDS] for each in found] == [
        [getattr(each, name) for name in FIELDS] for each in expected
    ]
    for number, (here, there) in enumerate(zip(expected, found, strict=True)):
        assert there.frames.shape == here.frames.shape
        assert [counters.read(image) for image in there.frames[:]] == [counters.read(image) for image in here.frames[:]]
        assert there.metadata["control_hz"] == 5.0
        assert there.source == f"drawers#episode {number}"
    assert found[0].success.tolist() == [False] * 6 + [True] * 2
    # Nobody judged the frames of this success: that it is one is noted with its last frame.
    assert expected[1].success is None
    assert found[1].success.tolist() == [False] * 4 + [True]
    assert found[2].success.tolist() == [False] * 6


def test_rows_are_those_that_lerobot_has(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    assert export_lerobot(LeRobotExportConfig(store.path, tmp_path / "out")) == 3
    table = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet")
    assert table["index"].to_pylist() == list(range(19))
    assert table["episode_index"].to_pylist() == [0] * 8 + [1] * 5 + [2] * 6
    assert table["task_index"].to_pylist() == [0] * 8 + [1] * 5 + [0] * 6
    np.testing.assert_allclose(table["timestamp"].to_numpy()[:8], np.arange(8) / 5, atol=1e-6)
    assert np.flatnonzero(table["next.done"].to_numpy()).tolist() == [7, 12, 18]
    for column, name in ((STATE, "proprioception"), (ENVIRONMENT_STATE, "state")):
        expected = np.concatenate([getattr(store[each], name) for each in ("a", "c", "b")])
        np.testing.assert_array_equal(np.stack(table[column].to_pylist()), expected)
    actions = np.stack(table[ACTION].to_pylist())
    np.testing.assert_array_equal(actions[:7], store["a"].actions.astype(np.float32))
    np.testing.assert_array_equal(actions[7], actions[6], "there is none behind the last frame")
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert (info["fps"], info["splits"]) == (5, {"train": "0:2", "test": "2:3"})
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 19, 2)
    assert info["features"][IMAGE]["shape"] == [64, 64, 3]
    assert set(info["features"]) == {IMAGE, *table.column_names}


def test_statistics_are_those_of_all_frames(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    export_lerobot(LeRobotExportConfig(store.path, tmp_path / "out"))
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    pixels = np.concatenate([each.frames[:] for each in store]).reshape(-1, 3) / 255
    states = np.concatenate([each.state for each in store if each.state is not None])
    for name, values in ((IMAGE, pixels), (ENVIRONMENT_STATE, states)):
        for statistic in ("min", "max", "mean", "std"):
            expected = getattr(values.astype(float), statistic)(axis=0)
            np.testing.assert_allclose(np.ravel(stats[name][statistic]), expected, atol=1e-6, err_msg=statistic)
        assert stats[name]["count"] == [19]
    expected = np.quantile(pixels, 0.9, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(np.ravel(stats[IMAGE]["q90"]), expected, atol=1e-9)
    assert stats["next.done"]["mean"] == pytest.approx([3 / 19])


@pytest.mark.parametrize("name", ["lerobot_v30", "lerobot_v21"])
def test_actions_and_states_come_back_from_a_store(name: str, tmp_path: Path) -> None:
    source, store, back = ROOT / "tests" / "fixtures" / name, str(tmp_path / "store"), tmp_path / "back"
    given = ["--camera", "observation.images.top", "--quality", "successful"]
    assert main(["data", "import", "lerobot", str(source), store, *given]) == 0
    assert main(["data", "export", "lerobot", store, str(back)]) == 0
    before, after = (
        pa.concat_tables(pq.read_table(file) for file in sorted(folder.glob("data/*/*.parquet")))
        for folder in (source, back)
    )
    for column in (ACTION, STATE):
        found, expected = (np.asarray(table[column].to_pylist()) for table in (after, before))
        assert len(expected) > 0
        np.testing.assert_array_equal(found, expected.reshape(found.shape))


def test_what_was_exported_can_be_relabelled(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    export_lerobot(LeRobotExportConfig(store.path, tmp_path / "out"))
    assert main(["relabel", str(tmp_path / "out"), "--every", "4"]) == 0
    rewards = pq.read_table(tmp_path / "out-robometer/data/chunk-000/file-000.parquet")["next.reward"].to_numpy()
    assert np.isfinite(rewards).all()
    assert len(rewards) == 19


def test_states_that_not_all_have_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = make_store(tmp_path / "store")
    store.append(trajectory("d", frames=store["a"].frames[:], num_frames=8, metadata={"fps": 5}))
    with caplog.at_level("WARNING", "robometer_rl"):
        export_lerobot(LeRobotExportConfig(store.path, tmp_path / "out"))
    assert "state: left out, since not all" in caplog.text
    features = json.loads((tmp_path / "out/meta/info.json").read_text())["features"]
    assert {ACTION, STATE} <= set(features)
    assert ENVIRONMENT_STATE not in features


def test_what_the_format_cannot_hold_is_named_before_anything_is_written(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path / "store")
    store.append(trajectory("a", num_frames=4, data_source="small", metadata={"fps": 5}))
    store.append(trajectory("b", frames=np.zeros((4, 8, 8, 3), np.uint8), num_frames=4, metadata={"fps": 5.5}))
    with pytest.raises(ValueError, match=r"1 of 6 x 7, 1 of 8 x 8 \(height x width\).*--data-sources"):
        export_lerobot(LeRobotExportConfig(store.path, tmp_path / "out", fps=5))
    for sources, said in (((), "1 of 5, 1 of 5.5"), (("somewhere",), "1 of 5.5")):
        with pytest.raises(ValueError, match=rf"state: {said}\. Give --fps"):
            export_lerobot(LeRobotExportConfig(store.path, tmp_path / "out", data_sources=sources))
    with pytest.raises(StoreError, match="no trajectories of the splits val and the data sources small, big"):
        export_lerobot(LeRobotExportConfig(store.path, tmp_path / "out", ("val",), ("small", "big")))
    assert [each.name for each in tmp_path.iterdir()] == ["store"]
    with pytest.raises(ValueError, match="fps of LeRobotExportConfig"):
        LeRobotExportConfig(store.path, tmp_path / "out", fps=0)


def test_nothing_is_left_of_an_export_that_failed(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    (store.path / "frames" / "b.zip").write_bytes(b"damaged")
    with pytest.raises(StoreError, match="'b'"):
        export_lerobot(LeRobotExportConfig(store.path, tmp_path / "out"))
    assert [each.name for each in tmp_path.iterdir()] == ["store"]


def test_odd_sizes_are_extended_as_videos_are(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path / "store")
    store.append(trajectory("a", frames=np.full((3, 33, 31, 3), 90, np.uint8), num_frames=3))
    export_lerobot(LeRobotExportConfig(store.path, tmp_path / "out", fps=10))
    (found,) = read(tmp_path / "out")
    assert isinstance(found, Trajectory)
    assert found.frames.shape == (3, 34, 32, 3)
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert info["features"][IMAGE]["shape"] == [34, 32, 3]
