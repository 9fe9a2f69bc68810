"""The sealed rows of a store: one Arrow file, ordered by id, that opens without being read.

It is written and read by the ``datasets`` library, so ``datasets.Dataset.from_file`` opens it too. Equal rows give
equal bytes, whatever was sealed when.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from robometer_rl.data.rows import PER_FRAME, SCALARS, FrameFile, Row, StoreError, with_arrays
from robometer_rl.files import new_file

if TYPE_CHECKING:
    import datasets

__all__ = ["SealedRows", "write_sealed"]

# Rows per record batch: few, because the offsets of lists have 32 bits within a batch.
_BATCH: Final = 100


class SealedRows:
    """Rows of an Arrow file, mapped into memory.

    Attributes:
        ids: Ids in ascending order.
    """

    def __init__(self, path: Path) -> None:
        """Opens ``path``; reads the ids and nothing else.

        Raises:
            StoreError: The file is damaged.
            ModuleNotFoundError: The package ``datasets`` is not installed.
        """
        datasets = _datasets(f"to read the sealed rows {path}")
        try:
            self._rows = datasets.Dataset.from_file(str(path))
            self.ids: list[str] = self.column("id")
        except (ValueError, KeyError, OSError) as error:
            raise StoreError(f"{path} is damaged: {error}") from error

    def __contains__(self, trajectory_id: str) -> bool:
        position = bisect_left(self.ids, trajectory_id)
        return position < len(self.ids) and self.ids[position] == trajectory_id

    def __getitem__(self, trajectory_id: str) -> Row:
        """The row with this id, which must be there."""
        return _row(self._rows[bisect_left(self.ids, trajectory_id)])

    def column(self, name: str) -> list[Any]:
        """One field of all rows, in order of ids."""
        return self._rows.data.column(name).to_pylist()


def write_sealed(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows, which must come in order of their ids, in place of what is at ``path``.

    Raises:
        ModuleNotFoundError: The package ``datasets`` is not installed.
    """
    _datasets(f"to seal {path.parent}")
    from datasets.arrow_writer import ArrowWriter

    with new_file(path) as temporary, ArrowWriter(features=_features(), path=str(temporary)) as writer:
        for row in rows:
            writer.write(_columns(row), writer_batch_size=_BATCH)
        writer.finalize()


def _datasets(purpose: str) -> Any:
    """The module ``datasets``, which takes a second to import and is needed for sealed rows only."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{purpose}, the package 'datasets' is needed: pip install 'robometer-rl[data]'", name="datasets"
        ) from error
    return datasets


def _features() -> datasets.Features:
    from datasets import Features, List, Value

    text, integer = Value("string"), Value("int64")
    return Features(
        {
            **dict.fromkeys(("id", "task", "quality_label", "data_source"), text),
            "is_robot": Value("bool"),
            "partial_success": Value("float64"),
            "skill": text,
            "seed": integer,
            "split": text,
            "source": text,
            "instructions": List(text),
            "metadata": text,
            "success": List(Value("bool")),
            "state": List(List(Value("float32"))),
            "distance": List(Value("float32")),
            "steps": List(integer),
            "frames_file": text,
            "frames_shape": List(integer),
            "frames_sha256": text,
            "frames_numbers": List(integer),
            "sha256": text,
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


def _row(columns: dict[str, Any]) -> Row:
    numbers = columns["frames_numbers"]
    frames = FrameFile(
        columns["frames_file"],
        tuple(columns["frames_shape"]),
        columns["frames_sha256"],
        numbers=None if numbers is None else tuple(numbers),
    )
    values = {name: columns[name] for name in (*SCALARS, *PER_FRAME, "instructions")}
    return Row(with_arrays({**values, "metadata": json.loads(columns["metadata"])}), frames, columns["sha256"])
