"""What the three reward wrappers share: histories, scoring, shaping and info entries of a batch of environments.

The wrappers know when an environment was reset and where its terminal frame is; everything else happens here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from robometer_rl.frames import FrameProtocol, parse_protocol
from robometer_rl.models.reward_model import RewardModel, RewardStream
from robometer_rl.prediction import NonFiniteOutputError
from robometer_rl.rewards import RewardSpec, RewardState, StepRewards, is_scored
from robometer_rl.wrappers.frame_sources import Camera, FrameSources, View, parse_cameras
from robometer_rl.wrappers.tasks import TaskSource, parse_task, read_tasks

__all__ = ["EpisodeScorer", "Indices", "ScoredStep", "ScoringWrapper", "Views"]

Indices = NDArray[np.int64]
"""Numbers of environments."""

Views = Callable[[int], View]
"""What the environment of a number shows; asked where it is needed only."""


@dataclass(frozen=True)
class ScoredStep:
    """What one step of n environments paid.

    Attributes:
        rewards: (n,) float64; 0 where the step was a reset.
        terminated: (n,) bool, as given or because predicted success ends the episode.
        entries: What each environment's info gains; Python values, and arrays over cameras.
    """

    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    entries: list[dict[str, Any]]


class EpisodeScorer:
    """Keeps the histories of n environments, scores their frames and pays their steps.

    It owns its stream of the model, not the model. Histories are numbered environment by environment, camera by camera.

    Args:
        model: The model, shared with whoever else uses it, or its ``source``.
        task: Where instructions come from, see `robometer_rl.wrappers.tasks.parse_task`.
        reward: The reward.
        frames: Where frames come from, see `robometer_rl.wrappers.frame_sources`. With several cameras an environment
            has one history each, and their predictions are averaged before shaping.
        protocol: Which frames of a history the model is shown; None for the model's default.
        success_key: Info key of true success; None for ``is_success``, else ``success``, if there is one.
        num_envs: Number of environments.
        observation_space: Of one environment.
        render_camera: Makes the camera for ``frames="render"``, given the scoring interval.
        read_attribute: Values of a named attribute of the chosen environments.

    Attributes:
        model: The model.
        spec: The reward.
    """

    def __init__(
        self,
        model: RewardModel | str,
        *,
        task: TaskSource,
        reward: RewardSpec | Mapping[str, Any],
        frames: FrameSources,
        protocol: FrameProtocol | str | None,
        success_key: str | None,
        num_envs: int,
        observation_space: spaces.Space[Any],
        render_camera: Callable[[int], Camera],
        read_attribute: Callable[[str, Sequence[int]], Sequence[Any]],
    ) -> None:
        self._task = parse_task(task)
        self.spec = _as_reward_spec(reward)
        self._cameras = parse_cameras(frames, observation_space, lambda: render_camera(self.spec.every))
        self._read_attribute = read_attribute
        self._success_key = success_key
        # Last, because loading a model takes long and everything above may be refused.
        self.model = _as_model(model)
        self._protocol = _as_protocol(protocol, self.model)
        self._stream: RewardStream | None = None
        self._state = RewardState(num_envs, self.spec, self.spec.threshold(self.model.success_threshold))
        self._progress = np.zeros((num_envs, len(self._cameras)))
        self._success = np.zeros((num_envs, len(self._cameras)))
        self._steps = np.zeros(num_envs, np.int64)
        self._returns = np.zeros(num_envs)
        self._task_returns = np.zeros(num_envs)
        self._over = np.ones(num_envs, np.bool_)

    @property
    def over(self) -> NDArray[np.bool_]:
        """(n,) whether the episode of an environment has ended, or none has begun; a copy."""
        return self._over.copy()

    def require_begun(self) -> None:
        """Raises `gymnasium.error.ResetNeeded` before the first reset."""
        if self._stream is None:
            raise ResetNeeded("call reset() before the first step()")

    def require_running(self) -> None:
        """Raises `gymnasium.error.ResetNeeded` where a step would continue an episode that is over."""
        self.require_begun()
        if self._over.any():
            ended = np.flatnonzero(self._over).tolist()
            raise ResetNeeded(f"the episodes of environments {ended} have ended; reset them before the next step()")

    def start(self, indices: Indices, view: Views) -> list[dict[str, Any]]:
        """Begins episodes: scores their reset frames, which pay nothing.

        Args:
            indices: The environments that were reset.
            view: What they show.

        Returns:
            Info entries, in the order of ``indices``.
        """
        self._restart(indices, view)
        self._score(indices, view)
        self._state.start(indices, self._progress[indices].mean(axis=1))
        return [self._reset_entry(index) for index in indices.tolist()]

    def step(
        self,
        view: Views,
        task_rewards: NDArray[np.float64],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        starting: NDArray[np.bool_] | None = None,
    ) -> ScoredStep:
        """Scores and pays one step of all environments.

        Args:
            view: What an environment shows after the step, the true terminal frame where its episode ends. Asked only
                for environments whose frame is scored.
            task_rewards: (n,) their own rewards.
            terminated: (n,).
            truncated: (n,).
            starting: (n,) where this step was a reset: a new history begins and nothing is paid.
        """
        starting = np.zeros(len(self._over), np.bool_) if starting is None else starting
        started = np.flatnonzero(starting)
        self._restart(started, view)
        self._steps += ~starting
        scored = is_scored(self._steps, self.spec.every, terminated | truncated)
        self._score(np.flatnonzero(scored), view)
        progress, success = self._progress.mean(axis=1), self._success.mean(axis=1)
        paid = self._state.step(
            progress=progress, success=success, scored=scored, terminated=terminated, task_rewards=task_rewards
        )
        self._state.start(started, progress[started])
        rewards = np.where(starting, 0.0, paid.rewards)
        ended = paid.terminated & ~starting
        self._returns += rewards
        self._task_returns += np.where(starting, 0.0, task_rewards)
        self._over = ended | truncated
        entries = [
            self._reset_entry(index) if starting[index] else self._step_entry(index, scored, task_rewards, paid)
            for index in range(len(starting))
        ]
        for index in np.flatnonzero(self._over).tolist():
            entries[index] |= self._end_entry(index, view(index))
        return ScoredStep(rewards, ended, entries)

    def _restart(self, indices: Indices, view: Views) -> None:
        if not len(indices):
            return
        tasks = read_tasks(self._task, indices.tolist(), view, self._read_attribute)
        per_history = [task for task in tasks for _ in self._cameras]
        if self._stream is None:
            if len(indices) < len(self._over):
                raise ResetNeeded(
                    "the first reset() must reset all environments, got a reset_mask that leaves some out"
                )
            self._stream = self.model.stream(per_history, self._protocol)
        else:
            self._stream.reset(self._histories(indices), per_history)
        self._steps[indices] = 0
        self._returns[indices] = 0.0
        self._task_returns[indices] = 0.0
        self._over[indices] = False

    def _score(self, indices: Indices, view: Views) -> None:
        """Scores the newest frame of the chosen environments with its history."""
        if not len(indices):
            return
        assert self._stream is not None, "require_begun comes first"
        frames = [camera.frame(seen) for seen in map(view, indices.tolist()) for camera in self._cameras]
        prediction = self._stream.append(frames, self._histories(indices))
        if not (np.isfinite(prediction.progress).all() and np.isfinite(prediction.success).all()):
            raise NonFiniteOutputError(
                f"{self.model.model_id} predicted progress {prediction.progress} and success {prediction.success} "
                f"for the environments {indices.tolist()}"
            )
        shape = (len(indices), len(self._cameras))
        self._progress[indices] = prediction.progress.reshape(shape)
        self._success[indices] = prediction.success.reshape(shape)

    def _histories(self, indices: Indices) -> list[int]:
        count = len(self._cameras)
        return [index * count + camera for index in indices.tolist() for camera in range(count)]

    def _reset_entry(self, index: int) -> dict[str, Any]:
        return {"robometer/reset_progress": float(self._progress[index].mean())}

    def _step_entry(
        self, index: int, scored: NDArray[np.bool_], task_rewards: NDArray[np.float64], paid: StepRewards
    ) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "robometer/progress": float(self._progress[index].mean()),
            "robometer/success": float(self._success[index].mean()),
            "robometer/success_detected": bool(paid.holds[index]),
            "robometer/scored": bool(scored[index]),
            "robometer/task_reward": float(task_rewards[index]),
            "robometer/reward": float(paid.rewards[index]),
        }
        if len(self._cameras) > 1:
            entry["robometer/progress_per_camera"] = self._progress[index].copy()
            entry["robometer/success_per_camera"] = self._success[index].copy()
        return entry

    def _end_entry(self, index: int, last: View) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "robometer/episode": {
                "return": float(self._returns[index]),
                "task_return": float(self._task_returns[index]),
                "progress": float(self._progress[index].mean()),
                "success": float(self._success[index].mean()),
                "length": int(self._steps[index]),
            }
        }
        success = self._true_success(last)
        return entry if success is None else {**entry, "robometer/true_success": success}

    def _true_success(self, last: View) -> bool | None:
        if self._success_key is not None and self._success_key not in last.info:
            raise KeyError(
                f"environment {last.index}: the info at the end of an episode has no success_key "
                f"{self._success_key!r}; it has {sorted(last.info)}"
            )
        keys = ("is_success", "success") if self._success_key is None else (self._success_key,)
        return next((bool(last.info[key]) for key in keys if key in last.info), None)


class ScoringWrapper:
    """What the reward wrappers have in common beside their base classes: they hold a scorer."""

    _scorer: EpisodeScorer

    @property
    def model(self) -> RewardModel:
        """The reward model; it outlives the wrapper."""
        return self._scorer.model

    @property
    def reward_spec(self) -> RewardSpec:
        """How predictions become a reward."""
        return self._scorer.spec

    def __reduce__(self) -> NoReturn:
        # Before anything else of the wrapper fails to be pickled: the model's message says what to do instead.
        self.model.__reduce__()


def _as_model(model: RewardModel | str) -> RewardModel:
    """Returns the model, loading it if its ``source`` is given."""
    if isinstance(model, str):
        # Imported here because loading needs torch, which an environment that is given a live model may not.
        from robometer_rl.models.loading import load_reward_model

        return load_reward_model(model)
    if not isinstance(model, RewardModel):
        raise TypeError(f"model must be a RewardModel or a string for load_reward_model, got {model!r}")
    return model


def _as_protocol(protocol: FrameProtocol | str | None, model: RewardModel) -> FrameProtocol:
    """Returns the protocol: as given, parsed from ``"nested(8)"``, or the model's default."""
    if protocol is None:
        return model.default_protocol
    if isinstance(protocol, str):
        return parse_protocol(protocol)
    if not isinstance(protocol, FrameProtocol):
        raise TypeError(f"protocol must be a FrameProtocol, a string such as 'nested(8)' or None, got {protocol!r}")
    return protocol


def _as_reward_spec(reward: RewardSpec | Mapping[str, Any]) -> RewardSpec:
    """Returns the spec, made from a mapping of its fields if one is given (as ``EnvSpec.to_json`` leaves it)."""
    if isinstance(reward, Mapping):
        return RewardSpec.from_dict(reward)
    if not isinstance(reward, RewardSpec):
        raise TypeError(f"reward must be a RewardSpec, got {reward!r}")
    return reward
