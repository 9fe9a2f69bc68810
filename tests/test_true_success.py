from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from robometer_rl.true_success import SuccessLatch, TrueSuccessError, find_success, read_success


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        (False, False),
        (np.bool_(True), True),
        (1, True),
        (0.0, False),
        (np.float32(1), True),
        ([True], True),
        ((False,), False),
        ([[1.0]], True),
        (np.array([[False]]), False),
        (np.array([True], object), True),
        (np.array(None, object), None),
        (torch.tensor(True), True),
        (torch.tensor([0.0], dtype=torch.bfloat16, requires_grad=True), False),
        ([torch.tensor([True])], True),
        (None, None),
        ([None], None),
        (float("nan"), None),
        (torch.tensor([np.nan]), None),
        ({"task": False, "grasp": True}, False),
        ({"task": np.array([1])}, True),
        ({"task": float("nan")}, None),
    ],
    ids=repr,
)
@pytest.mark.parametrize("key", ["is_success", "success", "opened"])
def test_what_is_true_false_or_unknown(value: Any, expected: bool | None, key: str) -> None:
    said = read_success({key: value, "other": True}, "opened" if key == "opened" else None)
    assert said is expected


@pytest.mark.parametrize(
    "value",
    [
        *(
            "True",
            "",
            [],
            [True, False],
            np.array([1, 1]),
            np.zeros(0),
            0.5,
            2,
            -1,
            np.inf,
            {"grasp": True},
            {},
            object,
        ),
        *(b"1", np.array("True"), np.array(1 + 0j), {True}, [[True], [True, False]], np.datetime64("nat")),
        *(torch.tensor([True, False]), torch.zeros(1, device="meta"), torch.zeros(1).to_sparse()),
    ],
    ids=repr,
)
def test_anything_else_is_an_error_that_shows_it(value: Any) -> None:
    with pytest.raises(TrueSuccessError, match=r"info\['is_success'\] should say .* Give success_key="):
        read_success({"is_success": value})


def test_the_entry_of_a_dictionary_is_named() -> None:
    with pytest.raises(TrueSuccessError, match=r"info\[\"success\['task'\]\"\]"):
        read_success({"success": {"task": "yes"}})


def test_which_key_is_read() -> None:
    info = {"success": True, "is_success": False, "opened": True}
    assert (find_success(info), read_success(info)) == ("is_success", False)
    assert (find_success(info, "opened"), read_success(info, "opened")) == ("opened", True)
    assert (find_success(info, "closed"), read_success(info, "closed")) == (None, None)
    assert (find_success({"distance": 1.0}), read_success({})) == (None, None)


def test_done_after_any_step_is_done() -> None:
    latch = SuccessLatch()
    assert latch.achieved is None
    assert [latch.note({"success": value}) for value in (None, False, True, False)] == [False, False, True, False]
    assert latch.achieved is True
    latch.begin()
    assert latch.achieved is None
    latch.note({"success": False})
    latch.note({})
    assert latch.achieved is False
