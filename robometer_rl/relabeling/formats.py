"""The formats that can be relabelled, by name. What reads a format is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Final

from robometer_rl.data.reading import SourceError
from robometer_rl.formats.dataset import DatasetOptions, RelabelDataset, WriteMode

__all__ = ["FORMATS", "Format", "detect_format", "open_dataset"]

_HERE: Final = "robometer_rl.formats"


@dataclass(frozen=True)
class Format:
    """Where a format lives.

    Its module has two functions: ``is_format(path) -> bool``, which looks at names and headers only and needs no
    extra, and ``open_dataset(options) -> RelabelDataset``, which raises `SourceError` for what it cannot read.

    Attributes:
        module: Module of ``robometer_rl.formats``, or its full name.
        description: What kind of dataset it is.
        modes: How its labels can be written, the usual way first.
    """

    module: str
    description: str
    modes: tuple[WriteMode, ...]

    def matches(self, path: Path) -> bool:
        """Whether what is at ``path`` looks like this format."""
        return resolve_name(f"{_HERE}.{self.module}:is_format")(path)

    def open(self, options: DatasetOptions) -> RelabelDataset:
        """Opens a dataset of this format."""
        return resolve_name(f"{_HERE}.{self.module}:open_dataset")(options)


FORMATS: Final[Mapping[str, Format]] = {
    "lerobot": Format("lerobot.labels", "A LeRobot dataset, v3.0; of v2.x a sidecar.", ("copy", "sidecar")),
    "minari": Format("minari.labels", "A local Minari data set with pictures.", ("copy",)),
    "npz": Format("npz", "A folder of .npz episodes.", ("copy",)),
    "sb3": Format("sb3", "A replay buffer that Stable-Baselines3 saved.", ("copy", "in_place")),
    "hdf5": Format("hdf5.labels", "HDF5 files of LIBERO or robomimic.", ("copy", "in_place")),
    "videos": Format("videos.labels", "A folder of videos with a JSONL file of tasks.", ("sidecar",)),
}
"""By the name that ``robometer-rl relabel --format`` takes, in the order in which they are tried."""


def detect_format(path: Path) -> str:
    """The name of the format of what is at ``path``.

    Raises:
        FileNotFoundError: Nothing is.
        SourceError: No format looks like it.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no dataset at {path}")
    found = next((name for name, kind in FORMATS.items() if kind.matches(path)), None)
    if found is None:
        raise SourceError(f"{path} looks like none of the formats {', '.join(FORMATS)}; name one if it is one of them")
    return found


def open_dataset(options: DatasetOptions, name: str | None = None) -> tuple[Format, RelabelDataset]:
    """Opens a dataset of the format called ``name``, or of the one that it looks like.

    Raises:
        FileNotFoundError: There is nothing at ``options.path``.
        SourceError: No such dataset, or no such format.
    """
    if name is not None and name not in FORMATS:
        raise SourceError(f"there is no format {name!r}; expected one of {', '.join(FORMATS)}")
    if not options.path.exists():
        raise FileNotFoundError(f"there is no dataset at {options.path}")
    kind = FORMATS[name or detect_format(options.path)]
    return kind, kind.open(options)
