"""A loaded checkpoint answers questions: recorded numbers, checked outputs, one model for many threads."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robometer_rl.frames import Clip, FrameError, NestedFrames, TaskError, UniformFrames
from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.models.robometer.checkpoint import load_checkpoint
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.prediction import NonFiniteOutputError
from tests.golden import CHECKPOINT, arrays, clips, continuous, copy_of, pairs, report, tiny

THREE = ("progress_batch", "prog0", "prog1", "prog2")


def model() -> Robometer:
    return Robometer(tiny(), "source", "some/model", "abc")


def test_predictions_are_the_recorded_ones() -> None:
    recorded = arrays("progress_batch")
    for number, prediction in enumerate(model().predict(clips(*THREE))):
        np.testing.assert_allclose(prediction.progress, recorded["progress_decoded"][number], atol=1e-5)
        np.testing.assert_allclose(np.asarray(prediction.success), recorded["success_probs_A"][number], atol=1e-5)
        assert prediction.progress_distribution.shape == (8, 10)
        origin = (prediction.protocol, prediction.every, prediction.model_id, prediction.revision, prediction.dtype)
        assert origin == ("given", 1, "some/model", "abc", "float32")
        for values in (prediction.progress, prediction.success, prediction.progress_distribution):
            assert values.dtype == np.float32


def test_a_continuous_head_has_no_distribution(tmp_path: Path) -> None:
    predictions = load_reward_model(continuous(tmp_path)).predict(clips(*THREE))
    for number, prediction in enumerate(predictions):
        expected = arrays("progress_continuous_l2")["progress_decoded"][number]
        np.testing.assert_allclose(prediction.progress, expected, atol=1e-5)
        assert prediction.progress_distribution.shape == (8, 0)


def test_preferences_are_the_recorded_ones() -> None:
    shown = [*pairs("preference_batch"), pairs("preference_batch_swapped")[0]]
    recorded = [*arrays("preference_batch")["pref_probs"], arrays("preference_batch_swapped")["pref_probs"][0]]
    np.testing.assert_allclose(model().compare(shown), recorded, atol=1e-5)


def test_both_orders_are_averaged_and_antisymmetric() -> None:
    shown = pairs("preference_batch")
    swapped = [(b, a) for a, b in shown]
    forwards, backwards = model().compare(shown), model().compare(swapped)
    both = model().compare(shown, both_orders=True)
    assert both.dtype == np.float32
    np.testing.assert_allclose(both, (forwards + 1 - backwards) / 2, atol=1e-6)
    np.testing.assert_allclose(both + model().compare(swapped, both_orders=True), 1.0, atol=1e-6)


def test_dense_rewards_of_the_references_wrapper_are_the_published_protocol() -> None:
    recorded, described = arrays("dense_rewards"), report("dense_rewards")
    (prediction,) = model().predict_steps([Clip(recorded["frames"], described["task"])], UniformFrames(8))
    np.testing.assert_allclose(prediction.progress, recorded["wrapper_rewards"], atol=1e-5)
    np.testing.assert_allclose(np.asarray(prediction.success), recorded["wrapper_success"], atol=1e-5)
    assert (prediction.protocol, len(prediction)) == ("uniform(8)", 20)


def test_the_references_server_shows_other_frames() -> None:
    """Four, truncated instead of rounded: its numbers for its frames, which no protocol of ours shows."""
    recorded, described = arrays("dense_rewards"), report("dense_rewards")
    shown = [Clip(recorded["frames"][indices], described["task"]) for indices in recorded["frame_steps_indices"]]
    predictions = model().predict(shown)
    np.testing.assert_allclose([p.progress[-1] for p in predictions], recorded["frame_steps_rewards"], atol=1e-5)
    np.testing.assert_allclose([p.success[-1] for p in predictions], recorded["frame_steps_success"], atol=1e-5)


POOLED: dict[str, Any] = {"use_per_frame_progress_token": False}


@pytest.mark.parametrize("settings", [POOLED, {**POOLED, "use_multi_image": False}], ids=["pooled", "video"])
def test_modes_without_progress_tokens_are_scored_step_by_step(settings: dict[str, Any], tmp_path: Path) -> None:
    loaded = load_reward_model(copy_of(CHECKPOINT, tmp_path, model=settings))
    clip = Clip(arrays("dense_rewards")["frames"][:6], "open the drawer")
    protocol = NestedFrames(4)
    (dense,) = loaded.predict_steps([clip], protocol)
    each = [loaded.predict([Clip(clip.read(protocol.slots(t)), clip.task)])[0] for t in range(6)]
    np.testing.assert_allclose(dense.progress, [prediction.progress[-1] for prediction in each], atol=1e-5)
    stream = loaded.stream([clip.task], protocol)
    np.testing.assert_allclose([stream.append(clip.read([t])).progress[0] for t in range(6)], dense.progress, atol=1e-5)
    # A video has one value per pair of frames.
    assert [len(prediction) for prediction in each][:4] == (
        [1, 1, 2, 2] if "use_multi_image" in settings else [1, 2, 3, 4]
    )


def test_nothing_asked_is_nothing_answered() -> None:
    assert model().predict([]) == []
    assert model().predict_steps([]) == []
    assert model().compare([]).shape == (0,)


def test_training_mode_is_left_behind_by_loading() -> None:
    assert not any(module.training for module in model().network.modules())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("head", ["progress", "success"])
def test_numbers_that_are_none_raise_and_name_clip_and_frame(head: str, bad: float) -> None:
    """One frame of one clip is poisoned through the weights: its hidden state times a huge row overflows."""
    poisoned = Robometer(load_checkpoint(CHECKPOINT), "source", "some/model")
    final = poisoned.network.get_submodule(f"{head}_head.4")
    hidden: list[torch.Tensor] = []
    hook = final.register_forward_pre_hook(lambda _, given: hidden.append(given[0].detach().clone()))
    shown = clips(*THREE)
    poisoned.predict(shown)
    hook.remove()
    place = 8 + 3  # the fourth frame of the second clip

    def poison(_module: torch.nn.Module, given: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        same = torch.isclose(given[0], hidden[0][place], atol=1e-5).all(-1)
        return torch.where(same[:, None], torch.full_like(output, bad), output)

    final.register_forward_hook(poison)
    with pytest.raises(NonFiniteOutputError, match=f"{head} that is not finite for clip 1, frame 3"):
        poisoned.predict(shown)
    with pytest.raises(NonFiniteOutputError, match=f"{head} that is not finite for clip 0, frame 3"):
        poisoned.predict_steps([Clip(shown[1].read(range(4)), shown[1].task)], NestedFrames(8))


def test_poisoned_weights_raise_everywhere() -> None:
    poisoned = Robometer(load_checkpoint(CHECKPOINT), "source", "some/model")
    with torch.no_grad():
        poisoned.network.model.language_model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    clip, frames = clips(*THREE)[0], arrays("clips")["prog0"]
    with pytest.raises(NonFiniteOutputError, match="clip 0, frame 0; clip 0, frame 1;"):
        poisoned.predict([clip])
    for protocol in (NestedFrames(4), UniformFrames(4)):
        with pytest.raises(NonFiniteOutputError, match="clip 0"):
            poisoned.predict_steps([clip], protocol)
    with pytest.raises(NonFiniteOutputError, match="a preference that is not finite for pair 0; pair 1"):
        poisoned.compare(pairs("preference_batch"))
    with pytest.raises(NonFiniteOutputError, match="history 0, frame 0"):
        poisoned.stream(["open the drawer"]).append(frames[:1])


def test_infinite_preferences_are_not_probabilities() -> None:
    poisoned = Robometer(load_checkpoint(CHECKPOINT), "source", "some/model")
    with torch.no_grad():
        poisoned.network.get_parameter("preference_head.4.bias").fill_(torch.inf)
    with pytest.raises(NonFiniteOutputError, match="a preference"):
        poisoned.compare(pairs("preference_batch"))


def test_bad_clips_are_named_before_anything_is_computed() -> None:
    frames = arrays("clips")["prog0"]
    with pytest.raises(TaskError, match="prog_token"):
        model().predict([Clip(frames, "open <|prog_token|>")])
    with pytest.raises(FrameError, match="aspect ratio"):
        model().predict([Clip(np.zeros((1, 4, 1000, 3), np.uint8), "open")])
    with pytest.raises(TaskError, match="a pair has one task"):
        model().compare([(Clip(frames, "open"), Clip(frames, "close"))])


def test_one_model_serves_many_threads() -> None:
    shared = model()
    shown = clips(*THREE)
    alone = [shared.predict([clip])[0].progress for clip in shown]
    dense = shared.predict_steps(shown[:1], NestedFrames(4))[0].progress
    preference = shared.compare(pairs("preference_batch")[:1])

    def ask(number: int) -> None:
        np.testing.assert_allclose(shared.predict([shown[number % 3]])[0].progress, alone[number % 3], atol=1e-6)
        np.testing.assert_allclose(shared.predict_steps(shown[:1], NestedFrames(4))[0].progress, dense, atol=1e-6)
        np.testing.assert_allclose(shared.compare(pairs("preference_batch")[:1]), preference, atol=1e-6)
        stream = shared.stream([shown[0].task], NestedFrames(4))
        for t in range(8):
            assert stream.append(shown[0].read([t])).progress[0] == pytest.approx(dense[t], abs=1e-5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(8)))


def test_every_answer_waits_for_the_lock() -> None:
    shared = model()
    shown, frames = clips(*THREE)[:1], arrays("clips")["prog0"]
    stream = shared.stream([shown[0].task], NestedFrames(4))
    calls = [
        lambda: shared.predict(shown),
        lambda: shared.predict_steps(shown, NestedFrames(4)),
        lambda: shared.compare(pairs("preference_batch")),
        lambda: stream.append(frames[:1]),
    ]
    with ThreadPoolExecutor(len(calls)) as pool:
        with shared.lock:
            waiting = [pool.submit(call) for call in calls]
            with pytest.raises(TimeoutError):
                waiting[0].result(timeout=0.3)
            assert not any(future.done() for future in waiting)
        for future in waiting:
            future.result()


def test_a_model_cannot_be_pickled_by_accident() -> None:
    with pytest.raises(TypeError, match=r"a Robometer cannot be pickled.*VecRobometerReward"):
        pickle.dumps(model())


def test_dense_scores_are_those_of_the_definition() -> None:
    shown = [Clip(arrays("dense_rewards")["frames"], "open the drawer"), clips(*THREE)[1]]
    for protocol in (NestedFrames(8), UniformFrames(8)):
        fast, slow = model().predict_steps(shown, protocol), RewardModel.predict_steps(model(), shown, protocol)
        for one, other in zip(fast, slow, strict=True):
            np.testing.assert_allclose(one.progress, other.progress, atol=1e-5)
