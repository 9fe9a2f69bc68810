"""What is at the path of a store before there is one, and what is not waited for."""

import os

import pytest

from robometer_rl.data.store import ChecksumError, StoreError, TrajectoryStore
from tests.data.runs import assert_same, trajectory


def test_opening_for_reading_makes_nothing(tmp_path):
    with pytest.raises(StoreError, match=r"there is no store of trajectories at .*nowhere"):
        TrajectoryStore.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(StoreError, match=r"has no store\.json"):
        TrajectoryStore.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "read",
    [list, lambda store: store[0], lambda store: store["a"], TrajectoryStore.ids, TrajectoryStore.verify,
     lambda store: store.columns("task")],
)  # fmt: skip
def test_a_store_begins_with_what_is_appended_and_not_where_a_wrong_path_is_read(tmp_path, read):
    store = TrajectoryStore(tmp_path / "recordigns")
    assert len(store) == 0
    assert "a" not in store
    store.seal()
    with pytest.raises(StoreError, match=r"there is no store of trajectories at .*recordigns"):
        read(store)
    assert list(tmp_path.iterdir()) == []
    store.append(trajectory())
    read(store)
    assert_same(store["a"], trajectory())


def test_an_empty_store_is_made_where_one_is_asked_for(tmp_path):
    assert len(TrajectoryStore.create(tmp_path / "new")) == 0
    assert TrajectoryStore.open(tmp_path / "new").ids() == ()
    TrajectoryStore(tmp_path / "new").append(trajectory())
    assert TrajectoryStore.create(tmp_path / "new").ids() == ("a",)


@pytest.mark.parametrize("file", ["frames/a.zip", "rows/a.json"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path, file):
    store = TrajectoryStore(tmp_path)
    store.append(trajectory())
    (tmp_path / file).unlink()
    os.mkfifo(tmp_path / file)
    with pytest.raises(ChecksumError, match=r"'a'.*cannot be read.*a pipe"):
        store.verify()


@pytest.mark.parametrize("file", ["rows.arrow", "store.json"])
def test_a_link_out_of_a_store_is_not_followed(tmp_path, file):
    (tmp_path / "secret").write_text("mine")
    store = TrajectoryStore(tmp_path / "store")
    store.append(trajectory())
    store.seal()
    (store.path / file).unlink()
    (store.path / file).symlink_to("../secret")
    with pytest.raises(StoreError, match=r"is a link to .*secret"):
        TrajectoryStore.open(store.path)
