"""Where benchmarks leave their numbers: one JSON file each, with where the numbers come from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from robometer_rl.files import write_text
from robometer_rl.provenance import provenance

__all__ = ["DOCS", "RESULTS", "markdown_table", "mean_of_each", "with_tables", "write_result", "write_tables"]

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"


def write_result(name: str, numbers: dict[str, Any]) -> Path:
    """Writes ``results/<name>.json`` with the numbers and their origin."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    write_text(path, json.dumps({"origin": provenance(), **numbers}, indent=1) + "\n")
    return path


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown, with a line break at its end."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def mean_of_each(parts: Sequence[float]) -> str:
    """The mean of what several runs came to, and each, in percent."""
    return f"{mean(parts):.0%} ({', '.join(f'{part:.0%}' for part in parts)})"


def with_tables(page: str, name: str, text: str) -> str:
    """The page with the text between the marks that have the benchmark's name.

    Raises:
        ValueError: The page does not have both marks, once each and in this order.
    """
    begins, ends = f"<!-- {name}: written by python -m benchmarks.{name} --report -->\n", f"<!-- /{name} -->\n"
    head, mark, rest = page.partition(begins)
    _, end, tail = rest.partition(ends)
    if not mark or not end or begins in rest or ends in tail:
        raise ValueError(f"the page must have {begins.strip()!r} and after it {ends.strip()!r}, once each")
    return f"{head}{begins}\n{text}\n{ends}{tail}"


def write_tables(page: str, name: str, text: str) -> None:
    """Writes the text into ``docs/<page>``, see `with_tables`."""
    path = DOCS / page
    write_text(path, with_tables(path.read_text(), name, text))
