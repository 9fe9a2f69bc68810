"""Files with one JSON object per line: what other data sets call metadata.jsonl."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robometer_rl.data.reading import SourceError
from robometer_rl.documents import DocumentError, read_text

__all__ = ["Field", "Line", "RecordError", "check_record", "is_text", "read_lines"]


class RecordError(ValueError):
    """A line that is not what the format asks for; the message names the field, its value and what is expected."""


@dataclass(frozen=True)
class Line:
    """One line that is not blank.

    Attributes:
        name: File and number of the line, counted from 1.
        text: What it says.
    """

    name: str
    text: str

    def record(self) -> dict[str, Any]:
        """The object on this line.

        Raises:
            RecordError: It is not a JSON object.
        """
        try:
            value = json.loads(self.text, parse_constant=_refuse_constant)
        except ValueError as error:
            raise RecordError(f"this is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise RecordError(f"got {self.text[:60]!r}; expected a JSON object in braces")
        return value


@dataclass(frozen=True)
class Field:
    """What a field of a record may hold.

    Attributes:
        accepts: Whether a value may stand there; never asked about null, which means that the field is left out.
        expected: The same in words, for error messages.
        required: Whether it may be left out.
    """

    accepts: Callable[[Any], bool]
    expected: str
    required: bool = False


def read_lines(path: Path) -> list[Line]:
    """The lines of ``path`` in order, blank ones left out.

    Raises:
        SourceError: The file is missing, is not text in UTF-8, or has not one line with a JSON object.
    """
    try:
        text = read_text(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise SourceError(f"there is no file {path}; expected one JSON object per line there") from error
    except (DocumentError, OSError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    # splitlines() would also break at U+2028, which JSON allows inside strings.
    numbered = enumerate(text.split("\n"), start=1)
    lines = [Line(f"{path}, line {number}", line.strip()) for number, line in numbered if line.strip()]
    if not any(_holds_object(line) for line in lines):
        raise SourceError(f"{path} has no line with a JSON object; expected one object per line, as in {{...}}")
    return lines


def _refuse_constant(name: str) -> None:
    # Python reads NaN and Infinity, which JSON does not have and a store would not write.
    raise ValueError(f"{name} is no JSON value")


def _holds_object(line: Line) -> bool:
    try:
        line.record()
    except RecordError:
        return False
    return True


def check_record(record: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """The fields of ``record`` that are set.

    Raises:
        RecordError: A field is missing, unknown, or holds something else than is expected of it.
    """
    unknown = sorted(set(record) - set(fields))
    if unknown:
        raise RecordError(f"unknown field {unknown[0]!r}; expected some of {', '.join(fields)}")
    values = {name: value for name, value in record.items() if value is not None}
    for name, field in fields.items():
        if name not in values:
            if field.required:
                raise RecordError(f"the field {name!r} is missing; expected {field.expected}")
        elif not field.accepts(values[name]):
            raise RecordError(f"the field {name!r} is {values[name]!r}; expected {field.expected}")
    return values


def is_text(value: Any) -> bool:
    """Whether ``value`` is a string with something in it."""
    return isinstance(value, str) and bool(value.strip())
