import json
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from robometer_rl.data.store import ChecksumError, StoredFrames, StoreError, TrajectoryStore
from robometer_rl.data.trajectory import Trajectory

FIELDS = ("id", "task", "quality_label", "data_source", "is_robot", "partial_success", "instructions", "skill", "seed")


def trajectory(name="a", num_frames=5, seed=0, **fields):
    frames = np.random.default_rng(seed).integers(0, 256, (num_frames, 6, 7, 3), dtype=np.uint8)
    given_fields = {
        "id": name,
        "task": "öffne die Schublade",
        "frames": frames,
        "quality_label": "suboptimal",
        "data_source": "somewhere",
        "is_robot": False,
        "partial_success": 0.1,
        "success": np.arange(num_frames) > 2,
        "distance": np.linspace(0.3, 0.1, num_frames),
        "steps": 3 * np.arange(num_frames),
        "instructions": ("zieh sie auf",),
        "skill": "expert",
        "seed": 2**31,
        "split": "test",
        "metadata": {"pace": 0.1, "stop_step": None},
    }
    return Trajectory(**{**given_fields, **fields})


def assert_same(found, expected):
    for name in (*FIELDS, "split", "metadata"):
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("frames", "success", "state", "distance", "steps"):
        one, other = getattr(found, name), getattr(expected, name)
        if other is None:
            assert one is None, name
        else:
            np.testing.assert_array_equal(one[:], other, err_msg=name)


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


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


def test_another_directory_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(StoreError, match="not empty"):
        TrajectoryStore(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


def test_another_version_is_refused(tmp_path):
    TrajectoryStore(tmp_path)
    (tmp_path / "store.json").write_text('{"format": "robometer-trajectories", "version": 3}')
    with pytest.raises(StoreError, match="'version': 3"):
        TrajectoryStore(tmp_path)


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
