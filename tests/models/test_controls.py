"""Controls load by name and say what they are for."""

import numpy as np
import pytest

from robometer_rl import load_reward_model
from robometer_rl.frames import Clip
from robometer_rl.models.controls import ChangedModel
from robometer_rl.models.loading import UnknownModelError
from tests.fixed_models import BrightnessModel, PixelModel

FRAMES = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.full((10, 4, 4, 3), 20, np.uint8)


def test_blind_models_see_nothing():
    for name in ("clock", "constant", "monotone"):
        model = load_reward_model(name)
        said = [model.predict_steps([Clip(frames, task)])[0] for frames, task in ((FRAMES, "a"), (FRAMES[::-1], "b"))]
        np.testing.assert_array_equal(said[0].progress, said[1].progress)
        assert said[0].success is None
        assert model.compare([(Clip(FRAMES, "a"), Clip(FRAMES[:3], "a"))]).tolist() == [0.5]
    clock = load_reward_model("clock").predict_steps([Clip(FRAMES, "a")], every=3)[0].progress
    np.testing.assert_allclose(clock, [0, 3 / 9, 6 / 9, 1])


def test_only_a_constant_can_be_asked_while_an_episode_goes_on():
    assert load_reward_model("control:constant").causal
    assert load_reward_model("constant").stream(["a"]).append([FRAMES[0]]).progress[0] == 0.5
    for name in ("clock", "monotone"):
        assert not load_reward_model(name).causal, "it counts frames"
    values = load_reward_model("monotone").predict_steps([Clip(FRAMES, "a")])[0].progress
    assert values[0] == 0.0
    assert (np.diff(values) > 0).all()


@pytest.mark.parametrize("change", ["shuffled", "repeated", "truncated"])
def test_other_frames_are_shown(change):
    said = ChangedModel(change, BrightnessModel()).predict([Clip(FRAMES, "a")])[0].progress
    recorded = BrightnessModel().predict([Clip(FRAMES, "a")])[0].progress
    expected = {
        "shuffled": sorted(recorded),
        "repeated": [recorded[0]] * 10,
        "truncated": [*recorded[:5], *[recorded[4]] * 5],
    }[change]
    assert not np.array_equal(said, recorded)
    np.testing.assert_allclose(sorted(said) if change == "shuffled" else said, expected)


def test_another_task_is_asked_about():
    clip = Clip(FRAMES, "open the drawer")
    assert not np.allclose(
        ChangedModel("wrong_task", PixelModel()).predict([clip])[0].progress, PixelModel().predict([clip])[0].progress
    )


def test_controls_load_by_name():
    model = load_reward_model("control:repeated:clock")
    assert model.model_id == "clock (repeated)"
    assert model.source == "control:repeated:clock"
    for name in ("control:sundial", "control:shuffled"):
        with pytest.raises(UnknownModelError, match="expected one of clock, constant, monotone, or one of shuffled"):
            load_reward_model(name)
