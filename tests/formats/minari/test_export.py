"""Stores as Minari data sets, read back by Minari and by this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from robometer_rl.cli import main
from robometer_rl.data.store import StoreError
from robometer_rl.data.trajectory import Trajectory
from tests.data.runs import trajectory
from tests.formats.exported import LENGTHS, make_store

minari = pytest.importorskip("minari")

from minari.data_collector import EpisodeBuffer  # noqa: E402

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
        np.testing.assert_array_equal(episode.actions, each.actions)
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


@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (spaces.Box(-1, 1, (3,), np.float32), [np.array([0.1, -0.7, step / 7], np.float32) for step in range(5)]),
        (spaces.Box(-1, 1, (2, 2), np.float64), [np.full((2, 2), 0.1 + step / 7) for step in range(5)]),
        (spaces.Discrete(4), [3, 0, 2, 1, 3]),
    ],
    ids=["float32", "float64", "discrete"],
)
@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_actions_come_back_from_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: Any, actions: list[Any], data_format: str
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    pictures = spaces.Box(0, 255, (16, 24, 3), np.uint8)
    pictures.seed(0)
    ends = [False] * 4 + [True]
    episodes = [
        EpisodeBuffer(
            id=number,
            observations=[pictures.sample() for _ in range(6)],
            actions=actions[number:] + actions[:number],
            rewards=[0.0] * 5,
            terminations=ends,
            truncations=[False] * 5,
            infos={"success": [False, *ends]},
        )
        for number in range(2)
    ]
    source = minari.create_dataset_from_buffers(
        "drawers-v0", episodes, observation_space=pictures, action_space=space, data_format=data_format
    )
    store, back = str(tmp_path / "store"), tmp_path / "back-v0"
    assert main(["data", "import", "minari", str(tmp_path / "drawers-v0"), store, "--task", "open it"]) == 0
    assert main(["data", "export", "minari", store, str(back)]) == 0
    found = minari.MinariDataset(back / "data")
    for before, after in zip(source.iterate_episodes(), found.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(after.actions.reshape(before.actions.shape), before.actions)
        assert after.actions.dtype == before.actions.dtype
        assert found.action_space.contains(after.actions[0])
    assert found.action_space == (space if isinstance(space, spaces.Discrete) else found.action_space)


def test_what_not_all_know_of_their_frames_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = make_store(tmp_path / "store")
    store.append(trajectory("d", frames=store["a"].frames[:], num_frames=8, distance=None, actions=None))
    with caplog.at_level("WARNING", "robometer_rl"):
        export_minari(MinariExportConfig(store.path, tmp_path / "drawers-v0"))
    assert "actions, distance, state: left out" in caplog.text
    (episode, *_) = minari.MinariDataset(tmp_path / "drawers-v0" / "data").iterate_episodes()
    assert set(episode.infos) == {"success", "progress", "proprioception"}
    assert episode.actions.tolist() == [0] * 7, "Minari asks for some"


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
