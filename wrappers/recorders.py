"""Recorders of true returns inside the reward wrappers, and how they learn of an episode that predicted success ends.

Stable-Baselines3's `Monitor` and `VecMonitor` and Gymnasium's `RecordEpisodeStatistics` add up what they see, and put
it into the info when the environment says that an episode is over. Inside a reward wrapper they are not told of an
episode that the wrapper ends. Each class below tells one kind of them: it makes the entry from the recorder's own
sums, in whatever unit these are, and leaves the recorder as if the environment had ended the episode.

Recorders in worker processes are reached by the names of their attributes. What cannot be reached there is the file of
a `Monitor`, which leaves such episodes out.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers import RecordEpisodeStatistics
from gymnasium.wrappers.vector import RecordEpisodeStatistics as VectorRecordEpisodeStatistics
from numpy.typing import NDArray

__all__ = [
    "Attributes",
    "Entry",
    "LocalAttributes",
    "MonitorRecorder",
    "Recorder",
    "StatisticsRecorder",
    "VectorRecorders",
    "add_batched",
    "scalar_recorders",
    "vector_layers",
]

Entry = dict[str, Any]
"""What a recorder says of an episode: return ``r``, length ``l`` and time ``t``, and what else it was asked for."""

Indices = NDArray[np.int64]


class Attributes(ABC):
    """The attributes of one recorder, wherever it lives."""

    @abstractmethod
    def get(self, name: str) -> Any:
        """The value of an attribute; a copy if the recorder lives in another process."""

    @abstractmethod
    def set(self, name: str, value: Any) -> None:
        """Gives an attribute another value."""


@dataclass(frozen=True)
class LocalAttributes(Attributes):
    """Of an object in this process."""

    owner: Any

    def get(self, name: str) -> Any:
        """See `Attributes.get`."""
        return getattr(self.owner, name)

    def set(self, name: str, value: Any) -> None:
        """See `Attributes.set`."""
        setattr(self.owner, name, value)


@dataclass(frozen=True)
class _AsyncVectorAttributes(Attributes):
    """Of what is inside one sub-environment of an `AsyncVectorEnv`, which reads and writes those of all at once."""

    env: AsyncVectorEnv
    index: int

    def get(self, name: str) -> Any:
        return self.env.get_attr(name)[self.index]

    def set(self, name: str, value: Any) -> None:
        values = list(self.env.get_attr(name))
        values[self.index] = value
        self.env.set_attr(name, values)


class Recorder(ABC):
    """One recorder of one environment's episodes."""

    @property
    @abstractmethod
    def key(self) -> str:
        """The info key of its entries."""

    @abstractmethod
    def end(self, info: Mapping[str, Any]) -> Entry:
        """Ends the running episode as if its environment had.

        Args:
            info: Of the last step.

        Returns:
            What the recorder would have put into it under its key.
        """

    @contextmanager
    def ignoring_a_step(self, ended: Callable[[], bool]) -> Iterator[None]:
        """Around a step that belongs to no episode any more, since `end` was called; then comes a reset.

        Args:
            ended: Whether the environment has ended its own episode in that step; asked after it.
        """
        yield
        if ended():
            self.forget_episode()

    @abstractmethod
    def forget_episode(self) -> None:
        """Takes back the last episode that was recorded."""


@dataclass(frozen=True)
class MonitorRecorder(Recorder):
    """A `stable_baselines3.common.monitor.Monitor`.

    Attributes:
        attributes: Its attributes.
        is_local: Whether it lives in this process, so that its file can be written.
    """

    attributes: Attributes
    is_local: bool = True

    @property
    def key(self) -> str:
        """See `Recorder.key`."""
        return "episode"

    def end(self, info: Mapping[str, Any]) -> Entry:
        """See `Recorder.end`."""
        get, set_ = self.attributes.get, self.attributes.set
        rewards, elapsed = get("rewards"), time.time() - get("t_start")
        total = sum(rewards)
        entry: Entry = {"r": round(total, 6), "l": len(rewards), "t": round(elapsed, 6)}
        entry |= {name: info[name] for name in get("info_keywords")}
        for name, value in (("episode_returns", total), ("episode_lengths", len(rewards)), ("episode_times", elapsed)):
            values = get(name)
            values.append(value)
            set_(name, values)
        entry |= get("current_reset_info")
        # It may refuse a reset in the middle of an episode.
        set_("needs_reset", True)
        if self.is_local and (writer := get("results_writer")) is not None:
            writer.write_row(entry)
        return entry

    @contextmanager
    def ignoring_a_step(self, ended: Callable[[], bool]) -> Iterator[None]:
        """See `Recorder.ignoring_a_step`."""
        # A row that is written cannot be taken back.
        writer = self.attributes.get("results_writer") if self.is_local else None
        if writer is not None:
            self.attributes.set("results_writer", None)
        self.attributes.set("needs_reset", False)
        try:
            with super().ignoring_a_step(ended):
                yield
        finally:
            self.attributes.set("needs_reset", True)
            if writer is not None:
                self.attributes.set("results_writer", writer)

    def forget_episode(self) -> None:
        """See `Recorder.forget_episode`."""
        for name in ("episode_returns", "episode_lengths", "episode_times"):
            values = self.attributes.get(name)
            values.pop()
            self.attributes.set(name, values)


