"""HDF5 files whose format is found out by what they hold, for those who do not know it or need not care."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from robometer_rl.data.reading import Reading, SourceError
from robometer_rl.data.trajectory import QualityLabel
from robometer_rl.formats.conventions import Assumptions, one_or_several
from robometer_rl.formats.hdf5.aloha import AlohaConfig, read_aloha
from robometer_rl.formats.hdf5.demonstrations import demonstration_names, find_files, is_libero, open_demonstration
from robometer_rl.formats.hdf5.files import DAMAGE, describe, layout_of, open_hdf5
from robometer_rl.formats.hdf5.maniskill import ManiSkillConfig, read_maniskill
from robometer_rl.formats.hdf5.reader import (
    LiberoHDF5Config,
    RobomimicHDF5Config,
    read_libero_hdf5,
    read_robomimic_hdf5,
)
from robometer_rl.video.lazy import Orientation

__all__ = ["HDF5Config", "read_hdf5"]

_READERS: Final[dict[str, tuple[Any, Any]]] = {
    "libero_hdf5": (LiberoHDF5Config, read_libero_hdf5),
    "robomimic_hdf5": (RobomimicHDF5Config, read_robomimic_hdf5),
    "maniskill": (ManiSkillConfig, read_maniskill),
    "aloha": (AlohaConfig, read_aloha),
}


@dataclass(frozen=True)
class HDF5Config:
    """HDF5 files of LIBERO, robomimic, Isaac Lab, ManiSkill or ALOHA, found out by what they hold.

    What is left out is as the format has it that they are of; the formats have options of their own, too.

    Attributes:
        path: One file, or a folder of files of one format.
        task: The instruction of every episode.
        camera: Which pictures, one trajectory each.
        tile: Show the cameras in one tiled picture, the first on top, for models that are trained on such.
        orientation: as_stored, flip, or rotate.
        quality: Outcome of every episode.
        data_source: Tag of the data set; by default that of the format.
    """

    path: Path
    task: str | None = None
    camera: tuple[str, ...] = ()
    tile: bool = False
    orientation: Orientation | None = None
    quality: QualityLabel | None = None
    data_source: str | None = None

    def __post_init__(self) -> None:
        one_or_several(self, "camera")


def read_hdf5(config: HDF5Config) -> Reading:
    """Reads a file or a folder as the first file in it that is of a known format; others are listed.

    Raises:
        SourceError: There is none, or what its reader raises.
    """
    kind = _format_of(config.path)
    Assumptions(config.path).say(f"read as the format {kind}, by what it holds; name another one if it is of that")
    options, read = _READERS[kind]
    given = {"task": config.task, "orientation": config.orientation, "quality": config.quality, "tile": config.tile}
    stated = {name: value for name, value in vars(config).items() if name in ("camera", "data_source") and value}
    return read(options(config.path, **given, **stated))


def _format_of(path: Path) -> str:
    problem = ""
    for file_path, name in find_files(path):
        try:
            with open_hdf5(file_path) as file:
                found = layout_of(file)
                if found is None:
                    problem = problem or f"{name}: {describe(file)}"
                    continue
                names = demonstration_names(file, file_path) if found == "robomimic_hdf5" else []
            if names:
                with open_demonstration(file_path, name, names[0]) as demonstration:
                    found = "libero_hdf5" if is_libero(demonstration) else found
            return found
        except (SourceError, *DAMAGE) as error:
            problem = problem or str(error)
    raise SourceError(f"{path} holds no file of a known format, which are {', '.join(_READERS)}; {problem}")
