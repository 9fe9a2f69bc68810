"""Minari's storages: HDF5, which is read a few frames at a time, and Arrow or Parquet files.

Minari reads whole episodes with all their pictures. Its usual storage is a file with a group ``episode_N`` per episode,
whose data sets can be read by rows, so that memory does not grow with the length of an episode::

    main_data.hdf5
      episode_0
        observations            (T + 1, ...), or a group with one per key
        infos/NAME              (T + 1, ...) or (T, ...)
        rewards, terminations, truncations  (T,)

Pictures are arrays, or JPEG files in rows of bytes.

Its other storage has one folder per episode, whose rows are observations. Minari reads them without looking whether
places and lengths in them make sense, which in a damaged file can end the process, and takes the first batch for the
episode. Nested infos lose their shapes on the way. So files are checked here first, and infos are read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import SourceError
from robometer_rl.documents import read_text
from robometer_rl.extras import require
from robometer_rl.files import check_regular, inside
from robometer_rl.formats.hdf5.files import DAMAGE, check_claim, open_hdf5, read_values, selection
from robometer_rl.video.images import VideoError, decode_image

if TYPE_CHECKING:
    import h5py

__all__ = [
    "HDF5_FILE",
    "METADATA_FILE",
    "StoredPictures",
    "arrow_infos",
    "check_episode",
    "children",
    "data_folder",
    "episode_files",
    "find",
    "has_hdf5_storage",
    "info_arrays",
    "leaves",
    "read_actions",
    "read_facts",
    "read_pictures",
    "read_table",
    "stored_pictures",
]

HDF5_FILE: Final = "main_data.hdf5"
METADATA_FILE: Final = "metadata.json"
_JPEG: Final = b"\xff\xd8"
_LISTED: Final = 20
_DEEPEST: Final = 6


class StoredPictures(NamedTuple):
    """How the pictures of an episode are stored.

    Attributes:
        shape: Of the array, which has one entry per picture.
        dtype: Of the array.
        is_encoded: Whether its entries are JPEG files.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    is_encoded: bool


def data_folder(path: Path) -> Path:
    """Where the files of the data set at ``path`` are: there, or in its folder ``data``."""
    return path / "data" if (path / "data").is_dir() else path


def has_hdf5_storage(folder: Path) -> bool:
    """Whether Minari keeps the data set in ``folder`` in HDF5."""
    return (folder / HDF5_FILE).is_file()


def read_facts(folder: Path, episode: int) -> dict[str, Any]:
    """What Minari's storage returns of an episode, without observations, actions and pictures in its infos.

    Raises:
        SourceError: It is incomplete or damaged.
    """
    with _opened(folder, episode) as group:
        facts: dict[str, Any] = {name: read_values(group[name]) for name in ("rewards", "terminations", "truncations")}
        infos = group.get("infos")
        return facts | {"infos": None if infos is None else _values(infos)}


def read_actions(folder: Path, episode: int) -> NDArray[Any] | None:
    """(T, ...) actions of an episode; None where an action is a dictionary or a tuple.

    Raises:
        SourceError: It is incomplete or damaged.
    """
    with _opened(folder, episode) as group:
        return None if _is_group(group["actions"]) else read_values(group["actions"])


