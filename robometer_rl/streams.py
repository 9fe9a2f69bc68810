"""Parts of files as files: a member of an archive, and an archive that was split, are read where they are."""

from __future__ import annotations

import errno
import io
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from robometer_rl.files import check_regular

__all__ = ["JoinedFiles", "Region", "Source", "Window"]


class Window(io.RawIOBase):
    """Some bytes of a seekable file, as a file; closes the file with itself."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        """``size`` bytes of ``file`` from ``start`` on."""
        self._file = file
        self._start = start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def seekable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def tell(self) -> int:
        """See `io.RawIOBase`."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.RawIOBase`."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer with what follows in the part, as far as it goes; see `io.RawIOBase`."""
        wanted = min(len(buffer), max(self._size - self._position, 0))
        self._file.seek(self._start + self._position)
        content = self._file.read(wanted)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def close(self) -> None:
        """See `io.RawIOBase`."""
        self._file.close()
        super().close()


class JoinedFiles(io.RawIOBase):
    """Several files one after the other, as one file; at most one of them is open."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """The files at ``paths``, at least one, in this order.

        Raises:
            OSError: One of them is missing, or no file.
        """
        self._paths = tuple(paths)
        self._starts = [0, *accumulate(check_regular(path).st_size for path in self._paths)]
        self._position = 0
        self._open: tuple[int, BinaryIO] | None = None

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def seekable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def tell(self) -> int:
        """See `io.RawIOBase`."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.RawIOBase`."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Reads to the end of the file that the position is in at most; see `io.RawIOBase`."""
        if self._position >= self._starts[-1]:
            return 0
        number = bisect_right(self._starts, self._position) - 1
        if self._open is None or self._open[0] != number:
            self._close_file()
            self._open = number, self._paths[number].open("rb")
        file = self._open[1]
        file.seek(self._position - self._starts[number])
        content = file.read(min(len(buffer), self._starts[number + 1] - self._position))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def close(self) -> None:
        """See `io.RawIOBase`."""
        self._close_file()
        super().close()

    def _close_file(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


class Source(ABC):
    """Bytes that are somewhere, to be opened like a file; holds no open file, so that it may travel to other processes.

    Sources are hashable, and equal if they mean the same bytes.
    """

    @abstractmethod
    def open(self) -> io.BufferedReader:
        """The bytes as a seekable file, to be closed by the caller."""

    @abstractmethod
    def version(self) -> Hashable:
        """What changes when the bytes do."""

    @abstractmethod
    def __str__(self) -> str:
        """What error messages call it."""


@dataclass(frozen=True)
class Region(Source):
    """A member of an uncompressed archive, whole or in several files, read in place.

    Attributes:
        files: The archive, or its parts in their order.
        name: Of the member.
        start: Its first byte in the archive.
        size: Its number of bytes.
    """

    files: tuple[Path, ...]
    name: str
    start: int
    size: int

    def open(self) -> io.BufferedReader:
        """Its bytes as a file.

        Raises:
            OSError: The archive is missing, or ends before them.
        """
        archive = self.files[0].open("rb") if len(self.files) == 1 else io.BufferedReader(JoinedFiles(self.files))
        if archive.seek(0, io.SEEK_END) < self.start + self.size:
            archive.close()
            raise OSError(errno.EIO, f"it ends before {self.name} does: it was cut short", str(self.files[-1]))
        return io.BufferedReader(Window(archive, self.start, self.size))  # type: ignore[arg-type]

    def version(self) -> tuple[int, int]:
        """What changes when the archive is written again: the time of its first part, and its size."""
        statuses = [path.stat() for path in self.files]
        return statuses[0].st_mtime_ns, sum(status.st_size for status in statuses)

    def __str__(self) -> str:
        return f"{self.files[0]}#{self.name}"
