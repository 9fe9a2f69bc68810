"""Replay buffers of Stable-Baselines3, in memory or in a file that ``save_replay_buffer`` wrote.

A buffer is a ring of transitions of several environments. An episode is what lies between two dones of one
environment; where the next transition does not begin with the observation that the last one ended with, an environment
was reset without a done, and the episode counts as truncated. Transition t of an episode holds o_t and o_{t+1}, so
F = T + 1. A buffer that was made with ``optimize_memory_usage=True`` writes the first observation of the next episode
over the last one of an episode: there F = T, and the last step is imputed, except in the newest episode.

Skipped: the oldest episode of each environment once the ring is full, since its beginning was, or may have been,
overwritten, so that its histories cannot be known.

``timeouts`` say which dones are truncations; buffers made with ``handle_timeout_termination=False`` do not know, and
every done counts as a termination.

Cameras are called as the frames of the wrappers: ``obs`` where an observation is an image, ``obs/KEY`` where it is a
dictionary. The task is not stored in a buffer and has to be given.

What is written: ``rewards``, and the attribute ``robometer``, a dictionary of arrays (rows, environments), which is
pickled with the buffer: ``original_rewards``, ``rewards``, ``progress`` and ``success`` of the observation after the
step, ``returns`` and ``advantages`` of the step, ``success_detected``, ``imputed``, ``labelled``; and ``metadata``, see
`robometer_rl.formats.dataset`. Transitions without labels keep their rewards. Once transitions are added, the
dictionary describes the past.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.reading import SourceError, Unreadable
from robometer_rl.extras import require
from robometer_rl.files import check_destination, new_file
from robometer_rl.formats.buffer_files import load_buffer
from robometer_rl.formats.conventions import Assumptions, choose_cameras
from robometer_rl.formats.dataset import (
    DatasetOptions,
    Labels,
    LabelWriter,
    Provenance,
    RecordedEpisode,
    RelabelDataset,
    WriteMode,
    default_output,
    fingerprint,
    metadata,
    stored_provenance,
)
from robometer_rl.video.lazy import LazyFrames, Orientation

__all__ = ["ATTRIBUTE", "BufferDataset", "BufferFrames", "is_format", "open_dataset", "store_labels"]

ATTRIBUTE: Final = "robometer"
"""The attribute of a buffer that holds its labels."""

# Rows that are compared at a time.
_PIECE: Final = 256


def is_format(path: Path) -> bool:
    """Whether ``path`` is a pickle, which is how buffers are saved. Nothing is unpickled."""
    return path.is_file() and path.suffix == ".pkl"


def open_dataset(options: DatasetOptions) -> BufferDataset:
    """Loads a saved buffer; see `robometer_rl.formats.buffer_files` for what a file may contain.

    Raises:
        SourceError: The file holds something else, or a buffer that cannot be labelled.
        ImportError: The extra ``sb3`` is not installed.
    """
    return BufferDataset(load_buffer(options.path, trusted=options.trust_pickle), options)


@dataclass(frozen=True)
class _Span:
    """The transitions of one episode.

    Attributes:
        environment: Column of the buffer.
        rows: Rows of the buffer, in order of time.
        last_row: Row that holds the observation after the last step, among the next observations if there are such;
            None if it was overwritten.
    """

    environment: int
    rows: NDArray[np.int64]
    last_row: int | None


class BufferFrames(LazyFrames):
    """The observations of one episode in a buffer, copied when they are read."""

    def __init__(
        self,
        observations: NDArray[Any],
        environment: int,
        rows: NDArray[np.int64],
        last: NDArray[Any] | None,
        orientation: Orientation = "as_stored",
    ) -> None:
        super().__init__((len(rows) + (last is not None), *observations.shape[2:]), orientation, observations.dtype)
        self._observations = observations
        self._environment = environment
        self._rows = rows
        self._last = last

    def __str__(self) -> str:
        return f"environment {self._environment} of a replay buffer"

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        inside = rows[rows < len(self._rows)]
        frames = self._observations[self._rows[inside], self._environment]
        return frames if len(inside) == len(rows) else np.concatenate([frames, np.asarray(self._last)[None]])


class BufferDataset(RelabelDataset):
    """The episodes of a replay buffer; see the module."""

    format = "sb3"

    def __init__(self, buffer: Any, options: DatasetOptions) -> None:
        """Finds the episodes of a buffer.

        Raises:
            SourceError: Not a replay buffer, one for hindsight experience replay, one without images or tasks, or one
                that was labelled and has grown since.
        """
        _check_kind(buffer, options.path)
        if not options.tasks:
            raise SourceError(f"{options.path}: a replay buffer does not hold the task; give it")
        self.buffer = buffer
        self.options = options
        self._arrays = _image_arrays(buffer)
        self.cameras = choose_cameras(options.path, tuple(self._arrays), options.cameras)
        self.original_rewards = _original_rewards(buffer, options.path)
        self._orientation: Orientation = Assumptions(options.path).orientation(options.orientation)
        spans: dict[str, _Span] = {}
        skipped: list[Unreadable] = []
        for environment in range(buffer.n_envs):
            for number, span in enumerate(self._spans(environment)):
                key = f"environment {environment}, row {int(span.rows[0])}"
                if buffer.full and number == 0:
                    reason = "the beginning of the oldest episode was overwritten, so its histories are not known"
                    skipped.append(Unreadable(key, reason))
                else:
                    spans[key] = span
        self.spans: Mapping[str, _Span] = spans
        self.keys = tuple(spans)
        self.skipped = tuple(skipped)

    def episode(self, key: str) -> RecordedEpisode:
        """See `RelabelDataset.episode`."""
        span = self.spans[key]
        ended = self.buffer.dones[span.rows[-1], span.environment] > 0
        timeout = self.buffer.timeouts[span.rows[-1], span.environment] > 0
        return RecordedEpisode(
            key=key,
            tasks=self.options.tasks,
            cameras={name: self._frames(name, span) for name in self.cameras},
            num_steps=len(span.rows),
            task_rewards=self.original_rewards[span.rows, span.environment].astype(np.float64),
            terminated=bool(ended and not timeout),
            truncated=bool(not ended or timeout),
        )

    def fingerprint(self) -> str:
        """See `RelabelDataset.fingerprint`."""
        files = [self.options.path] if self.options.path.is_file() else []
        return fingerprint(self.keys, files, self.buffer.pos, self.buffer.full)

    def writer(self, mode: WriteMode, output: Path | None = None) -> LabelWriter:
        """See `RelabelDataset.writer`."""
        if mode == "in_place":
            return _BufferWriter(self, self.options.path, replaces=True)
        return _BufferWriter(self, output or default_output(self.options.path), replaces=False)

    def _frames(self, camera: str, span: _Span) -> BufferFrames:
        observations, following = self._arrays[camera]
        source = observations if following is None else following
        last = None if span.last_row is None else source[span.last_row, span.environment]
        return BufferFrames(observations, span.environment, span.rows, last, self._orientation)

    def _spans(self, environment: int) -> Iterator[_Span]:
        """The episodes of one environment in order of time."""
        buffer = self.buffer
        shares = buffer.optimize_memory_usage
        size = buffer.buffer_size
        # The memory-efficient buffer has written the newest observation over that of its oldest transition.
        rows = np.arange(size) if buffer.full else np.arange(buffer.pos)
        rows = (rows + buffer.pos)[int(shares) :] % size if buffer.full else rows
        if not len(rows):
            return
        ends = buffer.dones[rows, environment] > 0
        if not shares:
            ends[:-1] |= self._is_interrupted(rows, environment)
        ends[-1] = True
        start = 0
        for stop in (np.flatnonzero(ends) + 1).tolist():
            last_row = int(rows[stop - 1])
            if shares:
                last_row = (last_row + 1) % size if stop == len(rows) else None
            yield _Span(environment, rows[start:stop], last_row)
            start = stop

    def _is_interrupted(self, rows: NDArray[np.int64], environment: int) -> NDArray[np.bool_]:
        """(len(rows) - 1,) whether a transition ends with another observation than the next one begins with."""
        found = np.zeros(len(rows) - 1, np.bool_)
        for name in self.cameras:
            observations, following = self._arrays[name]
            assert following is not None  # those who share them overwrite what could be compared
            for start in range(0, len(found), _PIECE):
                part = rows[start : min(start + _PIECE, len(found)) + 1]
                differs = following[part[:-1], environment] != observations[part[1:], environment]
                found[start : start + len(differs)] |= differs.reshape(len(differs), -1).any(axis=1)
        return found


def store_labels(dataset: BufferDataset, labels: Labels) -> None:
    """Puts labels into the buffer of a dataset, see the module."""
    buffer = dataset.buffer
    shape = buffer.rewards.shape
    stored: dict[str, Any] = {
        "original_rewards": dataset.original_rewards.copy(),
        "progress": np.full(shape, np.nan, np.float32),
        "success": np.full(shape, np.nan, np.float32),
        "returns": np.full(shape, np.nan),
        "advantages": np.full(shape, np.nan),
        "success_detected": np.zeros(shape, np.bool_),
        "imputed": np.zeros(shape, np.bool_),
        "labelled": np.zeros(shape, np.bool_),
    }
    rewards = dataset.original_rewards.copy()
    for key, episode in labels.episodes.items():
        span = dataset.spans[key]
        place = (span.rows, span.environment)
        after = np.minimum(np.arange(1, episode.num_steps + 1), len(episode.progress) - 1)
        rewards[place] = episode.rewards
        stored["progress"][place] = episode.progress[after]
        stored["success"][place] = episode.success[after]
        stored["returns"][place] = episode.returns
        stored["advantages"][place] = episode.advantages
        stored["success_detected"][place] = episode.success_detected
        stored["imputed"][place] = episode.imputed
        stored["labelled"][place] = True
    # In place: the algorithm, and whatever else refers to the array, sees the new rewards.
    buffer.rewards[:] = rewards
    vars(buffer)[ATTRIBUTE] = stored | {"rewards": rewards, "metadata": metadata(labels)}


class _BufferWriter(LabelWriter):
    """Saves a buffer as Stable-Baselines3 does."""

    def __init__(self, dataset: BufferDataset, destination: Path, replaces: bool) -> None:
        self.destination = destination
        self._dataset = dataset
        self._replaces = replaces

    def check(self) -> None:
        """See `LabelWriter.check`."""
        check_destination(self.destination, replace=self._replaces)

    def written(self) -> Provenance | None:
        """See `LabelWriter.written`; unpickles what is there."""
        if not self.destination.is_file():
            return None
        buffer = self._dataset.buffer if self._replaces else self._stored()
        stored = None if buffer is None else vars(buffer).get(ATTRIBUTE)
        return stored_provenance(stored.get("metadata", {})) if isinstance(stored, dict) else None

    def _stored(self) -> Any:
        """The buffer at the destination; None if it is somebody else's file."""
        try:
            return load_buffer(self.destination, trusted=self._dataset.options.trust_pickle)
        except SourceError:
            return None

    def write(self, labels: Labels) -> None:
        """See `LabelWriter.write`."""
        save_util = require("stable_baselines3.common.save_util", "sb3")
        store_labels(self._dataset, labels)
        with new_file(self.destination) as path, path.open("wb") as file:
            save_util.save_to_pkl(file, self._dataset.buffer)


