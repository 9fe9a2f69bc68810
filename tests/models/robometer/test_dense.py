"""Shared work gives the numbers of separate questions: whole episodes and streams against one forward per step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from robometer_rl.frames import Clip, FrameError, FrameProtocol, NestedFrames, TaskError, UniformFrames
from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.reward_model import HistoryStream, RewardModel
from robometer_rl.models.robometer.decoder import UnsupportedAttentionError
from robometer_rl.models.robometer.feature_cache import FeatureStore
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.models.robometer.streaming import RobometerStream
from robometer_rl.prediction import NonFiniteOutputError, Prediction, StepPrediction

FIXTURES = Path(__file__).parents[2] / "fixtures" / "robometer_tiny"
PROTOCOLS = [NestedFrames(2), NestedFrames(3), NestedFrames(8), UniformFrames(1), UniformFrames(2), UniformFrames(8)]
TASKS = ["push", "open the top drawer of the cabinet", "stack the cup"]
SIZES = [(64, 64), (64, 96), (96, 64)]
TOLERANCE = 1e-5


class EveryOther(FrameProtocol):
    """A user's own rule: the newest frame and those two, four, ... steps before it; shows no common beginning."""

    name = "every-other"
    max_frames = 4

    def slots(self, t: int) -> NDArray[np.int64]:
        return np.arange(t, -1, -2)[:4][::-1].copy()

    def retained(self, t: int) -> NDArray[np.int64]:
        return np.arange(max(0, t - 6), t + 1)


@pytest.fixture(scope="module")
def model() -> Robometer:
    loaded = load_reward_model(FIXTURES / "checkpoint")
    assert isinstance(loaded, Robometer)
    return loaded


def noise(seed: int, length: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (length, *size, 3), dtype=np.uint8)


def episode(seed: int, length: int, kind: int = 0) -> Clip:
    return Clip(noise(seed, length, SIZES[kind]), TASKS[kind])


def assert_equal(fast: Sequence[Prediction | StepPrediction], slow: Sequence[Prediction | StepPrediction]) -> None:
    for one, other in zip(fast, slow, strict=True):
        np.testing.assert_allclose(one.progress, other.progress, atol=TOLERANCE)
        np.testing.assert_allclose(np.asarray(one.success), np.asarray(other.success), atol=TOLERANCE)
        np.testing.assert_allclose(one.progress_distribution, other.progress_distribution, atol=TOLERANCE)


@pytest.mark.parametrize("protocol", [*PROTOCOLS, EveryOther()], ids=str)
@pytest.mark.parametrize("every", [1, 3])
def test_episodes_equal_one_question_per_step(model: Robometer, protocol: FrameProtocol, every: int) -> None:
    clips = [episode(0, 1), episode(1, 2, 1), episode(2, 9, 2), episode(3, 23)]
    fast = model.predict_steps(clips, protocol, every)
    assert_equal(fast, RewardModel.predict_steps(model, clips, protocol, every))
    assert {(p.protocol, p.every) for p in fast} == {(str(protocol), every)}