def info_arrays(folder: Path, episode: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of every array in the infos of an episode, by its place (``info/KEY``).

    Raises:
        SourceError: It is incomplete or damaged.
    """
    with _opened(folder, episode) as group:
        return {place: (item.shape, item.dtype) for place, item in leaves(group.get("infos", {}), "info").items()}


def stored_pictures(folder: Path, episode: int, key: str) -> StoredPictures:
    """How the pictures of an episode are stored, without reading them; see `read_pictures`."""
    with _opened(folder, episode) as group:
        found = _find(group, key)
        check_claim(found)
        is_encoded = len(found.shape) in (1, 2) and len(found) > 0 and _are_files(found[:1])
        return StoredPictures(found.shape, None if is_encoded else found.dtype, is_encoded)


def read_pictures(folder: Path, episode: int, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Some pictures as they are stored.

    Args:
        folder: The folder with the file.
        episode: Number of the episode.
        key: Where they are, as in ``obs``, ``obs/KEY``, ``obs/KEY/KEY`` or ``info/KEY``; see `find`.
        rows: (N,) numbers of at least one picture, which increase.

    Raises:
        SourceError: There are no such pictures, or the episode is incomplete or damaged.
    """
    with _opened(folder, episode) as group:
        stored = _find(group, key)[selection(rows)]
    if not _are_files(stored):
        return stored
    try:
        return np.stack([decode_image(bytes(row), f"a picture of {key!r}") for row in stored])
    except VideoError as error:
        raise SourceError(f"episode {episode} of {folder}: {error}") from error


@contextmanager
def _opened(folder: Path, episode: int) -> Iterator[Any]:
    try:
        with open_hdf5(folder / HDF5_FILE) as file:
            group = file[f"episode_{episode}"]
            if not _is_group(group):
                raise SourceError(f"episode {episode} of {folder} is no group of arrays")
            yield group
    except DAMAGE as error:
        raise SourceError(f"episode {episode} of {folder} is incomplete or damaged: {error}") from error


def _find(group: h5py.Group, key: str) -> Any:
    return find({"obs": group["observations"], "info": group.get("infos", {})}, key)


def children(content: Any) -> dict[str, Any] | None:
    """What a dictionary or a tuple holds, by name or by number from 0; None of anything else.

    Minari's HDF5 storage calls the entries of a tuple ``_index_0``, ``_index_1``, ...; here they are ``0``, ``1``, ...
    """
    if isinstance(content, tuple):
        return {str(number): entry for number, entry in enumerate(content)}
    if not _is_group(content):
        return None
    names = list(content)
    is_tuple = bool(names) and all(re.fullmatch(r"_index_\d+", name) for name in names)
    return {name.removeprefix("_index_") if is_tuple else name: content[name] for name in names}


def leaves(content: Any, place: str, depth: int = _DEEPEST) -> dict[str, Any]:
    """All that is no dictionary or tuple in ``content``, by its place below ``place``.

    Groups in a file may lead in a circle, so there is an end to it.
    """
    below = children(content)
    if below is None:
        return {place: content}
    inner = below.items() if depth else ()
    return {name: leaf for key, entry in inner for name, leaf in leaves(entry, f"{place}/{key}", depth - 1).items()}


def find(content: Mapping[str, Any], key: str) -> Any:
    """What is at a place of an episode, as in ``obs/pixels/top``, ``obs/0`` (of a tuple) or ``info/frame``.

    Args:
        content: ``obs`` and ``info`` of an episode.
        key: Names from there on, with slashes between them.

    Raises:
        SourceError: There is no such place, or more places below it; the message lists those there are.
    """
    kind, *names = key.split("/")
    found: Any = content[kind]
    for name in names:
        below = children(found) or {}
        if name not in below:
            raise SourceError(f"there is no {key!r}; expected one of {_places(content)}")
        found = below[name]
    below = children(found)
    if below is not None:
        raise SourceError(f"{key!r} has the keys {sorted(below)}; choose one of {_places({key: found})}")
    return found


def _places(content: Mapping[str, Any]) -> str:
    places = [place for kind, entry in content.items() for place in leaves(entry, kind)]
    more = f" and {len(places) - _LISTED} more" if len(places) > _LISTED else ""
    return ", ".join(places[:_LISTED]) + more or "none: there is nothing"


def _is_group(item: Any) -> bool:
    # The groups of h5py are mappings, its data sets are not.
    return isinstance(item, Mapping)


def _values(infos: Mapping[str, Any], depth: int = _DEEPEST) -> dict[str, Any]:
    """Nested infos without pictures."""
    return {
        name: _values(item, depth - 1) if _is_group(item) else read_values(item)
        for name, item in (infos.items() if depth else ())
        if _is_group(item) or len(item.shape) < 3
    }


def _are_files(rows: NDArray[Any]) -> bool:
    """Whether rows are JPEG files, of one length or of several, and not arrays."""
    are_bytes = (rows.ndim == 1 and rows.dtype == object) or (rows.ndim == 2 and rows.dtype == np.uint8)
    return bool(are_bytes and len(rows) and bytes(rows[0][:2]) == _JPEG)


def episode_files(folder: Path, episode: int) -> list[Path]:
    """The files with the rows of an episode."""
    files = sorted((folder / str(episode)).glob("*.*"))
    return [path for path in files if path.suffix in (".arrow", ".parquet") and not path.name.startswith((".", "_"))]


def read_table(path: Path) -> Any:
    """The ``pyarrow.Table`` of a file, whose places and lengths have been checked.

    Raises:
        ValueError: It is damaged.
        OSError: Likewise, or it is gone.
    """
    check_regular(path)
    if path.suffix == ".parquet":
        table = require("pyarrow.parquet", "minari").ParquetFile(path).read()
    else:
        # Not mapped: a file that gets shorter meanwhile would end the process.
        table = require("pyarrow", "minari").ipc.open_file(path.read_bytes()).read_all()
    table.validate(full=True)
    return table


def check_episode(folder: Path, episode: int) -> Any:
    """The table of an episode.

    Raises:
        SourceError: Its rows are in several files or batches, or in none.
        ValueError: It is damaged.
        OSError: Likewise.
    """
    files = episode_files(folder, episode)
    if len(files) != 1:
        raise SourceError(f"its rows are in {len(files)} files; Minari writes one")
    facts = f"{episode}/metadata.json"  # which Minari reads: it would wait for a pipe, and read what has no end
    if (folder / facts).exists():
        read_text(inside(folder, facts))
    table = read_table(files[0])
    if files[0].suffix == ".arrow" and max((column.num_chunks for column in table.columns), default=0) > 1:
        raise SourceError("its rows are in several batches; Minari writes one, and reads no more")
    return table


def arrow_infos(table: Any) -> dict[str, Any]:
    """The infos of an episode as Minari's HDF5 storage returns them: (T + 1, ...) arrays, in dictionaries."""
    if "infos" not in table.column_names:
        return {}
    pa = require("pyarrow", "minari")
    infos: Any = _stored_values(pa.concat_arrays(table["infos"].chunks), None, pa)
    return infos


def _stored_values(column: Any, notes: Any, pa: Any) -> Any:
    """Values of a column; the shape of its entries is noted beside it."""
    if pa.types.is_struct(column.type):
        return {
            field.name: _stored_values(column.field(place), field.metadata, pa)
            for place, field in enumerate(column.type)
        }
    shape = (notes or {}).get(b"shape")
    if shape is None or not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy(zero_copy_only=False)
    sizes = [int(size) for size in shape.split(b",") if size]
    return np.asarray(column.flatten()).reshape(len(column), *sizes)
