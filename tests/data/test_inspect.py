import numpy as np
import pytest

from robometer_rl.data.inspect import InspectConfig, VerifyConfig, contact_sheet, inspect_store, summarise, verify
from robometer_rl.data.store import StoreError, TrajectoryStore
from tests.data.runs import trajectory


@pytest.fixture
def store(tmp_path):
    store = TrajectoryStore(tmp_path / "store")
    store.append(trajectory("a", task="open the drawer", quality_label="successful", num_frames=12))
    store.append(trajectory("b", task="open the drawer", quality_label="failure", data_source="elsewhere", skill=None))
    store.append(trajectory("c", task="close the drawer", quality_label="failure", split="train"))
    return store


@pytest.mark.parametrize("sealed", [False, True])
def test_the_counts(store, sealed):
    if sealed:
        store.seal()
    summary = summarise(store)
    assert summary.qualities == {
        "close the drawer": {"failure": 1},
        "open the drawer": {"successful": 1, "failure": 1},
    }
    assert summary.sources == {"somewhere": 2, "elsewhere": 1}
    assert summary.splits == {"test": 2, "train": 1}
    assert summary.skills == {"expert": 2, "-": 1}
    assert summary.lengths.tolist() == [12, 5, 5]
    assert summary.sizes == {(6, 7): 3}
    assert summary.megabytes == pytest.approx(
        sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file()) / 1e6
    )
    assert summary.unreadable == 0


def test_the_tables_and_the_picture(store, capsys, tmp_path):
    inspect_store(InspectConfig(store.path))
    shown = capsys.readouterr().out
    for text in ("open the drawer", "successful", "elsewhere (1)", "5 to 12, median 5", "6 x 7 (3)", "train (1)"):
        assert text in shown
    assert (tmp_path / "store-contact-sheet.png").is_file()
    inspect_store(InspectConfig(store.path, tmp_path / "deep" / "sheet.png", rows=2))
    assert (tmp_path / "deep" / "sheet.png").is_file()


def test_the_contact_sheet_shows_both_ends_of_each_trajectory():
    frames = np.zeros((30, 10, 10, 3), np.uint8)
    frames[0, ..., 0] = frames[-1, ..., 1] = 255
    sheet = np.asarray(contact_sheet([trajectory("a", num_frames=30, frames=frames)]))
    row = sheet[200]  # through the pictures
    assert (row == (255, 0, 0)).all(axis=1).any()
    assert (row == (0, 255, 0)).all(axis=1).any()
    red, green = ((row == colour).all(axis=1).argmax() for colour in ((255, 0, 0), (0, 255, 0)))
    assert red < green
    upright = np.zeros((2, 10, 10, 3), np.uint8)
    upright[:, 5:] = 200
    column = np.asarray(contact_sheet([trajectory("a", num_frames=2, frames=upright)]))[:, 60, 0]
    assert column[150] == 0
    assert column[300] == 200


def test_what_is_damaged_is_counted_and_left_out_of_the_picture(store, capsys, caplog):
    (store.path / "rows" / "c.json").write_text("{")
    (store.path / "frames" / "b.zip").write_bytes(b"")
    inspect_store(InspectConfig(store.path))
    assert "2 and 1 damaged" in capsys.readouterr().out
    assert "'b'" in caplog.text
    (store.path / "frames" / "a.zip").unlink()
    with pytest.raises(StoreError, match="no sound trajectory"):
        inspect_store(InspectConfig(store.path))


def test_verify_lists_what_is_damaged(store, capsys):
    verify(VerifyConfig(store.path))
    assert "all 3 trajectories are as they were written" in capsys.readouterr().out
    (store.path / "frames" / "b.zip").write_bytes(b"")
    with pytest.raises(StoreError, match=r"1 of 3 trajectories in .*store are damaged"):
        verify(VerifyConfig(store.path))
    assert "b " in capsys.readouterr().out


def test_what_is_not_there_or_empty_is_named(tmp_path):
    with pytest.raises(StoreError, match="there is no store of trajectories at"):
        inspect_store(InspectConfig(tmp_path / "nowhere"))
    with pytest.raises(StoreError, match="there is no store of trajectories at"):
        verify(VerifyConfig(tmp_path / "nowhere"))
    TrajectoryStore.create(tmp_path / "empty")
    with pytest.raises(StoreError, match="holds no trajectories"):
        inspect_store(InspectConfig(tmp_path / "empty"))
