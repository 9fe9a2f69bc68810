"""The page of a run: the verdict, what it rests on, pictures of what is paid, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robometer_rl.adapting.proposals import Proposal
from robometer_rl.adapting.survey import Survey
from robometer_rl.adapting.verdict import Seen, Verdict
from robometer_rl.data.inspect import contact_sheet
from robometer_rl.evaluation.plots import draw_curves, draw_ranking
from robometer_rl.files import write_text
from robometer_rl.report.figures import save_picture
from robometer_rl.report.markup import html
from robometer_rl.report.page import data_table, definitions, document

__all__ = ["write_page"]

_SHOWN = 8  # episodes on the contact sheet


def write_page(
    folder: Path,
    name: str,
    verdict: Verdict,
    survey: Survey,
    seen: Sequence[Seen],
    proposals: Sequence[Proposal],
    commands: Sequence[str],
) -> Path:
    """Writes ``index.html`` and its pictures.

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
    sections = [
        f"<h1>{html(name)}: {html(verdict.headline)}</h1>\n<p class='lead'>{html(_lead(verdict))}</p>",
        _reasons(verdict),
        f"<h2>What is paid</h2>\n{_outcomes(verdict)}",
    ]
    if seen:
        sections.append(_pictures(folder, name, seen))
    sections += [
        f"<h2>Checks</h2>\n{_checks(verdict)}",
        f"<h2>The recordings</h2>\n<div class='card'><dl>{definitions(survey.facts)}</dl></div>",
        _proposals(proposals),
        "<h2>Next</h2>\n" + "".join(f"<pre class='card'>{html(command)}</pre>" for command in commands),
    ]
    write_text(folder / "index.html", document(f"{name}: {verdict.headline}", [part for part in sections if part]))
    return folder / "index.html"


def _lead(verdict: Verdict) -> str:
    judged = f"Judged on {verdict.held_out} episodes that it was not trained on."
    return (
        f"{judged} It may pay an agent in this environment." if verdict.usable else f"{judged} It must pay nobody yet."
    )


def _reasons(verdict: Verdict) -> str:
    if verdict.usable:
        return ""
    items = "".join(f"<li>{html(reason)}</li>" for reason in verdict.reasons)
    return f"<h2>Why not</h2>\n<div class='card'><ul>{items}</ul></div>"


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


def _pictures(folder: Path, name: str, seen: Sequence[Seen]) -> str:
    scored = [each.scored() for each in seen]
    worst = sorted(seen, key=lambda each: -abs(each.final - _worth(each)))[:_SHOWN]
    pictures = {"progress.png": ("Progress along the episodes of each kind", draw_curves(scored, name))}
    if len({each.task for each in scored}) > 1:
        pictures["ranking.png"] = ("Progress in the last frame", draw_ranking(scored, name))
    pictures["worst.png"] = (
        "The episodes that are paid most wrongly",
        contact_sheet([each.example.episode for each in worst]),
    )
    parts = []
    for file, (caption, picture) in pictures.items():
        save_picture(picture, folder / file)
        parts.append(
            f"<h2>{html(caption)}</h2>\n<figure class='card'><img src='{html(file)}' alt='{html(caption)}'></figure>"
        )
    rows = [(each.example.episode.id, f"{each.final:.2f}", f"{_worth(each):.2f}") for each in worst]
    return "\n".join([*parts, data_table(("episode", "final progress", "worth"), rows)])


def _worth(seen: Seen) -> float:
    """Of the last frame, as it was learned."""
    return float(seen.example.labels.progress[-1])


def _proposals(proposals: Sequence[Proposal]) -> str:
    if not proposals:
        return ""
    lines = [f"{each.text} ({', '.join(each.episodes)})" if each.episodes else each.text for each in proposals]
    items = "".join(f"<li>{html(line)}</li>" for line in lines)
    return f"<h2>Record next</h2>\n<div class='card'><ul>{items}</ul></div>"
