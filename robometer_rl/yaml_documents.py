"""YAML that somebody else wrote: read within limits, and wrong in one way.

A few hundred bytes of YAML can stand for billions of values, since a list may contain another ten times over, nine
levels deep.
"""

from __future__ import annotations

from typing import Any, Final, cast

import yaml

from robometer_rl.documents import DocumentError

__all__ = ["BoundedLoader", "parse_yaml"]

# PyYAML reads some 100 kB a second; the settings of a training are 5.
_MAX_YAML_CHARACTERS: Final = 300_000
_MAX_YAML_VALUES: Final = 100_000
_MAX_PROBLEM: Final = 500


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
