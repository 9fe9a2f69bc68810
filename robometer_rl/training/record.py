"""What a finished checkpoint says about its training: a file beside the weights, from which model cards are made."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from robometer_rl.data.labels import group_key
from robometer_rl.data.trajectories import Trajectories
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.files import write_text
from robometer_rl.provenance import RECORD_FILE
from robometer_rl.training.config import TrainConfig

__all__ = ["write_record"]

_PLACES = ("data", "exclude", "output", "preferences", "start")  # options that name directories of a machine


def write_record(
    directory: Path, config: TrainConfig, trajectories: Sequence[Trajectory], report: Mapping[str, Any]
) -> None:
    """Writes the record of a training.

    Args:
        directory: Of the checkpoint.
        config: What was asked for; places on this machine are left out.
        trajectories: What it was trained on.
        report: What was done: seconds of each stage, calibration, and ``provenance``, whose command is left out.
    """
    provenance = {name: fact for name, fact in report["provenance"].items() if name != "command"}
    options = {name: value for name, value in asdict(config).items() if name not in _PLACES}
    record = {
        "start": _without_directory(config.start),
        "data": _data(trajectories),
        **report,
        "provenance": provenance,
        "options": options,
    }
    write_text(directory / RECORD_FILE, json.dumps(record, indent=2, default=str) + "\n")


def _data(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """How much of what there was, by data source."""
    tasks: dict[str, set[str]] = {}
    frames: Counter[str] = Counter()
    episodes: dict[str, Counter[str]] = {}
    for each in Trajectories.of(trajectories).facts():
        tasks.setdefault(each.data_source, set()).add(group_key(each))
        frames[each.data_source] += len(each)
        episodes.setdefault(each.data_source, Counter())[each.quality_label] += 1
    return {
        source: {
            "tasks": len(tasks[source]),
            "frames": frames[source],
            "episodes": dict(sorted(episodes[source].items())),
        }
        for source in sorted(tasks)
    }


def _without_directory(start: str | None) -> str | None:
    return Path(start).name if start is not None and Path(start).exists() else start
