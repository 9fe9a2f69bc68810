"""Where everything is in a LeRobot dataset.

LeRobot keeps numbers in Parquet files and pictures in videos; how they are packed changed with v3.0::

    v3.0, many episodes in a file                    v2.0 and v2.1, one file per episode
    meta/info.json                                   meta/info.json
    meta/tasks.parquet                               meta/tasks.jsonl
    meta/episodes/chunk-000/file-000.parquet         meta/episodes.jsonl
    data/chunk-000/file-000.parquet                  data/chunk-000/episode_000000.parquet
    videos/KEY/chunk-000/file-000.mp4                videos/chunk-000/KEY/episode_000000.mp4

The paths of data and videos are templates in ``info.json``. In v3.0 the table of episodes says in which files an
episode is, and at which second of the video file it begins.

`LeRobotLayout` knows all of this and nothing about rewards or tasks to learn; pictures are read by
`robometer_rl.formats.lerobot.reader`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import EPISODE_DAMAGE, SourceError, unreadable
from robometer_rl.documents import DocumentError, brief, parse_json, read_text
from robometer_rl.extras import require
from robometer_rl.files import check_regular, inside

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ACTION",
    "STATE",
    "VERSIONS",
    "EpisodeRows",
    "LeRobotEpisode",
    "LeRobotLayout",
    "VideoSpan",
    "column_values",
    "open_parquet",
]

ACTION: Final = "action"
STATE: Final = "observation.state"
VERSIONS: Final = ("v2.0", "v2.1", "v3.0")

_INDEX: Final = "task_index"
# What pandas calls the column of an index without a name, such as the texts of LeRobot's own tables.
_UNNAMED: Final = "__index_level_0__"
_ROW_COLUMNS: Final = ("episode_index", "frame_index", "timestamp", "task_index")


@dataclass(frozen=True)
class VideoSpan:
    """Where a video shows an episode.

    Attributes:
        path: The video file.
        start_s: Seconds from the start of the file to the first frame of the episode.
    """

    path: Path
    start_s: float


@dataclass(frozen=True)
class LeRobotEpisode:
    """What the metadata say of one episode.

    Attributes:
        index: Its number.
        length: T, its number of frames.
        tasks: The instructions that occur in it.
        data_path: The Parquet file with its rows.
        videos: Its place in the video of each camera that is stored as video.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    data_path: Path
    videos: Mapping[str, VideoSpan]


@dataclass(frozen=True)
class EpisodeRows:
    """The rows of one episode.

    Attributes:
        path: The Parquet file.
        first: Row of the file with the episode's first frame.
        table: T rows, in order of time.
    """

    path: Path
    first: int
    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    def values(self, column: str) -> NDArray[Any]:
        """See `column_values`."""
        return column_values(self.table[column])


