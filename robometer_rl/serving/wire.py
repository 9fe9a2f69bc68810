"""Frames and predictions as bytes: a JSON head and the arrays behind it, nothing that needs a parser beyond JSON.

A message is ``RBMT``, a version byte, three bytes 0, the length of the head (uint32, little endian), the head (a JSON
object in UTF-8), and the arrays that the head lists under ``arrays``, one after the other, in C order, little endian.
Raw frames cost no time to pack and almost none to unpack; over a local network that is cheaper than any compression.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.documents import DocumentError, brief, parse_json
from robometer_rl.prediction import Prediction, StepPrediction

__all__ = [
    "MEDIA_TYPE",
    "MODEL_FACTS",
    "Message",
    "WireError",
    "decode",
    "encode",
    "pack_predictions",
    "pack_step",
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


def encode(head: Mapping[str, Any], arrays: Sequence[NDArray[Any]]) -> bytes:
    """The message with this head and these arrays of uint8 or float32."""
    little = [np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for array in arrays]
    listed = [{"dtype": array.dtype.name, "shape": list(array.shape)} for array in little]
    text = json.dumps({**head, "arrays": listed}, separators=(",", ":"), allow_nan=False).encode()
    # Buffers of no bytes cannot be cast.
    data = [array.data.cast("B") for array in little if array.nbytes]
    return b"".join([_START.pack(_MAGIC, _VERSION, len(text)), text, *data])


def decode(data: bytes) -> Message:
    """Reads a message; what it claims is compared with what is there before anything is taken.

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
    arrays = []
    for number, entry in enumerate(listed):
        dtype, shape = _described(entry, number)
        size = math.prod(shape) * dtype.itemsize
        if size > len(data) - start:
            raise WireError(f"array {number} claims {size} bytes; {len(data) - start} are left")
        arrays.append(np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape))
        start += size
    if start != len(data):
        raise WireError(f"{len(data) - start} bytes follow the last array")
    return Message(head, arrays)


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