def _check_kind(buffer: Any, where: Path) -> None:
    buffers = require("stable_baselines3.common.buffers", "sb3")
    hindsight = require("stable_baselines3.her.her_replay_buffer", "sb3")
    if not isinstance(buffer, buffers.ReplayBuffer):
        raise SourceError(f"{where} holds a {type(buffer).__name__}; expected a ReplayBuffer of Stable-Baselines3")
    if isinstance(buffer, hindsight.HerReplayBuffer):
        raise SourceError(
            f"{where} holds a HerReplayBuffer, which computes the rewards of its virtual transitions from goals: "
            "rewards that depend on the history cannot be given to it"
        )
    try:
        sound = _is_sound(buffer)
    except (AttributeError, TypeError):
        sound = False
    if not sound:
        raise SourceError(f"{where} holds a {type(buffer).__name__} that is damaged: its arrays do not fit each other")


def _is_sound(buffer: Any) -> bool:
    """Whether the arrays of a buffer are numbers and fit each other."""
    steps = {name: getattr(buffer, name) for name in ("rewards", "dones", "timeouts")}
    sources = [buffer.observations] if buffer.optimize_memory_usage else [buffer.observations, buffer.next_observations]
    shown = [source if isinstance(source, dict) else {"obs": source} for source in sources]
    shape = (buffer.buffer_size, buffer.n_envs)
    shapes = [{name: array.shape for name, array in source.items()} for source in shown]
    arrays = [array for source in (steps, *shown) for array in source.values()]
    return (
        all(array.shape == shape for array in steps.values())
        and all(array.shape[:2] == shape and array.dtype.kind in "biuf" for array in arrays)
        and all(each == shapes[0] for each in shapes)
        and all(isinstance(flag, bool | np.bool_) for flag in (buffer.full, buffer.optimize_memory_usage))
        and isinstance(buffer.pos, int | np.integer)
        and 0 <= int(buffer.pos) <= buffer.buffer_size
    )


