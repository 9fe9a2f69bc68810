"""A recorded run in any format, and what relabelling asks of a format: episodes in a fixed order, a writer for labels.

A format is one module or folder beside this one. It makes a `RecordedEpisode` of each run that it holds, which
`robometer_rl.formats.trajectories` turns into a `Trajectory` when it is imported, and which is labelled through a
`RelabelDataset` with its `LabelWriter`; `robometer_rl.formats.table` has an entry for it. It knows where things are in
its files and nothing about models; the engine knows models and nothing about files.

Time. An episode has T steps and F observations. ``F = T + 1``: every step has an observation before and one after it.
``F = T``: the recording stops before the observation that the last action led to, so what the last step paid cannot be
seen; its label is *imputed*, see `robometer_rl.relabeling.labels`.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import Unreadable
from robometer_rl.data.trajectory import QualityLabel
from robometer_rl.documents import parse_json, read_text
from robometer_rl.files import check_destination
from robometer_rl.frames import Clip, FrameSequence, TaskError, check_task
from robometer_rl.ranges import require_numbers
from robometer_rl.rewards import RewardSpec
from robometer_rl.video.lazy import Orientation

__all__ = [
    "LABEL_ARRAYS",
    "METADATA_FILE",
    "DatasetOptions",
    "DirectoryWriter",
    "EpisodeError",
    "EpisodeLabels",
    "LabelWriter",
    "Labels",
    "Provenance",
    "RecordedEpisode",
    "RecordedFacts",
    "RelabelDataset",
    "StoredLabels",
    "WriteMode",
    "default_output",
    "fingerprint",
    "metadata",
    "read_metadata",
    "stored_provenance",
    "write_metadata",
]

WriteMode = Literal["copy", "sidecar", "in_place", "jsonl"]
"""A new dataset beside the old one; labels beside it as its format has them; the dataset itself, replaced atomically;
or a file of JSON lines, see `robometer_rl.formats.label_lines`."""

METADATA_FILE: Final = "robometer.json"
"""The file of directories that were labelled."""


class EpisodeError(ValueError):
    """An episode that cannot be labelled; the message says what is wrong with it. It is skipped and listed."""


@dataclass(frozen=True)
class DatasetOptions:
    """Which dataset, and what in it is shown to the model.

    Attributes:
        path: File or directory of the dataset.
        cameras: Names of the cameras, in the words of the format. Predictions of several are averaged. Left out, the
            only one that there is; if there are several, somebody has to choose.
        tasks: Instructions of every episode, in place of those that the dataset holds.
        orientation: What is done to pictures before they are shown; None for what is customary in the format.
        trust_pickle: Whether a pickle may run whatever code it names. Without it only what a replay buffer of
            Stable-Baselines3 consists of is opened.
        tile: Whether cameras are shown together in one tiled picture, the first on top, see `robometer_rl.tiles`.
        tolerance_s: Of LeRobot datasets: how far, in seconds, a frame may be from its time; None for what is customary.
    """

    path: Path
    cameras: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    orientation: Orientation | None = None
    trust_pickle: bool = False
    tile: bool = False
    tolerance_s: float | None = None

    def __post_init__(self) -> None:
        if self.tolerance_s is not None:
            require_numbers(self, "(0, inf)", "tolerance_s")


class RecordedFacts(TypedDict, total=False):
    """What a dataset says of an episode and no label needs, see `robometer_rl.data.trajectory.Trajectory`.

    Actions and proprioception are as the data set has them, whatever they are; what cannot be stored is left out.
    """

    quality_label: QualityLabel
    is_robot: bool
    partial_success: float | None
    steps: NDArray[np.int64]
    proprioception: NDArray[Any] | None
    actions: NDArray[Any] | None
    skill: str | None
    seed: int | None
    split: str
    source: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class RecordedEpisode:
    """One recorded run as its data set has it: what is imported, and what is labelled. Nothing is decoded to make it.

    Attributes:
        key: Its name in the dataset: unique, and the same whenever the dataset is opened.
        tasks: The instruction, or several ways to say it. Predictions under each of them are averaged.
        cameras: The F observations of each camera by its name, each (F, H, W, 3), upright, lazy where the format allows
            it. They are read from front to back by slices, ``frames[a:b]`` and ``frames[a:b:every]``.
        num_steps: T, with F = T + 1 or F = T.
        task_rewards: (T,) the *original* rewards, also of a dataset that was relabelled before; None if it has none.
        terminated: Whether the last step terminated the episode.
        truncated: Whether it was cut off there, by a time limit or by the end of the recording.
        success: Whether the dataset says that the episode succeeded; None if it does not say.
        success_of_frames: (F,) whether the task is done in each observation; None if the dataset does not say.
        names: What the dataset calls the episode and what is shown of it, of which an id is made: never a machine's
            own path.
        facts: What else the dataset says of it.

    Raises:
        EpisodeError: No instruction or an empty one, no camera, or cameras of different lengths.
        FrameError: A camera whose frames are not RGB images.
    """

    key: str
    tasks: tuple[str, ...]
    cameras: Mapping[str, FrameSequence]
    num_steps: int
    task_rewards: NDArray[np.float64] | None = None
    terminated: bool = False
    truncated: bool = False
    success: bool | None = None
    success_of_frames: NDArray[np.bool_] | None = None
    names: tuple[str, ...] = ()
    facts: RecordedFacts = field(default_factory=RecordedFacts)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise EpisodeError("it has no instruction; expected at least one")
        try:
            for task in self.tasks:
                check_task(task)
        except TaskError as error:
            raise EpisodeError(f"its instructions cannot be used: {error}") from error
        if not self.cameras:
            raise EpisodeError("it has no pictures; expected those of at least one camera")
        for frames in self.cameras.values():
            Clip(frames, self.tasks[0])
        lengths = {name: len(frames) for name, frames in self.cameras.items()}
        if len(set(lengths.values())) > 1:
            raise EpisodeError(f"its cameras have different numbers of pictures: {lengths}")
        if self.task_rewards is not None:
            object.__setattr__(self, "task_rewards", np.asarray(self.task_rewards, np.float64))

    def check_steps(self) -> None:
        """Makes sure that there is something between two observations to be paid for.

        Raises:
            EpisodeError: Fewer than 2 observations, an F that does not go with T, or rewards that are not T numbers.
        """
        if self.num_frames < 2:
            raise EpisodeError("it has a single picture; progress between two is what a step is paid for")
        if self.num_frames not in (self.num_steps, self.num_steps + 1):
            raise EpisodeError(
                f"it has {self.num_frames} pictures and {self.num_steps} steps; expected one for each, or one more"
            )
        if self.task_rewards is not None and self.task_rewards.shape != (self.num_steps,):
            raise EpisodeError(
                f"its rewards have the shape {self.task_rewards.shape}; expected ({self.num_steps},), one per step"
            )

    @property
    def num_frames(self) -> int:
        """F, its number of observations."""
        return len(next(iter(self.cameras.values())))


LABEL_ARRAYS: Final[Mapping[str, type[np.generic]]] = {
    **dict.fromkeys(("progress", "success"), np.float32),
    **dict.fromkeys(("rewards", "returns", "advantages"), np.float64),
    **dict.fromkeys(("success_detected", "imputed"), np.bool_),
}
"""Names and types of the arrays of `EpisodeLabels`; those in float32 are (F,), the others (T,)."""


@dataclass(frozen=True, eq=False)
class EpisodeLabels:
    """What an episode of T steps and F observations was labelled with; `robometer_rl.relabeling.labels` makes it.

    Attributes:
        key: `RecordedEpisode.key`.
        progress: (F,) float32 in [0, 1] of each observation; the last value is held between scored ones.
        success: (F,) float32 success probability, likewise; NaN of a model that says none.
        rewards: (T,) float64 of each step.
        returns: (T,) float64, the discounted sum of rewards from each step on, see `robometer_rl.relabeling.returns`.
        advantages: (T,) float64 of each step over the value of the observation before it, see there.
        success_detected: (T,) bool, whether the success rule of the `RewardSpec` holds after the step.
        imputed: (T,) bool, True for a last step whose outcome was not recorded (F = T).
    """

    key: str
    progress: NDArray[np.float32]
    success: NDArray[np.float32]
    rewards: NDArray[np.float64]
    returns: NDArray[np.float64]
    advantages: NDArray[np.float64]
    success_detected: NDArray[np.bool_]
    imputed: NDArray[np.bool_]

    @classmethod
    def read(cls, key: str, arrays: Mapping[str, NDArray[Any]]) -> EpisodeLabels | None:
        """Labels as a format has stored them.

        Args:
            key: Of the episode.
            arrays: By the names above; those that are missing are NaN or False.

        Returns:
            The labels; None if there are none of this episode: no progress, or nothing but NaN.

        Raises:
            EpisodeError: They do not belong together.
        """
        if "progress" not in arrays or "rewards" not in arrays or np.isnan(arrays["progress"]).all():
            return None
        frames, steps = len(arrays["progress"]), len(arrays["rewards"])
        lengths = {name: (frames if kind is np.float32 else steps) for name, kind in LABEL_ARRAYS.items()}
        found = {
            name: np.asarray(arrays.get(name, np.zeros(length) if kind is np.bool_ else np.full(length, np.nan)), kind)
            for (name, kind), length in zip(LABEL_ARRAYS.items(), lengths.values(), strict=True)
        }
        shapes = {name: array.shape for name, array in found.items()}
        if shapes != {name: (length,) for name, length in lengths.items()} or frames not in (steps, steps + 1):
            raise EpisodeError(f"its labels have the shapes {shapes}; expected one value per step, and F = T or T + 1")
        values: dict[str, Any] = found
        return cls(key, **values)

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.rewards)

    @property
    def has_success(self) -> bool:
        """Whether the model said success probabilities."""
        return not bool(np.isnan(self.success).any())

    @property
    def succeeds(self) -> bool:
        """Whether the success rule holds when the episode ends."""
        return bool(self.success_detected[-1])


@dataclass(frozen=True)
class Provenance:
    """How the labels of a dataset were made. Equal provenance and equal data give equal labels.

    No date, host or path of the dataset: writing the same labels twice gives the same bytes.

    Attributes:
        model: `robometer_rl.RewardModel.source`, as `robometer_rl.load_reward_model` takes it.
        model_id: Name of the model.
        revision: Commit of its checkpoint, if known.
        dtype: Precision that it ran in.
        protocol: Which frames of its history each step was scored with, as in ``nested(8)``.
        reward: The `RewardSpec` as a dictionary.
        success_threshold: The threshold in force, see `RewardSpec.threshold`.
        discount: Of returns and advantages.
        n_step: Steps that these sum up; None for all that are left.
        cameras: The cameras whose predictions were averaged, one name per camera.
        tasks: The instructions given in place of the dataset's own; empty if those were used.
        orientation: What was done to pictures before they were shown; None for what is customary in the format.
        pack_tokens: What went through the model together, which decides the last bits of the numbers.
        version: Version of robometer-rl.
        record: `robometer_rl.RewardModel.record`.
    """

    model: str
    model_id: str
    revision: str | None
    dtype: str
    protocol: str
    reward: Mapping[str, Any]
    success_threshold: float
    discount: float
    n_step: int | None
    cameras: tuple[str, ...]
    tasks: tuple[str, ...]
    orientation: str | None
    pack_tokens: int
    version: str
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> RewardSpec:
        """The reward."""
        return RewardSpec.from_dict(self.reward)

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, as JSON has them; formats store this, as JSON text where they have text only.

        What is empty of most models, the record, is left out then.
        """
        values = asdict(self)
        if not self.record:
            del values["record"]
        return values | {"cameras": list(self.cameras), "tasks": list(self.tasks), "reward": dict(self.reward)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Provenance:
        """The inverse of `to_dict`.

        Raises:
            ValueError: Not the fields of this release.
        """
        known = {field.name for field in fields(cls)}
        if not known - {"record"} <= set(values) <= known:
            raise ValueError(f"provenance with the fields {sorted(values)}; this release reads {sorted(known)}")
        lists = {name: tuple(values[name]) for name in ("cameras", "tasks")}
        return cls(**{**values, **lists})


class StoredLabels(NamedTuple):
    """Labels that relabelling has written into a dataset, or beside it.

    Attributes:
        labels: Of an episode.
        provenance: How they were made; None if that is noted in a way that this release does not read.
    """

    labels: EpisodeLabels
    provenance: Provenance | None


@dataclass(frozen=True)
class Labels:
    """The labels of a whole dataset, as a writer gets them.

    Attributes:
        episodes: By `RecordedEpisode.key`, in the order of the dataset.
        skipped: Episodes without labels, by key, with what is wrong with each.
        provenance: How the labels were made.
    """

    episodes: Mapping[str, EpisodeLabels]
    skipped: tuple[Unreadable, ...]
    provenance: Provenance


class LabelWriter(ABC):
    """Puts labels where a dataset, or whoever trains on it, finds them.

    Original rewards are kept next to the new ones. Episodes without labels keep their original rewards, or have NaN
    where there were none, have NaN as progress and success, and are listed in the metadata next to the provenance.
    Pictures are never encoded again.

    Attributes:
        destination: The file or directory that `write` makes; in place, the dataset itself.
    """

    destination: Path

    @abstractmethod
    def check(self) -> None:
        """Finds out, before hours of scoring, whether `write` could put something at `destination`.

        Raises:
            FileExistsError: Something else is there.
            OSError: It cannot be written there.
        """

    @abstractmethod
    def written(self) -> Provenance | None:
        """How the labels were made that are at `destination` already; None if there are none.

        A run that was killed after its last act finds here that it had finished.
        """

    @abstractmethod
    def write(self, labels: Labels) -> None:
        """Writes everything, atomically: until it is complete, `destination` is as it was.

        The same labels give the same bytes. See `robometer_rl.files` for how to be atomic.

        Raises:
            OSError: No space, no permission; the original is untouched and nothing half-written is visible.
        """


class DirectoryWriter(LabelWriter):
    """Makes a new directory with a file of metadata in it, see `write_metadata`."""

    def check(self) -> None:
        """See `LabelWriter.check`."""
        check_destination(self.destination)

    def written(self) -> Provenance | None:
        """See `LabelWriter.written`."""
        return read_metadata(self.destination)


class RelabelDataset(ABC):
    """A dataset whose episodes can be labelled. Opening it is cheap; no file stays open between calls.

    One thread at a time uses it, though not always the same one.

    Attributes:
        format: Name of the format.
        options: What was asked for.
        cameras: Names of the cameras that episodes have.
        keys: Keys of the episodes that can be asked for, in an order that never changes.
        skipped: What is known at opening not to be labelled, with reasons: not among ``keys``.
    """

    format: str
    options: DatasetOptions
    cameras: tuple[str, ...]
    keys: Sequence[str]
    skipped: tuple[Unreadable, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    @abstractmethod
    def episode(self, key: str) -> RecordedEpisode:
        """The episode called ``key``; its frames are decoded when they are read.

        Raises:
            ValueError: Something is wrong with this episode (`EpisodeError`, `robometer_rl.frames.FrameError`,
                `robometer_rl.video.VideoError`), as also when its frames are read: it is skipped and listed.
            OSError: Its files cannot be read: likewise.
        """

    def stored_labels(self, key: str) -> StoredLabels | None:
        """What the episode called ``key`` was labelled with before; None if it was not, or if the format keeps none.

        Raises:
            ValueError: What is there are no labels.
            OSError: Its files cannot be read.
        """
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash over what tells this dataset from another, and from itself after a change, at little cost.

        Keys, and name, size and modification time of files; see the function `fingerprint`.
        """

    @abstractmethod
    def writer(self, mode: WriteMode, output: Path | None = None) -> LabelWriter:
        """What writes labels of this dataset.

        Args:
            mode: One of those that `robometer_rl.formats.table` states for this format.
            output: Where to; None for a name derived from that of the dataset. Not given with ``in_place``.
        """


def fingerprint(keys: Iterable[str], files: Iterable[Path], *facts: object) -> str:
    """A hash over keys of episodes, other facts, and the name, size and modification time of files."""
    digest = hashlib.sha256()
    for entry in (*keys, *map(repr, facts)):
        digest.update(f"{entry}\0".encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def default_output(path: Path) -> Path:
    """Where labels of the dataset at ``path`` go if nobody says: beside it, as ``NAME-robometer``."""
    absolute = path.absolute()
    return absolute.with_name(
        f"{absolute.name}-robometer" if path.is_dir() else f"{absolute.stem}-robometer{absolute.suffix}"
    )


def metadata(labels: Labels) -> dict[str, Any]:
    """JSON values: ``provenance`` (`Provenance.to_dict`), ``labelled`` (a count), ``skipped`` (names and reasons)."""
    return {
        "provenance": labels.provenance.to_dict(),
        "labelled": len(labels.episodes),
        "skipped": [entry.as_dict() for entry in labels.skipped],
    }


def stored_provenance(values: Mapping[str, Any]) -> Provenance | None:
    """The provenance in what `metadata` made; None if it is that of another release."""
    try:
        return Provenance.from_dict(values["provenance"])
    except (KeyError, TypeError, ValueError):
        return None


def write_metadata(directory: Path, labels: Labels) -> None:
    """Writes `metadata` into a directory."""
    (directory / METADATA_FILE).write_text(json.dumps(metadata(labels), indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_metadata(directory: Path) -> Provenance | None:
    """How the labels in a directory were made; None if there are none, or if this release did not make them."""
    try:
        return stored_provenance(parse_json(read_text(directory / METADATA_FILE)))
    except (OSError, ValueError):
        return None


def __getattr__(name: str) -> Any:
    if name != "Episode":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"{__name__}.Episode is now RecordedEpisode; the old name goes with version 0.3", DeprecationWarning, 2
    )
    return RecordedEpisode
