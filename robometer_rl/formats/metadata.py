"""What is written once for a whole dataset: how its labels were made, and which episodes have none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from robometer_rl.documents import parse_json, read_text
from robometer_rl.formats.dataset import Labels, Provenance

__all__ = ["FILE_NAME", "metadata", "read_metadata", "stored_provenance", "write_metadata"]

FILE_NAME: Final = "robometer.json"
"""The file of directories that were labelled."""


def metadata(labels: Labels) -> dict[str, Any]:
    """JSON values: ``provenance`` (`Provenance.to_dict`), ``labelled`` (a count), ``skipped`` (names and reasons)."""
    return {
        "provenance": labels.provenance.to_dict(),
        "labelled": len(labels.episodes),
        "skipped": [asdict(entry) for entry in labels.skipped],
    }


def stored_provenance(values: Mapping[str, Any]) -> Provenance | None:
    """The provenance in what `metadata` made; None if it is that of another release."""
    try:
        return Provenance.from_dict(values["provenance"])
    except (KeyError, TypeError, ValueError):
        return None


def write_metadata(directory: Path, labels: Labels) -> None:
    """Writes `metadata` into a directory."""
    (directory / FILE_NAME).write_text(json.dumps(metadata(labels), indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_metadata(directory: Path) -> Provenance | None:
    """How the labels in a directory were made; None if there are none, or if this release did not make them."""
    try:
        return stored_provenance(parse_json(read_text(directory / FILE_NAME)))
    except (OSError, ValueError):
        return None
