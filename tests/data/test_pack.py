"""Packed stores: equal to what was packed, whatever the shards, and complete or not there."""

import os
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robometer_rl.data.array_frames import ArrayFrames
from robometer_rl.data.pack import PackConfig, pack
from robometer_rl.data.store import ChecksumError, StoreError, TrajectoryStore
from robometer_rl.data.verified import open_verified, verify_store
from robometer_rl.data.video_frames import VideoFrames
from robometer_rl.formats.importing import ImportOptions, import_trajectories
from robometer_rl.formats.store import StoredConfig, read_stored
from robometer_rl.video import write_video
from tests.data.runs import assert_same, trajectory

pytest.importorskip("datasets")


def made(path: Path, count: int = 6) -> TrajectoryStore:
    """A store with frames of every kind; two of its trajectories share a video."""
    store = TrajectoryStore.create(path / "source")
    for number in range(count):
        run = trajectory(f"run.{number:03d}", seed=number, num_frames=2 + number % 4)
        if number % 3 == 1:
            file = path / f"{number}.npz"
            np.savez_compressed(file, frames=np.asarray(run.frames))
            run = replace(run, frames=ArrayFrames(file, run.frames.shape))
        if number % 3 == 2:
            file = path / "shared.mp4"
            if not file.exists():
                write_video(file, np.full((5, 32, 48, 3), 90, np.uint8), 10)
            run = trajectory(run.id, num_frames=5, frames=VideoFrames(file))
        store.append(run, keep_video=True)
    store.seal()
    return store


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 9), shard_kb=st.floats(0.001, 60))
def test_a_packed_store_equals_its_source_whatever_the_shards(tmp_path_factory, count, shard_kb):
    folder = tmp_path_factory.mktemp("packed")
    source = made(folder, count)
    packed = pack(PackConfig(source.path, folder / "out", shard_mb=shard_kb / 1e3))
    assert packed.ids() == source.ids()
    assert packed.columns("task", "frames_shape") == source.columns("task", "frames_shape")
    for name in source.ids():
        assert_same(packed[name], source[name])
        assert packed.row(name).sha256 == source.row(name).sha256
    assert not verify_store(packed).skipped
    files = [path.relative_to(packed.path).as_posix() for path in packed.path.rglob("*") if path.is_file()]
    assert sorted(files) == ["rows.arrow", *sorted(f"shards/{name}" for name in packed.shards), "store.json"]
    assert sum(packed.shards.values()) == sum(path.stat().st_size for path in (folder / "out/shards").iterdir())


def test_shards_are_read_by_others_without_the_index(tmp_path):
    datasets = pytest.importorskip("datasets")
    store = TrajectoryStore.create(tmp_path / "source")
    for number in range(3):
        store.append(trajectory(f"run.{number}", seed=number))
    packed = pack(PackConfig(store.path, tmp_path / "out"))
    files = [str(tmp_path / "out/shards" / name) for name in packed.shards]
    rows = list(
        datasets.load_dataset(
            "webdataset", data_files={"train": files}, split="train", streaming=True, cache_dir=str(tmp_path / "cache")
        )
    )
    assert [row["json"]["id"] for row in rows] == ["run.0", "run.1", "run.2"]
    with tarfile.open(files[0]) as archive:
        names = archive.getnames()
        assert names[:2] == ["000000-000000.json", "000000-000000.zip"]
        content = archive.extractfile(names[1])
        assert content is not None
        assert content.read() == (store.path / "frames/run.0.zip").read_bytes()


def test_a_packed_store_is_appended_to_sealed_and_packed_again(tmp_path):
    packed = pack(PackConfig(made(tmp_path).path, tmp_path / "out"))
    packed.append(trajectory("later"))
    packed.seal()
    again = TrajectoryStore.open(tmp_path / "out")
    assert_same(again["later"], trajectory("later"))
    assert_same(again["run.000"], trajectory("run.000", num_frames=2))
    twice = pack(PackConfig(again.path, tmp_path / "twice"))
    assert twice.ids() == again.ids()
    assert not verify_store(twice).skipped


