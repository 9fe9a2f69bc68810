"""What ``robometer-rl adapt`` trains: one of two kinds of reward model behind one interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.adapting.config import AdaptConfig
from robometer_rl.adapting.examples import Split
from robometer_rl.adapting.verdict import Seen
from robometer_rl.models.locations import is_compact
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.models.robometer.checkpoint import SETTINGS_FILE

__all__ = ["CHECKPOINT", "JUDGING_TIME", "Learned", "Learner", "begun_checkpoint", "device_of"]

CHECKPOINT: Final = "checkpoint"
"""Folder of the model within that of a run."""

JUDGING_TIME: Final = 0.1
"""Part of the time that is left for the verdict."""


@dataclass(frozen=True)
class Learned:
    """How training went.

    Attributes:
        steps: Taken.
        best_step: After which the weights that were kept were found.
        loss: Of these on held-out episodes; of training episodes if none are held out.
        seconds: That it took.
        interrupted: Whether Ctrl-C has ended it.
    """

    steps: int
    best_step: int
    loss: float
    seconds: float
    interrupted: bool


class Learner(Protocol):
    """A model that is trained on episodes, within a time.

    Attributes:
        trained_on: Ids of the episodes that it was trained on in the run that it goes on from; empty for a new one.
        judged_by: Ids of those that were kept out then.
        options: Of the command that begins with such a model again.
        facts: What is noted of its training, as plain values.
    """

    trained_on: tuple[str, ...]
    judged_by: tuple[str, ...]
    options: str
    facts: Mapping[str, Any]

    def learn(self, split: Split, began: float) -> Learned:
        """Looks at episodes and learns from them; it has its best weights afterwards.

        Args:
            split: What to train on, and what to choose the best weights by.
            began: `time.monotonic` at which the run began, whose time is limited.

        Raises:
            UnsupportedByModelError: It was trained on tiled pictures, and these are single views.
        """
        ...

    def model(self) -> RewardModel:
        """The model, to be asked."""
        ...

    def uncertainty(self, seen: Seen) -> NDArray[np.floating[Any]]:
        """(T,) how unsure it is of the progress of each frame of an episode that it was asked about, in its units."""
        ...

    def save(self, directory: Path, threshold: float | None = None, trained: Mapping[str, Any] | None = None) -> None:
        """Writes a checkpoint that `load_reward_model` reads.

        Args:
            directory: Where.
            threshold: Of success; None if none was found.
            trained: What it was trained on and how good it is, as plain values for JSON.
        """
        ...


def begun_checkpoint(config: AdaptConfig) -> Path | None:
    """The checkpoint to go on from: that of a run, or the folder itself where it is one; None for a new model."""
    folder = config.continued
    if folder is None or is_compact(folder) or (folder / SETTINGS_FILE).exists():
        return folder
    return folder / CHECKPOINT


def device_of(config: AdaptConfig) -> torch.device:
    """Where to run: where it is asked, else on a GPU if there is one."""
    return torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
