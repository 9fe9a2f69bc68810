"""Texts that come from data, as they are put into each medium: never as its markup.

Tasks, ids, file names and data sources are written by other people. Whoever puts one on a terminal, a page, a card or
a picture passes it through the function of that medium.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from typing import Any, Final

__all__ = ["html", "html_json", "markdown", "markdown_code", "markdown_table", "printable", "single_line"]

# Control characters but tab and newline, what changes the direction of writing, line ends that only some programs
# know, and halves of surrogate pairs, which stand for bytes of file names that are not UTF-8.
_UNPRINTABLE: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)

# What means something inside a line of Markdown; underscores within a word do not.
_MARKDOWN: Final = re.compile(r"[\\`*\[\]|~$]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")
_PLAIN_CODE: Final = re.compile(r"[\w ./()@,=+-]+")


def printable(text: str) -> str:
    r"""``text`` with everything that would steer a terminal spelled out, such as ``\x1b``; lines and tabs are kept.

    Examples:
        >>> print(printable("push\x1b[2J the\rblock"))
        push\x1b[2J the\rblock
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def single_line(text: str) -> str:
    """`printable` text with a space for every run of white space."""
    return " ".join(printable(text).split())


def html(text: str) -> str:
    """``text`` as content or quoted attribute of an HTML element.

    Examples:
        >>> html("a <b> & 'c'")
        'a &lt;b&gt; &amp; &#x27;c&#x27;'
    """
    return escape(printable(text))


def html_json(value: Any) -> str:
    """A value as JSON in a quoted attribute; a script that reads it makes text nodes of its texts, never markup.

    Examples:
        >>> html_json({"task": "a 'b'"})
        '{&quot;task&quot;:&quot;a &#x27;b&#x27;&quot;}'
    """
    return escape(json.dumps(value, separators=(",", ":"), allow_nan=False))


def markdown(text: str) -> str:
    r"""``text`` as part of a line of Markdown, also within a table.

    Examples:
        >>> print(markdown("<img> a|b *c* my_data"))
        &lt;img&gt; a\|b \*c\* my_data
    """
    line = escape(single_line(text), quote=False)
    # Addresses become links without any brackets.
    return _MARKDOWN.sub(r"\\\g<0>", line).replace("://", "&#58;//")


def markdown_code(text: str) -> str:
    """``text`` set as code in a line of Markdown, also within a table."""
    return f"`{text}`" if _PLAIN_CODE.fullmatch(text) else f"<code>{markdown(text)}</code>"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; headings and cells are taken as they are, see `markdown`.

    Args:
        columns: Headings.
        rows: As many cells each.

    Examples:
        >>> print(markdown_table(("task", "n"), [("push", "3")]))
        | task | n |
        | --- | --- |
        | push | 3 |
    """
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
