"""The sealed rows of a store: one Arrow file, ordered by id, that opens without being read.

It is written by the ``datasets`` library, so ``datasets.Dataset.from_file`` opens it too. Equal rows give
equal bytes, whatever was sealed when.
"""

from __future__ import annotations

import json
import logging
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from robometer_rl.data.reading import Unreadable
from robometer_rl.data.rows import (
    ID,
    LATER,
    PER_FRAME,
    SCALARS,
    ChecksumError,
    FrameFile,
    Row,
    ShardPlace,
    StoreError,
    are_plausible,
    with_arrays,
)
from robometer_rl.data.trajectories import FIELDS, Facts
from robometer_rl.data.trajectory import JUDGED
from robometer_rl.files import check_regular, new_file

if TYPE_CHECKING:
    import pyarrow

__all__ = ["SealedRows", "join_sealed", "sealed_schema", "sort_sealed", "write_sealed"]

logger = logging.getLogger(__name__)

_PLACE: Final = ("frames_shard", "frames_start", "frames_size")  # columns that only packed stores have

# Rows per record batch: few, because the offsets of lists have 32 bits within a batch.
_BATCH: Final = 100
_SORTED: Final = 10_000  # rows that are brought into order at once


class SealedRows:
    """Rows of an Arrow file, mapped into memory.

    What a damaged file says about places and lengths is checked before anything is read there: the ids when it is
    opened, everything else a batch at a time when somebody asks for it.

    Attributes:
        ids: Ids in ascending order.
        schema: Its columns.
        batches: Its rows, some at a time.
        packed: Whether some of the frame files are in shards.
    """

    def __init__(self, path: Path) -> None:
        """Opens ``path``; reads the ids and nothing else.

        Raises:
            StoreError: The file is damaged.
            ModuleNotFoundError: The package ``pyarrow`` is not installed.
        """
        pa = _installed("pyarrow", f"to read the sealed rows {path}")
        self._path = path
        try:
            check_regular(path)
            with pa.memory_map(str(path)) as file:
                reader = pa.ipc.open_stream(file)
                self.schema = reader.schema
                _check_schema(self.schema)
                self.batches: list[pyarrow.RecordBatch] = list(reader)
            self.ids: list[str] = [name for batch in self.batches for name in _values(batch, "id")]
        except (*_damage(), OSError) as error:
            raise StoreError(f"{path} is damaged: {error}") from error
        are_names = all(name is not None and ID.fullmatch(name) for name in self.ids)
        if not are_names or any(one >= other for one, other in pairwise(self.ids)):
            raise StoreError(f"{path} is damaged: expected ids in ascending order, each a file name")
        self.packed: bool = _PLACE[0] in self.schema.names
        self._starts = [0, *accumulate(batch.num_rows for batch in self.batches)]
        self._sound: set[int] = set()

    def __reduce__(self) -> tuple[type[SealedRows], tuple[Path]]:
        """Another process maps the file itself."""
        return SealedRows, (self._path,)

    def __contains__(self, trajectory_id: str) -> bool:
        position = bisect_left(self.ids, trajectory_id)
        return position < len(self.ids) and self.ids[position] == trajectory_id

    def __getitem__(self, trajectory_id: str) -> Row:
        """The row with this id, which must be there.

        Raises:
            ChecksumError: It is damaged, or a row near it is, so that it cannot be read.
        """
        position = bisect_left(self.ids, trajectory_id)
        number = bisect_right(self._starts, position) - 1
        batch = self.batches[number]
        try:
            if number not in self._sound:
                batch.validate(full=True)
                self._sound.add(number)
            return _row(batch.slice(position - self._starts[number], 1).to_pylist()[0])
        except _damage() as error:
            raise ChecksumError(
                f"trajectory {trajectory_id!r}: its row in {self._path} is damaged ({error}); record it again"
            ) from error

    def facts(self) -> Iterator[Facts | Unreadable]:
        """What is known of all rows without looking at what they say of single frames, in order of ids."""
        for number, batch in enumerate(self.batches):
            try:
                found = _facts(batch)
            except _damage():
                found = [self._facts_of(name) for name in self.ids[self._starts[number] : self._starts[number + 1]]]
            yield from found

    def _facts_of(self, trajectory_id: str) -> Facts | Unreadable:
        try:
            return Facts.of(self[trajectory_id])
        except ChecksumError as error:
            return Unreadable(trajectory_id, str(error))

    def columns(self, *names: str) -> dict[str, list[Any]]:
        """Some fields of all rows, and ``id``, in order of ids; rows that cannot be read are left out."""
        table: dict[str, list[Any]] = {name: [] for name in ("id", *names)}
        for batch in self.batches:
            try:
                columns = {name: _values(batch, name) for name in table}
            except _damage() as error:
                logger.warning("some rows of %s are damaged: %s", self._path, error)
                continue
            for values in zip(*columns.values(), strict=True):
                if are_plausible(dict(zip(table, values, strict=True))):
                    for column, value in zip(table.values(), values, strict=True):
                        column.append(value)
        return table


