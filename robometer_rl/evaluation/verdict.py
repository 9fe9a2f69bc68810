"""The verdict on an evaluated model: a traffic light, plain sentences, and limits that a checkpoint must keep (CI)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from robometer_rl.documents import DocumentError, parse_json, read_text
from robometer_rl.evaluation.metrics import Estimate

__all__ = ["LEAST_EPISODES", "Check", "EvaluationVerdict", "GateError", "check", "judge_metrics", "read_gate"]

LEAST_EPISODES: Final = 30
"""With fewer episodes neither a model nor a verdict about it means much."""

Light = Literal["green", "yellow", "red"]


class GateError(ValueError):
    """A model does not keep the limits that were stated for it; the message says which."""


@dataclass(frozen=True)
class Check:
    """One thing that a usable model can do.

    Attributes:
        name: What is measured.
        value: What was found.
        expected: What is asked for, in words.
        passed: Whether that is met.
    """

    name: str
    value: float
    expected: str
    passed: bool

    def __str__(self) -> str:
        found = f"is {self.value:.3f}" if self.value == self.value else "could not be measured on these episodes"
        return f"{self.name} {found}, expected {self.expected}"


def check(name: str, value: float, at_least: float | None = None, at_most: float | None = None) -> Check:
    """Holds a value against limits; NaN, of what cannot be measured, is not enough.

    Raises:
        ValueError: There is no limit.
    """
    limits = [
        f"{word} {limit:g}" for word, limit in (("at least", at_least), ("at most", at_most)) if limit is not None
    ]
    if not limits:
        raise ValueError(f"{name} has no limit; expected at_least, at_most or both")
    passed = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return Check(name, value, " and ".join(limits), bool(passed and value == value))


@dataclass(frozen=True)
class EvaluationVerdict:
    """What to make of an evaluation.

    Attributes:
        light: ``red`` if a check is missed, ``yellow`` if too little is known for a verdict, else ``green``.
        sentences: Why, in plain words.
        checks: What was held against what.
    """

    light: Light
    sentences: tuple[str, ...]
    checks: tuple[Check, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


_QUESTIONS: Final = (
    ("success_above_failure", "Final progress puts successes above failures of their task", {"at_least": 0.9}),
    ("still_progress_range", "Progress over a still picture moves", {"at_most": 0.1}),
    ("stall_rise", "Progress that is gained after the robot stops", {"at_most": 0.1}),
    ("success_rule_recall", "Part of the successes in which the success rule fires", {"at_least": 0.5}),
    ("success_rule_false_alarms", "Part of the other episodes in which it fires", {"at_most": 0.1}),
)


def judge_metrics(
    metrics: Mapping[str, Estimate], episodes: int, unknown_tasks: Sequence[str] = (), strange_pictures: bool = False
) -> EvaluationVerdict:
    """The verdict on what `robometer_rl.evaluation.measures.measure` found.

    Args:
        metrics: By name.
        episodes: How many stand behind them.
        unknown_tasks: Instructions that the model was not trained on, as far as it knows.
        strange_pictures: Whether it was trained on other pictures, as far as it knows.
    """
    checks: list[Check] = []
    sentences: list[str] = []
    unmeasured: list[str] = []

    def add(made: Check, sentence: str) -> None:
        checks.append(made)
        sentences.append(f"{sentence} ({made.expected}: {'ok' if made.passed else 'MISSED'}).")

    def of(name: str) -> float | None:
        return metrics[name].value if name in metrics and metrics[name].count else None

    for name, words, limits in _QUESTIONS:
        if (value := of(name)) is None:
            unmeasured.append(name)
            continue
        add(check(name, value, **limits), f"{words}: {value:.2f}, over {metrics[name].count}")
    expert, random, own, clock = map(
        of, ("final_progress_expert", "final_progress_random", "voc_pearson", "voc_pearson_clock")
    )
    if expert is None or random is None:
        unmeasured.append("random motion beside an expert")
    else:
        said = f"Random motion ends at {random:.2f}, an expert at {expert:.2f}"
        add(check("expert above random motion", expert - random, at_least=0.3), said)
    if own is None or clock is None:
        unmeasured.append("a correlation beside that of a clock")
    else:
        said = f"Its correlation with true progress is {own:.3f}, that of a clock {clock:.3f}"
        add(check("correlation above a clock's", own - clock, at_least=0.0), said)
    doubts: list[str] = []
    if unmeasured:
        doubts.append(f"Not measured, for want of such episodes: {', '.join(unmeasured)}.")
    few = f": fewer than {LEAST_EPISODES} say little" if episodes < LEAST_EPISODES else ""
    (doubts if few else sentences).append(f"{episodes} episodes stand behind this{few}.")
    if unknown_tasks:
        doubts.append(f"It was not trained on these instructions: {', '.join(map(repr, unknown_tasks))}.")
    if strange_pictures:
        doubts.append("It was trained on other pictures than these: another camera, light or environment.")
    missed = any(not each.passed for each in checks)
    light: Light = "red" if missed else "yellow" if doubts or not checks else "green"
    return EvaluationVerdict(light, (*sentences, *doubts), tuple(checks))


def read_gate(path: Path) -> dict[str, dict[str, float]]:
    """Limits by name of the metric, from JSON: ``{"success_above_failure": {"at_least": 0.9}}``.

    Raises:
        ValueError: The file says something else.
        OSError: It cannot be read.
    """
    try:
        gate = parse_json(read_text(path))
    except DocumentError as error:
        raise ValueError(f"{path} states no limits: {error}") from error
    if not isinstance(gate, dict) or not gate:
        raise ValueError(f"{path} states no limits; expected a JSON object of metrics")
    for name, limits in gate.items():
        numbers = isinstance(limits, dict) and all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in limits.values()
        )
        if not numbers or not limits or set(limits) - {"at_least", "at_most"}:
            raise ValueError(f'{path}: {name} has the limits {limits!r}; expected {{"at_least": ...}} or "at_most"')
    return gate
