"""What the documentation site has besides the folder docs/: a hook of MkDocs, see mkdocs.yml.

Pages of the repository are written to be read where they lie, with links to where things are there. Here each gets its
place on the site, files that pages link to come along, and links are turned to both. Sections of the reference that
docstrings and pages cite become links, too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from markdown.extensions.toc import slugify
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
REFERENCE: Final = DOCS / "reference.md"

PAGES: Final = {
    ROOT / "README.md": "index.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "CHANGELOG.md": "changelog.md",
    ROOT / "robometer_rl" / "assets" / "robometer-mini" / "README.md": "robometer-mini.md",
}
"""Pages outside docs/, and where they are on the site."""

_LINK: Final = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
_CITATION: Final = re.compile(r"§(\d+(?:\.\d+)?)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages outside docs/ and what all pages link to."""
    for source, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(source)))
    linked = {target for page in (*PAGES, *DOCS.rglob("*.md")) for target in _linked_files(page)}
    for target in sorted(linked - set(PAGES)):
        if DOCS not in target.parents:
            files.append(File.generated(config, _place(target), abs_src_path=str(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links in the repository into links on the site."""
    source = page.file.abs_src_path
    if source is None:
        return markdown

    def turned(match: re.Match[str]) -> str:
        target = _target(Path(source), match["target"])
        if target is None:
            return match[0]
        if target.is_dir():  # nothing to look at on a site
            return match["text"]
        here = Path(page.file.src_uri).parent
        return f"[{match['text']}]({_relative(_place(target), here)}{match['anchor'] or ''})"

    return _LINK.sub(turned, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes links of cited sections."""
    headings = re.findall(r"^#{2,3} ((\d+(?:\.\d+)?) .*)$", REFERENCE.read_text(), re.MULTILINE)
    anchors = {number: slugify(heading, "-") for heading, number in headings}
    url = get_relative_url("reference/", page.url)
    return _CITATION.sub(lambda match: f'<a href="{url}#{anchors[match[1]]}">{match[0]}</a>', html)


def _linked_files(page: Path) -> set[Path]:
    targets = (_target(page, match["target"]) for match in _LINK.finditer(page.read_text()))
    return {target for target in targets if target is not None and target.is_file()}


def _target(page: Path, link: str) -> Path | None:
    """What a link leads to in the repository; None if it leads elsewhere, or to the page itself."""
    target = (page.parent / link).resolve()
    return target if link and "://" not in link and target.exists() else None


def _place(target: Path) -> str:
    """Where a file of the repository is on the site."""
    if target in PAGES:
        return PAGES[target]
    return target.relative_to(DOCS if DOCS in target.parents else ROOT).as_posix()


def _relative(uri: str, folder: Path) -> str:
    return ("../" * len(folder.parts)) + uri
