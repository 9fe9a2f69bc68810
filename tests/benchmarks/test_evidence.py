"""The protocol is the one that was written down, its statistics are rliable's, and finished runs survive."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import collapse
from benchmarks import runs as runs_module
from benchmarks.collapse import CHANGES, largest_fall
from benchmarks.evidence import ARMS, MORE_ARMS, TASKS, Args, measured, plan
from benchmarks.evidence_report import Measured, arms_picture, difference, interquartile_mean, picture, tables
from benchmarks.recording import DOCS, RESULTS, with_tables
from benchmarks.runs import ROOT, Run, kept, merged, recalled, run_all

CARD = ROOT / "robometer_rl" / "assets" / "robometer-mini" / "README.md"


def test_the_tasks_are_every_fifth_that_the_model_was_trained_on() -> None:
    listed = re.search(r"33 tasks: ([^.]*)\.", CARD.read_text())
    assert listed is not None
    trained = sorted(name.strip() for name in listed[1].replace("\n", " ").split(","))
    assert len(trained) == 33
    assert tuple(trained[4::5]) == TASKS


def test_the_plan_is_by_seed_and_says_every_setting() -> None:
    planned = plan(Args(name="no such result"))
    assert len(planned) == 6 * 2 * 5 + 2 * 5 * 3 + 2 * 2 * 3
    first_seed = [cell for cell in planned if cell.simulator == "metaworld" and cell.seed == 11]
    assert list(planned)[: len(first_seed)] == first_seed
    assert {cell.task for cell in planned if cell.arm in MORE_ARMS} == {TASKS[0], TASKS[-1]}
    assert len({run.shown for run in planned.values()}) == len(planned)
    assert len({run.result for run in planned.values()}) == len(planned)
    for run in planned.values():
        assert {"--steady.schedule", "--steady.critics", "--learning-rate", "--gamma"} < set(run.command)


def test_interquartile_mean_and_interval_are_those_of_rliable() -> None:
    """Recorded with rliable 1.2.0: aggregate_iqm, 20,000 stratified resamples, percentiles."""
    scores = np.array([[1, 0, 0.82, 0.3], [0.9, 0.1, 0.5, 0.2], [1, 0.04, 0.78, 0.9], [0.98, 0, 0.1, 0.44]])
    estimate = interquartile_mean(list(scores.T))
    assert estimate.value == pytest.approx(0.505)
    assert (estimate.low, estimate.high) == pytest.approx((0.3125, 0.7), abs=0.01)
    assert estimate.count == 16


def test_a_difference_of_equal_runs_is_nothing() -> None:
    estimate = difference([0.4, 0.4], [0.1, 0.1])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.3, 0.3, 0.3))


def result(*success: float) -> dict[str, Any]:
    """As examples/sb3_metaworld.py writes it."""
    return {
        "decisions": [1000 * (place + 1) for place in range(len(success))], "success": list(success),
        "seconds": 240.0, "scoring_seconds": 24.0, "finished": True,
    }  # fmt: skip


def test_tables_compare_the_same_seeds_and_name_what_is_missing() -> None:
    planned = [("metaworld", task, arm, seed) for seed in (1, 2) for task in ("push", "reach") for arm in ARMS]
    found = [
        Measured("metaworld", "push", "mini + sparse", 1, result(0.5, 1.0)),
        Measured("metaworld", "push", "mini + sparse", 2, result(1.0, 0.6)),
        Measured("metaworld", "push", "sparse", 1, result(0.0, 0.2)),
    ]
    text = tables(found, planned)
    assert "3 of the protocol's 8 runs" in text
    assert "- Meta-World, sparse: reach 1, push 2, reach 2" in text
    assert "| push | 80% (100%, 60%) | 20% (20%) | +80 (+80 to +80) | 0.80 | 1.00 |" in text
    assert "| **IQM, 1 runs of each** | **100% (100% to 100%)** | **20% (20% to 20%)** |  | 0.80 | 1.00 |" in text
    assert "| Meta-World, mini + sparse | 4 | 10% |" in text
    assert "LIBERO" not in text
    assert picture(found, "mini").width > 400
    assert arms_picture(found, "mini") is None
    drawn = arms_picture([*found, Measured("metaworld", "push", "dense", 1, result(0.2, 0.9))], "mini")
    assert drawn is not None
    assert drawn.width > 400


def test_the_pages_have_the_tables_of_the_committed_results() -> None:
    planned = plan(Args())
    found = measured({cell: run for cell, run in planned.items() if run.known is not None})
    if found:
        text = tables(found, [(cell.simulator, cell.task, cell.arm, cell.seed) for cell in planned])
        page = (DOCS / "results.md").read_text()
        assert with_tables(page, "evidence", text) == page, "run python -m benchmarks.evidence --report"
        assert Image.open(RESULTS / "evidence.png").width > 400
    study = {key: run for key, run in collapse.plan(collapse.Args()).items() if run.known is not None}
    if study:
        page = (DOCS / "reward_design.md").read_text()
        text = f"{collapse.table(study)}\n{collapse.earlier()}"
        assert with_tables(page, "collapse", text) == page, "run python -m benchmarks.collapse --report"
        assert Image.open(RESULTS / "collapse.png").width > 400


def test_a_page_without_a_place_for_tables_is_refused() -> None:
    page = "a\n<!-- evidence: written by python -m benchmarks.evidence --report -->\nold\n<!-- /evidence -->\nb\n"
    filled = with_tables(page, "evidence", "new\n")
    assert filled == page.replace("old\n", "\nnew\n\n")
    assert with_tables(filled, "evidence", "new\n") == filled
    for broken in ("a\n", page + page, page.replace("<!-- /evidence -->\n", "")):
        with pytest.raises(ValueError, match="once each"):
            with_tables(broken, "evidence", "new\n")


def test_a_finished_run_of_the_committed_result_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "RESULTS", tmp_path)
    monkeypatch.setattr(runs_module, "ROOT", tmp_path)
    program = (
        "import json, pathlib; pathlib.Path('{0}').write_text(json.dumps({{'finished': True, 'arguments': 1, 'n': 5}}))"
    )
    here = Run("a", ("-c", program.format("a.json")), Path("a.json"))
    run_all([here], workers=1)
    entries = kept([here])
    assert {key: entries[0][key] for key in ("name", "command", "n")} == {"name": "a", "command": here.shown, "n": 5}
    assert "arguments" not in entries[0]
    (tmp_path / "some.json").write_text(json.dumps({"runs": entries}))
    (tmp_path / "a.json").unlink()
    changed = Run("a", (*here.command, "another option"), Path("a.json"))
    again, other = recalled([here, changed], "some")
    assert (again.finished, other.finished) == (True, False)
    run_all([again], workers=1)
    assert not (tmp_path / "a.json").exists()
    assert kept([again, other]) == entries
    assert merged([{"command": "b"}], "some") == [{"command": "b"}, *entries]
    assert merged(entries, "some") == entries


def test_a_fall_is_measured_from_the_best_before() -> None:
    assert largest_fall([0.5, 0.85, 0.85, 0.48]) == pytest.approx(0.37)
    assert largest_fall([0.0, 0.5, 1.0]) == 0.0


def test_changes_are_single_ones() -> None:
    assert CHANGES["as before"] == {}
    assert all(len(changed) == name.count(",") + 1 for name, changed in CHANGES.items() if changed)


def test_earlier_agents_are_counted_after_they_have_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {"push": {"robometer_sparse": {"1": result(0.2, 0.5, 0.4, 0.1)}, "sparse": {"1": result(0.0, 0.0, 0.3)}}}
    (tmp_path / "metaworld_rl.json").write_text(
        json.dumps({"settings": {"mode": "delta", "scale": 2.0}, "tasks": tasks})
    )
    monkeypatch.setattr(collapse, "RESULTS", tmp_path)
    assert collapse.earlier().splitlines()[2:] == ["| robometer_sparse, delta x 2 | 1 | 2 | 1 |"]


def test_what_the_model_paid_is_what_was_paid_beside_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapse, "ROOT", tmp_path)
    outcomes = [(5.5, 5.0, True), (6.1, 6.0, True), (-0.2, 0.0, False)]
    lines = [
        json.dumps({"learned_return": learned, "true_return": true, "true_success": success})
        for learned, true, success in outcomes
    ]
    (tmp_path / "honesty.jsonl").write_text("\n".join(lines))
    found = collapse.paid(Run("a", (), Path("result.json")))
    assert found == pytest.approx({"paid_successes": 0.3, "paid_failures": -0.2})
    assert collapse.paid(Run("a", (), Path("elsewhere/result.json"))) == {"paid_successes": None, "paid_failures": None}
