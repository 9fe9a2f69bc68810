"""Demonstrations in HDF5 files of LIBERO and robomimic, and what one says of itself.

::

    data                  attributes: what is the same for all demonstrations
      demo_0, demo_1, ... attributes: what is true of one
        obs/CAMERA        uint8 (N, H, W, 3)
        rewards, dones    (N,)

Who wrote a file decides how its pictures hang, how an episode ended, and what it was for; what it says comes before
what is customary:

* What the attributes of a demonstration say: ``success``, as Isaac Lab writes it, and ``task_description``.
* Orientation. A file may state its convention. LIBERO stores what OpenGL returns, whose first row is the bottom one;
  robomimic stands its pictures upright before it stores them.
* Outcome. LIBERO's script replays a demonstration, stores the picture *after* each action, and writes a reward of 1
  into the last frame. Where robosuite pays for a task that is done and nothing else, the reward of step t judges the
  state after it. Files in which not one demonstration was ever paid, as RoboCasa's, do not say how these ended.
* Instruction. LIBERO notes it for the whole file, or else names the file after it; RoboCasa notes one for each episode.

A file that was relabelled is asked for the rewards that it had before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import EPISODE_DAMAGE, Reading, SourceError, Unreadable
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.documents import brief
from robometer_rl.formats.conventions import Cameras, Shown, attempt_views, cameras_among
from robometer_rl.formats.dataset import RecordedFacts
from robometer_rl.formats.hdf5.files import (
    DAMAGE,
    Places,
    check_claim,
    open_hdf5,
    original_rewards,
    read_values,
    selection,
)
from robometer_rl.formats.trajectories import success_of_frames
from robometer_rl.frames import FrameError, as_frames, rgb_shape
from robometer_rl.video import VideoError
from robometer_rl.video.lazy import LazyFrames, Orientation

if TYPE_CHECKING:
    import h5py

__all__ = [
    "DEMONSTRATIONS",
    "UNKNOWN_OUTCOME",
    "Demonstration",
    "HDF5Frames",
    "Hanging",
    "Images",
    "Instruction",
    "camera_frames",
    "demonstration_in",
    "environment_name",
    "find_files",
    "for_policies",
    "frames_of",
    "hanging_of",
    "instruction_from_name",
    "instruction_of",
    "is_libero",
    "read_demonstrations",
    "stated_instruction",
    "stated_quality",
    "success_in_frames",
    "success_of_steps",
]

DEMONSTRATIONS: Final = Places("/data/", r"demo_\d+", "obs", "actions")
"""Where demonstrations are in a file."""

UNKNOWN_OUTCOME: Final = "it does not say whether it succeeded; say it with the option 'quality'"
"""What is said of an episode whose file may say how it ended, and does not."""

_INSTRUCTIONS: Final = ("task_description", "language_instruction", "instruction")

# Of robosuite, as robomimic's learners read it by default.
_PROPRIOCEPTION: Final = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")

# robosuite and robomimic call agentview_image what LIBERO's script renames to this.
_LIBERO_CAMERAS: Final = ("agentview_rgb", "eye_in_hand_rgb")


@dataclass(frozen=True)
class Images:
    """Consecutive images in a file.

    Attributes:
        dataset: Name of the data set of images (N, H, W, 3).
        start: First image.
        stop: The one behind the last.
    """

    dataset: str
    start: int
    stop: int


class HDF5Frames(LazyFrames):
    """Frames that stay in an HDF5 file until somebody asks for them.

    The file is opened for every request, which takes a millisecond and leaves no handle behind: many objects may be
    alive, and they may travel to worker processes, where an open handle would be of no use.

    Attributes:
        path: The file.
        parts: Where the frames are, in order.
    """

    def __init__(
        self,
        path: Path,
        parts: tuple[Images, ...],
        image_shape: tuple[int, ...],
        orientation: Orientation,
        dtype: np.dtype[Any] | None = None,
        bgr: bool = False,
    ) -> None:
        """Frames of ``image_shape`` (H, W, 3) in ``path``; ``bgr`` exchanges red and blue."""
        super().__init__((sum(part.stop - part.start for part in parts), *image_shape), orientation, dtype)
        self.path = path
        self.parts = parts
        self._bgr = bgr

    def __str__(self) -> str:
        return f"{self.path}, {self.parts[0].dataset}"

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        blocks: list[NDArray[Any]] = []
        first = 0
        try:
            with open_hdf5(self.path) as file:
                for part in self.parts:
                    length = part.stop - part.start
                    wanted = rows[(rows >= first) & (rows < first + length)] - first + part.start
                    if len(wanted):
                        dataset: Any = file[part.dataset]
                        blocks.append(dataset[selection(wanted)])
                    first += length
        except DAMAGE as error:
            raise VideoError(f"{self}: frames cannot be read: {error}") from error
        frames = np.concatenate(blocks)
        return as_frames(frames)[..., ::-1] if self._bgr else frames


def frames_of(path: Path, dataset: h5py.Dataset, orientation: Orientation, bgr: bool = False) -> HDF5Frames:
    """All images (N, H, W, 3) of a data set; see `HDF5Frames`.

    Raises:
        FrameError: It does not hold RGB images.
        ValueError: It claims to hold more than it has bytes for.
    """
    check_claim(dataset)
    length, *image_shape = dataset.shape
    images = (Images(str(dataset.name), 0, length),)
    return HDF5Frames(path, images, tuple(image_shape), orientation, dataset.dtype, bgr)


@dataclass(frozen=True)
class Demonstration:
    """One demonstration of an open file.

    Attributes:
        path: The file.
        file_name: Its path below the data set's, with slashes.
        name: Name of the demonstration, as in ``demo_3``.
        attributes: What the file says of all demonstrations: the attributes of ``data``.
        group: The demonstration; valid while it is being read.
        splits: Names of the file's ``mask`` lists that hold it.
    """

    path: Path
    file_name: str
    name: str
    attributes: Mapping[str, Any]
    group: h5py.Group
    splits: frozenset[str]

    def images(self, dataset: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape, (N, H, W, 3) or (N, 3, H, W), and type of the images in ``dataset``, a path below the demonstration.

        Raises:
            SourceError: There is no such data set.
            FrameError: It does not hold RGB images, or claims to hold more than it has bytes for.
        """
        found = self._dataset(dataset)
        if found is None:
            raise SourceError(f"there are no images {dataset!r}; this demonstration has {list(self._images())}")
        try:
            rgb_shape(found.shape, found.dtype)
            check_claim(found)
        except ValueError as error:
            raise FrameError(f"{dataset!r} has shape {found.shape} and type {found.dtype}: {error}") from error
        return found.shape, found.dtype

    @property
    def cameras(self) -> Cameras:
        """The pictures among the observations, by their names below ``obs``."""
        found = {name: (item.shape, item.dtype) for name, item in self._images().items()}
        return cameras_among({name.removeprefix("obs/"): each for name, each in found.items() if name[:4] == "obs/"})

    def values(self, dataset: str) -> NDArray[Any] | None:
        """All of the data set ``dataset``; None if there is no such thing.

        Raises:
            ValueError: It claims more than it has bytes for, or than there is memory.
        """
        found = self._dataset(dataset)
        return None if found is None else read_values(found)

    def environment(self) -> dict[str, Any]:
        """The environment's name and arguments, as robosuite data sets describe them; empty if they do not.

        Raises:
            SourceError: The description is not JSON.
        """
        return self.json_attribute("env_args")

    def environment_argument(self, name: str) -> Any:
        """What the environment was made with; None if the file does not say."""
        arguments = self.environment().get("env_kwargs")
        return arguments.get(name) if isinstance(arguments, dict) else None

    def json_attribute(self, name: str) -> dict[str, Any]:
        """An attribute that holds a JSON object, of the demonstration or else of the file; empty if it is not there.

        Raises:
            SourceError: It holds something else.
        """
        text = self.group.attrs.get(name, self.attributes.get(name, "{}"))
        try:
            value = json.loads(text)
        except (TypeError, ValueError) as error:
            raise SourceError(f"the attribute {name!r} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise SourceError(f"the attribute {name!r} is {str(text)[:60]!r}; expected a JSON object")
        return value

    def timing(self) -> dict[str, Any]:
        """``frame_interval`` in steps of control, and ``control_hz`` if the file states it."""
        rate = self.environment_argument("control_freq")
        return {"frame_interval": 1} | ({} if rate is None else {"control_hz": rate})

    @property
    def names(self) -> tuple[str, str]:
        """The path of the file without its ending, and the name."""
        return str(PurePosixPath(self.file_name).with_suffix("")), self.name

    def length(self, dataset: str) -> int | None:
        """Of the first axis of the data set ``dataset``; None if there is no such thing."""
        found = self._dataset(dataset)
        return found.shape[0] if found is not None and found.shape else None

    def _dataset(self, name: str) -> h5py.Dataset | None:
        import h5py

        found = self.group.get(name)
        return found if isinstance(found, h5py.Dataset) else None

    def _images(self) -> dict[str, h5py.Dataset]:
        """All data sets that may hold images, by name."""
        datasets = {name: self._dataset(name) for name in _names_below(self.group)}
        return {name: found for name, found in datasets.items() if found is not None and len(found.shape) >= 3}


def _names_below(group: h5py.Group, depth: int = 4) -> list[str]:
    """What is in a group and its groups, links followed; they may lead in a circle, so there is an end to it."""
    import h5py

    names: list[str] = []
    for name in map(str, group):
        names.append(name)
        if depth > 1 and group.get(name, getclass=True) is h5py.Group:
            below: Any = group[name]
            names += [f"{name}/{inner}" for inner in _names_below(below, depth - 1)]
    return names


def read_demonstrations(
    path: Path, views: Sequence[Shown], read: Callable[[Demonstration, Shown], Trajectory]
) -> Reading:
    """Reads every demonstration of a file, or of all files in a folder and its folders.

    Args:
        path: An HDF5 file, or a folder with ``.hdf5`` or ``.h5`` files in it; these are read in alphabetical order,
            and their demonstrations by number.
        views: What the trajectories of each demonstration show.
        read: Makes a trajectory of a demonstration while its file is open.

    Raises:
        SourceError: There is no such file.
    """
    files = find_files(path)
    return chain.from_iterable(_read_file(file, name, views, read) for file, name in files)


def find_files(path: Path) -> list[tuple[Path, str]]:
    """The file at ``path``, or the HDF5 files in the folder and its folders, each with its path below it.

    Raises:
        SourceError: There is no such file.
    """
    if path.is_file():
        return [(path, path.name)]
    names = sorted(file.relative_to(path).as_posix() for ending in ("hdf5", "h5") for file in path.rglob(f"*.{ending}"))
    if not names:
        raise SourceError(f"{path} is no file, and no folder with .hdf5 or .h5 files in it")
    return [(path / name, name) for name in names]


def _read_file(
    path: Path, file_name: str, views: Sequence[Shown], read: Callable[[Demonstration, Shown], Trajectory]
) -> list[Trajectory | Unreadable]:
    """All of a file at once, since it is not to be open while somebody works on an episode."""
    try:
        with open_hdf5(path) as file:
            members = _members(file)

            def read_one(name: str, shown: Shown) -> Trajectory:
                return read(demonstration_in(file, path, file_name, name, members), shown)

            names = DEMONSTRATIONS.names(file)
            return [
                found
                for name in names
                for found in attempt_views(f"{path}#data/{name}", views, partial(read_one, name))
            ]
    except (SourceError, *DAMAGE) as error:
        return [Unreadable(str(path), str(error))]


def _members(file: h5py.File) -> dict[str, set[str]]:
    """Names of the demonstrations in each of the file's ``mask`` lists."""
    masks: Any = file.get("mask", {})
    return {mask: {_text(name) for name in read_values(masks[mask])} for mask in masks}


def demonstration_in(
    file: h5py.File, path: Path, file_name: str, name: str, members: Mapping[str, set[str]] | None = None
) -> Demonstration:
    """A demonstration of an open file.

    Args:
        file: The file.
        path: Where it is.
        file_name: See `Demonstration.file_name`.
        name: Name of the demonstration.
        members: Names of the demonstrations in each of the file's ``mask`` lists, if the splits are asked for.

    Raises:
        SourceError: It is something else than a group of arrays.
    """
    import h5py

    data: Any = file["data"]
    if data.get(name, getclass=True) is not h5py.Group:
        raise SourceError(f"data/{name} is no group of arrays")
    splits = frozenset(mask for mask, listed in (members or {}).items() if name in listed)
    return Demonstration(path, file_name, name, dict(data.attrs), data[name], splits)


def _text(value: bytes | str) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else value


class Hanging(NamedTuple):
    """How pictures hang.

    Attributes:
        upright: What stands them upright.
        why: Where that is known from, or that it is not known.
    """

    upright: Orientation
    why: str


class Instruction(NamedTuple):
    """What the robot was to do.

    Attributes:
        text: The instruction.
        is_name: Whether it was made of the file's name.
    """

    text: str
    is_name: bool


def is_libero(demonstration: Demonstration) -> bool:
    """Whether LIBERO's scripts wrote the file, or somebody who rewrites their files.

    The scripts note the problem that they simulate. What OpenVLA makes of their files, without pauses, has none of
    these attributes any more, but still LIBERO's own names of the cameras.
    """
    if not {"problem_info", "bddl_file_name"}.isdisjoint(demonstration.attributes):
        return True
    return any(f"obs/{name}" in demonstration.group for name in _LIBERO_CAMERAS)


def hanging_of(demonstration: Demonstration) -> Hanging:
    """How the pictures of a demonstration hang."""
    convention = demonstration.attributes.get("macros_image_convention")
    if convention == "opencv":
        return Hanging("as_stored", "upright, says the file: image convention 'opencv'")
    if convention == "opengl":
        return Hanging("flip", "upside down, says the file: image convention 'opengl'")
    if is_libero(demonstration):
        return Hanging("flip", "upside down, as LIBERO stores them")
    if "env_args" in demonstration.attributes:
        return Hanging("as_stored", "upright, as robomimic stores them")
    return Hanging("as_stored", "the file does not say how they hang")


def camera_frames(demonstration: Demonstration, camera: str, orientation: Orientation) -> HDF5Frames:
    """The frames of a camera: T, or T + 1 where ``next_obs`` is stored too.

    Raises:
        SourceError: There is no such camera, or ``next_obs`` does not go with ``obs``.
        FrameError: They are no colour images.
    """
    before, after = f"obs/{camera}", f"next_obs/{camera}"
    (length, *image_shape), dtype = demonstration.images(before)
    parts = [Images(f"data/{demonstration.name}/{before}", 0, length)]
    if after in demonstration.group:
        following, _ = demonstration.images(after)
        if following != (length, *image_shape):
            raise SourceError(f"{before!r} has shape {(length, *image_shape)} and {after!r} {following}")
        parts.append(Images(f"data/{demonstration.name}/{after}", length - 1, length))
    return HDF5Frames(demonstration.path, tuple(parts), tuple(image_shape), orientation, dtype)


def for_policies(demonstration: Demonstration) -> RecordedFacts:
    """Its actions, and what the robot measured of itself, as far as its writer stores that in known places."""
    proprioception = demonstration.values("robot_states")  # of LIBERO
    parts = [demonstration.values(f"obs/{name}") for name in _PROPRIOCEPTION]
    if proprioception is None and all(part is not None and part.ndim == 2 for part in parts):
        proprioception = np.concatenate([part for part in parts if part is not None], axis=1)
        following = [demonstration.values(f"next_obs/{name}") for name in _PROPRIOCEPTION]
        if all(part is not None for part in following):
            last = np.concatenate([part[-1:] for part in following if part is not None], axis=1)
            proprioception = np.concatenate([proprioception, last])
    return RecordedFacts(actions=demonstration.values("actions"), proprioception=proprioception)


def _says_success(demonstration: Demonstration) -> bool:
    """Whether a reward above 0 means that the task is done, and the lack of one that it is not.

    Where robosuite's rewards are sparse, that they are all 0 means something only beside a demonstration that was paid.
    """
    if is_libero(demonstration):
        return True
    if demonstration.environment_argument("reward_shaping") is not False:
        return False
    status = demonstration.path.stat()
    return _has_success(demonstration.path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _has_success(path: Path, modified: int, size: int) -> bool:
    """Whether any demonstration of a file was ever paid; those that cannot be read say nothing."""
    with open_hdf5(path) as file:
        for name in DEMONSTRATIONS.names(file):
            try:
                rewards = original_rewards(demonstration_in(file, path, path.name, name).group)
                if rewards is not None and (rewards > 0).any():
                    return True
            except EPISODE_DAMAGE:
                continue
    return False


def success_of_steps(demonstration: Demonstration, rewards: NDArray[Any] | None) -> NDArray[np.bool_] | None:
    """(T,) whether the task is done after each step, by its `original_rewards`; None if the file does not say."""
    return None if rewards is None or not _says_success(demonstration) else rewards > 0


def success_in_frames(demonstration: Demonstration, done: NDArray[np.bool_], num_frames: int) -> NDArray[np.bool_]:
    """The same, of each of the frames of `camera_frames`."""
    if is_libero(demonstration):
        return done
    # With the state after the last action there is one frame more than rewards.
    return success_of_frames(done) if len(done) == num_frames else np.append(False, done)


def instruction_of(demonstration: Demonstration) -> Instruction:
    """What the file says of a demonstration or of all, or else what the name of a LIBERO file says.

    Raises:
        SourceError: Nothing says it.
    """
    if text := stated_instruction(demonstration.group.attrs) or _libero_instruction(demonstration):
        return Instruction(text, is_name=False)
    found = demonstration.json_attribute("ep_meta").get("lang")
    if isinstance(found, str) and found.strip():
        return Instruction(found, is_name=False)
    if text := stated_instruction(demonstration.attributes):
        return Instruction(text, is_name=False)
    if is_libero(demonstration) and (text := instruction_from_name(environment_name(demonstration))):
        return Instruction(text, is_name=True)
    raise SourceError("the file holds no instruction; say what the robot is to do with the option 'task'")


def stated_instruction(attributes: Mapping[str, Any]) -> str | None:
    """What the attributes of a demonstration or a file say that the robot was to do."""
    found = (attributes[name] for name in _INSTRUCTIONS if name in attributes)
    texts = (_text(text).strip() for text in found if isinstance(text, (str, bytes)))
    return next((text for text in texts if text), None)


def stated_quality(attributes: Mapping[str, Any]) -> QualityLabel | None:
    """What the attribute ``success`` of a demonstration or a file says of its outcome; None if there is none.

    Raises:
        SourceError: It is neither true nor false.
    """
    if "success" not in attributes:
        return None
    said = np.asarray(attributes["success"])
    if said.size != 1 or said.dtype.kind not in "biuf" or said.item() not in (0, 1):
        raise SourceError(f"the attribute 'success' is {brief(attributes['success'])}; expected true or false")
    return "successful" if said.item() else "failure"


def instruction_from_name(task_name: str) -> str:
    """The instruction that LIBERO makes of the name of a task.

    Examples:
        >>> instruction_from_name("KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet")
        'close the top drawer of the cabinet'
    """
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", task_name).replace("_", " ").strip()


def environment_name(demonstration: Demonstration) -> str:
    """The task that LIBERO calls the file after."""
    return PurePosixPath(demonstration.file_name).stem.removesuffix("_demo")


def _libero_instruction(demonstration: Demonstration) -> str:
    """As LIBERO's own reader has it: the file may hold a text, or a list of its pieces, in quotes or not."""
    found = demonstration.json_attribute("problem_info").get("language_instruction", "")
    text = "".join(str(piece) for piece in found) if isinstance(found, list) else str(found)
    return text.strip().strip('"')
