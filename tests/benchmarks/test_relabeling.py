"""The benchmark of relabelling runs on recordings of seconds; how fast anything is is not judged here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests" / "fixtures" / "robometer_tiny" / "checkpoint"
SIDE = 64
LENGTHS = (9, 12, 4)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A store as `robometer-rl collect` makes it."""
    store = TrajectoryStore(tmp_path / "recordings")
    rng = np.random.default_rng(0)
    for number, length in enumerate(LENGTHS):
        frames = rng.integers(0, 256, (length, SIDE, SIDE, 3), np.uint8)
        done = np.arange(length) > length - 3
        store.append(Trajectory(f"run-{number}", "open the drawer", frames, "successful", "made-up", success=done))
    return store.path


@pytest.mark.slow
def test_relabelling_is_compared_with_a_loop(tmp_path: Path, recordings: Path) -> None:
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks", ignore=shutil.ignore_patterns("results"))
    words = ["--model", str(CHECKPOINT), "--recordings", str(recordings), "--work", str(tmp_path / "work")]
    words += ["--side", str(SIDE), "--rounds", "2", "--loop-episodes", "1", "--ray-workers", "0"]
    words += ["--memory-steps", "5", "--memory-labels", "20"]
    command = [sys.executable, "-m", "benchmarks.relabeling", *words]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "benchmarks" / "results" / "relabeling.json").read_text())
    assert found["dataset"]["episodes"] == len(LENGTHS)
    assert found["dataset"]["labels"] == sum(LENGTHS)
    assert set(found["methods"]) == {"naive", "single", "uniform", "nested", "decoding"}
    assert all(len(numbers["labels_per_second_by_round"]) == 2 for numbers in found["methods"].values())
    nested = found["methods"]["nested"]
    ratio = nested["times_naive"]
    assert ratio["low"] <= ratio["value"] <= ratio["high"]
    assert nested["decoding_share"] > 0
    # The loops ask what uniform frames ask.
    assert found["loops_and_uniform_apart"] < 1e-4
    assert found["memory"]["5"]["peak_mb"] >= found["memory"]["5"]["loaded_mb"] > 50
    assert found["origin"]["command"].startswith("python -m benchmarks.relabeling")
    made = sorted(path.name.partition("-")[0] for path in (tmp_path / "work").iterdir())
    assert made == ["recorded", "resampled"]
