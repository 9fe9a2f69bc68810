"""Damaged files of sealed rows; what is right about sound ones is tested with the store."""

from __future__ import annotations

import random
import subprocess
import sys

import pyarrow as pa
import pytest

from robometer_rl.data.arrow import SealedRows, sealed_schema
from robometer_rl.data.inspect import summarise
from robometer_rl.data.store import StoreError, TrajectoryStore
from robometer_rl.data.verified import verify_store
from tests.data.runs import trajectory
from tests.library import ROOT

IDS = ("alpha", "bravo", "charlie", "delta")


@pytest.fixture
def sealed(tmp_path):
    store = TrajectoryStore(tmp_path / "store")
    for name in IDS:
        store.append(trajectory(name))
    store.seal()
    return tmp_path / "store" / "rows.arrow"


def changed(path, **columns):
    """Rewrites columns; the file is sound, and its rows are other people's."""
    table = SealedRows(path).batches[0].to_pydict() | columns
    batch = pa.record_batch(table, sealed_schema())
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, batch.schema) as writer:
        writer.write_batch(batch)


def look(path):
    """What `data verify` and `data inspect` do."""
    store = TrajectoryStore.open(path.parent)
    summarise(store)
    return verify_store(store)


def damage_all_over(store: str, seed: str) -> None:
    path = TrajectoryStore.open(store).path / "rows.arrow"
    original, rng = path.read_bytes(), random.Random(int(seed))
    sound = {each.id: each.metadata for each in look(path).trajectories}
    for _ in range(150):
        content = bytearray(original)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(content))
            content[place : place + rng.choice((1, 4, 16))] = rng.choice((bytes(1), b"\xff" * 4, rng.randbytes(16)))
        path.write_bytes(content if rng.random() < 0.8 else content[: rng.randrange(len(content))])
        try:
            found = look(path)
        except StoreError as error:
            if "rows.arrow" not in str(error):
                raise
            continue
        assert all(sound.get(each.id) == each.metadata for each in found.trajectories)
        assert all(entry.name in entry.reason for entry in found.skipped)
    sys.stdout.write("nothing but words\n")


@pytest.mark.parametrize("seed", range(2))
def test_damage_is_found_and_ends_no_process(sealed, seed):
    code = f"from tests.data.test_arrow import damage_all_over; damage_all_over({str(sealed.parent)!r}, '{seed}')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert found.stdout == "nothing but words\n", (found.returncode, found.stderr[-2000:])


@pytest.mark.parametrize(
    "file", ["../secret.zip", "/etc/passwd", "frames/../../x.zip", "rows.arrow", "frames/a/b", "frames/"]
)
def test_frames_of_sealed_rows_are_in_the_store(sealed, file):
    changed(sealed, frames_file=[file, *(f"frames/{name}.zip" for name in IDS[1:])])
    (entry,) = look(sealed).skipped
    assert entry.name == "alpha"


def test_frames_that_are_a_link_out_of_the_store_are_not_read(sealed, tmp_path):
    inside = sealed.parent / "frames" / "alpha.zip"
    inside.rename(tmp_path / "secret.zip")
    inside.symlink_to(tmp_path / "secret.zip")
    (entry,) = look(sealed).skipped
    assert "leads" in entry.reason or "link" in entry.reason


@pytest.mark.parametrize("name", ["../../victim", "", "a/b", None, "alpha\n"])
def test_ids_are_names_of_files(sealed, tmp_path, name):
    (tmp_path / "victim.json").write_text("mine")
    changed(sealed, id=[name, *IDS[1:]])
    with pytest.raises(StoreError, match=r"rows\.arrow is damaged"):
        TrajectoryStore.open(sealed.parent).seal()
    assert (tmp_path / "victim.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("task", None),
        ("quality_label", None),
        ("frames_shape", [1 << 60, 8, 8, 3]),
        ("frames_shape", [5, 8]),
        ("frames_shape", None),
        ("frames_numbers", [1, 2]),
        ("metadata", "{"),
        ("metadata", None),
        ("sha256", None),
        ("instructions", None),
        ("state", [[1.0], [1.0, 2.0]]),
    ],
)
def test_a_row_of_other_types_is_damaged_and_the_others_are_not(sealed, column, value):
    changed(sealed, **{column: [value, *SealedRows(sealed).batches[0].to_pydict()[column][1:]]})
    found = look(sealed)
    assert [entry.name for entry in found.skipped] == ["alpha"]
    assert [each.id for each in found.trajectories] == list(IDS[1:])


def test_another_arrow_file_is_no_store(sealed):
    with pa.OSFile(str(sealed), "wb") as file, pa.ipc.new_stream(file, pa.schema({"id": pa.string()})):
        pass
    with pytest.raises(StoreError, match="task"):
        TrajectoryStore.open(sealed.parent)
