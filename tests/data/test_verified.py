import logging

import pytest

from robometer_rl.data.store import StoreError, TrajectoryStore
from robometer_rl.data.verified import open_verified, verify_store
from robometer_rl.evaluation.evaluate import EvaluateConfig, select_episodes
from robometer_rl.training.config import TrainConfig
from robometer_rl.training.pipeline import select_trajectories
from tests.data.runs import assert_same, trajectory


@pytest.fixture
def path(tmp_path):
    """A store of six: one with changed frames, one with a changed row, one whose frames are gone."""
    store = TrajectoryStore(tmp_path / "store")
    for number, name in enumerate("abcdef"):
        store.append(trajectory(name, split="train" if number % 2 else "test"))
    archive = store.path / "frames" / "b.zip"
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    row = store.path / "rows" / "c.json"
    row.write_text(row.read_text().replace("suboptimal", "successful"))
    (store.path / "frames" / "e.zip").unlink()
    return store.path


@pytest.mark.parametrize("sealed", [False, True])
def test_what_is_damaged_is_skipped_counted_and_listed(path, sealed, caplog):
    if sealed:
        TrajectoryStore(path).seal()
    with caplog.at_level(logging.WARNING):
        found = open_verified(path)
    assert [run.id for run in found.trajectories] == ["a", "d", "f"]
    assert [entry.name for entry in found.skipped] == ["b", "c", "e"]
    for entry, reason in zip(found.skipped, ("has the checksum", "row has changed", "is missing"), strict=True):
        assert reason in entry.reason
    assert "3 of 6 trajectories" in caplog.text
    assert all(f"'{name}'" in caplog.text for name in "bce")
    assert_same(found.trajectories[0], trajectory("a", split="test"))


def test_frames_of_what_is_not_wanted_are_not_looked_at(path):
    found = open_verified(path, lambda run: run.split == "train")
    assert [run.id for run in found.trajectories] == ["d", "f"]
    assert [entry.name for entry in found.skipped] == ["b", "c"], "which split c was of is not known any more"


def test_a_verified_file_is_not_read_whole_again(path):
    run = open_verified(path).trajectories[0]
    with run.frames.source.open("ab") as archive:
        archive.write(b"\0" * 10)
    assert run.frames[:2].shape == (2, 6, 7, 3)


def test_nothing_sound_and_nowhere_are_errors(path, tmp_path):
    with pytest.raises(StoreError, match=r"3 of 3 trajectories in .*store are damaged.*'b'"):
        open_verified(path, lambda run: run.id in "bce")
    with pytest.raises(StoreError, match=r"there is no store of trajectories at .*nowhere"):
        open_verified(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_many_damaged_ones_do_not_fill_the_log(tmp_path, caplog):
    store = TrajectoryStore(tmp_path)
    for number in range(30):
        store.append(trajectory(f"run-{number:02d}", num_frames=2))
        if number:
            (tmp_path / "frames" / f"run-{number:02d}.zip").unlink()
    assert len(verify_store(store).skipped) == 29
    open_verified(tmp_path)
    assert caplog.text.count("is missing") == 20
    assert "and 9 more: `robometer-rl data verify` lists them" in caplog.text


def test_training_and_evaluation_go_on_without_it(path, caplog):
    trained_on = select_trajectories(TrainConfig(data=(path,), output=path.parent / "out"))
    assert [run.id for run in trained_on.trajectories] == ["d", "f"]
    assert "2 of 4 trajectories" in caplog.text
    measured_on = select_episodes(EvaluateConfig("mini", path))
    assert [run.id for run in measured_on.trajectories] == ["a"]
