"""Writing files so that they appear whole or not at all, and keeping names that others wrote inside their folder.

What is written goes to a hidden directory beside its place, ``.NAME.partial``, reaches the disk, and is renamed. After
an error, a full disk or Ctrl-C the place is as it was and the hidden directory is gone; what a killed process has left
of it is removed by the next one that writes the same file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = [
    "NO_ROOM",
    "OutsideError",
    "append_line",
    "cache_folder",
    "check_destination",
    "check_outside",
    "check_regular",
    "drop_half_line",
    "inside",
    "new_directory",
    "new_file",
    "new_files",
    "remove_all_left_over",
    "remove_left_over",
    "whole_lines",
    "write_bytes",
    "write_text",
]

_LONGEST_NAME: Final = 200  # bytes; most file systems allow 255, and names get a prefix and a suffix
NO_ROOM: Final = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
"""What errors are called that say that no space is left."""


class OutsideError(ValueError):
    """A name in somebody's file that leads out of the folder which the file is about."""


@contextmanager
def new_file(destination: str | Path, *, lasting: bool = True) -> Iterator[Path]:
    """A path to write to, whose content takes the place of ``destination`` when the block ends without an error.

    The path ends as ``destination`` does. A file that is replaced leaves its permissions to the new one. A symbolic
    link is kept, and what it points to is replaced. A device or a pipe is written to when the content is complete.

    Args:
        destination: Where it belongs.
        lasting: Whether to wait until the disk has it. What is written every second and is of use for as long need not
            outlast a power cut, and a busy disk takes its time.

    Raises:
        OSError: There is no such folder, it cannot be written to, or no space is left; the message names
            ``destination``, which is as it was.
    """
    destination = Path(destination)
    status = _check_file(destination)
    if status is not None and not stat.S_ISREG(status.st_mode):
        with tempfile.TemporaryDirectory() as folder:
            complete = Path(folder) / destination.name
            yield complete
            _pour(complete, destination)
        return
    place = _place(destination)
    with _partial(place) as partial:
        yield partial
        if status is not None:
            partial.chmod(stat.S_IMODE(status.st_mode))
        if lasting:
            _sync(partial)
        os.replace(partial, place)
        if lasting:
            _sync(place.parent)


@contextmanager
def new_directory(destination: str | Path) -> Iterator[Path]:
    """An empty directory to fill, which becomes ``destination`` when the block ends without an error.

    Folders above it are made.

    Raises:
        FileExistsError: Something came to be at ``destination`` meanwhile.
        OSError: It cannot be made there, or no space is left.
    """
    destination = Path(destination)
    place = _place(destination)
    place.parent.mkdir(parents=True, exist_ok=True)
    with _partial(place) as partial:
        partial.mkdir()
        yield partial
        for path in partial.rglob("*"):
            _sync(path)
        if os.path.lexists(place):
            raise FileExistsError(f"{destination} came to be while it was written; it was left as it is")
        os.rename(partial, place)
        _sync(place.parent)


