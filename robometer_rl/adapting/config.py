"""The options of ``robometer-rl adapt``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

__all__ = ["AdaptConfig"]

_STEPS_PER_EPISODE, _LEAST_STEPS, _MOST_STEPS = 8, 400, 2000


@dataclass(frozen=True)
class AdaptConfig:
    """Makes a reward model of your own recordings, in minutes: a compact one, or with ``--base`` a LoRA of a Robometer.

    It looks at the recordings, says what is missing in them, trains, and ends with a verdict on episodes that it was
    not trained on. Ctrl-C during training keeps the best model so far.

    Attributes:
        store: Store of trajectories: successes, and failures of every kind that an agent will try.
        also: Further stores to learn from, such as one that agents were recorded into.
        exclude: Flags that were set in the studio, as in ``outputs/studio/flags.jsonl``: flagged episodes are left out.
        output: Folder of the run: ``checkpoint``, ``verdict.json`` and a page.
        minutes: How long it may take, everything included; a slow machine takes fewer steps. 10 if not given, and 3
            where it goes on.
        continued: A run to go on from, or its checkpoint, with what the stores have gained since.
        steps: Steps of training, if the time is enough for them; by default 8 per episode, 400 at least and 2000 at
            most, of a LoRA as many as its recipe has, and with ``--continue`` a third of that.
        base: A Robometer to train a LoRA of, in the place of a compact model: ``robometer/Robometer-4B``, another on
            the Hub, a folder, or ``mini``. All but the last want a GPU.
        tower: Another frozen image network than EfficientNet-Lite0 for a new model: a DINOv2, as a folder in
            transformers' format or on the Hub, as in ``facebook/dinov2-small``. It is 30 times larger, and wants a GPU.
        device: Where to run; a GPU if there is one.
        seed: Of everything drawn.
    """

    store: tyro.conf.Positional[Path]
    output: Path
    also: tuple[Path, ...] = ()
    exclude: Path | None = None
    minutes: float | None = None
    continued: Annotated[Path | None, tyro.conf.arg(name="continue")] = None
    steps: int | None = None
    base: str | None = None
    tower: str | None = None
    device: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.minutes is not None and not 0.0 < self.minutes < 1e6:
            raise ValueError(f"minutes is a positive number, got {self.minutes}")
        if (self.steps is not None and self.steps < 1) or self.seed < 0:
            raise ValueError(f"steps is at least 1 and seed at least 0, got {self.steps} and {self.seed}")
        if self.tower is not None and self.continued is not None:
            raise ValueError(f"a run that is gone on from has its image network; leave out --tower {self.tower}")
        if self.base is not None and self.continued is not None:
            raise ValueError(f"a run that is gone on from has its Robometer, if any; leave out --base {self.base}")
        if self.base is not None and self.tower is not None:
            raise ValueError(f"a Robometer has an image network of its own; leave out --base {self.base} or --tower")

    @property
    def time_limit(self) -> float:
        """Seconds that all of it may take."""
        usual = 10.0 if self.continued is None else 3.0
        return 60.0 * (usual if self.minutes is None else self.minutes)

    def planned_steps(self, episodes: int) -> int:
        """Steps of training on so many episodes, if the time is enough: few episodes are soon known by heart."""
        if self.steps is not None:
            return self.steps
        steps = min(max(_STEPS_PER_EPISODE * episodes, _LEAST_STEPS), _MOST_STEPS)
        return steps if self.continued is None else steps // 3
