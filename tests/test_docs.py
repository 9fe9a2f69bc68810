"""What the code and the documentation refer to is there, and what the documentation shows runs."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from robometer_rl.models.robometer.prompts import preference_prompt, progress_prompt
from tests.library import LIBRARY, ROOT

REFERENCE = (ROOT / "docs" / "reference.md").read_text()
SECTIONS = re.findall(r"^#{2,3} (\d+(?:\.\d+)?) ", REFERENCE, re.MULTILINE)

PYTHON = sorted({*LIBRARY.values(), *(path for folder in ("tests", "tools") for path in (ROOT / folder).rglob("*.py"))})
PROSE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_cited_sections_exist() -> None:
    cited = {named(path): set(re.findall(r"§(\d+(?:\.\d+)?)", path.read_text())) for path in [*PYTHON, *PROSE]}
    assert {path: sorted(missing) for path, sections in cited.items() if (missing := sections - set(SECTIONS))} == {}


def test_code_cites_sections_with_the_page_that_they_are_on() -> None:
    """A bare number is of a text that the reader does not have."""
    loose = re.compile(r"(?<!docs/reference\.md )(?<!, )§\d|\bsections? \d", re.IGNORECASE)
    found = {named(path): loose.findall(path.read_text()) for path in PYTHON if path != Path(__file__)}
    assert {path: citations for path, citations in found.items() if citations} == {}
    assert sum("docs/reference.md §" in path.read_text() for path in LIBRARY.values()) >= 15


def test_sections_of_the_reference_are_numbered_in_order() -> None:
    numbers = [tuple(map(int, section.split("."))) for section in SECTIONS]
    assert numbers == sorted(set(numbers))


def test_the_reference_has_the_prompts_that_the_model_is_asked_with() -> None:
    pair = preference_prompt("{TASK}", with_progress=False)
    texts = [progress_prompt("{TASK}"), pair, preference_prompt("{TASK}", with_progress=True).removeprefix(pair)]
    stated = re.findall(r"\| (\d+) \| `([0-9a-f]{64})` \|", REFERENCE)
    assert stated == [(str(len(text)), hashlib.sha256(text.encode()).hexdigest()) for text in texts]
