"""HDF5 files of other people: opened and read within limits, and what they keep in other files.

HDF5 follows links to other files, and data sets that are views of their data sets, without a word. So a file that
somebody else made can show any HDF5 file of this machine, and writing into a copy of a file can change a file that the
original links to. Here links stay in the folder of their file, and a copy that is to be changed takes in what it links
to.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import SourceError
from robometer_rl.files import OutsideError, check_regular, inside
from robometer_rl.limits import check_packed, check_room

if TYPE_CHECKING:
    import h5py

__all__ = [
    "DAMAGE",
    "LABELS_GROUP",
    "ORIGINAL_REWARDS",
    "Places",
    "check_claim",
    "check_links",
    "describe",
    "layout_of",
    "open_hdf5",
    "original_rewards",
    "read_array",
    "read_values",
    "selection",
    "take_in",
]

DAMAGE: Final = (OSError, KeyError, RuntimeError)
"""In a damaged file, h5py does not find what is listed (KeyError), or fails within HDF5 (the others)."""

LABELS_GROUP: Final = "robometer"
"""The group of an episode in which labels are."""

ORIGINAL_REWARDS: Final = f"{LABELS_GROUP}/original_rewards"
"""Where relabelling keeps the rewards that it replaced, below an episode."""

_LAYOUTS: Final = {
    "robomimic_hdf5": re.compile(r"data/demo_\d+"),
    "maniskill": re.compile(r"traj_\d+"),
    "aloha": re.compile(r"observations/images"),
}
_LISTED: Final = 8

_PIECE: Final = 1 << 26  # bytes that are copied at a time


@dataclass(frozen=True)
class Places:
    """Where episodes and their parts are in the files of a layout.

    Attributes:
        episodes: The group of all of them, as in ``/data/``.
        pattern: What one is called there, as in ``demo_3``; empty where a file is one episode.
        observations: The group of its observations, below an episode.
        actions: The data set of its actions.
        beside: What the file beside a file ends in that belongs to it; empty if there is none.
    """

    episodes: str
    pattern: str
    observations: str
    actions: str
    beside: str = ""

    def group(self, file: h5py.File, name: str) -> Any:
        """The group of the episode called ``name``."""
        return file[f"{self.episodes}{name}"]

    def key(self, file_name: str, name: str) -> str:
        """`RecordedEpisode.key` of an episode, as in ``lift.hdf5#demo_3``."""
        return f"{file_name}#{name}" if name else file_name

    def names(self, file: h5py.File) -> list[str]:
        """What the episodes of a file are called, by number; a file that is one episode has one without a name.

        Raises:
            SourceError: There are none.
        """
        import h5py

        if not self.pattern:
            return [""]
        group: Any = file[self.episodes] if file.get(self.episodes, getclass=True) is h5py.Group else {}
        names = [name for name in map(str, group) if re.fullmatch(self.pattern, name)]
        if not names:
            examples = [f"{self.episodes}{self.pattern}".strip("/").replace(r"\d+", number) for number in "01"]
            raise SourceError(f"{file.filename} has no groups {', '.join(examples)}, ...; {describe(file)}")
        return sorted(names, key=lambda name: int(name.rpartition("_")[2]))

    def noted(self, file: h5py.File) -> Any:
        """The attributes that say how labels were made."""
        return self.group(file, "").attrs


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Opens a file for reading.

    Raises:
        OSError: It is missing, or no HDF5 file, or cut off or damaged.
        SourceError: It refers to files outside of its folder.
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


def describe(file: h5py.File) -> str:
    """What a file holds, in a sentence's half, and the format whose layout that is."""
    top, found = sorted(map(str, file)), layout_of(file)
    listed = ", ".join(top[:_LISTED]) + (f" and {len(top) - _LISTED} more" if len(top) > _LISTED else "")
    return f"it has {listed or 'nothing'}" + (f", as the format {found} does" if found else "")


def layout_of(file: h5py.File) -> str | None:
    """The format whose layout a file has, by the names of its groups; None if none is known."""
    import h5py

    places = list(map(str, file))
    for name in list(places):
        if file.get(name, getclass=True) is h5py.Group:
            below: Any = file[name]
            places += [f"{name}/{inner}" for inner in below]
    return next((kind for kind, pattern in _LAYOUTS.items() if any(map(pattern.fullmatch, places))), None)


