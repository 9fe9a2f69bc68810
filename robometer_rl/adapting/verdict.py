"""The verdict: whether an adapted model may pay an agent, by episodes that it was not trained on, and why.

Beside it stand what would be as good without seeing anything: a clock, the model shown each frame alone, and a still
picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from robometer_rl.adapting.examples import Example, outcome
from robometer_rl.adapting.success_rule import SuccessRule
from robometer_rl.adapting.survey import Survey
from robometer_rl.evaluation.calibration import MAX_FALSE_ALARMS, MIN_RECALL, Evidence, gather_evidence
from robometer_rl.evaluation.metrics import auroc, pearson, ranking_accuracy
from robometer_rl.evaluation.scoring import ScoredEpisode
from robometer_rl.evaluation.verdict import Check, check
from robometer_rl.frames import Clip
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.rewards import DEFAULT_REWARD, success_holds

__all__ = ["Outcome", "Seen", "Verdict", "ask", "false_alarms_among", "judge", "success_evidence"]

_STILL: Final = 12  # frames of a still picture
_NOTHING: Final = 0.2  # true progress of what has got nowhere

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Seen:
    """What a model says of an episode.

    Attributes:
        example: The episode.
        progress: (T,).
        success: (T,) probability.
        alone: (T,) progress of each frame when it is all that is shown.
        still: How much progress moves while the first frame is shown over and over.
        protocol: Which frames each value was said of, as in ``nested(8)``; ``given`` for the whole episode.
        spread: (T,) how far the heads of the model are apart, see `CompactModel.uncertainty`, or the standard
            deviation of what it holds possible; None of a model that does not say with its answer, until it is asked.
    """

    example: Example
    progress: Floats
    success: Floats
    alone: Floats
    still: float
    protocol: str = "given"
    spread: Floats | None = None

    @property
    def final(self) -> float:
        """Progress in the last frame."""
        return float(self.progress[-1])

    @property
    def true_final(self) -> float | None:
        """What that frame is worth; None where nobody measured it."""
        return float(self.example.labels.progress[-1]) if self.example.measured else None

    def scored(self) -> ScoredEpisode:
        """The same for pages and pictures of an evaluation."""
        truth = self.example.labels.progress if self.example.measured else None
        return ScoredEpisode(self.example.episode, self.progress, self.success, truth=truth)


@dataclass(frozen=True)
class Outcome:
    """What episodes of one kind are paid.

    Attributes:
        name: The kind.
        episodes: How many were kept out.
        final: Mean progress in their last frames.
        true_final: What these are worth on average; None where it was not measured.
        fires: Part of the episodes in which the success rule holds at some time.
    """

    name: str
    episodes: int
    final: float
    true_final: float | None
    fires: float


@dataclass(frozen=True)
class Verdict:
    """Whether a model may be used, and what says so.

    Attributes:
        reasons: Why it may not be used; empty if it may.
        checks: What was measured.
        outcomes: What each kind of episode is paid.
        threshold: Of the success rule, None without one.
        held_out: Episodes that it was judged by.
        early: Part of the successes in which the success rule fires before they are; None without a rule.
    """

    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    outcomes: tuple[Outcome, ...]
    threshold: float | None
    held_out: int
    early: float | None = None

    @property
    def usable(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons

    @property
    def headline(self) -> str:
        """The verdict in two words."""
        return "usable" if self.usable else "do not use"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"verdict": self.headline, **asdict(self)}

    def tables(self) -> list[Table]:
        """What each kind is paid, and the checks."""
        kinds = Table(title=f"on {self.held_out} episodes that it was not trained on", title_justify="left")
        for name in ("outcome", "episodes", "final progress", "true", "success rule fires"):
            kinds.add_column(name, justify="left" if name == "outcome" else "right")
        for each in self.outcomes:
            true = "" if each.true_final is None else f"{each.true_final:.2f}"
            kinds.add_row(each.name, f"{each.episodes}", f"{each.final:.2f}", true, f"{each.fires:.0%}")
        checks = Table(title="checks", title_justify="left")
        for name in ("check", "found", "expected", ""):
            checks.add_column(name)
        for each in self.checks:
            checks.add_row(each.name, f"{each.value:.3f}", each.expected, "ok" if each.passed else "MISSED")
        return [kinds, checks]


def ask(model: RewardModel, examples: Sequence[Example]) -> list[Seen]:
    """Asks a model everything about episodes, by the interface that rewards go through."""
    seen = []
    for example in examples:
        clip = example.episode.clip()
        frames = clip.read()
        said = model.predict_steps([clip])[0]
        alone = model.predict([Clip(frame[None], clip.task) for frame in frames])
        still = model.predict_steps([Clip(np.repeat(frames[:1], _STILL, axis=0), clip.task)])[0].progress
        assert said.success is not None
        shown_alone = np.array([one.progress[0] for one in alone])
        seen.append(
            Seen(
                example, said.progress, said.success, shown_alone, float(np.ptp(still)), said.protocol, said.uncertainty
            )
        )
    return seen


def success_evidence(seen: Sequence[Seen]) -> Evidence:
    """What the success rule with the default patience makes of the episodes whose success was recorded."""
    judged = [(each.success, each.example.episode.success) for each in seen]
    pairs = [(said, np.logical_or.accumulate(success)) for said, success in judged if success is not None]
    return gather_evidence([said for said, _ in pairs], [done for _, done in pairs], DEFAULT_REWARD.patience)


def judge(seen: Sequence[Seen], survey: Survey, rule: SuccessRule | None) -> Verdict:
    """The verdict.

    Args:
        seen: What the model says of episodes that it was not trained on.
        survey: What the recordings are.
        rule: The success rule that was chosen; None if none could be.
    """
    checks = [*_order(seen), *_levels(seen), *_against_impostors(seen), *_rule(rule, seen)]
    # Where the recordings say why something cannot be measured, it is not said again.
    missed = [str(each) for each in checks if not each.passed and not (survey.hopeless and np.isnan(each.value))]
    threshold = None if rule is None or not rule.usable else rule.threshold
    return Verdict(
        reasons=(*survey.hopeless, *missed),
        checks=tuple(checks),
        outcomes=tuple(_outcomes(seen, threshold)),
        threshold=threshold,
        held_out=len(seen),
        early=None if rule is None else rule.early,
    )


def _ends_done(each: Seen) -> bool:
    return bool(each.example.labels.success[-1] > 0)


def _order(seen: Sequence[Seen]) -> list[Check]:
    """Whether successes are put above failures, by final progress and frame by frame."""
    finals = np.array([each.final for each in seen])
    done = np.array([_ends_done(each) for each in seen])
    known = [each.example.labels.success_known for each in seen]
    said = [each.success[mask] for each, mask in zip(seen, known, strict=True)]
    true = [each.example.labels.success[mask] for each, mask in zip(seen, known, strict=True)]
    both = len(seen) > 0 and done.any() and not done.all()
    order = ranking_accuracy(finals, done) if both else float("nan")
    area = auroc(np.concatenate(said), np.concatenate(true)) if both else float("nan")
    return [check("success above failure", order, 0.9), check("success AUROC", area, 0.9)]


def _levels(seen: Sequence[Seen]) -> list[Check]:
    """Whether successes end high and what does nothing ends low."""
    checks = []
    done = [each.final for each in seen if _ends_done(each)]
    if done:
        checks.append(check("final progress of successes", float(np.mean(done)), 0.8))
    # Random motion that came near by chance is worth something, where that was measured.
    random = [each for each in seen if "random" in outcome(each.example) and not each.example.succeeds]
    idle = [each.final for each in random if each.true_final is None or each.true_final < _NOTHING]
    if idle:
        checks.append(check("final progress of random motion", float(np.mean(idle)), at_most=0.2))
    true = [each.true_final for each in seen if not each.example.succeeds]
    paid = [each.final for each in seen if not each.example.succeeds]
    over = [one - worth for one, worth in zip(paid, true, strict=True) if worth is not None]
    if over:
        checks.append(check("failures paid above their worth", float(np.mean(over)), at_most=0.2))
    return checks


def _against_impostors(seen: Sequence[Seen]) -> list[Check]:
    """Whether it is better than what sees nothing, and calm where nothing moves."""
    if not seen:
        return []
    checks = [check("progress that a still picture makes", float(np.mean([each.still for each in seen])), at_most=0.1)]
    measured = [each for each in seen if each.example.measured]
    if measured and len(measured) == len(seen):
        truth = np.concatenate([each.example.labels.progress for each in measured])
        curves = {
            "": [each.progress for each in measured],
            "a clock": [np.linspace(0, 1, len(each.progress)) for each in measured],
            "one frame alone": [each.alone for each in measured],
        }
        # In many tasks a frame shows all there is to know; it must not be that history misleads.
        least = {"a clock": 0.0, "one frame alone": -0.05}
        found = {name: pearson(np.concatenate(values), truth) for name, values in curves.items()}
        own = found.pop("")
        checks.append(check("correlation with true progress", own, 0.7))
        checks += [check(f"the same, less that of {name}", own - value, least[name]) for name, value in found.items()]
    return checks


def false_alarms_among(episodes: int) -> float:
    """The part of so many episodes without success in which the success rule may fire: one of a few is chance."""
    return max(MAX_FALSE_ALARMS, 1.5 / max(episodes, 1))


def _rule(rule: SuccessRule | None, seen: Sequence[Seen]) -> list[Check]:
    if rule is None:
        return []
    failures = sum(not each.example.succeeds for each in seen)
    checks = [check("successes that the success rule sees", rule.recall, MIN_RECALL)]
    if failures:
        least = false_alarms_among(failures)
        checks.append(check("failures that it takes for successes", rule.false_alarms, at_most=least))
    return checks


def _outcomes(seen: Sequence[Seen], threshold: float | None) -> list[Outcome]:
    groups: dict[str, list[Seen]] = {}
    for each in seen:
        groups.setdefault(outcome(each.example), []).append(each)
    rows = []
    for name, members in groups.items():
        limit = DEFAULT_REWARD.threshold(threshold)
        fires = [bool(success_holds(each.success, limit, DEFAULT_REWARD.patience).any()) for each in members]
        true = [each.true_final for each in members if each.true_final is not None]
        rows.append(
            Outcome(
                name=name,
                episodes=len(members),
                final=float(np.mean([each.final for each in members])),
                true_final=float(np.mean(true)) if len(true) == len(members) else None,
                fires=float(np.mean(fires)),
            )
        )
    return sorted(rows, key=lambda row: -row.final)
