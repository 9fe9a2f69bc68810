"""What a training run shows of its episodes while it runs, for the studio's page Live (docs/studio.md)."""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.frames import Frame, as_array
from robometer_rl.live import Begun, Ended, Failure, LiveEpisode, Point, Run, RunFolder, key_of
from robometer_rl.ranges import require_counts
from robometer_rl.wrappers.observation_reader import Moment

__all__ = ["EpisodeRecorder", "Said"]

logger = logging.getLogger(__name__)

_EVERY_S: Final = 1.0  # between two times that something is written
_SHARE: Final = 0.02  # of the time, that writing may take
_MOST_POINTS: Final = 256  # frames of an episode that are kept
_ALL_POINTS: Final = 1 << 13  # of the running episodes together
_FEWEST_POINTS: Final = 32
_SIDE: Final = 320  # pixels of a picture
_QUALITY: Final = 80  # of a JPEG


@dataclass(frozen=True)
class Said:
    """What was said and paid in one moment of n environments, whether their frames were scored in it or not.

    Attributes:
        tasks: (n,) the instructions of each environment, one per stage.
        stage: (n,) which of them applies.
        progress: (n,).
        success: (n,); None of a model that says none.
        uncertainty: (n,) of progress; None of a model that does not say.
        detected: (n,) whether the success rule holds.
        paid: (n,) sum over the episode until now.
        task_returns: (n,) likewise of the environments' own rewards.
        over: (n,) whether the episode has ended.
    """

    tasks: Sequence[tuple[str, ...]]
    stage: NDArray[np.int64]
    progress: NDArray[np.float64]
    success: NDArray[np.float64] | None
    uncertainty: NDArray[np.float64] | None
    detected: NDArray[np.bool_]
    paid: NDArray[np.float64]
    task_returns: NDArray[np.float64]
    over: NDArray[np.bool_]


