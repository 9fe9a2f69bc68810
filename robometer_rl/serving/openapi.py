"""What ``/openapi.json`` says of bodies and answers, which FastAPI cannot know: routes read requests themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from robometer_rl.serving.wire import MEDIA_TYPE

__all__ = ["COUNTERS", "ERRORS", "MESSAGE", "NOTHING", "RESET", "SAMPLES", "SAMPLES_NPY", "STREAM", "answers"]

Description = Mapping[str, Any]


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _list(items: Description, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "integer", "minimum": 0}
_TASKS: Final = _list({"type": "string", "minLength": 1, "maxLength": 2000}, minItems=1)
_OR_NOTHING: Final = {"type": "null"}
_BYTES: Final = {"schema": {"type": "string", "format": "binary"}}

_ERROR: Final = _object(
    ["error", "detail"],
    error=_object(["type", "message", "field"], type=_TEXT, message=_TEXT, field={"type": ["string", "null"]}),
    detail=_TEXT,
)
ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    kind: {
        "description": "What is wrong; docs/serving.md lists the types",
        "content": {"application/json": {"schema": _ERROR}},
    }
    for kind in ("4XX", "5XX", 422)
}
"""Answers that say no, of every route."""

_DEADLINE: Final = {
    "name": "X-Deadline-Ms",
    "in": "header",
    "description": "Milliseconds for which the answer is waited for",
    "schema": {"type": "integer", "minimum": 0, "maximum": 10**12 - 1},
}


def _request(**content: Any) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}, "parameters": [_DEADLINE]}


def _json(schema: Description) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


MESSAGE: Final = _request(**{MEDIA_TYPE: _BYTES})
"""A message of `robometer_rl.serving.wire`, with frames."""

_PROTOCOL: Final = {"type": "string", "examples": ["nested(8)", "uniform(8)"]}
STREAM: Final = _request(**{MEDIA_TYPE: _BYTES}, **_json(_object(["tasks"], tasks=_TASKS, protocol=_PROTOCOL)))
"""A stream without or, as a message, with frames."""

_INDICES: Final = {"anyOf": [_list(_NUMBER), _OR_NOTHING]}
RESET: Final = _request(
    **{MEDIA_TYPE: _BYTES},
    **_json(_object(["seq"], seq=_NUMBER, indices=_INDICES, tasks={"anyOf": [_TASKS, _OR_NOTHING]})),
)
"""Histories to be emptied."""

_PIXELS: Final = _list({"type": "array"}, description="(T, H, W, 3) integers from 0 to 255")
_TRAJECTORY: Final = _object(
    ["task"],
    frames=_PIXELS,
    task=_TEXT,
    frames_shape=_list(_NUMBER),
    views={"type": "object", "description": "frames by the name of their camera, in place of frames: they are tiled"},
    primary_view=_TEXT,
    secondary_views=_list(_TEXT),
    target_width=_NUMBER,
    target_height=_NUMBER,
    primary_height_fraction={"type": "number"},
    tiled={"type": "boolean", "description": "whether frames show several cameras in one picture"},
)
_SAMPLE: Final = _object(
    ["sample_type"],
    sample_type={"enum": ["progress", "preference"]},
    trajectory=_TRAJECTORY,
    chosen_trajectory=_TRAJECTORY,
    rejected_trajectory=_TRAJECTORY,
)
SAMPLES: Final = _request(
    **_json(_object(["samples"], samples=_list(_SAMPLE, minItems=1), use_frame_steps={"type": "boolean"}))
)
"""Samples of the reference's server, pixels as lists."""

SAMPLES_NPY: Final = _request(
    **{
        "multipart/form-data": {
            "schema": {
                **_object(["sample_0"], sample_0=_TEXT, use_frame_steps={"enum": ["true", "false"]}),
                "additionalProperties": {"type": "string", "format": "binary"},
            }
        }
    }
)
"""Samples of the reference's server, each a text field with JSON, arrays as files that it refers to."""

NOTHING: Final = {"parameters": [_DEADLINE]}
"""No body."""


def answers(schema: Description | None = None, *, message: bool = False) -> dict[int | str, dict[str, Any]]:
    """Answers of a route that says yes with such JSON, and on demand with a message."""
    content = _json(schema or {"type": "object"}) | ({MEDIA_TYPE: _BYTES} if message else {})
    return {200: {"description": "The answer", "content": content}}


COUNTERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "Counters", "content": {"text/plain": {"schema": _TEXT}}}
}
"""The answer to Prometheus."""
