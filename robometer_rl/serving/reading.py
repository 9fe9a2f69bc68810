"""From bodies of requests to what the model is asked: every value is checked, and the error names the one at fault."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.documents import DocumentError, brief, parse_json
from robometer_rl.frames import Clip, FrameError, check_task
from robometer_rl.serving.calls import Frames
from robometer_rl.serving.limits import Limits
from robometer_rl.serving.pictures import Pictures
from robometer_rl.serving.problems import Problem
from robometer_rl.serving.slots import Restored
from robometer_rl.serving.wire import MEDIA_TYPE, Message, WireError, parse

__all__ = [
    "LIMIT_FACTS",
    "boolean",
    "clips",
    "histories",
    "integer",
    "integers",
    "message",
    "pairs",
    "stream_frames",
    "texts",
]

LIMIT_FACTS: Final = ("body", "clips", "frames", "side", "histories")
"""Limits that clients keep to."""

_LONG: Final = 1 << 20


async def message(content_type: str, body: bytes, limits: Limits) -> Message:
    """The body of a request: a message, or a JSON object that is its head.

    Raises:
        Problem: Neither, or pictures of too many pixels.
        FrameError: Pictures that are none.
    """
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == MEDIA_TYPE:
            head, parts = parse(body)
            return Message(head, await _unpacked(parts, limits))
        if kind != "application/json":
            raise Problem(
                415, "unsupported_media", f"got the content type {kind[:80]!r}; expected {MEDIA_TYPE} or JSON"
            )
        head = await asyncio.to_thread(parse_json, body.decode()) if len(body) > _LONG else parse_json(body.decode())
    except (WireError, DocumentError, UnicodeDecodeError) as error:
        raise Problem(400, "malformed", f"the body is not read: {error}") from error
    if not isinstance(head, dict):
        raise Problem(400, "malformed", f"the body is {brief(head)}; expected an object")
    return Message(head, [])


async def _unpacked(parts: Sequence[NDArray[Any] | Pictures], limits: Limits) -> list[NDArray[Any]]:
    """Arrays, and those that are pictures unpacked; what they claim to become is looked at first."""
    encoded = {number: part for number, part in enumerate(parts) if isinstance(part, Pictures)}
    for number, part in encoded.items():
        limits.check_frames(part.shape, f"array {number}")
    if (size := sum(math.prod(part.shape) for part in encoded.values())) > limits.body:
        raise Problem(
            413, "too_large", f"the pictures unpack to {size} bytes; this server takes {limits.body}", "arrays"
        )
    arrays = [part for part in parts if not isinstance(part, Pictures)]
    if not encoded:
        return arrays
    unpacked = await asyncio.to_thread(lambda: [part.unpack(f"array {n}") for n, part in encoded.items()])
    raw, pictures = iter(arrays), iter(unpacked)
    return [next(pictures) if number in encoded else next(raw) for number in range(len(parts))]


def clips(given: Message, limits: Limits) -> list[Clip]:
    """One clip per array and task."""
    tasks = texts(given.head, "tasks")
    limits.check_count(len(tasks), "clips", "tasks")
    return [Clip(frames, task) for frames, task in zip(_videos(given, len(tasks), limits), tasks, strict=True)]


def pairs(given: Message, limits: Limits) -> list[tuple[Clip, Clip]]:
    """One pair per task, and two arrays each."""
    tasks = texts(given.head, "tasks")
    limits.check_count(len(tasks), "pairs", "tasks")
    videos = _videos(given, 2 * len(tasks), limits)
    return [
        (Clip(first, task), Clip(second, task))
        for first, second, task in zip(videos[::2], videos[1::2], tasks, strict=True)
    ]


def stream_frames(given: Message, limits: Limits) -> tuple[list[int], Frames]:
    """Histories and a frame for each; the arrays hold frames of one size each, in the order of the histories."""
    indices = integers(given.head, "indices")
    limits.check_count(len(indices), "frames", "indices")
    videos = _videos(given, len(given.arrays), limits)
    if (count := sum(map(len, videos))) != len(indices):
        raise Problem(422, "value", f"got {count} frames for {len(indices)} histories", "indices")
    return indices, [frame for video in videos for frame in video]


def histories(given: Message, limits: Limits) -> list[Restored] | None:
    """Histories that are to be restored: lengths and numbers of frames in the head, one array for each of them."""
    listed = given.head.get("restore")
    if listed is None:
        return None
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise Problem(422, "value", f"restore is {brief(listed)}; expected a list of objects", "restore")
    left = iter(_videos(given, len(given.arrays), limits))
    found = []
    for entry in listed:
        length, numbers = integer(entry, "length", 0), integers(entry, "frames")
        frames = next(left, None) if numbers else np.zeros((0, 1, 1, 3), np.uint8)
        if frames is None or len(frames) != len(numbers):
            raise Problem(
                422, "value", f"a history of the frames {brief(numbers)} has another number of them", "restore"
            )
        found.append(Restored(length, dict(zip(numbers, frames, strict=True))))
    return found


def _videos(given: Message, count: int, limits: Limits) -> list[NDArray[np.uint8]]:
    """Arrays of frames (T, H, W, 3)."""
    if len(given.arrays) != count:
        raise Problem(422, "value", f"got {len(given.arrays)} arrays of frames; expected {count}", "arrays")
    for number, array in enumerate(given.arrays):
        if array.dtype != np.uint8:
            raise Problem(415, "unsupported_media", f"array {number} is {array.dtype}; expected uint8", "arrays")
        limits.check_frames(array.shape, f"array {number}")
        if array.shape[3] != 3 or 0 in array.shape:
            raise FrameError(f"array {number} has the shape {list(array.shape)}; expected RGB frames (T, H, W, 3)")
    return given.arrays


def texts(head: Mapping[str, Any], name: str) -> list[str]:
    """A list of tasks."""
    value = head.get(name)
    if not isinstance(value, list):
        raise Problem(422, "value", f"{name} is {brief(value)}; expected a list of texts", name)
    return [check_task(text) for text in value]


def integer(head: Mapping[str, Any], name: str, least: int, default: int | None = None) -> int:
    """A number."""
    value = head.get(name, default)
    if type(value) is not int or not least <= value < 1 << 53:
        raise Problem(422, "value", f"{name} is {brief(value)}; expected an integer of {least} or more", name)
    return value


def integers(head: Mapping[str, Any], name: str) -> list[int]:
    """A list of numbers."""
    value = head.get(name)
    if not isinstance(value, list) or any(type(each) is not int or not 0 <= each < 1 << 53 for each in value):
        raise Problem(422, "value", f"{name} is {brief(value)}; expected a list of integers of 0 or more", name)
    return value


def boolean(head: Mapping[str, Any], name: str) -> bool:
    """Yes or no; no if it is not there."""
    value = head.get(name, False)
    if not isinstance(value, bool):
        raise Problem(422, "value", f"{name} is {brief(value)}; expected true or false", name)
    return value
