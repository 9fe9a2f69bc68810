"""Which collections of the published layouts are at a path, told apart by their files (docs/data.md).

Four layouts hold the same rows::

    KEY/processed_dataset/*.arrow, KEY/frames/trajectory_ID.npz      a preprocessed cache
    KEY.tar; KEY.tar.partaa, KEY.tar.partab, ...                     the same in an archive, whole or in parts
    REPOSITORY/SUBSET/train-*.parquet, REPOSITORY/SUBSET/**/*.mp4    a repository as it is downloaded
    SUBSET/state.json, SUBSET/*.arrow                                what ``Dataset.save_to_disk`` leaves among videos

A path may also be a folder of any of these. Archives are not unpacked: their members are read where they are.
"""

from __future__ import annotations

import io
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

from robometer_rl.data.published import published
from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.documents import MAX_BYTES, parse_json
from robometer_rl.files import OutsideError, inside
from robometer_rl.streams import JoinedFiles, Region

__all__ = ["FoundCollection", "find_collections"]

_DEPTH: Final = 3  # of folders in folders: a folder of repositories, each with its subsets
_ARCHIVE: Final = re.compile(r"(?P<key>.+)\.tar(?:\.part-?(?P<part>[a-z]{2}))?")
_CACHE: Final = "processed_dataset"
_INFO: Final = "dataset_info.json"


@dataclass(frozen=True)
class FoundCollection:
    """A collection whose rows have not been read yet.

    Attributes:
        key: See `robometer_rl.data.published.Collection`.
        tables: Opens its tables: Arrow streams, or Parquet where the name ends so.
        file: Where a file of frames is that a row calls by a path; None if it is not there.
        info: What the cache says of itself; empty for other layouts.
        is_cache: Whether frames are packed arrays, which the reference thinned.
    """

    key: str
    tables: Sequence[tuple[str, Callable[[], BinaryIO]]]
    file: Callable[[str], Path | Region | None]
    info: Mapping[str, Any]
    is_cache: bool


def find_collections(path: Path, videos: Path | None = None) -> list[FoundCollection | Unreadable]:
    """The collections at ``path`` in the order of their keys; archives that cannot be read in their places.

    Args:
        path: A cache, an archive or a part of one, a repository, a subset of one, or a folder of such.
        videos: Where to look for videos that are not beside their rows.

    Raises:
        SourceError: There is nothing of the kind.
    """
    if not path.exists():
        raise SourceError(f"there is nothing at {path}; expected a cache, an archive, or a folder of them")
    if path.is_file():
        found = list(_archives([each for each in path.parent.iterdir() if _key(each) == _key(path) is not None]))
    else:
        found = list(_in_folder(path, videos, _DEPTH))
    if not found:
        raise SourceError(
            f"{path} holds none of the published layouts: no {_CACHE}/, no KEY.tar or KEY.tar.partaa, no "
            "SUBSET/train-*.parquet, no state.json with *.arrow"
        )
    # What has been unpacked need not be read from its archive, too.
    unique: dict[str, FoundCollection | Unreadable] = {}
    for each in found:
        name = each.key if isinstance(each, FoundCollection) else f"{each.name}#"
        unique.setdefault(name, each)
    return [unique[name] for name in sorted(unique)]


def _in_folder(folder: Path, videos: Path | None, depth: int) -> Iterator[FoundCollection | Unreadable]:
    if (folder / _CACHE).is_dir():
        yield _cache(folder)
    elif any(folder.glob("*.parquet")):
        yield _tables(folder, sorted(folder.glob("*.parquet")), videos)
    elif (folder / "state.json").is_file() and any(folder.glob("*.arrow")):
        yield _tables(folder, _saved(folder), videos)
    else:
        if depth:
            for each in sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."):
                yield from _in_folder(each, videos, depth - 1)
        yield from _archives(sorted(folder.iterdir()))


def _cache(folder: Path) -> FoundCollection:
    frames = folder / "frames"

    def file(name: str) -> Path | None:
        # The rows say where their author's disk had it: only the name counts.
        own = name.rpartition("/")[2]
        path = frames / own
        # What is no link cannot lead elsewhere; to follow all links of a path takes long for a million rows.
        return path if _is_plain(path) else _existing(frames, own)

    info = _information((folder / _INFO).open("rb")) if (folder / _INFO).is_file() else {}
    return FoundCollection(folder.resolve().name, _openers(_saved(folder / _CACHE)), file, info, is_cache=True)


def _tables(folder: Path, files: Sequence[Path], videos: Path | None) -> FoundCollection:
    """A subset of a repository, or what `save_to_disk` left of it: rows name videos relative to the repository."""
    subset, repository = folder.resolve().name, folder.resolve().parent.name

    def file(name: str) -> Path | None:
        parts = PurePosixPath(name).parts
        short = "/".join(parts[parts.index(subset) + 1 :] if subset in parts else parts[-1:])
        places = [(folder, short), (folder, parts[-1]), (folder.parent, name)]
        if videos is not None:
            places += [(videos, short), (videos / subset, short), (videos, parts[-1])]
        return next((found for place, tail in places if (found := _existing(place, tail)) is not None), None)

    return FoundCollection(published().key_of(repository, subset), _openers(files), file, {}, is_cache=False)


