"""Where numbers come from: versions, machine, date and command. One form for everything that this package measures."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from robometer_rl.documents import parse_json, read_text

__all__ = ["PACKAGES", "RECORD_FILE", "command_line", "processor", "provenance", "read_record", "versions"]

PACKAGES: Final = ("robometer-rl", "torch", "transformers", "numpy", "gymnasium")
"""What decides the numbers of a model and of an environment."""

RECORD_FILE: Final = "training.json"
"""Beside the weights of a checkpoint that was trained with this package: its data, options and report."""


def provenance(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Where and how the numbers of this process are made, as plain values for JSON.

    Args:
        packages: Distributions whose versions matter; all must be installed.

    Returns:
        ``date`` (UTC), ``command``, ``python``, ``packages`` by name, ``processor``, ``threads`` that torch uses, and
        the name of the ``gpu``, None without one.
    """
    import torch

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command_line(),
        "python": platform.python_version(),
        "packages": versions(packages),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Installed versions by name of the distribution."""
    return {name: version(name) for name in packages}


def command_line() -> str:
    """The command of this process as it can be typed again, without the machine's directories."""
    module = sys.modules["__main__"].__spec__
    if module is not None and module.origin == sys.argv[0]:  # python -m
        return shlex.join(["python", "-m", module.name.removesuffix(".__main__"), *sys.argv[1:]])
    program = Path(sys.argv[0])
    # An installed program is found by its name, a file by its path from where it is run.
    shown = [program.name] if program.suffix != ".py" else ["python", _from_here(program)]
    return shlex.join([*shown, *sys.argv[1:]])


def processor() -> str:
    """The name of the processor as its maker writes it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _from_here(program: Path) -> str:
    absolute, here = program.absolute(), Path.cwd()
    return (absolute.relative_to(here) if absolute.is_relative_to(here) else Path(program.name)).as_posix()


def read_record(directory: Path) -> dict[str, Any] | None:
    """The record of the training of a checkpoint; None if it was trained elsewhere.

    Raises:
        ValueError: The file is not a record.
    """
    path = directory / RECORD_FILE
    if not path.is_file():
        return None
    record = parse_json(read_text(path))
    if not isinstance(record, dict) or not {"start", "data", "options"} <= set(record):
        raise ValueError(f"{path} is not the record of a training; remove it")
    return record
