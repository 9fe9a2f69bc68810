from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import pytest

from robometer_rl.formats.dataset import DatasetOptions
from robometer_rl.formats.minari.reader import open_dataset
from robometer_rl.relabeling.commands import relabel
from robometer_rl.relabeling.engine import Labeller
from tests.fixed_models import PixelModel
from tests.relabeling.kinds import content, make_minari


def label(path: Path, output: Path):
    dataset = open_dataset(DatasetOptions(path, (), ("reach",)))
    return relabel(dataset, Labeller(PixelModel()), dataset.writer("copy", output))


def test_an_episode_that_is_a_link_to_another_file_is_copied_and_not_changed_there(tmp_path):
    path = tmp_path / "reach-v0"
    make_minari(path, 3)
    main, other = path / "data" / "main_data.hdf5", path / "data" / "session.hdf5"
    with h5py.File(main, "r+") as file, h5py.File(other, "w") as session:
        file.copy("episode_1", session)
        del file["episode_1"]
        file["episode_1"] = h5py.ExternalLink("session.hdf5", "/episode_1")
    before = content(path)
    label(path, tmp_path / "reach-v1")
    assert content(path) == before
    with h5py.File(tmp_path / "reach-v1" / "data" / "main_data.hdf5", "r") as file:
        episode: Any = file["episode_1"]
        assert isinstance(file.get("episode_1", getlink=True), h5py.HardLink)
        assert len(episode["infos/robometer_progress"]) == len(episode["rewards"]) + 1
    assert (tmp_path / "reach-v1" / "data" / "session.hdf5").read_bytes() == other.read_bytes()


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_a_damaged_episode_is_skipped_and_copied_as_it_is(tmp_path, data_format):
    path = tmp_path / "reach-v0"
    make_minari(path, 3, data_format)
    data = path / "data"
    if data_format == "hdf5":
        with h5py.File(data / "main_data.hdf5", "r+") as file:
            del file["episode_0/observations"], file["episode_0/rewards"]
    else:
        damaged = next((data / "0").glob("*.[ap]*"))
        damaged.write_bytes(damaged.read_bytes()[:-300])
    labels = label(path, tmp_path / "reach-v1")
    assert [entry.name for entry in labels.skipped] == ["episode_0"]
    assert list(labels.episodes) == ["episode_1", "episode_2"]
    if data_format != "hdf5":
        assert (tmp_path / "reach-v1/data" / damaged.relative_to(data)).read_bytes() == damaged.read_bytes()
