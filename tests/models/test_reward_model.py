"""What follows from `predict` alone: dense scores and streams of any model, exact to the frame."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from robometer_rl.frames import (
    Clip,
    FrameError,
    FrameProtocol,
    NestedFrames,
    TaskError,
    UniformFrames,
    scored_steps,
)
from robometer_rl.models.reward_model import HistoryStream, UnsupportedByModelError
from robometer_rl.prediction import NonFiniteOutputError, Prediction
from tests.fixed_models import BrokenModel, PixelModel

PROTOCOLS = st.one_of(st.integers(1, 6).map(UniformFrames), st.integers(2, 6).map(NestedFrames))


def episode(seed: int, length: int, height: int = 2, width: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (length, height, width, 3), dtype=np.uint8)


def expected(frames: NDArray[np.uint8], task: str, protocol: FrameProtocol) -> NDArray[np.float32]:
    """Every step by itself, from the definition."""
    model = PixelModel()
    shown = [Clip(frames[protocol.slots(t)], task) for t in range(len(frames))]
    return np.array([model.predict([clip])[0].progress[-1] for clip in shown])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), PROTOCOLS, st.integers(1, 7))
@settings(max_examples=40)
def test_dense_scores_show_each_step_its_history(lengths: list[int], protocol: FrameProtocol, every: int) -> None:
    clips = [Clip(episode(seed, length, height=2 + seed), f"task {seed}") for seed, length in enumerate(lengths)]
    predictions = PixelModel().predict_steps(clips, protocol, every)
    for clip, prediction in zip(clips, predictions, strict=True):
        scored = clip.read(scored_steps(len(clip), every))
        np.testing.assert_array_equal(prediction.progress, expected(scored, clip.task, protocol))
        assert prediction.protocol == str(protocol)
        assert prediction.every == every


def test_the_default_protocol_is_the_models() -> None:
    clip = Clip(episode(0, 20), "open the drawer")
    (prediction,) = PixelModel(NestedFrames(3)).predict_steps([clip])
    assert prediction.protocol == "nested(3)"
    np.testing.assert_array_equal(prediction.progress, expected(clip.read(), clip.task, NestedFrames(3)))
    assert PixelModel(NestedFrames(3)).stream(["open"]).protocol == NestedFrames(3)


actions = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sets(st.integers(0, 2), min_size=1)),
        st.tuples(st.just("reset"), st.sets(st.integers(0, 2), min_size=1)),
        st.tuples(st.just("task"), st.sets(st.integers(0, 2), min_size=1)),
    ),
    max_size=40,
)


@given(actions, PROTOCOLS)
@settings(max_examples=60)
def test_a_stream_is_dense_scores_one_frame_at_a_time(
    script: list[tuple[str, set[int]]], protocol: FrameProtocol
) -> None:
    model = PixelModel()
    tasks = [f"task {number}" for number in range(3)]
    stream = model.stream(tasks, protocol)
    histories: list[list[NDArray[np.uint8]]] = [[], [], []]
    for step, (action, chosen) in enumerate(script):
        # Not in order, and each history with frames of a size of its own.
        indices = sorted(chosen, key=lambda index: (index + step) % 3)
        if action == "append":
            frames = [episode(100 * step + index, 1, 2 + index, 3)[0] for index in indices]
            got = stream.append(frames, indices)
            for index, frame in zip(indices, frames, strict=True):
                histories[index].append(frame)
            want = [expected(np.stack(histories[index]), tasks[index], protocol)[-1] for index in indices]
            np.testing.assert_array_equal(got.progress, np.array(want, np.float32))
            assert got.success.shape == (len(indices),)
            assert got.progress_distribution.shape == (len(indices), 2)
        else:
            renamed = [f"new task {step} {index}" for index in indices] if action == "task" else None
            stream.reset(indices, renamed)
            for place, index in enumerate(indices):
                histories[index] = []
                tasks[index] = renamed[place] if renamed else tasks[index]
            assert stream.tasks == tasks


def test_all_histories_are_meant_if_none_is_named() -> None:
    stream = PixelModel().stream(["a", "b"])
    assert len(stream.append(episode(0, 2))) == 2
    stream.reset()
    assert len(stream) == 2
    again = stream.append(episode(0, 2))
    np.testing.assert_array_equal(again.progress, PixelModel().stream(["a", "b"]).append(episode(0, 2)).progress)


@pytest.mark.parametrize("protocol", [UniformFrames(4), NestedFrames(4)])
@pytest.mark.parametrize(
    ("frames", "indices", "error"),
    [
        ([episode(1, 1)[0], episode(2, 1, height=9)[0]], None, FrameError),
        ([episode(1, 1)[0], np.zeros((2, 3), np.uint8)], None, FrameError),
        ([episode(1, 1)[0], np.full((2, 3, 3), np.nan)], None, FrameError),
        ([episode(1, 1)[0]], None, ValueError),
        ([episode(1, 1)[0]], [5], IndexError),
        ([episode(1, 1)[0]], [-1], IndexError),
        ([episode(1, 1)[0]] * 2, [1, 1], IndexError),
    ],
)
def test_a_failed_append_leaves_the_histories_as_they_were(
    frames: list[Any], indices: list[int] | None, error: type[Exception], protocol: FrameProtocol
) -> None:
    stream, untouched = (PixelModel().stream(["a", "b"], protocol) for _ in range(2))
    for t in range(6):
        if t > 0:
            with pytest.raises(error):
                stream.append(frames, indices)
        both = np.stack([episode(10 + t, 1)[0], episode(30 + t, 1)[0]])
        np.testing.assert_array_equal(stream.append(both).progress, untouched.append(both).progress)


class FailingModel(PixelModel):
    """Fails when told to."""

    broken = False

    def predict(self, clips: Any) -> Any:
        if self.broken:
            raise RuntimeError("out of memory")
        return super().predict(clips)


def test_a_failing_model_leaves_the_histories_as_they_were() -> None:
    model = FailingModel(NestedFrames(3))
    stream, frames = model.stream(["a"]), episode(0, 8)
    for t, frame in enumerate(frames):
        model.broken = True
        with pytest.raises(RuntimeError):
            stream.append([frame])
        model.broken = False
        assert stream.append([frame]).progress[0] == expected(frames[: t + 1], "a", NestedFrames(3))[-1]


def test_a_failed_reset_changes_nothing() -> None:
    stream = PixelModel().stream(["a", "b"])
    stream.append(episode(0, 2))
    for tasks, error in [(["c", " "], TaskError), (["c"], ValueError), ("cd", TypeError)]:
        with pytest.raises(error):
            stream.reset(tasks=tasks)
    assert stream.tasks == ["a", "b"]
    fresh = PixelModel().stream(["a", "b"])
    fresh.append(episode(0, 2))
    np.testing.assert_array_equal(stream.append(episode(1, 2)).progress, fresh.append(episode(1, 2)).progress)


def test_a_stream_needs_a_list_of_tasks() -> None:
    with pytest.raises(TypeError, match="one task per history"):
        PixelModel().stream("open the drawer")
    with pytest.raises(TaskError):
        PixelModel().stream(["open the drawer", ""])


@pytest.mark.parametrize(("protocol", "most"), [(NestedFrames(4), 4), (UniformFrames(4), 200)])
def test_a_nested_stream_keeps_few_frames(protocol: FrameProtocol, most: int) -> None:
    stream = PixelModel().stream(["a"], protocol)
    assert isinstance(stream, HistoryStream)
    for frame in episode(0, 200):
        stream.append([frame])
        assert len(stream._histories[0].frames) <= most


def test_a_model_without_preferences_says_so() -> None:
    clip = Clip(episode(0, 3), "open the drawer")
    with pytest.raises(UnsupportedByModelError, match="PixelModel 'pixel' does not compare"):
        PixelModel().compare([(clip, clip)])


def test_pickling_names_what_to_use_instead() -> None:
    with pytest.raises(TypeError, match=r"RobometerReward.*RenderToInfo"):
        pickle.dumps(PixelModel())


@pytest.mark.parametrize("field", ["progress", "success", "progress_distribution"])
def test_no_door_lets_nan_through(field: str) -> None:
    model, clip = BrokenModel(field, np.nan), Clip(episode(0, 4), "open the drawer")
    for ask in (model.predict, model.predict_steps):
        with pytest.raises(NonFiniteOutputError, match=f"broken gave {field} that is not finite"):
            ask([clip])
    stream = model.stream(["open the drawer"])
    with pytest.raises(NonFiniteOutputError, match=field):
        stream.append(episode(0, 1))


def test_a_model_that_answers_too_little_is_found_out() -> None:
    class Sparing(PixelModel):
        def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
            return super().predict(clips)[1:]

    class Silent(PixelModel):
        def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
            nothing = np.zeros(0, np.float32)
            return [Prediction(nothing, nothing, np.zeros((0, 2), np.float32), "given", "silent") for _ in clips]

    clip = Clip(episode(0, 4), "open the drawer")
    with pytest.raises(ValueError, match="got 0 predictions of the model, expected 1"):
        Sparing().stream(["open the drawer"]).append(episode(0, 1))
    for ask in (lambda: Silent().predict_steps([clip]), lambda: Silent().stream(["open"]).append(episode(0, 1))):
        with pytest.raises(ValueError, match="the model gave no value for a clip"):
            ask()
