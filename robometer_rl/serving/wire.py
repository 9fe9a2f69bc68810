"""Frames and predictions as bytes: a JSON head and the arrays behind it; raw, it needs no parser beyond that of JSON.

A message is ``RBMT``, a version byte, three bytes 0, the length of the head (uint32, little endian), the head (a JSON
object in UTF-8), and the arrays that the head lists under ``arrays``, one after the other, in C order, little endian.
Raw frames cost no time to pack and almost none to unpack; over a local network that is cheaper than any compression.
For slower links frames may be pictures: the list then has their ``encoding``, and ``lengths`` with the bytes of each.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.documents import DocumentError, brief, parse_json
from robometer_rl.prediction import Prediction, StepPrediction
from robometer_rl.serving.pictures import ENCODINGS, Pictures, compress

__all__ = [
    "MEDIA_TYPE",
    "MODEL_FACTS",
    "Message",
    "WireError",
    "decode",
    "encode",
    "pack_predictions",
    "pack_step",
    "parse",
    "unpack_predictions",
    "unpack_step",
]

MEDIA_TYPE: Final = "application/x-robometer"

MODEL_FACTS: Final = (
    "model_id",
    "revision",
    "dtype",
    "device",
    "bins",
    "success_threshold",
    "has_progress",
    "has_success",
    "causal",
    "tiled",
)
"""Attributes of a model that its clients have, too."""

_START: Final = struct.Struct("<4sB3xI")
_MAGIC: Final = b"RBMT"
_VERSION: Final = 1
_LONGEST_HEAD: Final = 8 << 20  # 256 clips with the longest tasks, and their shapes
_MOST_ARRAYS: Final = 4096
_DTYPES: Final = {"uint8": np.dtype("uint8"), "float32": np.dtype("<f4")}


class WireError(ValueError):
    """Bytes that are no message; the text says what was expected."""


@dataclass(frozen=True)
class Message:
    """What a message says.

    Attributes:
        head: Its head, without ``arrays``.
        arrays: Its arrays; they share the memory of the message and cannot be written to.
    """

    head: dict[str, Any]
    arrays: list[NDArray[Any]]


def encode(head: Mapping[str, Any], arrays: Sequence[NDArray[Any]], encoding: str | None = None) -> bytes:
    """The message with this head and these arrays of uint8 or float32; given an encoding, frames are sent as pictures.

    Raises:
        ImportError: Pictures are asked for and Pillow is not installed.
    """
    if encoding is not None:
        return _join(head, [_packed(frames, encoding) for frames in arrays])
    little = [np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for array in arrays]
    # Buffers of no bytes cannot be cast.
    data = [[array.data.cast("B")] if array.nbytes else [] for array in little]
    listed = [{"dtype": array.dtype.name, "shape": list(array.shape)} for array in little]
    return _join(head, list(zip(listed, data, strict=True)))


def _packed(frames: NDArray[np.uint8], encoding: str) -> tuple[dict[str, Any], Sequence[bytes]]:
    files = compress(frames, encoding)
    facts = {"dtype": "uint8", "shape": list(frames.shape), "encoding": encoding, "lengths": list(map(len, files))}
    return facts, files


def _join(head: Mapping[str, Any], arrays: Sequence[tuple[dict[str, Any], Sequence[Any]]]) -> bytes:
    """A head, and what it says of each array and the bytes of it."""
    listed = [facts for facts, _ in arrays]
    text = json.dumps({**head, "arrays": listed}, separators=(",", ":"), allow_nan=False).encode()
    data = [part for _, parts in arrays for part in parts]
    return b"".join([_START.pack(_MAGIC, _VERSION, len(text)), text, *data])


def decode(data: bytes) -> Message:
    """Reads a message whose arrays are all raw; see `parse`.

    Raises:
        WireError: Not such a message.
    """
    head, parts = parse(data)
    arrays = [part for part in parts if not isinstance(part, Pictures)]
    if len(arrays) < len(parts):
        raise WireError("the message has encoded arrays; expected raw ones")
    return Message(head, arrays)


def parse(data: bytes) -> tuple[dict[str, Any], list[NDArray[Any] | Pictures]]:
    """Reads a message; what it claims is compared with what is there before anything is taken.

    Returns:
        Its head, without ``arrays``, and the arrays, of which those that were encoded are still to be unpacked.

    Raises:
        WireError: Not a message, or one whose lengths lie.
    """
    if len(data) < _START.size:
        raise WireError(f"the message has {len(data)} bytes; expected a head of {_START.size} at least")
    magic, version, length = _START.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        raise WireError(
            f"the message begins with {magic!r}, version {version}; expected {_MAGIC!r}, version {_VERSION}"
        )
    if length > min(_LONGEST_HEAD, len(data) - _START.size):
        raise WireError(
            f"the head claims {length} bytes; {len(data) - _START.size} follow, at most {_LONGEST_HEAD} are taken"
        )
    start = _START.size + length
    try:
        head = parse_json(data[_START.size : start].decode())
    except (DocumentError, UnicodeDecodeError) as error:
        raise WireError(f"the head is not read: {error}") from error
    listed = head.pop("arrays", None) if isinstance(head, dict) else None
    if not isinstance(listed, list) or len(listed) > _MOST_ARRAYS:
        raise WireError(f"the head is {brief(head)}; expected an object with a list 'arrays' of at most {_MOST_ARRAYS}")
    arrays: list[NDArray[Any] | Pictures] = []
    for number, entry in enumerate(listed):
        dtype, shape = _described(entry, number)
        if entry.get("encoding", "raw") != "raw":
            lengths = _lengths(entry, number, len(data) - start)
            ends = list(accumulate(lengths, initial=start))
            arrays.append(Pictures(shape, [data[begin:end] for begin, end in pairwise(ends)]))
            start = ends[-1]
            continue
        size = math.prod(shape) * dtype.itemsize
        if size > len(data) - start:
            raise WireError(f"array {number} claims {size} bytes; {len(data) - start} are left")
        arrays.append(np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape))
        start += size
    if start != len(data):
        raise WireError(f"{len(data) - start} bytes follow the last array")
    return head, arrays


def _lengths(entry: Mapping[str, Any], number: int, left: int) -> list[int]:
    """Bytes of each picture of an array."""
    encoding, lengths = entry["encoding"], entry.get("lengths")
    if not isinstance(encoding, str) or encoding not in ENCODINGS or entry["dtype"] != "uint8":
        raise WireError(
            f"array {number} is {brief(entry['dtype'])} encoded as {brief(encoding)}; expected uint8, and raw or one "
            f"of {sorted(ENCODINGS)}"
        )
    shape = entry["shape"]
    if (
        not isinstance(lengths, list)
        or any(type(each) is not int or not 0 <= each < 1 << 40 for each in lengths)
        or len(shape) != 4
        or len(lengths) != shape[0]
        or sum(lengths) > left
    ):
        raise WireError(
            f"array {number} of the shape {brief(shape)} has pictures of {brief(lengths)} bytes, and {left} bytes are "
            "left; expected (T, H, W, 3) and one length per frame"
        )
    return lengths


def _described(entry: object, number: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    dtype = entry.get("dtype") if isinstance(entry, dict) else None
    is_shape = isinstance(shape, list) and len(shape) <= 8 and all(type(n) is int and 0 <= n < 1 << 40 for n in shape)
    if not isinstance(dtype, str) or dtype not in _DTYPES or not is_shape:
        raise WireError(
            f"array {number} is described as {brief(entry)}; expected a dtype of {sorted(_DTYPES)} and a shape"
        )
    assert isinstance(shape, list)  # as was just seen
    return _DTYPES[dtype], tuple(shape)


def pack_predictions(predictions: Sequence[Prediction]) -> tuple[list[dict[str, Any]], list[NDArray[Any]]]:
    """What a head says of predictions, and their arrays: the inverse of `unpack_predictions`."""
    heads = [
        {
            "protocol": said.protocol,
            "every": said.every,
            "model_id": said.model_id,
            "revision": said.revision,
            "dtype": said.dtype,
            "has_success": said.success is not None,
        }
        for said in predictions
    ]
    return heads, [array for said in predictions for array in _arrays(said)]


def unpack_predictions(heads: Sequence[Mapping[str, Any]], arrays: Sequence[NDArray[Any]]) -> list[Prediction]:
    """The predictions that a message holds.

    Raises:
        WireError: As many heads as arrays do not belong together.
        KeyError: A head that lacks something.
    """
    found, left = [], list(arrays)
    for head in heads:
        origin = {name: head[name] for name in ("protocol", "every", "model_id", "revision", "dtype")}
        found.append(Prediction(*_taken(left, head["has_success"]), **origin))
    return found


def pack_step(said: StepPrediction) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """What a head says of the newest frames of histories, and the arrays."""
    return {"has_success": said.success is not None}, _arrays(said)


def unpack_step(message: Message) -> StepPrediction:
    """The inverse of `pack_step`."""
    return StepPrediction(*_taken(list(message.arrays), message.head["has_success"]))


def _arrays(said: Prediction | StepPrediction) -> list[NDArray[Any]]:
    return [array for array in (said.progress, said.success, said.progress_distribution) if array is not None]


def _taken(left: list[NDArray[Any]], has_success: bool) -> tuple[Any, Any, Any]:
    """Progress, success and distribution, from the front of what is left."""
    if len(left) < 2 + has_success:
        raise WireError("the message has fewer arrays than its predictions need")
    return left.pop(0), left.pop(0) if has_success else None, left.pop(0)
