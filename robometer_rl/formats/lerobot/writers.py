"""What becomes of the labels of a LeRobot dataset.

A sidecar is a directory beside the dataset::

    labels.parquet              one row per frame: index, episode_index, frame_index, progress, success, reward,
                                success_detected, imputed
    robometer_progress.parquet  what LeRobot's RA-BC weighting reads
    robometer.json              how the labels were made, and which episodes have none

A labelled copy is a LeRobot dataset v3.0 with the features of `robometer_rl.formats.lerobot.columns`, and with the
last two files of a sidecar; see `robometer_rl.formats.lerobot.copies`.

RA-BC (arXiv 2509.25358) weights every frame that a policy is trained on by the progress made over the chunk of actions
after it. LeRobot reads the progress from a Parquet file with the columns ``index``, ``episode_index``, ``frame_index``
and ``progress_sparse``, in which NaN means that nothing is known: ``lerobot/utils/rabc.py`` of lerobot 0.4.4, and
``lerobot/rewards/sarm/rabc.py`` of 0.6, whose ``compute_rabc_weights.py`` gave the file its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.extras import require
from robometer_rl.files import check_destination, check_outside, new_directory
from robometer_rl.formats.dataset import Labels, LabelWriter, Provenance
from robometer_rl.formats.lerobot.columns import INDICES, PROGRESS, REWARD, original_column, row_labels
from robometer_rl.formats.lerobot.copies import check_tables, copy_dataset, table_paths
from robometer_rl.formats.lerobot.layout import LeRobotLayout, open_parquet
from robometer_rl.formats.metadata import metadata, read_metadata, write_metadata

__all__ = ["LABELS_FILE", "PROGRESS_FILE", "LeRobotCopyWriter", "LeRobotSidecarWriter"]

LABELS_FILE: Final = "labels.parquet"
PROGRESS_FILE: Final = "robometer_progress.parquet"


class LeRobotSidecarWriter(LabelWriter):
    """Writes a directory of labels beside a dataset, see this module."""

    def __init__(self, layout: LeRobotLayout, destination: Path) -> None:
        self.layout = layout
        self.destination = destination

    def check(self) -> None:
        """See `LabelWriter.check`."""
        check_destination(self.destination)

    def written(self) -> Provenance | None:
        """See `LabelWriter.written`."""
        return read_metadata(self.destination)

    def write(self, labels: Labels) -> None:
        """See `LabelWriter.write`. Frames in tables that cannot be read have no rows in it."""
        reward = original_column(self.layout.features, REWARD)
        columns = [*INDICES, *([] if reward is None else [reward])]
        with new_directory(self.destination) as directory:
            tables = list(_readable_tables(self.layout.root, columns))
            table = require("pyarrow", "lerobot").concat_tables(tables).sort_by("index")
            rows = row_labels(table, labels, reward)
            made = {
                "progress": rows.progress,
                "success": rows.success,
                "reward": rows.rewards,
                "success_detected": rows.success_detected,
                "imputed": rows.imputed,
            }
            indices: dict[str, NDArray[Any]] = {name: table[name].to_numpy() for name in INDICES}
            notes = {"robometer": json.dumps(metadata(labels), ensure_ascii=False)}
            _write_table(directory / LABELS_FILE, indices | made, notes)
            _write_progress(directory / PROGRESS_FILE, indices | {PROGRESS: rows.progress}, labels)
            write_metadata(directory, labels)


class LeRobotCopyWriter(LabelWriter):
    """Writes a labelled copy of a dataset v3.0, see this module."""

    def __init__(self, layout: LeRobotLayout, destination: Path) -> None:
        self.layout = layout
        self.destination = destination

    def check(self) -> None:
        """See `LabelWriter.check`; a table of the dataset that could not be copied is an `OSError` too."""
        check_outside(self.destination, self.layout.root)
        check_destination(self.destination)
        check_tables(self.layout)

    def written(self) -> Provenance | None:
        """See `LabelWriter.written`."""
        return read_metadata(self.destination)

    def write(self, labels: Labels) -> None:
        """See `LabelWriter.write`."""
        with new_directory(self.destination) as directory:
            columns = copy_dataset(self.layout, directory, labels)
            _write_progress(directory / PROGRESS_FILE, columns, labels)
            write_metadata(directory, labels)


def _readable_tables(root: Path, columns: list[str]) -> Iterator[Any]:
    """Episodes whose tables cannot be read have no labels either."""
    for path in table_paths(root):
        try:
            yield open_parquet(path).read(columns=columns).select(columns)
        except (ValueError, KeyError, OSError):
            continue


def _write_progress(path: Path, columns: Mapping[str, NDArray[Any]], labels: Labels) -> None:
    """The layout that RA-BC reads, see this module."""
    order = np.argsort(columns["index"], kind="stable")
    rows = {name: columns[name][order] for name in INDICES} | {"progress_sparse": columns[PROGRESS][order]}
    _write_table(path, rows, {"reward_model_path": labels.provenance.model})


def _write_table(path: Path, columns: Mapping[str, NDArray[Any]], notes: Mapping[str, str]) -> None:
    table = require("pyarrow", "lerobot").table(columns).replace_schema_metadata(notes)
    require("pyarrow.parquet", "lerobot").write_table(table, path)
