from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robometer_rl.data.targets import two_hot
from robometer_rl.frames import scored_steps
from robometer_rl.prediction import NonFiniteOutputError, Prediction, StepPrediction, progress_uncertainty


def make(count: int = 4, bins: int = 3, **changes: Any) -> Prediction:
    rng = np.random.default_rng(count)
    values = {
        "progress": rng.random(count, np.float32),
        "success": rng.random(count, np.float32),
        "progress_distribution": rng.random((count, bins), np.float32),
    }
    return Prediction(**{**values, "protocol": "nested(8)", "model_id": "some/model", **changes})


@pytest.mark.parametrize("revision", [None, "abc123"])
@pytest.mark.parametrize("bins", [0, 10])
def test_a_prediction_is_the_same_after_saving_and_loading(tmp_path: Path, revision: str | None, bins: int) -> None:
    saved = make(bins=bins, revision=revision, every=5, dtype="bfloat16")
    saved.save(tmp_path / "episode.npz")
    loaded = Prediction.load(tmp_path / "episode.npz")
    for name in ("progress", "success", "progress_distribution"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
        assert getattr(loaded, name).dtype == np.float32
    origin = ("protocol", "model_id", "every", "revision", "dtype", "schema_version")
    assert {name: getattr(loaded, name) for name in origin} == {name: getattr(saved, name) for name in origin}


def test_another_schema_is_refused(tmp_path: Path) -> None:
    replace(make(), schema_version=99).save(tmp_path / "episode.npz")
    with pytest.raises(ValueError, match="schema 99; this release reads 1"):
        Prediction.load(tmp_path / "episode.npz")


@pytest.mark.parametrize(
    "changes",
    [
        {"success": np.zeros(3, np.float32)},
        {"progress": np.zeros((4, 1), np.float32)},
        {"progress_distribution": np.zeros((3, 10), np.float32)},
        {"progress_distribution": np.zeros(4, np.float32)},
    ],
)
def test_one_value_per_scored_frame(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="scored frame"):
        make(**changes)


@given(st.integers(1, 80), st.integers(1, 12))
def test_the_last_value_is_held_between_scored_frames(num_frames: int, every: int) -> None:
    steps = scored_steps(num_frames, every)
    sparse = make(len(steps), every=every)
    held = sparse.hold(num_frames)
    assert len(held) == num_frames
    assert held.every == 1
    for t in range(num_frames):
        source = max(number for number, step in enumerate(steps) if step <= t)
        assert held.progress[t] == sparse.progress[source]
        assert held.success[t] == sparse.success[source]
        np.testing.assert_array_equal(held.progress_distribution[t], sparse.progress_distribution[source])


def test_values_of_another_episode_cannot_be_held() -> None:
    with pytest.raises(ValueError, match="an episode of 30 frames, which has 7 scored frames"):
        make(4, every=5).hold(30)


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        ([1, 0, 0, 0, 0], 0.0),
        ([0, 0, 0, 0, 1], 0.0),
        ([0.5, 0, 0, 0, 0.5], 0.5),
        ([0, 0.5, 0.5, 0, 0], 0.125),
        ([0.2, 0.2, 0.2, 0.2, 0.2], np.std(np.linspace(0, 1, 5))),
        ([0, 2, 0, 2, 0], 0.25),
    ],
)
def test_uncertainty_is_the_standard_deviation_over_the_bins(distribution: list[float], expected: float) -> None:
    assert progress_uncertainty(distribution) == pytest.approx(expected, abs=1e-7)
    np.testing.assert_allclose(progress_uncertainty([[distribution] * 2] * 3), np.full((3, 2), expected), atol=1e-7)


@given(st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=12).filter(any), min_size=1, max_size=1))
def test_uncertainty_lies_between_none_and_a_half_whichever_way_progress_is_counted(masses: list[list[int]]) -> None:
    (found,) = progress_uncertainty(masses)
    assert 0.0 <= found <= 0.5
    np.testing.assert_allclose(progress_uncertainty(np.array(masses)[:, ::-1]), [found], atol=1e-7)
    assert (found == 0.0) == (np.count_nonzero(masses[0]) == 1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(2, 20))
def test_a_target_of_training_is_sure_to_half_the_distance_of_two_bins(values: list[float], bins: int) -> None:
    assert (progress_uncertainty(two_hot(np.array(values), bins)) <= 0.5 / (bins - 1) + 1e-6).all()


