"""The data formats that can be imported, by name. What reads a format is imported when that format is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Final

from robometer_rl.data.reading import Reading

__all__ = ["FORMATS", "Format"]

_SOURCES: Final = "robometer_rl.formats"


@dataclass(frozen=True)
class Format:
    """Where a reader lives.

    Attributes:
        module: Module of this package.
        options: Name of the dataclass of its options, the path among them.
        function: Name of the function that is called with them.
        description: What kind of data set it reads.
    """

    module: str
    options: str
    function: str
    description: str

    @property
    def config(self) -> type[Any]:
        """The dataclass of the options."""
        return resolve_name(f"{_SOURCES}.{self.module}:{self.options}")

    def read(self, config: Any) -> Reading:
        """The episodes of the data set that ``config``, an instance of `config`, describes."""
        return resolve_name(f"{_SOURCES}.{self.module}:{self.function}")(config)


FORMATS: Final[Mapping[str, Format]] = {
    "videos": Format(
        "videos.reader", "VideosConfig", "read_videos", "Your own videos, with a JSONL file of task and quality."
    ),
    "roboreward": Format(
        "roboreward", "RoboRewardConfig", "read_roboreward", "RoboReward: graded videos and metadata.jsonl."
    ),
    "libero_hdf5": Format("hdf5.libero", "LiberoHDF5Config", "read_libero_hdf5", "LIBERO's demonstrations in HDF5."),
    "robomimic_hdf5": Format(
        "hdf5.robomimic", "RobomimicHDF5Config", "read_robomimic_hdf5", "robomimic's image data sets in HDF5."
    ),
    "minari": Format("minari.reader", "MinariConfig", "read_minari", "A local Minari data set with pictures."),
    "lerobot": Format("lerobot.reader", "LeRobotConfig", "read_lerobot", "A LeRobot data set, v3.0 or v2.x."),
    "rlds": Format("rlds", "RldsConfig", "read_rlds", "RLDS, as Open X-Embodiment is published."),
    "store": Format("store", "StoredConfig", "read_stored", "Another store, as collect and import make it."),
    "agibot": Format("agibot", "AgiBotConfig", "read_agibot", "AgiBot World in tar shards."),
}
"""By the name that `robometer-rl data import` takes."""
