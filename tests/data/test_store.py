import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from robometer_rl.data.rows import LATER
from robometer_rl.data.store import ChecksumError, StoredFrames, StoreError, TrajectoryStore
from robometer_rl.data.verified import verify_store
from tests.data.runs import assert_same, trajectory


def test_what_was_appended_is_read_back(tmp_path):
    run = trajectory()
    TrajectoryStore(tmp_path / "new" / "store").append(run)
    store = TrajectoryStore(tmp_path / "new" / "store")
    assert len(store) == 1
    assert store.ids() == ("a",)
    assert "a" in store
    assert "b" not in store
    assert_same(store["a"], run)
    assert_same(store[0], run)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    state=arrays(np.float32, (2, 3), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    frames=arrays(np.uint8, st.tuples(st.just(2), st.integers(1, 5), st.integers(1, 5), st.just(3))),
    partial=st.none() | st.floats(0, 1),
)
def test_numbers_and_pixels_survive_exactly(tmp_path_factory, state, frames, partial):
    run = trajectory(num_frames=2, state=state, frames=frames, partial_success=partial)
    path = tmp_path_factory.mktemp("store")
    TrajectoryStore(path).append(run)
    assert_same(TrajectoryStore(path)["a"], run)


def stored_frames(store, name="a"):
    frames = store[name].frames
    assert isinstance(frames, StoredFrames)
    return frames


@pytest.mark.parametrize("index", [0, -1, 3, [1, 3], np.array([4, 0]), slice(1, 4), slice(0, 0), slice(None, None, 2)])
def test_frames_are_chosen_like_those_of_an_array(tmp_path, index):
    run = trajectory()
    store = TrajectoryStore(tmp_path)
    store.append(run)
    frames = np.asarray(run.frames)
    np.testing.assert_array_equal(stored_frames(store)[index], frames[index])
    assert store["a"].frames.shape == (5, 6, 7, 3)
    with pytest.raises(IndexError):
        stored_frames(store)[5]


def test_a_clip_reads_the_frames_it_needs(tmp_path):
    run = trajectory()
    store = TrajectoryStore(tmp_path)
    store.append(run)
    np.testing.assert_array_equal(store["a"].clip().read([0, 4]), np.asarray(run.frames)[[0, 4]])
    np.testing.assert_array_equal(np.asarray(store["a"].frames), run.frames)


def test_only_chosen_frames_are_decoded(tmp_path):
    store = TrajectoryStore(tmp_path)
    store.append(trajectory())
    frames = stored_frames(store)
    frames[:0]  # the checksum is compared here
    path = tmp_path / "frames" / "a.zip"
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("000003.png").header_offset
    content = bytearray(path.read_bytes())
    content[start + 60] ^= 0xFF
    path.write_bytes(content)
    assert frames[[0, 1, 2, 4]].shape == (4, 6, 7, 3)
    with pytest.raises(ChecksumError, match=r"'a'.*cannot be decoded"):
        frames[3]


