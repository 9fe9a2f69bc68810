"""The published data of Robometer (RBM-1M and its evaluation sets), where it lies; `layout` says in which forms.

A row becomes one trajectory. Its quality label is one of three words; ``failed`` and ``optimal``, which some sets
have, mean ``failure`` and ``successful``. A partial success is kept where there is one. Paths in rows are those of the
author's disk, so a file is looked for by its name.

Frames stay where they are. Those of a cache are packed arrays, of which the reference keeps at most as many as it was
told (32 in the published ones) in a way that leaves the last frame of longer videos out. ``metadata`` says so:
``last_frame_kept`` is true where a cache holds fewer frames than it might, so that it holds all, false where it is
full, and null where the cache does not say how many it might hold. Whether the task was done in the last frame that is
left of such an episode is a guess. Videos of a repository end with their last frame.

Embeddings that lie beside the frames are pickles and not read.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from robometer_rl.data.array_frames import ArrayFrames
from robometer_rl.data.published import Published, published
from robometer_rl.data.reading import EPISODE_DAMAGE, Reading, SourceError, Unreadable, attempt
from robometer_rl.data.trajectory import TILED, QualityLabel, Trajectory
from robometer_rl.data.video_frames import VideoFrames
from robometer_rl.documents import brief
from robometer_rl.extras import require
from robometer_rl.formats.rbm.layout import FoundCollection, find_collections
from robometer_rl.formats.trajectories import episode_id
from robometer_rl.frames import FrameSequence

__all__ = ["QUALITIES", "RbmConfig", "read_collection", "read_rbm", "selected_keys"]

logger = logging.getLogger(__name__)

QUALITIES: Final[Mapping[str, QualityLabel]] = {
    "successful": "successful",
    "optimal": "successful",
    "suboptimal": "suboptimal",
    "failure": "failure",
    "failed": "failure",
}
"""The words for outcomes in rows, and what they mean."""

_COLUMNS: Final = (
    "id",
    "task",
    "data_source",
    "frames",
    "is_robot",
    "quality_label",
    "partial_success",
    "frames_shape",
)
_REQUIRED: Final = ("id", "task", "frames", "quality_label")
_LISTED: Final = 8  # of the collections that are missing, how many are named
_TILED_KEY: Final = re.compile("(^|_)tiled(_|$)")  # what repositories of tiled pictures are called
_MOST_FRAMES: Final = 4096  # that a cache was told to keep, for finding out which number it was


@dataclass(frozen=True)
class RbmConfig:
    """Published Robometer data: preprocessed caches, archives of them, and repositories of videos.

    Attributes:
        path: A cache, an archive or one part of it, a repository, a subset, or a folder of such.
        select: Only collections of these groups, as in rbm-1m-id, rbm-1m-ood, libero_pi0 or mw, or with these keys.
            Those that a group only evaluates on get the split "test". All that is there if none is named.
        videos: Where to look for videos that are not beside their rows.
    """

    path: Path
    select: tuple[str, ...] = ()
    videos: Path | None = None


def read_rbm(config: RbmConfig) -> Reading:
    """Reads collections in the order of their keys, rows in their own order.

    An id consists of the key and the id in the row, so the same episode has the same id in every layout.

    Raises:
        SourceError: There is nothing of the kind at the path, or nothing that is selected.
        UnknownGroupError: There is no such group or collection.
        ImportError: pyarrow is not installed.
    """
    require("pyarrow", "data")
    found = find_collections(config.path, config.videos)
    chosen = set(selected_keys([each.key for each in found if isinstance(each, FoundCollection)], config, published()))
    return _read_all([each for each in found if isinstance(each, Unreadable) or each.key in chosen], config)


def selected_keys(there: Sequence[str], config: RbmConfig, table: Published) -> list[str]:
    """Keys of the collections that are selected, in their order, of those that are there.

    Raises:
        SourceError: None of the selected ones is.
        UnknownGroupError: There is no such group or collection.
    """
    if not config.select:
        return list(there)
    held = set(there)
    keys: list[str] = []
    for wanted in _known_keys(config.select, held, table):
        key = wanted
        collection = table.collections.get(key)
        stand_in = None if collection is None else collection.stand_in
        if stand_in in held and key not in held:
            assert stand_in is not None
            logger.info("%s is not there; its stand-in %s is read", key, stand_in)
            key = stand_in
        keys.append(key)
    missing = [key for key in keys if key not in held]
    if missing:
        reasons = [_reason(key, table) for key in missing[:_LISTED]]
        if len(missing) > _LISTED:
            reasons.append(f"and {len(missing) - _LISTED} more")
        said = f"{len(missing)} of the {len(keys)} collections that are selected are not in {config.path}: "
        if len(missing) == len(keys):
            raise SourceError(f"{said}{'; '.join(reasons)}; it holds {', '.join(sorted(held)) or 'none'}")
        logger.warning("%s%s", said, "; ".join(reasons))
    return [key for key in there if key in set(keys)]


def _known_keys(names: tuple[str, ...], held: set[str], table: Published) -> list[str]:
    """Keys that names mean, of which one may be that of a collection that is here and not published."""
    keys = [(name,) if name in held else table.keys([name]) for name in names]
    return list(dict.fromkeys(key for group in keys for key in group))


def _reason(key: str, table: Published) -> str:
    collection = table.collections.get(key)
    return key if collection is None or collection.problem is None else f"{key} ({collection.problem})"


def _read_all(found: list[FoundCollection | Unreadable], config: RbmConfig) -> Reading:
    for each in found:
        if isinstance(each, Unreadable):
            yield each
        else:
            yield from read_collection(each, published().split_of(each.key, config.select))


def read_collection(found: FoundCollection, split: str) -> Reading:
    """Reads the rows of a collection in their own order; its trajectories are said to be of ``split``."""
    most = _most_frames(found)
    for name, opener in found.tables:
        try:
            for number, row in _rows(opener, is_parquet=name.endswith(".parquet")):
                called = f"{found.key}#{row.get('id') or number}"
                yield attempt(called, lambda row=row: _trajectory(row, found, split, most))
        except EPISODE_DAMAGE as error:
            yield Unreadable(name, f"its table cannot be read (any further): {error}")


def _rows(opener: Any, is_parquet: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table with their numbers; embeddings of tasks are not read."""
    stream: BinaryIO
    with opener() as stream:
        number = 0
        for batch in _batches(stream, is_parquet):
            batch.validate(full=True)
            missing = [name for name in _REQUIRED if name not in batch.schema.names]
            if missing:
                raise SourceError(f"it lacks the columns {', '.join(missing)}; is it of another format?")
            for row in batch.select([name for name in _COLUMNS if name in batch.schema.names]).to_pylist():
                yield number, row
                number += 1


