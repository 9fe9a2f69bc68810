"""JSON: what others wrote is read within limits, and wrong in one way; for YAML see `robometer_rl.yaml_documents`.

A thousand brackets are deeper than a parser can follow. Checkpoints and recipes come from strangers, so every place
that reads them reads them through these two modules. This one needs nothing but Python: whoever only asks a reward
server has nothing else.
"""

from __future__ import annotations

import json
import logging
import math
import reprlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from robometer_rl.files import check_regular

__all__ = [
    "MAX_BYTES",
    "DocumentError",
    "brief",
    "options_of",
    "parse_json",
    "parse_object",
    "parse_options",
    "read_records",
    "read_text",
    "without_nan",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BYTES: Final = 1 << 28
"""Of a text; a tokenizer of 150,000 words is 12 MB of JSON."""

_SHORT: Final = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = 120


class DocumentError(ValueError):
    """Text that is not what it should be; the message says what is wrong, and whoever read it says where it stands."""


def brief(value: object) -> str:
    """The value as an error message shows it, cut short however large it is."""
    return _SHORT.repr(value)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        DocumentError: Not UTF-8, or too large to be settings.
        OSError: The file cannot be read, or is a pipe or a device.
    """
    if (size := check_regular(path).st_size) > MAX_BYTES:
        raise DocumentError(f"it has {size} bytes; expected at most {MAX_BYTES}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"it is not text in UTF-8: {error}") from error


def parse_json(text: str, *, nan: bool = False) -> Any:
    """Reads JSON; NaN and infinity, which JSON does not have, are errors like any other.

    Args:
        text: One document.
        nan: Take them nevertheless, as libraries write them into tables of statistics.

    Raises:
        DocumentError: Not JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=None if nan else _refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"it is not valid JSON: {error}") from error


def parse_object(text: str) -> dict[str, Any]:
    """Reads JSON that is an object, see `parse_json`.

    Raises:
        DocumentError: Something else.
    """
    found = parse_json(text)
    if not isinstance(found, dict):
        raise DocumentError(f"it holds {type(found).__name__}; expected an object")
    return found


def options_of(kind: type[T], values: Mapping[str, Any]) -> T:
    """Options from their fields as JSON has them; absent fields take their defaults.

    Args:
        kind: Their dataclass, which checks what it is given.
        values: Its fields by name.

    Raises:
        ValueError: An unknown field, or a value that is wrong in any way, its type included: it comes from a file or a
            command line.
    """
    name, known = kind.__name__, [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
    if unknown := sorted(map(str, set(values) - set(known))):
        raise ValueError(f"unknown {name} fields {unknown}; the fields of {name} are {known}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(str(error)) from error


def parse_options(kind: type[T], text: str) -> T:
    """Reads options from a JSON object; see `options_of`."""
    expected = f"expected a JSON object with {kind.__name__} fields, got {brief(text)}"
    try:
        values = parse_json(text)
    except DocumentError as error:
        raise ValueError(f"{expected}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(expected)
    return options_of(kind, values)


def read_records(path: Path, kind: type[T]) -> list[T]:
    """The records of a file with one JSON object per line, as `robometer_rl.files.append_line` writes them.

    A last line without its end, whose writer was killed, is left out, which the log says.

    Args:
        path: The file.
        kind: The dataclass of its lines, which checks what it is given.

    Raises:
        DocumentError: A line is something else; the message names it.
        OSError: The file cannot be read, or is a pipe or a device.
    """
    check_regular(path)
    found = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                logger.warning("%s, line %d, has no end and is left out", path, number)
            elif line.strip():
                try:
                    found.append(parse_options(kind, line.decode("utf-8")))
                except ValueError as error:  # of the encoding, too
                    raise DocumentError(f"{path}, line {number}: {error}") from error
    return found


def without_nan(value: Any) -> Any:
    """The same plain values for JSON, which has no NaN and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not finite, which numbers in JSON are")
