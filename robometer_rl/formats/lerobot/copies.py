"""Copies a LeRobot dataset v3.0 with labels in its tables and statistics.

Tables are rewritten one row group after the other, so that images in them never fill the memory; nothing is decoded.
Videos are hard links to those of the original where the file system allows it, and copies elsewhere. Changed in the
descriptions: the features and their statistics, of each episode where they are noted, and of the dataset.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.documents import parse_json, read_text
from robometer_rl.extras import require
from robometer_rl.formats.dataset import Labels
from robometer_rl.formats.lerobot.columns import (
    INDICES,
    REWARD,
    STATISTICS,
    describe,
    label_features,
    original_column,
    originals_to_keep,
    row_labels,
    statistics,
)
from robometer_rl.formats.lerobot.layout import LeRobotLayout, column_values, open_parquet

__all__ = ["check_tables", "copy_dataset", "table_paths"]

Columns = dict[str, NDArray[Any]]

_INFO: Final = Path("meta/info.json")
_STATS: Final = Path("meta/stats.json")
_NO_COPY: Final = "a copy would be damaged like the original: repair it, or write a sidecar"


def table_paths(root: Path) -> list[Path]:
    """The tables of frames, in the order in which LeRobot reads them."""
    return sorted((root / "data").rglob("*.parquet"))


def check_tables(layout: LeRobotLayout) -> None:
    """Reads the headers of all tables of frames.

    Raises:
        OSError: One of them is damaged, or lacks a column, and so would that of a copy.
    """
    columns = {*INDICES, *originals_to_keep(layout.features)}
    for path in table_paths(layout.root):
        try:
            names = open_parquet(path).schema_arrow.names
        # What pyarrow raises for damaged files is a ValueError.
        except ValueError as error:
            raise OSError(f"{path} cannot be read ({error}); {_NO_COPY}") from error
        if missing := columns.difference(names):
            raise OSError(f"{path} lacks the columns {sorted(missing)}; {_NO_COPY}")


def copy_dataset(layout: LeRobotLayout, directory: Path, labels: Labels) -> Columns:
    """Fills a directory.

    Args:
        layout: The dataset.
        directory: An empty directory.
        labels: Of the dataset.

    Returns:
        The indices and all columns that labelling makes, (N,) each: of every frame, in the order of the tables.
    """
    _copy_files(layout.root, directory)
    columns = _copy_tables(layout, directory, labels)
    made = {name: values for name, values in columns.items() if name not in INDICES}
    _copy_episodes(layout.root, directory, columns["episode_index"], made)
    _copy_descriptions(layout, directory, made)
    return columns


def _copy_files(root: Path, directory: Path) -> None:
    """All but the tables and descriptions that are rewritten, and the notes of programs that download."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        is_table = path.suffix == ".parquet" and (name.parts[0] == "data" or name.parts[:2] == ("meta", "episodes"))
        if is_table or name in (_INFO, _STATS) or name.parts[0] == ".cache" or not path.is_file():
            continue
        target = _with_parent(directory / name)
        if name.parts[0] == "videos":
            _link_or_copy(path, target)
        else:
            shutil.copyfile(path, target)


def _with_parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _copy_tables(layout: LeRobotLayout, directory: Path, labels: Labels) -> Columns:
    columns = [*INDICES, *label_features(layout.features)]
    pieces: dict[str, list[NDArray[Any]]] = {name: [] for name in columns}
    for path in table_paths(layout.root):
        target = _with_parent(directory / path.relative_to(layout.root))
        for table in _copy_table(layout.features, path, target, labels):
            for name in columns:
                pieces[name].append(column_values(table[name]))
    return {name: np.concatenate(arrays) for name, arrays in pieces.items()}


def _copy_table(features: Mapping[str, Any], source: Path, target: Path, labels: Labels) -> Iterator[Any]:
    """Copies one table with its labels, and yields what it has written, group by group."""
    file = open_parquet(source)
    schema = _labelled(features, file.schema_arrow.empty_table(), labels).schema
    with require("pyarrow.parquet", "lerobot").ParquetWriter(target, schema) as writer:
        for group in range(file.num_row_groups):
            table = _labelled(features, file.read_row_group(group), labels)
            writer.write_table(table, row_group_size=max(1, table.num_rows))
            yield table


def _labelled(features: Mapping[str, Any], table: Any, labels: Labels) -> Any:
    """Rows with their labels, and with what these replace under another name."""
    pa = require("pyarrow", "lerobot")
    made = row_labels(table, labels, original_column(features, REWARD)).columns()
    columns = {kept: table[name] for name, kept in originals_to_keep(features).items()}
    columns |= {name: pa.chunked_array([pa.array(values)]) for name, values in made.items()}
    notes = table.schema.metadata or {}
    for name, column in columns.items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return table.replace_schema_metadata(_described(notes, describe(features), list(columns)))


def _described(notes: dict[bytes, bytes], features: Mapping[str, Any], names: list[str]) -> dict[bytes, bytes]:
    """The notes of a table, with new columns where the library `datasets` describes columns."""
    if b"huggingface" not in notes:
        return notes
    description = json.loads(notes[b"huggingface"])
    # It identifies a content that is another now.
    description.pop("fingerprint", None)
    for name in names:
        description["info"]["features"][name] = {"dtype": features[name]["dtype"], "_type": "Value"}
    return notes | {b"huggingface": json.dumps(description).encode()}


def _copy_episodes(root: Path, directory: Path, episode_index: NDArray[np.int64], made: Columns) -> None:
    """Copies the tables of episodes, with statistics of the columns that were made where there are statistics."""
    for path in sorted((root / "meta" / "episodes").rglob("*.parquet")):
        table = open_parquet(path).read()
        if any(name.startswith("stats/") for name in table.column_names):
            rows = [np.flatnonzero(episode_index == index) for index in table["episode_index"].to_pylist()]
            for name, values in made.items():
                table = _with_statistics(table, name, values, rows)
        require("pyarrow.parquet", "lerobot").write_table(table, _with_parent(directory / path.relative_to(root)))


def _with_statistics(table: Any, feature: str, values: NDArray[Any], rows: list[NDArray[np.int64]]) -> Any:
    pa = require("pyarrow", "lerobot")
    found = [statistics(values[chosen]) for chosen in rows]
    number = {"b": pa.bool_(), "i": pa.int64(), "u": pa.int64()}.get(values.dtype.kind, pa.float64())
    types = dict.fromkeys(STATISTICS, pa.float64()) | {"min": number, "max": number, "count": pa.int64()}
    for statistic in STATISTICS:
        name = f"stats/{feature}/{statistic}"
        column = pa.array([None if each is None else each[statistic] for each in found], pa.list_(types[statistic]))
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return table


def _copy_descriptions(layout: LeRobotLayout, directory: Path, made: Columns) -> None:
    _write_json(_with_parent(directory / _INFO), {**layout.info, "features": describe(layout.features)})
    if (layout.root / _STATS).is_file():
        stats = parse_json(read_text(layout.root / _STATS), nan=True)
        known = {name: found for name, values in made.items() if (found := statistics(values)) is not None}
        _write_json(directory / _STATS, stats | known)


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=4, ensure_ascii=False) + "\n", "utf-8")
