"""LeRobot datasets, v3.0 and v2.x, read without the lerobot package, to be imported or to be labelled.

Cameras are named as in ``meta/info.json`` (``observation.images.top``); an import makes a trajectory for each that is
asked for, or one of all in a tiled picture. LeRobot records them upright; datasets converted from elsewhere keep the
orientation that their converter gave them (those of LIBERO are often turned by 180 degrees), hence the option
``orientation``.

Frame i of an episode is shown i / fps seconds after the episode begins in its video, and is the frame of the video
nearest to that time, as LeRobot finds it; it must be closer than a tolerance, 0.1 ms by default (``tolerance_s`` of
`LeRobotDataset`). Counting frames instead would be wrong: several episodes share a video, and what joins them decides
where each begins. The times on that grid are computed, as LeRobot does since 0.6; the ``timestamp`` column is rounded
to float32, which in long episodes is coarser than the tolerance. An episode whose column leaves the grid by more than
that is refused.

Time. LeRobot stores T observations of an episode of T steps: F = T, so the label of the last step is imputed.

Success. ``next.success`` says it where it was recorded; with ``success_reward``, a ``next.reward`` of at least that
much says it instead. ``next.done`` does not: it marks the end of any episode, and tells no termination from a
truncation. An episode is taken to be terminated if its last step succeeded, and truncated otherwise. What a row notes
as *next* is about the frame after it, see `robometer_rl.formats.trajectories`. Of a labelled copy the values from
before count. To be imported, a dataset with neither column needs a quality that is stated.

``action`` becomes actions and ``observation.state`` proprioception. Not filled in: partial success, distances, seeds
and simulator states, for which LeRobot has no agreed columns. How labels are stored is described in
`robometer_rl.formats.lerobot.labels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import Reading, SourceError
from robometer_rl.data.trajectory import QualityLabel
from robometer_rl.formats.conventions import (
    Assumptions,
    Shown,
    attempt_views,
    choose_cameras,
    one_or_several,
    views_of,
)
from robometer_rl.formats.dataset import (
    DatasetOptions,
    EpisodeLabels,
    LabelWriter,
    RecordedEpisode,
    RecordedFacts,
    RelabelDataset,
    StoredLabels,
    WriteMode,
    default_output,
    fingerprint,
    read_metadata,
)
from robometer_rl.formats.lerobot.hub import open_layout
from robometer_rl.formats.lerobot.labels import (
    PROGRESS,
    REWARD,
    STORED,
    SUCCESS,
    LeRobotCopyWriter,
    LeRobotSidecarWriter,
    episode_key,
    original_column,
    sidecar_labels,
)
from robometer_rl.formats.lerobot.layout import ACTION, STATE, EpisodeRows, LeRobotEpisode, LeRobotLayout, open_parquet
from robometer_rl.formats.trajectories import Stated, success_of_frames, trajectory_of
from robometer_rl.frames import FrameSequence
from robometer_rl.ranges import require_numbers
from robometer_rl.video import VideoError
from robometer_rl.video.decoding import TimedFrames, VideoFile, index_file
from robometer_rl.video.images import EncodedImages
from robometer_rl.video.lazy import Orientation

__all__ = [
    "TOLERANCE_S",
    "LeRobotConfig",
    "LeRobotDataset",
    "ParquetImages",
    "episode_frames",
    "frame_times",
    "is_format",
    "open_dataset",
    "read_lerobot",
]

TOLERANCE_S: Final = 1e-4


@dataclass(frozen=True)
class LeRobotConfig:
    """A LeRobot dataset, v3.0 or v2.x, in a local directory or on the Hub.

    Attributes:
        path: Directory of the dataset, with meta/info.json in it, or its id on the Hub, as in lerobot/pusht or
            ID@REVISION: then only what is read is fetched, into the Hub's cache.
        task: The instruction of every episode; by default each episode's own.
        camera: The features that hold the pictures, as in observation.images.top, one trajectory each; may be left out
            if there is one.
        tile: Show the cameras in one tiled picture, the first on top, for models that are trained on such.
        orientation: "as_stored" for pictures that are upright, which is taken for granted; "flip" reverses their rows;
            "rotate" turns them by 180 degrees.
        quality: Quality label of all episodes; left out, an episode is successful or a failure as it was recorded.
        success_reward: Reward in next.reward from which on a step counts as success, whatever next.success says.
        skill: Who acted; "expert" if every episode heads for its goal all the time, as demonstrations do.
        data_source: Tag of the data set, as training and evaluation name it; by default the name of the directory.
        tolerance_s: How far, in seconds, a frame of a video may be from the time of its row.
    """

    path: Path
    task: str | None = None
    camera: tuple[str, ...] = ()
    tile: bool = False
    orientation: Orientation | None = None
    quality: QualityLabel | None = None
    success_reward: float | None = None
    skill: str | None = None
    data_source: str | None = None
    tolerance_s: float = TOLERANCE_S

    def __post_init__(self) -> None:
        one_or_several(self, "camera")
        require_numbers(self, "(0, inf)", "tolerance_s")


def read_lerobot(config: LeRobotConfig) -> Reading:
    """Reads the episodes in the order of the dataset, each as often as it is shown.

    An id consists of the data source, the number of the episode and the camera. An episode is unreadable whose frames
    are missing or damaged, or whose instruction changes on the way: a trajectory has one.

    Raises:
        SourceError: Not a LeRobot dataset of a known version, no such camera or several without a choice, or nothing
            that says which episodes succeeded.
        HubError: It is on the Hub, which cannot be reached or refuses; the episodes before were read.
    """
    reader = _Reader(
        layout=open_layout(config.path),
        options=DatasetOptions(
            config.path,
            config.camera,
            (config.task,) if config.task else (),
            config.orientation,
        ),
        success_reward=config.success_reward,
        tolerance_s=config.tolerance_s,
    )
    if reader.outcome is None and config.quality is None:
        raise SourceError(
            f"{config.path} does not say which episodes succeeded: it has no next.success. State a quality "
            "('successful' for demonstrations), or a success_reward if next.reward is 1 at success"
        )
    source = config.data_source or reader.layout.name.rpartition("/")[2]
    stated = Stated(source, config.quality, config.skill)
    return _read_all(config, reader, stated, views_of(config.path, reader.cameras, config.tile))


def _read_all(config: LeRobotConfig, reader: _Reader, stated: Stated, views: Sequence[Shown]) -> Reading:
    for position in range(len(reader.layout)):
        # Without the Hub the rest is not damaged: the command ends, and goes on when it is given again.
        reader.layout.fetch(position, reader.cameras)
        yield from attempt_views(
            f"{config.path}#episode {position}",
            views,
            lambda shown, position=position: trajectory_of(reader.read(position, shown), stated),
        )


def is_format(path: Path) -> bool:
    """Whether ``path`` is a directory with a description as LeRobot writes it."""
    return (path / "meta" / "info.json").is_file()


def open_dataset(options: DatasetOptions) -> LeRobotDataset:
    """Opens a dataset in a local directory; see `LeRobotDataset`."""
    return LeRobotDataset(options)


class LeRobotDataset(RelabelDataset):
    """A LeRobot dataset in a local directory, see `RelabelDataset`."""

    format = "lerobot"

    def __init__(self, options: DatasetOptions) -> None:
        """Reads the metadata.

        Raises:
            SourceError: Not a LeRobot dataset of a known version, no such camera, or several without a choice.
            ImportError: The extra ``lerobot`` is not installed.
        """
        self.options = options
        self.layout = LeRobotLayout(options.path)
        self._tolerance_s = TOLERANCE_S if options.tolerance_s is None else options.tolerance_s
        self._reader = _Reader(self.layout, options, tolerance_s=self._tolerance_s)
        self.cameras = self._reader.cameras
        indices = self.layout.episode_indices
        self._positions = {episode_key(index): position for position, index in enumerate(indices)}
        if len(self._positions) < len(self.layout):
            raise SourceError(f"{options.path} lists an episode twice in its table of episodes")
        self.keys = list(self._positions)

    def episode(self, key: str) -> RecordedEpisode:
        """See `RelabelDataset.episode`."""
        return self._reader.read(self._positions[key], self.cameras, with_rewards=True)

    def stored_labels(self, key: str) -> StoredLabels | None:
        """See `RelabelDataset.stored_labels`; of a sidecar where it lies if nobody says otherwise."""
        episode, place = self.layout[self._positions[key]], self.options.path
        if PROGRESS in self.layout.features:
            rows = self.layout.rows(episode, list(STORED))
            labels = EpisodeLabels.read(key, {name: rows.values(column) for column, name in STORED.items()})
        else:
            place = default_output(place)
            labels = sidecar_labels(place, episode.index)
        return None if labels is None else StoredLabels(labels, read_metadata(place))

    def fingerprint(self) -> str:
        """See `RelabelDataset.fingerprint`."""
        folders = (self.options.path / name for name in ("meta", "data", "videos"))
        files = sorted(path for folder in folders for path in folder.rglob("*.*"))
        # Which episodes are skipped depends on it.
        return fingerprint(self.keys, files, self._tolerance_s)

    def writer(self, mode: WriteMode, output: Path | None = None) -> LabelWriter:
        """See `RelabelDataset.writer`.

        Raises:
            SourceError: A copy of a dataset of version 2.
        """
        destination = output or default_output(self.options.path)
        if mode == "sidecar":
            return LeRobotSidecarWriter(self.layout, destination)
        if self.layout.version != "v3.0":
            raise SourceError(
                f"{self.options.path} has the version {self.layout.version}; a labelled copy is made of v3.0 only: "
                "convert it with LeRobot's converter first, or write a sidecar"
            )
        return LeRobotCopyWriter(self.layout, destination)


class _Reader:
    """Makes recorded episodes of a dataset, by their position in the table of episodes."""

    def __init__(
        self,
        layout: LeRobotLayout,
        options: DatasetOptions,
        success_reward: float | None = None,
        tolerance_s: float = TOLERANCE_S,
    ) -> None:
        self.layout = layout
        self.cameras = choose_cameras(layout.root, layout.cameras, options.cameras, layout.refused)
        # Of a labelled copy what was recorded counts, not what a model has seen in it.
        self._reward, success = (original_column(layout.features, name) for name in (REWARD, SUCCESS))
        if success_reward is not None and self._reward is None:
            raise SourceError(f"{layout.root} has no next.reward to compare with {success_reward:g}")
        # The column that says which steps succeeded; None if none does.
        self.outcome = success if success_reward is None else self._reward
        self._success_reward = success_reward
        self._tasks = options.tasks
        self._orientation: Orientation = Assumptions(options.path).orientation(options.orientation)
        self._tolerance_s = tolerance_s

    def read(self, position: int, cameras: Shown, *, with_rewards: bool = False) -> RecordedEpisode:
        """One episode as some cameras show it, with its outcome, as far as the dataset knows it."""
        layout, episode = self.layout, self.layout[position]
        reward = self._reward if with_rewards else None
        kept = () if with_rewards else tuple(name for name in (ACTION, STATE) if name in layout.features)
        rows = layout.rows(episode, [name for name in (reward, self.outcome, *kept) if name is not None])
        success = self._success(rows)
        succeeds_last = success is not None and bool(success[-1])
        return RecordedEpisode(
            key=episode_key(episode.index),
            tasks=self._tasks or (layout.task(rows),),
            cameras={name: self._frames(episode, rows, name) for name in cameras},
            num_steps=len(rows),
            task_rewards=None if reward is None else rows.values(reward).astype(np.float64),
            terminated=succeeds_last,
            truncated=not succeeds_last,
            success=None if success is None else bool(success.any()),
            success_of_frames=None if success is None else success_of_frames(success),
            names=(f"{episode.index:06d}", *(name.removeprefix("observation.images.") for name in cameras)),
            facts=self._facts(episode, rows, kept, cameras),
        )

    def _frames(self, episode: LeRobotEpisode, rows: EpisodeRows, camera: str) -> FrameSequence:
        return episode_frames(self.layout, episode, rows, camera, self._tolerance_s, self._orientation)

    def _success(self, rows: EpisodeRows) -> NDArray[np.bool_] | None:
        """(T,) whether each step led to success."""
        if self.outcome is None:
            return None
        noted = rows.values(self.outcome)
        return (noted if self._success_reward is None else noted >= self._success_reward).astype(bool)

    def _facts(self, episode: LeRobotEpisode, rows: EpisodeRows, kept: Sequence[str], cameras: Shown) -> RecordedFacts:
        layout = self.layout
        metadata: dict[str, Any] = {
            "format": f"lerobot {layout.version}",
            "episode_index": episode.index,
            "camera": ", ".join(cameras),
            "control_hz": layout.fps,
            "frame_interval": 1,
        }
        robot = layout.info.get("robot_type")
        return RecordedFacts(
            steps=np.arange(len(rows)),
            actions=rows.values(ACTION) if ACTION in kept else None,
            proprioception=rows.values(STATE) if STATE in kept else None,
            split=layout.split_of(episode.index) or "train",
            source=f"{layout.name}#episode {episode.index}",
            metadata=metadata if robot is None else metadata | {"robot_type": robot},
        )


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
        raise VideoError(f"{span.path}: {error}; --tolerance-s allows more") from error
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
            "rate, without which it is unclear which frame of the video is meant; --tolerance-s allows more"
        )
    return grid


@dataclass(frozen=True)
class ParquetImages:
    """Encoded images in a column of a Parquet file; see `robometer_rl.video.images.ImageFiles`.

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
