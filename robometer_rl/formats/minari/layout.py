"""Minari's HDF5 storage, read a few frames at a time.

Minari reads whole episodes with all their pictures. Its storage is a file with a group ``episode_N`` per episode, whose
data sets can be read by rows, so that memory does not grow with the length of an episode::

    main_data.hdf5
      episode_0
        observations            (T + 1, ...), or a group with one per key
        infos/NAME              (T + 1, ...) or (T, ...)
        rewards, terminations, truncations  (T,)

Pictures are arrays, or JPEG files in rows of bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.data.reading import SourceError
from robometer_rl.formats.hdf5.reader import DAMAGE, open_hdf5, selection

if TYPE_CHECKING:
    import h5py

__all__ = ["count_pictures", "has_hdf5_storage", "info_shapes", "read_facts", "read_pictures"]

_FILE: Final = "main_data.hdf5"
_JPEG: Final = b"\xff\xd8"


def has_hdf5_storage(folder: Path) -> bool:
    """Whether Minari keeps the data set in ``folder`` in HDF5."""
    return (folder / _FILE).is_file()


def read_facts(folder: Path, episode: int) -> dict[str, Any]:
    """What Minari's storage returns of an episode, without observations, actions and pictures in its infos.

    Raises:
        SourceError: It is incomplete or damaged.
    """
    with _opened(folder, episode) as group:
        facts: dict[str, Any] = {name: group[name][()] for name in ("rewards", "terminations", "truncations")}
        infos = group.get("infos")
        return facts | {"infos": None if infos is None else _values(infos)}


def info_shapes(folder: Path, episode: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays in the infos of an episode, by name.

    Raises:
        SourceError: It is incomplete or damaged.
    """
    with _opened(folder, episode) as group:
        infos = group.get("infos", {})
        return {name: infos[name].shape for name in infos if not _is_group(infos[name])}


def count_pictures(folder: Path, episode: int, key: str) -> int:
    """Number of pictures of an episode; see `read_pictures`."""
    with _opened(folder, episode) as group:
        return len(_find(group, key))


def read_pictures(folder: Path, episode: int, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Some pictures as they are stored.

    Args:
        folder: The folder with the file.
        episode: Number of the episode.
        key: Where they are, as in ``obs``, ``obs/KEY`` or ``info/KEY``.
        rows: (N,) numbers of at least one picture, which increase.

    Raises:
        SourceError: There are no such pictures, or the episode is incomplete or damaged.
    """
    with _opened(folder, episode) as group:
        stored = _find(group, key)[selection(rows)]
    if not _are_files(stored):
        return stored
    try:
        return np.stack([np.asarray(Image.open(io.BytesIO(bytes(row)))) for row in stored])
    except OSError as error:
        raise SourceError(f"episode {episode} of {folder}: a picture of {key!r} is damaged: {error}") from error


@contextmanager
def _opened(folder: Path, episode: int) -> Iterator[Any]:
    try:
        with open_hdf5(folder / _FILE) as file:
            yield file[f"episode_{episode}"]
    except DAMAGE as error:
        raise SourceError(f"episode {episode} of {folder} is incomplete or damaged: {error}") from error


def _find(group: h5py.Group, key: str) -> Any:
    kind, _, name = key.partition("/")
    words = "observations" if kind == "obs" else "infos"
    found: Any = group[words] if kind == "obs" else group.get(words, {})
    keys = sorted(found) if isinstance(found, Mapping) else []
    if name:
        if name not in keys:
            raise SourceError(f"there is no {key!r}; {words} have the keys {keys}")
        found = found[name]
    if _is_group(found):
        raise SourceError(f"{key!r} has the keys {sorted(found)}; choose one, as in '{key}/KEY'")
    return found


def _is_group(item: Any) -> bool:
    # The groups of h5py are mappings, its data sets are not.
    return isinstance(item, Mapping)


def _values(infos: Mapping[str, Any]) -> dict[str, Any]:
    """Nested infos without pictures."""
    return {
        name: _values(item) if _is_group(item) else item[()]
        for name, item in infos.items()
        if _is_group(item) or len(item.shape) < 3
    }


def _are_files(rows: NDArray[Any]) -> bool:
    """Whether rows are JPEG files, of one length or of several, and not arrays."""
    are_bytes = (rows.ndim == 1 and rows.dtype == object) or (rows.ndim == 2 and rows.dtype == np.uint8)
    return bool(are_bytes and len(rows) and bytes(rows[0][:2]) == _JPEG)
