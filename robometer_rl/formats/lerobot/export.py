"""``robometer-rl data export lerobot``: a store as a LeRobot dataset v3.0 (see `robometer_rl.formats.lerobot.layout`).

A trajectory of T frames is an episode of T rows with these features:

===================== =================================================================================================
``observation.image`` Its frames, in a video of its own (H.264, which is not without loss)
``action``            Its actions, where all trajectories have some of one width; where the last frame has none, the one
                      before it again
``observation.state`` Its proprioception, where all have some of one width, and its states otherwise, likewise
``next.success``      Whether the task is done in the frame after the row; in the last row, in its own
``next.done``         True in the last row
===================== =================================================================================================

and the times and numbers that all datasets of LeRobot have. Where nobody judged single frames, ``next.success`` of the
last row says whether the run was ``successful``. Splits are intervals of episodes in ``meta/info.json``. States of a
simulator beside proprioception are ``observation.environment_state``. LeRobot has no place for grades, ``suboptimal``
runs, paraphrases, progress, distances and other metadata: these stay behind.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.progress import Progress

from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.extras import require
from robometer_rl.files import check_destination, new_directory
from robometer_rl.formats.exporting import Fields, chosen, common_rate, common_shape, images, stated_rate, success_of
from robometer_rl.formats.lerobot.labels import QUANTILES, SUCCESS, statistics
from robometer_rl.formats.lerobot.layout import ACTION, STATE
from robometer_rl.ranges import require_counts
from robometer_rl.report.terminal import open_console
from robometer_rl.video import write_video

__all__ = ["LeRobotExportConfig", "export_lerobot"]

IMAGE: Final = "observation.image"
ENVIRONMENT_STATE: Final = "observation.environment_state"

_PER_CHUNK: Final = 1000  # files of a folder, as LeRobot has them
_DATA: Final = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO: Final = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_SCALARS: Final = {
    SUCCESS: "bool",
    "next.done": "bool",
    "timestamp": "float32",
    **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64"),
}


@dataclass(frozen=True)
class LeRobotExportConfig:
    """Writes a store as a LeRobot dataset v3.0 with one camera.

    Attributes:
        path: Directory of the store.
        output: Directory of the new dataset.
        split: Only trajectories of these splits; of all if none is named.
        data_sources: Only trajectories of these data sources; of all if none is named.
        fps: Frames per second; may be left out if all trajectories state the same.
    """

    path: tyro.conf.Positional[Path]
    output: tyro.conf.Positional[Path]
    split: tuple[str, ...] = ()
    data_sources: tuple[str, ...] = ()
    fps: int | None = None

    def __post_init__(self) -> None:
        if self.fps is not None:
            require_counts(self, 1, "fps")


def export_lerobot(config: LeRobotExportConfig) -> int:
    """Writes the dataset, which appears when it is whole.

    Returns:
        How many episodes it holds.

    Raises:
        StoreError: There is no store, none of its trajectories is wanted, or one is damaged.
        ValueError: Frames of several sizes, or a frame rate that nobody states.
        FileExistsError: Something is at ``output``.
        ImportError: pyarrow or pandas is not installed.
    """
    require("pandas", "lerobot")
    store, splits = chosen(config.path, config.split, config.data_sources)
    ids = sorted(splits, key=lambda name: (splits[name] != "train", splits[name]))  # splits are intervals of episodes
    tables = _empty_tables(store, ids, config.fps)
    check_destination(config.output)
    with new_directory(config.output) as directory:
        with Progress(console=open_console(stderr=True), transient=True) as progress:
            for start in range(0, len(ids), _PER_CHUNK):
                shown = progress.track(ids[start : start + _PER_CHUNK], description="writing videos")
                _write_chunk(directory, start // _PER_CHUNK, (store[name] for name in shown), tables)
        _write_meta(directory, tables)
    open_console().print(
        f"{len(ids)} episodes in {config.output}; next: robometer-rl relabel {config.output} gives them rewards",
        soft_wrap=True,
    )
    return len(ids)


@dataclass
class _Tables:
    """What is known of the episodes that were written.

    Attributes:
        rate: Frames per second.
        shape: Height and width of the frames; videos have even ones.
        vectors: The field of trajectories that each feature with several numbers a frame holds, and how many.
        tasks: Number of each instruction.
        splits: Number of episodes in each, in their order.
        episodes: What LeRobot notes of each.
        columns: What the rows of each episode hold, by feature.
        pixels: (3, 256) how often each value occurs in each channel.
    """

    rate: int
    shape: tuple[int, int]
    vectors: Mapping[str, tuple[str, int]]
    tasks: dict[str, int] = field(default_factory=dict)
    splits: Counter[str] = field(default_factory=Counter)
    episodes: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 256), np.int64))

    @property
    def num_frames(self) -> int:
        """Of all episodes so far."""
        return self.episodes[-1]["dataset_to_index"] if self.episodes else 0

    @property
    def video_shape(self) -> list[int]:
        """Height and width as they are encoded, and channels."""
        height, width = self.shape
        return [height + height % 2, width + width % 2, 3]

    def append(self, trajectory: Trajectory) -> dict[str, NDArray[Any]]:
        """Notes an episode; its rows."""
        length, first, number = len(trajectory), self.num_frames, len(self.episodes)
        task = self.tasks.setdefault(trajectory.task, len(self.tasks))
        self.splits[trajectory.split] += 1
        chunk, file = divmod(number, _PER_CHUNK)
        video = f"videos/{IMAGE}"
        self.episodes.append(
            {"episode_index": number, "tasks": [trajectory.task], "length": length}
            | {"data/chunk_index": chunk, "data/file_index": 0}
            | {"dataset_from_index": first, "dataset_to_index": first + length}
            | {f"{video}/chunk_index": chunk, f"{video}/file_index": file}
            | {f"{video}/from_timestamp": 0.0, f"{video}/to_timestamp": length / self.rate}
            | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        )
        numbers, success = np.arange(length), success_of(trajectory)
        rows: dict[str, NDArray[Any]] = {
            # What `robometer_rl.formats.trajectories.success_of_frames` makes the success of the frames of.
            SUCCESS: np.append(success[1:], success[-1:]),
            "next.done": numbers == length - 1,
            "timestamp": (numbers / self.rate).astype(np.float32),
            "frame_index": numbers,
            "episode_index": np.full(length, number),
            "index": first + numbers,
            "task_index": np.full(length, task),
        }
        for name, (field_name, _) in self.vectors.items():
            values = getattr(trajectory, field_name).astype(np.float32)
            # Only actions can be one row short.
            rows[name] = values if len(values) == length else np.concatenate([values, values[-1:]])
        for name, values in rows.items():
            self.columns.setdefault(name, []).append(values)
        return rows

    def count(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Counts the pixels of an image, which it returns."""
        for channel in range(3):
            self.pixels[channel] += np.bincount(image[..., channel].ravel(), minlength=256)
        return image


