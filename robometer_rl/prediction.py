"""What a reward model says about frames: plain arrays, and where they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robometer_rl.archives import read_arrays
from robometer_rl.files import new_file
from robometer_rl.frames import scored_steps

__all__ = [
    "SCHEMA_VERSION",
    "NonFiniteOutputError",
    "Prediction",
    "StepPrediction",
    "as_probabilities",
    "progress_uncertainty",
]

SCHEMA_VERSION = 1

Floats = NDArray[np.float32]

_ROUNDING = 1e-5  # by so much float32 can leave [0, 1] where a sum over a distribution would not

_NAMED = 8  # of the entries that are wrong, how many an error names


class NonFiniteOutputError(ArithmeticError):
    """A model produced NaN or infinity; the message names the frame, and the clip where it is known."""


def as_probabilities(
    values: ArrayLike, what: str, names: Sequence[str] | None = None, model: str = "the model"
) -> Floats:
    """What a model said, as float32 in [0, 1]: the one check of everything that any model says.

    Args:
        values: (n, ...) numbers; what rounding has left outside [0, 1] is put back.
        what: What the numbers are, for errors.
        names: What each of the n entries is about, for errors; ``frame i`` by default.
        model: Who said it, for errors.

    Raises:
        NonFiniteOutputError: NaN or infinity.
        ValueError: A number outside [0, 1], or values that are no numbers.
    """
    given = np.asarray(values)
    if given.dtype.kind not in "fiub" or not given.ndim:
        raise ValueError(
            f"{model} gave {what} of dtype {given.dtype} and shape {given.shape}; expected an array of numbers"
        )
    array = np.asarray(given, np.float32)
    _require(np.isfinite(array), f"{model} gave {what} that is not finite", names, NonFiniteOutputError)
    inside = (array >= -_ROUNDING) & (array <= 1.0 + _ROUNDING)
    if not inside.all():
        found = f"{model} gave {what} from {array.min():g} to {array.max():g}, expected values in [0, 1],"
        _require(inside, found, names, ValueError)
    return np.clip(array, 0.0, 1.0)


def _require(right: NDArray[np.bool_], problem: str, names: Sequence[str] | None, error: type[Exception]) -> None:
    """Raises ``error`` with the names of the entries (first axis) that are not all ``right``."""
    if right.all():
        return
    wrong = np.flatnonzero(~right.reshape(len(right), -1).all(axis=1)).tolist()
    listed = "; ".join(f"frame {row}" if names is None else names[row] for row in wrong[:_NAMED])
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    raise error(f"{problem} for {listed}{more}")


def _check_arrays(said: Prediction | StepPrediction, model: str, names: Sequence[str] | None) -> None:
    """Puts the three arrays of a prediction in place of what was given, if they are what they should be."""
    for name in ("progress", "success", "progress_distribution"):
        if getattr(said, name) is not None or name != "success":
            object.__setattr__(said, name, as_probabilities(getattr(said, name), name, names, model))
    count = said.progress.shape
    success = count if said.success is None else said.success.shape
    if len(count) != 1 or success != count:
        raise ValueError(
            f"{model} gave progress of shape {count} and success of shape {success}; expected one value of each per "
            "scored frame"
        )
    distribution = said.progress_distribution
    if distribution.ndim != 2 or distribution.shape[:1] != count:
        raise ValueError(
            f"{model} gave a progress_distribution of shape {distribution.shape} for {count[0]} scored frames; "
            "expected (scored frames, bins)"
        )


def progress_uncertainty(distribution: ArrayLike) -> Floats:
    """How unsure a model is of progress: the standard deviation of what it holds possible, in units of progress.

    Unlike entropy, it knows that bins are ordered: neighbours in doubt are little doubt, start or finish are much. Two
    neighbouring bins are how a value between them is written, so a sure answer has up to half the distance of two bins
    (0.06 of ten).

    Args:
        distribution: (..., bins) probabilities over ``linspace(0, 1, bins)``, or what is proportional to them.

    Returns:
        (...,) from 0, one bin, to 0.5, half at either end.

    Raises:
        ValueError: Fewer than two bins, or a distribution without any mass.

    Examples:
        >>> progress_uncertainty([[0, 1, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]]).tolist()
        [0.0, 0.25, 0.5]
    """
    mass = np.asarray(distribution, np.float64)
    if mass.ndim < 1 or mass.shape[-1] < 2:
        raise ValueError(f"got a distribution of shape {mass.shape}; expected (..., bins) with at least two bins")
    total = mass.sum(-1, keepdims=True)
    if not (total > 0.0).all():
        raise ValueError("got a distribution without any mass; expected probabilities that sum to 1")
    mass, values = mass / total, np.linspace(0.0, 1.0, mass.shape[-1])
    mean = (mass * values).sum(-1, keepdims=True)
    return np.sqrt((mass * (values - mean) ** 2).sum(-1)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Values for the scored frames of one clip.

    Whatever a model is and whoever asks it, what it says is checked here and nowhere else: other real numbers become
    float32, and those that are no progress or no probability raise.

    Attributes:
        progress: (S,) float32 in [0, 1].
        success: (S,) float32, probability that the task is done in that frame; None of a model that has no notion of
            success (`robometer_rl.RewardModel.has_success`).
        progress_distribution: (S, bins) float32, over ``linspace(0, 1, bins)``; no bins for a scalar progress head.
        protocol: Which frames the model saw for each value, as in ``nested(8)``; ``given`` for all frames at once.
        every: Scoring interval in steps, see `robometer_rl.frames.scored_steps`.
        model_id: Name of the model, with ``revision`` where one is known.
        revision: Commit of the checkpoint on the Hub, if any.
        dtype: Precision that the model ran in.
        schema_version: Version of this record.

    Raises:
        NonFiniteOutputError: NaN or infinity in an array.
        ValueError: Values outside [0, 1], or shapes that do not fit.
    """

    progress: Floats
    success: Floats | None
    progress_distribution: Floats
    protocol: str
    model_id: str
    every: int = 1
    revision: str | None = None
    dtype: str = "float32"
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _check_arrays(self, self.model_id, None)

    def __len__(self) -> int:
        return len(self.progress)

    @property
    def uncertainty(self) -> Floats | None:
        """(S,) of progress, see `progress_uncertainty`; None of a model that gives no distribution."""
        return _uncertainty(self)

    def hold(self, num_frames: int) -> Prediction:
        """One value per frame of an episode of ``num_frames``: between scored frames the last value is held."""
        steps = scored_steps(num_frames, self.every)
        if len(steps) != len(self):
            raise ValueError(
                f"{len(self)} values scored every {self.every} steps do not belong to an episode of {num_frames} "
                f"frames, which has {len(steps)} scored frames"
            )
        source = np.searchsorted(steps, np.arange(num_frames), side="right") - 1
        said = {name: getattr(self, name) for name in ("progress", "success", "progress_distribution")}
        values = {name: None if array is None else array[source] for name, array in said.items()}
        return Prediction(**{**self._as_dict(), **values, "every": 1})

    def save(self, path: str | Path) -> None:
        """Writes the arrays and their origin as ``.npz``; the file appears when it is whole."""
        values = {name: "" if value is None else value for name, value in self._as_dict().items()}
        # An open file keeps numpy from adding a suffix that `load` would not look for.
        with new_file(path) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **values)

    @classmethod
    def load(cls, path: str | Path) -> Prediction:
        """Reads what `save` wrote.

        Raises:
            ValueError: The file is damaged, or of another kind or version.
        """
        values: dict[str, Any] = read_arrays(Path(path), *(field.name for field in fields(cls)))
        if absent := sorted({field.name for field in fields(cls)} - set(values)):
            raise ValueError(f"{path} is not a prediction: it has no {', '.join(absent)}")
        if (version := values["schema_version"].item()) != SCHEMA_VERSION:
            raise ValueError(f"{path} has prediction schema {version}; this release reads {SCHEMA_VERSION}")
        plain = {field.name: values[field.name] for field in fields(cls)}
        plain = {name: value if value.ndim else value.item() for name, value in plain.items()}
        return cls(**{name: None if isinstance(value, str) and not value else value for name, value in plain.items()})

    def _as_dict(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, eq=False)
class StepPrediction:
    """Values for the newest frame of several histories.

    Attributes:
        progress: (n,) float32 in [0, 1].
        success: (n,) float32 probability; None of a model that has no notion of success.
        progress_distribution: (n, bins) float32.
        names: What the n values are about, for errors: ``history 3, frame 12``. Not kept.

    Raises:
        NonFiniteOutputError: See `Prediction`.
        ValueError: Likewise.
    """

    progress: Floats
    success: Floats | None
    progress_distribution: Floats
    names: InitVar[Sequence[str] | None] = None

    def __post_init__(self, names: Sequence[str] | None) -> None:
        _check_arrays(self, "the model", names)

    def __len__(self) -> int:
        return len(self.progress)

    @property
    def uncertainty(self) -> Floats | None:
        """(n,) of progress, see `progress_uncertainty`; None of a model that gives no distribution."""
        return _uncertainty(self)


def _uncertainty(said: Prediction | StepPrediction) -> Floats | None:
    bins = said.progress_distribution
    return progress_uncertainty(bins) if bins.shape[1] > 1 else None