class EpisodeRecorder:
    """Writes the newest episode of one environment, and the highest-paid failures of all, into a folder.

    What is kept is bounded: at most 256 small pictures of an episode, fewer of each where very many run side by side;
    of a longer one every second scored frame, then every fourth, and so on. It is written at most once a second, and
    less often where writing takes more than a fiftieth of the time. A failure is an episode of which the environment
    has said that the task was not done after any of its steps.

    Where something cannot be written the run goes on, and shows nothing from then on; the log says why.

    Args:
        folder: Where; it is made. A run has one of its own.
        num_envs: Number of environments.
        about: What is the same in all episodes: ``threshold``, ``every``, ``protocol`` and ``model`` of `Begun`.
        environment: Whose running episode is shown.
        failures: How many are kept.
        steps: Steps that the run has made before, where it goes on from a save. Failures in the folder that ended later
            are removed: they are made again.

    Raises:
        ValueError: There is no such environment, or a number that is none.
        OSError: It cannot be written there.
    """

    def __init__(
        self,
        folder: str | Path,
        num_envs: int,
        about: Mapping[str, Any],
        environment: int = 0,
        failures: int = 10,
        steps: int = 0,
    ) -> None:
        self.environment, self.failures, self.steps = environment, failures, steps
        require_counts(self, 0, "environment", "failures", "steps")
        if environment >= num_envs:
            raise ValueError(f"environment={environment}; expected one of the {num_envs}, counted from 0")
        self._folder = RunFolder(Path(folder))
        self._about = dict(about)
        self._most = min(_MOST_POINTS, max(_FEWEST_POINTS, _ALL_POINTS // num_envs))
        self._episodes: list[LiveEpisode | None] = [None] * num_envs
        self._seen = np.zeros(num_envs, np.int64)  # scored frames of each
        self._newest: LiveEpisode | None = None
        self._in_file: tuple[LiveEpisode | None, int, int] = (None, 0, 0)  # with its interval and points
        self._unwritten: dict[str, LiveEpisode] = {}
        self._is_due = monotonic()
        self._failed = False
        self._run = Run(num_envs, environment, failures=self._failures_before())
        self._folder.begin(self._run)

    def note(self, moment: Moment, said: Said, is_step: bool = True) -> None:
        """Takes note of a moment after a step of all environments, or after a reset of some (``is_step`` is False)."""
        if self._failed:
            return
        self.steps += len(self._episodes) * is_step
        for index in moment.begun.tolist():
            self._episodes[index] = None
        for index, frames in moment.frames.items():
            self._add(index, frames, moment, said)
        for index in np.flatnonzero(said.over).tolist():
            self._end(index, moment, said)
        if monotonic() >= self._is_due:
            self._write()

    def close(self) -> None:
        """Writes what is not written yet, and that the run has ended."""
        self._run = replace(self._run, over=True)
        if not self._failed:
            self._write()

    def _failures_before(self) -> list[Failure]:
        """Those that an earlier part of this run has left."""
        if not self.steps or self._folder.written is None:
            return []
        return [failure for failure in self._folder.read().failures if failure.ended.steps <= self.steps]

    def _add(self, index: int, frames: Sequence[Frame], moment: Moment, said: Said) -> None:
        episode = self._episodes[index]
        if episode is None:  # it begins, or began before anybody looked
            key = key_of(self.steps, index)
            begun = Begun(key, index, self.steps, time.time(), said.tasks[index], **self._about)
            episode = self._episodes[index] = LiveEpisode(begun)
            self._seen[index] = 0
            if index == self.environment:
                self._newest = episode
        number = int(self._seen[index])
        self._seen[index] += 1
        if number % episode.interval and not said.over[index]:
            return
        if len(episode.points) >= self._most:
            episode.interval *= 2
            episode.points = episode.points[::2]
            if number % episode.interval and not said.over[index]:
                return
        episode.points.append(self._point(index, frames, moment, said))

    def _point(self, index: int, frames: Sequence[Frame], moment: Moment, said: Said) -> Point:
        return Point(
            step=int(moment.steps[index]),
            steps=self.steps,
            progress=round(float(said.progress[index]), 6),
            success=None if said.success is None else round(float(said.success[index]), 6),
            uncertainty=None if said.uncertainty is None else round(float(said.uncertainty[index]), 6),
            detected=bool(said.detected[index]),
            paid=round(float(said.paid[index]), 6),
            achieved=moment.achieved[index],
            stage=int(said.stage[index]),
            picture=_jpeg(frames),
        )

    def _end(self, index: int, moment: Moment, said: Said) -> None:
        episode, self._episodes[index] = self._episodes[index], None
        if episode is None:  # it was over before, and nobody has reset it
            return
        own, achieved = float(said.task_returns[index]), moment.achieved[index]
        paid, length = float(said.paid[index]), int(moment.steps[index])
        episode.ended = Ended(self.steps, length, paid, own if math.isfinite(own) else None, achieved)
        run = self._run
        self._run = replace(run, episodes=run.episodes + 1, unknown=run.unknown + (achieved is None))
        if achieved is False:
            self._rank(episode)

    def _rank(self, episode: LiveEpisode) -> None:
        """Keeps a failure if it is among those that were paid most."""
        ranked = sorted([*self._run.failures, Failure.of(episode)], key=lambda each: -each.ended.paid)[: self.failures]
        self._run = replace(self._run, failures=ranked)
        self._unwritten[episode.begun.key] = episode
        kept = {failure.key for failure in ranked}
        self._unwritten = {key: each for key, each in self._unwritten.items() if key in kept}

    def _write(self) -> None:
        began = monotonic()
        try:
            self._write_newest()
            for episode in self._unwritten.values():
                self._folder.write_failure(episode)
            self._folder.write(self._run)
        except OSError:
            self._failed = True
            logger.exception("the run cannot be shown from here on, and goes on without: see docs/studio.md")
        self._unwritten = {}
        now = monotonic()
        self._is_due = now + max(_EVERY_S, (now - began) / _SHARE)

    def _write_newest(self) -> None:
        newest = self._newest
        if newest is None:
            return
        episode, interval, count = self._in_file
        is_same = episode is newest and interval == newest.interval
        if is_same and count == len(newest.points):
            return
        self._folder.write_running(newest, after=count if is_same else 0)
        self._in_file = (newest, newest.interval, len(newest.points))


def _jpeg(frames: Sequence[Frame]) -> bytes:
    """A small picture of what the cameras (H, W, 3) show, side by side."""
    images = [Image.fromarray(as_array(frame)) for frame in frames]
    images = [image.reduce(math.ceil(max(image.size) / _SIDE)) for image in images]
    joined = images[0]
    if len(images) > 1:
        joined = Image.new("RGB", (sum(image.width for image in images), max(image.height for image in images)))
        left = 0
        for image in images:
            joined.paste(image, (left, 0))
            left += image.width
    content = io.BytesIO()
    joined.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()
