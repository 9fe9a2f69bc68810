"""What formats share: which cameras, what outputs are called, and hashes that tell versions of files apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from robometer_rl.formats.cameras import choose_camera

__all__ = ["choose_cameras", "default_output", "fingerprint"]


def choose_cameras(
    where: object, cameras: tuple[str, ...], asked: tuple[str, ...], refused: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """The cameras asked for, each once, or the only one there is; raises `SourceError` like `choose_camera`."""
    return tuple(dict.fromkeys(choose_camera(where, cameras, name, refused) for name in asked or (None,)))


def fingerprint(keys: Iterable[str], files: Iterable[Path], *facts: object) -> str:
    """A hash over keys of episodes, other facts, and the name, size and modification time of files."""
    digest = hashlib.sha256()
    for entry in (*keys, *map(repr, facts)):
        digest.update(f"{entry}\0".encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def default_output(path: Path) -> Path:
    """Where labels of the dataset at ``path`` go if nobody says: beside it, as ``NAME-robometer``."""
    absolute = path.absolute()
    return absolute.with_name(
        f"{absolute.name}-robometer" if path.is_dir() else f"{absolute.stem}-robometer{absolute.suffix}"
    )
