"""The page of a run: the verdict, what it rests on, every episode that it was judged by, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from robometer_rl.adapting.proposals import Proposal
from robometer_rl.adapting.survey import Survey
from robometer_rl.adapting.verdict import Seen, Verdict
from robometer_rl.evaluation.page import episode_replay, episode_series
from robometer_rl.evaluation.plots import draw_curves, draw_ranking
from robometer_rl.evaluation.scoring import ScoredEpisode, Scores
from robometer_rl.report.figures import save_picture
from robometer_rl.report.markup import html
from robometer_rl.report.page import data_table, figure
from robometer_rl.report.recordings import MOST_SHOWN, Recorded, write_recordings
from robometer_rl.report.replay import spread_band, worst_first
from robometer_rl.rewards import DEFAULT_REWARD

__all__ = ["write_page"]


def write_page(
    folder: Path,
    name: str,
    verdict: Verdict,
    survey: Survey,
    seen: Sequence[Seen],
    proposals: Sequence[Proposal],
    commands: Sequence[str],
) -> Path:
    """Writes ``index.html``, its pictures and its videos.

    Args:
        folder: Where; made if it is missing.
        name: Of the model.
        verdict: What it is worth.
        survey: What it was trained on.
        seen: Episodes that it was judged by.
        proposals: What to record next.
        commands: What to type next.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scores = Scores([each.scored() for each in seen], [], DEFAULT_REWARD.threshold(verdict.threshold))
    recordings = _recordings(name, seen, scores)
    return write_recordings(
        folder,
        f"{name}: {verdict.headline}",
        _lead(verdict, len(recordings)),
        recordings,
        survey.facts,
        count=len(recordings),
        sections=[
            *_reasons(verdict),
            f"<h2>What is paid</h2>\n{_outcomes(verdict)}",
            *_pictures(folder, name, scores.episodes),
            f"<h2>Checks</h2>\n{_checks(verdict)}",
            *_proposals(proposals),
            "<h2>Next</h2>\n" + "".join(f"<pre class='card'>{html(command)}</pre>" for command in commands),
        ],
        show_progress=True,
    )


def _recordings(name: str, seen: Sequence[Seen], scores: Scores) -> list[Recorded]:
    """The episodes that it was judged by, the most wrongly paid first; the band is where its heads are apart."""
    replays = []
    for each, scored in zip(seen, scores.episodes, strict=True):
        series = episode_series(name, scored, scores, each.protocol)
        if each.spread is not None:
            series = replace(series, band=spread_band(each.progress, each.spread))
        replays.append(episode_replay(scored, [series]))
    shown = worst_first(replays)[:MOST_SHOWN]
    return [(replays[place], {"recording": seen[place].example.episode.frames}) for place in shown]


def _lead(verdict: Verdict, shown: int) -> str:
    judged = f"Judged on {verdict.held_out} episodes that it was not trained on."
    may = "It may pay an agent in this environment." if verdict.usable else "It must pay nobody yet."
    which = "All of them" if shown == verdict.held_out else f"{shown} of them"
    return f"{judged} {may} {which} are below, those that it is most wrong about first."


def _reasons(verdict: Verdict) -> list[str]:
    if verdict.usable:
        return []
    items = "".join(f"<li>{html(reason)}</li>" for reason in verdict.reasons)
    return [f"<h2>Why not</h2>\n<div class='card'><ul>{items}</ul></div>"]


def _outcomes(verdict: Verdict) -> str:
    rows = [
        (
            each.name,
            f"{each.episodes}",
            f"{each.final:.2f}",
            "" if each.true_final is None else f"{each.true_final:.2f}",
            f"{each.fires:.0%}",
        )
        for each in verdict.outcomes
    ]
    return data_table(("outcome", "episodes", "final progress", "true", "success rule fires"), rows)


def _checks(verdict: Verdict) -> str:
    rows = [(each.name, f"{each.value:.3f}", each.expected, each.passed) for each in verdict.checks]
    return data_table(("check", "found", "expected", "met"), rows)


def _pictures(folder: Path, name: str, scored: Sequence[ScoredEpisode]) -> list[str]:
    if not scored:
        return []
    pictures = {"progress.png": ("Progress along the episodes of each kind", draw_curves(scored, name))}
    if len({each.task for each in scored}) > 1:
        pictures["ranking.png"] = ("Progress in the last frame", draw_ranking(scored, name))
    for file, (_, picture) in pictures.items():
        save_picture(picture, folder / file)
    return [f"<h2>{html(caption)}</h2>\n{figure(file, caption)}" for file, (caption, _) in pictures.items()]


def _proposals(proposals: Sequence[Proposal]) -> list[str]:
    if not proposals:
        return []
    lines = [f"{each.text} ({', '.join(each.episodes)})" if each.episodes else each.text for each in proposals]
    items = "".join(f"<li>{html(line)}</li>" for line in lines)
    return [f"<h2>Record next</h2>\n<div class='card'><ul>{items}</ul></div>"]
