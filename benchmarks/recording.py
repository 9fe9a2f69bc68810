"""What every benchmark records beside its numbers: versions, machine, command."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

__all__ = ["RESULTS", "origin", "write_result"]

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "transformers", "numpy", "gymnasium", "robometer-rl")


def origin() -> dict[str, Any]:
    """Where and how the numbers of this process are made."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["python", *(Path(sys.argv[0]).as_posix(), *sys.argv[1:])]),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def write_result(name: str, numbers: dict[str, Any]) -> Path:
    """Writes ``results/<name>.json`` with the numbers and their origin."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"origin": origin(), **numbers}, indent=1) + "\n")
    return path


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