@dataclass(frozen=True)
class StatisticsRecorder(Recorder):
    """A `gymnasium.wrappers.RecordEpisodeStatistics` of one environment."""

    attributes: Attributes

    @property
    def key(self) -> str:
        """See `Recorder.key`."""
        return self.attributes.get("_stats_key")

    def end(self, info: Mapping[str, Any]) -> Entry:
        """See `Recorder.end`."""
        get, set_ = self.attributes.get, self.attributes.set
        now = time.perf_counter()
        entry: Entry = {
            "r": get("episode_returns"),
            "l": get("episode_lengths"),
            "t": round(now - get("episode_start_time"), 6),
        }
        for name, value in zip(_QUEUES, entry.values(), strict=True):
            queue = get(name)
            queue.append(value)
            set_(name, queue)
        set_("episode_count", get("episode_count") + 1)
        set_("episode_start_time", now)
        return entry

    def forget_episode(self) -> None:
        """See `Recorder.forget_episode`."""
        for name in _QUEUES:
            queue = self.attributes.get(name)
            queue.pop()
            self.attributes.set(name, queue)
        self.attributes.set("episode_count", self.attributes.get("episode_count") - 1)


_QUEUES = ("return_queue", "length_queue", "time_queue")


def scalar_recorders(env: gym.Env[Any, Any]) -> list[Recorder]:
    """The recorders among the layers of an environment in this process, from the inside out."""
    # Whoever uses a Monitor has imported it; whoever does not need not have Stable-Baselines3.
    monitoring = sys.modules.get("stable_baselines3.common.monitor")
    found: list[Recorder] = []
    while isinstance(env, gym.Wrapper):
        if isinstance(env, RecordEpisodeStatistics):
            found.insert(0, StatisticsRecorder(LocalAttributes(env)))
        elif monitoring is not None and isinstance(env, monitoring.Monitor):
            found.insert(0, MonitorRecorder(LocalAttributes(env)))
        env = env.env
    return found


def vector_layers(env: VectorEnv[Any, Any, Any]) -> Iterator[VectorEnv[Any, Any, Any]]:
    """A vector environment's wrappers from the outside in, and at last what they wrap."""
    yield env
    while isinstance(env, VectorWrapper):
        env = env.env
        yield env


