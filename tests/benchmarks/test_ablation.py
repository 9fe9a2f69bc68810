"""The ablation of losses: its statistics, and that it runs at its smallest sizes."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.ablation import ARMS, DIFFERENCE, METRICS, over_seeds, paired_difference
from tests.library import ROOT


def test_seeds_have_a_mean_and_a_range_and_differences_an_interval_of_students_t() -> None:
    mean = over_seeds([0.5, 0.9, 0.7, None])
    assert (mean.low, mean.high, mean.count, mean.undefined) == (0.5, 0.9, 3, 1)
    assert mean.value == pytest.approx(0.7)
    # Differences 0.1, 0.2 and 0.3: standard error 0.1 / sqrt(3), of which t with 2 degrees of freedom asks 4.303.
    paired = paired_difference([(0.5, 0.6), (0.9, 1.1), (0.0, 0.3), (None, 0.4)])
    assert (paired.value, paired.count, paired.undefined) == (pytest.approx(0.2), 3, 1)
    assert paired.high - paired.value == pytest.approx(4.303 * 0.1 / math.sqrt(3), abs=1e-4)
    assert paired.value - paired.low == pytest.approx(paired.high - paired.value)
    alone = paired_difference([(0.5, 0.6)])
    assert (alone.value, alone.count) == (pytest.approx(0.1), 1)
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)
    assert math.isnan(over_seeds([None]).value)


@pytest.mark.slow
def test_the_ablation_runs_on_its_smallest_sizes_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("metaworld")
    pytest.importorskip("accelerate")
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks", ignore=shutil.ignore_patterns("results"))
    command = [sys.executable, "-m", "benchmarks.ablation", "--smoke", "--output", str(tmp_path / "runs")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    (file,) = (tmp_path / "benchmarks" / "results").glob("*.json")
    first = json.loads(file.read_text())
    assert [(run["arm"], run["seed"]) for run in first["runs"]] == [(arm, 1) for arm in ARMS]
    for judged in first["sets"]:
        assert set(judged["metrics"]) == {*ARMS, DIFFERENCE}
        assert set(METRICS) - set(judged["metrics"]["both_losses"]) <= {"wrong_task_progress"}, "there is one task"
        without, with_pairs, difference = (
            judged["metrics"][name]["voc_pearson"]["value"] for name in judged["metrics"]
        )
        assert difference == pytest.approx(with_pairs - without)
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    assert json.loads(file.read_text())["runs"] == first["runs"], "nothing is trained or judged again"