def files(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_bytes_depend_on_content_and_not_on_order_or_time(tmp_path, monkeypatch):
    runs = [trajectory(name, seed=seed) for seed, name in enumerate("abc")]
    one, other = TrajectoryStore(tmp_path / "one"), TrajectoryStore(tmp_path / "other")
    for run in runs:
        one.append(run)
    monkeypatch.setattr(time, "time", lambda: 2.0e9)
    for run in reversed(runs):
        other.append(run)
    assert files(tmp_path / "one") == files(tmp_path / "other")
    assert one.ids() == other.ids() == ("a", "b", "c")


def test_iteration_is_in_order_of_ids(tmp_path):
    store = TrajectoryStore(tmp_path)
    for name in ("b", "c", "a"):
        store.append(trajectory(name))
    assert [run.id for run in store] == ["a", "b", "c"] == list(store.ids())
    assert store[-1].id == "c"
    with pytest.raises(IndexError):
        store[3]
    with pytest.raises(KeyError, match="no trajectory 'd'"):
        store["d"]


def test_an_id_is_taken_once_even_if_another_process_took_it(tmp_path):
    store, other = TrajectoryStore(tmp_path), TrajectoryStore(tmp_path)
    store.append(trajectory())
    for taken in (store, other):
        with pytest.raises(StoreError, match="already has a trajectory 'a'"):
            taken.append(trajectory(seed=1))


class Meeting:
    """Frames whose reading lets another writer go first."""

    shape = (5, 6, 7, 3)

    def __init__(self, frames, other):
        self.frames, self.other = frames, other

    def __len__(self):
        return 5

    def __getitem__(self, index):
        self.other()
        self.other = lambda: None
        return self.frames[index]


@pytest.mark.parametrize("sealed", [False, True])
def test_of_two_writers_at_once_the_faster_one_is_kept_whole(tmp_path, sealed):
    store, other = TrajectoryStore(tmp_path), TrajectoryStore(tmp_path)

    def write():
        other.append(trajectory(seed=1))
        if sealed:
            other.seal()

    with pytest.raises(StoreError, match="already has a trajectory 'a'"):
        store.append(trajectory(frames=Meeting(trajectory(seed=2).frames, write)))
    assert_same(TrajectoryStore(tmp_path)["a"], trajectory(seed=1))
    TrajectoryStore(tmp_path).verify()
    assert [path.name for path in (tmp_path / "frames").iterdir()] == ["a.zip"]


CONTENDER = """
import sys
from robometer_rl.data.store import StoreError, TrajectoryStore
from tests.data.runs import trajectory
store, seed = TrajectoryStore(sys.argv[1]), int(sys.argv[2])
input()
for number in range(40):
    try:
        store.append(trajectory(f"{number:02d}", seed=seed))
    except StoreError:
        pass
"""


def test_two_processes_with_the_same_ids_leave_one_trajectory_each(tmp_path):
    command = [sys.executable, "-c", CONTENDER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    start = partial(subprocess.Popen, stdin=subprocess.PIPE, text=True, env=environment)
    writers = [start([*command, str(seed)]) for seed in range(2)]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.wait() for writer in writers] == [0, 0]
    store = TrajectoryStore(tmp_path)
    store.verify()
    assert len(store) == 40


def test_a_row_that_cannot_be_read_is_named_and_does_not_hide_the_others(tmp_path):
    store = TrajectoryStore(tmp_path)
    for name in "ab":
        store.append(trajectory(name))
    (tmp_path / "rows" / "a.json").unlink()
    (tmp_path / "rows" / "a.json").mkdir()  # reading it is an OSError, as on a broken disk
    with pytest.raises(ChecksumError, match="'a': its row cannot be read"):
        store["a"]
    found = verify_store(TrajectoryStore(tmp_path))
    assert ([each.id for each in found.trajectories], [each.name for each in found.skipped]) == (["b"], ["a"])


@pytest.mark.parametrize("name", ["../a", "a/b", ".hidden", "a b", "x" * 201])
def test_an_id_is_a_file_name(tmp_path, name):
    with pytest.raises(StoreError, match="cannot be a file name"):
        TrajectoryStore(tmp_path).append(trajectory(name))
    assert len(TrajectoryStore(tmp_path)) == 0


def test_changed_frames_fail_the_checksum_by_name(tmp_path):
    store = TrajectoryStore(tmp_path)
    store.append(trajectory("fine"))
    store.append(trajectory("hurt"))
    path = tmp_path / "frames" / "hurt.zip"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    store["fine"].frames[:]
    with pytest.raises(ChecksumError, match="'hurt'"):
        store["hurt"].frames[:1]
    with pytest.raises(ChecksumError, match="'hurt'"):
        store.verify()


def test_a_changed_row_fails_the_checksum_too(tmp_path):
    store = TrajectoryStore(tmp_path)
    store.append(trajectory())
    path = tmp_path / "rows" / "a.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quality_label": "successful"}))
    with pytest.raises(ChecksumError, match="'a'"):
        store["a"].frames[:1]


def test_a_missing_frame_file_is_named(tmp_path):
    store = TrajectoryStore(tmp_path)
    store.append(trajectory())
    (tmp_path / "frames" / "a.zip").unlink()
    with pytest.raises(ChecksumError, match=r"'a'.*a\.zip is missing"):
        store.verify()


