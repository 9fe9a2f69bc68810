"""Files and directories that appear whole or not at all, and hashes that tell versions of them apart."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from robometer_rl.data.sources.cameras import choose_camera

__all__ = [
    "check_destination",
    "check_outside",
    "choose_cameras",
    "default_output",
    "fingerprint",
    "new_directory",
    "new_file",
]


def choose_cameras(where: object, cameras: tuple[str, ...], asked: tuple[str, ...]) -> tuple[str, ...]:
    """The cameras asked for, each once, or the only one there is; raises `SourceError` like `choose_camera`."""
    return tuple(dict.fromkeys(choose_camera(where, cameras, name) for name in asked or (None,)))


def fingerprint(keys: Iterable[str], files: Iterable[Path], *facts: object) -> str:
    """A hash over keys of episodes, other facts, and the name, size and modification time of files."""
    digest = hashlib.sha256()
    for entry in (*keys, *map(repr, facts)):
        digest.update(f"{entry}\0".encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def check_destination(destination: Path, *, replace: bool = False) -> None:
    """Raises `OSError` unless a file or directory can be made at ``destination``.

    Args:
        destination: Where.
        replace: Whether it may be there already.

    Raises:
        FileExistsError: It is there and may not be.
    """
    if destination.exists() and not replace:
        raise FileExistsError(f"{destination} is there already: move it away, or choose another output")
    destination.parent.mkdir(parents=True, exist_ok=True)
    probe = _partial(destination)
    _remove(probe)
    probe.touch()
    probe.unlink()


def check_outside(destination: Path, dataset: Path) -> None:
    """Raises `OSError` if ``destination`` is in the directory ``dataset``, a copy of which would hold itself."""
    if destination.resolve().is_relative_to(dataset.resolve()):
        raise OSError(f"{destination} is inside the dataset that is to be copied: choose an output elsewhere")


def default_output(path: Path) -> Path:
    """Where labels of the dataset at ``path`` go if nobody says: beside it, as ``NAME-robometer``."""
    absolute = path.absolute()
    return absolute.with_name(
        f"{absolute.name}-robometer" if path.is_dir() else f"{absolute.stem}-robometer{absolute.suffix}"
    )


@contextmanager
def new_file(destination: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of ``destination`` when the block ends without an error."""
    partial = _partial(destination)
    try:
        yield partial
        _sync(partial)
        os.replace(partial, destination)
        _sync(destination.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_directory(destination: Path) -> Iterator[Path]:
    """An empty directory to fill, which becomes ``destination`` when the block ends without an error.

    Raises:
        FileExistsError: Something came to be at ``destination`` meanwhile.
    """
    partial = _partial(destination)
    _remove(partial)  # what a run that was killed has left
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in partial.rglob("*"):
            _sync(path)
        if destination.exists():
            raise FileExistsError(f"{destination} came to be while labels were written; it was left as it is")
        os.rename(partial, destination)
        _sync(destination.parent)
    finally:
        _remove(partial)


def _partial(destination: Path) -> Path:
    return destination.with_name(f".{destination.name}.partial")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