@pytest.mark.parametrize("distribution", [[], [1.0], np.zeros((3, 0)), 0.5])
def test_uncertainty_of_no_distribution_is_refused(distribution: Any) -> None:
    with pytest.raises(ValueError, match="at least two bins"):
        progress_uncertainty(distribution)
    with pytest.raises(ValueError, match="without any mass"):
        progress_uncertainty(np.zeros((2, 10)))


@pytest.mark.parametrize("bins", [0, 1])
def test_without_a_distribution_there_is_no_uncertainty(bins: int) -> None:
    said = make(bins=bins)
    assert said.uncertainty is None
    assert StepPrediction(said.progress, said.success, said.progress_distribution).uncertainty is None


def test_uncertainty_is_that_of_each_frame() -> None:
    said = make(4, bins=10, every=3)
    step = StepPrediction(said.progress, None, said.progress_distribution)
    for found in (said.uncertainty, step.uncertainty):
        np.testing.assert_array_equal(found, progress_uncertainty(said.progress_distribution))
    assert said.uncertainty is not None
    assert said.uncertainty.dtype == np.float32
    np.testing.assert_array_equal(said.hold(10).uncertainty, np.repeat(said.uncertainty, [3, 3, 3, 1]))


def test_lengths() -> None:
    assert len(make(5)) == 5
    assert len(StepPrediction(np.zeros(2, np.float32), np.zeros(2, np.float32), np.zeros((2, 3), np.float32))) == 2


NO_NUMBERS = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("field", ["progress", "success", "progress_distribution"])
def test_what_is_no_number_raises_and_names_the_frames(field: str, value: float) -> None:
    values = getattr(make(12), field).copy()
    values[3] = values[7] = value
    with pytest.raises(NonFiniteOutputError, match=f"some/model gave {field} that is not finite for frame 3; frame 7$"):
        make(12, **{field: values})
    said = {name: getattr(make(12), name) for name in ("progress", "success", "progress_distribution")} | {
        field: values
    }
    with pytest.raises(
        NonFiniteOutputError, match=f"the model gave {field} that is not finite for history 3; history 7"
    ):
        StepPrediction(**said, names=[f"history {number}" for number in range(12)])


def test_an_error_does_not_name_hundreds_of_frames() -> None:
    with pytest.raises(NonFiniteOutputError, match="frame 7 and 92 more"):
        make(100, progress=np.full(100, np.nan))


@pytest.mark.parametrize("value", [-0.01, 1.01, 1e30, -5])
@pytest.mark.parametrize("field", ["progress", "success", "progress_distribution"])
def test_what_is_no_progress_and_no_probability_is_refused(field: str, value: float) -> None:
    values = getattr(make(), field).copy()
    values[2] = value
    with pytest.raises(ValueError, match=rf"some/model gave {field} from .* expected values in \[0, 1\], for frame 2"):
        make(**{field: values})


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.bool_])
def test_other_numbers_become_float32(dtype: type[np.generic]) -> None:
    found = make(2, progress=np.array([0, 1], dtype), success=[0, 1])
    for array in (found.progress, found.success):
        assert array.dtype == np.float32
        assert array.tolist() == [0.0, 1.0]


def test_what_rounding_leaves_outside_is_put_back() -> None:
    assert make(2, progress=np.array([-1e-7, 1 + 1e-7])).progress.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("values", [["a", "b"], [1j, 0], [None, None], 0.5, np.array([{}, {}])])
def test_what_is_no_array_of_numbers_is_refused(values: Any) -> None:
    with pytest.raises(ValueError, match=r"some/model gave progress of dtype .* expected an array of numbers"):
        make(2, progress=values)


def test_one_value_per_history() -> None:
    said = make(3)
    with pytest.raises(ValueError, match="one value of each per scored frame"):
        StepPrediction(said.progress[:2], said.success, said.progress_distribution[:2])


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "episode.npz"
    make().save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"episode\.npz is not a readable \.npz file"):
        Prediction.load(path)
    np.savez(path, progress=np.zeros(3))
    with pytest.raises(ValueError, match=r"episode\.npz is not a prediction: it has no dtype, every, "):
        Prediction.load(path)


def test_a_stored_prediction_is_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "episode.npz"
    make().save(path)
    with np.load(path) as arrays:
        values = dict(arrays)
    np.savez(path, **{**values, "success": np.full(4, np.nan, np.float32)})
    with pytest.raises(NonFiniteOutputError, match="success"):
        Prediction.load(path)