def _saved(folder: Path) -> list[Path]:
    """The files of a saved data set, those that its state names if it has one."""
    state = folder / "state.json"
    if state.is_file():
        listed = _information(state.open("rb")).get("_data_files", [])
        return [inside(folder, entry["filename"]) for entry in listed]
    return sorted(folder.glob("*.arrow"))


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):  # not there, or no name at all
        return False


def _existing(folder: Path, name: str) -> Path | None:
    try:
        path = inside(folder, name)
    except OutsideError:
        return None
    return path if path.is_file() else None


def _openers(files: Sequence[Path]) -> list[tuple[str, Callable[[], BinaryIO]]]:
    return [(str(file), lambda file=file: file.open("rb")) for file in files]


def _key(path: Path) -> str | None:
    match = _ARCHIVE.fullmatch(path.name)
    return None if match is None else match["key"]


def _archives(paths: Sequence[Path]) -> Iterator[FoundCollection | Unreadable]:
    """The archives among some files; parts of one are brought together."""
    parts: dict[str, dict[str, Path]] = {}
    for path in paths:
        match = _ARCHIVE.fullmatch(path.name)
        if match is not None and path.is_file():
            parts.setdefault(match["key"], {})[match["part"] or ""] = path
    for key, files in parts.items():
        try:
            yield from _in_archive(key, _in_order(files))
        except (tarfile.TarError, ValueError, OSError, EOFError, TypeError, KeyError) as error:
            yield Unreadable(f"{key}.tar", str(error) or type(error).__name__)


def _in_order(files: Mapping[str, Path]) -> tuple[Path, ...]:
    """The files of one archive: itself, or all of its parts."""
    if "" in files:
        return (files[""],)
    names = sorted(files)
    expected = [f"{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(len(names))]
    missing = sorted(set(expected) - set(names))
    if missing:
        raise SourceError(f"of the archive in parts, part{missing[0]} is missing; there are part{', part'.join(names)}")
    return tuple(files[name] for name in names)


def _in_archive(key: str, files: tuple[Path, ...]) -> Iterator[FoundCollection]:
    """The caches in an archive, usually one, which the archive is called after."""
    members = _members(files)
    roots = {name.partition(f"/{_CACHE}/")[0] for name in members if f"/{_CACHE}/" in name}
    if not roots:
        raise SourceError(f"it holds no {_CACHE}/, so it is no preprocessed cache")
    for root in sorted(roots):
        yield _archived(root, {name: place for name, place in members.items() if name.startswith(f"{root}/")})


def _archived(root: str, members: Mapping[str, Region]) -> FoundCollection:
    def file(name: str) -> Region | None:
        return members.get(f"{root}/frames/{PurePosixPath(name).name}")

    state = members.get(f"{root}/{_CACHE}/state.json")
    if state is None:
        names = sorted(name for name in members if name.startswith(f"{root}/{_CACHE}/") and name.endswith(".arrow"))
    else:
        names = [f"{root}/{_CACHE}/{entry['filename']}" for entry in _information(state.open())["_data_files"]]
    missing = [name for name in names if name not in members]
    if missing:
        raise SourceError(f"it lacks {missing[0]}")
    tables = [(str(members[name]), members[name].open) for name in names]
    info = _information(members[f"{root}/{_INFO}"].open()) if f"{root}/{_INFO}" in members else {}
    return FoundCollection(PurePosixPath(root).name, tables, file, info, is_cache=True)


def _members(files: tuple[Path, ...]) -> dict[str, Region]:
    """The files in an archive by name; only headers are read.

    Raises:
        SourceError: A name leads out of the folder that the archive would be unpacked to, or a part is missing.
    """
    found: dict[str, Region] = {}
    with io.BufferedReader(JoinedFiles(files)) as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for member in archive:
                    _check_name(member)
                    if not member.isreg() or member.issparse():
                        continue
                    if member.offset_data + member.size > size:
                        raise SourceError(f"it ends in the middle of {member.name}: the rest, or a part, is missing")
                    name = str(PurePosixPath(member.name))
                    found[name] = Region(files, name, member.offset_data, member.size)
        except tarfile.ReadError as error:
            raise SourceError(f"it is no complete uncompressed tar file ({error}); is a part missing?") from error
        stream.seek(max(size - 512, 0))
        if stream.read(512).strip(b"\0"):
            raise SourceError("it has no end mark: the rest, or a part, is missing")
    return found


def _check_name(member: tarfile.TarInfo) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise SourceError(f"its member {member.name!r} leads out of it; nothing of the archive is read")
    if member.issym() or member.islnk():
        raise SourceError(f"its member {member.name!r} is a link; expected files, so nothing of the archive is read")


def _information(stream: BinaryIO) -> dict[str, Any]:
    """A JSON object of a data set."""
    with stream:
        text = stream.read(MAX_BYTES + 1)
    found = parse_json(text.decode("utf-8"))
    if len(text) > MAX_BYTES or not isinstance(found, dict):
        raise SourceError(f"{getattr(stream, 'name', 'its state')} is no JSON object")
    return found
