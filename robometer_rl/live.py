"""What a training run shows of itself while it runs: a small folder that the run writes and the studio reads.

``live.json`` says how the run goes and names its highest-paid failures (`Run`). ``running.jsonl`` is the newest episode
of the environment that is watched, and ``failures/KEY.jsonl`` are those failures. An episode is a file of JSON lines:
first what it is (`Begun`), then what was seen of it, frame by frame (`Point`), and at last how it ended (`Ended`);
that is missing while it runs. Whole files take the place of others in one go, and lines are added whole, so that a run
may be killed, and read, at any time.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

from robometer_rl.documents import DocumentError, options_of, parse_object, read_text
from robometer_rl.files import append_line, inside, write_text
from robometer_rl.ranges import require_counts, require_numbers, require_texts

__all__ = ["LIVE", "Begun", "Ended", "Failure", "LiveEpisode", "Point", "Run", "RunFolder", "key_of"]

LIVE: Final = "live.json"
"""By which the folder of a run is known."""

_RUNNING: Final = "running.jsonl"
_FAILURES: Final = "failures"
_VERSION: Final = 1
_KEY: Final = re.compile(r"[0-9]{9,}-[0-9]+")

T = TypeVar("T")


def _require(options: object, kind: type | tuple[type, ...], *names: str) -> None:
    """Refuses values of other types, which a file may hold and a run does not write."""
    for name in names:
        if not isinstance(value := getattr(options, name), kind):
            raise TypeError(f"{name} of {type(options).__name__} is {value!r:.80}")


@dataclass(frozen=True)
class Begun:
    """What an episode is.

    Attributes:
        key: Its name among the episodes of the run, see `key_of`.
        environment: In which environment of a vector it runs.
        steps: Steps that the run had made when it began, over all environments.
        time: When that was, in seconds since 1970; with the key it tells episodes of all runs apart.
        tasks: The instruction of each stage.
        threshold: Of the success rule; None of a model that says no success.
        every: Scoring interval.
        protocol: Which frames of its history each frame is scored with.
        model: Who scores.
    """

    key: str
    environment: int
    steps: int
    time: float
    tasks: Sequence[str]
    threshold: float | None
    every: int
    protocol: str
    model: str

    def __post_init__(self) -> None:
        require_texts(self, "key", "protocol", "model")
        _require(self, (list, tuple), "tasks")
        if not self.tasks or not all(isinstance(task, str) for task in self.tasks):
            raise TypeError(f"tasks of Begun is {self.tasks!r:.80}")
        require_counts(self, 0, "environment", "steps")
        require_counts(self, 1, "every")
        require_numbers(self, "[0, inf)", "time")
        if self.threshold is not None:
            require_numbers(self, "[0, 1]", "threshold")


@dataclass(frozen=True)
class Point:
    """What was seen and said of one scored frame.

    Attributes:
        step: Steps since the reset.
        steps: Steps that the run has made, over all environments.
        progress: In [0, 1].
        success: Probability; None of a model that says none.
        uncertainty: Of progress, see `robometer_rl.prediction.progress_uncertainty`; None of a model that does not say.
        detected: Whether the success rule holds.
        paid: Sum of what the episode was paid until now.
        achieved: Whether the task was done after any step until now; None as long as the environment has not said.
        stage: Which instruction applies, from 0.
        picture: The frame as a small JPEG, cameras side by side.
    """

    step: int
    steps: int
    progress: float
    success: float | None
    uncertainty: float | None
    detected: bool
    paid: float
    achieved: bool | None
    stage: int
    picture: bytes

    def __post_init__(self) -> None:
        require_counts(self, 0, "step", "steps", "stage")
        require_numbers(self, "(-inf, inf)", "progress", "paid")
        for name in ("success", "uncertainty"):
            if getattr(self, name) is not None:
                require_numbers(self, "(-inf, inf)", name)
        _require(self, bool, "detected")
        _require(self, (bool, type(None)), "achieved")


@dataclass(frozen=True)
class Ended:
    """How an episode ended.

    Attributes:
        steps: Steps that the run had made by then, over all environments.
        length: Steps of the episode.
        paid: What it was paid.
        task_return: Sum of the environment's own rewards; None if it is no finite number.
        achieved: True success; None if the environment does not say.
    """

    steps: int
    length: int
    paid: float
    task_return: float | None
    achieved: bool | None

    def __post_init__(self) -> None:
        require_counts(self, 0, "steps", "length")
        require_numbers(self, "(-inf, inf)", "paid")
        if self.task_return is not None:
            require_numbers(self, "(-inf, inf)", "task_return")
        _require(self, (bool, type(None)), "achieved")


@dataclass
class LiveEpisode:
    """An episode of a run, running or ended.

    Attributes:
        begun: What it is.
        points: Scored frames that were kept, evenly spaced, oldest first.
        interval: Of so many scored frames one was kept.
        ended: How it ended; None while it runs.
    """

    begun: Begun
    points: list[Point] = field(default_factory=list)
    interval: int = 1
    ended: Ended | None = None

    def lines(self) -> str:
        """All of it, as it stands in its file."""
        parts = [json.dumps({**asdict(self.begun), "interval": self.interval}), *map(_line, self.points)]
        return "".join(f"{part}\n" for part in (*parts, *([_line(self.ended)] if self.ended else ())))

    @classmethod
    def parse(cls, text: str) -> LiveEpisode:
        """The inverse of `lines`; what a killed run has left of a last line is passed over.

        Raises:
            ValueError: Something else.
        """
        first, *others = (parse_object(line) for line in text.split("\n")[:-1] or [""])
        interval = first.pop("interval", None)
        if not isinstance(interval, int) or interval < 1:
            raise DocumentError("its first line is none of an episode")
        episode = cls(options_of(Begun, first), interval=interval)
        for values in others:
            if "picture" in values:
                episode.points.append(options_of(Point, {**values, "picture": _bytes(values["picture"])}))
            else:
                episode.ended = options_of(Ended, values)
        return episode


@dataclass(frozen=True)
class Failure:
    """An episode that did not succeed, and is among those that were paid most.

    Attributes:
        key: Its name among the episodes of the run.
        task: The instruction, of the first stage.
        environment: In which environment of a vector it ran.
        detected: Whether the success rule held after any of its scored frames.
        ended: How it ended.
    """

    key: str
    task: str
    environment: int
    detected: bool
    ended: Ended

    def __post_init__(self) -> None:
        require_texts(self, "key", "task")
        _require(self, bool, "detected")
        require_counts(self, 0, "environment")
        if isinstance(self.ended, dict):
            object.__setattr__(self, "ended", options_of(Ended, self.ended))

    @classmethod
    def of(cls, episode: LiveEpisode) -> Failure:
        """What there is to say of an episode that has ended."""
        assert episode.ended is not None, "it has ended"
        begun, detected = episode.begun, any(point.detected for point in episode.points)
        return cls(begun.key, begun.tasks[0], begun.environment, detected, episode.ended)


@dataclass(frozen=True)
class Run:
    """How a run goes.

    Attributes:
        environments: How many it has.
        watched: Which of them.
        episodes: How many episodes have ended in all of them since it was started or went on.
        unknown: Of how many of these the environment does not say how they ended.
        failures: Those that were paid most although they failed, the highest-paid first.
        over: Whether it has ended by itself.
    """

    environments: int
    watched: int
    episodes: int = 0
    unknown: int = 0
    failures: Sequence[Failure] = ()
    over: bool = False

    def __post_init__(self) -> None:
        require_counts(self, 1, "environments")
        require_counts(self, 0, "watched", "episodes", "unknown")
        _require(self, bool, "over")
        _require(self, (list, tuple), "failures")
        read = [options_of(Failure, each) if isinstance(each, dict) else each for each in self.failures]
        object.__setattr__(self, "failures", tuple(read))
        for each in self.failures:
            if not isinstance(each, Failure):
                raise TypeError(f"failures of Run has {each!r:.80}")


class RunFolder:
    """The folder of a run.

    Args:
        path: Where it is, or will be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def written(self) -> float | None:
        """When something was last written, in seconds since 1970; None if there is nothing."""
        times: list[float] = []
        for name in (LIVE, _RUNNING):
            with suppress(FileNotFoundError, NotADirectoryError):
                times.append((self.path / name).stat().st_mtime)
        return max(times, default=None)

    def read(self) -> Run:
        """How the run goes.

        Raises:
            FileNotFoundError: No run has written here.
            ValueError: It is something else, or of another version.
        """
        path = self.path / LIVE
        try:
            values = parse_object(read_text(path))
            if (version := values.pop("version", None)) != _VERSION:
                raise DocumentError(f"it has the version {version!r:.20}; this release reads {_VERSION}")
            return options_of(Run, values)
        except ValueError as error:
            raise ValueError(f"{path.parent.name}/{LIVE} is none of a run: {error}") from error

    def begin(self, run: Run) -> None:
        """Makes the folder that of a run, and removes what another one has left of its episodes."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / _RUNNING).unlink(missing_ok=True)
        self.write(run)

    def write(self, run: Run) -> None:
        """Says how the run goes, and removes failures that it no longer names."""
        write_text(self.path / LIVE, json.dumps({"version": _VERSION, **asdict(run)}), lasting=False)
        named = {failure.key for failure in run.failures}
        for path in (self.path / _FAILURES).glob("*.jsonl"):
            if _KEY.fullmatch(path.stem) and path.stem not in named:
                path.unlink(missing_ok=True)

    def running(self) -> LiveEpisode | None:
        """The newest episode of the environment that is watched; None before the first.

        Raises:
            ValueError: The file holds something else.
        """
        try:
            return _read(self.path / _RUNNING)
        except FileNotFoundError:
            return None

    def write_running(self, episode: LiveEpisode, after: int = 0) -> None:
        """Writes the newest episode; those of its points ``after`` so many, and its end, where the others are there."""
        if not after:
            write_text(self.path / _RUNNING, episode.lines(), lasting=False)
            return
        for line in (*episode.points[after:], *([episode.ended] if episode.ended else ())):
            append_line(self.path / _RUNNING, _line(line))

    def failure(self, key: str) -> LiveEpisode:
        """A failure by its name.

        Raises:
            OutsideError: The name leads elsewhere.
            FileNotFoundError: There is none, or it is no longer among them.
            ValueError: The file holds something else.
        """
        return _read(inside(self.path / _FAILURES, f"{key}.jsonl"))

    def write_failure(self, episode: LiveEpisode) -> None:
        """Keeps a failure."""
        (self.path / _FAILURES).mkdir(exist_ok=True)
        write_text(self.path / _FAILURES / f"{episode.begun.key}.jsonl", episode.lines(), lasting=False)


def key_of(steps: int, environment: int) -> str:
    """The name of the episode that began in an environment when the run had made so many steps."""
    return f"{steps:09d}-{environment}"


def _line(part: Point | Ended) -> str:
    values = asdict(part)
    if isinstance(part, Point):
        values["picture"] = base64.b64encode(part.picture).decode("ascii")
    return json.dumps(values)


def _bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        raise DocumentError(f"got {value!r:.60}; expected a picture")
    return base64.b64decode(value, validate=True)


def _read(path: Path) -> LiveEpisode:
    """An episode, remembered while its file is as it was: a page asks for picture after picture."""
    status = os.stat(path)
    return _read_version(path, status.st_ino, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _read_version(path: Path, *_: int) -> LiveEpisode:
    try:
        return LiveEpisode.parse(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path.name} holds no episode of a run: {error}") from error
