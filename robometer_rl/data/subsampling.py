"""Recordings with fewer frames: every so many of them, or a number of them at most, and always the last.

The last frame decides whether the task was done, so a rule that drops it turns successes into unfinished attempts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.rows import PER_FRAME
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.frames import Clip, FrameSequence, UniformFrames, as_frames, scored_steps

__all__ = ["ChosenFrames", "kept_frames", "thin"]

_WINDOW: Final = 64  # frames that are read at once


def kept_frames(num_frames: int, every: int = 1, max_frames: int | None = None) -> NDArray[np.int64]:
    """Which frames of a recording are kept; the first and the last always are.

    Args:
        num_frames: T, frames of the recording.
        every: Keep every so many frames, and the last.
        max_frames: If that leaves more than this, spread as many evenly over them, both ends included; at least 2.

    Returns:
        Ascending indices below ``num_frames``.

    Raises:
        ValueError: ``every`` below 1, or ``max_frames`` below 2.

    Examples:
        >>> kept_frames(12, every=5).tolist(), kept_frames(100, max_frames=4).tolist()
        ([0, 5, 10, 11], [0, 33, 66, 99])
    """
    kept = scored_steps(num_frames, every)
    if max_frames is None:
        return kept
    if max_frames < 2:
        raise ValueError(f"a trajectory has at least 2 frames, so max_frames must be at least 2, got {max_frames}")
    return kept if len(kept) <= max_frames else kept[UniformFrames(max_frames).slots(len(kept) - 1)]


def thin(trajectory: Trajectory, every: int = 1, max_frames: int | None = None) -> Trajectory:
    """The trajectory with fewer frames, see `kept_frames`; its frames stay where they are until they are read.

    Arrays per frame are thinned with the frames, so that ``steps`` still says when each was recorded. Actions are left
    out: one of them no longer leads from a frame to the next.
    """
    kept = kept_frames(len(trajectory), every, max_frames)
    if len(kept) == len(trajectory):
        return trajectory
    arrays = {name: getattr(trajectory, name) for name in PER_FRAME if name != "actions"}
    thinned = {name: None if array is None else array[kept] for name, array in arrays.items()}
    return replace(trajectory, frames=ChosenFrames(trajectory.frames, kept), actions=None, **thinned)


class ChosenFrames:
    """Some of the frames of a recording, decoded when they are asked for.

    Attributes:
        frames: The recording.
        kept: (T,) which of its frames these are.
        shape: Of these frames, ``(T, H, W, 3)``.
    """

    def __init__(self, frames: FrameSequence, kept: NDArray[np.int64]) -> None:
        """The frames at ``kept`` of ``frames``."""
        self.frames = frames
        self.kept = kept
        # The task is not looked at: a clip knows the size of frames in every layout.
        self.shape: tuple[int, ...] = (len(kept), *Clip(frames, "any").size, 3)

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int | slice | NDArray[np.integer] | list[int]) -> NDArray[np.uint8]:
        """The chosen frames as uint8; an integer gives one image (H, W, 3), anything else a stack of them."""
        chosen = self.kept[index]
        wanted, places = np.unique(np.atleast_1d(chosen), return_inverse=True)
        images = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        # Recordings promise slices and no more, and a video has to be decoded in order anyway.
        for window in np.unique(wanted // _WINDOW):
            inside = wanted // _WINDOW == window
            first, last = wanted[inside][[0, -1]]
            images[inside] = as_frames(self.frames[int(first) : int(last) + 1])[wanted[inside] - first]
        return images[places[0]] if np.ndim(chosen) == 0 else images[places]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)
