from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robometer_rl.frames import (
    MAX_FRAMES,
    MAX_TASK_LENGTH,
    Clip,
    FrameError,
    FrameProtocol,
    NestedFrames,
    TaskError,
    UniformFrames,
    as_array,
    as_frame,
    as_frames,
    check_task,
    grey_stacks,
    parse_protocol,
    scored_steps,
)

INDICES = Path(__file__).parent / "fixtures" / "robometer_tiny" / "subsample_indices.json"
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)
GREY = RGB[..., :1]


@pytest.mark.parametrize(
    ("given_frames", "expected"),
    [
        (RGB, RGB),
        (RGB.transpose(0, 3, 1, 2), RGB),
        (list(RGB), RGB),
        (RGB.astype(np.float32) / 255, RGB),
        (RGB.astype(np.float64).transpose(0, 3, 1, 2) / 255, RGB),
        (RGB.tolist(), RGB),  # int64
        (np.zeros((0, 6, 8, 3), np.uint8), None),
        (np.zeros((4, 0, 8, 3), np.uint8), None),
        ([], None),
        (GREY, None),
        (RGB[..., 0], None),
        (RGB[0], None),
        (RGB[None], None),
        (np.concatenate([RGB, GREY], axis=3), None),
        (RGB.astype(np.int32), RGB),
        (RGB.astype(np.uint16) * 257, None),
        (RGB.astype(np.int16) - 1, None),
        (RGB > 127, None),
        (RGB.astype(np.float32), None),
        (-RGB.astype(np.float32) / 255, None),
        (np.full((1, 6, 8, 3), np.nan), None),
        (np.full((1, 6, 8, 3), np.inf), None),
        ([RGB[0], RGB[0, :3]], None),
    ],
)
def test_frames_are_converted_on_stated_rules_or_refused(given_frames: Any, expected: np.ndarray | None) -> None:
    if expected is None:
        with pytest.raises(FrameError, match=r"expected|one size"):
            as_frames(given_frames)
    else:
        converted = as_frames(given_frames)
        assert converted.dtype == np.uint8
        assert converted.flags.c_contiguous
        np.testing.assert_array_equal(converted, expected)


