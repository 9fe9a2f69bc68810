"""Published data in place: read through once, and noticed when it changes."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.data.reading import Unreadable
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.formats.rbm import index
from robometer_rl.formats.rbm.index import InPlace, open_in_place
from robometer_rl.formats.rbm.reader import RbmConfig, read_rbm
from tests.data.runs import assert_same

pytest.importorskip("datasets")

FIXTURE = Path(__file__).parents[2] / "fixtures" / "rbm_dataset"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBOMETER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def all_of(found: InPlace) -> list[Trajectory]:
    return [found[number] for number in range(len(found))]


@pytest.mark.parametrize("layout", ["processed_datasets", "tars", "robometer_dataset"])
@pytest.mark.parametrize("select", [(), ("libero_pi0",)])
def test_what_is_indexed_is_what_is_read(layout, select, monkeypatch):
    config = RbmConfig(FIXTURE / layout, select)
    expected = sorted((each for each in read_rbm(config) if isinstance(each, Trajectory)), key=lambda each: each.id)
    for found in (open_in_place(config), open_in_place(config)):
        for one, other in zip(sorted(all_of(found), key=lambda each: each.id), expected, strict=True):
            assert_same(one, other)
        facts = [each for _, each in found.facts() if not isinstance(each, Unreadable)]
        assert sorted((each.id, each.split) for each in facts) == [(each.id, each.split) for each in expected]
        # The second time, nothing of the kind may happen.
        monkeypatch.setattr(index, "read_collection", None)
        monkeypatch.setattr(index, "find_collections", None)


def test_files_that_change_are_read_again(tmp_path):
    place = Path(shutil.copytree(FIXTURE / "processed_datasets", tmp_path / "caches"))
    assert len(open_in_place(RbmConfig(place))) == 7
    file = next(place.glob("*libero*/frames/*.npz"))
    content = file.read_bytes()
    np.savez_compressed(file, frames=np.zeros((2, 4, 4, 3), np.uint8))
    found = open_in_place(RbmConfig(place))
    assert len(found) == 6
    (problem,) = [each for _, each in found.facts() if isinstance(each, Unreadable)]
    assert "(2, 4, 4, 3)" in problem.reason
    file.write_bytes(content)
    assert len(open_in_place(RbmConfig(place))) == 7


def test_a_group_is_indexed_without_the_others(cache):
    assert len(open_in_place(RbmConfig(FIXTURE / "processed_datasets", ("libero_pi0",)))) == 3
    assert len(list(cache.rglob("*.arrow"))) == 1
    assert len(open_in_place(RbmConfig(FIXTURE / "processed_datasets"))) == 7


def test_an_index_that_was_not_finished_is_made_again(cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(index, "sort_sealed", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            open_in_place(RbmConfig(FIXTURE / "processed_datasets"))
    assert len(open_in_place(RbmConfig(FIXTURE / "processed_datasets"))) == 7


def test_without_a_place_to_keep_it_the_index_goes_with_the_listing(cache, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ROBOMETER_CACHE", str(tmp_path / "file"))
    found = open_in_place(RbmConfig(FIXTURE / "processed_datasets"))
    assert len(all_of(found)) == 7
    assert os.listdir(tmp_path) == ["file"]
