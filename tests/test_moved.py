"""Old names of modules."""

from __future__ import annotations

import importlib
import pickle
import sys
from importlib.util import find_spec

import pytest

from robometer_rl.moved import MOVED
from tests.library import LIBRARY


@pytest.mark.parametrize("old", sorted(MOVED))
def test_every_old_name_leads_to_a_module_that_exists(old: str) -> None:
    assert f"robometer_rl.{MOVED[old]}" in LIBRARY
    assert f"robometer_rl.{old}" not in LIBRARY


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("old", ["data.sources.lerobot", "data.sources.minari", "data.sources.hdf5", "relabeling.npz"])
def test_a_folder_that_has_the_old_name_in_a_new_place_is_not_taken_for_it(old: str) -> None:
    assert importlib.import_module(f"robometer_rl.{old}").__name__ == f"robometer_rl.{MOVED[old]}"


def test_an_old_name_is_the_same_module_and_says_what_to_write() -> None:
    sys.modules.pop("robometer_rl.data.sources.metaworld", None)
    new = importlib.import_module("robometer_rl.envs.metaworld")
    spec = new.__spec__
    with pytest.warns(DeprecationWarning, match=r"robometer_rl\.envs\.metaworld; the old name goes") as caught:
        from robometer_rl.data.sources.metaworld import make_env  # pyright: ignore[reportMissingImports]
    assert {warning.filename for warning in caught} == {__file__}
    assert make_env is new.make_env
    assert new.__spec__ is spec
    assert new.__name__ == "robometer_rl.envs.metaworld"


def test_objects_that_were_pickled_under_an_old_name_can_be_loaded() -> None:
    from robometer_rl.data.reading import SourceError

    new = pickle.dumps(SourceError, protocol=0)
    old = new.replace(b"robometer_rl.data.reading", b"robometer_rl.data.sources.reading")
    assert old != new
    sys.modules.pop("robometer_rl.data.sources.reading", None)
    with pytest.warns(DeprecationWarning, match="robometer_rl.data.reading"):
        loaded = pickle.loads(old)
    assert loaded is SourceError


def test_other_names_are_not_found() -> None:
    assert find_spec("robometer_rl.nonsense") is None
    with pytest.raises(ModuleNotFoundError, match=r"robometer_rl\.data\.nonsense"):
        importlib.import_module("robometer_rl.data.nonsense")
