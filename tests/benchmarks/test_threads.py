"""The benchmark of threads runs; what it measures is not judged here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests" / "fixtures" / "robometer_tiny" / "checkpoint"
SMALL = ["--model", str(CHECKPOINT), "--environments", "2", "--size", "64", "--seconds", "0", "--episode-steps", "30"]


def run(folder: Path, *words: str) -> str:
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", ignore=shutil.ignore_patterns("results"))
    command = [sys.executable, "-m", "benchmarks.threads", *SMALL, *words]
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_a_probe_times_appends_and_an_episode(tmp_path: Path) -> None:
    found = json.loads(run(tmp_path, "--probe", "1").splitlines()[-1])
    assert set(found) == {"load", "append_2", "episode"}
    assert found["episode"]["p99_ms"] >= found["episode"]["p50_ms"] > 0


@pytest.mark.slow
def test_every_number_of_threads_is_compared(tmp_path: Path) -> None:
    run(tmp_path, "--threads", "1", "--waits", "asleep", "spinning", "--beside", "0", "1")
    found = json.loads((tmp_path / "benchmarks" / "results" / "threads.json").read_text())
    counts = {"1", "own", str(len(os.sched_getaffinity(0)))}
    assert [set(found[beside][wait]) for beside in ("beside_0", "beside_1") for wait in ("asleep", "spinning")] == (
        [counts] * 4
    )
