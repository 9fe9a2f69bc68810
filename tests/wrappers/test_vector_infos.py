from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

from robometer_rl.wrappers.vector_infos import add_info, as_infos, batch_row, env_info, final_info, forget_info, on_host
from tests.wrappers.worlds import BrightnessWorld

VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.floats(allow_nan=False, width=32),
    st.text(max_size=3),
    st.lists(st.booleans(), max_size=2),
    st.just(np.arange(3)),
    st.just(np.zeros((2, 2), np.uint8)),
)
INFO = st.dictionaries(st.sampled_from("abc"), VALUE | st.dictionaries(st.sampled_from("xy"), VALUE, max_size=2))


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) or isinstance(other, dict):
        if not (isinstance(one, dict) and isinstance(other, dict)):
            return False
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other and bool(one) == bool(other)


@given(infos=st.lists(INFO, min_size=3, max_size=3), owned=st.booleans())
def test_every_environment_gets_back_what_it_said(infos: list[dict[str, Any]], owned: bool) -> None:
    batched: dict[str, Any] = {}
    for index, info in enumerate(infos):
        add_info(batched, info, index, 3, owned)
    for index, info in enumerate(infos):
        # An empty dictionary says nothing.
        expected = {key: value for key, value in info.items() if not equal(value, {})}
        found = {key: value for key, value in env_info(batched, index, 3).items() if not equal(value, {})}
        assert equal(expected, found)


def test_types_are_those_of_gymnasium_where_all_say_the_same() -> None:
    infos = [{"n": 1, "x": 0.5, "b": True, "s": "word", "a": np.zeros(2, np.float32), "d": {"x": i}} for i in range(2)]
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    env = SyncVectorEnv([BrightnessWorld] * 2)
    for index, info in enumerate(infos):
        add_info(ours, info, index, 2, owned=True)
        theirs = env._add_info(theirs, info, index)
    assert ours.keys() == theirs.keys()
    for key in ("n", "x", "b", "s", "a"):
        assert ours[key].dtype == theirs[key].dtype
        np.testing.assert_array_equal(ours[key], theirs[key])
    np.testing.assert_array_equal(ours["d"]["x"], theirs["d"]["x"])


@pytest.mark.parametrize("value", [np.nan, [False], 0.5, "no", None])
def test_nothing_becomes_true_because_another_environment_has_said_a_bool(value: Any) -> None:
    infos: dict[str, Any] = {}
    add_info(infos, {"success": True}, 0, 2)
    add_info(infos, {"success": value}, 1, 2)
    assert env_info(infos, 0, 2)["success"] == 1
    found = env_info(infos, 1, 2)["success"]
    assert found is value or found == value or np.isnan(found)


def test_arrays_of_others_are_left_alone() -> None:
    mask, values, nested = np.array([True, False]), np.array([1.0, 0.0]), {"x": np.array([1, 2])}
    infos = {"v": values, "_v": mask, "d": nested, "_d": np.array([True, True])}
    add_info(infos, {"v": 5.0, "d": {"x": 9}}, 1, 2)
    forget_info(infos, 0)
    assert (mask.tolist(), values.tolist(), nested["x"].tolist()) == ([True, False], [1.0, 0.0], [1, 2])
    assert env_info(infos, 0, 2) == {}
    assert env_info(infos, 1, 2) == {"v": 5.0, "d": {"x": 9}}


def test_what_has_no_mask_was_reported_by_all() -> None:
    infos: dict[str, Any] = {"success": torch.tensor([True, False])}
    add_info(infos, {"success": True}, 1, 2)
    assert infos["_success"].tolist() == [True, True]
    assert [env_info(infos, index, 2)["success"] for index in range(2)] == [True, True]


def test_what_belonged_to_all_until_one_says_otherwise() -> None:
    infos: dict[str, Any] = {"speed": 3.0, "goal": np.zeros(3)}
    add_info(infos, {"speed": 2.0, "goal": np.ones(3)}, 1, 2)
    first, second = (env_info(infos, index, 2) for index in range(2))
    assert (first["speed"], second["speed"]) == (3.0, 2.0)
    assert (first["goal"].tolist(), second["goal"].tolist()) == ([0.0] * 3, [1.0] * 3)


def test_tensors_lists_and_what_belongs_to_all() -> None:
    infos = {
        "success": torch.tensor([True, False]),
        "image": torch.zeros(2, 4, 4),
        "names": ["one", "two"],
        "speed": 3.0,
        "goal": np.zeros(3),
        "nested": {"_x": np.array([False, True]), "x": np.array([1, 2])},
    }
    readable = on_host(infos)
    assert isinstance(readable["success"], np.ndarray)
    assert isinstance(readable["image"], torch.Tensor)
    first, second = (env_info(readable, index, 2) for index in range(2))
    assert (first["success"], second["success"]) == (True, False)
    assert (first["image"].shape, first["names"], second["names"]) == ((4, 4), "one", "two")
    assert (first["speed"], second["speed"], first["goal"].shape) == (3.0, 3.0, (3,))
    assert (first["nested"], second["nested"]) == ({}, {"x": 2})


def test_one_dictionary_per_environment() -> None:
    infos = as_infos([{"lives": 3}, {"lives": 2, "success": True}], 2)
    assert infos["lives"].tolist() == [3, 2]
    assert env_info(infos, 0, 2) == {"lives": 3}
    listed = as_infos({"final_info": np.array([None, {"success": True}], object)}, 2)
    assert (final_info(listed, 0, 2), final_info(listed, 1, 2)) == ({}, {"success": True})
    assert final_info({}, 0, 2) == {}


@pytest.mark.parametrize("infos", [None, [{}], "infos", 3])
def test_infos_that_are_none(infos: Any) -> None:
    with pytest.raises(TypeError, match="expected a dictionary of arrays"):
        as_infos(infos, 2)


def test_rows() -> None:
    batch = {"image": np.arange(4).reshape(2, 2), "pair": (np.array([1, 2]), np.array([3, 4]))}
    row = batch_row(batch, 1)
    assert row["image"].tolist() == [2, 3]
    assert row["pair"] == (2, 4)
