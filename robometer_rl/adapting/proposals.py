"""What to record next: the kinds of episodes that a model is least sure of, or pays most above their worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robometer_rl.adapting.examples import outcome
from robometer_rl.adapting.survey import Survey
from robometer_rl.adapting.verdict import Seen

__all__ = ["Proposal", "propose"]

_KINDS = 3  # that are proposed
_MORE = 10  # episodes of each
_WRONG = 0.1  # progress by which a kind is off on average, or heads disagree, before more of it is asked for


@dataclass(frozen=True)
class Proposal:
    """A kind of episode to record.

    Attributes:
        text: What, and why; a sentence.
        episodes: Ids of recorded episodes of the kind, the worst first.
    """

    text: str
    episodes: tuple[str, ...]


def propose(seen: Sequence[Seen], spreads: Sequence[float], survey: Survey) -> list[Proposal]:
    """Proposes recordings, the most useful first.

    Args:
        seen: What a model says of episodes that it was not trained on.
        spreads: How unsure it is of each, see `CompactModel.uncertainty`.
        survey: What the recordings lack as a whole comes before anything else.
    """
    proposals = [Proposal(missing, ()) for missing in survey.missing]
    groups: dict[str, list[tuple[Seen, float]]] = {}
    for each, spread in zip(seen, spreads, strict=True):
        groups.setdefault(outcome(each.example), []).append((each, spread))
    found: list[tuple[float, Proposal]] = []
    for name, members in groups.items():
        errors = np.array([_error(each) for each, _ in members])
        unsure = np.array([spread for _, spread in members])
        worst = tuple(members[int(n)][0].example.episode.id for n in np.argsort(-(np.abs(errors) + unsure))[:3])
        text = _text(name, float(errors.mean()), float(unsure.mean()))
        if text:
            found.append((float(np.abs(errors).mean() + unsure.mean()), Proposal(text, worst)))
    found.sort(key=lambda entry: -entry[0])
    return proposals + [proposal for _, proposal in found[:_KINDS]]


def _error(each: Seen) -> float:
    """By how much the last frame is paid too much; a success is worth 1, a failure nothing, if nobody measured it."""
    worth = each.true_final
    if worth is None:
        worth = float(each.example.labels.success[-1])
    return each.final - worth


def _text(name: str, error: float, unsure: float) -> str:
    if error > _WRONG:
        return f"{_MORE} more like {name!r}: they end {error:.2f} above their worth"
    if error < -_WRONG:
        return f"{_MORE} more like {name!r}: they end {-error:.2f} below their worth"
    return f"{_MORE} more like {name!r}: it is unsure of them, by {unsure:.2f}" if unsure > _WRONG else ""