def _image_arrays(buffer: Any) -> dict[str, tuple[NDArray[Any], NDArray[Any] | None]]:
    """Observations and, where the buffer keeps them, next observations of everything that is an image, by camera."""
    following = None if buffer.optimize_memory_usage else buffer.next_observations
    if isinstance(buffer.observations, dict):
        arrays = {
            f"obs/{key}": (array, None if following is None else following[key])
            for key, array in buffer.observations.items()
        }
    else:
        arrays = {"obs": (buffer.observations, following)}
    return {
        name: pair for name, pair in arrays.items() if pair[0].ndim == 5 and 3 in (pair[0].shape[2], pair[0].shape[4])
    }


def _original_rewards(buffer: Any, where: Path) -> NDArray[Any]:
    stored = vars(buffer).get(ATTRIBUTE)
    if stored is None:
        return buffer.rewards.copy()
    arrays: dict[str, Any] = stored if isinstance(stored, dict) else {}
    kept = [np.asarray(arrays.get(name)) for name in ("rewards", "original_rewards")]
    if any(array.shape != buffer.rewards.shape or array.dtype.kind != "f" for array in kept):
        raise SourceError(f"{where} has an attribute {ATTRIBUTE!r} that relabelling did not make; remove it")
    if not np.array_equal(stored["rewards"], buffer.rewards):
        raise SourceError(
            f"{where} was labelled, and transitions were added to it since: which of its rewards are learned cannot be "
            "known any more"
        )
    return stored["original_rewards"]
