"""The labels of a dataset of any format as JSON lines, one line per episode, for programs that read nothing else.

A line is a JSON object with these fields:

==================== ==================================================================================================
``episode``          Name of the episode in its dataset
``tasks``            Its instructions, see `robometer_rl.formats.dataset.RecordedEpisode`
``progress``         F numbers, one per observation
``success``          F numbers, likewise; null of a model that says none
``rewards``          T numbers, one per step
``returns``          T numbers, likewise
``advantages``       T numbers, likewise
``success_detected`` T truth values
``imputed``          T truth values
``skipped``          Why the episode has no labels, and then all fields from ``tasks`` on are null; null if it has them
``provenance``       How the labels were made
==================== ==================================================================================================

The arrays are those of `robometer_rl.formats.dataset.EpisodeLabels`, where they are described, and read back exactly.
Every line has all fields, so that lines of several files may be joined, sorted and divided.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.files import check_destination, check_regular, new_file
from robometer_rl.formats.dataset import (
    LABEL_ARRAYS,
    EpisodeError,
    EpisodeLabels,
    Labels,
    LabelWriter,
    Provenance,
    RelabelDataset,
)
from robometer_rl.formats.jsonl import Field, Line, RecordError, check_record, is_text

__all__ = ["LabelLinesWriter", "default_lines", "read_label_lines"]


class LabelLinesWriter(LabelWriter):
    """Writes the labels of a dataset into one file, see the module; the dataset is not touched."""

    def __init__(self, dataset: RelabelDataset, destination: Path) -> None:
        self.destination = destination
        self._dataset = dataset

    def check(self) -> None:
        """See `LabelWriter.check`."""
        check_destination(self.destination)

    def written(self) -> Provenance | None:
        """See `LabelWriter.written`."""
        try:
            return read_label_lines(self.destination).provenance
        except (SourceError, OSError):
            return None

    def write(self, labels: Labels) -> None:
        """See `LabelWriter.write`."""
        with new_file(self.destination) as path, path.open("w", encoding="utf-8") as file:
            for record in self._records(labels):
                # In ASCII, which can hold names of files that are no UTF-8, too.
                file.write(json.dumps(record, allow_nan=False) + "\n")

    def _records(self, labels: Labels) -> Iterator[dict[str, Any]]:
        provenance = labels.provenance.to_dict()
        for key, entry in labels.episodes.items():
            arrays: dict[str, Any] = {name: _to_list(getattr(entry, name)) for name in LABEL_ARRAYS}
            if not entry.has_success:
                arrays["success"] = None
            tasks = list(self._dataset.episode(key).tasks)
            yield {"episode": key, "tasks": tasks, **arrays, "skipped": None, "provenance": provenance}
        unknown = dict.fromkeys(("tasks", *LABEL_ARRAYS))
        for entry in labels.skipped:
            yield {"episode": entry.name, **unknown, "skipped": entry.reason, "provenance": provenance}


def default_lines(path: Path) -> Path:
    """Where the lines about the dataset at ``path`` go if nobody says: beside it.

    Examples:
        >>> default_lines(Path("demos.hdf5")).name
        'demos-robometer.jsonl'
    """
    absolute = path.absolute()
    return absolute.with_name(f"{absolute.name if path.is_dir() else absolute.stem}-robometer.jsonl")


def read_label_lines(path: Path) -> Labels:
    """The labels that were written to a file, exactly.

    Raises:
        SourceError: A line that is not of such a file, an episode that is listed twice, lines that were not made in the
            same way, or none at all.
        OSError: The file cannot be read.

    Examples:
        >>> labels = read_label_lines(Path("demos-robometer.jsonl"))                        # doctest: +SKIP
        >>> labels.episodes["episode_000000"].advantages                                    # doctest: +SKIP
    """
    episodes: dict[str, EpisodeLabels] = {}
    skipped: list[Unreadable] = []
    made: Any = None
    for line in _lines(path):
        try:
            values = check_record(line.record(), _FIELDS)
            made = values["provenance"] if made is None else made
            if values["provenance"] != made:
                raise RecordError("its labels were made in another way than those of the lines before it")
            key = values["episode"]
            if key in episodes:
                raise RecordError(f"the episode {key!r} has been on a line before it")
            if "skipped" in values:
                skipped.append(Unreadable(key, values["skipped"]))
            else:
                episodes[key] = _episode(values)
        except RecordError as error:
            raise SourceError(f"{line.name}: {error}") from error
    if made is None:
        raise SourceError(f"{path} has no lines; expected one per episode")
    try:
        return Labels(episodes, tuple(skipped), Provenance.from_dict(made))
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from error


def _lines(path: Path) -> Iterator[Line]:
    """The lines of a file, which may be larger than the memory."""
    check_regular(path)
    with path.open(encoding="utf-8") as file:
        try:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    yield Line(f"{path}, line {number}", text.strip())
        except UnicodeDecodeError as error:
            raise SourceError(f"{path} is not text in UTF-8: {error}") from error


def _episode(values: Mapping[str, Any]) -> EpisodeLabels:
    missing = [name for name in LABEL_ARRAYS if name not in values and name != "success"]
    if missing:
        raise RecordError(f"the field {missing[0]!r} is null, and the episode is not skipped; expected its labels")
    try:
        labels = EpisodeLabels.read(
            values["episode"], {name: np.asarray(values[name]) for name in LABEL_ARRAYS if name in values}
        )
    except EpisodeError as error:
        raise RecordError(str(error)) from error
    if labels is None:
        raise RecordError("its progress is empty; expected a number per observation")
    return labels


def _to_list(array: NDArray[Any]) -> list[Any]:
    """Plain values; a float32 becomes the shortest decimal that reads back as the same float32."""
    return [float(str(value)) for value in array] if array.dtype == np.float32 else array.tolist()


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(entry) in (int, float) for entry in value)


def _are_flags(value: Any) -> bool:
    return isinstance(value, list) and all(type(entry) is bool for entry in value)


_FIELDS: Final[Mapping[str, Field]] = {
    "episode": Field(is_text, "the name of an episode", required=True),
    "tasks": Field(lambda value: isinstance(value, list) and all(map(is_text, value)), "a list of instructions"),
    **{
        name: Field(_are_flags, "a list of true and false")
        if kind is np.bool_
        else Field(_are_numbers, "a list of numbers")
        for name, kind in LABEL_ARRAYS.items()
    },
    "skipped": Field(is_text, "the reason why the episode has no labels"),
    "provenance": Field(lambda value: isinstance(value, dict), "an object that says how the labels were made", True),
}
