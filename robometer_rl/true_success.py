"""What environments say about success: the one definition of true success, and its only reader.

The task is done after a step if the info of that step says so: under the key that the user names, else under
``is_success``, else under ``success``. An episode is a true success if the task was done after any of its steps; what
a reset says does not count. An environment that has said nothing in a whole episode leaves its outcome unknown.

What a value says:

* ``True`` and ``False``, the numbers 1 and 0, and arrays, tensors and lists of one of these say that.
* ``None`` and NaN say nothing.
* A dictionary with the entry ``"task"`` says what that entry says (robomimic and what is built on it report the whole
  task there, beside its sub-goals).
* Anything else is an error: of several values, a fraction or a text nobody knows which part is the task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from robometer_rl.documents import brief
from robometer_rl.frames import as_array

__all__ = ["SuccessLatch", "TrueSuccessError", "find_success", "read_steps", "read_success"]

_DEFAULT_KEYS = ("is_success", "success")
_WHOLE_TASK = "task"


class TrueSuccessError(ValueError):
    """What an environment says about success cannot be read; the message shows it and says what to do."""


def find_success(info: Mapping[str, Any], key: str | None = None) -> str | None:
    """The key of ``info`` under which its environment speaks of success, None if it does not.

    Args:
        info: Of one environment and one step.
        key: The key to look for; None for ``is_success``, else ``success``.
    """
    return next((known for known in (_DEFAULT_KEYS if key is None else (key,)) if known in info), None)


def read_success(info: Mapping[str, Any], key: str | None = None) -> bool | None:
    """Whether the task is done, as the info of a step says; None if it does not say.

    Args:
        info: Of one environment and one step.
        key: The key to look for; None for ``is_success``, else ``success``.

    Raises:
        TrueSuccessError: The value is neither true nor false.

    Examples:
        >>> read_success({"success": 0.0}), read_success({"is_success": {"task": True, "grasp": False}})
        (False, True)
        >>> read_success({"distance": 0.3}) is None
        True
    """
    found = find_success(info, key)
    return None if found is None else _truth(found, info[found])


def read_steps(key: str, values: Any) -> list[bool | None]:
    """What a recording says of each of its steps.

    Args:
        key: Its name for that, for messages.
        values: One per step.

    Raises:
        TrueSuccessError: A value is neither true nor false.
    """
    if isinstance(values, Mapping) and _WHOLE_TASK in values:
        return read_steps(f"{key}[{_WHOLE_TASK!r}]", values[_WHOLE_TASK])
    return [_truth(key, value) for value in as_array(values).reshape(-1)]


class SuccessLatch:
    """True success of one environment's running episode: the task was done after any of its steps.

    Args:
        key: The info key to look for; None for ``is_success``, else ``success``.

    Attributes:
        achieved: Whether it was; None as long as the environment has not said.
    """

    def __init__(self, key: str | None = None) -> None:
        self._key = key
        self.achieved: bool | None = None

    def begin(self) -> None:
        """Begins an episode, of which nothing is known."""
        self.achieved = None

    def note(self, info: Mapping[str, Any]) -> bool:
        """Takes note of a step; returns whether the task is done after it.

        Raises:
            TrueSuccessError: The value is neither true nor false.
        """
        said = read_success(info, self._key)
        if said is not None:
            self.achieved = said or bool(self.achieved)
        return bool(said)


def _truth(key: str, value: Any) -> bool | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        if _WHOLE_TASK not in value:
            raise _unreadable(key, value, f"which has no entry {_WHOLE_TASK!r}")
        return _truth(f"{key}[{_WHOLE_TASK!r}]", value[_WHOLE_TASK])
    if isinstance(value, (list, tuple)):
        if len(value) != 1:
            raise _unreadable(key, value, f"which are {len(value)} values")
        return _truth(key, value[0])
    try:
        array = as_array(value)
    except ValueError as error:
        raise _unreadable(key, value, f"which cannot be read ({error})") from error
    if array.size != 1:
        raise _unreadable(key, value, f"which are {array.size} values")
    if array is value and array.dtype == object:
        return _truth(key, array.item())
    if array.dtype.kind not in "biuf":
        raise _unreadable(key, value, f"of type {type(value).__name__}")
    number = float(array.item())
    if math.isnan(number):
        return None
    if number not in (0.0, 1.0):
        raise _unreadable(key, value, "which is neither 0 nor 1")
    return number == 1.0


def _unreadable(key: str, value: Any, what: str) -> TrueSuccessError:
    shown = " ".join(brief(value).split())  # tensors are written in several lines
    return TrueSuccessError(
        f"info[{key!r}] should say whether the task is done, and is {shown}, {what}; expected True, False, 0, 1, "
        "None or NaN (unknown), or a dictionary with the entry 'task'. Give success_key=, the info key of a value that "
        "does, or write one into the info in a wrapper inside"
    )
