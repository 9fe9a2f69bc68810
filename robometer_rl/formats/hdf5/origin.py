"""What a demonstration in HDF5 says of itself: who wrote it, how its pictures hang, how it ended, and what it was for.

Import and relabelling ask here, so that they show the same pictures and agree on the outcome, whichever format somebody
names. What a file says comes before what is customary:

* Orientation. A file may state its convention. LIBERO stores what OpenGL returns, whose first row is the bottom one;
  robomimic stands its pictures upright before it stores them.
* Outcome. LIBERO's script replays a demonstration, stores the picture *after* each action, and writes a reward of 1
  into the last frame. Where robosuite pays for a task that is done and nothing else, the reward of step t judges the
  state after it. Files in which not one demonstration was ever paid, as RoboCasa's, do not say how these ended.
* Instruction. LIBERO notes it for the whole file, or else names the file after it; RoboCasa notes one for each episode.

A file that was relabelled is asked for the rewards that it had before.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import EPISODE_DAMAGE, SourceError
from robometer_rl.formats.hdf5.reader import (
    Demonstration,
    HDF5Frames,
    Images,
    demonstration_in,
    demonstration_names,
    open_hdf5,
)
from robometer_rl.formats.trajectories import success_of_frames
from robometer_rl.video.lazy import Orientation

__all__ = [
    "LABELS_GROUP",
    "ORIGINAL_REWARDS",
    "Hanging",
    "Instruction",
    "camera_frames",
    "environment_name",
    "episode_success",
    "hanging_of",
    "instruction_from_name",
    "instruction_of",
    "is_libero",
    "original_rewards",
    "says_success",
]

LABELS_GROUP: Final = "robometer"
"""The group of a demonstration in which labels are."""

ORIGINAL_REWARDS: Final = f"{LABELS_GROUP}/original_rewards"
"""Where relabelling keeps the rewards that it replaced, below a demonstration."""

# robosuite and robomimic call agentview_image what LIBERO's script renames to this.
_LIBERO_CAMERAS: Final = ("agentview_rgb", "eye_in_hand_rgb")


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


def original_rewards(demonstration: Demonstration) -> NDArray[Any] | None:
    """(T,) as they were before any relabelling; None if there are none."""
    if f"{LABELS_GROUP}/progress" in demonstration.group:
        return demonstration.values(ORIGINAL_REWARDS)
    return demonstration.values("rewards")


def says_success(demonstration: Demonstration) -> bool:
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
        for name in demonstration_names(file, path):
            try:
                rewards = original_rewards(demonstration_in(file, path, path.name, name, {}))
                if rewards is not None and (rewards > 0).any():
                    return True
            except EPISODE_DAMAGE:
                continue
    return False


def episode_success(demonstration: Demonstration, num_frames: int) -> NDArray[np.bool_] | None:
    """(T,) whether the task is done in each of the frames of `camera_frames`; None if the file does not say."""
    rewards = original_rewards(demonstration)
    if rewards is None or not says_success(demonstration):
        return None
    done = rewards > 0
    if is_libero(demonstration):
        return done
    # With the state after the last action there is one frame more than rewards.
    return success_of_frames(done) if len(done) == num_frames else np.append(False, done)


def instruction_of(demonstration: Demonstration) -> Instruction:
    """What the file says of a demonstration or of all, or else what the name of a LIBERO file says.

    Raises:
        SourceError: Nothing says it.
    """
    if text := _libero_instruction(demonstration):
        return Instruction(text, is_name=False)
    found = demonstration.json_attribute("ep_meta").get("lang")
    if isinstance(found, str) and found.strip():
        return Instruction(found, is_name=False)
    if is_libero(demonstration) and (text := instruction_from_name(environment_name(demonstration))):
        return Instruction(text, is_name=True)
    raise SourceError("the file holds no instruction; say what the robot is to do with the option 'task'")


def instruction_from_name(task_name: str) -> str:
    """The instruction that LIBERO makes of the name of a task.

    Example:
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
