"""Stores as the reference reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from robometer_rl.cli import main
from robometer_rl.data.store import StoreError, TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.formats.importing import ImportOptions, InPlaceOptions, import_trajectories
from robometer_rl.formats.rbm.export import RbmExportConfig, export_rbm
from robometer_rl.formats.rbm.reader import RbmConfig, read_rbm
from tests.data.runs import trajectory

FIXTURE = Path(__file__).parents[2] / "fixtures" / "rbm_dataset"
PUBLISHED = FIXTURE / "robometer_dataset" / "libero_rfm" / "libero256_10"
LABELS = ("task", "data_source", "quality_label", "partial_success", "is_robot")


def imported(path: Path, store: Path, options: type[ImportOptions] = InPlaceOptions) -> TrajectoryStore:
    import_trajectories(read_rbm(RbmConfig(path)), options(store))
    return TrajectoryStore.open(store)


@pytest.mark.parametrize("layout", ["processed_datasets", "robometer_dataset"])
def test_what_is_exported_comes_back_with_its_labels_and_frames(layout: str, tmp_path: Path) -> None:
    store = imported(FIXTURE / layout, tmp_path / "store")
    words = [str(tmp_path / "store"), str(tmp_path / "mine_rfm"), "--subset", "mine"]
    assert main(["data", "export", "rbm", *words]) == 0
    found = list(read_rbm(RbmConfig(tmp_path / "mine_rfm")))
    assert len(found) == 7
    for here, there in zip(store, found, strict=True):
        assert isinstance(there, Trajectory)
        assert [getattr(there, name) for name in LABELS] == [getattr(here, name) for name in LABELS]
        assert there.source == f"mine_rfm_mine#{here.id}"
        difference = np.abs(there.frames[:].astype(int) - here.frames[:])
        assert difference.mean() < (6.0 if layout == "processed_datasets" else 1e-9)


def test_the_reference_finds_rows_and_videos_by_its_own_settings(tmp_path: Path) -> None:
    """`load_dataset(REPOSITORY, SUBSET, split="train")`, then `DATA/REPOSITORY NAME/frames` (docs/data.md)."""
    from datasets import load_dataset

    imported(FIXTURE / "processed_datasets", tmp_path / "store")
    assert export_rbm(RbmExportConfig(tmp_path / "store", tmp_path / "data" / "mine_rfm", "mine")) == 7
    rows = load_dataset(str(tmp_path / "data" / "mine_rfm"), name="mine", split="train", cache_dir=str(tmp_path / "c"))
    published = load_dataset(str(PUBLISHED.parent), name="libero256_10", split="train", cache_dir=str(tmp_path / "c"))
    assert rows.features == published.features
    assert rows.column_names == published.column_names
    assert all((tmp_path / "data" / "mine_rfm" / video).is_file() for video in rows["frames"])
    assert len(rows[0]["lang_vector"]) == 384
    schemas = [
        pq.read_schema(next(folder.glob("*.parquet"))) for folder in (PUBLISHED, tmp_path / "data/mine_rfm/mine")
    ]
    assert schemas[0].equals(schemas[1])


def test_videos_that_are_whole_are_linked(tmp_path: Path) -> None:
    imported(PUBLISHED, tmp_path / "store")
    export_rbm(RbmExportConfig(tmp_path / "store", tmp_path / "out"))
    inodes = {file.stat().st_ino for file in (tmp_path / "store" / "videos").iterdir()}
    assert {file.stat().st_ino for file in (tmp_path / "out").rglob("*.mp4")} == inodes


def test_some_of_the_frames_of_a_video_are_encoded(tmp_path: Path) -> None:
    import_trajectories(read_rbm(RbmConfig(PUBLISHED)), InPlaceOptions(tmp_path / "store", max_frames=5))
    export_rbm(RbmExportConfig(tmp_path / "store", tmp_path / "out"))
    found = list(read_rbm(RbmConfig(tmp_path / "out")))
    assert [len(each) for each in found if isinstance(each, Trajectory)] == [5, 5, 5]


def test_splits_are_chosen_and_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path / "store")
    store.append(trajectory("a", split="train"))
    store.append(trajectory("b", split="test"))
    assert export_rbm(RbmExportConfig(store.path, tmp_path / "out", split=("test",))) == 1
    with pytest.raises(FileExistsError):
        export_rbm(RbmExportConfig(store.path, tmp_path / "out"))
    with pytest.raises(StoreError, match=r"no trajectories of the splits val; it has .*'test', 'somewhere'.*'train'"):
        export_rbm(RbmExportConfig(store.path, tmp_path / "new", split=("val",)))
    (store.path / "frames" / "b.zip").write_bytes(b"damaged")
    with pytest.raises(StoreError, match="'b'"):
        export_rbm(RbmExportConfig(store.path, tmp_path / "new"))
    assert not list(tmp_path.glob("*new*"))
    with pytest.raises(ValueError, match="expected small letters"):
        RbmExportConfig(store.path, tmp_path / "new", subset="../x")