def write_sealed(path: Path, rows: Iterable[Row], *, packed: bool = False) -> None:
    """Writes rows in place of what is at ``path``.

    Args:
        path: The file.
        rows: In order of their ids.
        packed: Whether frame files of some may be in shards; without them the file has no columns for that.

    Raises:
        ModuleNotFoundError: The package ``datasets`` is not installed.
    """
    _installed("datasets", f"to seal {path.parent}")
    from datasets import Features
    from datasets.arrow_writer import ArrowWriter

    features = Features.from_arrow_schema(sealed_schema(packed))
    with new_file(path) as temporary, ArrowWriter(features=features, path=str(temporary)) as writer:
        for row in rows:
            writer.write(_columns(row) | (_place(row) if packed else {}), writer_batch_size=_BATCH)
        writer.finalize()


def join_sealed(path: Path, parts: Sequence[Path]) -> None:
    """Writes the rows of several such files, of which each goes on where the one before it ends, as they are.

    Raises:
        StoreError: One of them is damaged.
    """
    import pyarrow as pa

    with new_file(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        writer = None
        for part in parts:
            rows = SealedRows(part)
            writer = writer or pa.ipc.new_stream(sink, rows.schema)
            for batch in rows.batches:
                writer.write_batch(batch)
        if writer is not None:
            writer.close()


def sort_sealed(path: Path, unsorted: Path) -> list[str]:
    """Writes the rows of such a file in the order of their ids.

    Args:
        path: Where to.
        unsorted: The file, whose rows have any order.

    Returns:
        Ids that came again; only the first row with an id stays.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    with pa.memory_map(str(unsorted)) as file:
        table = pa.ipc.open_stream(file).read_all()
        order = pc.sort_indices(table, sort_keys=[("id", "ascending")]).to_numpy()  # type: ignore[attr-defined]
        ids = table.column("id").take(order).to_pylist()
        again = [number for number in range(1, len(ids)) if ids[number] == ids[number - 1]]
        kept = np.delete(order, again)
        with new_file(path) as temporary, pa.ipc.new_stream(str(temporary), table.schema) as writer:
            for start in range(0, len(kept), _SORTED):
                part = table.take(kept[start : start + _SORTED]).combine_chunks()
                writer.write_table(part, max_chunksize=_BATCH)
    return [ids[number] for number in again]


def _installed(package: str, purpose: str) -> Any:
    """A package that takes long to import and is needed for sealed rows only."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{purpose}, the package '{package}' is needed: pip install 'robometer-rl[data]'", name=package
        ) from error


def _damage() -> tuple[type[Exception], ...]:
    """What reading a damaged file fails with."""
    import pyarrow

    # Most of Arrow's errors are of several kinds at once; some come from the interpreter.
    return pyarrow.ArrowException, ValueError, TypeError, LookupError, SystemError, OverflowError, MemoryError


def _values(batch: pyarrow.RecordBatch, name: str) -> list[Any]:
    column = batch.column(name)
    column.validate(full=True)
    return column.to_pylist()


