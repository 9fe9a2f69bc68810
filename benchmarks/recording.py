"""Where benchmarks leave their numbers: one JSON file each, with where the numbers come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robometer_rl.files import write_text
from robometer_rl.provenance import provenance

__all__ = ["RESULTS", "write_result"]

RESULTS = Path(__file__).parent / "results"


def write_result(name: str, numbers: dict[str, Any]) -> Path:
    """Writes ``results/<name>.json`` with the numbers and their origin."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    write_text(path, json.dumps({"origin": provenance(), **numbers}, indent=1) + "\n")
    return path
