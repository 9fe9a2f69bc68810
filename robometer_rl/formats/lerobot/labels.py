"""The labels of a LeRobot dataset: a labelled copy of it, or a directory beside it.

A labelled copy is a LeRobot dataset v3.0 with these features:

=============================== ======= ==============================================================================
``next.reward``                 float32 What the step pays.
``next.success``                bool    Whether the success rule holds after the step.
``robometer.progress``          float32 Predicted progress in the observation of the row.
``robometer.success``           float32 Predicted success probability in it.
``robometer.return``            float32 Discounted sum of rewards from the step on.
``robometer.advantage``         float32 Of the step over the value of the observation of the row.
``robometer.imputed``           bool    Whether the outcome of the step was not recorded: the last one of an episode.
``robometer.original_reward``           The original ``next.reward``, if there was one.
``robometer.original_success``          The original ``next.success``, if there was one.
=============================== ======= ==============================================================================

LeRobot does not allow a slash in names of features. Tables are rewritten one row group after the other, so that images
in them never fill the memory; nothing is decoded. Videos are hard links to those of the original where the file system
allows it, and copies elsewhere. Changed in the descriptions: the features and their statistics, of each episode where
they are noted, and of the dataset.

A sidecar is a directory beside the dataset, whose last two files a copy has too::

    labels.parquet              one row per frame: index, episode_index, frame_index, progress, success, reward,
                                return, advantage, success_detected, imputed
    robometer_progress.parquet  what LeRobot's RA-BC weighting reads
    robometer.json              how the labels were made, and which episodes have none

Returns and advantages are those of `robometer_rl.relabeling.returns`.

RA-BC (arXiv 2509.25358) weights every frame that a policy is trained on by the progress made over the chunk of actions
after it. LeRobot reads the progress from a Parquet file with the columns ``index``, ``episode_index``, ``frame_index``
and ``progress_sparse``, in which NaN means that nothing is known: ``lerobot/utils/rabc.py`` of lerobot 0.4.4, and
``lerobot/rewards/sarm/rabc.py`` of 0.6, whose ``compute_rabc_weights.py`` gave the file its name.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.documents import parse_json, read_text
from robometer_rl.extras import require
from robometer_rl.files import check_outside, new_directory
from robometer_rl.formats.dataset import (
    LABEL_ARRAYS,
    DirectoryWriter,
    EpisodeLabels,
    Labels,
    metadata,
    write_metadata,
)
from robometer_rl.formats.lerobot.layout import LeRobotLayout, column_values, open_parquet

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "INDICES",
    "LABELS_FILE",
    "PROGRESS",
    "PROGRESS_FILE",
    "QUANTILES",
    "REWARD",
    "STORED",
    "SUCCESS",
    "LeRobotCopyWriter",
    "LeRobotSidecarWriter",
    "RowLabels",
    "episode_key",
    "original_column",
    "sidecar_labels",
    "statistics",
]

Columns = dict[str, NDArray[Any]]

LABELS_FILE: Final = "labels.parquet"
PROGRESS_FILE: Final = "robometer_progress.parquet"

INDICES: Final = ("index", "episode_index", "frame_index")

REWARD: Final = "next.reward"
SUCCESS: Final = "next.success"
PROGRESS: Final = "robometer.progress"

_PROBABILITY: Final = "robometer.success"
_RETURN: Final = "robometer.return"
_ADVANTAGE: Final = "robometer.advantage"
_IMPUTED: Final = "robometer.imputed"
_ORIGINALS: Final = {REWARD: "robometer.original_reward", SUCCESS: "robometer.original_success"}

_TYPES: Final = {
    REWARD: "float32",
    SUCCESS: "bool",
    PROGRESS: "float32",
    _PROBABILITY: "float32",
    _RETURN: "float32",
    _ADVANTAGE: "float32",
    _IMPUTED: "bool",
}

QUANTILES: Final = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}

STATISTICS: Final = ("min", "max", "mean", "std", "count", *QUANTILES)
"""What LeRobot notes of every feature, per episode and of the whole dataset."""

_INFO: Final = Path("meta/info.json")
_STATS: Final = Path("meta/stats.json")
_NO_COPY: Final = "a copy would be damaged like the original: repair it, or write a sidecar"


class LeRobotSidecarWriter(DirectoryWriter):
    """Writes a directory of labels beside a dataset, see this module."""

    def __init__(self, layout: LeRobotLayout, destination: Path) -> None:
        self.layout = layout
        self.destination = destination

    def write(self, labels: Labels) -> None:
        """See `LabelWriter.write`. Frames in tables that cannot be read have no rows in it."""
        reward = original_column(self.layout.features, REWARD)
        columns = [*INDICES, *([] if reward is None else [reward])]
        with new_directory(self.destination) as directory:
            tables = list(_readable_tables(self.layout.root, columns))
            table = require("pyarrow", "lerobot").concat_tables(tables).sort_by("index")
            rows = _row_labels(table, labels, reward)
            made = {
                "progress": rows.progress,
                "success": rows.success,
                "reward": rows.rewards,
                "return": rows.returns,
                "advantage": rows.advantages,
                "success_detected": rows.success_detected,
                "imputed": rows.imputed,
            }
            indices: dict[str, NDArray[Any]] = {name: table[name].to_numpy() for name in INDICES}
            notes = {"robometer": json.dumps(metadata(labels), ensure_ascii=False)}
            _write_table(directory / LABELS_FILE, indices | made, notes)
            _write_progress(directory / PROGRESS_FILE, indices | {PROGRESS: rows.progress}, labels)
            write_metadata(directory, labels)


class LeRobotCopyWriter(DirectoryWriter):
    """Writes a labelled copy of a dataset v3.0, see this module."""

    def __init__(self, layout: LeRobotLayout, destination: Path) -> None:
        self.layout = layout
        self.destination = destination

    def check(self) -> None:
        """See `LabelWriter.check`; a table of the dataset that could not be copied is an `OSError` too."""
        check_outside(self.destination, self.layout.root)
        super().check()
        _check_tables(self.layout)

    def write(self, labels: Labels) -> None:
        """See `LabelWriter.write`."""
        with new_directory(self.destination) as directory:
            columns = _copy_dataset(self.layout, directory, labels)
            _write_progress(directory / PROGRESS_FILE, columns, labels)
            write_metadata(directory, labels)


STORED: Final = {
    REWARD: "rewards",
    SUCCESS: "success_detected",
    PROGRESS: "progress",
    _PROBABILITY: "success",
    _RETURN: "returns",
    _ADVANTAGE: "advantages",
    _IMPUTED: "imputed",
}
"""Columns of a labelled copy, by what `EpisodeLabels` calls them."""

_IN_SIDECAR: Final = {"reward": "rewards", "return": "returns", "advantage": "advantages"}


def sidecar_labels(directory: Path, index: int) -> EpisodeLabels | None:
    """The labels of an episode, by its number, in a sidecar; None if there are none.

    Raises:
        ValueError: The file is none of labels.
        OSError: It cannot be read.
    """
    path = directory / LABELS_FILE
    if not path.is_file():
        return None
    table = open_parquet(path).read()
    if missing := {*INDICES, "progress", "reward"}.difference(table.column_names):
        raise ValueError(f"{path} lacks the columns {sorted(missing)}, which files of labels have")
    is_own = require("pyarrow.compute", "lerobot").equal(table["episode_index"], index)
    rows = table.filter(is_own).sort_by("frame_index")
    names = {str(name): _IN_SIDECAR.get(name, str(name)) for name in rows.column_names}
    arrays = {own: column_values(rows[name]) for name, own in names.items() if own in LABEL_ARRAYS}
    return EpisodeLabels.read(episode_key(index), arrays)


def _readable_tables(root: Path, columns: list[str]) -> Iterator[Any]:
    """Episodes whose tables cannot be read have no labels either."""
    for path in _table_paths(root):
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


def _table_paths(root: Path) -> list[Path]:
    """The tables of frames, in the order in which LeRobot reads them."""
    return sorted((root / "data").rglob("*.parquet"))


def _check_tables(layout: LeRobotLayout) -> None:
    """Reads the headers of all tables of frames.

    Raises:
        OSError: One of them is damaged, or lacks a column, and so would that of a copy.
    """
    columns = {*INDICES, *_originals_to_keep(layout.features)}
    for path in _table_paths(layout.root):
        try:
            names = open_parquet(path).schema_arrow.names
        # What pyarrow raises for damaged files is a ValueError.
        except ValueError as error:
            raise OSError(f"{path} cannot be read ({error}); {_NO_COPY}") from error
        if missing := columns.difference(names):
            raise OSError(f"{path} lacks the columns {sorted(missing)}; {_NO_COPY}")


def _copy_dataset(layout: LeRobotLayout, directory: Path, labels: Labels) -> Columns:
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
    columns = [*INDICES, *_label_features(layout.features)]
    pieces: dict[str, list[NDArray[Any]]] = {name: [] for name in columns}
    for path in _table_paths(layout.root):
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
    made = _row_labels(table, labels, original_column(features, REWARD)).columns()
    columns = {kept: table[name] for name, kept in _originals_to_keep(features).items()}
    columns |= {name: pa.chunked_array([pa.array(values)]) for name, values in made.items()}
    notes = table.schema.metadata or {}
    for name, column in columns.items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return table.replace_schema_metadata(_described(notes, _describe(features), list(columns)))


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
    _write_json(_with_parent(directory / _INFO), {**layout.info, "features": _describe(layout.features)})
    if (layout.root / _STATS).is_file():
        stats = parse_json(read_text(layout.root / _STATS), nan=True)
        known = {name: found for name, values in made.items() if (found := statistics(values)) is not None}
        _write_json(directory / _STATS, stats | known)


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=4, ensure_ascii=False) + "\n", "utf-8")


def episode_key(index: int) -> str:
    """`RecordedEpisode.key` of an episode by its number."""
    return f"episode_{index:06d}"


def original_column(features: Mapping[str, Any], column: str) -> str | None:
    """Where the original values of ``next.reward`` or ``next.success`` are; None if the dataset never had any."""
    if _ORIGINALS[column] in features:
        return _ORIGINALS[column]
    return column if column in features and PROGRESS not in features else None


def _originals_to_keep(features: Mapping[str, Any]) -> dict[str, str]:
    """The columns that labels would replace, and where their original values go; empty at a second labelling."""
    return {name: kept for name, kept in _ORIGINALS.items() if original_column(features, name) == name}


def _label_features(features: Mapping[str, Any]) -> dict[str, Any]:
    """The features that labelling makes, as ``info.json`` describes features.

    Args:
        features: Those of the dataset before.
    """
    kept = {kept: features[name] for name, kept in _originals_to_keep(features).items()}
    return kept | {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in _TYPES.items()}


def _describe(features: Mapping[str, Any]) -> dict[str, Any]:
    """All features of a dataset after labelling."""
    return {**features, **_label_features(features)}


class RowLabels:
    """Labels by row: of the frames named by their episode and their number in it.

    Args:
        labels: Of the dataset.
        episode_index: (N,) of each row.
        frame_index: (N,) likewise.
        task_rewards: (N,) original rewards, which rows without labels keep; None for NaN.
    """

    def __init__(
        self,
        labels: Labels,
        episode_index: NDArray[np.int64],
        frame_index: NDArray[np.int64],
        task_rewards: NDArray[np.float64] | None,
    ) -> None:
        count = len(episode_index)
        self.progress = np.full(count, np.nan, np.float32)
        self.success = np.full(count, np.nan, np.float32)
        self.rewards = np.full(count, np.nan) if task_rewards is None else task_rewards.astype(np.float64)
        self.returns = np.full(count, np.nan)
        self.advantages = np.full(count, np.nan)
        self.success_detected = np.zeros(count, np.bool_)
        self.imputed = np.zeros(count, np.bool_)
        for index in np.unique(episode_index).tolist():
            entry = labels.episodes.get(episode_key(index))
            if entry is not None:
                rows = np.flatnonzero(episode_index == index)
                self._fill(rows, entry, frame_index[rows])

    def _fill(self, rows: NDArray[np.int64], entry: EpisodeLabels, frames: NDArray[np.int64]) -> None:
        self.progress[rows] = entry.progress[frames]
        self.success[rows] = entry.success[frames]
        self.rewards[rows] = entry.rewards[frames]
        self.returns[rows] = entry.returns[frames]
        self.advantages[rows] = entry.advantages[frames]
        self.success_detected[rows] = entry.success_detected[frames]
        self.imputed[rows] = entry.imputed[frames]

    def columns(self) -> dict[str, NDArray[Any]]:
        """What a labelled dataset holds of them, by feature, in the types of `_label_features`."""
        return {
            REWARD: self.rewards.astype(np.float32),
            SUCCESS: self.success_detected,
            PROGRESS: self.progress,
            _PROBABILITY: self.success,
            _RETURN: self.returns.astype(np.float32),
            _ADVANTAGE: self.advantages.astype(np.float32),
            _IMPUTED: self.imputed,
        }


def _row_labels(table: pa.Table, labels: Labels, reward: str | None) -> RowLabels:
    """Labels of the rows of a table.

    Args:
        table: With the columns `INDICES`.
        labels: Of the dataset.
        reward: The column with original rewards, if there is one.
    """
    episodes, frames = (table[name].to_numpy() for name in ("episode_index", "frame_index"))
    task_rewards = None if reward is None else column_values(table[reward]).astype(np.float64)
    return RowLabels(labels, episodes, frames, task_rewards)


def statistics(values: NDArray[Any]) -> dict[str, list[Any]] | None:
    """`STATISTICS` of a feature with one number per frame, over the frames in which it is not NaN.

    LeRobot computes the quantiles of an episode from a histogram, and those of a dataset as the mean of those of its
    episodes; these are exact.

    Returns:
        Lists of length 1; None if there is no number.
    """
    numbers = values.astype(np.float64)
    known = ~np.isnan(numbers)
    if not known.any():
        return None
    numbers = numbers[known]
    return {
        "min": [values[known].min().item()],
        "max": [values[known].max().item()],
        "mean": [float(numbers.mean())],
        "std": [float(numbers.std())],
        "count": [len(numbers)],
        **{name: [float(np.quantile(numbers, share))] for name, share in QUANTILES.items()},
    }