def selection(rows: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """What to index a data set with for ``rows``, which increase and are at least one."""
    # Choosing rows by number is slow in HDF5, and what is asked for most is an unbroken run.
    unbroken = rows[-1] - rows[0] + 1 == len(rows)
    return slice(int(rows[0]), int(rows[-1]) + 1) if unbroken else rows


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


def read_array(group: h5py.Group, place: str) -> NDArray[Any] | None:
    """The data set at a place below a group, as `read_values` reads it; None if there is none."""
    import h5py

    found: Any = group[place] if group.get(place, getclass=True) is h5py.Dataset else None
    return None if found is None else read_values(found)


def original_rewards(episode: h5py.Group) -> NDArray[Any] | None:
    """(T,) of an episode as they were before any relabelling; None if there are none."""
    return read_array(episode, ORIGINAL_REWARDS if f"{LABELS_GROUP}/progress" in episode else "rewards")


def check_links(path: Path) -> None:
    """Makes sure that a file, and the files that it links to, refer to files of their folder only.

    Raises:
        SourceError: They refer to others, or to files that are not there, or keep values outside of HDF5.
        OSError: A file cannot be opened.
    """
    status = path.stat()
    _check_version(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _check_version(path: Path, modified: int, size: int) -> None:
    import h5py

    known, waiting = {path.resolve()}, [path]
    while waiting:
        here = waiting.pop()
        with h5py.File(here, "r") as file:
            for name in sorted({name for place in _links(file) for name in _files_of(file, *place)}):
                found = _target(here, name)
                if found.resolve() not in known:
                    known.add(found.resolve())
                    waiting.append(found)


def _files_of(file: h5py.File, path: str, link: Any) -> list[str]:
    """The other files that a link, or the data set that it leads to, refers to."""
    import h5py

    if isinstance(link, h5py.ExternalLink):
        return [link.filename]
    dataset = _dataset(file, path, link)
    if dataset is not None and dataset.external:
        raise SourceError(
            f"{file.filename} keeps the values of {path} in {dataset.external[0][0]!r}, which is no HDF5 file; copy "
            "them into a data set of their own"
        )
    if dataset is None or not dataset.is_virtual:
        return []
    return [each.file_name for each in dataset.virtual_sources() if each.file_name != "."]


def _dataset(file: h5py.File, path: str, link: Any) -> h5py.Dataset | None:
    """The data set that a link leads to, if it is kept in this file."""
    import h5py

    if not isinstance(link, h5py.HardLink) or file.get(path, getclass=True) is not h5py.Dataset:
        return None
    found: Any = file[path]
    return found


def _target(path: Path, name: str) -> Path:
    """The file that ``path`` calls ``name``; HDF5 would look in the working directory as well."""
    try:
        found = inside(path.parent, name)
    except OutsideError as error:
        raise SourceError(f"{path} links to another file: {error}") from error
    if not found.is_file():
        raise SourceError(f"{path} links to {name!r}, and there is no such file in its folder")
    return found


def take_in(copy: h5py.File, original: h5py.File) -> None:
    """Puts into a copy of a file what the original keeps in other files, so that it refers to none.

    Args:
        copy: A copy of ``original`` that may be changed.
        original: Where the original is, from where its links lead somewhere.
    """
    import h5py

    for path, link in list(_links(copy)):
        if isinstance(link, h5py.ExternalLink):
            parent, _, name = path.rpartition("/")
            group: Any = copy[parent or "/"]
            del group[name]
            original.copy(path, group, name, expand_external=True, expand_soft=True)
    for path, link in list(_links(copy)):
        dataset = _dataset(copy, path, link)
        if dataset is not None and dataset.is_virtual:
            attributes, source = dict(dataset.attrs), original[path]
            del copy[path]
            taken = copy.create_dataset(path, dataset.shape, dataset.dtype)
            _copy_values(source, taken)
            taken.attrs.update(attributes)


def _copy_values(source: Any, target: Any) -> None:
    rows = max(1, _PIECE // max(1, source.dtype.itemsize * math.prod(source.shape[1:])))
    for start in range(0, len(source), rows):
        target[start : start + rows] = source[start : start + rows]


def _links(file: h5py.File) -> Iterator[tuple[str, Any]]:
    """Every link of a file by its path, and what kind it is; links out of the file are not followed."""
    import h5py
    import h5py.h5o as objects  # pyright: ignore[reportMissingImports] - compiled

    waiting, known = [""], set[int]()
    while waiting:
        parent = waiting.pop()
        group: Any = file[parent or "/"]
        for name in group:
            path, link = f"{parent}/{name}", group.get(name, getlink=True)
            yield path, link
            if isinstance(link, h5py.HardLink) and group.get(name, getclass=True) is h5py.Group:
                address = objects.get_info(group[name].id).addr
                if address not in known:  # groups may contain themselves
                    known.add(address)
                    waiting.append(path)
