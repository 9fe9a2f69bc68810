"""Stores as Minari data sets, read back by Minari and by this package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robometer_rl.cli import main
from robometer_rl.data.store import StoreError
from robometer_rl.data.trajectory import Trajectory
from tests.data.runs import trajectory
from tests.formats.exported import LENGTHS, make_store

minari = pytest.importorskip("minari")

from robometer_rl.formats.minari.export import MinariExportConfig, export_minari  # noqa: E402
from robometer_rl.formats.minari.reader import MinariConfig, read_minari  # noqa: E402


def test_minari_reads_frames_outcomes_and_facts(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    assert main(["data", "export", "minari", str(store.path), str(tmp_path / "drawers-v0")]) == 0
    dataset = minari.MinariDataset(tmp_path / "drawers-v0" / "data")
    assert (dataset.id, dataset.total_episodes, dataset.total_steps) == ("drawers-v0", 3, sum(LENGTHS.values()) - 3)
    metadata = list(dataset.storage.get_episode_metadata(range(3)))
    for episode, facts, each in zip(dataset.iterate_episodes(), metadata, store, strict=True):
        np.testing.assert_array_equal(episode.observations, each.frames[:])
        assert dataset.observation_space.contains(episode.observations[0])
        assert (episode.actions == 0).all()
        assert len(episode.rewards) == len(each) - 1
        np.testing.assert_array_equal(episode.infos["state"], each.state)
        np.testing.assert_array_equal(episode.infos["progress"], each.progress)
        assert (facts["task"], facts["quality_label"], facts["seed"]) == (each.task, each.quality_label, each.seed)
    first, second, third = dataset.iterate_episodes()
    assert first.rewards.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert (first.terminations[-1], first.truncations.any()) == (True, False)
    assert not second.rewards.any()
    assert (second.terminations.any(), second.truncations[-1]) == (False, True)
    # Nobody judged the frames of this success.
    assert third.rewards.tolist() == [0, 0, 0, 1]


def test_what_is_exported_comes_back_without_loss(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    export_minari(MinariExportConfig(store.path, tmp_path / "drawers-v0"))
    found = list(read_minari(MinariConfig(tmp_path / "drawers-v0")))
    for here, there in zip(store, found, strict=True):
        assert isinstance(there, Trajectory)
        np.testing.assert_array_equal(there.frames[:], here.frames[:])
        assert (there.task, there.quality_label, there.seed) == (here.task, here.quality_label, here.seed)
    assert main(["relabel", str(tmp_path / "drawers-v0"), "--every", "4"]) == 0
    assert (tmp_path / "drawers-v1" / "data" / "main_data.hdf5").is_file()


def test_what_not_all_know_of_their_frames_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = make_store(tmp_path / "store")
    store.append(trajectory("d", frames=store["a"].frames[:], num_frames=8, distance=None))
    with caplog.at_level("WARNING", "robometer_rl"):
        export_minari(MinariExportConfig(store.path, tmp_path / "drawers-v0"))
    assert "distance, state: left out" in caplog.text
    (episode, *_) = minari.MinariDataset(tmp_path / "drawers-v0" / "data").iterate_episodes()
    assert set(episode.infos) == {"success", "progress"}


def test_what_cannot_be_written_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    with pytest.raises(ValueError, match=r"must end in a version, as in drawers-v0"):
        export_minari(MinariExportConfig(store.path, tmp_path / "drawers"))
    with pytest.raises(StoreError, match="no trajectories of the splits val"):
        export_minari(MinariExportConfig(store.path, tmp_path / "drawers-v0", ("val",)))
    (store.path / "frames" / "b.zip").write_bytes(b"damaged")
    with pytest.raises(StoreError, match="'b'"):
        export_minari(MinariExportConfig(store.path, tmp_path / "drawers-v0"))
    assert [each.name for each in tmp_path.iterdir()] == ["store"]
