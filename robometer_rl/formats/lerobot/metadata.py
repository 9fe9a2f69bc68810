"""``meta/info.json`` and the table of tasks of a LeRobot dataset, with values of the types that the format states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from robometer_rl.data.reading import SourceError
from robometer_rl.documents import DocumentError, brief, parse_json, read_text
from robometer_rl.extras import require
from robometer_rl.files import check_regular

__all__ = ["VERSIONS", "open_parquet", "read_info", "read_jsonl", "read_tasks"]

VERSIONS: Final = ("v2.0", "v2.1", "v3.0")

_INDEX: Final = "task_index"
# What pandas calls the column of an index without a name, such as the texts of LeRobot's own tables.
_UNNAMED: Final = "__index_level_0__"


def open_parquet(path: Path) -> Any:
    """A ``pyarrow.parquet.ParquetFile``.

    Raises:
        ImportError: The extra ``lerobot`` is not installed.
    """
    check_regular(path)
    return require("pyarrow.parquet", "lerobot").ParquetFile(path)


def read_info(root: Path) -> Mapping[str, Any]:
    """The content of ``meta/info.json``.

    Raises:
        SourceError: There is none, it is not JSON, one of its values is missing or of another type, or the version is
            not known; the message names the value.
    """
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise SourceError(f"{root} is not a LeRobot dataset: it has no meta/info.json")
    try:
        info = parse_json(read_text(path))
    except DocumentError as error:
        raise SourceError(f"{path} is not the description of a LeRobot dataset: {error}") from error
    if not isinstance(info, dict) or "codebase_version" not in info:
        raise SourceError(f"{path} is not the description of a LeRobot dataset: it has no 'codebase_version'")
    version = info["codebase_version"]
    if version not in VERSIONS:
        raise SourceError(
            f"{path} has the version {brief(version)}; expected one of {', '.join(VERSIONS)}. "
            "LeRobot has programs that convert older datasets"
        )
    _check_values(path, info, version)
    return info


def _check_values(path: Path, info: Mapping[str, Any], version: str) -> None:
    required = ["fps", "features", "data_path"] + ([] if version == "v3.0" else ["chunks_size"])
    missing = [name for name in required if info.get(name) is None]
    if missing:
        raise SourceError(f"{path} lacks {', '.join(missing)}")
    for name, (accepts, expected) in _VALUES.items():
        if info.get(name) is not None and not accepts(info[name]):
            raise SourceError(f"{path}: {name!r} is {brief(info[name])}; expected {expected}")
    for name, feature in info["features"].items():
        if not isinstance(feature, dict) or not isinstance(feature.get("dtype"), str):
            raise SourceError(
                f"{path}: the feature {name!r} is {brief(feature)}; expected an object with a dtype, as in 'video'"
            )
        if not all(isinstance(feature.get(notes) or {}, dict) for notes in ("info", "video_info")):
            raise SourceError(f"{path}: the feature {name!r} has notes that are no object: {brief(feature)}")
        if feature["dtype"] == "video" and info.get("video_path") is None:
            raise SourceError(f"{path} lacks video_path, and the feature {name!r} is stored as video")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_VALUES: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "fps": (lambda value: _is_number(value) and math.isfinite(value) and value > 0, "a number of frames per second"),
    "features": (lambda value: isinstance(value, dict), "an object with what is recorded per frame"),
    "data_path": (lambda value: isinstance(value, str), "the template of a path"),
    "video_path": (lambda value: isinstance(value, str), "the template of a path"),
    "chunks_size": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0,
        "a number of episodes",
    ),
    "splits": (lambda value: isinstance(value, dict), "an object such as {'train': '0:50'}"),
}


def read_tasks(root: Path, version: str) -> dict[int, str]:
    """The instruction by its number.

    In v3.0 it is the index of a data frame, whose column has no name or the one that a release gave it, or a column as
    others write it; anything else may stand beside it. In v2.x every line is an object.

    Raises:
        SourceError: There are no numbers, or it is not clear which column holds the instructions; the message lists
            the columns.
        OSError: There is no such file.
        ValueError: It is damaged.
    """
    if version == "v3.0":
        path = root / "meta" / "tasks.parquet"
        table = open_parquet(path).read()
        columns = {name: table[name].to_pylist() for name in table.column_names}
    else:
        path = root / "meta" / "tasks.jsonl"
        lines = read_jsonl(path)
        names = dict.fromkeys(name for line in lines for name in line)
        columns = {name: [line.get(name) for line in lines] for name in names}
    return _by_number(path, columns)


def _by_number(path: Path, columns: Mapping[str, list[Any]]) -> dict[int, str]:
    if _INDEX not in columns:
        raise SourceError(f"{path} has the columns {list(columns)}; expected {_INDEX!r} among them")
    text = _text_column(path, columns)
    tasks: dict[int, str] = {}
    for number, task in zip(columns[_INDEX], columns[text], strict=True):
        if task is None:
            continue  # whoever needs it is told that the table lacks it
        if not _is_number(number) or number != int(number):
            raise SourceError(f"{path}: the {_INDEX} of {task!r} is {brief(number)}; expected a whole number")
        if tasks.setdefault(int(number), task) != task:
            raise SourceError(f"{path} has two instructions of number {number}: {tasks[int(number)]!r} and {task!r}")
    return tasks


def _text_column(path: Path, columns: Mapping[str, list[Any]]) -> str:
    """The column with the instructions."""
    texts = [name for name, values in columns.items() if name != _INDEX and _are_texts(values)]
    for name in ("task", _UNNAMED):
        if name in texts:
            return name
    if len(texts) != 1:
        raise SourceError(
            f"{path} has the columns {list(columns)}, of which {texts or 'none'} hold texts; expected the instructions "
            "in a column 'task', or in the only one with texts"
        )
    return texts[0]


def _are_texts(values: Iterable[Any]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(isinstance(value, str) for value in known)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object per line.

    Raises:
        DocumentError: A line is something else.
        OSError: There is no such file.
    """
    found: list[dict[str, Any]] = []
    # splitlines() would also break at U+2028, which JSON allows inside strings.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            value = parse_json(line)
            if not isinstance(value, dict):
                raise DocumentError(f"{path}, line {number} is {brief(value)}; expected a JSON object")
            found.append(value)
    return found
