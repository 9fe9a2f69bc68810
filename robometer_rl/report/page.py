"""The frame of all HTML pages: their style, tables and facts, without outside resources."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Final

from PIL import Image

from robometer_rl.report.markup import html

__all__ = ["data_table", "definitions", "document", "figure", "picture_address"]

_STYLE: Final = """
:root {
  color-scheme: light dark;
  --background: #f1f5f9; --surface: #ffffff; --ink: #0f172a; --muted: #5b6b82; --line: #e2e8f0;
  --accent: #2563eb; --good: #047857; --good-tint: #d1fae5; --plain-tint: #e2e8f0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --background: #0b1120; --surface: #0f172a; --ink: #f1f5f9; --muted: #94a3b8; --line: #24304a;
    --accent: #60a5fa; --good: #6ee7b7; --good-tint: #064e3b; --plain-tint: #24304a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--background); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 48px 24px 72px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.02em; margin: 0 0 8px; }
h2 { font-size: 19px; letter-spacing: -0.01em; margin: 44px 0 14px; }
.lead { color: var(--muted); max-width: 46em; margin: 0; }
.card { background: var(--surface); border: 1px solid var(--line); border-radius: 14px; overflow: hidden; }
.card ul { margin: 14px 0; padding-right: 22px; }
.wide { overflow-x: auto; }
.long { overflow-y: auto; max-height: 460px; }
.long thead th { position: sticky; top: 0; background: var(--surface); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 12px 18px; text-align: right; white-space: nowrap; }
th { color: var(--muted); font-size: 13px; font-weight: 600; }
tbody tr { border-top: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; font-weight: 600; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 11em; }
h3 { font-size: 16px; margin: 30px 0 10px; }
.pill { border-radius: 999px; padding: 2px 10px; font-size: 13px; font-weight: 600;
        background: var(--plain-tint); color: var(--muted); }
.pill.yes { background: var(--good-tint); color: var(--good); }
figure { margin: 0; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
.pictures { display: flex; flex-wrap: wrap; gap: 18px; }
.pictures figure { flex: 1 1 auto; }
a { color: var(--accent); }
.grid { display: grid; gap: 18px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 28px; margin: 0; padding: 18px 22px; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { margin: 14px 0 0; padding: 16px 22px; white-space: pre-wrap; overflow-wrap: anywhere;
      font: 14px/1.5 ui-monospace, Consolas, monospace; }
"""


_LONG: Final = 12  # rows of a table that are shown without scrolling


def document(title: str, sections: Sequence[str], head: str = "") -> str:
    """A complete HTML document in the style of all pages.

    Args:
        title: Of the window; escaped.
        sections: Markup of the body, taken as it is.
        head: More markup of the head, likewise.
    """
    return (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{html(title)}</title>\n<link rel='icon' href='data:,'>\n<style>{_STYLE}</style>\n{head}</head>\n"
        "<body>\n<main>\n" + "\n".join(sections) + "\n</main>\n</body>\n</html>\n"
    )


def data_table(columns: Sequence[str], rows: Sequence[Sequence[str | bool]], links: Sequence[str] | None = None) -> str:
    """A table; all texts are escaped, booleans become "yes" and "no".

    Args:
        columns: Headings.
        rows: As many values each; the first names the row.
        links: Where the name of each row leads, if anywhere.
    """
    head = "".join(f"<th scope='col'>{html(column)}</th>" for column in columns)
    cells = [[_cell(value) for value in row] for row in rows]
    if links is not None:
        for row, link in zip(cells, links, strict=True):
            row[0] = f"<a href='{html(link)}'>{row[0]}</a>"
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in cells)
    kind = "card wide long' tabindex='0" if len(rows) > _LONG else "card wide"
    return f"<div class='{kind}'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(value: str | bool) -> str:
    if isinstance(value, bool):
        return "<span class='pill yes'>yes</span>" if value else "<span class='pill'>no</span>"
    return html(value)


def definitions(facts: Mapping[str, str]) -> str:
    """The entries of a ``dl`` element; names and values are escaped."""
    return "".join(f"<dt>{html(name)}</dt><dd>{html(value)}</dd>" for name, value in facts.items())


def figure(address: str, caption: str) -> str:
    """A picture with two pixels per unit at an address, relative or ``data:``, without white space.

    The caption is for those who do not see it.
    """
    return f"<figure class='card'><img srcset='{html(address)} 2x' alt='{html(caption)}'></figure>"


def picture_address(image: Image.Image) -> str:
    """A picture inside its address, so that a page is one file."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