class VectorRecorders:
    """The recorders inside the reward wrapper of a vector environment.

    Args:
        env: What the reward wrapper wraps.
        ends_episodes: Whether the reward wrapper ever does.

    Raises:
        ValueError: Recorders in worker processes that cannot be told apart.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], ends_episodes: bool) -> None:
        layers = [layer for layer in vector_layers(env) if isinstance(layer, VectorRecordEpisodeStatistics)]
        self._batched = layers[::-1]
        base = env.unwrapped
        if not ends_episodes:
            self._single: list[list[Recorder]] = [[] for _ in range(env.num_envs)]
        elif isinstance(base, SyncVectorEnv):
            self._single = [scalar_recorders(sub_env) for sub_env in base.envs]
        elif isinstance(base, AsyncVectorEnv):
            self._single = _recorders_in_workers(base)
        else:
            self._single = [[] for _ in range(env.num_envs)]

    def end_single(self, index: int, info: Mapping[str, Any]) -> dict[str, Entry]:
        """Ends the running episode of one environment for the recorders around it alone; returns their entries."""
        return {recorder.key: recorder.end(info) for recorder in self._single[index]}

    def end_batched(self, indices: Indices) -> dict[str, Entry]:
        """Ends running episodes for the recorders around all environments.

        Returns:
            Their entries by key: (len(indices),) values by name, to be written with `add_batched`.
        """
        return {layer._stats_key: _end_batched(layer, indices) for layer in self._batched if len(indices)}

    @contextmanager
    def ignoring_a_step(self, of: NDArray[np.bool_], ended: Callable[[], NDArray[np.bool_]]) -> Iterator[None]:
        """Around a step that belongs to no episode any more in some environments; then comes their reset.

        Args:
            of: (n,) those environments.
            ended: (n,) where an environment has ended its own episode in that step; asked after it.
        """
        chosen = np.flatnonzero(of).tolist()
        saved = [(layer, _copies(layer, _QUEUES)) for layer in self._batched] if chosen else []
        with ExitStack() as stack:
            for index in chosen:
                for recorder in self._single[index]:
                    stack.enter_context(recorder.ignoring_a_step(lambda index=index: bool(ended()[index])))
            yield
        for layer, queues in saved:
            _forget_episodes(layer, queues, ended(), of)

    @contextmanager
    def resetting(self, mask: NDArray[np.bool_]) -> Iterator[None]:
        """Around a reset of some environments: what was counted of the others stays.

        `RecordEpisodeStatistics` of Gymnasium 1.4 sees no ``reset_mask`` any more once the environment inside has
        taken it out of the options, and then begins anew with all.
        """
        saved = [(layer, _copies(layer, _SUMS)) for layer in self._batched]
        yield
        for layer, sums in saved:
            for name, before in sums.items():
                getattr(layer, name)[~mask] = before[~mask]


_SUMS = ("episode_start_times", "episode_returns", "episode_lengths", "prev_dones")


def _copies(owner: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(owner, name).copy() for name in names}


def add_batched(infos: dict[str, Any], entries: Mapping[str, Entry], indices: Indices, num_envs: int) -> None:
    """Writes entries of `VectorRecorders.end_batched` where the recorder would have put them.

    The arrays that are there already are copied: their mask is also the recorder's memory of who is done.
    """
    for key, entry in entries.items():
        before = infos.get(key, {name: np.zeros(num_envs, values.dtype) for name, values in entry.items()})
        mask = np.array(infos.get(f"_{key}", np.zeros(num_envs, np.bool_)))
        mask[indices] = True
        infos[key], infos[f"_{key}"] = {name: np.array(values) for name, values in before.items()}, mask
        for name, values in entry.items():
            infos[key][name][indices] = values


def _end_batched(layer: VectorRecordEpisodeStatistics, indices: Indices) -> Entry:
    now = time.perf_counter()
    entry: Entry = {
        "r": layer.episode_returns[indices],
        "l": layer.episode_lengths[indices],
        "t": np.round(now - layer.episode_start_times[indices], 6),
    }
    for name, values in zip(_QUEUES, entry.values(), strict=True):
        getattr(layer, name).extend(values)
    layer.episode_count += len(indices)
    return entry


def _forget_episodes(
    layer: VectorRecordEpisodeStatistics, before: Mapping[str, Any], ended: NDArray[np.bool_], of: NDArray[np.bool_]
) -> None:
    """Takes back what a recorder noted of the environments ``of`` in its last step, in which some ``ended``."""
    kept = (~of)[ended]
    if kept.all():
        return
    for name in _QUEUES:
        queue = getattr(layer, name)
        added = list(queue)[-len(kept) :]
        queue.clear()
        queue.extend(before[name])
        # It may be too short for all that was added.
        queue.extend(value for value, keep in zip(added, kept[-len(added) :], strict=True) if keep)
    layer.episode_count -= int((~kept).sum())


def _recorders_in_workers(env: AsyncVectorEnv) -> list[list[Recorder]]:
    monitored = env.call("has_wrapper_attr", "allow_early_resets")
    counted = env.call("has_wrapper_attr", "length_queue")
    for name, present in (("Monitor", monitored), ("RecordEpisodeStatistics", counted)):
        if any(present) and not all(present):
            raise ValueError(f"wrap every sub-environment in {name} or none of them, got {list(present)}")
    if any(monitored) and any(counted):
        raise ValueError(
            "the sub-environments in worker processes have both a Monitor and a RecordEpisodeStatistics, whose "
            "attributes have the same names and cannot be told apart from here: leave one of them out"
        )
    found: list[list[Recorder]] = []
    for index in range(env.num_envs):
        attributes = _AsyncVectorAttributes(env, index)
        if monitored[index]:
            found.append([MonitorRecorder(attributes, is_local=False)])
        else:
            found.append([StatisticsRecorder(attributes)] if counted[index] else [])
    return found
