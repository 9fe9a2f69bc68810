from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from robometer_rl import Clip, NestedFrames, UniformFrames
from robometer_rl.frames import FrameError, FrameProtocol
from robometer_rl.models.compact.familiarity import pooled
from tests.models.compact.tiny import TASK, pictures, tiny_model

PROTOCOLS = [None, NestedFrames(4), UniformFrames(4)]


def test_a_value_per_frame_from_the_frames_up_to_it() -> None:
    model, frames = tiny_model(), pictures(6)
    whole = model.predict([Clip(frames, TASK)])[0]
    assert len(whole) == 6
    assert whole.success is not None
    assert np.ptp(whole.progress) > 0.01
    part = model.predict([Clip(frames[:4], TASK)])[0]
    np.testing.assert_allclose(part.progress, whole.progress[:4], atol=1e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_dense_scores_show_each_step_its_history(protocol: FrameProtocol | None) -> None:
    model, frames = tiny_model(), pictures(11)
    dense = model.predict_steps([Clip(frames, TASK)], protocol)[0]
    shown = protocol or model.default_protocol
    assert dense.protocol == str(shown)
    for step in range(11):
        alone = model.predict([Clip(frames[shown.slots(step)], TASK)])[0]
        assert alone.success is not None
        assert dense.success is not None
        assert dense.progress[step] == pytest.approx(alone.progress[-1], abs=1e-5)
        assert dense.success[step] == pytest.approx(alone.success[-1], abs=1e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_stream_says_what_dense_scores_say(protocol: FrameProtocol | None) -> None:
    model = tiny_model()
    shown = [pictures(9, 1), pictures(9, 2, 32, 32)]
    clips = [Clip(shown[0], TASK), Clip(shown[1], "close the drawer")]
    dense = model.predict_steps(clips, protocol)
    stream = model.stream([clip.task for clip in clips], protocol)
    for step in range(9):
        said = stream.append([frames[step] for frames in shown])
        np.testing.assert_allclose(said.progress, [each.progress[step] for each in dense], atol=1e-5)
    stream.reset([1], ["open the drawer"])
    again = stream.append(shown[0][:1], [1])
    assert float(again.progress[0]) == pytest.approx(float(dense[0].progress[0]), abs=1e-5)


def test_candidates_leave_a_history_as_it_is() -> None:
    model, frames = tiny_model(), pictures(8)
    stream = model.stream([TASK, TASK])
    for frame in frames[:5]:
        stream.append([frame, frame])
    peeked = stream.peek(frames[5:], [0, 0, 1])
    assert float(stream.append([frames[6]], [0]).progress[0]) == pytest.approx(float(peeked.progress[1]), abs=1e-5)
    assert float(stream.append([frames[7]], [1]).progress[0]) == pytest.approx(float(peeked.progress[2]), abs=1e-5)


@pytest.mark.parametrize("length", [0, 1, 6])
def test_a_history_is_restored_from_what_is_left_of_it(length: int) -> None:
    model, frames, protocol = tiny_model(), pictures(8), NestedFrames(4)
    left, lost = model.stream([TASK], protocol), model.stream([TASK], protocol)
    for frame in frames[:length]:
        left.append([frame])
    retained = protocol.retained(length - 1).tolist() if length else []
    lost.restore(0, length, {number: frames[number] for number in retained})
    for frame in frames[length:]:
        expected, found = left.append([frame]).progress, lost.append([frame]).progress
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_frames_of_a_history_have_one_size() -> None:
    stream, frames = tiny_model().stream([TASK]), pictures(2)
    first = stream.append(frames[:1])
    with pytest.raises(FrameError, match="history 0 has frames of"):
        stream.append(pictures(1, 0, 32, 32))
    assert len(stream.append([], []).progress) == 0
    stream.reset()
    np.testing.assert_allclose(stream.append(frames[:1]).progress, first.progress)


def test_scored_steps_are_thinned() -> None:
    model, frames = tiny_model(), pictures(8)
    sparse = model.predict_steps([Clip(frames, TASK)], every=3)[0]
    kept = model.predict_steps([Clip(frames[[0, 3, 6, 7]], TASK)])[0]
    np.testing.assert_allclose(sparse.progress, kept.progress, atol=1e-6)


def test_preference_has_no_favourite_place() -> None:
    model = tiny_model()
    one, other = Clip(pictures(3, 1), TASK), Clip(pictures(5, 2), TASK)
    first, second = model.compare([(one, other), (other, one)])
    assert first + second == pytest.approx(1.0, abs=1e-5)
    assert first != pytest.approx(0.5, abs=1e-4)
    assert model.compare([(one, one)])[0] == pytest.approx(0.5, abs=1e-6)
    ends = [0.5 * (each.progress[-1] + each.success[-1]) for each in model.predict([one, other])]
    assert (first > 0.5) == (ends[0] > ends[1])


def test_heads_that_disagree_are_unsure() -> None:
    model, clip = tiny_model(), Clip(pictures(5), TASK)
    assert model.uncertainty(clip).shape == (5,)
    assert model.uncertainty(clip).min() > 0
    with torch.no_grad():
        for weight in model.checkpoint.network.heads.weights:
            weight[:] = weight[:1].clone()
    np.testing.assert_allclose(model.uncertainty(clip), 0, atol=1e-6)


def test_an_unknown_task_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    model, frames = tiny_model(), pictures(3)
    with caplog.at_level(logging.WARNING):
        model.predict_steps([Clip(frames, "OPEN the drawer.")])
        assert caplog.messages == []
        for _ in range(2):
            model.predict([Clip(frames, "fry an egg")])
            model.stream(["fry an egg"]).append(frames[:1])
    (message,) = caplog.messages
    assert "tiny was not trained on the task 'fry an egg'" in message
    assert "'open the drawer', 'close the drawer'" in message


def test_other_pictures_than_those_of_training_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    model, noise = tiny_model(), np.random.default_rng(0).integers(0, 20, (40, 24, 40, 3), dtype=np.uint8)
    known = pictures(1, 1) // 2 + noise
    with torch.inference_mode():
        means = pooled(model.checkpoint.tower(torch.from_numpy(known)))
    model.checkpoint.familiarity.fit(means[:30], means[30:])
    with caplog.at_level(logging.WARNING):
        model.predict_steps([Clip(known[:4], TASK)])
        assert caplog.messages == []
        stream = model.stream([TASK])
        for frame in pictures(8, 2):
            stream.append([frame])
    (message,) = caplog.messages
    assert "tiny was trained on other pictures than these" in message
    assert "robometer-rl adapt" in message
