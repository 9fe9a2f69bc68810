"""LeRobot datasets: a labelled copy (v3.0), or files of labels beside the dataset (v3.0 and v2.x).

Time. LeRobot stores T observations of an episode of T steps: F = T, so the label of the last step is imputed.

Cameras are named as in ``meta/info.json``. Success is said by ``next.success``. LeRobot does not tell termination from
truncation, since ``next.done`` marks the end of either: an episode is taken to be terminated if its last step
succeeded, and truncated otherwise.

How labels are stored is described in `robometer_rl.formats.lerobot.writers`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import SourceError
from robometer_rl.formats.assumptions import Assumptions
from robometer_rl.formats.dataset import DatasetOptions, LabelWriter, RecordedEpisode, RelabelDataset, WriteMode
from robometer_rl.formats.destinations import choose_cameras, default_output, fingerprint
from robometer_rl.formats.lerobot.columns import REWARD, SUCCESS, episode_key, original_column
from robometer_rl.formats.lerobot.frames import episode_frames
from robometer_rl.formats.lerobot.layout import EpisodeRows, LeRobotEpisode, LeRobotLayout
from robometer_rl.formats.lerobot.writers import LeRobotCopyWriter, LeRobotSidecarWriter
from robometer_rl.frames import FrameSequence
from robometer_rl.video.lazy import Orientation

__all__ = ["LeRobotDataset", "is_format", "open_dataset"]


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
        self.cameras = choose_cameras(options.path, self.layout.cameras, options.cameras, self.layout.refused)
        self._orientation: Orientation = Assumptions(options.path).orientation(options.orientation)
        indices = self.layout.episode_indices
        self._positions = {episode_key(index): position for position, index in enumerate(indices)}
        if len(self._positions) < len(self.layout):
            raise SourceError(f"{options.path} lists an episode twice in its table of episodes")
        self.keys = list(self._positions)
        self._reward = original_column(self.layout.features, REWARD)
        self._success = original_column(self.layout.features, SUCCESS)

    def episode(self, key: str) -> RecordedEpisode:
        """See `RelabelDataset.episode`."""
        episode = self.layout[self._positions[key]]
        rows = self.layout.rows(episode, [name for name in (self._reward, self._success) if name is not None])
        success = None if self._success is None else rows.values(self._success).astype(bool)
        succeeds_last = success is not None and bool(success[-1])
        return RecordedEpisode(
            key=key,
            tasks=self.options.tasks or (self.layout.task(rows),),
            cameras={name: self._frames(episode, rows, name) for name in self.cameras},
            num_steps=len(rows),
            task_rewards=self._task_rewards(rows),
            terminated=succeeds_last,
            truncated=not succeeds_last,
            success=None if success is None else bool(success.any()),
        )

    def fingerprint(self) -> str:
        """See `RelabelDataset.fingerprint`."""
        folders = (self.options.path / name for name in ("meta", "data", "videos"))
        return fingerprint(self.keys, sorted(path for folder in folders for path in folder.rglob("*.*")))

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

    def _frames(self, episode: LeRobotEpisode, rows: EpisodeRows, camera: str) -> FrameSequence:
        return episode_frames(self.layout, episode, rows, camera, orientation=self._orientation)

    def _task_rewards(self, rows: EpisodeRows) -> NDArray[np.float64] | None:
        return None if self._reward is None else rows.values(self._reward).astype(np.float64)