@contextmanager
def new_files(directory: str | Path, last: str) -> Iterator[Path]:
    """An empty directory to fill, whose files take their places in ``directory`` when the block ends without an error.

    For files that are only right together, where ``directory`` may hold others. The one called ``last`` says that all
    of them are there: one from before is removed first, and the new one put in place when the others are.

    Args:
        directory: Where they belong; it is made if it is missing.
        last: Name of the file without which the others are not looked at.

    Raises:
        OSError: See `new_file`; before all of them are written ``directory`` is as it was.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with _partial(directory.resolve() / last, directory) as partial:
        partial.mkdir()
        yield partial
        files = sorted(partial.iterdir(), key=lambda path: path.name == last)
        for path in files:
            _sync(path)
        (directory / last).unlink(missing_ok=True)
        for path in files:
            os.replace(path, directory / path.name)
        _sync(directory)


def write_text(destination: str | Path, text: str, *, lasting: bool = True) -> None:
    """Writes a file of UTF-8 text, see `new_file`."""
    write_bytes(destination, text.encode("utf-8"), lasting=lasting)


def write_bytes(destination: str | Path, content: bytes, *, lasting: bool = True) -> None:
    """Writes a file, see `new_file`."""
    with new_file(destination, lasting=lasting) as path:
        path.write_bytes(content)


def cache_folder() -> Path:
    """Where what can be computed again is kept: ``ROBOMETER_CACHE``, or a folder in the user's cache."""
    own = os.environ.get("ROBOMETER_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "robometer_rl"


def append_line(destination: str | Path, line: str) -> None:
    """Adds a line to a file that other lines may follow, or nothing where there is no room for all of it.

    A process that is killed can leave a part of the last line, which `whole_lines` leaves out.
    """
    content = f"{line}\n".encode()
    with Path(destination).open("ab", buffering=0) as file:
        end = file.tell()
        try:
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            file.truncate(end)
            raise OSError(error.errno, error.strerror, str(destination)) from error


def whole_lines(path: Path) -> list[str]:
    """The lines of a file without their ends, but for a last one whose writer was killed before its end."""
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def drop_half_line(path: Path) -> None:
    """Removes what a killed process has left of the last line of a file, which the next one would be glued to."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        write_bytes(path, content[: content.rfind(b"\n") + 1])


def check_destination(destination: Path, *, replace: bool = False) -> None:
    """Finds out, before hours of work, whether something can be written at ``destination``; leaves nothing there.

    Args:
        destination: Where a file or directory is to be made; folders above it are made now.
        replace: Whether it is there already, and will be replaced by what is made of it.

    Raises:
        FileExistsError: It is there and may not be.
        OSError: It cannot be written there.
    """
    if os.path.lexists(destination) and not replace:
        raise FileExistsError(f"{destination} is there already: move it away, or choose another output")
    status = _check_file(destination) if replace else None
    if status is not None and status.st_nlink > 1:
        raise OSError(
            f"{destination} is one of {status.st_nlink} names (hard links) of one file, which would go on to have the "
            "old content under the others: copy it first"
        )
    place = _place(destination)
    place.parent.mkdir(parents=True, exist_ok=True)
    with _partial(place) as partial:
        partial.touch()


def remove_left_over(destination: str | Path) -> None:
    """Removes what a process left that was killed when ``destination`` was in place and its hidden directory not gone.

    Only needed where a file is found to be complete and is not written again.
    """
    with _partial(_place(Path(destination))):
        pass


def remove_all_left_over(directory: Path) -> None:
    """Removes what killed processes left of files in ``directory``; what others write at this moment stays."""
    for hidden in directory.glob(".*.partial*"):
        descriptor = _opened(hidden)
        if descriptor is None:
            continue
        try:
            if _is_taken(hidden, descriptor, hidden.name[1:].rpartition(".partial")[0], is_new=False):
                hidden.rmdir()
        finally:
            os.close(descriptor)


def check_outside(destination: Path, folder: Path) -> None:
    """Raises `OSError` if ``destination`` is in ``folder``, a copy of which would hold itself."""
    if destination.resolve().is_relative_to(folder.resolve()):
        raise OSError(f"{destination} is inside {folder}, which is to be copied: choose an output elsewhere")


def check_regular(path: Path) -> os.stat_result:
    """What is at ``path``, links followed, where that is a file with a content of its own.

    Whoever opens a pipe waits until somebody writes into it, and a device may go on for ever.

    Raises:
        OSError: Nothing is there, a directory, or a pipe, socket or device.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "a pipe, a socket or a device; expected a file", str(path))
    return status


def inside(folder: Path, name: str) -> Path:
    """The path of a file that somebody's text calls ``name``, in the folder that the text belongs to.

    Links are followed: what they lead to has to be in the folder, too, or in the Hub's cache where the folder is a
    snapshot of it.

    Raises:
        OutsideError: An absolute name, one that leads out of the folder, or none at all.
    """
    path = folder / name
    if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise OutsideError(f"{name!r} leads out of {folder}; expected the name of a file in it")
    root, real = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    blobs = (parent.parent / "blobs" for parent in root.parents if parent.name == "snapshots")
    homes = (root, *(home for home in blobs if home.is_dir()))
    if not any(real.is_relative_to(home) for home in homes):
        raise OutsideError(f"{path} is a link to {real}, out of {folder}; expected a file in the folder")
    return path


