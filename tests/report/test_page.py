from __future__ import annotations

from html.parser import HTMLParser

from robometer_rl.report.page import EpisodeCard, render_page

HOSTILE = "<script>alert('x')</script> & \"quotes\""


class Elements(HTMLParser):
    """Collects tags with their attributes, and the text; fails on tags that are not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "source", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(text: str = "plain") -> Elements:
    episodes = [
        EpisodeCard(f"{text} 1", f"{text} 2", "one.mp4", {f"{text} 3": True, "Return": f"{text} 4"}),
        EpisodeCard("two", "second", "two.mp4", {f"{text} 3": False, "Return": "-0.5"}),
    ]
    facts = {f"{text} 5": f"{text} 6"}
    return Elements(render_page(f"{text} 7", f"{text} 8", episodes, ("light.png", "dark.png"), facts, f"{text} 9"))


def test_the_page_shows_every_episode_figure_and_fact() -> None:
    shown = page()
    assert [video["src"] for video in shown.all("video")] == ["one.mp4", "two.mp4"]
    assert [image["src"] for image in shown.all("img")] == ["light.png"]
    assert [(source["srcset"], source["media"]) for source in shown.all("source")] == [
        ("dark.png", "(prefers-color-scheme: dark)")
    ]
    assert len(shown.all("tr")) == 3
    for number in range(1, 10):
        assert f"plain {number}" in shown.text
    for value in ("yes", "no", "-0.5"):
        assert value in shown.text


def test_videos_may_start_by_themselves() -> None:
    """Browsers play on their own what is silent and stays in the page."""
    assert all({"muted", "autoplay", "playsinline", "loop"} <= set(video) for video in page().all("video"))


def test_text_cannot_become_markup() -> None:
    shown = page(HOSTILE)
    assert shown.all("script") == []
    for number in range(1, 10):
        assert f"{HOSTILE} {number}" in shown.text


def test_nothing_is_fetched_from_elsewhere() -> None:
    addresses = [value for _, attributes in page().tags for value in attributes.values() if value]
    assert not any("://" in address or address.startswith("//") for address in addresses)
