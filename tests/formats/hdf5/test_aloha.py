"""Episodes as ALOHA's recorder and ACT's simulation lay them out, and those of others in the same layout."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robometer_rl.cli import main
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.formats.hdf5.aloha import AlohaConfig, read_aloha
from robometer_rl.tiles import tile
from tests.formats.hdf5.aloha_files import ACTIONS, CAMERAS, STEPS, TASK, pictures, record


def read(path: Path, **options: Any) -> list[Any]:
    """Trajectories and `Unreadable`, whose fields a test looks into: where it is the other one, the test fails."""
    given = {"task": TASK, "quality": "successful", "camera": ("cam_high",), **options}
    return list(read_aloha(AlohaConfig(path, **given)))


def test_pictures_are_those_recorded(tmp_path: Path) -> None:
    for number in range(2):
        record(tmp_path / f"episode_{number}.hdf5", compress=False)
    found = read(tmp_path)
    assert [each.id for each in found] == ["aloha-episode_0-cam_high", "aloha-episode_1-cam_high"]
    np.testing.assert_array_equal(found[0].frames[:], pictures("cam_high"))
    assert {(each.task, each.quality_label, each.success, each.source) for each in found[:1]} == {
        (TASK, "successful", None, "episode_0.hdf5")
    }
    np.testing.assert_array_equal(found[0].actions, ACTIONS)
    np.testing.assert_array_equal(found[0].proprioception, np.ones((STEPS, 14)))
    (exchanged, _) = read(tmp_path, exchange_colours=True, orientation="rotate")
    np.testing.assert_array_equal(exchanged.frames[:], pictures("cam_high")[:, ::-1, ::-1, ::-1])


@pytest.mark.parametrize("variable", [False, True])
def test_compressed_pictures_have_their_colours(tmp_path: Path, variable: bool, caplog: Any) -> None:
    path = record(tmp_path / "episode_0.hdf5", compress=True, variable=variable)
    with caplog.at_level(logging.INFO, "robometer_rl"):
        (episode,) = read(path)
    assert any("red and blue of compressed pictures are exchanged" in message for message in caplog.messages)
    assert np.abs(episode.frames[:].astype(int) - pictures("cam_high")).mean() < 3
    assert np.abs(episode.frames[3:4].astype(int) - pictures("cam_high")[3:4]).mean() < 3
    (stated,) = read(path, exchange_colours=False)
    assert np.abs(stated.frames[:].astype(int) - pictures("cam_high")[..., ::-1]).mean() < 3


def test_each_camera_has_a_trajectory_or_all_have_a_tiled_one(tmp_path: Path) -> None:
    path = record(tmp_path / "episode_0.hdf5", compress=False)
    assert [each.metadata["camera"] for each in read(path, camera=CAMERAS)] == list(CAMERAS)
    (listed,) = read(path, camera=())
    assert "no camera was named; expected one of cam_high, cam_left_wrist" in listed.reason
    pytest.importorskip("cv2")
    (tiled,) = read(path, camera=CAMERAS, tile=True)
    assert tiled.tiled
    np.testing.assert_array_equal(tiled.frames[1:2][0], tile([pictures(camera)[1] for camera in CAMERAS]))


def test_what_the_file_says_is_taken_and_what_the_user_says_wins(tmp_path: Path) -> None:
    path = record(tmp_path / "a.hdf5", compress=False, task_description="fold the towel", success=np.bool_(False))
    (episode,) = read(path, task=None, quality=None)
    assert (episode.task, episode.quality_label) == ("fold the towel", "failure")
    (stated,) = read(path)
    assert (stated.task, stated.quality_label) == (TASK, "successful")
    (silent,) = read(record(tmp_path / "b.hdf5", compress=False), task=None)
    assert "holds no instruction" in silent.reason
    (unknown,) = read(tmp_path / "b.hdf5", quality=None)
    assert "'quality'" in unknown.reason
    (odd,) = read(record(tmp_path / "c.hdf5", compress=False, success=0.5), quality=None)
    assert "the attribute 'success' is 0.5; expected true or false" in odd.reason.replace("np.float64(0.5)", "0.5")
    assert read(tmp_path / "c.hdf5")[0].quality_label == "successful"
    spoken = record(tmp_path / "d.hdf5", compress=False)
    with h5py.File(spoken, "a") as file:
        file["language_raw"] = np.array([b"pour the water"])
    assert read(spoken, task=None)[0].task == "pour the water"


def test_damage_and_other_layouts_are_listed_with_what_was_found(tmp_path: Path) -> None:
    path = record(tmp_path / "a.hdf5", compress=True)
    with h5py.File(path, "a") as file:
        rows: Any = file["observations/images/cam_high"]
        rows[:] = 0
    (broken,) = read(path)
    assert "not a readable image" in broken.reason
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["data/demo_0/obs/front"] = np.zeros((2, 8, 8, 3), np.uint8)
    (other,) = read(tmp_path / "b.hdf5")
    assert "has no group observations/images; it has data, as the format robomimic_hdf5 does" in other.reason
    (tmp_path / "c.hdf5").write_bytes(b"no")
    assert [type(each).__name__ for each in read(tmp_path)] == ["Unreadable"] * 3


def test_it_is_imported_by_its_name(tmp_path: Path) -> None:
    record(tmp_path / "episode_0.hdf5", compress=True)
    words = ["data", "import", "aloha", str(tmp_path), str(tmp_path / "store"), "--task", TASK]
    assert main([*words, "--quality", "successful", "--camera", *CAMERAS]) == 0
    assert TrajectoryStore.open(tmp_path / "store").ids() == (
        "aloha-episode_0-cam_high",
        "aloha-episode_0-cam_left_wrist",
    )
