from __future__ import annotations

import pytest

from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.data.rows import StoreError
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.formats.importing import ImportOptions, import_trajectories
from robometer_rl.formats.store import StoredConfig, read_stored
from tests.data.runs import assert_same, trajectory

RUNS = [
    trajectory("a", seed=0, split="train"),
    trajectory("b", seed=1, split="test"),
    trajectory("c", seed=2, split="train"),
]


@pytest.fixture
def recordings(tmp_path):
    first, second = TrajectoryStore(tmp_path / "first"), TrajectoryStore(tmp_path / "second")
    first.append(RUNS[0])
    first.append(RUNS[1])
    first.seal()
    second.append(RUNS[2])
    return first, second


def test_recordings_are_brought_together(tmp_path, recordings):
    for store in recordings:
        import_trajectories(read_stored(StoredConfig(store.path)), ImportOptions(tmp_path / "all"))
    together = TrajectoryStore.open(tmp_path / "all")
    assert together.ids() == ("a", "b", "c")
    for run in RUNS:
        assert_same(together[run.id], run)


def test_splits_are_chosen(recordings):
    first, _ = recordings
    assert [run.id for run in read_stored(StoredConfig(first.path, ("test",)))] == ["b"]
    with pytest.raises(SourceError, match=r"no episodes of the splits \['val'\]; it has \['test', 'train'\]"):
        read_stored(StoredConfig(first.path, ("val",)))


def test_a_damaged_row_is_passed_by(recordings):
    _, second = recordings
    second.append(RUNS[0])
    row = second.path / "rows" / "a.json"
    row.write_text(row.read_text()[:100])
    damaged, sound = read_stored(StoredConfig(second.path, ("train",)))
    assert isinstance(damaged, Unreadable)
    assert damaged.name == "a"
    assert isinstance(sound, Trajectory)
    assert_same(sound, RUNS[2])


def test_a_missing_store_is_not_made(tmp_path):
    with pytest.raises(StoreError, match="nowhere"):
        read_stored(StoredConfig(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()
