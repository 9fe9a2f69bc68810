"""``robometer-rl data pack``: a store of any size in a few large files.

Frame files are copied as they are, so frames stay what they were, into shards in the WebDataset layout: uncompressed
tar files in which ``KEY.json`` is the row of a trajectory and ``KEY.zip``, ``KEY.npz`` or ``KEY.mp4`` beside it are its
frames. Trajectories of one shard that share a file have it once, with the first of them. ``rows.arrow`` says where in
its shard each file is, so that any trajectory is read by itself, and without it the shards can still be read one after
the other.

Which trajectories a shard holds depends on nothing but their order and the sizes of their files. A packing that was
interrupted goes on behind the last shard that is complete; the store can be opened when all are.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import tyro
from rich.progress import Progress

from robometer_rl.data.arrow import SealedRows, join_sealed, write_sealed
from robometer_rl.data.frame_files import StoredFrames, opened
from robometer_rl.data.reading import Unreadable
from robometer_rl.data.rows import SHARDS, Row, ShardPlace
from robometer_rl.data.store import PACKING, StoreError, TrajectoryStore, locked, packed_header
from robometer_rl.data.streaming import open_store
from robometer_rl.data.verified import warn_of_skipped
from robometer_rl.documents import parse_json, read_text
from robometer_rl.files import check_outside, new_file, remove_all_left_over, write_text
from robometer_rl.ranges import require_numbers
from robometer_rl.report.terminal import open_console

__all__ = ["PackConfig", "pack"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackConfig:
    """Packs the frame files of a store into a few large ones, which the Hub takes and streams, however many there are.

    Attributes:
        path: Directory of the store.
        output: Directory of the packed store.
        shard_mb: Megabytes of a shard.
    """

    path: tyro.conf.Positional[Path]
    output: tyro.conf.Positional[Path]
    shard_mb: float = 500.0

    def __post_init__(self) -> None:
        require_numbers(self, "(0, inf)", "shard_mb")

    @property
    def shard_bytes(self) -> int:
        """The same in bytes."""
        return round(self.shard_mb * 1e6)


def pack(config: PackConfig) -> TrajectoryStore:
    """Packs a store, or goes on with that; damaged trajectories are left out and listed in the log.

    Returns:
        The packed store.

    Raises:
        StoreError: There is no store, all of it is damaged, another process packs it, or what was packed until now is
            of another store, or in shards of another size.
        FileExistsError: Something else is at ``output``.
        ModuleNotFoundError: The package ``datasets`` is not installed.
        OSError: No space is left; the same command goes on when there is.
    """
    store = open_store(config.path)
    check_outside(config.output, config.path)
    config.output.mkdir(parents=True, exist_ok=True)
    try:
        with locked(config.output, wait=False):
            skipped: list[Unreadable] = []
            _begin(config, store)
            if not (config.output / "store.json").exists():
                skipped = _write_shards(store, config)
                _join(config.output)
            for path in _indexes(config.output):
                path.unlink()
            (config.output / PACKING).unlink()
    except BlockingIOError as error:
        raise StoreError(f"{config.output} is being packed by another process; wait for its end") from error
    packed = TrajectoryStore.open(config.output)
    warn_of_skipped(skipped, len(packed), config.path)
    size = sum(packed.shards.values()) / 1e6
    console = open_console()
    console.print(f"{len(packed)} trajectories in {len(packed.shards)} shards, {size:.1f} MB ({packed.path})")
    console.print(f"next: robometer-rl data push {packed.path} OWNER/NAME", soft_wrap=True)
    return packed


def _begin(config: PackConfig, store: TrajectoryStore) -> None:
    """Notes what is packed, or makes sure that it is what was packed before."""
    note, output = config.output / PACKING, config.output
    plan = {
        "trajectories": hashlib.sha256("\n".join(store.ids()).encode()).hexdigest(),
        "shard_bytes": config.shard_bytes,
    }
    if note.exists():
        if parse_json(read_text(note)) != plan:
            raise StoreError(
                f"{output} was begun with other trajectories than those of {store.path} now, or with another "
                "--shard-mb: choose another output, or remove it"
            )
    elif any(output.iterdir()):
        raise FileExistsError(f"{output} is there already: move it away, or choose another output")
    else:
        write_text(note, json.dumps(plan))
    (output / SHARDS).mkdir(exist_ok=True)
    for folder in (output, output / SHARDS):
        remove_all_left_over(folder)


def _write_shards(store: TrajectoryStore, config: PackConfig) -> list[Unreadable]:
    """Writes the shards that are missing; what is damaged."""
    done = [SealedRows(path) for path in _indexes(config.output)]
    for rows in done:
        for name in rows.ids:
            if rows[name].sha256 != store.row(name).sha256:
                raise StoreError(f"trajectory {name!r} has changed since it was packed: remove {config.output}")
    if done:
        logger.info("%d shards of %s are complete", len(done), config.output)
    packed = {name for rows in done for name in rows.ids}
    # Behind the last one that was packed; those before it that are in no shard are damaged.
    reached = done[-1].ids[-1] if done else ""
    skipped: list[Unreadable] = []
    with Progress(console=open_console(stderr=True), transient=True) as progress:
        bar = progress.add_task("packing", total=len(store))
        ids = progress.track((name for name in store.ids() if name not in packed), task_id=bar)
        progress.update(bar, completed=len(packed))
        sound = (each for each in _sound(store, ids, skipped) if each[0].id > reached)
        shard, number = next(sound, None), len(done)
        while shard is not None:
            shard = _write_shard(config.output / SHARDS, number, shard, sound, config.shard_bytes)
            number += 1
    if not number:
        reason = f"the first: {skipped[0].reason}" if skipped else "it is empty"
        raise StoreError(f"there is nothing to pack in {store.path}: {reason}")
    return skipped


_Sound = tuple[Row, StoredFrames]


def _sound(store: TrajectoryStore, ids: Iterable[str], skipped: list[Unreadable]) -> Iterator[_Sound]:
    for name in ids:
        try:
            row = store.row(name)
            frames = store.frames_of(row)
            frames.verify()
        except StoreError as error:
            skipped.append(Unreadable(name, str(error)))
        else:
            yield row, frames


def _write_shard(folder: Path, number: int, first: _Sound, others: Iterator[_Sound], most: int) -> _Sound | None:
    """Writes a shard and then its index; the first trajectory that is for the next one."""
    name, rows = f"{number:06d}.tar", list[Row]()
    following: _Sound | None = first
    with new_file(folder / name) as temporary, tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as archive:
        places: dict[str, ShardPlace] = {}
        while following is not None:
            row, frames = following
            key = f"{number:06d}-{len(rows):06d}"
            place = places.get(row.frames.file)
            if place is None:
                with opened(frames.source) as content:
                    size = content.seek(0, io.SEEK_END)
                    content.seek(0)
                    if rows and archive.offset + size > most:
                        break
                    _add(archive, f"{key}.json", io.BytesIO(row.to_json()))
                    suffix = PurePosixPath(row.frames.file).suffix
                    place = ShardPlace(name, _add(archive, f"{key}{suffix}", content), size)
            else:
                _add(archive, f"{key}.json", io.BytesIO(row.to_json()))
            places[row.frames.file] = place
            rows.append(row.placed(place))
            following = next(others, None)
    write_sealed((folder / name).with_suffix(".arrow"), rows, packed=True)
    return following


def _add(archive: tarfile.TarFile, name: str, content: Any) -> int:
    """Adds a file without a date, so that equal trajectories give equal shards; its first byte in the archive."""
    info = tarfile.TarInfo(name)
    info.size = content.seek(0, io.SEEK_END)
    content.seek(0)
    start = archive.offset + len(info.tobuf(archive.format))
    archive.addfile(info, content)
    return start


def _join(output: Path) -> None:
    """Brings the indexes of the shards together; the header, which makes a store of them, comes last."""
    indexes = _indexes(output)
    shards = {path.with_suffix(".tar").name: path.with_suffix(".tar").stat().st_size for path in indexes}
    join_sealed(output / "rows.arrow", indexes)
    write_text(output / "store.json", json.dumps(packed_header(shards)))


def _indexes(output: Path) -> list[Path]:
    """Those of the shards that are complete."""
    return sorted((output / SHARDS).glob("[0-9]*.arrow"))
