"""What the documentation says still works: its commands exist, its links lead somewhere, its example runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

COMMANDS = {name for page in PAGES for name in re.findall(r"robometer-rl ([a-z]+)", page.read_text())}

# Rows of the README's table to names in the results.
MINI = {
    "VOC, Pearson r with true progress, expert episodes": "voc_pearson",
    "the same for a clock, t / T": "voc_pearson_clock",
    "the same for the model shown each frame alone": "voc_pearson_single_frame",
    "the same for the model shown the first frame over and over": "voc_pearson_still",
    "Success above failure by final progress, pairs of one task": "success_above_failure",
    "Success AUROC over frames": "success_auroc",
    "Progress gained after the robot stops half-way": "stall_rise",
}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pages
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pages
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"`make ([a-z-]+)", page.read_text()) + re.findall(r"^make ([a-z-]+)", page.read_text(), re.M)
    assert set(named) <= targets


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_commands_exist(command: str) -> None:
    program = Path(sys.executable).with_name("robometer-rl")
    done = subprocess.run([program, command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"robometer-rl {command}" in done.stdout


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 20


def test_the_numbers_of_the_embedded_model_are_the_measured_ones() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "robometer_mini.json").read_text())
    assert f"{sum(results['episodes'].values())} episodes" in README
    for label, metric in MINI.items():
        number = results["metrics"][metric]
        shown = f"{number['value']:.3f} ({number['low']:.3f} to {number['high']:.3f})"
        assert f"| {label} | {shown} |" in README


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
