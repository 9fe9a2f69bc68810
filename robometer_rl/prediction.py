"""What a reward model says about frames: plain arrays, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robometer_rl.frames import scored_steps

__all__ = ["SCHEMA_VERSION", "NonFiniteOutputError", "Prediction", "StepPrediction"]

SCHEMA_VERSION = 1

Floats = NDArray[np.float32]


class NonFiniteOutputError(ArithmeticError):
    """A model produced NaN or infinity; the message names the clip and the frame."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Values for the scored frames of one clip.

    Attributes:
        progress: (S,) float32 in [0, 1].
        success: (S,) float32, probability that the task is done in that frame.
        progress_distribution: (S, bins) float32, over ``linspace(0, 1, bins)``; no bins for a scalar progress head.
        protocol: Which frames the model saw for each value, as in ``nested(8)``; ``given`` for all frames at once.
        every: Scoring interval in steps, see `robometer_rl.frames.scored_steps`.
        model_id: Name of the model, with ``revision`` where one is known.
        revision: Commit of the checkpoint on the Hub, if any.
        dtype: Precision that the model ran in.
        schema_version: Version of this record.
    """

    progress: Floats
    success: Floats
    progress_distribution: Floats
    protocol: str
    model_id: str
    every: int = 1
    revision: str | None = None
    dtype: str = "float32"
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        scored = len(self.progress)
        shapes = {name: getattr(self, name).shape for name in ("progress", "success", "progress_distribution")}
        if shapes["progress"] != (scored,) or shapes["success"] != (scored,):
            raise ValueError(f"progress and success must be one value per scored frame, got {shapes}")
        if len(shapes["progress_distribution"]) != 2 or shapes["progress_distribution"][0] != scored:
            raise ValueError(f"progress_distribution must be (scored frames, bins), got {shapes}")

    def __len__(self) -> int:
        return len(self.progress)

    def hold(self, num_frames: int) -> Prediction:
        """One value per frame of an episode of ``num_frames``: between scored frames the last value is held."""
        steps = scored_steps(num_frames, self.every)
        if len(steps) != len(self):
            raise ValueError(
                f"{len(self)} values scored every {self.every} steps do not belong to an episode of {num_frames} "
                f"frames, which has {len(steps)} scored frames"
            )
        source = np.searchsorted(steps, np.arange(num_frames), side="right") - 1
        values = {name: getattr(self, name)[source] for name in ("progress", "success", "progress_distribution")}
        return Prediction(**{**self._as_dict(), **values, "every": 1})

    def save(self, path: str | Path) -> None:
        """Writes the arrays and their origin as ``.npz``."""
        values = {name: "" if value is None else value for name, value in self._as_dict().items()}
        # An open file keeps numpy from adding a suffix that `load` would not look for.
        with Path(path).open("wb") as file:
            np.savez(file, allow_pickle=False, **values)

    @classmethod
    def load(cls, path: str | Path) -> Prediction:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as data:
            version = int(data["schema_version"])
            if version != SCHEMA_VERSION:
                raise ValueError(f"{path} has prediction schema {version}; this release reads {SCHEMA_VERSION}")
            values: dict[str, Any] = {}
            for field in fields(cls):
                value = data[field.name]
                values[field.name] = value if value.ndim else value.item()
        values["revision"] = values["revision"] or None
        return cls(**values)

    def _as_dict(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, eq=False)
class StepPrediction:
    """Values for the newest frame of several histories.

    Attributes:
        progress: (n,) float32 in [0, 1].
        success: (n,) float32 probability.
        progress_distribution: (n, bins) float32.
    """

    progress: Floats
    success: Floats
    progress_distribution: Floats

    def __len__(self) -> int:
        return len(self.progress)
