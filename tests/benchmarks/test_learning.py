"""The benchmarks of learning and of cost run at their smallest sizes, and go on where they were stopped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests" / "fixtures" / "robometer_tiny" / "checkpoint"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the programs, so that the committed results stay."""
    pytest.importorskip("metaworld")
    for folder in ("benchmarks", "examples"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("results"))
    return tmp_path


def run(clone: Path, module: str, *arguments: str, succeeds: bool = True) -> str:
    """Runs a benchmark in the clone; returns what it prints, or its error."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=clone, env=variables, capture_output=True, text=True)
    assert (done.returncode == 0) == succeeds, done.stderr
    return done.stdout if succeeds else done.stderr


def result(clone: Path, name: str) -> dict[str, Any]:
    found = json.loads((clone / "benchmarks" / "results" / f"{name}.json").read_text())
    assert found["origin"]["command"].startswith("python -m benchmarks.")
    return found


@pytest.mark.slow
def test_overhead_compares_what_is_drawn_and_what_is_paid(clone: Path) -> None:
    words = ["--environments", "1", "2", "--every", "1", "5", "--steps", "5", "--rounds", "1", "--size", "64"]
    run(clone, "wrapper_overhead", *words, "--model", str(CHECKPOINT))
    found = result(clone, "wrapper_overhead")["environments"]
    assert set(found) == {"1", "2"}
    for numbers in (each for by_interval in found.values() for each in by_interval.values()):
        assert all(numbers[f"{kind}_steps_per_second"] > 0 for kind in ("bare", "rendered", "paid"))


@pytest.mark.slow
def test_metaworld_runs_every_arm_once(clone: Path) -> None:
    words = ["--tasks", "drawer-close", "--arms", "robometer", "sparse", "--seeds", "0", "--model", str(CHECKPOINT)]
    words += ["--settings.decisions", "40", "--settings.evaluate-every", "20", "--settings.max-decisions", "5"]
    words += ["--settings.evaluation-episodes", "1", "2", "--settings.envs", "2", "--workers", "1"]
    shown = run(clone, "metaworld_rl", *words)
    assert "drawer-close" in shown
    found = result(clone, "metaworld_rl")["tasks"]["drawer-close"]
    assert found["robometer"]["0"]["decisions"] == [20, 40]
    assert 0 < found["robometer"]["0"]["scoring_share"] < 1
    assert found["sparse"]["0"]["scoring_share"] == 0
    assert found["sparse"]["0"]["command"].startswith(
        "python examples/sb3_metaworld.py --task drawer-close --arm sparse"
    )
    assert Image.open(clone / "benchmarks" / "results" / "metaworld_rl.png").width > 400
    # A finished run is kept, one that was stopped goes on.
    runs = clone / "outputs" / "metaworld_rl"
    finished = (runs / "drawer-close-sparse-0" / "result.json").stat().st_mtime_ns
    shutil.rmtree(runs / "drawer-close-robometer-0")
    run(clone, "metaworld_rl", *words)
    assert (runs / "drawer-close-sparse-0" / "result.json").stat().st_mtime_ns == finished
    assert (runs / "drawer-close-robometer-0" / "result.json").exists()


@pytest.mark.slow
def test_the_protocol_runs_all_arms_and_goes_on_in_a_fresh_clone(clone: Path) -> None:
    words = ["--tasks", "drawer-close", "--seeds", "0", "--more-seeds", "1", "--libero", "--model", str(CHECKPOINT)]
    words += ["--decisions", "16", "--episodes", "1", "1", "--workers", "1", "--name", "evidence_smoke"]
    shown = run(clone, "evidence", *words)
    assert "All 7 runs of the protocol are finished." in shown
    found = result(clone, "evidence_smoke")
    by_arm = {entry["arm"]: entry for entry in found["runs"]}
    assert len(found["runs"]) == len(by_arm) == 7
    assert all(entry["decisions"] == [4, 8, 12, 16] for entry in by_arm.values())
    assert all(len(entry[name]) == 4 for entry in by_arm.values() for name in ("noisy_success", "value", "worth"))
    for name in ("evidence_smoke", "evidence_smoke_arms"):
        assert Image.open(clone / "benchmarks" / "results" / f"{name}.png").width > 400
    shutil.rmtree(clone / "outputs")
    assert run(clone, "evidence", *words) == shown
    assert not (clone / "outputs").exists()
    assert result(clone, "evidence_smoke")["runs"] == found["runs"]


@pytest.mark.slow
def test_changes_are_tried_one_at_a_time(clone: Path) -> None:
    pytest.importorskip("sb3_contrib")
    words = ["--changes", "layer norm", "dropout", "CrossQ", "falling rate", "clipped reward", "--seeds", "0"]
    words += [
        "--task",
        "drawer-close",
        "--decisions",
        "40",
        "--evaluate-every",
        "20",
        "--evaluation-episodes",
        "1",
        "2",
    ]
    shown = run(clone, "collapse", *words, "--model", str(CHECKPOINT), "--name", "collapse_smoke")
    assert "| layer norm |" in shown
    assert len(result(clone, "collapse_smoke")["runs"]) == 5
    assert Image.open(clone / "benchmarks" / "results" / "collapse_smoke.png").width > 400


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_are_kept(clone: Path) -> None:
    words = ["--tasks", "drawer-close", "no-such-task", "--policies", "2", "--episodes", "1", "--size", "64"]
    words += ["--model", str(CHECKPOINT), "--workers", "1"]
    error = run(clone, "policy_ranking", *words, succeeds=False)
    assert "1 of 2 runs are not finished" in error
    assert "--task no-such-task" in error
    words.remove("no-such-task")
    run(clone, "policy_ranking", *words)
    found = result(clone, "policy_ranking")["tasks"]["drawer-close"]
    assert {policy["success_rate"] for policy in found["policies"]} == {0.0, 1.0}
    assert Image.open(clone / "benchmarks" / "results" / "policy_ranking.png").width > 400


@pytest.mark.slow
def test_all_of_libero_runs_with_one_command(clone: Path) -> None:
    pytest.importorskip("libero")
    words = ["--smoke", "--workers", "1", "--model", str(CHECKPOINT)]
    run(clone, "libero.everything", *words)
    quality = result(clone, "libero_reward_quality_smoke")["suites"]["libero_90"]
    assert quality["metrics"]["voc_pearson"]["count"] == 1
    assert set(result(clone, "libero_policy_ranking_smoke")["tasks"]) == {"libero_90-28"}
    learning = result(clone, "libero_online_rl_smoke")
    assert {arm: runs["0"]["steps"] for arm, runs in learning["arms"].items()} == {
        "robometer_sparse": [40, 80],
        "sparse": [40, 80],
    }
    assert learning["published"]["steps"][0] == 20_000
    again = run(clone, "libero.everything", *words)
    assert "true success on unseen initial states" in again