def _batches(stream: BinaryIO, is_parquet: bool) -> Iterator[Any]:
    if is_parquet:
        parquet = require("pyarrow.parquet", "data").ParquetFile(stream)
        names = [name for name in _COLUMNS if name in parquet.schema_arrow.names]
        return parquet.iter_batches(columns=names)
    pa = require("pyarrow", "data")
    # Files are mapped, so that what is not looked at is not read.
    path = getattr(stream, "name", None)
    source = pa.memory_map(path) if isinstance(path, str) else pa.PythonFile(stream)
    return iter(pa.ipc.open_stream(source))


def _trajectory(row: Mapping[str, Any], found: FoundCollection, split: str, most: int | None) -> Trajectory:
    for name in _REQUIRED:
        if not isinstance(row[name], str) or not row[name]:
            raise ValueError(f"its {name} is {brief(row[name])}; expected a text")
    quality = QUALITIES.get(row["quality_label"])
    if quality is None:
        raise ValueError(f"its quality_label is {brief(row['quality_label'])}; expected one of {', '.join(QUALITIES)}")
    frames = _frames(row, found)
    is_robot = row.get("is_robot")
    return Trajectory(
        id=episode_id(found.key, row["id"]),
        task=row["task"],
        frames=frames,
        quality_label=quality,
        data_source=row.get("data_source") or found.key,
        is_robot=True if is_robot is None else is_robot,
        partial_success=_graded(row.get("partial_success")),
        split=split,
        source=f"{found.key}#{row['id']}",
        metadata=_metadata(frames, found, most) | ({TILED: True} if _TILED_KEY.search(found.key) else {}),
    )


def _graded(value: float | None) -> float | None:
    """NaN is what some tables have for nothing."""
    return None if value is None or math.isnan(value) else value


def _frames(row: Mapping[str, Any], found: FoundCollection) -> FrameSequence:
    file = found.file(row["frames"])
    if file is None:
        raise ValueError(f"its frames {row['frames']!r} are not there")
    if found.is_cache:
        frames = ArrayFrames(file, tuple(row.get("frames_shape") or ()))
        frames.check()
        return frames
    assert isinstance(file, Path)
    return VideoFrames(file)


def _metadata(frames: FrameSequence, found: FoundCollection, most: int | None) -> dict[str, Any]:
    if isinstance(frames, VideoFrames):
        return {} if frames.fps is None else {"fps": frames.fps}
    made = {} if "cache_timestamp" not in found.info else {"cache_timestamp": str(found.info["cache_timestamp"])}
    return {"last_frame_kept": None if most is None else len(frames) < most, **made}


def _most_frames(found: FoundCollection) -> int | None:
    """How many frames of a video the cache was told to keep, of which it notes only the MD5."""
    noted = found.info.get("config_hash")
    if noted is None:
        return None
    numbers = range(1, _MOST_FRAMES + 1)
    return next((n for n in numbers if hashlib.md5(str(n).encode(), usedforsecurity=False).hexdigest() == noted), None)
