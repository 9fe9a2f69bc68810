from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robometer_rl.data.targets import (
    CutoffError,
    TargetConfig,
    last_frame_mask,
    progress_targets,
    published_cutoffs,
    read_cutoffs,
    success_cutoff,
    success_labels,
    success_mask,
    supervises_progress,
    two_hot,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "robometer_tiny"


def _load(name):
    return json.loads((FIXTURES / name).read_text())


def test_legacy_progress_targets_equal_the_reference():
    cases = _load("progress_targets.json")
    assert len(cases) == 324
    for case in cases:
        result = progress_targets(
            case["frame_indices"],
            case["num_frames_total"],
            case["mode"],
            case["success_cutoff"],
            case["partial_success"],
            legacy=True,
        )
        np.testing.assert_allclose(result, case["progress"], atol=1e-12, err_msg=str(case))


def test_corrections_change_only_the_defects():
    for case in _load("progress_targets.json"):
        path, total, cutoff, partial = (
            case[key] for key in ("frame_indices", "num_frames_total", "success_cutoff", "partial_success")
        )
        result = progress_targets(path, total, case["mode"], cutoff, partial)
        starts_after_cutoff = cutoff and min(path) >= int(cutoff * total) - 1 and "first" in case["mode"]
        if partial != 0.4 and not starts_after_cutoff:
            np.testing.assert_allclose(result, case["progress"], atol=1e-12, err_msg=str(case))


def test_a_clip_that_starts_with_the_task_done_stays_at_one():
    assert progress_targets([28, 29, 30, 31], 32, cutoff=0.76, legacy=True).tolist() == [0, 1, 1, 1]
    assert progress_targets([28, 29, 30, 31], 32, cutoff=0.76).tolist() == [1, 1, 1, 1]


def test_partial_success_is_known_in_every_copy_of_the_last_frame_and_nowhere_else():
    assert progress_targets([3, 5, 9, 9], 10, partial_success=0.4).tolist() == [0, 0, 0.4, 0.4]
    assert last_frame_mask([3, 5, 9, 9], 10, 0.4).tolist() == [False, False, True, True]
    assert last_frame_mask([3, 5], 10, 0.4).tolist() == [False, False]
    assert last_frame_mask([3, 5], 10, 1.0).tolist() == [True, True]


@pytest.mark.parametrize("arguments", [([0, 10], 10), ([-1], 10)])
def test_frames_outside_the_recording_are_refused(arguments):
    with pytest.raises(ValueError, match="of a recording of 10 frames"):
        progress_targets(*arguments)


def test_fractions_outside_zero_to_one_are_refused():
    with pytest.raises(ValueError, match="cutoff"):
        progress_targets([0], 10, cutoff=1.5)
    with pytest.raises(ValueError, match="partial_success"):
        progress_targets([0], 10, partial_success=1.5)


def test_two_hot_equals_the_reference():
    case = _load("c51_targets.json")
    for bins in (5, 10):
        expected = np.array(case[f"bins{bins}"], np.float32)
        np.testing.assert_allclose(two_hot(case["values"], bins), expected, atol=2e-7)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(2, 40))
def test_two_hot_is_a_distribution_with_the_value_as_its_mean(values, bins):
    target = two_hot(values, bins)
    assert ((target > 0).sum(-1) <= 2).all()
    np.testing.assert_allclose(target.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(target @ np.linspace(0, 1, bins), values, atol=1e-6)


@pytest.mark.parametrize("values", [[-0.1], [1.01], [float("nan")]])
def test_two_hot_refuses_what_has_no_bin(values):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        two_hot(values, 10)


def test_success_labels_equal_the_reference():
    for case in _load("success_labels.json"):
        cutoff = success_cutoff(case["data_source"], case["table"], case["max_success"])
        labels = success_labels(case["target_progress"], case["quality_label"], cutoff)
        assert labels.tolist() == case["labels"], case


def test_success_mask_leaves_out_the_undecided_frames_of_demonstrations():
    progress = [0.0, 0.5, 0.8, 1.0]
    labels = success_labels(progress, "successful")
    assert success_mask(progress, labels, "successful").tolist() == [True, False, False, True]
    assert success_mask(progress, np.zeros(4), "Failure").tolist() == [True] * 4


def test_progress_supervision_equals_the_reference():
    for case in _load("data_helpers.json")["should_compute_progress"]:
        known = supervises_progress(
            case["quality_label"], case["strategy"], case["data_source"], case["partial_success"]
        )
        assert known == bool(case["mask"]), case
    assert not supervises_progress("successful", data_source="epic", preference_only=frozenset({"epic"}))


def _written(directory: Path, text: str) -> Path:
    path = directory / "cutoffs.csv"
    path.write_text(text)
    return path


def test_the_published_table_has_every_source_of_the_reference() -> None:
    table = published_cutoffs()
    assert len(table) == 65
    assert (table["oxe_droid"], table["agibotworld"], table["metaworld_train"]) == (0.95, 0.95, 1.0)
    assert table["oxe_nyu_rot_dataset_converted_externally_to_rlds"] == 0.7
    assert table["roboreward_berkeley_rpt_converted_externally_to_rlds"] == 0.76


def test_a_table_of_ones_own_takes_its_place(tmp_path: Path) -> None:
    path = _written(tmp_path, "data_source, fraction\n kitchen , 0.8\n\nworkshop,1\n")
    assert read_cutoffs(path) == {"kitchen": 0.8, "workshop": 1.0}
    assert TargetConfig(cutoffs=path).table() == {"kitchen": 0.8, "workshop": 1.0}
    assert TargetConfig().table() == published_cutoffs()


@pytest.mark.parametrize("row", ["kitchen", "kitchen,much", "kitchen,0", "kitchen,1.5", "kitchen,nan", "a,0.5\na,0.6"])
def test_a_bad_line_is_named(tmp_path: Path, row: str) -> None:
    path = _written(tmp_path, f"data_source,fraction\n{row}\n")
    with pytest.raises(CutoffError, match=rf"line {2 + row.count(chr(10))} of .*cutoffs\.csv"):
        read_cutoffs(path)


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(CutoffError, match="begins with 'source,share'"):
        read_cutoffs(_written(tmp_path, "source,share\nkitchen,0.8\n"))
    with pytest.raises(CutoffError, match=r"nowhere\.csv cannot be read"):
        read_cutoffs(tmp_path / "nowhere.csv")
