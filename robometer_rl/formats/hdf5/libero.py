"""LIBERO's demonstrations: one HDF5 file per task, fifty teleoperated episodes each.

Camera. LIBERO stores what OpenGL returns, whose first row is the bottom one, so its pictures are upside down and
``orientation="flip"`` makes them upright, as the camera sees the scene and as this package's LIBERO environments draw
it. ``"rotate"`` turns them by 180 degrees, as policies of OpenVLA and openpi see them: upright too, but with left and
right exchanged. Files that were made with robosuite's ``IMAGE_CONVENTION = "opencv"`` are upright as stored; they say
so themselves, and are refused unless ``orientation="as_stored"`` is asked for.

Time. LIBERO's script replays a demonstration and stores the picture *after* each action, without the first five, so
``rewards[t]`` belongs to frame t. It writes a reward of 1 into the last frame of every demonstration. Files of the same
structure whose rewards are all 0 are read as failures.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import Reading, SourceError
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.formats.hdf5.reader import Demonstration, HDF5Frames, Images, read_demonstrations
from robometer_rl.video.lazy import Orientation

__all__ = [
    "LiberoHDF5Config",
    "instruction_from_name",
    "is_libero",
    "libero_frames",
    "libero_instruction",
    "read_libero_hdf5",
    "upright_orientation",
]

# Demonstrations head for the goal, which is what this skill says of an episode.
_DEMONSTRATOR: Final = "expert"


@dataclass(frozen=True)
class LiberoHDF5Config:
    """LIBERO's demonstrations, as its authors publish them and its scripts write them.

    Attributes:
        path: One HDF5 file, or a folder of them, as in datasets/libero_90.
        camera: Which pictures; eye_in_hand_rgb are those of the wrist.
        orientation: flip stands LIBERO's pictures upright; rotate turns them by 180 degrees, as some policies
            see them; as_stored leaves them.
        data_source: Tag of the data set.
    """

    path: Path
    camera: str = "agentview_rgb"
    orientation: Orientation = "flip"
    data_source: str = "libero"


def read_libero_hdf5(config: LiberoHDF5Config) -> Reading:
    """Reads demonstrations, files in alphabetical order; frames stay in the files.

    Raises:
        SourceError: There is no such file.
    """
    return read_demonstrations(config.path, lambda demonstration: _read(demonstration, config))


def instruction_from_name(task_name: str) -> str:
    """The instruction that LIBERO makes of the name of a task.

    Example:
        >>> instruction_from_name("KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet")
        'close the top drawer of the cabinet'
    """
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", task_name).replace("_", " ").strip()


def is_libero(demonstration: Demonstration) -> bool:
    """Whether the file was written by LIBERO's scripts, which note the problem that they simulate."""
    return not {"problem_info", "bddl_file_name"}.isdisjoint(demonstration.attributes)


def upright_orientation(demonstration: Demonstration) -> Orientation:
    """What stands the pictures of a LIBERO file upright."""
    return "as_stored" if demonstration.attributes.get("macros_image_convention") == "opencv" else "flip"


def libero_frames(demonstration: Demonstration, camera: str, orientation: Orientation) -> HDF5Frames:
    """The T frames of a camera.

    Raises:
        SourceError: There is no such camera, or the orientation would turn upright pictures over.
        FrameError: They are no colour images.
    """
    dataset = f"obs/{camera}"
    length, *image_shape = demonstration.images(dataset)
    _check_convention(demonstration, orientation)
    part = Images(f"data/{demonstration.name}/{dataset}", 0, length)
    return HDF5Frames(demonstration.path, (part,), tuple(image_shape), orientation)


def libero_instruction(demonstration: Demonstration) -> str:
    """What the file says, or else what its name says."""
    return _instruction(demonstration) or instruction_from_name(_task_name(demonstration))


def _task_name(demonstration: Demonstration) -> str:
    return PurePosixPath(demonstration.file_name).stem.removesuffix("_demo")


def _read(demonstration: Demonstration, config: LiberoHDF5Config) -> Trajectory:
    frames = libero_frames(demonstration, config.camera, config.orientation)
    success = _success(demonstration)
    achieved = success is None or bool(success.any())
    return Trajectory(
        id=demonstration.episode_id(config.data_source, config.camera),
        task=libero_instruction(demonstration),
        frames=frames,
        quality_label="successful" if achieved else "failure",
        data_source=config.data_source,
        success=success,
        skill=_DEMONSTRATOR if achieved else None,
        source=demonstration.source,
        metadata={"environment": _task_name(demonstration), "camera": config.camera} | demonstration.timing(),
    )


def _instruction(demonstration: Demonstration) -> str:
    """As LIBERO's own reader has it: the file may hold a text, or a list of its pieces, in quotes or not."""
    found = demonstration.json_attribute("problem_info").get("language_instruction", "")
    text = "".join(str(piece) for piece in found) if isinstance(found, list) else str(found)
    return text.strip().strip('"')


def _success(demonstration: Demonstration) -> NDArray[np.bool_] | None:
    rewards = demonstration.values("rewards")
    return None if rewards is None else rewards > 0


def _check_convention(demonstration: Demonstration, orientation: Orientation) -> None:
    convention = demonstration.attributes.get("macros_image_convention")
    if convention == "opencv" and orientation != "as_stored":
        raise SourceError(
            f"the file says that its pictures are upright (image convention 'opencv'); orientation {orientation!r} "
            "would turn them over: choose 'as_stored'"
        )
