"""Files that refer to other files: originals stay as they are, copies stand alone, and nothing outside is read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.formats.dataset import DatasetOptions
from robometer_rl.formats.hdf5.detection import open_dataset
from robometer_rl.formats.hdf5.files import check_links
from robometer_rl.formats.hdf5.reader import RobomimicHDF5Config, read_robomimic_hdf5
from robometer_rl.relabeling.commands import relabel
from robometer_rl.relabeling.engine import Labeller
from tests.fixed_models import PixelModel

ENVIRONMENT = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"reward_shaping": False}})
IMAGES = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), np.uint8)
REWARDS = np.array([0.0] * 5 + [1.0])
ARRAYS = {"obs/agentview_image": IMAGES, "actions": np.zeros((6, 7)), "rewards": REWARDS}


def fill(group: h5py.Group, **left_out: object) -> None:
    for name, values in ARRAYS.items():
        if name not in left_out:
            group[name] = values


@pytest.fixture
def session(tmp_path):
    """A file of its own, demo_0 of which others link to."""
    path = tmp_path / "folder" / "session.hdf5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = ENVIRONMENT
        fill(file.create_group("data/demo_0"))
    return path


def names(path: Path, group: str) -> list[str]:
    with h5py.File(path, "r") as file:
        found: Any = file[group]
        return list(found)


def view(session: Path, name: str) -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout(ARRAYS[name].shape, ARRAYS[name].dtype)
    layout[:] = h5py.VirtualSource(session.name, f"data/demo_0/{name}", ARRAYS[name].shape)
    return layout


def joined(session: Path, how: str) -> Path:
    """A file beside ``session`` that keeps a part of its demonstration there."""
    path = session.with_name("joined.hdf5")
    with h5py.File(path, "w") as file:
        if how == "data":
            file["data"] = h5py.ExternalLink(session.name, "/data")
            return path
        file.create_group("data").attrs["env_args"] = ENVIRONMENT
        if how == "demonstration":
            file["data/demo_0"] = h5py.ExternalLink(session.name, "/data/demo_0")
        elif how == "chain":
            between = session.with_name("between.hdf5")
            with h5py.File(between, "w") as other:
                other["demo"] = h5py.ExternalLink(session.name, "/data/demo_0")
            file["data/demo_0"] = h5py.ExternalLink(between.name, "/demo")
        elif how == "soft link to an external link":
            file["pool"] = h5py.ExternalLink(session.name, "/data")
            file["data/demo_0"] = h5py.SoftLink("/pool/demo_0")
        elif how == "soft rewards":
            fill(file.create_group("data/demo_0"), rewards=True)
            file["data/demo_0/sparse"] = REWARDS
            file["data/demo_0/rewards"] = h5py.SoftLink("sparse")
        elif how.startswith("virtual "):
            name = how.removeprefix("virtual ")
            fill(file.create_group("data/demo_0"), **{name: True})
            file.create_virtual_dataset(f"data/demo_0/{name}", view(session, name)).attrs["note"] = "kept"
        else:
            fill(file.create_group("data/demo_0"), **{how: True})
            file[f"data/demo_0/{how}"] = h5py.ExternalLink(session.name, f"/data/demo_0/{how}")
    return path


HOWS = (
    "data",
    "demonstration",
    "chain",
    "soft link to an external link",
    "soft rewards",
    "rewards",
    "obs/agentview_image",
    "virtual rewards",
    "virtual obs/agentview_image",
)


def label(path: Path, mode: str = "copy", output: Path | None = None) -> None:
    dataset = open_dataset(DatasetOptions(path, (), ("lift the cube",)))
    relabel(dataset, Labeller(PixelModel()), dataset.writer(mode, output))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("mode", ["copy", "in_place"])
@pytest.mark.parametrize("how", HOWS)
def test_what_is_linked_to_stays_as_it_is_and_the_copy_stands_alone(tmp_path, session, how, mode):
    path = joined(session, how)
    before = {file: file.read_bytes() for file in session.parent.iterdir()}
    output = path if mode == "in_place" else tmp_path / "elsewhere" / "out.hdf5"
    label(path, mode, None if mode == "in_place" else output)
    changed = {file.name for file, content in before.items() if file.read_bytes() != content}
    assert changed == ({path.name} if mode == "in_place" else set())
    for file in before:
        if file != output:
            file.unlink()
    with h5py.File(output, "r") as file:
        demonstration: Any = file["data/demo_0"]
        np.testing.assert_array_equal(demonstration["robometer/original_rewards"], REWARDS)
        np.testing.assert_array_equal(demonstration["obs/agentview_image"], IMAGES)
        assert demonstration["rewards"].shape == (6,)
        assert len(demonstration["robometer/progress"]) == 6
        if how == "virtual obs/agentview_image":
            assert demonstration["obs/agentview_image"].attrs["note"] == "kept"
    label(output, "copy", tmp_path / "again.hdf5")


def test_demonstrations_of_a_folder_may_link_to_each_other(tmp_path, session):
    joined(session, "demonstration")
    label(session.parent, output=tmp_path / "out")
    for name in ("joined.hdf5", "session.hdf5"):
        with h5py.File(tmp_path / "out" / name, "r") as file:
            np.testing.assert_array_equal(file["data/demo_0/robometer/original_rewards"], REWARDS)
    assert "robometer" not in names(session, "data/demo_0")


def stray(folder: Path, secret: Path, how: str) -> Path:
    """A file in ``folder`` that shows what is in ``secret``, which is not there."""
    path = folder / "stray.hdf5"
    names = {"parent": f"../{secret.name}", "absolute": str(secret), "working directory": secret.name}
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = ENVIRONMENT
        if how in names:
            file["data/demo_0"] = h5py.ExternalLink(names[how], "/data/demo_0")
            return path
        if how == "symbolic link":
            (folder / "inside.hdf5").symlink_to(secret)
            file["data/demo_0"] = h5py.ExternalLink("inside.hdf5", "/data/demo_0")
            return path
        if how == "chain":
            with h5py.File(folder / "inside.h5x", "w") as other:
                other["demo"] = h5py.ExternalLink(f"../{secret.name}", "/data/demo_0")
            file["data/demo_0"] = h5py.ExternalLink("inside.h5x", "/demo")
            return path
        name = "rewards" if how == "raw values" else "obs/agentview_image"
        fill(file.create_group("data/demo_0"), **{name: True})
        if how == "raw values":
            raw = file.create_dataset("data/demo_0/rewards", (6,), "f8", external=[(str(secret), 0, 48)])
            assert raw.external
        else:
            layout = h5py.VirtualLayout(IMAGES.shape, IMAGES.dtype)
            layout[:] = h5py.VirtualSource(f"../{secret.name}", f"data/demo_0/{name}", IMAGES.shape)
            file.create_virtual_dataset(f"data/demo_0/{name}", layout)
    return path


@pytest.mark.parametrize(
    "how", ["parent", "absolute", "working directory", "symbolic link", "chain", "virtual", "raw values"]
)
def test_nothing_is_read_outside_of_the_folder(tmp_path, monkeypatch, session, how):
    secret = tmp_path / "secret.hdf5"
    secret.write_bytes(session.read_bytes())
    monkeypatch.chdir(tmp_path)
    path = stray(session.parent, secret, how)
    with pytest.raises(SourceError, match=r"stray\.hdf5|inside\.h5x"):
        check_links(path)
    (found,) = read_robomimic_hdf5(RobomimicHDF5Config(path, task="lift the cube"))
    assert isinstance(found, Unreadable)
    with pytest.raises(SourceError, match=r"links to|keeps the values"):
        label(path, output=tmp_path / "out.hdf5")
    if how == "symbolic link":
        return
    # In a folder the others are labelled, and this one is copied as it is.
    before = path.read_bytes(), secret.read_bytes()
    label(session.parent, output=tmp_path / "out")
    assert (tmp_path / "out" / "stray.hdf5").read_bytes() == path.read_bytes()
    assert (path.read_bytes(), secret.read_bytes()) == before


def test_groups_that_contain_themselves_have_an_end(session):
    with h5py.File(session, "r+") as file:
        file["data/demo_0/again"] = file["data"]
        file["data/demo_0/soft"] = h5py.SoftLink("/data/demo_0/soft")
    check_links(session)


def test_a_group_called_like_ours_that_is_none_is_left_alone(tmp_path, session):
    with h5py.File(session, "r+") as file:
        file["data/demo_0/robometer/notes"] = np.arange(3)
        fill(file.create_group("data/demo_1"))
    label(session, "in_place")
    with h5py.File(session, "r") as file:
        np.testing.assert_array_equal(file["data/demo_0/rewards"], REWARDS)
    assert names(session, "data/demo_0/robometer") == ["notes"]
    assert "progress" in names(session, "data/demo_1/robometer")


def test_a_file_with_other_names_is_not_replaced_under_one(tmp_path, session):
    os.link(session, tmp_path / "backup.hdf5")
    before = session.read_bytes()
    with pytest.raises(OSError, match="2 names"):
        label(session, "in_place")
    assert session.read_bytes() == before
