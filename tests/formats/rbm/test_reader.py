"""The published data in every layout, as the reference's own code has written it, and damaged."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robometer_rl.cli import main
from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.data.store import ChecksumError, TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.formats.importing import ImportOptions, InPlaceOptions, import_trajectories
from robometer_rl.formats.rbm.reader import RbmConfig, read_rbm
from robometer_rl.formats.store import StoredConfig, read_stored

FIXTURE = Path(__file__).parents[2] / "fixtures" / "rbm_dataset"
LIBERO = "abraranwar_libero_rfm_libero256_10"
GRADED = "jesbu1_roboreward_rfm_high_res_roboreward_train"
LAYOUTS = ["processed_datasets", "tars", "robometer_dataset"]


def frame_numbers(trajectory: Trajectory) -> list[int]:
    """The number that the pictures carry in binary in their top rows, eight blocks, least significant left."""
    blocks = trajectory.frames[:][:, 3, 4::8].mean(-1) > 127
    return (blocks @ (1 << np.arange(8))).tolist()


def read(path: Path, **options: object) -> list[Trajectory]:
    found = list(read_rbm(RbmConfig(path, **options)))  # type: ignore[arg-type]
    assert all(isinstance(each, Trajectory) for each in found), found
    return [each for each in found if isinstance(each, Trajectory)]


def problems(path: Path) -> list[Unreadable]:
    return [each for each in read_rbm(RbmConfig(path)) if isinstance(each, Unreadable)]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of the user's own name for its folder."""
    return Path(shutil.copytree(FIXTURE / "processed_datasets" / GRADED, tmp_path / "mine" / GRADED))


def rewrite(cache: Path, change) -> None:
    """Writes the rows of a cache again, changed."""
    file = next((cache / "processed_dataset").glob("*.arrow"))
    with file.open("rb") as stream:
        table = pa.ipc.open_stream(stream).read_all()
    rows = table.to_pylist()
    change(rows)
    changed = pa.Table.from_pylist(rows)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, changed.schema) as writer:
        writer.write_table(changed)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_same_episodes_and_labels(layout: str) -> None:
    found = read(FIXTURE / layout)
    assert [each.id for each in found] == [
        f"{LIBERO}-libero25-000{n}-0000-4000-8000-00000000000{n}" for n in range(3)
    ] + [f"{GRADED}-roborewa-000{n}-0000-4000-8000-00000000000{n}" for n in range(4)]
    assert [each.quality_label for each in found] == ["successful"] * 4 + ["failure"] * 2 + ["successful"]
    assert [each.partial_success for each in found] == [None] * 3 + [1.0, 0.25, 0.5, 1.0]
    assert [each.data_source for each in found] == ["libero256_10"] * 3 + [
        "roboreward_bridge",
        "roboreward_bridge",
        "roboreward_roboarena",
        "roboreward_droid",
    ]
    assert found[0].source == f"{LIBERO}#libero25-0000-0000-4000-8000-000000000000"


