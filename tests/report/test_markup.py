from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robometer_rl.report.markup import html, markdown, markdown_code, printable, single_line

ANYTHING = st.text(st.characters(codec=None, categories=None))


@given(ANYTHING)
def test_nothing_that_steers_a_terminal_is_printable(text: str) -> None:
    shown = printable(text)
    assert not any((letter < " " and letter not in "\t\n") or "\x7f" <= letter <= "\x9f" for letter in shown)
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("öffne 抽屉 😀 👩‍🔧\n\tnow", "öffne 抽屉 😀 👩‍🔧\n\tnow"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\rb\x9bc\x00", r"a\rb\x9bc\x00"),
        ("left\u202egnp.exe", r"left\u202egnp.exe"),
        ("caf\udce9", r"caf\udce9"),
    ],
)
def test_letters_stay_and_controls_are_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(ANYTHING)
def test_one_line_is_one_line(text: str) -> None:
    assert len(single_line(text).splitlines()) <= 1


class Page(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert [name for name, _ in attrs] == ["title"]

    def handle_data(self, data: str) -> None:
        self.text += data


@given(ANYTHING)
def test_a_page_holds_the_text_and_no_markup_of_it(text: str) -> None:
    page = Page(f"<b title='{html(text)}'>{html(text)}</b>")
    assert page.tags == ["b"]
    assert page.text == printable(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b\n# Heading", r"a\|b # Heading"),
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ("[here](http://evil.org) ![x](y)", r"\[here\](http&#58;//evil.org) !\[x\](y)"),
        ("`code` *bold* _it_ ~~no~~ $x$ \\", r"\`code\` \*bold\* \_it\_ \~\~no\~\~ \$x\$ \\"),
        ("rbm-1m my_data_2", "rbm-1m my_data_2"),
        ("&lt;", "&amp;lt;"),
    ],
)
def test_markdown_shows_the_text_as_it_is(text: str, expected: str) -> None:
    assert markdown(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nested(8)", "`nested(8)`"),
        ("voc_pearson", "`voc_pearson`"),
        ("a`b|<c>", r"<code>a\`b\|&lt;c&gt;</code>"),
    ],
)
def test_code_in_markdown_cannot_be_left(text: str, expected: str) -> None:
    assert markdown_code(text) == expected
