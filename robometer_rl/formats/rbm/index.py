"""Published data where it lies, as a listing: its rows are read once, and kept in an index that opens at once.

Reading a row of a cache means opening its frame file, for its shape, and of a repository decoding its video, to know
its frames. What comes of that is kept in the cache of this package (`robometer_rl.files.cache_folder`), in one Arrow
file per collection, and used for as long as all files of the place have the times and sizes that they had. A frame file
that changes under an open listing is noticed when its frames are read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from robometer_rl.data.array_frames import ArrayFrames
from robometer_rl.data.arrow import SealedRows, sort_sealed, write_sealed
from robometer_rl.data.published import published
from robometer_rl.data.reading import Unreadable
from robometer_rl.data.rows import FrameFile, Row, ShardPlace
from robometer_rl.data.store import locked
from robometer_rl.data.trajectories import Facts
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.data.video_frames import VideoFrames
from robometer_rl.documents import parse_json, read_text
from robometer_rl.files import cache_folder, remove_all_left_over, write_text
from robometer_rl.formats.rbm.layout import FoundCollection, find_collections
from robometer_rl.formats.rbm.reader import RbmConfig, read_collection, selected_keys
from robometer_rl.frames import FrameSequence
from robometer_rl.streams import Region

__all__ = ["InPlace", "open_in_place"]

logger = logging.getLogger(__name__)

_FORMAT: Final = 1  # of what is kept


@dataclass(frozen=True)
class _Indexed:
    """A collection in the index.

    Attributes:
        rows: Its rows, whose frame files are called by their whole paths.
        unreadable: Rows of the collection that cannot be read.
        split: What its trajectories are for.
    """

    rows: SealedRows
    unreadable: Sequence[Unreadable]
    split: str


class InPlace:
    """Published data that has been indexed, see `robometer_rl.data.trajectories.Listing`.

    Args:
        collections: In order.
        unreadable: What is no readable collection.
        folder: Where the index is, if it goes when this object goes.
    """

    def __init__(
        self,
        collections: Sequence[_Indexed],
        unreadable: Sequence[Unreadable],
        folder: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self._collections = collections
        self._unreadable = unreadable
        self._folder = folder
        self._starts = [0, *accumulate(len(each.rows.ids) for each in collections)]

    def __len__(self) -> int:
        return self._starts[-1]

    def facts(self) -> Iterator[tuple[int, Facts | Unreadable]]:
        """What is known of all trajectories, in order of collections and ids; then what cannot be read."""
        position = 0
        for collection in self._collections:
            for found in collection.rows.facts():
                if isinstance(found, Facts):
                    found.split = collection.split
                yield position, found
                position += 1
        for each in (*(each for collection in self._collections for each in collection.unreadable), *self._unreadable):
            yield position, each

    def __getitem__(self, position: int, /) -> Trajectory:
        """The trajectory at a position."""
        number = bisect_right(self._starts, position) - 1
        collection = self._collections[number]
        row = collection.rows[collection.rows.ids[position - self._starts[number]]]
        return row.trajectory(_frames(row), split=collection.split)


def open_in_place(config: RbmConfig) -> InPlace:
    """Opens published data where it lies; what was not indexed before is read through once.

    Raises:
        SourceError: There is nothing of the kind at the path, or nothing that is selected.
        UnknownGroupError: There is no such group or collection.
        ImportError: pyarrow or datasets is not installed.
    """
    place = str(config.path.resolve()), str(config.videos and config.videos.resolve())
    folder, temporary = cache_folder() / "rbm" / hashlib.sha256("\n".join(place).encode()).hexdigest()[:32], None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError
    except OSError:
        logger.info("%s cannot be written to: the index of %s is made anew each time", folder, config.path)
        temporary = tempfile.TemporaryDirectory(prefix="robometer-index-")
        folder = Path(temporary.name)
    with locked(folder):
        remove_all_left_over(folder)
        return _open(config, folder, temporary)


def _open(config: RbmConfig, folder: Path, temporary: tempfile.TemporaryDirectory[str] | None) -> InPlace:
    stamp, found = _stamp(config), None
    noted = _noted(folder)
    if noted.get("stamp") != stamp:
        found = find_collections(config.path, config.videos)
        _clear(folder)
        noted = {
            "stamp": stamp,
            "place": str(config.path),
            "keys": [each.key for each in found if isinstance(each, FoundCollection)],
            "unreadable": [each.as_dict() for each in found if isinstance(each, Unreadable)],
        }
        write_text(folder / "index.json", json.dumps(noted))
    keys = selected_keys(noted["keys"], config, published())
    lacking = [key for key in keys if not _about(folder, key).exists()]
    if lacking:
        found = found or find_collections(config.path, config.videos)
        for each in found:
            if isinstance(each, FoundCollection) and each.key in lacking:
                _index(each, folder)
    collections: list[_Indexed] = []
    for key in keys:
        unreadable = [Unreadable(**each) for each in parse_json(read_text(_about(folder, key)))]
        rows = SealedRows(_about(folder, key).with_suffix(".arrow"))
        collections.append(_Indexed(rows, unreadable, published().split_of(key, config.select)))
    return InPlace(collections, [Unreadable(**each) for each in noted["unreadable"]], temporary)


def _index(found: FoundCollection, folder: Path) -> None:
    """Reads a collection; the list of what cannot be read is written last and says that the rows are complete."""
    logger.info("indexing %s, which is done once", found.key)
    about, unreadable = _about(folder, found.key), list[Unreadable]()
    unsorted = folder / "unsorted.arrow"
    write_sealed(unsorted, _rows(found, unreadable), packed=True)
    for repeated in sort_sealed(about.with_suffix(".arrow"), unsorted):
        unreadable.append(Unreadable(repeated, f"another episode of {found.key} has the id {repeated!r}, too"))
    unsorted.unlink()
    write_text(about, json.dumps([each.as_dict() for each in unreadable]))


def _rows(found: FoundCollection, unreadable: list[Unreadable]) -> Iterator[Row]:
    for each in read_collection(found, "train"):
        if isinstance(each, Unreadable):
            unreadable.append(each)
        else:
            yield Row.of(each, _file(each))


def _file(trajectory: Trajectory) -> FrameFile:
    """Where the frames of a trajectory are, in the words of a row."""
    frames = trajectory.frames
    if isinstance(frames, VideoFrames):
        return FrameFile(str(frames.path.absolute()), frames.shape, "")  # type: ignore[arg-type]
    assert isinstance(frames, ArrayFrames)
    source, shape = frames.source, (len(frames), frames.shape[1], frames.shape[2], 3)
    if isinstance(source, Path):
        return FrameFile(str(source.absolute()), shape, "")
    assert isinstance(source, Region)
    archive = json.dumps([str(file.absolute()) for file in source.files])
    return FrameFile(source.name, shape, "", place=ShardPlace(archive, source.start, source.size))


def _frames(row: Row) -> FrameSequence:
    """The inverse of `_file`; nothing is read."""
    frames, place = row.frames, row.frames.place
    if place is not None:
        files = tuple(Path(file) for file in json.loads(place.shard))
        return ArrayFrames(Region(files, frames.file, place.start, place.size), frames.shape)
    path = Path(frames.file)
    if path.suffix == ".npz":
        return ArrayFrames(path, frames.shape)
    return VideoFrames.known(path, frames.shape, row.values["metadata"].get("fps"))


def _about(folder: Path, key: str) -> Path:
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _noted(folder: Path) -> Mapping[str, Any]:
    path = folder / "index.json"
    try:
        return parse_json(read_text(path)) if path.exists() else {}
    except ValueError:  # of another release, or damaged
        return {}


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _stamp(config: RbmConfig) -> str:
    """What changes when a file of the place is added, removed or written again."""
    digest = hashlib.sha256(f"{_FORMAT}".encode())
    roots = [config.path if config.path.is_dir() else config.path.parent]
    deep = config.path.is_dir()
    for root in (*roots, *([config.videos] if config.videos else [])):
        digest.update(f"{root}\n".encode("utf-8", "surrogateescape"))
        for line in sorted(_listed(root, deep)):
            digest.update(line)
    return digest.hexdigest()


def _listed(folder: Path | str, deep: bool, prefix: str = "") -> Iterator[bytes]:
    """A line about every file below a folder; hidden folders are not looked into, as `find_collections` does not."""
    try:
        entries = os.scandir(folder)
    except (NotADirectoryError, FileNotFoundError):
        return
    with entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_dir():
                if deep and entry.name[0] != ".":
                    yield from _listed(entry.path, deep, f"{name}/")
                continue
            try:
                status = entry.stat()
            except FileNotFoundError:  # a link to nothing
                continue
            yield f"{name}\t{status.st_mtime_ns}\t{status.st_size}\n".encode("utf-8", "surrogateescape")
