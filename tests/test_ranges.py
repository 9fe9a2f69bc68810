from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from robometer_rl.ranges import LARGEST_COUNT, require_counts, require_numbers


@dataclass
class Options:
    value: Any


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1]", (0, 0.5, 1, np.float32(1)), (-0.1, 1.1, math.nan, math.inf, 10**400)),
        ("(0, 1)", (0.5,), (0, 1, math.nan)),
        ("(0, inf)", (1e-300, 1e300), (0, -1, math.inf, math.nan, 10**400)),
        ("[0, inf)", (0, 1e300), (-1e-9, math.inf, math.nan)),
    ],
)
def test_numbers_are_in_their_interval(interval: str, inside: tuple[Any, ...], outside: tuple[Any, ...]) -> None:
    for value in inside:
        require_numbers(Options(value), interval, "value")
    for value in outside:
        with pytest.raises(ValueError, match=r"^value of Options must be a number in .*, got [^\n]*$") as raised:
            require_numbers(Options(value), interval, "value")
        assert interval in str(raised.value)
        assert len(str(raised.value)) < 200


@pytest.mark.parametrize("value", [True, "1", None, [1.0], np.array([1.0])])
def test_anything_else_is_no_number(value: Any) -> None:
    with pytest.raises(TypeError, match="value of Options must be a number in"):
        require_numbers(Options(value), "[0, 1]", "value")
    with pytest.raises(TypeError, match="value of Options must be a whole number of at least 1"):
        require_counts(Options(value), 1, "value")


def test_counts_are_whole_and_not_too_large() -> None:
    for value in (1, np.int64(3), LARGEST_COUNT):
        require_counts(Options(value), 1, "value")
    with pytest.raises(ValueError, match="value of Options must be a whole number of at least 1, got 0"):
        require_counts(Options(0), 1, "value")
    with pytest.raises(ValueError, match=f"value of Options must be at most {LARGEST_COUNT}"):
        require_counts(Options(LARGEST_COUNT + 1), 1, "value")
    with pytest.raises(TypeError, match=r"got 1\.5"):
        require_counts(Options(1.5), 1, "value")
