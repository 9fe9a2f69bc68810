"""HDF5 files whose format is found out by what they hold: to be imported, where nobody names it, and to be labelled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from robometer_rl.data.reading import Reading, SourceError
from robometer_rl.data.trajectory import QualityLabel
from robometer_rl.formats.conventions import Assumptions, one_or_several
from robometer_rl.formats.dataset import DatasetOptions
from robometer_rl.formats.hdf5.aloha import AlohaConfig, AlohaLayout, read_aloha
from robometer_rl.formats.hdf5.dataset import HDF5Dataset
from robometer_rl.formats.hdf5.demonstrations import DEMONSTRATIONS, demonstration_in, find_files, is_libero
from robometer_rl.formats.hdf5.files import DAMAGE, describe, layout_of, open_hdf5
from robometer_rl.formats.hdf5.maniskill import ManiSkillConfig, ManiSkillLayout, read_maniskill
from robometer_rl.formats.hdf5.reader import (
    DemonstrationLayout,
    LiberoHDF5Config,
    RobomimicHDF5Config,
    read_libero_hdf5,
    read_robomimic_hdf5,
)
from robometer_rl.video.lazy import Orientation

if TYPE_CHECKING:
    import h5py

__all__ = ["HDF5Config", "HDF5Dataset", "is_format", "open_dataset", "read_hdf5"]

_READERS: Final[dict[str, tuple[Any, Any]]] = {
    "libero_hdf5": (LiberoHDF5Config, read_libero_hdf5),
    "robomimic_hdf5": (RobomimicHDF5Config, read_robomimic_hdf5),
    "maniskill": (ManiSkillConfig, read_maniskill),
    "aloha": (AlohaConfig, read_aloha),
}
_SUFFIXES: Final = (".hdf5", ".h5")


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


def is_format(path: Path) -> bool:
    """Whether ``path`` is an HDF5 file, or a folder with such files in it or in its folders."""
    files = [path] if path.is_file() else path.rglob("*")
    return any(file.suffix in _SUFFIXES for file in files)


def open_dataset(options: DatasetOptions) -> HDF5Dataset:
    """Opens a file, or a folder of files of one layout, to be labelled.

    Raises:
        SourceError: See `HDF5Dataset`, or no file of a known format is there.
    """
    layout = {"maniskill": ManiSkillLayout, "aloha": AlohaLayout}.get(_format_of(options.path), DemonstrationLayout)
    return HDF5Dataset(options, layout(options))


def _format_of(path: Path) -> str:
    problem = ""
    for file_path, name in find_files(path):
        try:
            with open_hdf5(file_path) as file:
                found = layout_of(file)
                if found is None:
                    problem = problem or f"{name}: {describe(file)}"
                    continue
                is_of_libero = found == "robomimic_hdf5" and _are_of_libero(file, file_path, name)
                return "libero_hdf5" if is_of_libero else found
        except (SourceError, *DAMAGE) as error:
            problem = problem or str(error)
    raise SourceError(f"{path} holds no file of a known format, which are {', '.join(_READERS)}; {problem}")


def _are_of_libero(file: h5py.File, path: Path, file_name: str) -> bool:
    """Whether the first demonstration of a file says so that can be read."""
    for name in DEMONSTRATIONS.names(file):
        try:
            return is_libero(demonstration_in(file, path, file_name, name))
        except (SourceError, *DAMAGE):
            continue
    return False
