"""The modules of the library and the files that they are, found on disk, without importing any of them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "wrappers":
        parts = ("robometer_rl", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


LIBRARY = {_name(path): path for folder in ("robometer_rl", "wrappers") for path in (ROOT / folder).rglob("*.py")}
"""Module name to file, packages included."""
