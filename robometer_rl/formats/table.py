"""The recorded formats, by name: what reads one and what writes labels into it, imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Final

from robometer_rl.data.reading import Reading, SourceError

if TYPE_CHECKING:
    from robometer_rl.formats.dataset import DatasetOptions, LabelWriter, RelabelDataset, WriteMode

__all__ = [
    "EXPORTED",
    "FORMATS",
    "IMPORTED",
    "RELABELLED",
    "Exporter",
    "Format",
    "Labelling",
    "Reader",
    "detect_format",
    "open_dataset",
]


@dataclass(frozen=True)
class Reader:
    """What turns a data set into trajectories, for ``robometer-rl data import``.

    Attributes:
        options: The dataclass of its options, the path among them, as in ``npz:NpzConfig`` below this package.
        function: The function that is called with them and yields what it reads.
        in_place: Whether an import leaves its frames in their files if nobody says otherwise.
    """

    options: str
    function: str
    in_place: bool = False

    @property
    def config(self) -> type[Any]:
        """The dataclass of the options."""
        return _named(self.options)

    def read(self, config: Any) -> Reading:
        """The episodes of the data set that ``config``, an instance of `config`, describes."""
        return _named(self.function)(config)


@dataclass(frozen=True)
class Exporter:
    """What writes a store, for ``robometer-rl data export``.

    Attributes:
        description: What is written.
        options: The dataclass of its options, see `Reader.options`.
        function: The function that is called with them.
    """

    description: str
    options: str
    function: str

    @property
    def config(self) -> type[Any]:
        """The dataclass of the options."""
        return _named(self.options)

    def write(self, config: Any) -> None:
        """Exports what ``config``, an instance of `config`, describes."""
        _named(self.function)(config)


@dataclass(frozen=True)
class Labelling:
    """What opens a dataset for ``robometer-rl relabel``.

    Attributes:
        module: Of this package, with two functions: ``is_format(path) -> bool``, which looks at names and headers only
            and needs no extra, and ``open_dataset(options) -> RelabelDataset``, which raises `SourceError` for what it
            cannot read.
        own_modes: How the format itself can hold labels, the usual way first.
    """

    module: str
    own_modes: tuple[WriteMode, ...]

    @property
    def modes(self) -> tuple[WriteMode, ...]:
        """How labels can be written, the usual way first."""
        return (*self.own_modes, "jsonl")

    def matches(self, path: Path) -> bool:
        """Whether what is at ``path`` looks like this format."""
        return _named(f"{self.module}:is_format")(path)

    def open(self, options: DatasetOptions) -> RelabelDataset:
        """Opens a dataset of this format."""
        return _named(f"{self.module}:open_dataset")(options)

    def writer(self, dataset: RelabelDataset, mode: WriteMode | None = None, output: Path | None = None) -> LabelWriter:
        """What writes labels of a dataset of this format.

        Args:
            dataset: The dataset.
            mode: One of `modes`; the first if None.
            output: Where to; None for a name derived from that of the dataset.

        Raises:
            ValueError: Labels cannot be written so, or an output is named for those that go to the dataset itself.
        """
        mode = mode or self.modes[0]
        if mode not in self.modes:
            raise ValueError(f"labels of this format can be written as {' or '.join(self.modes)}, not as {mode}")
        if mode == "in_place" and output is not None:
            raise ValueError("in_place writes to the dataset itself: do not give an output")
        if mode != "jsonl":
            return dataset.writer(mode, output)
        lines = resolve_name(f"{__package__}.label_lines")
        return lines.LabelLinesWriter(dataset, output or lines.default_lines(dataset.options.path))


@dataclass(frozen=True)
class Format:
    """A way in which runs of robots are recorded.

    Attributes:
        description: What kind of data set it is.
        reader: What reads it; None if it cannot be imported.
        labelling: What labels it; None if it cannot be relabelled.
        exporter: What writes it; None if stores are not exported to it.
    """

    description: str
    reader: Reader | None = None
    labelling: Labelling | None = None
    exporter: Exporter | None = None


FORMATS: Final[Mapping[str, Format]] = {
    "lerobot": Format(
        "A LeRobot data set, v3.0 or v2.x; labels of v2.x go to a sidecar.",
        Reader("lerobot.reader:LeRobotConfig", "lerobot.reader:read_lerobot"),
        Labelling("lerobot.reader", ("copy", "sidecar")),
        Exporter(
            "A LeRobot dataset v3.0 with one camera.",
            "lerobot.export:LeRobotExportConfig",
            "lerobot.export:export_lerobot",
        ),
    ),
    "minari": Format(
        "A local Minari data set with pictures.",
        Reader("minari.reader:MinariConfig", "minari.reader:read_minari"),
        Labelling("minari.reader", ("copy",)),
        Exporter(
            "A Minari data set.",
            "minari.export:MinariExportConfig",
            "minari.export:export_minari",
        ),
    ),
    "npz": Format("A folder of .npz episodes.", labelling=Labelling("npz", ("copy",))),
    "sb3": Format("A replay buffer that Stable-Baselines3 saved.", labelling=Labelling("sb3", ("copy", "in_place"))),
    "hdf5": Format(
        "HDF5 files of LIBERO, robomimic, Isaac Lab, ManiSkill or ALOHA, found out by what they hold.",
        Reader("hdf5.detection:HDF5Config", "hdf5.detection:read_hdf5"),
        Labelling("hdf5.detection", ("copy", "in_place")),
    ),
    "libero_hdf5": Format(
        "LIBERO's demonstrations in HDF5.", Reader("hdf5.reader:LiberoHDF5Config", "hdf5.reader:read_libero_hdf5")
    ),
    "robomimic_hdf5": Format(
        "robomimic's and Isaac Lab's image data sets in HDF5.",
        Reader("hdf5.reader:RobomimicHDF5Config", "hdf5.reader:read_robomimic_hdf5"),
    ),
    "maniskill": Format(
        "ManiSkill's trajectories in HDF5, with pictures.",
        Reader("hdf5.maniskill:ManiSkillConfig", "hdf5.maniskill:read_maniskill"),
    ),
    "aloha": Format("Episodes of ALOHA and ACT in HDF5.", Reader("hdf5.aloha:AlohaConfig", "hdf5.aloha:read_aloha")),
    "videos": Format(
        "Your own videos, with a JSONL file of task and quality.",
        Reader("videos:VideosConfig", "videos:read_videos"),
        Labelling("videos", ("sidecar",)),
    ),
    "roboreward": Format(
        "RoboReward: graded videos and metadata.jsonl.",
        Reader("roboreward:RoboRewardConfig", "roboreward:read_roboreward"),
    ),
    "roboarena": Format(
        "RoboArena: graded evaluations of policies, in videos.",
        Reader("roboarena:RoboArenaConfig", "roboarena:read_roboarena"),
    ),
    "robofac": Format(
        "RoboFAC: videos of failures and successes, with questions and answers.",
        Reader("robofac:RoboFACConfig", "robofac:read_robofac"),
    ),
    "rbm": Format(
        "Published Robometer data: caches, archives of them, repositories.",
        Reader("rbm.reader:RbmConfig", "rbm.reader:read_rbm", in_place=True),
        exporter=Exporter(
            "A repository of videos, which the reference's own code reads.",
            "rbm.export:RbmExportConfig",
            "rbm.export:export_rbm",
        ),
    ),
    "rlds": Format("RLDS, as Open X-Embodiment is published.", Reader("rlds:RldsConfig", "rlds:read_rlds")),
    "agibot": Format("AgiBot World in tar shards.", Reader("agibot:AgiBotConfig", "agibot:read_agibot")),
    "store": Format("Another store, as collect and import make it.", Reader("store:StoredConfig", "store:read_stored")),
}
"""By the name that the commands take, in the order in which `detect_format` tries those that can be relabelled."""

IMPORTED: Final[Mapping[str, Reader]] = {name: kind.reader for name, kind in FORMATS.items() if kind.reader}
"""What ``robometer-rl data import`` reads."""

RELABELLED: Final[Mapping[str, Labelling]] = {name: kind.labelling for name, kind in FORMATS.items() if kind.labelling}
"""What ``robometer-rl relabel`` labels."""


EXPORTED: Final[Mapping[str, Exporter]] = {name: kind.exporter for name, kind in FORMATS.items() if kind.exporter}
"""What ``robometer-rl data export`` writes."""


def detect_format(path: Path) -> str:
    """The name of the format of what is at ``path``, of those that can be relabelled.

    Raises:
        FileNotFoundError: Nothing is.
        SourceError: No format looks like it.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no dataset at {path}")
    found = next((name for name, kind in RELABELLED.items() if kind.matches(path)), None)
    if found is None:
        names = ", ".join(RELABELLED)
        raise SourceError(f"{path} looks like none of the formats {names}; name one if it is one of them")
    return found


def open_dataset(options: DatasetOptions, name: str | None = None) -> tuple[Labelling, RelabelDataset]:
    """Opens a dataset of the format called ``name``, or of the one that it looks like, for its labels.

    Raises:
        FileNotFoundError: There is nothing at ``options.path``.
        SourceError: No such dataset, or no such format.
    """
    if name is not None and name not in RELABELLED:
        raise SourceError(f"there is no format {name!r}; expected one of {', '.join(RELABELLED)}")
    if not options.path.exists():
        raise FileNotFoundError(f"there is no dataset at {options.path}")
    kind = RELABELLED[name or detect_format(options.path)]
    return kind, kind.open(options)


def _named(name: str) -> Any:
    return resolve_name(f"{__package__}.{name}")