def test_a_packed_store_is_imported_into_another(tmp_path):
    packed = pack(PackConfig(made(tmp_path).path, tmp_path / "out"))
    report = import_trajectories(read_stored(StoredConfig(packed.path)), ImportOptions(tmp_path / "loose"))
    assert report.imported == len(packed)
    loose = TrajectoryStore.open(tmp_path / "loose")
    for name in packed.ids():
        assert_same(loose[name], packed[name])


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_shard_that_is_cut_or_missing_is_named(tmp_path, damage):
    packed = pack(PackConfig(made(tmp_path).path, tmp_path / "out", shard_mb=1e-6))
    shard = packed.path / "shards" / "000001.tar"
    if damage == "cut":
        os.truncate(shard, 700)
    else:
        shard.unlink()
    again = TrajectoryStore.open(packed.path)  # what is in the others can be read
    assert_same(again["run.000"], trajectory("run.000", num_frames=2))
    said = "000001.tar is missing" if damage == "gone" else "000001.tar has 700 bytes; expected 10240"
    with pytest.raises(StoreError, match=said):
        open_verified(packed.path)
    with pytest.raises(ChecksumError, match=r"'run\.001'.*000001\.tar"):
        again["run.001"].frames[:1]
    (skipped,) = verify_store(again).skipped
    assert skipped.name == "run.001"


def test_a_changed_byte_in_a_shard_is_found(tmp_path):
    packed = pack(PackConfig(made(tmp_path).path, tmp_path / "out"))
    place = packed.row("run.001").frames.place
    assert place is not None
    with (packed.path / "shards" / place.shard).open("r+b") as file:
        file.seek(place.start + place.size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(ChecksumError, match=r"'run\.001'.*has the checksum"):
        packed["run.001"].frames[:1]
    assert [each.name for each in verify_store(packed).skipped] == ["run.001"]


def test_what_is_damaged_is_left_out_and_listed(tmp_path, caplog):
    source = made(tmp_path)
    (source.path / "frames" / "run.000.zip").write_bytes(b"no archive")
    packed = pack(PackConfig(source.path, tmp_path / "out"))
    assert packed.ids() == source.ids()[1:]
    assert "1 of 6 trajectories" in caplog.text
    assert "run.000" in caplog.text


def test_nothing_is_written_over(tmp_path):
    source = made(tmp_path)
    pack(PackConfig(source.path, tmp_path / "out"))
    with pytest.raises(FileExistsError, match="out is there already"):
        pack(PackConfig(source.path, tmp_path / "out"))
    with pytest.raises(StoreError, match="there is nothing to pack"):
        pack(PackConfig(TrajectoryStore.create(tmp_path / "empty").path, tmp_path / "other"))


_KILLED = """
import os, signal, sys, tarfile
from pathlib import Path
from robometer_rl.data import pack
left, add = int(sys.argv[3]), pack._add
def adding(*args):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return add(*args)
pack._add = adding
pack.pack(pack.PackConfig(Path(sys.argv[1]), Path(sys.argv[2]), shard_mb=0.004))
"""


@pytest.mark.parametrize("files", [1, 6, 11])
def test_a_packing_that_was_killed_goes_on(tmp_path, files):
    source = made(tmp_path)
    whole = pack(PackConfig(source.path, tmp_path / "whole", shard_mb=0.004))
    assert len(whole.shards) > 3
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", _KILLED, source.path, out, str(files)], check=False)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(StoreError, match="not been packed to its end"):
        TrajectoryStore.open(out)
    with pytest.raises(StoreError, match="not been packed to its end"):
        TrajectoryStore(out)
    written = {path: path.stat().st_mtime_ns for path in (out / "shards").glob("*.tar")}
    with pytest.raises(StoreError, match="another --shard-mb"):
        pack(PackConfig(source.path, out, shard_mb=0.005))
    pack(PackConfig(source.path, out, shard_mb=0.004))
    assert contents(out) == contents(whole.path)
    indexed = sorted(written)[: len(written)]
    assert all(path.stat().st_mtime_ns == written[path] for path in indexed)


def test_what_a_packing_left_of_its_notes_is_removed(tmp_path, monkeypatch):
    source = made(tmp_path)

    def interrupted(path: Path, **_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda path, **options: interrupted(path) if path.suffix == ".arrow" else None)
        with pytest.raises(KeyboardInterrupt):
            pack(PackConfig(source.path, tmp_path / "out"))
    assert TrajectoryStore.open(tmp_path / "out").ids() == source.ids()
    pack(PackConfig(source.path, tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out/shards").iterdir()) == ["000000.tar"]


def test_trajectories_that_changed_meanwhile_are_not_mixed(tmp_path, monkeypatch):
    source = made(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("robometer_rl.data.pack._join", lambda output: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pack(PackConfig(source.path, tmp_path / "out"))
    other = TrajectoryStore.create(tmp_path / "other")
    for name in source.ids():
        other.append(trajectory(name, seed=99))
    with pytest.raises(StoreError, match="has changed since it was packed"):
        pack(PackConfig(other.path, tmp_path / "out"))
