from __future__ import annotations

import logging
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest

from robometer_rl.data.reading import SourceError
from robometer_rl.formats.conventions import Assumptions, cameras_among, choose_camera, choose_cameras
from robometer_rl.formats.rlds import RldsConfig

ARRAYS = {
    "front": ((9, 64, 64, 3), np.dtype("uint8")),
    "first": ((9, 3, 64, 64), np.dtype("float32")),
    "depth": ((9, 64, 64, 3), np.dtype("uint16")),
    "grey": ((9, 64, 64), np.dtype("uint8")),
    "stack": ((9, 64, 64, 12), np.dtype("uint8")),
    "pose": ((9, 4, 4), np.dtype("float64")),
    "joints": ((9, 7), np.dtype("float64")),
    "words": ((9, 64, 64), np.dtype(object)),
}


def test_pictures_are_told_from_other_arrays_by_shape_and_type():
    found = cameras_among(ARRAYS)
    assert found.names == ("front", "first")
    assert list(found.refused) == ["depth", "grey", "stack"]
    assert "16-bit" in found.refused["depth"]
    assert "grey frames" in found.refused["grey"]
    assert "on top of each other" in found.refused["stack"]


def test_a_camera_that_cannot_be_shown_is_refused_with_the_reason():
    found = cameras_among(ARRAYS)
    assert choose_camera("it", found.names, "first", found.refused) == "first"
    with pytest.raises(SourceError, match=r"'depth' cannot be shown: .*16-bit"):
        choose_camera("it", found.names, "depth", found.refused)
    with pytest.raises(SourceError, match="no camera is called 'top'; expected one of front, first"):
        choose_camera("it", found.names, "top", found.refused)
    with pytest.raises(SourceError, match=r"no pictures in colour .*depth cannot be shown"):
        choose_camera("it", (), None, found.refused)


def test_an_assumption_is_said_once_and_what_is_stated_is_none(caplog):
    assumed = Assumptions("lift.hdf5")
    with caplog.at_level(logging.INFO, "robometer_rl"):
        assert assumed.orientation("rotate") == "rotate"
        assert caplog.messages == []
        for _ in range(2):
            assert assumed.orientation(None) == "as_stored"
        assert assumed.orientation(None, "flip", "upside down") == "flip"
    assert caplog.messages == [
        "lift.hdf5: pictures are shown as they are stored (the data do not say how they hang); "
        "--orientation says otherwise",
        "lift.hdf5: pictures are shown with their rows in the other order (upside down); --orientation says otherwise",
    ]


def test_cameras_are_chosen_by_name():
    assert choose_cameras("x", ("a",), ()) == ("a",)
    assert choose_cameras("x", ("a", "b"), ("b", "a", "b")) == ("b", "a")
    for asked in ((), ("c",)):
        with pytest.raises(SourceError, match="expected one of a, b"):
            choose_cameras("x", ("a", "b"), asked)


@pytest.mark.parametrize(
    "name",
    [
        "agibot:AgiBotConfig",
        "hdf5.aloha:AlohaConfig",
        "hdf5.detection:HDF5Config",
        "hdf5.maniskill:ManiSkillConfig",
        "hdf5.reader:LiberoHDF5Config",
        "hdf5.reader:RobomimicHDF5Config",
        "lerobot.reader:LeRobotConfig",
        "minari.reader:MinariConfig",
        "rlds:RldsConfig",
        "roboarena:RoboArenaConfig",
    ],
)
def test_one_camera_is_given_by_its_name(name: str) -> None:
    config = resolve_name(f"robometer_rl.formats.{name}")
    field = "frames" if name.startswith("minari") else "camera"
    shown = "obs/top" if field == "frames" else "top"
    for given in (shown, [shown], (shown,)):
        assert getattr(config(Path("data"), **{field: given}), field) == (shown,)
    assert getattr(config(Path("data"), **{field: (shown, shown)}), field) == (shown, shown)


def test_one_split_is_given_by_its_name() -> None:
    assert RldsConfig(Path("data"), split="train").split == ("train",)  # pyright: ignore[reportArgumentType]
