"""What is noted in the studio, and kept: flags of episodes, what models said of them, and people's preferences.

Files of one JSON object per line in a folder. Lines are added and never changed, so that nothing is lost when a
process is killed, and two people may write into one folder; of two lines about one thing the later one counts.

``flags.jsonl`` is described in `robometer_rl.data.flags`; ``predictions.jsonl`` has ``data``, ``episode``,
``task``, ``model``, ``protocol``, ``every``, ``threshold``, ``progress`` and ``success``, per scored frame;
``labels.jsonl`` and ``preferences.jsonl`` are described in `robometer_rl.data.judgements`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from robometer_rl.data.flags import FLAGS, Flag
from robometer_rl.documents import brief, read_records
from robometer_rl.files import append_line, drop_half_line
from robometer_rl.frames import scored_steps
from robometer_rl.prediction import Prediction
from robometer_rl.ranges import require_counts, require_numbers, require_texts
from robometer_rl.rewards import DEFAULT_REWARD, success_holds

__all__ = ["Notes", "Said"]

T = TypeVar("T")

PREDICTIONS: Final = "predictions.jsonl"


@dataclass(frozen=True)
class Said:
    """What a model said of an episode under its own instruction.

    Attributes:
        data: The data set.
        episode: The episode in it.
        task: The instruction.
        model: Who said it, see `robometer_rl.RewardModel.source`.
        protocol: Which frames it was shown.
        every: Scoring interval.
        threshold: Of the success rule.
        progress: One value per scored frame.
        success: Likewise; None of a model that says none.
    """

    data: str
    episode: str
    task: str
    model: str
    protocol: str
    every: int
    threshold: float
    progress: tuple[float, ...]
    success: tuple[float, ...] | None

    def __post_init__(self) -> None:
        require_texts(self, "data", "episode", "task", "model", "protocol")
        require_counts(self, 1, "every")
        require_numbers(self, "(-inf, inf)", "threshold")
        object.__setattr__(self, "progress", _numbers("progress", self.progress))
        if self.success is not None:
            object.__setattr__(self, "success", _numbers("success", self.success))

    @property
    def paid(self) -> float:
        """What the usual reward, the change of progress, pays for the whole episode."""
        return self.progress[-1] - self.progress[0]

    @property
    def fires(self) -> bool | None:
        """Whether the success rule ever holds; None of a model that says no success."""
        return None if self.success is None else self._first_held() is not None

    def fires_at(self, num_frames: int) -> int | None:
        """The frame in which it holds first, of an episode of so many; None if it never does, or nothing is said."""
        first = self._first_held()
        return None if first is None else int(scored_steps(num_frames, self.every)[first])

    def _first_held(self) -> int | None:
        """Which of the scored frames that is."""
        if self.success is None:
            return None
        held = np.flatnonzero(success_holds(self.success, self.threshold, DEFAULT_REWARD.patience))
        return int(held[0]) if len(held) else None

    def prediction(self) -> Prediction:
        """The same as models give it, without a distribution."""
        return Prediction(
            progress=np.array(self.progress, np.float32),
            success=None if self.success is None else np.array(self.success, np.float32),
            progress_distribution=np.zeros((len(self.progress), 0), np.float32),
            protocol=self.protocol,
            model_id=self.model,
            every=self.every,
        )


class Notes:
    """The files of a folder, which is made when something is noted.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._mended: set[str] = set()
        self._flags = {(flag.data, flag.episode): flag for flag in self.read(FLAGS, Flag)}
        self._said = {(said.model, said.data, said.episode): said for said in self.read(PREDICTIONS, Said)}

    def flags(self, data: str) -> dict[str, Flag]:
        """Of a data set, by episode."""
        with self._lock:
            return {episode: flag for (name, episode), flag in self._flags.items() if name == data}

    def flag(self, flag: Flag) -> None:
        """Notes a flag, or that one is taken back."""
        self.add(FLAGS, asdict(flag))
        with self._lock:
            self._flags[flag.data, flag.episode] = flag

    def said(self, model: str, data: str) -> dict[str, Said]:
        """What a model said of a data set, by episode."""
        with self._lock:
            return {
                said.episode: said for (name, place, _), said in self._said.items() if (name, place) == (model, data)
            }

    def keep(self, said: Said) -> None:
        """Notes what a model said."""
        self.add(PREDICTIONS, asdict(said))
        with self._lock:
            self._said[said.model, said.data, said.episode] = said

    def add(self, name: str, line: Mapping[str, Any]) -> None:
        """Adds a line to the file called ``name``.

        Raises:
            OSError: It cannot be written there.
        """
        path = self.folder / name
        with self._lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            if name not in self._mended:
                drop_half_line(path)
                self._mended.add(name)
            append_line(path, json.dumps(line, ensure_ascii=False))

    def read(self, name: str, kind: type[T]) -> list[T]:
        """All lines of the file called ``name``, as records; none if it is not there.

        Raises:
            DocumentError: A line is something else; the message names it.
        """
        path = self.folder / name
        return read_records(path, kind) if path.exists() else []


def _numbers(name: str, values: object) -> tuple[float, ...]:
    """One or more numbers, which are a list in JSON."""
    if not isinstance(values, list | tuple) or not values or not all(isinstance(each, Real) for each in values):
        raise TypeError(f"{name} of Said must be one or more numbers, got {brief(values)}")
    return tuple(values)
