"""Pages of evaluations: each episode's video and curves beside what is known of it, worst disagreements first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from robometer_rl.evaluation.metrics import Estimate
from robometer_rl.evaluation.policies import PolicyRanking
from robometer_rl.evaluation.scoring import ScoredEpisode, Scores
from robometer_rl.evaluation.verdict import EvaluationVerdict
from robometer_rl.frames import Clip, scored_steps
from robometer_rl.prediction import Prediction
from robometer_rl.report.markup import html
from robometer_rl.report.page import data_table, figure
from robometer_rl.report.recordings import Recorded, write_recordings
from robometer_rl.report.replay import Replay, Series, judged_series, worst_first

__all__ = [
    "PolicyEpisode",
    "episode_replay",
    "episode_series",
    "metric_rows",
    "number_with_interval",
    "production_facts",
    "write_evaluation_page",
    "write_ranking_page",
]

_MOST_POLICIES: Final = 6  # under one cursor: as many as there are colours
_CAPTIONS: Final = {
    "progress": "Progress along the episodes of each skill",
    "ranking": "Final progress by task and skill",
    "success": "ROC of success",
}


def episode_series(name: str, scored: ScoredEpisode, scores: Scores, protocol: str) -> Series:
    """What was said of an episode, with the reward and the success rule that are usual, beside its truth.

    Args:
        name: What tells it from other series.
        scored: The episode.
        scores: Those that it is among.
        protocol: Which frames the model was shown for each value; ``given`` if that is not to be drawn.
    """
    episode, count = scored.episode, len(scored.progress)
    steps = scored_steps(count, scores.every)
    bins = np.zeros((count, 0), np.float32) if scored.distribution is None else scored.distribution
    said = Prediction(
        scored.progress[steps],
        None if scored.success is None else scored.success[steps],
        bins[steps],
        protocol,
        name,
        scores.every,
    )
    series = judged_series(name, said, count, scores.threshold, episode.task, None, episode.success)
    return replace(series, true_progress=scored.truth, outcome=scored.successful)


def episode_replay(scored: ScoredEpisode, series: Sequence[Series]) -> Replay:
    """An episode with its row of the table; the first of ``series`` is what the row is about."""
    episode, first = scored.episode, series[0]
    gap, found = first.disagreement, first.fires_at
    values = {
        "Disagreement": "" if gap is None else f"{gap:.2f}",
        "Recorded": episode.quality_label,
        "Skill": str(episode.skill or ""),
        "Final progress": f"{scored.final:.2f}",
        "True": "" if scored.truth is None else f"{scored.truth[-1]:.2f}",
        "Success rule fires": "" if scored.success is None else "never" if found is None else f"at {found}",
    }
    known = (episode.task, episode.quality_label, episode.skill, episode.data_source, episode.split)
    return Replay(episode.id, series, description=" · ".join(part for part in known if part), values=values)


def write_evaluation_page(
    folder: Path,
    scores: Mapping[str, Scores],
    verdict: EvaluationVerdict,
    measured: Mapping[str, Mapping[str, Estimate]],
    facts: Mapping[str, Any],
    plots: Sequence[Path],
    most: int,
) -> Path:
    """Writes the page of an evaluation and its videos.

    Args:
        folder: Where, beside the plots.
        scores: By condition, with ``recorded`` among them, which are in the same order.
        verdict: What to make of them.
        measured: Metrics by condition, then by name.
        facts: What was evaluated on what, see `robometer_rl.evaluation.evaluate.Evaluation`.
        plots: Pictures in the folder.
        most: How many episodes are shown at most.

    Returns:
        The page.
    """
    recorded = scores["recorded"].episodes
    replays = [_under_conditions(number, scores, facts) for number in range(len(recorded))]
    shown = worst_first(replays)[:most]
    pictures = "".join(figure(path.name, _CAPTIONS[path.stem]) for path in plots)
    columns = ("metric", *(column for condition in measured for column in (condition, "n")))
    return write_recordings(
        folder,
        f"{facts['model']}, evaluated",
        f"The verdict on {len(replays)} episodes is {verdict.light}. {_order(len(shown), len(replays))}",
        ((replays[place], {"recording": recorded[place].episode.frames}) for place in shown),
        _how(facts),
        count=len(shown),
        sections=[
            _verdict(verdict),
            f"<h2>Metrics, with 95 % intervals</h2>\n{data_table(columns, metric_rows(measured))}",
            f"<h2>Pictures</h2>\n<div class='pictures'>{pictures}</div>",
        ],
        show_progress=True,
    )


def metric_rows(measured: Mapping[str, Mapping[str, Estimate]]) -> list[tuple[str, ...]]:
    """Rows of a table of metrics: the name, then value with interval and count under each condition.

    A group can lack what a metric is about; what no condition has is not shown.
    """
    rows = []
    for name in dict.fromkeys(name for metrics in measured.values() for name in metrics):
        found = [metrics.get(name) for metrics in measured.values()]
        if any(estimate is not None and estimate.count for estimate in found):
            rows.append((name, *(cell for estimate in found for cell in _cells(estimate))))
    return rows


def _cells(estimate: Estimate | None) -> tuple[str, str]:
    if estimate is None or not estimate.count:
        return "", ""
    return number_with_interval(estimate), str(estimate.count)


def number_with_interval(estimate: Estimate) -> str:
    """A value that is known, with its interval if it has one."""
    interval = "" if np.isnan(estimate.low) else f" ({estimate.low:.3f} to {estimate.high:.3f})"
    return f"{estimate.value:.3f}{interval}"


@dataclass(frozen=True, eq=False)
class PolicyEpisode:
    """A recording of a policy, and what was said of it.

    Attributes:
        name: Of the recording.
        policy: Whose it is.
        clip: What it shows.
        said: One value per scored frame.
        succeeds: Whether it succeeded; None where nobody knows.
    """

    name: str
    policy: str
    clip: Clip
    said: Prediction
    succeeds: bool | None

    def series(self, name: str, threshold: float, video: int = 0) -> Series:
        """What was said, as it is drawn; ``threshold`` is that of the success rule."""
        series = judged_series(name, self.said, len(self.clip), threshold, self.clip.task, video=video)
        return replace(series, outcome=self.succeeds)


def write_ranking_page(
    folder: Path,
    title: str,
    ranking: PolicyRanking,
    typical: Mapping[str, PolicyEpisode],
    episodes: Sequence[PolicyEpisode],
    threshold: float,
    facts: Mapping[str, str],
) -> Path:
    """Writes a page about a ranking of policies: an episode of each under one cursor, then episodes, worst first.

    Args:
        folder: Where the page and its videos go.
        title: Heading.
        ranking: The ranking.
        typical: An episode of each policy by its name; at most six are shown together, of the best to the worst.
        episodes: Episodes that are shown alone, in this order: those first that are ranked most wrongly.
        threshold: Of the success rule.
        facts: What produced the numbers.

    Returns:
        The page.
    """
    tau = "" if ranking.tau_a is None else f" Kendall's tau_a with true success is {ranking.tau_a}."
    far = "what is usual" if ranking.tau_a is None else "true success"
    rows = [
        (each.name, str(each.score), "" if each.success_rate is None else f"{each.success_rate:.0%}")
        for each in ranking.policies
    ]
    return write_recordings(
        folder,
        title,
        f"Policies by the mean progress that is seen in the last frames of their episodes.{tau} Below, an episode of "
        f"each policy under one cursor, then {len(episodes)} episodes, those first whose final progress is farthest "
        f"from {far}.",
        [
            _together(ranking, typical, threshold),
            *((_of_policy(each, threshold), {"recording": each.clip.frames}) for each in episodes),
        ],
        facts,
        count=len(episodes) + 1,
        sections=[f"<h2>Policies</h2>\n{data_table(('policy', 'mean final progress', 'true success'), rows)}"],
        show_progress=True,
    )


def _together(ranking: PolicyRanking, typical: Mapping[str, PolicyEpisode], threshold: float) -> Recorded:
    names = [policy.name for policy in ranking.policies]
    places = np.linspace(0, len(names) - 1, min(len(names), _MOST_POLICIES)).round().astype(int)
    shown = [names[place] for place in places]
    series = [typical[name].series(name, threshold, video) for video, name in enumerate(shown)]
    sentence = "Of each policy the episode that is paid most like its mean."
    return Replay("policies, best first", series, description=sentence), {
        name: typical[name].clip.frames for name in shown
    }


def _of_policy(episode: PolicyEpisode, threshold: float) -> Replay:
    series = episode.series("progress", threshold)
    found, final = series.fires_at, float(episode.said.progress[-1])
    known = {None: "", True: "success", False: "failure"}[episode.succeeds]
    values = {
        "Policy": episode.policy,
        "Disagreement": "" if episode.succeeds is None else f"{abs(final - episode.succeeds):.2f}",
        "Recorded": known,
        "Final progress": f"{final:.2f}",
        "Success rule fires": "" if episode.said.success is None else "never" if found is None else f"at {found}",
    }
    said = [episode.clip.task, episode.policy, known or "outcome not recorded"]
    return Replay(episode.name, [series], description=" · ".join(said), values=values)


def _under_conditions(number: int, scores: Mapping[str, Scores], facts: Mapping[str, Any]) -> Replay:
    """An episode under all conditions; pictures that were changed are not those of the video."""
    recorded = scores["recorded"].episodes[number]
    name = facts["model"] if len(scores) == 1 else "recorded"
    series = [episode_series(name, recorded, scores["recorded"], facts["protocol"])]
    for condition, said in scores.items():
        if condition != "recorded":
            other = episode_series(condition, said.episodes[number], said, "given")
            series.append(replace(other, true_progress=None, true_success=None))
    return episode_replay(recorded, series)


def _order(shown: int, count: int) -> str:
    which = f"The {shown} with the worst disagreements are below" if shown < count else "All are below"
    return f"{which}, the worst first: progress in the last frame against true progress, success against true success."


def _verdict(verdict: EvaluationVerdict) -> str:
    items = "".join(f"<li>{html(sentence)}</li>" for sentence in verdict.sentences)
    return f"<h2>Verdict: {verdict.light}</h2>\n<div class='card'><ul>{items}</ul></div>"


def _how(facts: Mapping[str, Any]) -> dict[str, str]:
    about = {
        "Frame protocol": f"{facts['protocol']}, every {facts['every']} frames",
        "Reward": "the change of progress since the scored frame before",
        "Success threshold": f"{facts['success_threshold']:.3f}",
        "Episodes": ", ".join(f"{skill} ({count})" for skill, count in facts["episodes"].items())
        + (f"; {facts['excluded']} flagged ones are left out" if facts.get("excluded") else ""),
    }
    return production_facts(facts, about)


def production_facts(document: Mapping[str, Any], about: Mapping[str, str]) -> dict[str, str]:
    """What a page says of how its numbers were made: by which model, ``about`` how it was asked, and in which run.

    Args:
        document: What is written beside the page: ``model``, ``revision``, ``dtype`` and ``provenance``.
        about: Names and values.
    """
    made, revision = document["provenance"], f"@{document['revision']}" if document["revision"] else ""
    return {
        "Model": f"{document['model']}{revision}, {document['dtype']}",
        **about,
        "Versions": ", ".join(f"{name} {number}" for name, number in made["packages"].items()),
        "Date": made["date"],
        "Command": made["command"],
    }
