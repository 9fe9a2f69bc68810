"""Minari's storage in Arrow and Parquet files: one folder per episode, whose rows are observations.

Minari reads them without looking whether places and lengths in them make sense, which in a damaged file can end the
process, and takes the first batch for the episode. Nested infos lose their shapes on the way. So files are checked here
first, and infos are read here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from robometer_rl.data.reading import SourceError
from robometer_rl.documents import read_text
from robometer_rl.extras import require
from robometer_rl.files import check_regular, inside

__all__ = ["arrow_infos", "check_episode", "episode_files", "read_table"]


def episode_files(folder: Path, episode: int) -> list[Path]:
    """The files with the rows of an episode."""
    files = sorted((folder / str(episode)).glob("*.*"))
    return [path for path in files if path.suffix in (".arrow", ".parquet") and not path.name.startswith((".", "_"))]


def read_table(path: Path) -> Any:
    """The ``pyarrow.Table`` of a file, whose places and lengths have been checked.

    Raises:
        ValueError: It is damaged.
        OSError: Likewise, or it is gone.
    """
    check_regular(path)
    if path.suffix == ".parquet":
        table = require("pyarrow.parquet", "minari").ParquetFile(path).read()
    else:
        # Not mapped: a file that gets shorter meanwhile would end the process.
        table = require("pyarrow", "minari").ipc.open_file(path.read_bytes()).read_all()
    table.validate(full=True)
    return table


def check_episode(folder: Path, episode: int) -> Any:
    """The table of an episode.

    Raises:
        SourceError: Its rows are in several files or batches, or in none.
        ValueError: It is damaged.
        OSError: Likewise.
    """
    files = episode_files(folder, episode)
    if len(files) != 1:
        raise SourceError(f"its rows are in {len(files)} files; Minari writes one")
    facts = f"{episode}/metadata.json"  # which Minari reads: it would wait for a pipe, and read what has no end
    if (folder / facts).exists():
        read_text(inside(folder, facts))
    table = read_table(files[0])
    if files[0].suffix == ".arrow" and max((column.num_chunks for column in table.columns), default=0) > 1:
        raise SourceError("its rows are in several batches; Minari writes one, and reads no more")
    return table


def arrow_infos(table: Any) -> dict[str, Any]:
    """The infos of an episode as Minari's HDF5 storage returns them: (T + 1, ...) arrays, in dictionaries."""
    if "infos" not in table.column_names:
        return {}
    pa = require("pyarrow", "minari")
    infos: Any = _values(pa.concat_arrays(table["infos"].chunks), None, pa)
    return infos


def _values(column: Any, notes: Any, pa: Any) -> Any:
    """Values of a column; the shape of its entries is noted beside it."""
    if pa.types.is_struct(column.type):
        return {field.name: _values(column.field(place), field.metadata, pa) for place, field in enumerate(column.type)}
    shape = (notes or {}).get(b"shape")
    if shape is None or not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy(zero_copy_only=False)
    sizes = [int(size) for size in shape.split(b",") if size]
    return np.asarray(column.flatten()).reshape(len(column), *sizes)