def _empty_tables(store: TrajectoryStore, ids: Sequence[str], fps: int | None) -> _Tables:
    """What all episodes have in common."""
    sizes: Counter[tuple[int, int]] = Counter()
    rates: Counter[float | None] = Counter()
    fields = Fields("actions", "proprioception", "state")
    for trajectory in (store[name] for name in ids):
        _, height, width, _ = trajectory.frames.shape
        sizes[height, width] += 1
        rates[stated_rate(trajectory.metadata)] += 1
        fields.add(trajectory)
    return _Tables(common_rate(rates, fps), common_shape(sizes), _vectors(fields))


def _vectors(fields: Fields) -> dict[str, tuple[str, int]]:
    found = fields.common()
    state = ENVIRONMENT_STATE if "proprioception" in found else STATE
    names = {"actions": ACTION, "proprioception": STATE, "state": state}
    return {names[name]: (name, width) for name, (width,) in found.items()}


def _write_chunk(directory: Path, chunk: int, trajectories: Iterator[Trajectory], tables: _Tables) -> None:
    """Writes up to a thousand episodes: a video each, and one table with a group of rows per episode."""
    pa, parquet = require("pyarrow", "lerobot"), require("pyarrow.parquet", "lerobot")
    path = directory / _DATA.format(chunk_index=chunk, file_index=0)
    path.parent.mkdir(parents=True)
    (directory / _VIDEO.format(video_key=IMAGE, chunk_index=chunk, file_index=0)).parent.mkdir(parents=True)
    types = {name: getattr(pa, kind if kind != "bool" else "bool_")() for name, kind in _SCALARS.items()}
    types |= {name: pa.list_(pa.float32(), width) for name, (_, width) in tables.vectors.items()}
    with parquet.ParquetWriter(path, pa.schema(types)) as writer:
        for file, trajectory in enumerate(trajectories):
            video = directory / _VIDEO.format(video_key=IMAGE, chunk_index=chunk, file_index=file)
            write_video(video, map(tables.count, images(trajectory)), tables.rate)
            rows = tables.append(trajectory)
            columns = {name: rows[name] if rows[name].ndim == 1 else list(rows[name]) for name in types}
            writer.write_table(pa.table(columns, schema=pa.schema(types)))


