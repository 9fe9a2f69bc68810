"""``--legacy`` meets the recorded runs: the questions, the numbers, and the files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robometer_rl.evaluation.published.commands import (
    AlignmentConfig,
    ConfusionConfig,
    PreferenceConfig,
    PublishedConfig,
    RankingConfig,
    judge_stores,
)
from tests.evaluation.published.recorded import PixelReader, dataset, recorded

RUNS = [name for name, run in recorded()["runs"].items() if run["frames_shown"]]


def config_of(run: dict[str, Any], output: Path) -> PublishedConfig:
    """The options of ours that say what the recorded ones did."""
    said = run["custom_eval"]
    (kind,) = said["eval_types"]
    shared = {
        "model": "pixel-reader",
        "data": (Path("recorded"),),
        "max_frames": run["max_frames"],
        "legacy": True,
        "pad_frames": said.get("pad_frames", True),
        "controls": False,
        "output": output,
    }
    match kind:
        case "reward_alignment":
            prefixes = said.get("subsample_n_frames", 0) if said["use_frame_steps"] else None
            return AlignmentConfig(
                **shared, prefixes=prefixes, trajectories=said.get("reward_alignment_max_trajectories", 10)
            )
        case "policy_ranking":
            return RankingConfig(
                **shared,
                prefixes=said["use_frame_steps"],
                per_quality=said.get("num_examples_per_quality_pr", 0),
                tasks=said.get("policy_ranking_max_tasks", 20),
                graded=said.get("num_partial_successes", 5),
            )
        case "confusion_matrix":
            return ConfusionConfig(**shared)
        case _:
            return PreferenceConfig(
                **shared, per_task=said.get("comparisons_per_task", 0), pairs=said.get("max_comparisons", 100)
            )


def assert_close(found: Any, expected: Any, where: str) -> None:
    """Equal but for rounding: the reference keeps rewards of rankings in 32 bits."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_close(found[key], value, f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        if "task_groups" in where:  # the order of a set
            found, expected = (sorted(rows, key=lambda row: row["id"]) for rows in (found, expected))
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_close(one, other, f"{where}/{number}")
    elif isinstance(expected, float):
        # Sums of 32 rewards of up to 1.
        assert math.isclose(found, expected, rel_tol=2e-6, abs_tol=2e-6), f"{where}: {found} and {expected}"
    else:
        assert found == expected, where


@pytest.mark.parametrize("name", RUNS)
def test_a_recorded_run_is_met(name: str, tmp_path: Path) -> None:
    run = recorded()["runs"][name]
    (kind,) = run["custom_eval"]["eval_types"]
    sets = [entry if isinstance(entry, list) else [entry] for entry in run["custom_eval"][kind]]
    model = PixelReader()
    judge_stores(config_of(run, tmp_path), model, [dataset(*names) for names in sets])

    if kind == "quality_preference":
        # Both orders are asked; the reference asks with the better one first.
        assert {tuple(shown) for shown in model.shown} == {tuple(shown) for shown in run["frames_shown"]}
    else:
        # What was shown before is not asked again.
        first = list(dict.fromkeys(map(tuple, run["frames_shown"])))
        assert list(dict.fromkeys(map(tuple, model.shown))) == first
    for path, expected in run["files"].items():
        if path.endswith(".gif"):
            continue  # animations are not made
        assert (tmp_path / path).exists(), path
        if path.endswith(".json"):
            assert_close(json.loads((tmp_path / path).read_text()), expected, path)
        if path.endswith(".npy"):
            matrix = np.load(tmp_path / path)
            assert list(matrix.shape) == expected["shape"]
            np.testing.assert_allclose(np.sort(matrix.ravel()), expected["sorted_values"], atol=1e-6)
            labelled = json.loads((tmp_path / path.replace(".npy", ".json")).read_text())
            assert len(labelled["tasks"]) == len(matrix)
    if (returned := run["returned"].get("out")) is not None:
        everything = json.loads((tmp_path / "all_metrics.json").read_text())
        assert_close(everything, returned, "all_metrics.json")


def test_what_crashes_the_reference_is_measured(tmp_path: Path) -> None:
    """Preference ends in an AttributeError there, ranking of graded sets without a number in a TypeError."""
    run = recorded()["runs"]["quality_preference"]
    assert run["returned"]["error"] == "AttributeError"
    judged = judge_stores(config_of(run, tmp_path), PixelReader(), [dataset("lab_one")])
    assert judged[0].rows[0].legacy["preference_accuracy"] == 1.0
    run = recorded()["runs"]["ranking_partial_success_without_number"]
    judged = judge_stores(config_of(run, tmp_path), PixelReader(), [dataset("roboarena_small")])
    assert 0.0 <= judged[0].rows[0].legacy["ranking_acc_rba_last"] <= 1.0
