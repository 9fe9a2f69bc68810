"""Golden data of the published reward models besides Robometer; what is large lies beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parents[2] / "fixtures" / "baselines"
BESIDE = Path(__file__).parents[3].parent / "shared" / "fixtures"


def beside(*names: str) -> Path:
    """A recording that is too large for the repository; the test is skipped without it."""
    path = BESIDE.joinpath(*names)
    if not path.exists():
        pytest.skip(f"needs {path}")
    return path
