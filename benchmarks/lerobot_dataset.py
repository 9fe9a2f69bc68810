"""Recordings as a LeRobot dataset v3.0: pictures as LeRobot encodes them, instruction and outcome.

There are no actions, states and statistics, which nobody who labels reads.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.video.stream import VideoStream
from numpy.typing import NDArray

from robometer_rl.frames import FrameSequence

__all__ = ["CAMERA", "RecordedEpisode", "kept_scheduling", "write_dataset"]

CAMERA: Final = "observation.images.top"

_DATA: Final = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO: Final = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_FIRST: Final = {"chunk_index": 0, "file_index": 0}

# The defaults of LeRobot: every other frame is a key frame, so that single ones are found quickly.
_CODEC: Final = "libsvtav1"
_CODEC_OPTIONS: Final = {"g": "2", "crf": "30"}

_PIECE: Final = 64


@dataclass(frozen=True, eq=False)
class RecordedEpisode:
    """An episode to be written.

    Attributes:
        task: The instruction.
        frames: (T, H, W, 3) uint8, read a few at a time.
        success: (T,) whether the task is done after the step.
    """

    task: str
    frames: FrameSequence
    success: NDArray[np.bool_]


@dataclass
class _Tables:
    """What is known of the frames and episodes written so far."""

    fps: int
    tasks: list[str] = field(default_factory=list)
    frames: list[dict[str, Any]] = field(default_factory=list)
    episodes: list[dict[str, Any]] = field(default_factory=list)

    def append(self, episode: RecordedEpisode) -> None:
        number, first, length = len(self.episodes), len(self.frames), len(episode.frames)
        if episode.task not in self.tasks:
            self.tasks.append(episode.task)
        place = {f"{kind}/{name}": value for kind in ("data", f"videos/{CAMERA}") for name, value in _FIRST.items()}
        self.episodes.append(
            {"episode_index": number, "tasks": [episode.task], "length": length, **place}
            | {"dataset_from_index": first, "dataset_to_index": first + length}
            | {f"videos/{CAMERA}/from_timestamp": first / self.fps}
            | {f"videos/{CAMERA}/to_timestamp": (first + length) / self.fps}
        )
        for t, done in enumerate(episode.success.tolist()):
            self.frames.append(
                {"index": first + t, "episode_index": number, "frame_index": t, "timestamp": t / self.fps}
                | {"task_index": self.tasks.index(episode.task)}
                | {"next.reward": float(done), "next.success": done, "next.done": t == length - 1}
            )


def write_dataset(root: Path, episodes: Iterable[RecordedEpisode], side: int, fps: int = 10) -> None:
    """Writes a dataset with one camera, all of it in one table and one video.

    Args:
        root: An empty directory.
        episodes: In this order.
        side: Height and width of the frames.
        fps: Frames per second.
    """
    tables = _Tables(fps)
    video = root / _VIDEO.format(video_key=CAMERA, **_FIRST)
    _encode(video, _pictures(episodes, tables), side, fps)
    columns = {name: pa.float32() for name in ("timestamp", "next.reward")}
    _write_table(root / _DATA.format(**_FIRST), tables.frames, columns)
    _write_table(root / "meta" / "episodes" / "chunk-000" / "file-000.parquet", tables.episodes, {})
    tasks = [{"task_index": index, "__index_level_0__": task} for index, task in enumerate(tables.tasks)]
    _write_table(root / "meta" / "tasks.parquet", tasks, {})
    (root / "meta" / "info.json").write_text(json.dumps(_info(tables, side), indent=4) + "\n")


def _pictures(episodes: Iterable[RecordedEpisode], tables: _Tables) -> Iterator[NDArray[np.uint8]]:
    """All frames, one after the other; the tables note what goes by."""
    for episode in episodes:
        tables.append(episode)
        for start in range(0, len(episode.frames), _PIECE):
            yield from np.asarray(episode.frames[start : start + _PIECE])


@contextmanager
def kept_scheduling() -> Iterator[None]:
    """Ends with the scheduling that the calling thread has now.

    SVT-AV1 makes the thread that encodes a real-time one with the highest priority, where it may: for root, thus in
    most containers. It stays so, as do all threads that it starts later; threads from before starve beside them.
    """
    if sys.platform != "linux":
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def _encode(path: Path, pictures: Iterable[NDArray[np.uint8]], side: int, fps: int) -> None:
    os.environ.setdefault("SVT_LOG", "1")  # errors only
    path.parent.mkdir(parents=True)
    with kept_scheduling(), av.open(str(path), "w") as container:
        stream = container.add_stream(_CODEC, fps, options=_CODEC_OPTIONS)
        assert isinstance(stream, VideoStream)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_table(path: Path, rows: Sequence[dict[str, Any]], types: dict[str, pa.DataType]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(rows))
    for name, kind in types.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    pq.write_table(table, path)


def _info(tables: _Tables, side: int) -> dict[str, Any]:
    video = {
        "dtype": "video",
        "shape": [side, side, 3],
        "names": ["height", "width", "channels"],
        "info": {"video.codec": "av1", "video.pix_fmt": "yuv420p", "video.fps": tables.fps, "has_audio": False},
    }
    kinds = dict.fromkeys(("index", "episode_index", "frame_index", "task_index"), "int64")
    kinds |= dict.fromkeys(("timestamp", "next.reward"), "float32") | dict.fromkeys(
        ("next.success", "next.done"), "bool"
    )
    return {
        "codebase_version": "v3.0",
        "robot_type": "sawyer",
        "total_episodes": len(tables.episodes),
        "total_frames": len(tables.frames),
        "total_tasks": len(tables.tasks),
        "chunks_size": 1000,
        "fps": tables.fps,
        "splits": {"train": f"0:{len(tables.episodes)}"},
        "data_path": _DATA,
        "video_path": _VIDEO,
        "features": {CAMERA: video}
        | {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in kinds.items()},
    }