def test_a_frame_file_that_cannot_be_read_is_named(tmp_path):
    store = TrajectoryStore(tmp_path)
    store.append(trajectory())
    (tmp_path / "frames" / "a.zip").unlink()
    (tmp_path / "frames" / "a.zip").mkdir()  # reading it is an OSError, as on a broken disk
    with pytest.raises(ChecksumError, match=r"'a'.*a\.zip cannot be read"):
        store.verify()


@pytest.mark.parametrize("made", range(3))
def test_a_store_whose_start_was_cut_short_is_one(tmp_path, monkeypatch, made):
    """By a kill, or as another process sees it that starts the same store."""
    path, make, calls = tmp_path / "store", Path.mkdir, iter(range(9))

    def killed(folder, *args, **kwargs):
        if folder.parent == path and next(calls) == made:
            raise KeyboardInterrupt
        make(folder, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", killed)
        if made < 2:
            with pytest.raises(KeyboardInterrupt):
                TrajectoryStore.create(path)
    TrajectoryStore(path).append(trajectory())
    assert TrajectoryStore.open(path).ids() == ("a",)


def test_columns_are_of_what_the_store_sees(tmp_path):
    early = TrajectoryStore(tmp_path)
    later = TrajectoryStore(tmp_path)
    later.append(trajectory("a"))
    later.seal()
    early.append(trajectory("b"))  # notices the Arrow file
    assert early.columns("task")["id"] == list(early.ids()) == ["b"]


def test_another_directory_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(StoreError, match="not empty"):
        TrajectoryStore(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


def test_another_version_is_refused(tmp_path):
    TrajectoryStore.create(tmp_path)
    (tmp_path / "store.json").write_text('{"format": "robometer-trajectories", "version": 3}')
    with pytest.raises(StoreError, match="'version': 3"):
        TrajectoryStore(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": 2**63}, "the seed 9223372036854775808; expected 64 bits"),
        ({"metadata": {"gain": np.float32(1)}}, "metadata that is not JSON.*float32"),
        ({"metadata": {"gain": float("nan")}}, "metadata that is not JSON"),
    ],
)
def test_a_row_that_cannot_be_written_is_named(tmp_path, fields, message):
    store = TrajectoryStore(tmp_path)
    with pytest.raises(StoreError, match=message):
        store.append(replace(trajectory(), **fields))
    assert len(TrajectoryStore(tmp_path)) == 0


class TestSealed:
    """The journal merged into an Arrow file."""

    def test_sealing_changes_nothing_that_is_read(self, tmp_path):
        runs = [trajectory(), trajectory("b", seed=1, state=np.random.default_rng(0).normal(size=(5, 3)))]
        runs.append(
            replace(trajectory("c", success=None, steps=None, source=None, skill=None, instructions=()), seed=None)
        )
        store = TrajectoryStore(tmp_path)
        for run in runs:
            store.append(run)
        store.seal()
        assert [path.name for path in (tmp_path / "rows").iterdir()] == []
        for opened in (store, TrajectoryStore.open(tmp_path)):
            assert opened.ids() == ("a", "b", "c")
            for run in runs:
                assert_same(opened[run.id], run)
            opened.verify()

    def test_bytes_do_not_depend_on_when_it_was_sealed(self, tmp_path):
        runs = [trajectory(name, seed=seed) for seed, name in enumerate("abcd")]
        once, often = TrajectoryStore(tmp_path / "once"), TrajectoryStore(tmp_path / "often")
        for run in runs:
            once.append(run)
        once.seal()
        for run in (runs[2], runs[0], runs[3], runs[1]):
            often.append(run)
            often.seal()
        assert files(tmp_path / "once") == files(tmp_path / "often")
        often.seal()
        assert files(tmp_path / "once") == files(tmp_path / "often"), "nothing is left to seal"

    def test_appending_goes_on_and_ids_stay_taken(self, tmp_path):
        store, other = TrajectoryStore(tmp_path), TrajectoryStore(tmp_path)
        store.append(trajectory("b"))
        store.seal()
        with pytest.raises(StoreError, match="already has a trajectory 'b'"):
            other.append(trajectory("b", seed=1))
        other.append(trajectory("a", seed=1))
        assert TrajectoryStore(tmp_path).ids() == ("a", "b")
        assert_same(TrajectoryStore(tmp_path)["b"], trajectory("b"))

    def test_a_reader_survives_a_seal_by_somebody_else(self, tmp_path):
        TrajectoryStore(tmp_path).append(trajectory())
        reader = TrajectoryStore.open(tmp_path)
        TrajectoryStore(tmp_path).seal()
        assert_same(reader["a"], trajectory())

    def test_a_seal_that_was_killed_is_finished_by_the_next(self, tmp_path):
        store = TrajectoryStore(tmp_path)
        store.append(trajectory())
        shutil.copy(tmp_path / "rows" / "a.json", tmp_path / "kept.json")
        store.seal()
        sealed = (tmp_path / "rows.arrow").read_bytes()
        shutil.move(tmp_path / "kept.json", tmp_path / "rows" / "a.json")
        again = TrajectoryStore(tmp_path)
        assert again.ids() == ("a",)
        again.seal()
        assert not (tmp_path / "rows" / "a.json").exists()
        assert (tmp_path / "rows.arrow").read_bytes() == sealed

    def test_a_changed_byte_is_found(self, tmp_path):
        store = TrajectoryStore(tmp_path)
        store.append(trajectory(task="open the drawer"))
        store.seal()
        path = tmp_path / "rows.arrow"
        path.write_bytes(path.read_bytes().replace(b"open the drawer", b"shut the drawer"))
        with pytest.raises(ChecksumError, match="'a': its row has changed"):
            _ = TrajectoryStore.open(tmp_path)["a"]

    def test_a_damaged_file_is_named(self, tmp_path):
        store = TrajectoryStore(tmp_path)
        store.append(trajectory())
        store.seal()
        (tmp_path / "rows.arrow").write_bytes(b"not arrow")
        with pytest.raises(StoreError, match=r"rows\.arrow is damaged"):
            TrajectoryStore.open(tmp_path)

    def test_a_row_that_is_damaged_stays_in_the_journal(self, tmp_path):
        store = TrajectoryStore(tmp_path)
        store.append(trajectory("fine"))
        store.append(trajectory("hurt"))
        path = tmp_path / "rows" / "hurt.json"
        path.write_text(path.read_text().replace("suboptimal", "successful"))
        store.seal()
        assert [path.name for path in (tmp_path / "rows").iterdir()] == ["hurt.json"]
        again = TrajectoryStore.open(tmp_path)
        assert_same(again["fine"], trajectory("fine"))
        with pytest.raises(ChecksumError, match="'hurt': its row has changed"):
            _ = again["hurt"]

    def test_datasets_opens_it(self, tmp_path):
        datasets = pytest.importorskip("datasets", reason="needs the extra 'data'")
        store = TrajectoryStore(tmp_path)
        store.append(trajectory())
        store.seal()
        (row,) = datasets.Dataset.from_file(str(tmp_path / "rows.arrow"))
        assert row["task"] == "öffne die Schublade"
        assert row["steps"] == [0, 3, 6, 9, 12]

    def test_columns_are_those_of_the_journal_and_of_the_file(self, tmp_path):
        store = TrajectoryStore(tmp_path)
        store.append(trajectory("b"))
        store.seal()
        store.append(trajectory("a", num_frames=3, split="train"))
        store.append(trajectory("c"))
        (tmp_path / "rows" / "c.json").write_text("{")
        assert store.columns("split", "frames_shape") == {
            "id": ["a", "b"],
            "split": ["train", "test"],
            "frames_shape": [[3, 6, 7, 3], [5, 6, 7, 3]],
        }


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=st.lists(st.sampled_from(["append", "seal", "open"]), max_size=8), data=st.data())
def test_two_writers_who_seal_when_they_like_lose_nothing(tmp_path_factory, steps, data):
    path = tmp_path_factory.mktemp("store")
    writers = [TrajectoryStore.create(path), TrajectoryStore(path)]
    names = data.draw(st.permutations("abcdefgh"))
    written = []
    for step in steps:
        chosen = data.draw(st.integers(0, 1))
        if step == "append":
            name = names[len(written)]
            writers[chosen].append(trajectory(name, num_frames=2, seed=ord(name)))
            written.append(name)
        elif step == "seal":
            writers[chosen].seal()
        else:
            writers[chosen] = TrajectoryStore(path)
    store = TrajectoryStore.open(path)
    assert store.ids() == tuple(sorted(written))
    for name in written:
        assert_same(store[name], trajectory(name, num_frames=2, seed=ord(name)))


