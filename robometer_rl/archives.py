"""Arrays in ``.npz`` files of other people: what a file claims is compared with what it has, before memory is taken.

A few bytes of a header can stand for an array larger than any memory, and a few kilobytes of an archive for gigabytes
of zeros. Nothing is unpickled here.
"""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.files import check_regular
from robometer_rl.limits import check_packed, check_room
from robometer_rl.streams import Source

__all__ = ["ARCHIVE_DAMAGE", "ArchiveError", "Member", "open_member", "read_arrays", "read_members"]

ARCHIVE_DAMAGE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,  # a way of packing that is not known
    OSError,
    OverflowError,
    RuntimeError,  # encrypted
    SyntaxError,
    TypeError,
    ValueError,
)
"""What reading a damaged archive, or an array in one, fails with."""


class ArchiveError(ValueError):
    """An ``.npz`` file that cannot be read; the message says which, and what is wrong with it."""


@dataclass(frozen=True)
class Member:
    """An array of a file, of which only the header has been read.

    Attributes:
        shape: Its shape.
        dtype: Its type.
        is_fortran: Whether its first axis runs fastest.
        offset: Bytes of the member before its data.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_members(path: Path | Source, *names: str) -> dict[str, Member]:
    """The headers of those of the arrays called ``names`` that a file has, or of all, by name.

    The file may be a member of another archive.

    Raises:
        ArchiveError: It is damaged, or an array claims more than is there.
    """
    with _errors_of(path), _open(path) as archive:
        arrays = {
            info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.filename[-4:] == ".npy"
        }
        return {name: _member(archive, info) for name, info in arrays.items() if not names or name in names}


def read_arrays(path: Path | Source, *names: str) -> dict[str, NDArray[Any]]:
    """Those of the arrays called ``names`` that a file has.

    Raises:
        ArchiveError: As for `read_members`; or one has Python objects in it, which would have to be unpickled, or is
            larger than the memory of this machine.
    """
    members = read_members(path)
    with _errors_of(path):
        found: dict[str, NDArray[Any]] = {}
        for name in names:
            if name in members:
                check_room(members[name].nbytes, f"the array {name!r}")
                with open_member(path, name) as stream:
                    found[name] = np.lib.format.read_array(stream, allow_pickle=False)
        return found


@contextmanager
def open_member(path: Path | Source, name: str) -> Iterator[IO[bytes]]:
    """The stream of an array and its header."""
    with _open(path) as archive, archive.open(f"{name}.npy") as stream:
        yield stream


@contextmanager
def _open(path: Path | Source) -> Iterator[zipfile.ZipFile]:
    if isinstance(path, Source):
        with path.open() as stream, zipfile.ZipFile(stream) as archive:
            yield archive
    else:
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            yield archive


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    check_packed(info.file_size, info.compress_size, info.filename)
    with archive.open(info) as stream:
        major = np.lib.format.read_magic(stream)[0]
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(stream)
        found = Member(shape, dtype, is_fortran, stream.tell())
    # Objects are pickled, in as many bytes as they need; arrays of them are not read.
    has_its_size = dtype.hasobject or found.offset + found.nbytes == info.file_size
    if min(shape, default=0) < 0 or not has_its_size:
        raise ValueError(f"{info.filename} claims the shape {shape} of {dtype}, and has {info.file_size} bytes")
    return found


@contextmanager
def _errors_of(path: Path | Source) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except ARCHIVE_DAMAGE as error:
        raise ArchiveError(f"{path} is not a readable .npz file: {error}") from error