@pytest.mark.parametrize("protocol", [NestedFrames(4), UniformFrames(4)], ids=str)
@pytest.mark.parametrize("token_budget", [1, 300, 100_000])
def test_the_token_budget_changes_nothing(
    model: Robometer, protocol: FrameProtocol, token_budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [episode(seed, length) for seed, length in enumerate((5, 1, 14, 3))]
    expected = model.predict_steps(clips, protocol)
    monkeypatch.setattr(model, "token_budget", token_budget)
    assert_equal(model.predict_steps(clips, protocol), expected)


def test_a_frame_goes_through_the_tower_once(model: Robometer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    encode = model.network.encode
    monkeypatch.setattr(model.network, "encode", lambda frames: seen.extend(map(len, frames)) or encode(frames))
    for protocol in (NestedFrames(8), UniformFrames(8)):
        seen.clear()
        model.predict_steps([episode(0, 40), episode(1, 17, 1)], protocol)
        assert sum(seen) == 57


def test_long_episodes_are_read_as_they_are_scored(model: Robometer) -> None:
    class Video:
        """Counts how much of it is read at once."""

        shape = (200, 32, 32, 3)
        most = 0

        def __len__(self) -> int:
            return 200

        def __getitem__(self, index: slice) -> NDArray[np.uint8]:
            numbers = np.arange(200)[index]
            Video.most = max(Video.most, len(numbers))
            return np.stack([noise(int(number), 1, (32, 32))[0] for number in numbers])

    fast = model.predict_steps([Clip(Video(), "push")], NestedFrames(4), every=7)
    assert_equal(fast, RewardModel.predict_steps(model, [Clip(Video(), "push")], NestedFrames(4), every=7))
    assert Video.most == 1


def test_progress_of_the_reference_wrapper(model: Robometer) -> None:
    recorded = np.load(FIXTURES / "dense_rewards.npz")
    clip = Clip(recorded["frames"], "pick up the red block and place it in the bin")
    (prediction,) = model.predict_steps([clip], UniformFrames(8))
    np.testing.assert_allclose(prediction.progress, recorded["wrapper_rewards"], atol=1e-4)
    np.testing.assert_allclose(np.asarray(prediction.success), recorded["wrapper_success"], atol=1e-4)


@st.composite
def stream_steps(draw: st.DrawFn) -> list[tuple[str, list[int], int]]:
    """What can happen to some of three histories, in any order."""
    rows = st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True)
    kinds = st.sampled_from(["append"] * 8 + ["reset", "task", "peek", "peek", "restore"])
    return draw(st.lists(st.tuples(kinds, rows, st.integers(0, 2)), min_size=1, max_size=24))


@pytest.mark.parametrize("protocol", [NestedFrames(2), NestedFrames(4), UniformFrames(3), EveryOther()], ids=str)
@settings(max_examples=12)
@given(steps=stream_steps())
def test_streams_equal_whole_histories(
    model: Robometer, protocol: FrameProtocol, steps: list[tuple[str, list[int], int]]
) -> None:
    stream, histories = model.stream(TASKS, protocol), HistoryStream(model, TASKS, protocol)
    assert isinstance(stream, RobometerStream)
    for number, (kind, rows, task) in enumerate(steps):
        if kind == "append":
            frames = [noise(number * 3 + row, 1, SIZES[row])[0] for row in rows]
            assert_equal([stream.append(frames, rows)], [histories.append(frames, rows)])
        elif kind == "peek":
            candidates = [row for row in rows for _ in range(task + 1)]
            frames = [noise(900 + number * 9 + n, 1, SIZES[row])[0] for n, row in enumerate(candidates)]
            assert_equal([stream.peek(frames, candidates)], [histories.peek(frames, candidates)])
        elif kind == "restore":
            for row in rows:
                kept = histories._histories[row]
                stream.restore(row, kept.length, kept.frames)
                histories.restore(row, kept.length, kept.frames)
        else:
            tasks = [TASKS[task]] * len(rows) if kind == "task" else None
            stream.reset(rows, tasks)
            histories.reset(rows, tasks)
            assert stream.tasks == histories.tasks


@pytest.mark.parametrize("protocol", [NestedFrames(4), UniformFrames(4)], ids=str)
def test_a_stream_equals_predict_steps(model: Robometer, protocol: FrameProtocol) -> None:
    clips = [episode(0, 30), episode(1, 30, 1)]
    stream = model.stream([clip.task for clip in clips], protocol)
    steps = [stream.append([clip.read([t])[0] for clip in clips]) for t in range(30)]
    for number, prediction in enumerate(model.predict_steps(clips, protocol)):
        np.testing.assert_allclose([step.progress[number] for step in steps], prediction.progress, atol=TOLERANCE)


@pytest.mark.parametrize("protocol", [NestedFrames(4), UniformFrames(4), UniformFrames(8)], ids=str)
def test_candidates_are_scored_as_if_each_were_appended(model: Robometer, protocol: FrameProtocol) -> None:
    frames, candidates = noise(0, 14, (64, 64)), noise(1, 3, (64, 64))
    stream = model.stream(["push"], protocol)
    for t, frame in enumerate(frames):
        peeked = stream.peek(candidates)
        for number, candidate in enumerate(candidates):
            clip = Clip(np.concatenate([frames[:t], candidate[None]]), "push")
            (expected,) = model.predict_steps([clip], protocol)
            np.testing.assert_allclose(peeked.progress[number], expected.progress[-1], atol=TOLERANCE)
        stream.append([frame])


def test_a_candidate_costs_one_frame(model: Robometer, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = model.stream(["push"], NestedFrames(8))
    for t in range(14):
        stream.append(noise(t, 1, (64, 64)))
    stream.append(noise(14, 1, (64, 64)))  # the stride doubles here; from now on its prefix is cached
    tokens = []
    decode = model.network.decode
    monkeypatch.setattr(model.network, "decode", lambda ids, *rest: tokens.append(ids.numel()) or decode(ids, *rest))
    stream.append(noise(15, 1, (64, 64)))
    one_frame = sum(tokens)
    for count in (1, 5):
        tokens.clear()
        stream.peek(noise(20, count, (64, 64)))
        # The four keyframes of the next stride once, and what the candidates have of their own.
        assert sum(tokens) <= (count + 4) * one_frame * 1.1
        tokens.clear()
        stream.peek(noise(20, count, (64, 64)))
        assert sum(tokens) <= count * one_frame * 1.1


def test_peeking_and_restoring_refuse_what_does_not_fit(model: Robometer) -> None:
    for stream in (model.stream(["push", "pull"]), HistoryStream(model, ["push", "pull"], NestedFrames(8))):
        stream.append(noise(0, 2, (32, 32)))
        with pytest.raises(ValueError, match="got no indices"):
            stream.peek(noise(1, 2, (32, 32)))
        with pytest.raises(IndexError, match="from 0 to 1"):
            stream.peek(noise(1, 1, (32, 32)), [2])
        with pytest.raises(ValueError, match=r"is restored from the frames \[0, 1\]"):
            stream.restore(0, 2, {0: noise(0, 1, (32, 32))[0]})
        with pytest.raises(FrameError, match="different sizes"):
            stream.restore(0, 2, {0: noise(0, 1, (32, 32))[0], 1: noise(0, 1, (64, 32))[0]})
        assert len(stream.peek([], [])) == 0
    stream = model.stream(["push"])
    stream.append(noise(0, 1, (32, 32)))
    with pytest.raises(FrameError, match="after frames of"):
        stream.peek(noise(0, 1, (64, 32)))


def test_memory_is_known_before_it_is_taken(model: Robometer) -> None:
    stream = model.stream(["push"] * 3, NestedFrames(4))
    assert isinstance(stream, RobometerStream)
    for t in range(5):
        stream.append(noise(t, 3, (64, 64)))
    layers = stream._cache._layers
    taken = sum(part[0, :, : stream._histories[0].layout.ends[-1]].nbytes for pair in layers for part in pair)
    assert stream.memory_for(0, 64, 64) == taken
    assert HistoryStream(model, ["push"], NestedFrames(4)).memory_for(0, 64, 64) == 0


def test_a_stream_computes_one_frame_per_step_within_a_stride(
    model: Robometer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = model.stream(["push"], NestedFrames(8))
    tokens = []
    decode = model.network.decode
    monkeypatch.setattr(model.network, "decode", lambda ids, *rest: tokens.append(ids.numel()) or decode(ids, *rest))
    per_step = []
    for t in range(57):
        tokens.clear()
        stream.append(noise(t, 1, (64, 64)))
        per_step.append(sum(tokens))
    frame = per_step[1]
    changes = {8: 4, 15: 4, 29: 4}  # three keyframes and the newest one
    assert [round(count / frame) for count in per_step[1:]] == [changes.get(t, 1) for t in range(1, 57)]


def test_a_nested_stream_keeps_no_more_than_it_can_show(model: Robometer) -> None:
    stream = model.stream(["push"], NestedFrames(4))
    assert isinstance(stream, RobometerStream)
    for t in range(100):
        stream.append(noise(t, 1, (32, 32)))
        assert len(stream._histories[0].frames) <= 5
        assert len(stream._features) <= 5


def test_features_that_were_dropped_are_computed_again(model: Robometer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeatureStore, "limit", 0)
    clip = episode(0, 12)
    slow = RewardModel.predict_steps(model, [clip], UniformFrames(4))
    assert_equal(model.predict_steps([clip], UniformFrames(4)), slow)
    stream = model.stream([clip.task], UniformFrames(4))
    progress = [stream.append(clip.read([t])).progress[0] for t in range(12)]
    np.testing.assert_allclose(progress, slow[0].progress, atol=TOLERANCE)


def test_environments_may_draw_into_one_buffer(model: Robometer) -> None:
    frames = noise(0, 12, (32, 32))
    expected = RewardModel.predict_steps(model, [Clip(frames, "push")], UniformFrames(3))[0].progress
    for stream in (model.stream(["push"], UniformFrames(3)), HistoryStream(model, ["push"], UniformFrames(3))):
        buffer = np.empty((1, 32, 32, 3), np.uint8)
        progress = []
        for frame in frames:
            buffer[0] = frame
            progress.append(stream.append(buffer).progress[0])
        np.testing.assert_allclose(progress, expected, atol=TOLERANCE)


@pytest.mark.parametrize("protocol", [NestedFrames(4), UniformFrames(4), UniformFrames(8)], ids=str)
def test_an_append_that_fails_can_be_repeated(
    model: Robometer, protocol: FrameProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, longer = noise(0, 10, (32, 32)), noise(1, 12, (64, 64))
    stream = model.stream(["push", "pull"], protocol)
    for frame in longer[:2]:
        stream.append([frame], [1])
    encode = model.network.encode
    progress = []
    for t, frame in enumerate(frames):
        with pytest.raises(FrameError):
            stream.append([np.zeros((64, 64), np.uint8), longer[t + 2]])
        with pytest.raises(FrameError, match="after frames of"):
            stream.append([frame, np.zeros((32, 64, 3), np.uint8)])
        with monkeypatch.context() as patch:
            # NaN from the tower: it must not stay in any cache, where a masked NaN still spreads.
            patch.setattr(model.network, "encode", lambda given: [part * torch.nan for part in encode(given)])
            with pytest.raises(NonFiniteOutputError, match=f"progress that is not finite for history 0, frame {t}"):
                stream.append([255 - frame, longer[t + 2]])
        progress.append(stream.append([frame, longer[t + 2]]).progress)
    clips = [Clip(frames, "push"), Clip(longer, "pull")]
    first, second = (prediction.progress for prediction in model.predict_steps(clips, protocol))
    np.testing.assert_allclose(np.array(progress), np.stack([first, second[2:]], axis=1), atol=TOLERANCE)


def test_a_failed_first_append_leaves_the_size_open(model: Robometer, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = model.stream(["push"])
    with monkeypatch.context() as patch:
        patch.setattr(model.network, "read", lambda vectors: (vectors[:, :10] * torch.nan, vectors[:, 0]))
        with pytest.raises(NonFiniteOutputError):
            stream.append(noise(0, 1, (64, 32)))
    assert len(stream.append(noise(0, 1, (32, 32)))) == 1


def test_errors_name_the_clip_and_the_frame(model: Robometer, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = noise(0, 24, (32, 32))
    read = model.network.read

    def poisoned(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        progress, success = read(vectors)
        progress[-1] = torch.nan
        return progress, success

    monkeypatch.setattr(model.network, "read", poisoned)
    with pytest.raises(NonFiniteOutputError, match="progress that is not finite for clip 0, frame 23"):
        model.predict_steps([Clip(frames, "push")], NestedFrames(4), every=10)
    with pytest.raises(NonFiniteOutputError, match="clip 1, frame 2"):
        model.predict([Clip(frames[:4], "push"), Clip(frames[:3], "push")])


def test_prediction_goes_on_in_passes_of_the_token_budget(model: Robometer, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [episode(seed, length) for seed, length in enumerate((3, 8, 1, 5, 8))]
    pairs = [(a, Clip(b.frames, a.task)) for a, b in itertools.pairwise(clips)]
    predictions, preferences = model.predict(clips), model.compare(pairs, both_orders=True)
    monkeypatch.setattr(model, "token_budget", 600)
    sizes = []
    for name in ("decode", "_decode_chosen"):
        decode = getattr(model.network, name)
        watched = partial(lambda decode, ids, *rest: sizes.append(ids.numel()) or decode(ids, *rest), decode)
        monkeypatch.setattr(model.network, name, watched)
    assert_equal(model.predict(clips), predictions)
    np.testing.assert_allclose(model.compare(pairs, both_orders=True), preferences, atol=TOLERANCE)
    assert len(sizes) > 6
    assert model.predict([]) == []
    assert model.compare([]).shape == (0,)


def test_features_of_prediction_can_be_trained_through(model: Robometer) -> None:
    clip = episode(0, 3, 2)
    model.predict([clip])
    output = model.network(model.processor.progress_inputs([clip]))
    output.progress.sum().backward()
    assert model.network.model.visual.pos_embed.weight.grad is not None
    model.network.zero_grad()


def test_a_kind_of_nested_frames_with_its_own_stride(model: Robometer) -> None:
    class Sparse(NestedFrames):
        """Never shows neighbouring frames."""

        def stride(self, t: int) -> int:
            return max(2, super().stride(t))

    clip = episode(0, 15)
    expected = RewardModel.predict_steps(model, [clip], Sparse(4))
    assert_equal(model.predict_steps([clip], Sparse(4)), expected)
    stream = model.stream([clip.task], Sparse(4))
    progress = [stream.append(clip.read([t])).progress[0] for t in range(15)]
    np.testing.assert_allclose(progress, expected[0].progress, atol=TOLERANCE)


@pytest.mark.parametrize("max_frames", [2, 3, 5, 8])
def test_levels_are_the_strides(max_frames: int) -> None:
    protocol = NestedFrames(max_frames)
    strides = [stride for stride, steps in protocol.levels(200) for _ in steps]
    assert strides == [protocol.stride(t) for t in range(200)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("protocol", [NestedFrames(4), UniformFrames(4)], ids=str)
def test_low_precision_streams_stay_close(model: Robometer, dtype: str, protocol: FrameProtocol) -> None:
    low = load_reward_model(FIXTURES / "checkpoint", dtype=dtype)
    clip = episode(0, 12)
    stream = low.stream([clip.task], protocol)
    progress = [stream.append(clip.read([t])).progress[0] for t in range(12)]
    np.testing.assert_allclose(progress, model.predict_steps([clip], protocol)[0].progress, atol=0.02)


def test_a_protocol_longer_than_the_model_reads_is_refused_before_memory_is_taken(model: Robometer) -> None:
    clip = episode(0, 6)
    for protocol in (UniformFrames(1024), NestedFrames(1024)):
        stream = model.stream([clip.task], protocol)
        with pytest.raises(ValueError, match=r"a prompt of 1024 such frames .* this model was made for 4096"):
            stream.append(clip.read([0]))
    with pytest.raises(ValueError, match="this model was made for 4096"):
        model.predict_steps([clip], UniformFrames(1024))
    # Without padding no more is shown than there is.
    assert_equal(model.predict_steps([clip], NestedFrames(1024)), model.predict_steps([clip], NestedFrames(8)))


def test_wrong_calls_say_what_was_expected(model: Robometer) -> None:
    stream = model.stream(["push", "pull"])
    with pytest.raises(TypeError, match="one task per history"):
        model.stream("push")
    with pytest.raises(ValueError, match="got 1 frames, expected 2"):
        stream.append(noise(0, 1, (32, 32)))
    with pytest.raises(IndexError, match="from 0 to 1"):
        stream.append(noise(0, 2, (32, 32)), [0, 2])
    with pytest.raises(IndexError, match="distinct"):
        stream.reset([1, 1])
    with pytest.raises(TaskError, match="reserves"):
        stream.reset([1], ["pull <|prog_token|>"])
    assert stream.tasks == ["push", "pull"]
    with pytest.raises(TaskError, match="reserves"):
        model.stream(["<|image_pad|>"])
    assert len(stream.append([], [])) == 0


def test_eager_attention_gives_the_same_numbers(model: Robometer) -> None:
    eager = load_reward_model(FIXTURES / "checkpoint", attn_implementation="eager")
    clip = episode(0, 12)
    for protocol in (NestedFrames(4), UniformFrames(4)):
        assert_equal(eager.predict_steps([clip], protocol), model.predict_steps([clip], protocol))


def test_an_attention_without_masks_is_refused(model: Robometer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.network.model.language_model.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(UnsupportedAttentionError, match=r"flash_attention_2.*sdpa"):
        model.predict_steps([episode(0, 3)], NestedFrames(4))
    with pytest.raises(UnsupportedAttentionError):
        model.stream(["push"])
