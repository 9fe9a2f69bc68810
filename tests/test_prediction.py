from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robometer_rl.frames import scored_steps
from robometer_rl.prediction import Prediction, StepPrediction


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


def test_lengths() -> None:
    assert len(make(5)) == 5
    assert len(StepPrediction(np.zeros(2, np.float32), np.zeros(2, np.float32), np.zeros((2, 3), np.float32))) == 2