@pytest.mark.parametrize("later", sorted(LATER))
def test_rows_that_were_written_before_there_was_such_a_field_are_read(tmp_path, later):
    pytest.importorskip("datasets", reason="needs the extra 'data'")
    pyarrow = pytest.importorskip("pyarrow")
    missing: dict[str, Any] = {later: None}
    store = TrajectoryStore(tmp_path)
    for name in ("a", "b"):
        store.append(trajectory(name, **missing))
    for row in (tmp_path / "rows").iterdir():
        values = json.loads(row.read_text())
        assert values.pop(later) is None
        row.write_text(json.dumps(values))
    assert_same(TrajectoryStore.open(tmp_path)["a"], trajectory("a", **missing))
    store.seal()
    table = pyarrow.ipc.open_stream((tmp_path / "rows.arrow").read_bytes()).read_all().drop_columns(later)
    with pyarrow.OSFile(str(tmp_path / "rows.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)
    store = TrajectoryStore.open(tmp_path)
    store.append(trajectory("c"))
    for _ in range(2):
        assert_same(store["b"], trajectory("b", **missing))
        assert_same(store["c"], trajectory("c"))
        store.verify()
        store.seal()


WITHOUT_DATASETS = """
import sys
sys.modules["datasets"] = sys.modules["pyarrow"] = None
from robometer_rl.data.store import TrajectoryStore
store = TrajectoryStore.open(sys.argv[1])
print(len(store), len(store[0].frames[:]))
store.seal()
"""


def test_an_unsealed_store_needs_no_datasets_and_a_sealed_one_asks_for_it(tmp_path):
    TrajectoryStore(tmp_path).append(trajectory())
    command = [sys.executable, "-c", WITHOUT_DATASETS, str(tmp_path)]
    unsealed = subprocess.run(command, capture_output=True, text=True)
    assert unsealed.stdout.split() == ["1", "5"]
    assert "pip install 'robometer-rl[data]'" in unsealed.stderr
    assert (tmp_path / "rows" / "a.json").exists()
    TrajectoryStore(tmp_path).seal()
    sealed = subprocess.run(command, capture_output=True, text=True)
    assert sealed.stdout == ""
    assert "ModuleNotFoundError: to read the sealed rows" in sealed.stderr


WRITER = """
import itertools, sys
import numpy as np
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
store = TrajectoryStore(sys.argv[1])
for number in itertools.count(len(store)):
    frames = np.random.default_rng(number).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    store.append(Trajectory(f"{number:06d}", "open the drawer", frames, "failure", "somewhere"))
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_complete_trajectories(tmp_path):
    for killed_after in (1, 7):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(killed_after):
                assert writer.stdout.readline(), "the writer died by itself"
            writer.send_signal(signal.SIGKILL)
        store = TrajectoryStore(tmp_path)
        store.verify()
        assert store.ids() == tuple(f"{number:06d}" for number in range(len(store)))
        assert len(store) >= killed_after
        expected = np.random.default_rng(len(store) - 1).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
        np.testing.assert_array_equal(store[-1].frames[:], expected)


def test_what_a_killed_writer_left_in_it_is_removed(tmp_path):
    store = TrajectoryStore(tmp_path / "store")
    store.append(trajectory("one"))
    (store.path / "rows" / ".one.json.partial").mkdir()
    (store.path / "rows" / ".one.json.partial" / "one.json").write_text("{")
    store.remove_left_over()
    assert sorted(entry.name for entry in (store.path / "rows").iterdir()) == ["one.json"]
    assert store["one"].id == "one"
