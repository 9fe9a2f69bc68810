"""Packages that only some readers need: they are imported when such a reader is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["require"]


def require(module: str, extra: str) -> Any:
    """A module of a package that may not be installed.

    Args:
        module: Its full name.
        extra: What of this package's extras brings it.

    Raises:
        ImportError: It is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f'{error.name} is missing: pip install "robometer-rl[{extra}]"', name=error.name) from error
