"""The page of a benchmark, in Markdown and in HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robometer_rl.evaluation.benchmark.asking import MEAN, JudgedSet
from robometer_rl.evaluation.benchmark.sheets import Sheet
from robometer_rl.report.markup import html, markdown, markdown_table
from robometer_rl.report.page import data_table, definitions, document

__all__ = ["Page", "as_html", "as_markdown"]


@dataclass(frozen=True)
class Page:
    """What stands on it, in plain words.

    Attributes:
        title: Of the whole.
        about: What the benchmark is.
        remarks: What a reader must know before reading on, a sentence each.
        facts: Where the numbers come from.
        sets: Each set with its tables, a mean over them first.
    """

    title: str
    about: str
    remarks: Sequence[str]
    facts: Mapping[str, str]
    sets: Sequence[tuple[JudgedSet, Sequence[Sheet]]]


def as_markdown(page: Page) -> str:
    """As a page of documentation."""
    parts = [f"# {markdown(page.title)}", markdown(page.about)]
    parts += ["\n".join(f"- {markdown(remark)}" for remark in page.remarks)] if page.remarks else []
    parts.append(markdown_table(("", ""), [(markdown(name), markdown(value)) for name, value in page.facts.items()]))
    for judged, sheets in page.sets:
        parts.append(f"## {markdown(_heading(judged))}")
        parts += ["\n".join(f"- {markdown(line)}" for line in lines)] if (lines := _lines(judged)) else []
        for sheet in sheets:
            rows = [[markdown(cell) for cell in row] for row in sheet.rows]
            parts += [f"### {markdown(sheet.title)}", markdown(sheet.about), markdown_table(sheet.columns, rows)]
    return "\n\n".join(parts) + "\n"


def as_html(page: Page) -> str:
    """As a page of its own."""
    parts = [f"<h1>{html(page.title)}</h1>\n<p class='lead'>{html(page.about)}</p>", _listed(page.remarks)]
    parts.append(f"<div class='card'><dl>{definitions(page.facts)}</dl></div>")
    for judged, sheets in page.sets:
        parts += [f"<h2>{html(_heading(judged))}</h2>", _listed(_lines(judged))]
        for sheet in sheets:
            parts.append(f"<h2>{html(sheet.title)}</h2>\n<p class='lead'>{html(sheet.about)}</p>")
            parts.append(data_table(sheet.columns, sheet.rows))
    return document(page.title, [part for part in parts if part])


def _heading(judged: JudgedSet) -> str:
    if judged.name == MEAN:
        return "Mean over the sets"
    qualities = ", ".join(f"{number} {name}" for name, number in sorted(judged.episodes.items()))
    return f"{judged.name}: {qualities}, of {judged.tasks} tasks"


def _lines(judged: JudgedSet) -> list[str]:
    """Verdicts, and what is missing."""
    lines = [f"{name}: {verdict.light}. {' '.join(verdict.sentences)}" for name, verdict in judged.verdicts.items()]
    return lines + [f"Left out: {name}: {reason}" for name, reason in judged.left_out.items()]


def _listed(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{html(line)}</li>" for line in lines)
    return f"<div class='card'><ul>{items}</ul></div>" if lines else ""
