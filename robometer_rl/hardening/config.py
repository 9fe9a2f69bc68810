"""The options of ``robometer-rl harden``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import tyro

from robometer_rl.documents import parse_object
from robometer_rl.frames import check_task
from robometer_rl.ranges import require_counts, require_numbers
from robometer_rl.rewards import RewardSpec

__all__ = ["HardenConfig"]

_EXTENDS: Final = ("output", "rounds", "pays")
"""What may be different when a run goes on: where it is, and when it ends."""


@dataclass(frozen=True)
class HardenConfig:
    """Trains agents on what a model pays, and the model on those of their failures that it pays most, in turns.

    Each round trains the model and then, on its reward alone, an agent with another seed, which is what the model is
    judged by. It ends when such an agent's failures hardly pay any more, or after the last round. What is finished is
    kept: the same command goes on, also with more rounds.

    Attributes:
        model: What to harden: a model of ``robometer-rl adapt``, or a Robometer such as ``mini``.
        env: Environment as for ``gymnasium.make``, with ``MODULE:`` before it if a module has to be imported first; or
            ``MODULE:FUNCTION``, which makes one that renders ``rgb_array``.
        store: Recordings of the task that the model knows, successes among them; it stays as it is.
        output: Folder of the run: a folder per round, ``recordings`` with what was learned from, and a page.
        task: The instruction.
        rounds: Most times that the model is trained.
        decisions: Steps that an agent learns from.
        env_options: Keyword arguments of what makes the environment, as JSON.
        action_repeat: Steps of the environment for which an agent's action is held.
        mode: How progress is paid, see ``RewardSpec``.
        confidence: Pay only progress that the model is that sure of, see ``RewardSpec``.
        every: Steps of an agent between frames that are scored and recorded.
        success_key: Info key of true success; ``is_success``, else ``success``, by default.
        progress: How far the task has come, ``obs/KEY`` or ``info/KEY``, if the environment says so. What an agent has
            really reached is then not held against the model.
        distance: How far it is from being done, likewise.
        state: State of the simulator, likewise, as the store has it.
        keep: Failures of an agent that are learned from, and at most as many successes.
        pays: Part of what successes are paid that failures may be paid, and count as not paid.
        steps: Steps of training the model in a round; as many as its kind takes by default.
        recipe: How a Robometer is trained, see ``robometer-rl train``.
        seed: Of everything drawn.
    """

    model: tyro.conf.Positional[str]
    env: str
    store: Path
    output: Path
    task: str
    rounds: int = 3
    decisions: int = 2_000
    env_options: str = "{}"
    action_repeat: int = 1
    mode: Literal["delta", "level"] = "delta"
    confidence: float | None = None
    every: int = 1
    success_key: str | None = None
    progress: str | None = None
    distance: str | None = None
    state: str | None = None
    keep: int = 16
    pays: float = 0.2
    steps: int | None = None
    recipe: str = "lora-cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        check_task(self.task)
        require_counts(self, 0, "rounds")
        require_counts(self, 1, "decisions", "action_repeat", "every", "keep")
        require_numbers(self, "(0, 1]", "pays")
        if self.mode not in ("delta", "level"):
            raise ValueError(f"mode must be 'delta' or 'level', got {self.mode!r}: others are not about progress alone")
        if self.steps is not None:
            require_counts(self, 1, "steps")
        if not 0 <= self.seed < 1000:
            raise ValueError(f"seed must be from 0 to 999, got {self.seed}")
        parse_object(self.env_options)
        self.reward  # noqa: B018 - refuses a confidence out of its range

    @property
    def reward(self) -> RewardSpec:
        """What agents are paid by, before it is scaled."""
        return RewardSpec(mode=self.mode, confidence=self.confidence, every=self.every)

    @property
    def way(self) -> str:
        """The way of paying that the run is about, as `robometer_rl.hardening.payment.ways` calls it."""
        return self.mode if self.confidence is None else f"confident {self.mode}"

    def identity(self) -> dict[str, Any]:
        """What a run depends on, as JSON has it."""
        kept = {name: value for name, value in asdict(self).items() if name not in _EXTENDS}
        return json.loads(json.dumps(kept, default=str))
