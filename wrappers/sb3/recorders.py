"""Recorders of true returns inside the reward wrappers for Stable-Baselines3; see `robometer_rl.wrappers.recorders`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gymnasium.wrappers import RecordEpisodeStatistics
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecMonitor

from robometer_rl.wrappers.recorders import (
    Attributes,
    Entry,
    MonitorRecorder,
    Recorder,
    StatisticsRecorder,
    scalar_recorders,
)

__all__ = ["VecEnvRecorders"]


@dataclass(frozen=True)
class _VecEnvAttributes(Attributes):
    """Of what is inside one sub-environment of a `VecEnv` in another process."""

    venv: VecEnv
    index: int

    def get(self, name: str) -> Any:
        return self.venv.get_attr(name, [self.index])[0]

    def set(self, name: str, value: Any) -> None:
        # Not set_attr, which sets it on the outermost wrapper, whoever has it.
        self.venv.env_method("set_wrapper_attr", name, value, indices=[self.index])


class VecEnvRecorders:
    """The recorders inside a `VecRobometerReward`: around single sub-environments, and a `VecMonitor` around all.

    Args:
        venv: What the reward wrapper wraps.

    Raises:
        ValueError: Recorders in worker processes that cannot be told apart.
    """

    def __init__(self, venv: VecEnv) -> None:
        self._around = venv if isinstance(venv, VecMonitor) else None
        base = venv.venv if isinstance(venv, VecEnvWrapper) else venv
        if isinstance(base, DummyVecEnv):
            self._single = [scalar_recorders(env) for env in base.envs]
        else:
            self._single = _recorders_in_workers(base)

    def end(self, index: int, info: Mapping[str, Any]) -> dict[str, Entry]:
        """Ends the running episode of one environment as if it had done so itself.

        Args:
            index: The environment.
            info: Of its last step.

        Returns:
            What the recorders would have put into the info.
        """
        entries = {recorder.key: recorder.end(info) for recorder in self._single[index]}
        return entries if self._around is None else {**entries, "episode": _end_around(self._around, index, info)}


def _end_around(monitor: VecMonitor, index: int, info: Mapping[str, Any]) -> Entry:
    entry: Entry = {
        "r": monitor.episode_returns[index],
        "l": monitor.episode_lengths[index],
        "t": round(time.time() - monitor.t_start, 6),
    }
    entry |= {name: info[name] for name in monitor.info_keywords}
    monitor.episode_count += 1
    monitor.episode_returns[index] = 0
    monitor.episode_lengths[index] = 0
    if monitor.results_writer is not None:
        monitor.results_writer.write_row(entry)
    return entry


def _recorders_in_workers(venv: VecEnv) -> list[list[Recorder]]:
    monitored, counted = venv.env_is_wrapped(Monitor), venv.env_is_wrapped(RecordEpisodeStatistics)
    found: list[list[Recorder]] = []
    for index in range(venv.num_envs):
        if monitored[index] and counted[index]:
            raise ValueError(
                f"sub-environment {index} is in a worker process and has both a Monitor and a RecordEpisodeStatistics, "
                "whose attributes have the same names and cannot be told apart from here: leave one of them out"
            )
        attributes = _VecEnvAttributes(venv, index)
        if monitored[index]:
            found.append([MonitorRecorder(attributes, is_local=False)])
        else:
            found.append([StatisticsRecorder(attributes)] if counted[index] else [])
    return found