class LeRobotLayout:
    """The metadata of a LeRobot dataset, and the way to its files.

    A sequence of `LeRobotEpisode` in the order of the table of episodes.

    Attributes:
        root: Directory of the dataset.
        name: What the dataset is called.
        info: The content of ``meta/info.json``.
        version: One of `VERSIONS`.
        fps: Frames per second.
        features: What is recorded per frame, by name, as ``info.json`` describes it.
        tasks: Instruction by ``task_index``.
    """

    def __init__(self, root: Path) -> None:
        """Reads the metadata of the dataset at ``root``.

        Raises:
            SourceError: Not a LeRobot dataset, one of another version, or one whose metadata are damaged.
            ImportError: The extra ``lerobot`` is not installed.
        """
        self.root = root
        self.name = root.resolve().name
        self.info: Mapping[str, Any] = _read_info(root)
        self.version: str = self.info["codebase_version"]
        self.fps = float(self.info["fps"])
        self.features: Mapping[str, Mapping[str, Any]] = self.info["features"]
        packed = self.version == "v3.0"
        try:
            self.tasks: Mapping[int, str] = _read_tasks(root, self.version)
            self._table = _episodes_v3(root) if packed else _episodes_v2(root)
        except EPISODE_DAMAGE as error:
            raise SourceError(
                f"the metadata in {root / 'meta'} cannot be read as LeRobot {self.version}: "
                + unreadable("", error).reason
            ) from error

    def __len__(self) -> int:
        return self._table.num_rows

    @property
    def episode_indices(self) -> list[int]:
        """The numbers of the episodes, by their position.

        Raises:
            SourceError: The table of episodes does not have one for each.
        """
        names = self._table.column_names
        found: list[Any] = self._table["episode_index"].to_pylist() if "episode_index" in names else [None]
        if not all(isinstance(index, int) and not isinstance(index, bool) for index in found):
            raise SourceError(
                f"the table of episodes in {self.root / 'meta'} has no whole number in every episode_index"
            )
        return found

    def __iter__(self) -> Iterator[LeRobotEpisode]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> LeRobotEpisode:
        """The episode at a position of the table of episodes.

        Raises:
            IndexError: There are not that many.
            SourceError: The table lacks a column that this version has.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"{self.root} has {len(self)} episodes, asked for number {position}")
        row = self._table.slice(position, 1).to_pylist()[0]
        try:
            return self._episode_v3(row) if self.version == "v3.0" else self._episode_v2(row)
        except KeyError as error:
            raise SourceError(f"the table of episodes in {self.root / 'meta'} has no column {error}") from error
        except TypeError as error:
            raise SourceError(
                f"the table of episodes in {self.root / 'meta'} has a value of another type in row {position}: {error}"
            ) from error

    @property
    def cameras(self) -> tuple[str, ...]:
        """Features that are colour pictures, stored as video or as images."""
        return tuple(
            key for key, feature in self.features.items() if _is_picture(feature) and not _why_refused(feature)
        )

    @property
    def refused(self) -> dict[str, str]:
        """Features that are pictures and cannot be shown, with reasons."""
        pictures = {key: _why_refused(feature) for key, feature in self.features.items() if _is_picture(feature)}
        return {key: why for key, why in pictures.items() if why}

    def is_video(self, camera: str) -> bool:
        """Whether the pictures of a camera are stored as video; otherwise as images in the Parquet files."""
        return self.features[camera]["dtype"] == "video"

    def split_of(self, episode_index: int) -> str | None:
        """The split that ``info.json`` puts an episode into; None if it is in none."""
        for name, interval in (self.info.get("splits") or {}).items():
            start, _, stop = str(interval).partition(":")
            if start.isdecimal() and stop.isdecimal() and int(start) <= episode_index < int(stop):
                return name
        return None

    def fetch(self, position: int, cameras: Sequence[str]) -> None:
        """Makes sure that the files are here which show an episode by some cameras; in a directory they are.

        Raises:
            HubError: They are on the Hub, which cannot be reached or refuses.
        """

    def rows(self, episode: LeRobotEpisode, columns: Sequence[str] = ()) -> EpisodeRows:
        """Reads the rows of an episode: the columns named, and those that every dataset has.

        The last file is remembered, since episodes that follow each other share files.

        Raises:
            OSError: The file is missing.
            ValueError: It is damaged, lacks a column, or does not hold every frame of the episode once and in order.
        """
        table = _read_table(episode.data_path, (*_ROW_COLUMNS, *columns))
        found = np.flatnonzero(table["episode_index"].to_numpy() == episode.index)
        numbers = table["frame_index"].to_numpy()[found]
        contiguous = len(found) > 0 and found[-1] - found[0] + 1 == len(found)
        if not contiguous or len(found) != episode.length or (numbers != np.arange(len(numbers))).any():
            raise ValueError(
                f"{episode.data_path} has {len(found)} rows of episode {episode.index}; expected frames 0 to "
                f"{episode.length - 1}, each once and in order"
            )
        return EpisodeRows(episode.data_path, int(found[0]), table.slice(int(found[0]), len(found)))

    def task(self, rows: EpisodeRows) -> str:
        """The instruction of an episode.

        Raises:
            SourceError: It changes on the way, or the table of tasks lacks it.
        """
        indices = np.unique(rows.values("task_index")).tolist()
        texts = [self.tasks.get(index) for index in indices]
        if len(indices) > 1:
            raise SourceError(f"its instruction changes on the way: {texts}; expected one")
        if texts[0] is None:
            raise SourceError(f"its instruction has the number {indices[0]}, which the table of tasks lacks")
        return texts[0]

    def _episode_v3(self, row: Mapping[str, Any]) -> LeRobotEpisode:
        videos = {
            key: VideoSpan(
                self._path("video_path", video_key=key, **_file_of(row, f"videos/{key}")),
                float(row[f"videos/{key}/from_timestamp"]),
            )
            for key in self.cameras
            if self.is_video(key)
        }
        data_path = self._path("data_path", **_file_of(row, "data"))
        return LeRobotEpisode(row["episode_index"], row["length"], tuple(row["tasks"]), data_path, videos)

    def _episode_v2(self, row: Mapping[str, Any]) -> LeRobotEpisode:
        index = row["episode_index"]
        place = {"episode_index": index, "episode_chunk": index // self.info["chunks_size"]}
        videos = {
            key: VideoSpan(self._path("video_path", video_key=key, **place), 0.0)
            for key in self.cameras
            if self.is_video(key)
        }
        return LeRobotEpisode(index, row["length"], tuple(row["tasks"]), self._path("data_path", **place), videos)

    def _path(self, template: str, **values: Any) -> Path:
        text = self.info[template]
        # Of Python's templates only names and a few digits: others look into objects, or fill the memory with blanks.
        for _, name, digits, conversion in Formatter().parse(text):
            is_plain = name in values and not conversion and re.fullmatch(r"(0?\d{1,2}d?)?", digits or "")
            if name is not None and not is_plain:
                raise SourceError(f"{template} in meta/info.json is {text!r}; expected the fields {sorted(values)}")
        return inside(self.root, text.format(**values))


def column_values(column: pa.ChunkedArray) -> NDArray[Any]:
    """(T,) of a column of scalars, or of vectors with one entry; (T, ...) of any other column."""
    entries = np.asarray(column.to_pylist())
    return entries[:, 0] if entries.ndim == 2 and entries.shape[1] == 1 else entries


def _episodes_v3(root: Path) -> pa.Table:
    paths = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not paths:
        raise SourceError(f"{root / 'meta' / 'episodes'} holds no Parquet files")
    tables = []
    for path in paths:
        file = open_parquet(path)
        # Statistics per episode are most of the file and of no use here.
        names = [name for name in file.schema_arrow.names if not name.startswith("stats/")]
        tables.append(file.read(columns=names))
    found = require("pyarrow", "lerobot").concat_tables(tables, promote_options="default")
    # A few kilobytes can list one episode millions of times.
    if len(found["episode_index"].unique()) != len(found):
        raise SourceError(f"{root / 'meta' / 'episodes'} lists an episode more than once")
    return found


def _episodes_v2(root: Path) -> pa.Table:
    lines = _read_jsonl(root / "meta" / "episodes.jsonl")
    columns = {name: [line[name] for line in lines] for name in ("episode_index", "length", "tasks")}
    return require("pyarrow", "lerobot").table(columns)


def _file_of(row: Mapping[str, Any], kind: str) -> dict[str, int]:
    return {"chunk_index": row[f"{kind}/chunk_index"], "file_index": row[f"{kind}/file_index"]}


def _is_picture(feature: Mapping[str, Any]) -> bool:
    return feature["dtype"] in ("video", "image")


def _why_refused(feature: Mapping[str, Any]) -> str:
    """What is wrong with the pictures of a feature, as far as its description knows; empty if nothing is."""
    notes = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    if notes.get("is_depth_map") or notes.get("video.is_depth_map"):
        return "they are maps of depth: distances, not colours"
    return ""


def _read_table(path: Path, columns: tuple[str, ...]) -> pa.Table:
    status = path.stat()
    return _read_version(path, columns, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _read_version(path: Path, columns: tuple[str, ...], modified: int, size: int) -> pa.Table:
    file = open_parquet(path)
    missing = sorted(set(columns) - set(file.schema_arrow.names))
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}")
    return file.read(columns=list(dict.fromkeys(columns)))


def open_parquet(path: Path) -> Any:
    """A ``pyarrow.parquet.ParquetFile``.

    Raises:
        ImportError: The extra ``lerobot`` is not installed.
    """
    check_regular(path)
    return require("pyarrow.parquet", "lerobot").ParquetFile(path)


def _read_info(root: Path) -> Mapping[str, Any]:
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


def _read_tasks(root: Path, version: str) -> dict[int, str]:
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
        lines = _read_jsonl(path)
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


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
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
