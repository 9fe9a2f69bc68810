"""What the documentation says still works: its commands exist, its links lead somewhere, its example runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from robometer_rl.data.store import TrajectoryStore
from robometer_rl.evaluation.benchmark.definitions import benchmark
from tools import fill_tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

COMMANDS = {name for page in PAGES for name in re.findall(r"robometer-rl ([a-z]+)", page.read_text())}

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


def test_the_examples_of_the_readme_run(tmp_path: Path) -> None:
    recording, paying = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", recording], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (episode,) = TrajectoryStore.open(tmp_path / "stores" / "mine")
    assert episode.task == "kick the ball into the goal"
    assert episode.success is not None
    assert not episode.success.any()
    done = subprocess.run([sys.executable, "-c", paying], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 20


@pytest.mark.parametrize("page", fill_tables.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_numbers_of_tables_are_the_measured_ones(page: Path) -> None:
    assert fill_tables.filled(page.read_text()) == page.read_text(), "run tools/fill_tables.py"


def test_tables_are_filled_by_column_and_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimate = {"value": 0.5, "low": 0.25, "high": 0.75}
    metrics = {"voc_spearman": estimate, "final_progress_hover": {"value": None}}
    conditions = {"jitter": {"voc_spearman": {**estimate, "value": 0.625}, "final_progress_hover": estimate}}
    (tmp_path / "one.json").write_text(json.dumps({"metrics": metrics, "conditions": conditions}))
    monkeypatch.setattr(fill_tables, "RESULTS", tmp_path)
    comment, head = "<!-- numbers: one, -, one/jitter -->\n", "| | a | aim | b |\n|---|---|---|---|\n"
    rows = ["| VOC, Spearman with time until success | 7 | >= 1 | |\n", "| Final progress, hover | | | |\n"]
    page = f"# Page\n\n{comment}{head}{''.join(rows)}\nText, 0.5.\n"
    assert fill_tables.filled(page) == (
        f"# Page\n\n{comment}{head}"
        "| VOC, Spearman with time until success | 0.500 (0.250 to 0.750) | >= 1 | 0.625 (0.250 to 0.750) |\n"
        "| Final progress, hover | undefined |  | 0.500 (0.250 to 0.750) |\n\nText, 0.5.\n"
    )
    preference = {"rows": [{"name": "mini", "corrected": {"preference_accuracy_mean": estimate}}]}
    judged = {"set": "here", "metrics": {"mini": metrics, "clock": {}}, "evaluations": {"preference": preference}}
    (tmp_path / "many.json").write_text(json.dumps({"sets": [judged]}))
    label = "Preference accuracy, mean of both orders"
    assert f"| {label} | 0.500 (0.250 to 0.750) |\n" in fill_tables.filled(
        f"<!-- numbers: many/here/mini -->\n| | |\n|---|---|\n| {label} | |\n"
    )
    assert "| VOC, Spearman with time until success |  |" in fill_tables.filled(
        f"<!-- numbers: many/here/clock -->\n| | |\n|---|---|\n{rows[0].replace('| 7 | >= 1 | |', '| |')}\n"
    ), "a clock is not asked everything"
    assert "| VOC, Spearman with time until success | 0.500 (0.250 to 0.750) |" in fill_tables.filled(
        f"<!-- numbers: many/here/mini -->\n| | |\n|---|---|\n{rows[0].replace('| 7 | >= 1 | |', '| |')}\n"
    )
    with pytest.raises(KeyError, match="Success AUROC"):
        fill_tables.filled(f"{comment}{head}| Success AUROC | | | |\n")
    with pytest.raises(ValueError, match="1 comments ask for numbers, 0 of them before a table"):
        fill_tables.filled(f"{comment}Text.\n")


def test_the_page_of_the_benchmark_is_that_of_its_results() -> None:
    results = json.loads((fill_tables.RESULTS / "benchmark_metaworld.json").read_text())
    page = (ROOT / "docs" / "benchmark_metaworld.md").read_text()
    assert results["limit"] is None
    assert results["manifest"]["frozen"]
    assert results["manifest"]["sha256"] == benchmark("metaworld").manifest, "what is asked has changed: run it again"
    assert "<!-- numbers: ablation/metaworld/progress_only" in page, "the ablation belongs to the page, too"
    for judged in results["sets"]:
        assert f"## {judged['set']}: " in page
        shown = [metrics["success_above_failure"] for metrics in judged["metrics"].values()]
        shown += [row["corrected"]["ranking_accuracy"] for row in judged["evaluations"]["ranking"]["rows"]]
        for each in shown:
            assert f"{each['value']:.3f} ({each['low']:.3f} to {each['high']:.3f})" in page


def test_the_episodes_behind_the_numbers_are_counted() -> None:
    results = json.loads((fill_tables.RESULTS / "robometer_mini.json").read_text())
    card = fill_tables.CARD.read_text()
    assert f"{sum(results['episodes'].values())} episodes" in card
    assert "<!-- numbers: robometer_mini" in card


def test_the_quality_table_of_the_readme_is_that_of_the_benchmark_and_says_who_is_ahead() -> None:
    (columns,) = re.findall(r"<!-- numbers: (.*) -->", README)
    assert {column.split("/")[0] for column in columns.split(", ")} == {"benchmark_metaworld"}
    results = json.loads((fill_tables.RESULTS / "benchmark_metaworld.json").read_text())
    shown, held_out = results["sets"]
    assert f"{sum(shown['episodes'].values())} episodes of eight of" in README
    assert f"{sum(held_out['episodes'].values())} of three tasks" in README
    assert (shown["tasks"], held_out["tasks"]) == (8, 3)
    voc = {name: shown["metrics"][name]["voc_pearson"]["value"] for name in ("robometer-mini", "clock")}
    assert ("a clock is ahead of the model" in README) == (voc["clock"] > voc["robometer-mini"])
    assert shown["verdicts"]["robometer-mini"]["light"] == "red"


def test_ci_runs_all_checks_and_with_them_the_test_command_of_the_readme() -> None:
    command = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    assert command.startswith("exec make check")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    (checks,) = re.findall(r"^check: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"lint", "test"} <= set(checks.split())
    assert "make test " in README