def _facts(batch: pyarrow.RecordBatch) -> list[Facts]:
    """The facts of all rows of a batch; raises one of `_damage` if one of them is damaged."""
    shown = batch.select([*FIELDS, "instructions", "metadata", "frames_shape"])
    shown.validate(full=True)
    needed = ("id", "task", "quality_label", "data_source", "is_robot", "split", "instructions", "metadata")
    if any(shown.column(name).null_count for name in (*needed, "frames_shape")):
        raise ValueError("some rows lack what every trajectory has")
    shapes = shown.column("frames_shape").flatten().to_numpy().reshape(batch.num_rows, 4)
    if (shapes <= 0).any() or (shapes[:, 3] != 3).any():
        raise ValueError("some frames have no shape that frames have")
    judged = np.zeros(batch.num_rows, bool)
    for name in JUDGED:
        column = batch.column(name) if name in batch.schema.names else None
        if column is not None and column.null_count < batch.num_rows:
            judged |= column.is_valid().to_numpy(zero_copy_only=False)
    return [
        Facts(*values, instructions=tuple(texts), shape=tuple(shape), judged=is_judged, noted=noted)
        for *values, texts, noted, shape, is_judged in zip(
            *(shown.column(name).to_pylist() for name in (*FIELDS, "instructions", "metadata")),
            shapes.tolist(),
            judged.tolist(),
            strict=True,
        )
    ]


def _check_schema(found: pyarrow.Schema) -> None:
    known = sealed_schema(packed=_PLACE[0] in found.names)
    expected = [field for field in known if field.name in found.names or field.name not in LATER]
    wrong = [field.name for field in expected if field.name not in found.names or found.field(field.name) != field]
    if wrong:
        raise ValueError(f"its columns {', '.join(wrong)} are missing, or of another type")


def sealed_schema(packed: bool = False) -> pyarrow.Schema:
    """The columns of the file; of a packed store, where frame files are in its shards, too."""
    import pyarrow as pa

    text, integer, numbers = pa.string(), pa.int64(), pa.list_(pa.float32())
    return pa.schema(
        {
            **dict.fromkeys(("id", "task", "quality_label", "data_source"), text),
            "is_robot": pa.bool_(),
            "partial_success": pa.float64(),
            "skill": text,
            "seed": integer,
            "split": text,
            "source": text,
            "instructions": pa.list_(text),
            "metadata": text,
            "success": pa.list_(pa.bool_()),
            "progress": numbers,
            "state": pa.list_(numbers),
            "distance": numbers,
            "steps": pa.list_(integer),
            "proprioception": pa.list_(numbers),
            "actions": pa.list_(pa.list_(pa.float64())),
            "frames_file": text,
            "frames_shape": pa.list_(integer),
            "frames_sha256": text,
            "frames_numbers": pa.list_(integer),
            "sha256": text,
            **(dict(zip(_PLACE, (text, integer, integer), strict=True)) if packed else {}),
        }
    )


def _columns(row: Row) -> dict[str, Any]:
    arrays = {name: row.values[name] for name in PER_FRAME}
    return {
        **{name: row.values[name] for name in SCALARS},
        **{name: None if array is None else array.tolist() for name, array in arrays.items()},
        "instructions": row.values["instructions"],
        # Sources describe themselves in different words, so no columns would fit them all.
        "metadata": json.dumps(row.values["metadata"], sort_keys=True, ensure_ascii=False, allow_nan=False),
        "frames_file": row.frames.file,
        "frames_shape": list(row.frames.shape),
        "frames_sha256": row.frames.sha256,
        "frames_numbers": None if row.frames.numbers is None else list(row.frames.numbers),
        "sha256": row.sha256,
    }


def _place(row: Row) -> dict[str, Any]:
    place = row.frames.place
    return dict(zip(_PLACE, (None,) * 3 if place is None else (place.shard, place.start, place.size), strict=True))


def _row(columns: dict[str, Any]) -> Row:
    if not are_plausible(columns) or columns["sha256"] is None:
        raise ValueError("its fields are of other types than those of a trajectory")
    numbers = columns["frames_numbers"]
    frames = FrameFile(
        columns["frames_file"],
        tuple(columns["frames_shape"]),
        columns["frames_sha256"],
        numbers=None if numbers is None else tuple(numbers),
        place=None if columns.get(_PLACE[0]) is None else ShardPlace(*(columns[name] for name in _PLACE)),
    )
    values = {name: columns.get(name) for name in LATER}
    values |= {name: columns[name] for name in (*SCALARS, *PER_FRAME, "instructions") if name not in LATER}
    return Row(with_arrays({**values, "metadata": json.loads(columns["metadata"])}), frames, columns["sha256"])
