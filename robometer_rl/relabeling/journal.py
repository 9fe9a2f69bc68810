"""The journal of a run: what has been labelled, on disk before the next pack begins.

One file of lines that is only ever appended to. A line is a SHA-256 in hexadecimal digits, a space and JSON; the hash
is that of the line before and of the JSON, so that no line can be missing, changed or moved. The first line says what
the run is about: dataset, model and settings. Each other line is a whole pack, and reaches the disk before the next
pack is journalled.

A run that was killed while it wrote leaves a torn last line, which is dropped: its pack is labelled again. Damage
anywhere else is an error, as is going on with another model, dataset or setting.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import logging
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import Unreadable
from robometer_rl.formats.dataset import EpisodeLabels

__all__ = ["Entry", "Journal", "JournalError"]

logger = logging.getLogger(__name__)

_FORMAT: Final = "robometer-relabel-journal"
_VERSION: Final = 2
_ARRAYS: Final = {
    **dict.fromkeys(("progress", "success"), "<f4"),
    **dict.fromkeys(("rewards", "returns", "advantages"), "<f8"),
    **dict.fromkeys(("success_detected", "imputed"), "|b1"),
}

Entry = EpisodeLabels | Unreadable
"""What became of one episode."""


class JournalError(ValueError):
    """A journal of something else, of another release, damaged, or in use; the message says which and what to do."""


class Journal:
    """An open journal; a context manager that closes it.

    Attributes:
        path: The file.
        entries: What became of the first episodes of the dataset, in order.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        """Opens the journal at ``path``, or begins one.

        Args:
            path: The file.
            run: What the run is about, JSON values; a journal that was begun with anything else is refused, unless
                nothing has been labelled yet.

        Raises:
            JournalError: See there.
            OSError: The file cannot be written.
        """
        self.path = path
        self.entries: list[Entry] = []
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):  # nothing that a run has left
            raise JournalError(f"{path} is a link, a pipe or a folder; move it away")
        # Unbuffered, so that nothing is left to be written after an error.
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed by `close`
        self._hash = ""
        try:
            self._lock()
            self._read(json.loads(json.dumps({"format": _FORMAT, "version": _VERSION, "run": dict(run)})))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; another process may go on with it."""
        self._file.close()

    def append(self, pack: Sequence[Entry]) -> None:
        """Writes what became of the episodes of a pack; when this returns it is on disk.

        Raises:
            OSError: No space is left; what was written so far counts when the run is started again.
        """
        self._write([_to_json(entry) for entry in pack])
        self.entries += pack

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalError(f"{self.path} is in use: another process labels this dataset at the moment") from error

    def _read(self, header: Mapping[str, Any]) -> None:
        """Reads all whole lines, drops a torn one, and writes the first line if there is none."""
        self._file.seek(0)
        lines = self._file.read().split(b"\n")
        records = self._checked(lines)
        if not records or (records[0] != header and _is_ours(records[0]) and not _labelled(records[1:])):
            # A run that failed before it had labelled anything must not refuse the one that sets it right.
            self._file.truncate(0)
            self._hash = ""
            self._write(header)
            _sync_directory(self.path.parent)
            return
        self._require_same_run(records[0], header)
        self.entries = [_from_json(entry) for pack in records[1:] for entry in pack]

    def _checked(self, lines: list[bytes]) -> list[Any]:
        """The JSON of all lines up to a torn last one, which is cut off."""
        records: list[Any] = []
        end = 0
        for number, line in enumerate(lines[:-1]):
            digest, _, content = line.partition(b" ")
            if digest.decode("ascii", "replace") != _chained(self._hash, content):
                if number == len(lines) - 2 and not lines[-1]:
                    break
                raise JournalError(
                    f"{self.path} is damaged in line {number + 1}, and not by an interruption; remove it to label "
                    "all episodes again"
                )
            self._hash = digest.decode("ascii")
            records.append(json.loads(content))
            end += len(line) + 1
        torn = b"\n".join(lines)
        if not records and torn and not _is_begun(torn):
            raise JournalError(f"{self.path} is not a journal of labels; move it away, or choose another output")
        if end < len(torn):
            logger.info("%s ends in a pack that was cut off; it is labelled again", self.path)
            self._file.truncate(end)
        return records

    def _require_same_run(self, found: Any, header: Mapping[str, Any]) -> None:
        if not _is_ours(found):
            raise JournalError(f"{self.path} is not a journal that this release reads")
        old, new = found["run"], header["run"]
        if old != new:
            changes = [
                f"{name} was {json.dumps(old.get(name))} and is {json.dumps(new.get(name))} now"
                for name in sorted({*old, *new})
                if old.get(name) != new.get(name)
            ]
            raise JournalError(
                f"{self.path} holds labels of another run, which cannot be mixed with these: {'; '.join(changes)}. "
                "Go on with the settings of that run, or remove the file to begin again"
            )

    def _write(self, record: Any) -> None:
        content = json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")
        digest = _chained(self._hash, content)
        try:
            rest = memoryview(digest.encode("ascii") + b" " + content + b"\n")
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OSError(
                error.errno,
                f"the journal {self.path} could not be written ({error.strerror}); labels up to here are kept: make "
                "room and run the same command again to go on",
            ) from error
        self._hash = digest


def _is_ours(header: Any) -> bool:
    return isinstance(header, dict) and header.get("format") == _FORMAT and header.get("version") == _VERSION


def _labelled(packs: Sequence[Any]) -> bool:
    return any("skipped" not in entry for pack in packs for entry in pack)


def _is_begun(content: bytes) -> bool:
    """Whether a file can be a journal whose first line was cut off, and not somebody else's file of that name."""
    digest, _, rest = content.partition(b" ")
    begin = f'{{"format":"{_FORMAT}"'.encode()
    is_digest = len(digest) <= 64 and all(letter in b"0123456789abcdef" for letter in digest)
    return is_digest and (begin.startswith(rest) or rest.startswith(begin))


def _chained(before: str, content: bytes) -> str:
    return hashlib.sha256(before.encode("ascii") + content).hexdigest()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _to_json(entry: Entry) -> dict[str, Any]:
    if isinstance(entry, Unreadable):
        return {"key": entry.name, "skipped": entry.reason}
    return {"key": entry.key} | {name: _encode(getattr(entry, name), dtype) for name, dtype in _ARRAYS.items()}


def _from_json(values: Mapping[str, Any]) -> Entry:
    if "skipped" in values:
        return Unreadable(values["key"], values["skipped"])
    return EpisodeLabels(values["key"], **{name: _decode(values[name], dtype) for name, dtype in _ARRAYS.items()})


def _encode(array: NDArray[Any], dtype: str) -> str:
    """Exact: no number is rounded."""
    return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode("ascii")


def _decode(text: str, dtype: str) -> NDArray[Any]:
    little_endian = np.frombuffer(base64.b64decode(text), dtype)
    return little_endian.astype(little_endian.dtype.newbyteorder("="))
