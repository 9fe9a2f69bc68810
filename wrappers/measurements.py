"""What a simulator knows of a moment beside its picture: where state, progress and distance come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robometer_rl.frames import as_array
from robometer_rl.wrappers.frame_sources import View

__all__ = ["MeasurementError", "MeasurementSource", "Scalar", "State", "StateSource"]

MeasurementSource = str | Callable[[Any, Mapping[str, Any]], Any]
"""``"obs"``, ``"obs/KEY"``, ``"info/KEY"``, or a callable of one environment's observation and info."""

StateSource = MeasurementSource | Mapping[str, MeasurementSource]
"""One source, or named parts of the state, each with its own."""

_CHOICES = "'obs', 'obs/KEY', 'info/KEY' or a callable of (obs, info)"


class MeasurementError(ValueError):
    """A measurement that is not there, or is no finite number; the message names it and says what there is."""


class Scalar:
    """A number that is measured after every reset and step, such as the distance to the goal.

    Args:
        name: What it is, for messages.
        source: Where it comes from.

    Raises:
        ValueError: There is no such source.
    """

    def __init__(self, name: str, source: MeasurementSource) -> None:
        self._name = name
        self._read = _parse(name, source)

    def of(self, view: View) -> np.float32:
        """The number at this moment.

        Raises:
            MeasurementError: It is not there, is not one number, or is not finite.
        """
        values = _numbers(self._name, self._read(view), view)
        if values.size != 1:
            raise MeasurementError(
                f"environment {view.index}: {self._name} has {values.size} values; expected a single number"
            )
        return values[0]


class State:
    """The low-dimensional state, which is measured after every reset and step.

    Args:
        source: Where it comes from; a mapping for a state of named parts, which are joined in its order.

    Raises:
        ValueError: There is no such source, or no part at all.

    Attributes:
        parts: Where each named part lies in the state, as in ``{"hand": (0, 3), "block": (3, 6)}``; empty if none is
            named, or nothing was measured yet.
    """

    def __init__(self, source: StateSource) -> None:
        self._named = isinstance(source, Mapping)
        sources = source if isinstance(source, Mapping) else {"state": source}
        if not sources:
            raise ValueError(f"state={{}} has no parts; expected {_CHOICES}, or a mapping of names to these")
        self._read = {name: _parse(f"state {name!r}" if self._named else name, part) for name, part in sources.items()}
        self.parts: dict[str, tuple[int, int]] = {}

    def of(self, view: View) -> NDArray[np.float32]:
        """The state (D,) at this moment; a copy.

        Raises:
            MeasurementError: It is not there, is not finite, or has another length than before.
        """
        found = {
            name: _numbers(f"state {name!r}" if self._named else name, read(view), view)
            for name, read in self._read.items()
        }
        stops = np.cumsum([part.size for part in found.values()]).tolist()
        parts = {name: (stop - part.size, stop) for (name, part), stop in zip(found.items(), stops, strict=True)}
        if self._named:
            if self.parts and parts != self.parts:
                raise MeasurementError(
                    f"environment {view.index}: the parts of the state are now {parts}, and were {self.parts}; "
                    "expected the same numbers in every frame"
                )
            self.parts = parts
        return np.concatenate([*found.values()])


def _parse(name: str, source: Any) -> Callable[[View], Any]:
    if callable(source):
        return lambda view: source(view.observation, view.info)
    if source == "obs":
        return lambda view: view.observation
    kind, _, key = source.partition("/") if isinstance(source, str) else ("", "", "")
    if kind not in ("obs", "info") or not key:
        raise ValueError(f"unknown {name} {source!r}; expected {_CHOICES}")

    def read(view: View) -> Any:
        found = view.observation if kind == "obs" else view.info
        if not isinstance(found, Mapping) or key not in found:
            has = f"has {sorted(found)}" if isinstance(found, Mapping) else f"is a {type(found).__name__}"
            what = "observation" if kind == "obs" else "info"
            raise MeasurementError(
                f"environment {view.index}: {name} comes from {source!r}, and the {what} {has}; it is read after a "
                "reset as well as after a step. A callable of (obs, info) may compute it"
            )
        return found[key]

    return read


def _numbers(name: str, value: Any, view: View) -> NDArray[np.float32]:
    """(D,) float32, a copy."""
    if isinstance(value, Mapping):
        raise MeasurementError(
            f"environment {view.index}: {name} is a dictionary with the keys {sorted(value)}; choose one, as in "
            "'obs/KEY', or name the parts: state={'hand': 'obs/KEY', ...}"
        )
    array = as_array(value)
    if array.dtype.kind not in "biuf":
        raise MeasurementError(
            f"environment {view.index}: {name} is {value!r} of type {type(value).__name__}; expected numbers"
        )
    numbers = np.array(array, np.float32).reshape(-1)
    if not np.isfinite(numbers).all():
        raise MeasurementError(f"environment {view.index}: {name} has NaN or infinite values: {numbers.tolist()}")
    return numbers
