"""The pictures of a LeRobot episode, found by time as LeRobot finds them.

Frame i of an episode is shown i / fps seconds after the episode begins in its video, and is the frame of the video
nearest to that time; it must be closer than a tolerance, 0.1 ms by default (``tolerance_s`` of `LeRobotDataset`).
Counting frames instead would be wrong: several episodes share a video, and what joins them decides where each begins.

The times on that grid are computed, as LeRobot does since 0.6; the ``timestamp`` column is rounded to float32, which in
long episodes is coarser than the tolerance. An episode whose column leaves the grid by more than that is refused.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from robometer_rl.data.sources.lerobot_layout import EpisodeRows, LeRobotEpisode, LeRobotLayout
from robometer_rl.data.sources.timed_video import TimedFrames, VideoFile, index_file
from robometer_rl.frames import FrameSequence
from robometer_rl.video import VideoError

__all__ = ["TOLERANCE_S", "ParquetImages", "episode_frames"]

TOLERANCE_S: Final = 1e-4


def episode_frames(
    layout: LeRobotLayout, episode: LeRobotEpisode, rows: EpisodeRows, camera: str, tolerance_s: float = TOLERANCE_S
) -> FrameSequence:
    """The T frames of a camera in one episode, (T, H, W, 3), decoded when they are asked for.

    That each of them is there is known when this returns.

    Raises:
        OSError: The video is missing.
        VideoError: It is damaged, or lacks a frame of the episode.
    """
    if not layout.is_video(camera):
        return ParquetImages(rows.path, camera, rows.first, len(rows))
    span = episode.videos[camera]
    grid = np.arange(len(rows)) / layout.fps
    _check_timestamps(rows.values("timestamp").astype(np.float64), grid, tolerance_s)
    index = index_file(span.path)
    try:
        return TimedFrames(VideoFile(span.path), index, index.frames_at(span.start_s + grid, tolerance_s))
    except VideoError as error:
        raise VideoError(f"{span.path}: {error}") from error


def _check_timestamps(stored: NDArray[np.float64], grid: NDArray[np.float64], tolerance_s: float) -> None:
    allowed = tolerance_s + np.spacing(grid.astype(np.float32)).astype(np.float64)
    off = np.abs(stored - grid) >= allowed
    if off.any():
        first = int(np.argmax(off))
        raise VideoError(
            f"frame {first} has the timestamp {stored[first]:.6f} s; expected {grid[first]:.6f} s at a constant frame "
            "rate, without which it is unclear which frame of the video is meant"
        )


class ParquetImages:
    """Encoded images in a column of a Parquet file, decoded on request.

    Attributes:
        path: The file.
        column: The column; a struct with the field ``bytes``, as the `datasets` library stores images.
        shape: ``(T, H, W, 3)``, the size being the first image's.
    """

    def __init__(self, path: Path, column: str, first: int, length: int) -> None:
        """The ``length`` images that begin in row ``first``.

        Raises:
            VideoError: The first image cannot be decoded.
        """
        self.path = path
        self.column = column
        self._first = first
        self._length = length
        (image,) = self._read(np.array([0]))
        self.shape: tuple[int, ...] = (length, *image.shape)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int | slice | NDArray[np.integer] | list[int]) -> NDArray[np.uint8]:
        """Decodes the chosen images; an integer gives one (H, W, 3), anything else a stack of them.

        Raises:
            VideoError: An image cannot be decoded, or has another size than the first.
            IndexError: There is no such image.
        """
        chosen = np.arange(self._length)[index]
        images = self._read(np.atleast_1d(chosen))
        if any(image.shape != self.shape[1:] for image in images):
            raise VideoError(f"{self.path}, column {self.column}: images of several sizes in one episode")
        if np.ndim(chosen) == 0:
            return images[0]
        return np.stack(images) if images else np.empty((0, *self.shape[1:]), np.uint8)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def _read(self, chosen: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """Reads only the row groups that hold the chosen images."""
        rows = self._first + chosen
        stored: dict[int, Mapping[str, Any]] = {}
        file = pq.ParquetFile(self.path)
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            inside = np.unique(rows[(rows >= start) & (rows < stop)])
            if len(inside):
                entries = file.read_row_group(group, columns=[self.column])[self.column].take(inside - start)
                stored.update(zip(inside.tolist(), entries.to_pylist(), strict=True))
            start = stop
        return [self._decode(stored[row], row) for row in rows.tolist()]

    def _decode(self, entry: Mapping[str, Any], row: int) -> NDArray[np.uint8]:
        try:
            return np.asarray(Image.open(io.BytesIO(entry["bytes"])).convert("RGB"))
        except (UnidentifiedImageError, OSError, TypeError) as error:
            raise VideoError(
                f"{self.path}, column {self.column}, row {row} is not a readable image: {error}"
            ) from error
