"""Messages: what is written is read, and bytes that lie about themselves are refused before memory is taken."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from robometer_rl.frames import FrameError
from robometer_rl.prediction import Prediction, StepPrediction
from robometer_rl.serving.pictures import Pictures
from robometer_rl.serving.wire import (
    WireError,
    decode,
    encode,
    pack_predictions,
    pack_step,
    parse,
    unpack_predictions,
    unpack_step,
)

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
ARRAYS = st.lists(st.tuples(SHAPES, st.sampled_from(["uint8", "float32", ">f4"])), max_size=5)


@given(arrays=ARRAYS, tasks=st.lists(st.text(), max_size=3))
def test_a_message_is_read_as_it_was_written(arrays: list[tuple[tuple[int, ...], str]], tasks: list[str]) -> None:
    random = np.random.default_rng(0)
    sent = [random.integers(0, 256, shape).astype(dtype) for shape, dtype in arrays]
    message = decode(encode({"tasks": tasks, "seq": 3}, sent))
    assert message.head == {"tasks": tasks, "seq": 3}
    for got, wanted in zip(message.arrays, sent, strict=True):
        assert got.dtype.name == wanted.dtype.name
        np.testing.assert_array_equal(got, wanted)
        assert not got.flags.writeable


def test_an_array_that_is_not_contiguous_is_sent_as_it_looks() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode(encode({}, [array])).arrays[0], array)


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_frames_may_be_pictures(encoding: str) -> None:
    smooth = np.linspace(0, 255, 2 * 16 * 24 * 3).astype(np.uint8).reshape(2, 16, 24, 3)
    sent = encode({"seq": 1}, [smooth, smooth[:1]], encoding)
    with pytest.raises(WireError, match="encoded arrays"):
        decode(sent)
    head, (first, second) = parse(sent)
    assert head == {"seq": 1}
    assert isinstance(first, Pictures)
    assert isinstance(second, Pictures)
    near = 0 if encoding == "png" else 12
    assert np.abs(first.unpack("it").astype(int) - smooth).max() <= near
    np.testing.assert_array_equal(first.unpack("it")[:1], second.unpack("it"))


def picture(mode: str, width: int, height: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (picture("RGB", 24, 16)[:50], "not a readable image"),
        (picture("RGB", 24, 16, "GIF"), "not a readable image"),
        (b"", "not a readable image"),
        (picture("RGB", 16, 24), "a RGB image of 16 x 24 pixels; expected RGB and 24 x 16"),
        (picture("L", 24, 16), "a L image"),
        (picture("RGB", 8000, 8000), "8000 x 8000"),
        (picture("1", 60_000, 60_000), "exceeds limit of"),
    ],
    ids=["cut off", "gif", "nothing", "size", "mode", "large", "bomb"],
)
def test_a_picture_of_another_size_or_kind_is_refused_before_it_is_unpacked(file: bytes, said: str) -> None:
    Image.init()  # which takes more memory than any of them
    tracemalloc.start()
    with pytest.raises(FrameError, match=said):
        Pictures((1, 16, 24, 3), [file]).unpack("it")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 << 20


def message(head: Any, payload: bytes = b"", start: bytes | None = None) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return (struct.pack("<4sB3xI", b"RBMT", 1, len(text)) if start is None else start) + text + payload


FRAMES = {"dtype": "uint8", "shape": [1, 2, 2, 3]}
ENCODED = FRAMES | {"encoding": "jpeg", "lengths": [4]}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "expected a head"),
        (b"RBMT", "expected a head"),
        (message({"arrays": [ENCODED]}, b"123"), "3 bytes are left"),
        (message({"arrays": [ENCODED]}, b"12345"), "follow the last array"),
        (message({"arrays": [ENCODED | {"lengths": None}]}, b"1234"), "one length per frame"),
        (message({"arrays": [ENCODED | {"lengths": [2, 2]}]}, b"1234"), "one length per frame"),
        (message({"arrays": [ENCODED | {"lengths": [True]}]}, b"1234"), "one length per frame"),
        (message({"arrays": [ENCODED | {"lengths": [-1]}]}, b"1234"), "one length per frame"),
        (message({"arrays": [ENCODED | {"shape": [1, 2, 2]}]}, b"1234"), "one length per frame"),
        (message({"arrays": [ENCODED | {"encoding": "gif"}]}, b"1234"), "expected uint8, and raw or one of"),
        (message({"arrays": [ENCODED | {"encoding": 3}]}, b"1234"), "expected uint8, and raw or one of"),
        (message({"arrays": [ENCODED | {"dtype": "float32"}]}, b"1234"), "expected uint8, and raw or one of"),
        (b"PNG\x00" + bytes(20), "begins with"),
        (struct.pack("<4sB3xI", b"RBMT", 2, 2) + b"{}", "version 2"),
        (struct.pack("<4sB3xI", b"RBMT", 1, 1 << 31) + b"{}", "claims 2147483648 bytes"),
        (message([]), "expected an object"),
        (message({}), "expected an object with a list 'arrays'"),
        (message(b"{nonsense"), "not valid JSON"),
        (message(b"\xff\xfe"), "the head is not read"),
        (message(b"[" * 100_000), "not valid JSON"),
        (message(b'{"arrays": [], "seq": NaN}'), "NaN"),
        (message({"arrays": 3}), "a list 'arrays'"),
        (message({"arrays": [FRAMES] * 5000}), "at most 4096"),
        (message({"arrays": [{"dtype": "object", "shape": [1]}]}), "a dtype of"),
        (message({"arrays": [{"dtype": "uint8", "shape": [-1]}]}, b"1"), "and a shape"),
        (message({"arrays": [{"dtype": "uint8", "shape": [True]}]}, b"1"), "and a shape"),
        (message({"arrays": [{"dtype": "uint8", "shape": [1.0]}]}, b"1"), "and a shape"),
        (message({"arrays": [{"dtype": "uint8", "shape": [1] * 9}]}, b"1"), "and a shape"),
        (message({"arrays": [{"dtype": ["uint8"], "shape": [1]}]}, b"1"), "a dtype of"),
        (message({"arrays": [FRAMES]}, bytes(11)), "claims 12 bytes; 11 are left"),
        (message({"arrays": [FRAMES]}, bytes(13)), "1 bytes follow"),
        (message({"arrays": [{"dtype": "uint8", "shape": [1 << 39, 1 << 39]}]}), "claims 3022314549036572936765"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, said: str) -> None:
    tracemalloc.start()
    with pytest.raises(WireError, match=said):
        decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.parametrize("has_success", [True, False])
def test_predictions_are_the_same_bit_for_bit(has_success: bool) -> None:
    random = np.random.default_rng(0)
    sent = []
    for count in (1, 5):
        progress, success = random.random((2, count), np.float32)
        origin = {"protocol": "nested(8)", "model_id": "mini", "every": count, "revision": None, "dtype": "bfloat16"}
        bins = random.random((count, 3), np.float32)
        sent.append(Prediction(progress, success if has_success else None, bins, **origin))
    heads, arrays = pack_predictions(sent)
    got = decode(encode({"predictions": heads}, arrays))
    for one, other in zip(unpack_predictions(got.head["predictions"], got.arrays), sent, strict=True):
        for name, value in vars(other).items():
            np.testing.assert_array_equal(getattr(one, name), value)
    step = StepPrediction(sent[1].progress, sent[1].success, sent[1].progress_distribution)
    head, arrays = pack_step(step)
    again = unpack_step(decode(encode(head, arrays)))
    np.testing.assert_array_equal(again.progress, step.progress)
    assert (again.success is None) is not has_success
    with pytest.raises(WireError, match="fewer arrays"):
        unpack_predictions(heads, arrays[:-1])
