"""The pictures of a LeRobot episode, found by time as LeRobot finds them.

Frame i of an episode is shown i / fps seconds after the episode begins in its video, and is the frame of the video
nearest to that time; it must be closer than a tolerance, 0.1 ms by default (``tolerance_s`` of `LeRobotDataset`).
Counting frames instead would be wrong: several episodes share a video, and what joins them decides where each begins.

The times on that grid are computed, as LeRobot does since 0.6; the ``timestamp`` column is rounded to float32, which in
long episodes is coarser than the tolerance. An episode whose column leaves the grid by more than that is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.formats.encoded_images import EncodedImages
from robometer_rl.formats.lerobot.layout import EpisodeRows, LeRobotEpisode, LeRobotLayout, open_parquet
from robometer_rl.frames import FrameSequence
from robometer_rl.video import VideoError
from robometer_rl.video.decoding import TimedFrames, VideoFile, index_file
from robometer_rl.video.lazy import Orientation

__all__ = ["TOLERANCE_S", "ParquetImages", "episode_frames", "frame_times"]

TOLERANCE_S: Final = 1e-4


def episode_frames(
    layout: LeRobotLayout,
    episode: LeRobotEpisode,
    rows: EpisodeRows,
    camera: str,
    tolerance_s: float = TOLERANCE_S,
    orientation: Orientation = "as_stored",
) -> FrameSequence:
    """The T frames of a camera in one episode, (T, H, W, 3), decoded when they are asked for.

    That each of them is there is known when this returns.

    Raises:
        VideoError: The video is missing or damaged, or lacks a frame of the episode.
    """
    if not layout.is_video(camera):
        return EncodedImages(ParquetImages(rows.path, camera, rows.first, len(rows)), orientation)
    span = episode.videos[camera]
    times = frame_times(rows.values("timestamp"), layout.fps, tolerance_s)
    index = index_file(span.path)
    try:
        numbers = index.frames_at(span.start_s + times, tolerance_s)
    except VideoError as error:
        raise VideoError(f"{span.path}: {error}") from error
    return TimedFrames(VideoFile(span.path), index, numbers, orientation)


def frame_times(stored: NDArray[np.floating], fps: float, tolerance_s: float = TOLERANCE_S) -> NDArray[np.float64]:
    """When the frames of an episode are shown, counted from its first one.

    Args:
        stored: (T,) the column ``timestamp``, float32 seconds.
        fps: Frames per second.
        tolerance_s: How far a stored time may be from the constant frame rate, beyond its own rounding.

    Returns:
        (T,) seconds at a constant frame rate.

    Raises:
        VideoError: A stored time is further away.
    """
    grid = np.arange(len(stored)) / fps
    off = np.abs(stored.astype(np.float64) - grid) >= tolerance_s + np.spacing(grid.astype(np.float32))
    if off.any():
        first = int(np.argmax(off))
        raise VideoError(
            f"frame {first} has the timestamp {stored[first]:.6f} s; expected {grid[first]:.6f} s at a constant frame "
            "rate, without which it is unclear which frame of the video is meant"
        )
    return grid


@dataclass(frozen=True)
class ParquetImages:
    """Encoded images in a column of a Parquet file; see `robometer_rl.formats.encoded_images.ImageFiles`.

    Attributes:
        path: The file.
        column: The column; a struct with the field ``bytes``, as the `datasets` library stores images.
        first: Row of the first image.
        length: Number of images.
    """

    path: Path
    column: str
    first: int
    length: int

    def __len__(self) -> int:
        return self.length

    def __str__(self) -> str:
        return f"{self.path}, column {self.column}, from row {self.first}"

    def read(self, places: Sequence[int]) -> list[bytes]:
        """Reads only the row groups that hold the chosen images.

        Raises:
            VideoError: The file is gone or damaged, or an image is not in it; LeRobot embeds them.
        """
        rows = self.first + np.asarray(places, dtype=np.int64)
        try:
            stored = self._read_rows(np.unique(rows))
        except OSError as error:
            raise VideoError(f"{self} cannot be read: {error}") from error
        images = [stored[row] for row in rows.tolist()]
        if None in images:
            raise VideoError(f"{self}: image {places[images.index(None)]} is not embedded in the file")
        return [image for image in images if image is not None]

    def _read_rows(self, rows: NDArray[np.int64]) -> dict[int, bytes | None]:
        found: dict[int, bytes | None] = {}
        file = open_parquet(self.path)
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            inside = rows[(rows >= start) & (rows < stop)]
            if len(inside):
                entries = file.read_row_group(group, columns=[self.column])[self.column].take(inside - start)
                found.update(zip(inside.tolist(), (entry["bytes"] for entry in entries.to_pylist()), strict=True))
            start = stop
        return found
