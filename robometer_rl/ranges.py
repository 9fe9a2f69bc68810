"""Which values options may have: one check and one sentence for all configurations."""

from __future__ import annotations

import math
import re
from numbers import Integral, Real
from typing import Final

from robometer_rl.documents import brief

__all__ = ["LARGEST_COUNT", "require_counts", "require_numbers", "require_texts"]

LARGEST_COUNT: Final = 2**31 - 1
"""The most that anything is counted to: more does not fit into the 32 bits that some libraries count with."""

_INTERVAL = re.compile(r"([\[(])(\S+), (\S+)([\])])")


def require_numbers(options: object, interval: str, *names: str) -> None:
    """Refuses a configuration in which some options are no finite numbers in an interval.

    Args:
        options: The configuration.
        interval: As mathematics writes it: ``"[0, 1)"``, or ``"(0, inf)"`` for any finite number above 0.
        names: Attributes of the configuration.

    Raises:
        ValueError: A number outside the interval, infinite or NaN; the message names the option and the interval.
        TypeError: No number.
    """
    parts = _INTERVAL.fullmatch(interval)
    assert parts is not None, interval
    low, high = float(parts[2]), float(parts[3])
    for name in names:
        value = getattr(options, name)
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{_called(options, name)} must be a number in {interval}, got {brief(value)}")
        try:
            number = float(value)
        except OverflowError:  # an integer beyond all floats
            number = math.inf
        is_above = number > low or (parts[1] == "[" and number == low)
        is_below = number < high or (parts[4] == "]" and number == high)
        if not (is_above and is_below):  # of NaN neither is true
            raise ValueError(f"{_called(options, name)} must be a number in {interval}, got {brief(value)}")


def require_counts(options: object, least: int, *names: str) -> None:
    """Refuses a configuration in which some options are no whole numbers from ``least`` to `LARGEST_COUNT`.

    Args:
        options: The configuration.
        least: The least that they may be.
        names: Attributes of the configuration.

    Raises:
        ValueError: A smaller or larger number; the message names the option and the range.
        TypeError: No whole number.
    """
    for name in names:
        value = getattr(options, name)
        expected = f"a whole number of at least {least}"
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{_called(options, name)} must be {expected}, got {brief(value)}")
        if int(value) < least:
            raise ValueError(f"{_called(options, name)} must be {expected}, got {brief(value)}")
        if int(value) > LARGEST_COUNT:
            raise ValueError(f"{_called(options, name)} must be at most {LARGEST_COUNT}, got {brief(value)}")


def require_texts(options: object, *names: str) -> None:
    """Refuses a configuration in which some options are no text.

    Args:
        options: The configuration.
        names: Attributes of the configuration.

    Raises:
        TypeError: Something else.
    """
    for name in names:
        if not isinstance(value := getattr(options, name), str):
            raise TypeError(f"{_called(options, name)} must be text, got {brief(value)}")


def _called(options: object, name: str) -> str:
    return f"{name} of {type(options).__name__}"
