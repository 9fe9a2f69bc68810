"""YAML and JSON that somebody else wrote: read within limits, and wrong in one way.

A few hundred bytes of YAML can stand for billions of values, since a list may contain another ten times over, nine
levels deep; and a thousand brackets are deeper than a parser can follow. Checkpoints and recipes come from strangers,
so every place that reads them reads them through this module.
"""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any, Final, NoReturn, cast

import yaml

__all__ = ["BoundedLoader", "DocumentError", "brief", "parse_json", "parse_yaml", "read_text"]

# A tokenizer of 150,000 words is 12 MB of JSON.
_MAX_BYTES: Final = 1 << 28
# PyYAML reads some 100 kB a second; the settings of a training are 5.
_MAX_YAML_CHARACTERS: Final = 300_000
_MAX_YAML_VALUES: Final = 100_000

_SHORT: Final = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = 120
_MAX_PROBLEM: Final = 500


class DocumentError(ValueError):
    """Text that is not what it should be; the message says what is wrong, and whoever read it says where it stands."""


def brief(value: object) -> str:
    """The value as an error message shows it, cut short however large it is."""
    return _SHORT.repr(value)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        DocumentError: Not UTF-8, or too large to be settings.
        OSError: The file cannot be read.
    """
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise DocumentError(f"it has {size} bytes; expected at most {_MAX_BYTES}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"it is not text in UTF-8: {error}") from error


def parse_json(text: str) -> Any:
    """Reads JSON; NaN and infinity, which JSON does not have, are errors like any other.

    Raises:
        DocumentError: Not JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"it is not valid JSON: {error}") from error


class BoundedLoader(yaml.SafeLoader):
    """PyYAML's safe loader for documents of bounded size, aliases written out; subclass it to know more tags."""

    def get_single_node(self) -> yaml.Node | None:
        """See `yaml.composer.Composer.get_single_node`."""
        node = super().get_single_node()
        if node is not None:
            _count_values(node, {}, [])
        return node


def parse_yaml(text: str, loader: type[BoundedLoader] = BoundedLoader) -> Any:
    """Reads YAML.

    Args:
        text: One document.
        loader: Says which tags are known.

    Raises:
        DocumentError: Not YAML, or more than settings can be: in characters, in depth, or in values once its aliases
            are written out.
    """
    if len(text) > _MAX_YAML_CHARACTERS:
        raise DocumentError(f"it has {len(text)} characters; expected at most {_MAX_YAML_CHARACTERS}")
    try:
        return yaml.load(text, Loader=loader)
    except DocumentError:
        raise
    # PyYAML's constructors of dates and numbers, and Python below them, have errors of their own.
    except (
        yaml.YAMLError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise DocumentError(f"it is not valid YAML: {str(error)[:_MAX_PROBLEM]}") from error


def _count_values(node: yaml.Node, counted: dict[int, int], above: list[int]) -> int:
    """Values that a node stands for, each alias counted as often as it is used; no node is looked at twice."""
    if id(node) in above:
        raise DocumentError("a value contains itself")
    if id(node) not in counted:
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = list(node.value)
        elif isinstance(node, yaml.MappingNode):
            pairs = cast(list[tuple[yaml.Node, yaml.Node]], node.value)
            children = [part for pair in pairs for part in pair]
        counted[id(node)] = 1 + sum(_count_values(child, counted, [*above, id(node)]) for child in children)
    if counted[id(node)] > _MAX_YAML_VALUES:
        raise DocumentError(f"its aliases stand for more than {_MAX_YAML_VALUES} values")
    return counted[id(node)]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not finite, which numbers in JSON are")
