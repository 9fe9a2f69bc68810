"""Trajectories on disk: appended one at a time by several processes, safe to kill, quick to open at any size.

Layout of a store::

    store.json              {"format": "robometer-trajectories", "version": 2}
    frames/ID.zip           PNG images 000000.png, 000001.png, ... stored, not deflated again
    frames/SHA256.npz       packed arrays whose frames were not written again; several trajectories may share one
    videos/SHA256.mp4       videos whose frames were not encoded again; several trajectories may share one
    rows/ID.json            the journal: one row per trajectory since the store was last sealed
    rows.arrow              all rows before that, in order of their ids
    shards/000000.tar       of a packed store, frame files one after the other; rows.arrow says where each is
    unreadable.jsonl        what the last import passed over, if anything

A row is put in place last and atomically, so a trajectory is visible when it is complete and not before. Sealing
merges the journal into the Arrow file. No file depends on when, where or in which order it was written: the same
trajectories give the same bytes.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from bisect import insort
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final

from robometer_rl.data.arrow import SealedRows, write_sealed
from robometer_rl.data.frame_files import (
    FRAMES,
    VIDEOS,
    StoredFrames,
    link_frames,
    open_frames,
    write_frames,
)
from robometer_rl.data.reading import Unreadable
from robometer_rl.data.rows import ID, SHARDS, ChecksumError, Row, StoreError
from robometer_rl.data.trajectories import Facts
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.documents import DocumentError, brief, parse_json, read_text
from robometer_rl.files import OutsideError, inside, new_file, remove_all_left_over, write_bytes, write_text

__all__ = [
    "PACKING",
    "ChecksumError",
    "StoreError",
    "StoredFrames",
    "TrajectoryStore",
    "alone",
    "locked",
    "packed_header",
    "seal_if_installed",
]

logger = logging.getLogger(__name__)

_FORMAT: Final = "robometer-trajectories"
_VERSION: Final = 2
_PACKED_VERSION: Final = 3  # whose header lists the shards
_HEADER: Final = {"format": _FORMAT, "version": _VERSION}
PACKING: Final = "packing.json"
"""What a store is called that is being packed and not complete."""
_JOURNAL: Final = "rows"
_SEALED: Final = "rows.arrow"


class TrajectoryStore:
    """A local directory of trajectories, ordered by id.

    Several processes may append different trajectories to one directory at the same time; a store sees what was
    there when it was opened and what it appended itself.

    Attributes:
        path: The directory.
        shards: Sizes of the shards of a packed store in bytes, by name; none of any other.

    Examples:
        >>> store = TrajectoryStore.open("recordings")                    # doctest: +SKIP
        >>> experts = [t for t in store if t.skill == "expert"]           # doctest: +SKIP
    """

    remote: ClassVar[bool] = False
    """Whether frames come from somewhere else than a disk."""

    def __init__(self, path: str | Path) -> None:
        """Opens the store at ``path`` to append to it; where the directory is missing or empty, one is to begin there.

        It begins with the first `append`, or with `create`. Until then nothing is at ``path``, no id is in it, and
        whoever wants to read it is told that there is no store.

        Raises:
            StoreError: The directory holds something else, or a store of another version.
            ModuleNotFoundError: The store is sealed, and the package ``pyarrow`` is not installed.
        """
        self.path = Path(path)
        self.shards: Mapping[str, int] = {}
        if self._header.exists():
            self.shards = self._read_header()
        else:
            self._check_free()
        # The journal first: what is sealed in between is then seen twice rather than not at all.
        journal = {row.stem for row in self._journal.glob("*.json")}
        self._sealed: SealedRows | None = None
        self._stamp: tuple[int, ...] | None = None
        self._refresh()
        sealed = self._sealed.ids if self._sealed is not None else []
        self._ids = sorted(journal.union(sealed)) if journal else list(sealed)
        self._known = set(self._ids)

    @classmethod
    def open(cls, path: str | Path) -> TrajectoryStore:
        """Opens the store at ``path``, which must be there; nothing is created.

        Raises:
            StoreError: There is no store of a version that this release reads.
            ModuleNotFoundError: The store is sealed, and the package ``pyarrow`` is not installed.
        """
        if not Path(path).exists():
            raise _no_store(path)
        if (Path(path) / PACKING).is_file() and not (Path(path) / "store.json").is_file():
            raise _unfinished(path)
        if not (Path(path) / "store.json").is_file():
            raise StoreError(f"{path} is no store of trajectories: it has no store.json")
        return cls(path)

    @classmethod
    def create(cls, path: str | Path) -> TrajectoryStore:
        """Opens the store at ``path``; where there is none an empty one is there when this returns.

        Raises:
            StoreError: The directory holds something else, or a store of another version.
        """
        store = cls(path)
        store._begin()
        return store

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, trajectory_id: object) -> bool:
        return trajectory_id in self._known

    def __iter__(self) -> Iterator[Trajectory]:
        return (self[trajectory_id] for trajectory_id in self.ids())

    def __getitem__(self, key: int | str) -> Trajectory:
        """The trajectory at a position in order of ids, or with an id; its frames are decoded lazily.

        Raises:
            IndexError: No such position.
            KeyError: No such id.
            ChecksumError: The row has changed since it was written.
            StoreError: There is no store yet.
        """
        self._require()
        row = self.row(key if isinstance(key, str) else self._ids[key])
        return row.trajectory(self.frames_of(row))

    def ids(self) -> tuple[str, ...]:
        """Ids in the order of iteration."""
        self._require()
        return tuple(self._ids)

    def facts(self) -> Iterator[tuple[int, Facts | Unreadable]]:
        """What is known of all trajectories besides what is known of their frames, by position, in order of ids."""
        self._require()
        sealed = iter(()) if self._sealed is None else zip(self._sealed.ids, self._sealed.facts(), strict=True)
        name, found = next(sealed, (None, None))
        for position, trajectory_id in enumerate(self._ids):
            while name is not None and name < trajectory_id:  # which another process has sealed since
                name, found = next(sealed, (None, None))
            if found is not None and name == trajectory_id:
                yield position, found
                continue
            try:
                yield position, Facts.of(self._row(trajectory_id))
            except ChecksumError as error:
                yield position, Unreadable(trajectory_id, str(error))

    def columns(self, *names: str) -> dict[str, list[Any]]:
        """Some fields of all trajectories, without reading the others where the store is sealed.

        Args:
            names: Fields of `Trajectory` with one value (`robometer_rl.data.rows.SCALARS`), or ``frames_shape``, the
                list ``[T, H, W, 3]``.

        Returns:
            One list per name and one called ``id``, in the order of ids; rows that cannot be read are left out.
        """
        self._require()
        table = {name: [] for name in ("id", *names)} if self._sealed is None else self._sealed.columns(*names)
        known = set(table["id"])
        for trajectory_id in self._ids:
            if trajectory_id in known:
                continue
            try:
                row = self._row(trajectory_id)
            except ChecksumError:
                continue
            for name, column in table.items():
                column.append(list(row.frames.shape) if name == "frames_shape" else row.values[name])
        # What another process has sealed since this store was opened is not among its ids.
        seen = (index for index, trajectory_id in enumerate(table["id"]) if trajectory_id in self._known)
        order = sorted(seen, key=table["id"].__getitem__)
        return {name: [column[index] for index in order] for name, column in table.items()}

    def append(self, trajectory: Trajectory, *, keep_video: bool = False) -> None:
        """Writes ``trajectory``; when this returns it is complete on disk, and before that it is not visible.

        Args:
            trajectory: What to write; its frames are read piece by piece.
            keep_video: Keep frames that come from a video file of their own in that video, instead of as PNG images:
                the store gets a hard link to it, or a copy. Frames of a packed array (`ArrayFrames`) are always kept
                so; other frames become images all the same.

        Raises:
            StoreError: The id is taken or cannot be a file name, or the row cannot be written as JSON.
            FrameError: The frames are not RGB images of one size.
            VideoError: The video of ``keep_video`` cannot be decoded.
        """
        if ID.fullmatch(trajectory.id) is None:
            raise StoreError(f"the id {trajectory.id!r} cannot be a file name; expected {ID.pattern}")
        self._refuse_taken(trajectory.id)
        self._begin()
        kept = link_frames(self.path, trajectory.frames, videos=keep_video)
        # Of two processes with one id the first to come here wins, frames and row together.
        with ExitStack() as place:
            if kept is not None:
                row = Row.of(trajectory, kept)
                self._take_place(place, trajectory.id)
            else:
                with new_file(self.path / FRAMES / f"{trajectory.id}.zip") as temporary:
                    row = Row.of(trajectory, write_frames(temporary, trajectory.id, trajectory.frames))
                    self._take_place(place, trajectory.id)
            write_bytes(self._row_path(trajectory.id), row.to_json())
        insort(self._ids, trajectory.id)
        self._known.add(trajectory.id)

    def remove_left_over(self) -> None:
        """Removes what killed processes left half-written in it, and nothing that another writes at this moment."""
        for folder in (self.path, *(self.path / name for name in (_JOURNAL, FRAMES, VIDEOS))):
            remove_all_left_over(folder)

    def seal(self) -> None:
        """Merges the journal into the Arrow file, whatever other processes append meanwhile.

        A damaged row stays in the journal, where `verify` finds it.

        Raises:
            ModuleNotFoundError: The package ``datasets`` is not installed; the store works unsealed, too.
        """
        if not self._header.exists():
            return
        with locked(self._journal):
            names = self._in_journal()
            if not names:
                return
            merged = self._write_sealed(self.path / _SEALED, names)
            self._refresh()
            for name in merged:
                self._row_path(name).unlink(missing_ok=True)

    def preview_seal(self, path: Path) -> int:
        """Writes the Arrow file that `seal` would make to ``path``, if the journal has any rows for it.

        The store stays as it is.

        Returns:
            How many trajectories would stay in the journal, since they are damaged.

        Raises:
            ModuleNotFoundError: As for `seal`.
            StoreError: There is no store yet.
        """
        self._require()
        names = self._in_journal()
        return len(names.difference(self._write_sealed(path, names))) if names else 0

    def _in_journal(self) -> set[str]:
        return {file.stem for file in self._journal.glob("*.json")}

    def _write_sealed(self, path: Path, journal: set[str]) -> list[str]:
        """Writes all rows that can be sealed; their names."""
        self._refresh()
        merged: list[str] = []
        write_sealed(path, self._merged(journal, merged), packed=bool(self.shards))
        return merged

    def _merged(self, journal: set[str], merged: list[str]) -> Iterator[Row]:
        """The rows of the Arrow file and of the journal in order of ids; notes in ``merged`` those of the journal."""
        old = self._sealed
        for name in sorted(journal.union(() if old is None else old.ids)):
            # Sealed rows win over what a `seal` that was killed has left in the journal.
            row = old[name] if old is not None and name in old else self._sealable(name)
            if row is not None:
                yield row
                merged.append(name)

    def row(self, trajectory_id: str) -> Row:
        """What is known of a trajectory besides its frames.

        Raises:
            KeyError: No such id.
            ChecksumError: It has changed since it was written.
        """
        self._require()
        if trajectory_id not in self._known:
            raise KeyError(f"no trajectory {trajectory_id!r} in {self.path}")
        row = self._row(trajectory_id)
        row.check()
        return row

    def frames_of(self, row: Row) -> StoredFrames:
        """The frames of a row; nothing is read yet.

        Raises:
            ChecksumError: They are said to be elsewhere than in the store.
        """
        return open_frames(self.path, row.frames, row.id)

    def broken_shards(self) -> dict[str, str]:
        """What is wrong with shards that are missing or cut short, by name; their frames are not looked at."""
        broken: dict[str, str] = {}
        for name, size in self.shards.items():
            try:
                found = inside(self.path / SHARDS, name).stat().st_size
            except FileNotFoundError:
                broken[name] = f"the shard {name} is missing"
            except (OSError, OutsideError) as error:
                broken[name] = f"the shard {name} cannot be read: {error}"
            else:
                if found != size:
                    broken[name] = f"the shard {name} has {found} bytes; expected {size}"
        return broken

    def verify(self) -> None:
        """Raises `ChecksumError` for the first trajectory that is damaged; `robometer_rl.data.verified` finds all."""
        for trajectory in self:
            assert isinstance(trajectory.frames, StoredFrames)
            trajectory.frames.verify()

    @property
    def _header(self) -> Path:
        return self.path / "store.json"

    @property
    def _journal(self) -> Path:
        return self.path / _JOURNAL

    def _row_path(self, trajectory_id: str) -> Path:
        return self._journal / f"{trajectory_id}.json"

    def _check_free(self) -> None:
        if (self.path / PACKING).exists():
            raise _unfinished(self.path)
        if self.path.exists() and any(self.path.iterdir()) and not self._journal.is_dir():
            raise StoreError(f"{self.path} is not empty and has no store.json; expected a trajectory store")

    def _begin(self) -> None:
        """Makes what is missing of an empty store; one from the Hub has no empty folders."""
        self._make_folders()
        if not self._header.exists():
            self._write_header()

    def _require(self) -> None:
        """Raises `StoreError` where no store has begun yet, so that a wrong path is not taken for an empty store."""
        if not self._known and not self._header.exists():
            raise _no_store(self.path)

    def _make_folders(self) -> None:
        # The journal first: by it another process knows a store that has begun and has no header yet.
        for folder in (_JOURNAL, FRAMES):
            (self.path / folder).mkdir(parents=True, exist_ok=True)

    def _write_header(self) -> None:
        write_text(self._header, json.dumps(_HEADER))

    def _read_header(self) -> Mapping[str, int]:
        """The shards, of a store of a version that this release reads."""
        try:
            found = parse_json(read_text(inside(self.path, self._header.name)))
        except (ValueError, OSError) as error:
            raise StoreError(f"{self._header} is not readable: {error}") from error
        if found == _HEADER:
            return {}
        shards = found.get(SHARDS) if isinstance(found, dict) else None
        if (
            not isinstance(shards, dict)
            or not all(isinstance(size, int) for size in shards.values())
            or found != packed_header(shards)
        ):
            raise StoreError(f"{self._header} says {brief(found)}; this release reads {_HEADER}, and packed stores")
        return shards

    def _take_place(self, place: ExitStack, trajectory_id: str) -> None:
        """Keeps other writers out of the store until ``place`` is left, and makes sure that none was faster."""
        place.enter_context(locked(self.path / FRAMES))
        self._refuse_taken(trajectory_id)

    def _refuse_taken(self, trajectory_id: str) -> None:
        # The journal before the Arrow file: sealing removes a row from there when it is here.
        if trajectory_id in self or self._row_path(trajectory_id).exists() or self._sealed_meanwhile(trajectory_id):
            raise StoreError(f"{self.path} already has a trajectory {trajectory_id!r}")

    def _refresh(self) -> None:
        """Opens the Arrow file again if another process has sealed the store since."""
        path = self.path / _SEALED
        status = path.stat() if path.exists() else None
        stamp = None if status is None else (status.st_ino, status.st_mtime_ns, status.st_size)
        if stamp != self._stamp:
            try:
                self._sealed = SealedRows(inside(self.path, _SEALED))
            except OutsideError as error:
                raise StoreError(str(error)) from error
            self._stamp = stamp

    def _sealed_meanwhile(self, trajectory_id: str) -> bool:
        self._refresh()
        return self._sealed is not None and trajectory_id in self._sealed

    def _row(self, trajectory_id: str) -> Row:
        if self._sealed is not None and trajectory_id in self._sealed:
            return self._sealed[trajectory_id]
        try:
            return self._journal_row(trajectory_id)
        except FileNotFoundError:
            self._refresh()
        if self._sealed is not None and trajectory_id in self._sealed:
            return self._sealed[trajectory_id]
        raise ChecksumError(f"trajectory {trajectory_id!r}: its row is missing from {self._journal}")

    def _journal_row(self, trajectory_id: str) -> Row:
        try:
            content = read_text(inside(self.path, f"{_JOURNAL}/{trajectory_id}.json"))
        except FileNotFoundError:
            raise
        except (OSError, DocumentError, OutsideError) as error:
            raise ChecksumError(f"trajectory {trajectory_id!r}: its row cannot be read: {error}") from error
        try:
            row = Row.from_json(content)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ChecksumError(
                f"trajectory {trajectory_id!r}: its row is damaged ({error}); record it again"
            ) from error
        if row.id != trajectory_id:
            raise ChecksumError(f"trajectory {trajectory_id!r}: its row is that of {row.id!r}; record it again")
        return row

    def _sealable(self, trajectory_id: str) -> Row | None:
        """A row of the journal if it is sound."""
        try:
            row = self._journal_row(trajectory_id)
            row.check()
            return row
        except ChecksumError as error:
            logger.warning("not sealed: %s", error)
            return None


def packed_header(shards: Mapping[str, int]) -> dict[str, Any]:
    """What the ``store.json`` of a packed store says.

    Args:
        shards: Sizes in bytes, by name.
    """
    return {"format": _FORMAT, "version": _PACKED_VERSION, SHARDS: dict(shards)}


def _unfinished(path: str | Path) -> StoreError:
    return StoreError(f"{path} is a store that has not been packed to its end; the same `data pack` goes on")


def _no_store(path: str | Path) -> StoreError:
    return StoreError(f"there is no store of trajectories at {path}")


def seal_if_installed(store: TrajectoryStore) -> None:
    """Seals a store; says so if it cannot for lack of the package, since an unsealed store works as well."""
    try:
        store.seal()
    except ModuleNotFoundError as error:
        logger.info("%s is left unsealed, which is slower to open: %s", store.path, error)


@contextmanager
def alone(store: TrajectoryStore, what: str) -> Iterator[None]:
    """Refuses to run beside another process that is in such a block with the same store; writing is not kept out.

    What killed processes left half-written in the store is removed first.

    Args:
        store: Which store.
        what: What the block does, as in "an import"; there is one such lock, whatever it is called.

    Raises:
        StoreError: Another process is at it.
    """
    with ExitStack() as block:
        try:
            block.enter_context(locked(store.path, wait=False))
        except BlockingIOError as error:
            raise StoreError(f"{what} into {store.path} is running in another process; wait for its end") from error
        store.remove_left_over()
        yield


@contextmanager
def locked(directory: Path, wait: bool = True) -> Iterator[None]:
    """Keeps out other processes that want the same, or raises if they have it; the lock ends with the process."""
    directory.mkdir(exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
