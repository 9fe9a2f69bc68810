from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from robometer_rl.frames import Clip, NestedFrames, TaskError
from robometer_rl.models.controls import load as load_control
from robometer_rl.models.reward_model import UnsupportedByModelError
from robometer_rl.prediction import NonFiniteOutputError
from robometer_rl.studio.asking import Asking, Models, Preference, prefer
from tests.fixed_models import BrightnessModel, BrokenModel, PixelModel

FRAMES = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), np.uint8)
TASKS = ["open the drawer", "close the drawer"]


@pytest.mark.parametrize(("protocol", "every"), [(None, 1), (NestedFrames(4), 3)])
def test_the_answers_are_those_of_whole_episodes(protocol: NestedFrames | None, every: int) -> None:
    model = PixelModel()
    asking = Asking(model, FRAMES, TASKS, protocol, every)
    assert list(asking) == list(range(1, asking.total + 1))
    expected = model.predict_steps([Clip(FRAMES, task) for task in TASKS], protocol, every)
    for found, wanted in zip(asking.predictions, expected, strict=True):
        np.testing.assert_allclose(found.progress, wanted.progress, atol=1e-6)
        assert found.success is not None
        assert wanted.success is not None
        np.testing.assert_allclose(found.success, wanted.success, atol=1e-6)
        np.testing.assert_allclose(found.progress_distribution, wanted.progress_distribution, atol=1e-6)
        assert (found.protocol, found.every, found.model_id) == (wanted.protocol, wanted.every, wanted.model_id)


def test_what_was_answered_so_far_is_the_beginning_of_the_whole() -> None:
    asking = Asking(PixelModel(), FRAMES, TASKS, every=4)
    assert asking.so_far == (0, [])
    seen = []
    for _ in asking:
        frames, predictions = asking.so_far
        seen.append((frames, [each.progress.tolist() for each in predictions]))
    assert [frames for frames, _ in seen] == [1, 5, 9, 11]
    for number, (_, progress) in enumerate(seen, 1):
        assert progress == [each.progress[:number].tolist() for each in asking.predictions]


def test_a_model_that_looks_at_whole_episodes_is_asked_about_whole_episodes() -> None:
    asking = Asking(load_control("clock"), FRAMES, TASKS)
    assert list(asking) == [1, 2]
    assert asking.predictions[0].progress[-1] == 1.0


def test_whoever_stops_stops_the_model() -> None:
    model = PixelModel()
    asked = iter(Asking(model, FRAMES, TASKS))
    next(asked)
    next(asked)
    asked.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert model.calls == 2


def test_answers_are_not_given_before_they_are_complete() -> None:
    asking = Asking(PixelModel(), FRAMES, TASKS)
    next(iter(asking))
    with pytest.raises(RuntimeError, match="to the end"):
        _ = asking.predictions


@pytest.mark.parametrize(("tasks", "error"), [([], ValueError), ([" "], TaskError)])
def test_there_has_to_be_an_instruction(tasks: list[str], error: type[Exception]) -> None:
    with pytest.raises(error, match="instruction"):
        Asking(PixelModel(), FRAMES, tasks)


def test_an_answer_that_is_none_is_an_error() -> None:
    with pytest.raises(NonFiniteOutputError):
        list(Asking(BrokenModel("progress", float("nan")), FRAMES, TASKS))


class FirstIsBetter(BrightnessModel):
    """Prefers what is brighter, and a little what is shown first."""

    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> NDArray[np.float32]:
        assert not both_orders
        assert all(len(clip) == 8 for pair in pairs for clip in pair), "as many frames as the protocol shows"
        means = [(float(one.read().mean()), float(other.read().mean())) for one, other in pairs]
        return np.array([0.6 + 0.3 * np.sign(one - other) for one, other in means], np.float32)


def test_preference_is_asked_in_both_orders() -> None:
    dark, bright = FRAMES // 4, FRAMES // 4 + 150
    found = prefer(FirstIsBetter(), bright, dark, "push")
    assert (found.shown_first, found.shown_second) == (pytest.approx(0.9), pytest.approx(0.7))
    assert (found.mean, found.is_steady) == (pytest.approx(0.8), True)
    assert not Preference(0.9, 0.2).is_steady


def test_a_model_that_does_not_compare_says_so() -> None:
    with pytest.raises(UnsupportedByModelError):
        prefer(BrightnessModel(), FRAMES, FRAMES, "push")


def test_models_are_loaded_once_and_by_their_names_only() -> None:
    models = Models({"bright": BrightnessModel})
    assert not models.is_loaded("bright")
    assert models.begin("bright").result() is models.get("bright") is models.get("bright")
    assert models.is_loaded("bright")
    with pytest.raises(ValueError, match="it has bright"):
        models.get("another")
    with pytest.raises(ValueError, match="at least one"):
        Models({})


def test_loading_that_failed_in_the_background_is_tried_again_and_then_said() -> None:
    tries: list[int] = []

    def load() -> BrightnessModel:
        tries.append(len(tries))
        if len(tries) < 3:
            raise ConnectionError(f"try {len(tries)}")
        return BrightnessModel()

    models = Models({"bright": load})
    assert isinstance(models.begin("bright").exception(), ConnectionError)
    assert not models.is_loaded("bright")
    with pytest.raises(ConnectionError, match="try 2"):
        models.get("bright")
    assert models.get("bright") is models.get("bright")
    assert len(tries) == 3