@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_frames_of_caches_are_those_that_the_reference_kept(layout: str) -> None:
    found = read(FIXTURE / layout)
    assert frame_numbers(found[0]) == list(range(20))
    assert frame_numbers(found[2]) == [number * 45 // 32 for number in range(32)]
    assert [each.metadata["last_frame_kept"] for each in found] == [True, True, False, True, False, True, True]
    assert frame_numbers(found[6]) == [0, 1, 2, 3]


def test_frames_of_a_repository_go_to_their_last(tmp_path: Path) -> None:
    found = read(FIXTURE / "robometer_dataset")
    assert frame_numbers(found[2]) == list(range(45))
    # A subset by itself, and what a conversion leaves where it is not pushed.
    subset = FIXTURE / "robometer_dataset" / "libero_rfm" / "libero256_10"
    assert [each.id for each in read(subset)] == [each.id for each in found[:3]]
    saved = Path(shutil.copytree(FIXTURE / "save_to_disk", tmp_path / "libero_rfm"))
    assert len(problems(saved)) == 3, "its videos are elsewhere"
    assert [len(each) for each in read(saved, videos=subset)] == [20, 21, 45]
    shutil.copytree(subset / "batch_0000", saved / "libero256_10" / "batch_0000")
    assert [each.id for each in read(saved)] == [each.id for each in found[:3]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_import_writes_nothing_again_and_the_store_is_sound(layout: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert main(["data", "import", "rbm", str(FIXTURE / layout), str(store)]) == 0
    assert not list(store.glob("frames/*.zip"))
    opened = TrajectoryStore.open(store)
    opened.verify()
    for there, here in zip(opened, read(FIXTURE / layout), strict=True):
        assert there.id == here.id
        assert frame_numbers(there) == frame_numbers(here)
        assert there.frames[:].shape[1:] == (64, 64, 3)


def test_files_are_linked_and_thinned_without_being_written_again(cache: Path, tmp_path: Path) -> None:
    report = import_trajectories(read_rbm(RbmConfig(cache)), InPlaceOptions(tmp_path / "store", max_frames=4))
    assert report.imported == 4
    kept = list((tmp_path / "store" / "frames").glob("*.npz"))
    assert sorted(file.stat().st_ino for file in kept) == sorted(
        file.stat().st_ino for file in (cache / "frames").iterdir()
    )
    store = TrajectoryStore.open(tmp_path / "store")
    assert frame_numbers(store[1]) == [0, 12, 26, 38]
    store.verify()
    target = kept[0].read_bytes()
    kept[0].unlink()
    kept[0].write_bytes(target[:-9] + b"x" + target[-8:])
    with pytest.raises(ChecksumError, match="has the checksum"):
        store.verify()


def test_stores_are_brought_together_without_writing_frames_again(tmp_path: Path) -> None:
    import_trajectories(read_rbm(RbmConfig(FIXTURE / "tars")), InPlaceOptions(tmp_path / "one", max_frames=9))
    reading = read_stored(StoredConfig(tmp_path / "one"))
    assert import_trajectories(reading, ImportOptions(tmp_path / "two", max_frames=4)).imported == 7
    assert not list((tmp_path / "two").glob("frames/*.zip"))
    one, two = TrajectoryStore.open(tmp_path / "one"), TrajectoryStore.open(tmp_path / "two")
    two.verify()
    assert frame_numbers(one[2]) == [0, 5, 11, 16, 22, 26, 32, 37, 43]
    assert frame_numbers(two[2]) == [0, 16, 26, 43]


def test_groups_choose_collections_and_make_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="robometer_rl")
    chosen = read(FIXTURE / "processed_datasets", select=("libero",))
    assert [(each.split, each.id.startswith(LIBERO)) for each in chosen] == [("test", True)] * 3
    assert "5 of the 6 collections that are selected are not in" in caplog.text
    assert {each.split for each in read(FIXTURE / "tars", select=("rbm-1m-id",))} == {"train"}
    assert f"its stand-in {GRADED} is read" in caplog.text
    assert len(read(FIXTURE / "tars", select=(GRADED,))) == 4
    with pytest.raises(SourceError, match=r"(?s)6 of the 6 .*published preprocessing does not make it.*it holds abr"):
        read_rbm(RbmConfig(FIXTURE / "tars", select=("rbm-1m-ood",)))
    with pytest.raises(ValueError, match=r"no group or published collection 'rbm-2m'; the groups are franka, libero"):
        read_rbm(RbmConfig(FIXTURE / "tars", select=("rbm-2m",)))


def test_words_and_grades_that_are_none_are_listed(cache: Path) -> None:
    def change(rows: list[dict]) -> None:
        rows[0] |= {"quality_label": "optimal", "partial_success": None}
        rows[1] |= {"quality_label": "failed", "partial_success": float("nan")}
        rows[2] |= {"quality_label": "so-so"}
        rows[3] |= {"partial_success": 1.5}

    rewrite(cache, change)
    first, second, word, grade = list(read_rbm(RbmConfig(cache)))
    assert isinstance(first, Trajectory)
    assert isinstance(second, Trajectory)
    assert (first.quality_label, first.partial_success) == ("successful", None)
    assert (second.quality_label, second.partial_success) == ("failure", None)
    assert isinstance(word, Unreadable)
    assert "quality_label is 'so-so'; expected one of successful, optimal" in word.reason
    assert isinstance(grade, Unreadable)
    assert "partial success 1.5" in grade.reason


def test_frames_that_are_missing_or_not_what_the_row_says_are_listed(cache: Path) -> None:
    files = sorted((cache / "frames").iterdir())
    files[0].unlink()
    np.savez_compressed(files[1], frames=np.zeros((31, 64, 64, 3), np.uint8))
    np.savez_compressed(files[2], frames=np.zeros((9, 64, 64, 3), np.float32))
    files[3].write_bytes(files[3].read_bytes()[:100])
    found = problems(cache)
    assert [each.name for each in found] == [
        f"{GRADED}#roborewa-000{n}-0000-4000-8000-00000000000{n}" for n in range(4)
    ]
    for entry, reason in zip(
        found,
        ["are not there", r"shape (31, 64, 64, 3); expected (32", "float32; expected an array", "not a readable"],
        strict=True,
    ):
        assert reason in entry.reason


def test_a_path_in_a_row_leads_nowhere_else(cache: Path, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "secret.npz", frames=np.zeros((12, 64, 64, 3), np.uint8))
    rewrite(cache, lambda rows: rows[0].update(frames="../../../secret.npz"))
    assert "'../../../secret.npz' are not there" in problems(cache)[0].reason


def write_tar(path: Path, *names: str, link: str | None = None) -> None:
    with tarfile.open(path, "w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"abcd"))
        if link is not None:
            member = tarfile.TarInfo("KEY/link")
            member.type, member.linkname = tarfile.SYMTYPE, link
            archive.addfile(member)


def test_archives_that_are_incomplete_or_hostile_are_listed_and_the_others_read(tmp_path: Path) -> None:
    for file in (FIXTURE / "tars").iterdir():
        shutil.copy(file, tmp_path)
    write_tar(tmp_path / "a.tar", "KEY/processed_dataset/state.json", "KEY/../../../etc/passwd")
    write_tar(tmp_path / "b.tar", "KEY/processed_dataset/x", link="/etc/passwd")
    write_tar(tmp_path / "c.tar", "KEY/notes.txt")
    (tmp_path / "d.tar").write_bytes(b"no archive" * 100)
    (tmp_path / f"{GRADED}.tar.partab").unlink()
    found = {each.name: each.reason for each in problems(tmp_path)}
    assert sorted(found) == ["a.tar", "b.tar", "c.tar", "d.tar", f"{GRADED}.tar"]
    assert "leads out of it" in found["a.tar"]
    assert "is a link" in found["b.tar"]
    assert "holds no processed_dataset/" in found["c.tar"]
    assert "part" in found[f"{GRADED}.tar"]
    assert sum(isinstance(each, Trajectory) for each in read_rbm(RbmConfig(tmp_path))) == 3


def test_the_first_part_of_an_archive_is_missed_too(tmp_path: Path) -> None:
    shutil.copy(FIXTURE / "tars" / f"{GRADED}.tar.partab", tmp_path)
    shutil.copy(FIXTURE / "tars" / f"{GRADED}.tar.partab", tmp_path / f"{GRADED}.tar.partac")
    (only,) = problems(tmp_path)
    assert "partaa is missing" in only.reason


def test_parts_are_called_in_either_way_and_one_stands_for_all(tmp_path: Path) -> None:
    for part in ("aa", "ab"):
        shutil.copy(FIXTURE / "tars" / f"{GRADED}.tar.part{part}", tmp_path / f"{GRADED}.tar.part-{part}")
    assert len(read(tmp_path / f"{GRADED}.tar.part-ab")) == 4


def test_what_is_unpacked_is_not_read_twice(tmp_path: Path) -> None:
    shutil.copy(FIXTURE / "tars" / f"{LIBERO}.tar", tmp_path)
    shutil.copytree(FIXTURE / "processed_datasets" / LIBERO, tmp_path / LIBERO)
    assert len(read(tmp_path)) == 3


def test_tables_that_are_damaged_are_named(cache: Path, tmp_path: Path) -> None:
    file = next((cache / "processed_dataset").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:500])
    (only,) = problems(cache)
    assert only.name == str(file)
    assert "cannot be read" in only.reason
    subset = tmp_path / "repo" / "subset"
    subset.mkdir(parents=True)
    pq.write_table(pa.table({"image": [1]}), subset / "train-00000-of-00001.parquet")
    (only,) = problems(subset)
    assert "lacks the columns id, task, frames, quality_label" in only.reason


def test_a_state_that_names_a_file_elsewhere_is_refused(cache: Path) -> None:
    (cache / "processed_dataset" / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": "../../x.arrow"}]})
    )
    with pytest.raises(ValueError, match="leads out of"):
        read_rbm(RbmConfig(cache))


def test_nothing_of_the_kind_is_an_error_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "import", "rbm", str(tmp_path), str(tmp_path / "store")]) == 2
    assert main(["data", "import", "rbm", str(tmp_path / "no"), str(tmp_path / "store")]) == 2
    empty, nothing = capsys.readouterr().err.splitlines()
    assert "holds none of the published layouts: no processed_dataset/" in empty
    assert "there is nothing at" in nothing
    assert not (tmp_path / "store").exists()