def _pour(source: Path, device: Path) -> None:
    """Copies a file into a device or a pipe."""
    try:
        with source.open("rb") as complete, device.open("wb") as target:
            shutil.copyfileobj(complete, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(device)) from error


def _check_file(destination: Path) -> os.stat_result | None:
    """What is at ``destination``, links followed, which a file may replace; None if nothing is there."""
    try:
        status = destination.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a directory is there; expected the name of a file", str(destination))
    if not os.access(destination, os.W_OK):
        raise PermissionError(errno.EACCES, "it may not be changed", str(destination))
    return status


def _place(destination: Path) -> Path:
    """Where ``destination`` is when all links are followed, the last one, too."""
    return Path(os.path.realpath(destination))


@contextmanager
def _partial(place: Path, shown: Path | None = None) -> Iterator[Path]:
    """A free path called as ``place`` in a directory beside it that no other writer uses.

    Errors of writing there are about ``shown``, by default ``place``, and not about a hidden path or about none.
    """
    try:
        directory, descriptor = _claimed(place)
        try:
            yield directory / place.name
        finally:
            _remove(directory)
            os.close(descriptor)
    except OSError as error:
        hidden, said = str(_hidden(place, 0)), str(error.filename or "")
        if error.errno not in NO_ROOM and not said.startswith(hidden):
            raise
        below = Path(said).parts[len(place.parts) + 1 :] if said.startswith(hidden) else ()
        raise OSError(error.errno, error.strerror, str((shown or place).joinpath(*below))) from error


def _claimed(place: Path) -> tuple[Path, int]:
    """An empty directory beside ``place``, and the descriptor that holds its lock until it is closed.

    The lock ends with its process, so that what a killed one has left can be told from what is in use.
    """
    number = 0
    while True:
        directory, descriptor, is_new = _hidden(place, number), None, True
        try:
            try:
                directory.mkdir()
            except FileExistsError:
                is_new = False
            descriptor = _opened(directory)
            if descriptor is not None and _is_taken(directory, descriptor, place.name, is_new):
                return directory, descriptor
        except KeyboardInterrupt:
            _give_up(directory, descriptor)
            raise
        if descriptor is not None:
            os.close(descriptor)
        if os.path.lexists(directory):  # else its writer has finished meanwhile, and the number is free
            number += 1


def _remove(directory: Path) -> None:
    """Removes a hidden directory, also where Ctrl-C comes meanwhile: on a busy disk that takes a while."""
    try:
        # What cannot be removed is no reason to hide an error; the next writer removes it.
        shutil.rmtree(directory, ignore_errors=True)
    except KeyboardInterrupt:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _give_up(directory: Path, descriptor: int | None) -> None:
    """Removes a hidden directory that was just made, unless another writer has it or it holds something."""
    if descriptor is not None:
        os.close(descriptor)
    descriptor = _opened(directory)
    if descriptor is None:
        return
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        directory.rmdir()
    os.close(descriptor)


def _hidden(place: Path, number: int) -> Path:
    name = os.fsdecode(os.fsencode(place.name)[:_LONGEST_NAME])
    return place.with_name(f".{name}.partial{number or ''}")


def _opened(directory: Path) -> int | None:
    """A descriptor of a directory; None if there is none, or something else."""
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def _is_taken(directory: Path, descriptor: int, name: str, is_new: bool) -> bool:
    """Locks a directory and empties it; False if it is another writer's, or never was a writer's."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nobody can tell whose the old ones are
        return is_new
    try:
        is_there = os.path.samestat(os.fstat(descriptor), directory.stat())
        entries = set(os.listdir(directory))
    except FileNotFoundError:
        return False
    if not is_there or entries - {name}:
        return False
    if entries:
        left = directory / name
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    return True


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no such thing for directories.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