def _write_meta(directory: Path, tables: _Tables) -> None:
    pa, parquet = require("pyarrow", "lerobot"), require("pyarrow.parquet", "lerobot")
    meta = directory / "meta"
    episodes = meta / "episodes" / "chunk-000" / "file-000.parquet"
    episodes.parent.mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(tables.episodes), episodes)
    # LeRobot looks instructions up by the index of a data frame; older releases of pandas read texts as objects only.
    pandas = require("pandas", "lerobot")
    index = pandas.Index(list(tables.tasks), dtype=object)
    pandas.DataFrame({"task_index": list(tables.tasks.values())}, index=index).to_parquet(meta / "tasks.parquet")
    _write_json(meta / "info.json", _info(tables))
    _write_json(meta / "stats.json", _statistics(tables))


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=4, ensure_ascii=False) + "\n", "utf-8")


def _info(tables: _Tables) -> dict[str, Any]:
    height, width, _ = tables.video_shape
    video = {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": tables.rate,
        "video.channels": 3,
        "has_audio": False,
    }
    features: dict[str, Any] = {
        IMAGE: {"dtype": "video", "shape": tables.video_shape, "names": ["height", "width", "channels"], "info": video}
    }
    for name, (_, width) in tables.vectors.items():
        features[name] = {"dtype": "float32", "shape": [width], "names": None}
    features |= {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in _SCALARS.items()}
    ends = np.cumsum(list(tables.splits.values())).tolist()
    splits = zip(tables.splits, [0, *ends], ends, strict=False)
    return {
        "codebase_version": "v3.0",
        "robot_type": None,
        "total_episodes": len(tables.episodes),
        "total_frames": tables.num_frames,
        "total_tasks": len(tables.tasks),
        "chunks_size": _PER_CHUNK,
        "fps": tables.rate,
        "splits": {name: f"{start}:{stop}" for name, start, stop in splits},
        "data_path": _DATA,
        "video_path": _VIDEO,
        "features": features,
    }


def _statistics(tables: _Tables) -> dict[str, Any]:
    """What LeRobot notes of every feature."""
    found = {name: np.concatenate(pieces) for name, pieces in tables.columns.items()}
    known: dict[str, Any] = {name: statistics(values) for name, values in found.items() if values.ndim == 1}
    for vector in tables.vectors:
        each = [statistics(column) or {} for column in found[vector].T]
        known[vector] = {name: [entry for one in each for entry in one[name]] for name in each[0]}
        known[vector]["count"] = [tables.num_frames]
    return {IMAGE: _of_pixels(tables.pixels, tables.num_frames)} | known


def _of_pixels(counts: NDArray[np.int64], num_frames: int) -> Mapping[str, Any]:
    """Statistics of pictures, whose values are from 0 to 1 and whose shape is (3, 1, 1)."""
    values = np.arange(256) / 255
    total = counts.sum(axis=1)
    mean = counts @ values / total
    seen = [values[channel > 0] for channel in counts]
    each = {
        "min": [channel[0] for channel in seen],
        "max": [channel[-1] for channel in seen],
        "mean": mean,
        "std": np.sqrt(np.maximum(counts @ values**2 / total - mean**2, 0)),
        **{name: [_quantile(values, channel, share) for channel in counts] for name, share in QUANTILES.items()},
    }
    return {name: [[[float(one)]] for one in three] for name, three in each.items()} | {"count": [num_frames]}


def _quantile(values: NDArray[np.float64], counts: NDArray[np.int64], share: float) -> float:
    """The smallest value that at least a share of what was counted does not exceed."""
    return float(values[np.searchsorted(np.cumsum(counts), share * counts.sum())])
