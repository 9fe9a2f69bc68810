"""From a recorded episode to a trajectory: its id, and the outcome, of which the user has the last word."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import SourceError, UnknownOutcomeError
from robometer_rl.data.trajectory import TILED, QualityLabel, Trajectory
from robometer_rl.formats.dataset import RecordedEpisode, RecordedFacts
from robometer_rl.tiles import tile_views

__all__ = [
    "Outcome",
    "Stated",
    "episode_id",
    "fingerprint",
    "outcome_of",
    "quality_of",
    "success_of_frames",
    "tiled",
    "tiled_name",
    "trajectory_of",
]

_MAX_LENGTH: Final = 200
_ESCAPED: Final = re.compile(r"[^A-Za-z0-9._-]")


class Stated(NamedTuple):
    """What a user says of all episodes of an import.

    Attributes:
        data_source: `Trajectory.data_source`, with which ids begin.
        quality: How they ended, whatever the data set says; None for what it says.
        skill: Who acted; None for what the data set says.
    """

    data_source: str
    quality: QualityLabel | None = None
    skill: str | None = None


def trajectory_of(episode: RecordedEpisode, stated: Stated, unknown: str = "") -> Trajectory:
    """What is imported of a recorded episode.

    Args:
        episode: The episode, with one camera, or with several that are shown in one picture.
        stated: What the user says.
        unknown: What the error message says if neither the user nor the data set knows how it ended.

    Raises:
        UnknownOutcomeError: Neither knows.
        ValueError: It makes no trajectory, see `Trajectory`.
    """
    if len(episode.cameras) > 1:
        episode = tiled(episode)
    (frames,) = episode.cameras.values()
    facts: dict[str, Any] = {**episode.facts, **_for_policies(episode)}
    graded = facts.pop("quality_label", None)
    try:
        outcome = outcome_of(episode.success_of_frames, stated.quality or graded, unknown)
    except SourceError as error:
        raise UnknownOutcomeError(
            str(error), lambda quality: trajectory_of(episode, stated._replace(quality=quality))
        ) from None
    if stated.skill is not None:
        facts["skill"] = stated.skill
    return Trajectory(
        id=episode_id(stated.data_source, *episode.names),
        task=episode.tasks[0],
        frames=frames,
        quality_label=outcome.quality,
        data_source=stated.data_source,
        success=outcome.success,
        instructions=episode.tasks[1:],
        **facts,
    )


def _for_policies(episode: RecordedEpisode) -> dict[str, Any]:
    """Actions and proprioception as a trajectory has them.

    Frames can be judged without them: what cannot be stored is left out, and the metadata say why.
    """
    count, found, left_out = episode.num_frames, dict[str, Any](), dict[str, str]()
    for name, lengths in (("actions", (count, count - 1)), ("proprioception", (count,))):
        values = episode.facts.get(name)
        if values is None:
            found[name] = None
            continue
        rows = np.asarray(values)
        is_numeric = rows.dtype.kind in "biuf" and rows.ndim > 0 and rows.size > 0
        if not is_numeric or len(rows) not in lengths:
            left_out[name] = f"{rows.dtype} of shape {rows.shape} for {count} frames"
        elif not np.isfinite(rows).all():
            left_out[name] = "NaN or infinite values"
        found[name] = None if name in left_out else rows.reshape(len(rows), -1)
    metadata = {**episode.facts.get("metadata", {}), "left_out": left_out}
    return found | {"metadata": metadata} if left_out else found


def tiled(episode: RecordedEpisode) -> RecordedEpisode:
    """The episode with its cameras in one picture, the first on top.

    Raises:
        FrameError: It has one camera only, or pictures too small to be tiled.
    """
    first = next(iter(episode.cameras))
    metadata = {**episode.facts.get("metadata", {}), TILED: True}
    return replace(
        episode,
        cameras={tiled_name(tuple(episode.cameras)): tile_views(episode.cameras, first)},
        facts=episode.facts | RecordedFacts(metadata=metadata),
    )


def tiled_name(cameras: Sequence[str]) -> str:
    """What the tiled picture of some cameras is called.

    Examples:
        >>> tiled_name(("top", "wrist"))
        'tiles(top, wrist)'
    """
    return f"tiles({', '.join(cameras)})"


def episode_id(data_source: str, *names: str) -> str:
    """An id that is the same at every reading, differs between episodes, and can name a file of a store.

    Args:
        data_source: Tag of the data set, with which the id begins.
        names: What the source calls the episode, from the file to the episode in it; never a machine's own path.

    Returns:
        The names joined by ``-``. A slash becomes ``+``, any other character that a file name may not have its hex
        code after ``=``; what is longer than 200 characters is cut and closed with a fingerprint of the whole.

    Examples:
        >>> episode_id("videos", "kitchen/open drawer.mp4")
        'videos-kitchen+open=20drawer.mp4'
    """
    joined = "-".join(_ESCAPED.sub(_escape, name) for name in (data_source, *names))
    # A tag in another script would start with an escape, and a file name should start with a letter.
    joined = joined if joined[:1].isalnum() else f"x{joined}"
    return joined if len(joined) <= _MAX_LENGTH else f"{joined[: _MAX_LENGTH - 9]}-{fingerprint(joined)}"


def fingerprint(text: str) -> str:
    """Eight hex digits that tell texts apart."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _escape(match: re.Match[str]) -> str:
    if match[0] == "/":
        return "+"
    return "".join(f"={byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))


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

    Examples:
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

    Examples:
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
