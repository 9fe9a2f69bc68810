"""What LIBERO's and robomimic's HDF5 files have in common: demonstrations in groups, images in data sets.

::

    data                  attributes: what is the same for all demonstrations
      demo_0, demo_1, ... attributes: what is true of one
        obs/CAMERA        uint8 (N, H, W, 3)
        rewards, dones    (N,)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import Reading, SourceError, Unreadable, attempt
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.files import check_regular
from robometer_rl.formats.cameras import Cameras, cameras_among
from robometer_rl.formats.hdf5.links import check_links
from robometer_rl.formats.trajectories import episode_id
from robometer_rl.frames import FrameError, rgb_shape
from robometer_rl.limits import check_packed, check_room
from robometer_rl.video import VideoError
from robometer_rl.video.lazy import LazyFrames, Orientation

if TYPE_CHECKING:
    import h5py

__all__ = [
    "DAMAGE",
    "Demonstration",
    "HDF5Frames",
    "Images",
    "check_claim",
    "demonstration_in",
    "demonstration_names",
    "find_files",
    "open_demonstration",
    "open_hdf5",
    "read_demonstrations",
    "read_values",
    "selection",
]

DAMAGE: Final = (OSError, KeyError, RuntimeError)
"""In a damaged file, h5py does not find what is listed (KeyError), or fails within HDF5 (the others)."""


@dataclass(frozen=True)
class Images:
    """Consecutive images in a file.

    Attributes:
        dataset: Name of the data set of images (N, H, W, 3).
        start: First image.
        stop: The one behind the last.
    """

    dataset: str
    start: int
    stop: int


class HDF5Frames(LazyFrames):
    """Frames that stay in an HDF5 file until somebody asks for them.

    The file is opened for every request, which takes a millisecond and leaves no handle behind: many objects may be
    alive, and they may travel to worker processes, where an open handle would be of no use.

    Attributes:
        path: The file.
        parts: Where the frames are, in order.
    """

    def __init__(
        self,
        path: Path,
        parts: tuple[Images, ...],
        image_shape: tuple[int, ...],
        orientation: Orientation,
        dtype: np.dtype[Any] | None = None,
    ) -> None:
        """Frames of ``image_shape`` (H, W, 3) in ``path``."""
        super().__init__((sum(part.stop - part.start for part in parts), *image_shape), orientation, dtype)
        self.path = path
        self.parts = parts

    def __str__(self) -> str:
        return f"{self.path}, {self.parts[0].dataset}"

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        blocks: list[NDArray[Any]] = []
        first = 0
        try:
            with open_hdf5(self.path) as file:
                for part in self.parts:
                    length = part.stop - part.start
                    wanted = rows[(rows >= first) & (rows < first + length)] - first + part.start
                    if len(wanted):
                        dataset: Any = file[part.dataset]
                        blocks.append(dataset[selection(wanted)])
                    first += length
        except DAMAGE as error:
            raise VideoError(f"{self}: frames cannot be read: {error}") from error
        return np.concatenate(blocks)


def selection(rows: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """What to index a data set with for ``rows``, which increase and are at least one."""
    # Choosing rows by number is slow in HDF5, and what is asked for most is an unbroken run.
    unbroken = rows[-1] - rows[0] + 1 == len(rows)
    return slice(int(rows[0]), int(rows[-1]) + 1) if unbroken else rows


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Opens a file for reading.

    Raises:
        OSError: It is missing, or no HDF5 file, or cut off or damaged.
        SourceError: It refers to files outside of its folder, see `robometer_rl.formats.hdf5.links`.
        ImportError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f'reading {path} needs h5py: pip install "robometer-rl[hdf5]"') from error
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        check_regular(path)
        check_links(path)
        file = h5py.File(path, "r")
    except DAMAGE as error:
        raise OSError(f"{path} cannot be opened as HDF5: {error}") from error
    with file:
        yield file


@dataclass(frozen=True)
class Demonstration:
    """One demonstration of an open file.

    Attributes:
        path: The file.
        file_name: Its path below the data set's, with slashes.
        name: Name of the demonstration, as in ``demo_3``.
        attributes: What the file says of all demonstrations: the attributes of ``data``.
        group: The demonstration; valid while it is being read.
        splits: Names of the file's ``mask`` lists that hold it.
    """

    path: Path
    file_name: str
    name: str
    attributes: Mapping[str, Any]
    group: h5py.Group
    splits: frozenset[str]

    def images(self, dataset: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape, (N, H, W, 3) or (N, 3, H, W), and type of the images in ``dataset``, a path below the demonstration.

        Raises:
            SourceError: There is no such data set.
            FrameError: It does not hold RGB images, or claims to hold more than it has bytes for.
        """
        found = self._dataset(dataset)
        if found is None:
            raise SourceError(f"there are no images {dataset!r}; this demonstration has {list(self._images())}")
        try:
            rgb_shape(found.shape, found.dtype)
            check_claim(found)
        except ValueError as error:
            raise FrameError(f"{dataset!r} has shape {found.shape} and type {found.dtype}: {error}") from error
        return found.shape, found.dtype

    @property
    def cameras(self) -> Cameras:
        """The pictures among the observations, by their names below ``obs``."""
        found = {name: (item.shape, item.dtype) for name, item in self._images().items()}
        return cameras_among({name.removeprefix("obs/"): each for name, each in found.items() if name[:4] == "obs/"})

    def values(self, dataset: str) -> NDArray[Any] | None:
        """All of the data set ``dataset``; None if there is no such thing.

        Raises:
            ValueError: It claims more than it has bytes for, or than there is memory.
        """
        found = self._dataset(dataset)
        return None if found is None else read_values(found)

    def environment(self) -> dict[str, Any]:
        """The environment's name and arguments, as robosuite data sets describe them; empty if they do not.

        Raises:
            SourceError: The description is not JSON.
        """
        return self.json_attribute("env_args")

    def environment_argument(self, name: str) -> Any:
        """What the environment was made with; None if the file does not say."""
        arguments = self.environment().get("env_kwargs")
        return arguments.get(name) if isinstance(arguments, dict) else None

    def json_attribute(self, name: str) -> dict[str, Any]:
        """An attribute that holds a JSON object, of the demonstration or else of the file; empty if it is not there.

        Raises:
            SourceError: It holds something else.
        """
        text = self.group.attrs.get(name, self.attributes.get(name, "{}"))
        try:
            value = json.loads(text)
        except (TypeError, ValueError) as error:
            raise SourceError(f"the attribute {name!r} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise SourceError(f"the attribute {name!r} is {str(text)[:60]!r}; expected a JSON object")
        return value

    def timing(self) -> dict[str, Any]:
        """``frame_interval`` in steps of control, and ``control_hz`` if the file states it."""
        rate = self.environment_argument("control_freq")
        return {"frame_interval": 1} | ({} if rate is None else {"control_hz": rate})

    @property
    def source(self) -> str:
        """What `Trajectory.source` says."""
        return f"{self.file_name}#data/{self.name}"

    def episode_id(self, data_source: str, camera: str) -> str:
        """What `Trajectory.id` says: the path of the file without its ending, the name, and the camera."""
        return episode_id(data_source, str(PurePosixPath(self.file_name).with_suffix("")), self.name, camera)

    def _dataset(self, name: str) -> h5py.Dataset | None:
        import h5py

        found = self.group.get(name)
        return found if isinstance(found, h5py.Dataset) else None

    def _images(self) -> dict[str, h5py.Dataset]:
        """All data sets that may hold images, by name."""
        datasets = {name: self._dataset(name) for name in _names_below(self.group)}
        return {name: found for name, found in datasets.items() if found is not None and len(found.shape) >= 3}


def check_claim(dataset: h5py.Dataset) -> None:
    """Raises `ValueError` if the shape of a data set stands for more than its bytes can hold, packed or not.

    What was never written is zeros for HDF5, however many.
    """
    if not dataset.is_virtual:  # what those have is in other data sets
        check_packed(int(dataset.nbytes), int(dataset.id.get_storage_size()), f"the data set {dataset.name}")


def read_values(dataset: h5py.Dataset) -> NDArray[Any]:
    """All of a data set, if that is in it and fits into memory.

    Raises:
        ValueError: It does not.
    """
    check_claim(dataset)
    check_room(int(dataset.nbytes), f"the data set {dataset.name}")
    return np.asarray(dataset[()])


def _names_below(group: h5py.Group, depth: int = 4) -> list[str]:
    """What is in a group and its groups, links followed; they may lead in a circle, so there is an end to it."""
    import h5py

    names: list[str] = []
    for name in map(str, group):
        names.append(name)
        if depth > 1 and group.get(name, getclass=True) is h5py.Group:
            below: Any = group[name]
            names += [f"{name}/{inner}" for inner in _names_below(below, depth - 1)]
    return names


def read_demonstrations(path: Path, read: Callable[[Demonstration], Trajectory]) -> Reading:
    """Reads every demonstration of a file, or of all files in a folder and its folders.

    Args:
        path: An HDF5 file, or a folder with ``.hdf5`` or ``.h5`` files in it; these are read in alphabetical order,
            and their demonstrations by number.
        read: Makes a trajectory of a demonstration while its file is open.

    Raises:
        SourceError: There is no such file.
    """
    files = find_files(path)
    return chain.from_iterable(_read_file(file, name, read) for file, name in files)


def find_files(path: Path) -> list[tuple[Path, str]]:
    """The file at ``path``, or the HDF5 files in the folder and its folders, each with its path below it.

    Raises:
        SourceError: There is no such file.
    """
    if path.is_file():
        return [(path, path.name)]
    names = sorted(file.relative_to(path).as_posix() for ending in ("hdf5", "h5") for file in path.rglob(f"*.{ending}"))
    if not names:
        raise SourceError(f"{path} is no file, and no folder with .hdf5 or .h5 files in it")
    return [(path / name, name) for name in names]


def _read_file(
    path: Path, file_name: str, read: Callable[[Demonstration], Trajectory]
) -> list[Trajectory | Unreadable]:
    """All of a file at once, since it is not to be open while somebody works on an episode."""
    try:
        with open_hdf5(path) as file:
            members = _members(file)

            def read_one(name: str) -> Trajectory:
                return read(demonstration_in(file, path, file_name, name, members))

            names = demonstration_names(file, path)
            return [attempt(f"{path}#data/{name}", partial(read_one, name)) for name in names]
    except (SourceError, *DAMAGE) as error:
        return [Unreadable(str(path), str(error))]


def demonstration_names(file: h5py.File, path: Path) -> list[str]:
    """``demo_0``, ``demo_1``, ...: the demonstrations of a file, by number.

    Raises:
        SourceError: There are none.
    """
    import h5py

    data: Any = file["data"] if file.get("data", getclass=True) is h5py.Group else {}
    names = [name for name in data if re.fullmatch(r"demo_\d+", name)]
    if not names:
        raise SourceError(f"{path} has no groups data/demo_0, data/demo_1, ...; it has {sorted(file)}")
    return sorted(names, key=lambda name: int(name.removeprefix("demo_")))


@contextmanager
def open_demonstration(path: Path, file_name: str, name: str) -> Iterator[Demonstration]:
    """One demonstration, and its file while it is being read; errors are those of `DAMAGE`."""
    with open_hdf5(path) as file:
        yield demonstration_in(file, path, file_name, name, {})


def _members(file: h5py.File) -> dict[str, set[str]]:
    """Names of the demonstrations in each of the file's ``mask`` lists."""
    masks: Any = file.get("mask", {})
    return {mask: {_text(name) for name in read_values(masks[mask])} for mask in masks}


def demonstration_in(
    file: h5py.File, path: Path, file_name: str, name: str, members: Mapping[str, set[str]]
) -> Demonstration:
    """A demonstration of an open file.

    Args:
        file: The file.
        path: Where it is.
        file_name: See `Demonstration.file_name`.
        name: Name of the demonstration.
        members: Names of the demonstrations in each of the file's ``mask`` lists.

    Raises:
        SourceError: It is something else than a group of arrays.
    """
    import h5py

    data: Any = file["data"]
    if data.get(name, getclass=True) is not h5py.Group:
        raise SourceError(f"data/{name} is no group of arrays")
    splits = frozenset(mask for mask, listed in members.items() if name in listed)
    return Demonstration(path, file_name, name, dict(data.attrs), data[name], splits)


def _text(value: bytes | str) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else value