def test_three_channels_at_the_end_win_over_three_in_second_place() -> None:
    frames = RNG.integers(0, 256, (2, 3, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(as_frames(frames), frames)


def test_grey_frames_are_refused_with_what_to_do() -> None:
    with pytest.raises(FrameError, match="repeat the channel"):
        as_frames(GREY)


def test_one_frame_follows_the_same_rules() -> None:
    np.testing.assert_array_equal(as_frame(RGB[0].transpose(2, 0, 1)), RGB[0])
    with pytest.raises(FrameError, match=r"one frame of shape \(4, 6, 8, 3\)"):
        as_frame(RGB)


@pytest.mark.parametrize("task", ["", "  \n", None, 3, b"open", ["open"]])
def test_a_task_is_a_string_with_something_in_it(task: Any) -> None:
    with pytest.raises(TaskError, match="non-empty instruction"):
        Clip(RGB, task)


def test_a_task_is_no_book() -> None:
    assert check_task("x" * MAX_TASK_LENGTH)
    with pytest.raises(TaskError, match=r"got a task of 5000 characters.*at most 2000") as raised:
        Clip(RGB, "x" * 5000)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("frames", [None, 3, "frames", GREY, RGB[0], np.zeros((0, 6, 8, 3), np.uint8)])
def test_a_clip_refuses_what_cannot_be_frames(frames: Any) -> None:
    with pytest.raises(FrameError):
        Clip(frames, "open the drawer")


class Decoder:
    """Like a video decoder: knows its shape, gives slices, and counts what it decoded."""

    def __init__(self) -> None:
        self.shape = RGB.shape
        self.decoded = 0

    def __len__(self) -> int:
        return len(RGB)

    def __getitem__(self, index: slice) -> np.ndarray:
        self.decoded += len(RGB[index])
        return RGB[index]


def test_a_clip_reads_only_the_frames_asked_for() -> None:
    decoder = Decoder()
    clip = Clip(decoder, "open the drawer")
    assert len(clip) == 4
    assert decoder.decoded == 0
    np.testing.assert_array_equal(clip.read([3, 1, 1]), RGB[[3, 1, 1]])
    assert decoder.decoded == 3
    np.testing.assert_array_equal(clip.read(), RGB)


def test_a_clip_of_a_list_is_stacked() -> None:
    np.testing.assert_array_equal(Clip(list(RGB), "open the drawer").read([2]), RGB[2:3])  # pyright: ignore[reportArgumentType]


def test_uniform_frames_are_the_published_ones() -> None:
    recorded = json.loads(INDICES.read_text())["linspace"]
    checked = 0
    for key, indices in recorded.items():
        count, max_frames = (int(part) for part in key.split(","))
        slots = UniformFrames(max_frames).slots(count - 1)
        shown = indices + [indices[-1]] * (max_frames - len(indices))
        assert slots.tolist() == shown, key
        checked += 1
    assert checked > 50
    assert UniformFrames(8).slots(31).tolist() == [0, 4, 9, 13, 18, 22, 27, 31]


def test_one_uniform_frame_is_the_newest() -> None:
    assert UniformFrames(1).slots(5).tolist() == [5]


steps = st.integers(0, 5000)
protocols = st.one_of(st.integers(1, 17).map(UniformFrames), st.integers(2, 17).map(NestedFrames))


@given(protocols, steps)
def test_a_protocol_shows_history_in_order_up_to_the_step(protocol: FrameProtocol, t: int) -> None:
    slots = protocol.slots(t)
    assert len(slots) <= protocol.max_frames
    assert slots[-1] == t
    assert (np.diff(slots) >= 0).all()
    assert slots[0] == (t if protocol.max_frames == 1 else 0)


@given(protocols, st.integers(0, 300), st.integers(0, 300))
def test_what_a_protocol_forgets_is_never_shown_again(protocol: FrameProtocol, t: int, later: int) -> None:
    seen = set(range(t + 1))
    forgotten = seen - set(protocol.retained(t).tolist())
    assert not forgotten & set(protocol.slots(t + later + 1).tolist())


@given(st.integers(2, 17), steps)
def test_nested_frames_are_multiples_of_the_smallest_power_of_two_that_fits(max_frames: int, t: int) -> None:
    protocol = NestedFrames(max_frames)
    stride = protocol.stride(t)
    assert stride & (stride - 1) == 0
    assert -(-t // stride) <= max_frames - 1
    assert stride == 1 or -(-t // (stride // 2)) > max_frames - 1
    assert protocol.slots(t).tolist() == [*range(0, t, stride), t]
    assert len(protocol.retained(t)) <= max_frames


@given(st.integers(2, 12), st.integers(1, 400))
def test_levels_cut_a_history_into_its_strides(max_frames: int, num_steps: int) -> None:
    protocol = NestedFrames(max_frames)
    levels = list(protocol.levels(num_steps))
    assert [t for _, level in levels for t in level] == list(range(num_steps))
    assert all(protocol.stride(t) == stride for stride, level in levels for t in level)


@given(st.integers(2, 12), st.integers(1, 400))
def test_neighbouring_steps_of_one_stride_share_their_prefix(max_frames: int, t: int) -> None:
    protocol = NestedFrames(max_frames)
    if protocol.stride(t) == protocol.stride(t + 1):
        before, after = protocol.slots(t)[:-1].tolist(), protocol.slots(t + 1)[:-1].tolist()
        assert after[: len(before)] == before


@pytest.mark.parametrize("protocol", [UniformFrames(5), NestedFrames(5)])
def test_protocols_survive_their_name(protocol: FrameProtocol) -> None:
    assert parse_protocol(str(protocol)) == protocol
    assert parse_protocol(protocol.name) == type(protocol)()  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("text", ["", "linear(8)", "nested(-1)", "nested(8", "nested (8)", "nested(1)", "uniform(0)"])
def test_an_unknown_protocol_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"protocol|max_frames"):
        parse_protocol(text)


@pytest.mark.parametrize("kind", [UniformFrames, NestedFrames])
def test_a_protocol_shows_no_more_than_a_model_could_read(kind: type[UniformFrames] | type[NestedFrames]) -> None:
    assert parse_protocol(f"{kind.name}({MAX_FRAMES})") == kind(MAX_FRAMES)
    for number in ("1025", "99999999999", "9" * 5000):
        with pytest.raises(ValueError, match=r"show at most 1024 at once|unknown frame protocol") as raised:
            parse_protocol(f"{kind.name}({number})")
        assert len(str(raised.value)) < 300


@pytest.mark.parametrize("max_frames", [0, 1.5, True, "8", None])
@pytest.mark.parametrize("kind", [UniformFrames, NestedFrames])
def test_max_frames_is_a_count(kind: type[UniformFrames] | type[NestedFrames], max_frames: Any) -> None:
    with pytest.raises(ValueError, match="max_frames"):
        kind(max_frames)


def test_steps_count_from_zero() -> None:
    for protocol in (UniformFrames(), NestedFrames()):
        with pytest.raises(ValueError, match="count from 0"):
            protocol.slots(-1)


@given(st.integers(1, 500), st.integers(1, 60))
def test_every_kth_frame_and_the_last_are_scored(num_frames: int, every: int) -> None:
    scored = scored_steps(num_frames, every).tolist()
    assert scored == sorted({*range(0, num_frames, every), num_frames - 1})


def test_an_interval_longer_than_all_episodes_leaves_both_ends() -> None:
    assert scored_steps(5, 10**30).tolist() == [0, 4]


@pytest.mark.parametrize(("num_frames", "every"), [(0, 1), (5, 0), (5, -2), (5, 1.0), (5, True)])
def test_scoring_needs_a_frame_and_a_positive_interval(num_frames: int, every: Any) -> None:
    with pytest.raises(ValueError, match=r"every|at least one frame"):
        scored_steps(num_frames, every)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_tensors_of_any_type_are_frames(dtype: torch.dtype) -> None:
    floats = dtype.is_floating_point
    frames = (torch.from_numpy(RGB).double() / (255 if floats else 1)).to(dtype).requires_grad_(floats)
    # The half types hold no more than 8 or 11 bits of a pixel.
    tolerance = {torch.bfloat16: 1, torch.float16: 1}.get(dtype, 0)
    for given_frames in (frames, frames.permute(0, 3, 1, 2), list(frames)):
        np.testing.assert_allclose(as_frames(given_frames).astype(int), RGB, atol=tolerance)
    np.testing.assert_allclose(as_frame(frames[0]).astype(int), RGB[0], atol=tolerance)
    np.testing.assert_allclose(Clip(frames, "open").read([2, 0]).astype(int), RGB[[2, 0]], atol=tolerance)  # pyright: ignore[reportArgumentType]


def test_arrays_are_not_copied_without_need() -> None:
    assert as_array(RGB) is RGB
    assert np.shares_memory(as_array(torch.from_numpy(RGB)), RGB)
    assert as_array(torch.tensor([True, False])).dtype == np.bool_


@pytest.mark.parametrize(
    ("frame", "advice"),
    [
        (RGB[0, ..., 0], r"repeat the channel.*np.stack\(\[frame\] \* 3"),
        (RGB[0, ..., :1], "repeat the channel"),
        (RGB[0, ..., :1].transpose(2, 0, 1), "repeat the channel"),
        (np.concatenate([RGB[0], GREY[0]], -1), r"drop the last channel, frame\[..., :3\]; or four grey frames"),
        (np.zeros((6, 8, 9), np.uint8), "frames on top of each other: give the newest one"),
        (np.zeros((4, 6, 8, 3), np.uint8), r"give the newest one, frame\[-1\]"),
        (RGB[0].astype(np.float32), r"convert with frame.astype\(np.uint8\), or divide by 255"),
        (RGB[0].astype(np.uint16) * 257, "depth is no colour"),
        (None, "None; expected"),
        ({"image": RGB[0]}, "expected"),
    ],
)
def test_a_frame_that_is_no_colour_image_says_what_to_do(frame: Any, advice: str) -> None:
    with pytest.raises(FrameError, match=advice):
        as_frame(frame)


class TestGreyStacks:
    SHOWN = RNG.integers(0, 256, (5, 6, 8), dtype=np.uint8)

    def stack(self, t: int) -> np.ndarray:
        return self.SHOWN[t : t + 3].transpose(1, 2, 0)

    @pytest.mark.parametrize("kind", [np.array, torch.tensor])
    def test_the_newest_frame_moves_the_others_up(self, kind: Any) -> None:
        grey = np.repeat(self.SHOWN[0][..., None], 3, -1)
        now = [self.stack(1), self.stack(2), self.stack(0), grey]
        before = [self.stack(0), self.stack(0), self.stack(1), grey]
        assert grey_stacks([kind(each) for each in now], [kind(each) for each in before]) == [True, False, False, False]

    def test_other_sizes_say_nothing(self) -> None:
        assert grey_stacks([RGB[0], torch.tensor(RGB[0])], [RGB[0, :3], torch.tensor(RGB[0])]) == [False, False]
        assert grey_stacks([], []) == []


UNREADABLE = {
    "meta": lambda: torch.zeros(5, 6, 3, device="meta"),
    "sparse": lambda: torch.zeros(5, 6, 3).to_sparse(),
    "quantised": lambda: torch.quantize_per_tensor(torch.zeros(5, 6, 3), 0.1, 0, torch.quint8),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", UNREADABLE)
def test_tensors_without_readable_values_are_named(kind: str) -> None:
    frame = UNREADABLE[kind]()
    frames: Any = [frame]
    for read in (lambda: as_frame(frame), lambda: as_frames(frames), lambda: Clip(frames, "push").read()):
        with pytest.raises(FrameError, match=r"got a tensor of shape \(5, 6, 3\) .*; expected a dense tensor"):
            read()


def test_images_that_are_no_rectangles_are_named() -> None:
    with pytest.raises(FrameError, match="expected RGB frames"):
        as_frame([[[0, 0, 0]], [[0, 0]]])
