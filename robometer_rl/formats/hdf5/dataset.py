"""HDF5 files that are labelled: one or a folder of them, whatever their layout.

A `Layout` says where episodes lie in a file and how one is read. Everything else is the same for all: which files there
are, which cameras, and what writes labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from robometer_rl.data.reading import EPISODE_DAMAGE, SourceError, Unreadable
from robometer_rl.formats.conventions import Cameras, choose_cameras
from robometer_rl.formats.dataset import (
    DatasetOptions,
    EpisodeError,
    LabelWriter,
    RecordedEpisode,
    RelabelDataset,
    StoredLabels,
    WriteMode,
    default_output,
    fingerprint,
)
from robometer_rl.formats.hdf5.demonstrations import find_files
from robometer_rl.formats.hdf5.files import DAMAGE, Places, open_hdf5
from robometer_rl.formats.hdf5.labels import HDF5FileWriter, HDF5FolderWriter, is_labelled, provenance_in, read_labels

if TYPE_CHECKING:
    import h5py

__all__ = ["EpisodePlace", "HDF5Dataset", "Layout"]


class EpisodePlace(NamedTuple):
    """Where an episode is.

    Attributes:
        path: The file.
        file_name: What it is called below the dataset.
        name: Of the episode in it, see `Places.names`.
    """

    path: Path
    file_name: str
    name: str


class Layout(ABC):
    """How episodes lie in the HDF5 files of a format.

    Attributes:
        places: Where they and their parts are.
    """

    places: ClassVar[Places]

    @abstractmethod
    def cameras(self, file: h5py.File, place: EpisodePlace) -> Cameras:
        """The pictures of an episode of an open file; raises one of `EPISODE_DAMAGE` if it cannot be read."""

    @abstractmethod
    def episode(self, file: h5py.File, place: EpisodePlace, cameras: tuple[str, ...]) -> RecordedEpisode:
        """An episode of an open file; its frames open the file themselves when they are read."""


class HDF5Dataset(RelabelDataset):
    """Episodes in HDF5, see `RelabelDataset`; a key is the file, and the episode in it.

    Attributes:
        layout: How they lie there.
        files: Each with its path below the dataset.
    """

    format = "hdf5"

    def __init__(self, options: DatasetOptions, layout: Layout) -> None:
        """Lists the episodes.

        Raises:
            SourceError: There are none, or no such camera, or several without a choice.
            ImportError: The extra ``hdf5`` is not installed.
        """
        self.options = options
        self.layout = layout
        self.files = find_files(options.path)
        self._places: dict[str, EpisodePlace] = {}
        cameras: dict[str, None] = {}
        refused: dict[str, str] = {}
        skipped: list[Unreadable] = []
        for path, name in self.files:
            try:
                found = self._list_episodes(path, name)
                cameras |= dict.fromkeys(found.names)
                refused |= found.refused
            except (SourceError, *DAMAGE) as error:
                skipped.append(Unreadable(name, str(error)))
        if not self._places:
            raise SourceError(f"{options.path} has no episodes that can be read: {skipped[0].reason}")
        self.skipped = tuple(skipped)
        self.keys = list(self._places)
        self.cameras = choose_cameras(options.path, tuple(cameras), options.cameras, refused)

    def episode(self, key: str) -> RecordedEpisode:
        """See `RelabelDataset.episode`."""
        place = self._places[key]
        try:
            with open_hdf5(place.path) as file:
                is_labelled(self.layout.places.group(file, place.name))  # raises where somebody else uses the name
                return self.layout.episode(file, place, self.cameras)
        except (KeyError, RuntimeError) as error:
            raise EpisodeError(f"the file is damaged: {error}") from error

    def stored_labels(self, key: str) -> StoredLabels | None:
        """See `RelabelDataset.stored_labels`."""
        try:
            with self.group(key) as group:
                labels = read_labels(group, key)
        except (KeyError, RuntimeError) as error:
            raise EpisodeError(f"the file is damaged: {error}") from error
        made = provenance_in(self._places[key].path, self.layout.places)
        return None if labels is None else StoredLabels(labels, made)

    @contextmanager
    def group(self, key: str) -> Iterator[Any]:
        """The group of an episode, and its file while it is being read; errors are those of `DAMAGE`."""
        place = self._places[key]
        with open_hdf5(place.path) as file:
            yield self.layout.places.group(file, place.name)

    def fingerprint(self) -> str:
        """See `RelabelDataset.fingerprint`."""
        return fingerprint(self.keys, [path for path, _ in self.files])

    def writer(self, mode: WriteMode, output: Path | None = None) -> LabelWriter:
        """See `RelabelDataset.writer`.

        Raises:
            SourceError: A folder is to be changed in place, which cannot be done in one step.
        """
        path, places = self.options.path, self.layout.places
        if path.is_dir():
            if mode == "in_place":
                raise SourceError(f"{path} is a folder, and only a single file is replaced in one step: write a copy")
            unreadable = {entry.name for entry in self.skipped}
            files = {file: name for file, name in self.files if name not in unreadable}
            return HDF5FolderWriter(path, files, output or default_output(path), places)
        return HDF5FileWriter(*self.files[0], path if mode == "in_place" else output or default_output(path), places)

    def _list_episodes(self, path: Path, file_name: str) -> Cameras:
        """Notes the episodes of a file, and returns the cameras of the first of them that can be read."""
        with open_hdf5(path) as file:
            places = [EpisodePlace(path, file_name, name) for name in self.layout.places.names(file)]
            cameras = self._first_cameras(file, places)
        self._places |= {self.layout.places.key(file_name, place.name): place for place in places}
        return cameras

    def _first_cameras(self, file: h5py.File, places: Sequence[EpisodePlace]) -> Cameras:
        damage = ""
        for place in places:
            try:
                return self.layout.cameras(file, place)
            except EPISODE_DAMAGE as error:
                damage = damage or f"{place.name}: {error}"
        raise SourceError(f"not one of its episodes can be read; {damage}")
