"""The benchmarks run, on sizes that take seconds; what they measure is not judged here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(tmp_path: Path, name: str, *arguments: str) -> dict:
    """Runs a copy of the benchmarks, so that the committed results stay."""
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks", ignore=shutil.ignore_patterns("results"))
    fixtures = tmp_path / "tests" / "fixtures"
    fixtures.parent.mkdir()
    fixtures.symlink_to(ROOT / "tests" / "fixtures")
    command = [sys.executable, str(tmp_path / "benchmarks" / f"{name}.py"), *arguments]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    (result,) = (tmp_path / "benchmarks" / "results").glob("*.json")
    return json.loads(result.read_text())


def test_gpu_inference_runs_on_a_small_shape(tmp_path: Path) -> None:
    arguments = [
        "--shape",
        "small",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--side",
        "64",
        "--steps",
        "12",
        "--environments",
        "2",
    ]
    result = run(tmp_path, "gpu_inference", *arguments)
    assert result["streams"]["2"]["frames_per_second"] > 0
    assert result["origin"]["packages"]["torch"]


@pytest.mark.slow
def test_inference_compares_every_method(tmp_path: Path) -> None:
    arguments = [
        "--models",
        "fixture",
        "--lengths",
        "20",
        "--environments",
        "2",
        "--rounds",
        "1",
        "--reference-steps",
        "2",
        "--memory",
        "fixture",
    ]
    result = run(tmp_path, "inference", *arguments)["models"]["fixture"]
    assert set(result["episodes"]["20"]) == {"reference", "single", "batched", "uniform", "nested", "one-pass"}
    assert result["nested_peak_memory_mb"]["10000"] > 0


@pytest.mark.slow
def test_training_is_compared_with_a_straight_loop(tmp_path: Path) -> None:
    arguments = ["--shape", "tiny", "--steps", "2", "--warmup", "1", "--batch-size", "4", "--rounds", "1"]
    result = run(tmp_path, "training", *arguments, "--episodes", "1", "--clips", "3")
    (numbers,) = result["rounds"]
    assert result["ratio"] == numbers["library"]["samples_per_second"] / numbers["straight"]["samples_per_second"]
    assert all(numbers[method]["peak_mb"] > 0 for method in ("library", "straight"))
    assert set(result["loading"]) == {"png", "video", "npz"}
