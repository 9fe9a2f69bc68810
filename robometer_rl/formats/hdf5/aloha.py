"""Episodes of ALOHA and ACT: one HDF5 file each, ``episode_0.hdf5``, ``episode_1.hdf5``, ...

::

    observations/images/CAMERA   uint8 (T, H, W, 3), or (T, N) JPEG files that are filled up with zeros
    observations/qpos            (T, 14)
    action                       (T, 14)
    attributes                   sim, compress

Pictures are upright and in RGB. The recorder hands them to OpenCV to be compressed, which takes them for BGR: in the
JPEG files red and blue are exchanged, and are exchanged back here. A recorder that had its pictures in BGR wrote right
ones, hence the option ``exchange_colours``.

Outcome and instruction. ALOHA records neither, so ``quality`` and ``task`` say them. Those who write the same layout
note them as attributes of the file, ``success`` and ``task_description``, or keep an instruction as ``language_raw``.
Time. F = T: what the last action led to was not recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from robometer_rl.data.reading import Reading, SourceError, Unreadable
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.formats.conventions import (
    Assumptions,
    Cameras,
    Shown,
    attempt_views,
    cameras_among,
    choose_cameras,
    one_or_several,
    views_of,
)
from robometer_rl.formats.dataset import DatasetOptions, RecordedEpisode, RecordedFacts
from robometer_rl.formats.hdf5.dataset import EpisodePlace, Layout
from robometer_rl.formats.hdf5.demonstrations import (
    UNKNOWN_OUTCOME,
    find_files,
    frames_of,
    stated_instruction,
    stated_quality,
)
from robometer_rl.formats.hdf5.files import (
    DAMAGE,
    Places,
    check_claim,
    describe,
    open_hdf5,
    original_rewards,
    read_array,
    selection,
)
from robometer_rl.formats.trajectories import Stated, trajectory_of
from robometer_rl.frames import FrameSequence
from robometer_rl.video import VideoError
from robometer_rl.video.images import EncodedImages
from robometer_rl.video.lazy import Orientation

if TYPE_CHECKING:
    import h5py

__all__ = ["AlohaConfig", "AlohaLayout", "read_aloha"]

_IMAGES: Final = "observations/images"
_PLACES: Final = Places("/", "", "observations", "action")


@dataclass(frozen=True)
class AlohaConfig:
    """Episodes of ALOHA and ACT: one HDF5 file each, with observations/images in it.

    Attributes:
        path: One file, or a folder of them.
        task: The instruction of every episode; by default what the file says, which the authors' own do not.
        camera: Which pictures, as in cam_high or cam_left_wrist, one trajectory each; may be left out if there is one.
        tile: Show the cameras in one tiled picture, the first on top, for models that are trained on such.
        orientation: as_stored for pictures that are upright, which is taken for granted; flip reverses their rows;
            rotate turns them by 180 degrees.
        exchange_colours: Exchange red and blue. By default in compressed pictures, as the authors' recorder writes
            them.
        quality: Outcome of every episode; by default what the file says, which the authors' own do not.
        skill: Who acted; expert if it heads for the goal all the time, as demonstrations do.
        data_source: Tag of the data set.
    """

    path: Path
    task: str | None = None
    camera: tuple[str, ...] = ()
    tile: bool = False
    orientation: Orientation | None = None
    exchange_colours: bool | None = None
    quality: QualityLabel | None = None
    skill: str | None = None
    data_source: str = "aloha"

    def __post_init__(self) -> None:
        one_or_several(self, "camera")


@dataclass(frozen=True)
class _JpegRows:
    """Compressed pictures in rows of bytes; see `robometer_rl.video.images.ImageFiles`."""

    path: Path
    dataset: str
    length: int

    def __len__(self) -> int:
        return self.length

    def __str__(self) -> str:
        return f"{self.path}, {self.dataset}"

    def read(self, places: Sequence[int]) -> list[bytes]:
        try:
            with open_hdf5(self.path) as file:
                rows: Any = file[self.dataset]
                # What they are filled up with stands behind the end that a JPEG file has of itself.
                return [bytes(row) for row in rows[selection(np.asarray(places, np.int64))]]
        except DAMAGE as error:
            raise VideoError(f"{self}: frames cannot be read: {error}") from error


def read_aloha(config: AlohaConfig) -> Reading:
    """Reads files in alphabetical order; frames stay in them.

    Raises:
        SourceError: There is no such file.
    """
    reader = _Reader(config)
    return chain.from_iterable(_read_file(reader, *place) for place in find_files(config.path))


def _read_file(reader: _Reader, path: Path, file_name: str) -> list[Trajectory | Unreadable]:
    config = reader.config
    stated = Stated(config.data_source, config.quality, config.skill)
    try:
        with open_hdf5(path) as file:
            found = _cameras(file)
            views = views_of(path, choose_cameras(path, found.names, config.camera, found.refused), config.tile)

            def read(shown: Shown) -> Trajectory:
                return trajectory_of(reader.read(path, file_name, file, shown), stated, UNKNOWN_OUTCOME)

            return list(attempt_views(str(path), views, read))
    except (SourceError, *DAMAGE) as error:
        return [Unreadable(str(path), str(error))]


class AlohaLayout(Layout):
    """Episodes of ALOHA, to be labelled."""

    places = _PLACES

    def __init__(self, options: DatasetOptions) -> None:
        self._tasks = options.tasks
        self._reader = _Reader(
            AlohaConfig(options.path, next(iter(options.tasks), None), (), False, options.orientation)
        )

    def cameras(self, file: h5py.File, place: EpisodePlace) -> Cameras:
        """See `Layout.cameras`."""
        return _cameras(file)

    def episode(self, file: h5py.File, place: EpisodePlace, cameras: tuple[str, ...]) -> RecordedEpisode:
        """See `Layout.episode`."""
        episode = self._reader.read(place.path, place.file_name, file, cameras)
        return replace(episode, tasks=self._tasks or episode.tasks)


def _cameras(file: h5py.File) -> Cameras:
    import h5py

    if file.get(_IMAGES, getclass=True) is not h5py.Group:
        raise SourceError(f"{file.filename} has no group {_IMAGES}; {describe(file)}")
    images: Any = file[_IMAGES]
    datasets = {name: item for name, item in images.items() if isinstance(item, h5py.Dataset)}
    plain = cameras_among(
        {name: (item.shape, item.dtype) for name, item in datasets.items() if not _is_compressed(item)}
    )
    names = (name for name, item in datasets.items() if name in plain.names or _is_compressed(item))
    return Cameras(tuple(names), plain.refused)


def _is_compressed(dataset: h5py.Dataset) -> bool:
    """Whether rows are files: of one length, or of several."""
    return (dataset.ndim == 2 and dataset.dtype == np.uint8) or (dataset.ndim == 1 and dataset.dtype == object)


class _Reader:
    """Reads episodes while their files are open."""

    def __init__(self, config: AlohaConfig) -> None:
        self.config = config
        self._assumed = Assumptions(config.path)
        self._assumed.orientation(config.orientation, why="upright, as ALOHA's cameras hang")

    def read(self, path: Path, file_name: str, file: h5py.File, shown: Shown) -> RecordedEpisode:
        """The episode of a file, as some cameras show it."""
        config = self.config
        frames = {camera: _frames(config, self._assumed, path, file, camera) for camera in shown}
        task = config.task or stated_instruction(file.attrs) or _language(file)
        if task is None:
            raise SourceError("the file holds no instruction; say what the robot is to do with the option 'task'")
        count = len(frames[shown[0]])
        facts = RecordedFacts(
            steps=np.arange(count),
            proprioception=read_array(file, "observations/qpos"),
            actions=read_array(file, _PLACES.actions),
            source=file_name,
            metadata={"camera": ", ".join(shown), "frame_interval": 1},
        )
        quality = stated_quality(file.attrs) if config.quality is None else None
        if quality is not None:
            facts["quality_label"] = quality
        return RecordedEpisode(
            key=_PLACES.key(file_name, ""),
            tasks=(task,),
            cameras=frames,
            num_steps=count,
            task_rewards=original_rewards(file),
            truncated=True,
            success=None if quality is None else quality == "successful",
            names=(str(PurePosixPath(file_name).with_suffix("")), *shown),
            facts=facts,
        )


def _frames(config: AlohaConfig, assumed: Assumptions, path: Path, file: h5py.File, camera: str) -> FrameSequence:
    dataset: Any = file[f"{_IMAGES}/{camera}"]
    orientation = config.orientation or "as_stored"
    compressed = _is_compressed(dataset)
    exchange = config.exchange_colours
    if exchange is None:
        exchange = compressed
        if compressed:
            assumed.say(
                "red and blue of compressed pictures are exchanged (ALOHA's recorder compresses RGB as if it were "
                "BGR); --no-exchange-colours says otherwise"
            )
    if not compressed:
        return frames_of(path, dataset, orientation, bgr=exchange)
    check_claim(dataset)
    return EncodedImages(_JpegRows(path, dataset.name, len(dataset)), orientation, bgr=exchange)


def _language(file: h5py.File) -> str | None:
    """The instruction that some keep as a data set."""
    stored = read_array(file, "language_raw")
    if stored is None or not stored.size:
        return None
    text = stored.flat[0]
    return (text.decode("utf-8") if isinstance(text, bytes) else str(text)).strip() or None
