"""Which reader a file is given to, by what it holds."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robometer_rl.cli import main
from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.formats.hdf5.detection import HDF5Config, read_hdf5
from tests.formats.hdf5 import aloha_files, maniskill_files
from tests.formats.hdf5.test_demonstrations import LIBERO, PICTURES, ROBOMIMIC, isaac_lab, write


def read(path: Path, **options: Any) -> list[Any]:
    """Trajectories and `Unreadable`, whose fields a test looks into: where it is the other one, the test fails."""
    return list(read_hdf5(HDF5Config(path, **options)))


def test_each_layout_goes_to_its_reader(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    maniskill = maniskill_files.record(tmp_path / "a.h5")
    aloha = aloha_files.record(tmp_path / "b.hdf5", compress=True)
    openvla = write(tmp_path / "open_it_demo.hdf5", 1, obs__agentview_rgb=PICTURES)
    isaac = isaac_lab(tmp_path / "c.hdf5", [True])
    expected = {LIBERO: "libero", openvla: "libero", ROBOMIMIC: "robomimic", maniskill: "maniskill", aloha: "aloha"}
    for path, source in expected.items():
        camera = ("cam_high",) if path == aloha else ()
        found = read(path, camera=camera, task="lift it", quality="successful")
        assert {each.data_source for each in found} == {source}
    with caplog.at_level(logging.INFO, "robometer_rl"):
        (stacked,) = read(isaac, task="stack", camera=("table_cam",), data_source="mine")
    assert (stacked.data_source, stacked.quality_label) == ("mine", "successful")
    said = [message for message in caplog.messages if message.startswith(str(isaac))]
    assert "read as the format robomimic_hdf5, by what it holds" in said[0]


def test_files_that_are_damaged_or_of_another_format_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").write_bytes(b"no")
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["frames"] = np.zeros(3)
    with pytest.raises(SourceError, match=r"no file of a known format, which are libero_hdf5, .*a\.hdf5"):
        read(tmp_path)
    maniskill_files.record(tmp_path / "c.h5")
    found = read(tmp_path, task="pick it up")
    assert [isinstance(each, Unreadable) for each in found] == [True, True, False, False, False]
    (tmp_path / "a.hdf5").unlink()
    (tmp_path / "c.h5").unlink()
    with pytest.raises(SourceError, match=r"b\.hdf5: it has frames"):
        read(tmp_path)


def test_it_is_imported_by_its_name(tmp_path: Path) -> None:
    assert main(["data", "import", "hdf5", str(LIBERO), str(tmp_path / "store")]) == 0
    assert len(TrajectoryStore.open(tmp_path / "store")) == 2
