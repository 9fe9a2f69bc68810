"""What a try does besides its output: which files it opens, whom it calls, and what it makes where nobody asked."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OPENED, MODIFIED, CREATED, IS_FOLDER = 0x20, 0x2, 0x100, 0x40000000  # of Linux's inotify
_EVENT = struct.Struct("iIII")


class Watch:
    """Files that are opened or made in some folders, and connections to a server of this process.

    Attributes:
        port: Where the server listens on this machine.
    """

    def __init__(self, folders: list[Path], descriptor: int, server: socket.socket) -> None:
        self.port: int = server.getsockname()[1]
        self._descriptor, self._server = descriptor, server
        self._folders = {_add(descriptor, folder): folder for folder in folders}

    def opened(self) -> list[str]:
        """Names of the files that were opened, changed or made since the last call."""
        names: set[str] = set()
        while True:
            try:
                content = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return sorted(names)
            place = 0
            while place < len(content):
                watch, mask, _, length = _EVENT.unpack_from(content, place)
                name = content[place + _EVENT.size : place + _EVENT.size + length].rstrip(b"\0")
                place += _EVENT.size + length
                if not mask & IS_FOLDER:
                    names.add(str(self._folders[watch] / os.fsdecode(name)))

    def was_called(self) -> bool:
        """Whether somebody has connected to the server since the last call."""
        count = 0
        while True:
            try:
                self._server.accept()[0].close()
            except BlockingIOError:
                return count > 0
            count += 1


@contextmanager
def watching(*folders: Path) -> Iterator[Watch]:
    """Watches folders, not those within them, until the block ends."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "inotify cannot be used")
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            yield Watch(list(folders), descriptor, server)
    finally:
        os.close(descriptor)


def _add(descriptor: int, folder: Path) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    watch = library.inotify_add_watch(descriptor, os.fsencode(folder), OPENED | MODIFIED | CREATED)
    if watch < 0:
        raise OSError(ctypes.get_errno(), "inotify cannot watch it", str(folder))
    return watch


def resident_bytes() -> int:
    """Memory that this process has now, and a fork of it has at its beginning."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
