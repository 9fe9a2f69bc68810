"""The results of an evaluation: tables for the terminal, JSON for the record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table

from robometer_rl.evaluation.metrics import Estimate
from robometer_rl.files import write_text

__all__ = ["SCHEMA_VERSION", "Evaluation", "Measured"]

SCHEMA_VERSION: Final = 2

Measured = Mapping[str, Mapping[str, Estimate]]
"""Metrics by condition, then by name."""


@dataclass(frozen=True)
class Evaluation:
    """The results.

    Attributes:
        conditions: Of all episodes; see `robometer_rl.evaluation.measures.measure` for the names.
        groups: The same by group of episodes, where groups were asked for.
        facts: What was evaluated on what.
    """

    conditions: Measured
    facts: Mapping[str, Any]
    groups: Mapping[str, Measured] = field(default_factory=dict)

    @property
    def metrics(self) -> Mapping[str, Estimate]:
        """Of the episodes as they were recorded."""
        return self.conditions["recorded"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined is None."""
        conditions = _plain(self.conditions)
        return _without_nan(
            {
                "schema_version": SCHEMA_VERSION,
                **self.facts,
                "metrics": conditions.pop("recorded"),
                "conditions": conditions,
                "groups": {name: _plain(measured) for name, measured in self.groups.items()},
            }
        )

    def write(self, path: Path) -> None:
        """Writes the JSON file; its directory is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(self.as_dict(), indent=2) + "\n")

    def tables(self) -> list[Table]:
        """One table of all episodes and one per group, with a column per condition."""
        title = f"{self.facts['model']}, {self.facts['protocol']}, every {self.facts['every']}"
        tables = [_table(title, self.conditions)]
        return tables + [_table(name, measured) for name, measured in self.groups.items()]


def _plain(measured: Measured) -> dict[str, Any]:
    return {
        condition: {name: estimate.as_dict() for name, estimate in metrics.items()}
        for condition, metrics in measured.items()
    }


def _table(title: str, measured: Measured) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    for condition in measured:
        table.add_column(f"{condition}\n(95 % interval)", justify="right", no_wrap=True)
        table.add_column("n", justify="right")
    # A group can lack what a metric is about; what no condition has is not shown.
    names = dict.fromkeys(name for metrics in measured.values() for name in metrics)
    for name in names:
        estimates = [metrics.get(name) for metrics in measured.values()]
        if any(estimate is not None and estimate.count for estimate in estimates):
            table.add_row(name, *(cell for estimate in estimates for cell in _cells(estimate)))
    return table


def _cells(estimate: Estimate | None) -> tuple[str, str]:
    if estimate is None or not estimate.count:
        return "", ""
    interval = "" if np.isnan(estimate.low) else f" ({estimate.low:.3f} to {estimate.high:.3f})"
    return f"{estimate.value:.3f}{interval}", str(estimate.count)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: it becomes null."""
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, float) and np.isnan(value):
        return None
    return value
