"""From what a data set notes about its transitions to what a trajectory says about its frames."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import SourceError
from robometer_rl.data.trajectory import QualityLabel

__all__ = ["Outcome", "outcome_of", "quality_of", "success_of_frames"]


class Outcome(NamedTuple):
    """How an episode ended.

    Attributes:
        quality: `Trajectory.quality_label`.
        success: (T,) `Trajectory.success`; None if nobody knows of single frames.
    """

    quality: QualityLabel
    success: NDArray[np.bool_] | None


def outcome_of(success: NDArray[np.bool_] | None, stated: QualityLabel | None, unknown: str) -> Outcome:
    """The outcome of an episode, of which the user has the last word.

    Args:
        success: (T,) whether the task is done in each frame, as the data set notes it; None if it says nothing.
        stated: What the user says. Notes of single frames that contradict it are left out.
        unknown: What the error message says if neither knows.

    Raises:
        SourceError: Neither knows.

    Example:
        >>> outcome_of(np.zeros(3, bool), "successful", "")
        Outcome(quality='successful', success=None)
    """
    if stated is None:
        if success is None:
            raise SourceError(unknown)
        return Outcome(quality_of(success), success)
    contradicts = success is not None and stated != "suboptimal" and quality_of(success) != stated
    return Outcome(stated, None if contradicts else success)


def success_of_frames(next_success: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Per frame, of what was noted per transition.

    Data sets of T frames note with frame t what the action taken in it led to, so the note of transition t is about
    frame t + 1. The last note is about a frame that was not recorded; it counts for the last one that was, which
    otherwise would look undone in every episode that ends with its success. The first frame is nobody's result and
    counts as undone.

    Args:
        next_success: (T,) whether the action of each frame led to success.

    Returns:
        (T,) whether the task is done in each frame.

    Example:
        >>> success_of_frames(np.array([False, False, True])).tolist()
        [False, False, True]
        >>> success_of_frames(np.array([False, True, False])).tolist()
        [False, False, True]
    """
    success = np.zeros(len(next_success), bool)
    success[1:] = next_success[:-1]
    success[-1:] |= next_success[-1:]
    return success


def quality_of(success: NDArray[np.bool_]) -> QualityLabel:
    """``successful`` if the task is done in any frame, else ``failure``."""
    return "successful" if success.any() else "failure"
