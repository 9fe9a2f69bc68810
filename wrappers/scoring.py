"""What the three reward wrappers share: histories, scoring, shaping and info entries of a batch of environments.

The wrappers know when an environment was reset and where its terminal frame is; everything else happens here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from robometer_rl.frames import FrameProtocol, parse_protocol
from robometer_rl.models.reward_model import RewardModel, RewardStream
from robometer_rl.prediction import progress_uncertainty
from robometer_rl.rewards import RewardSpec, RewardState, StepRewards
from robometer_rl.wrappers.episode_recorder import EpisodeRecorder, Said
from robometer_rl.wrappers.frame_sources import Camera, FrameSources, parse_cameras
from robometer_rl.wrappers.guard import EpisodeGuard
from robometer_rl.wrappers.observation_reader import Indices, Moment, MomentReader, Views
from robometer_rl.wrappers.tasks import TaskSource, TaskStages, parse_task

__all__ = ["EpisodeScorer", "ScoredStep", "ScoringWrapper", "as_model", "as_reward_spec"]


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

    `start` and `step` do it all at once. Where reading and scoring happen on different threads, each takes its half:
    `reader` reads moments, `begin` and `pay` score them, in the order in which they were read.

    Args:
        model: The model, shared with whoever else uses it, or its ``source``.
        task: Where instructions come from, see `robometer_rl.wrappers.tasks.parse_task`.
        reward: The reward.
        frames: Where frames come from, see `robometer_rl.wrappers.frame_sources`. With several cameras an environment
            has one history each, and their predictions are averaged before shaping.
        protocol: Which frames of a history the model is shown; None for the model's default.
        success_key: Info key of true success, see `robometer_rl.true_success`.
        num_envs: Number of environments.
        observation_space: Of one environment.
        stacked_spaces: Observation spaces of stacked frames among the layers below, which are no images.
        resets_inside: Whether environments are reset inside the step that ends their episode.
        render_camera: Makes the camera for ``frames="render"``, given the scoring interval.
        read_attribute: Values of a named attribute of the chosen environments.

    Attributes:
        model: The model.
        spec: The reward.
        reader: What reads frames and instructions from the environments.
        guard: What every reset and step of a wrapper goes through.
        recorder: What shows running episodes, if anything does.
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
        stacked_spaces: Sequence[spaces.Space[Any]] = (),
        resets_inside: bool = False,
        render_camera: Callable[[int], Camera],
        read_attribute: Callable[[str, Sequence[int]], Sequence[Any]],
    ) -> None:
        task = parse_task(task, num_envs)
        self.spec = as_reward_spec(reward)
        if isinstance(task, TaskStages):
            self._require_no_potential()
        cameras = parse_cameras(frames, observation_space, stacked_spaces, lambda: render_camera(self.spec.every))
        self._num_cameras = len(cameras)
        self.reader = MomentReader(
            task,
            cameras,
            every=self.spec.every,
            num_envs=num_envs,
            read_attribute=read_attribute,
            success_key=success_key,
            resets_inside=resets_inside,
        )
        self.guard = EpisodeGuard()
        self.recorder: EpisodeRecorder | None = None
        # Last, because loading a model takes long and everything above may be refused.
        self.model = as_model(model)
        self.model.require_for(self.spec, live=True)
        self.model.require_views(f"frames={frames!r}", tiled=all(camera.tiled for camera in cameras))
        if isinstance(task, TaskStages):
            self._require_success()
        # Also where it turns out at a reset that an episode has several stages.
        self._has_stages = isinstance(task, TaskStages)
        self._protocol = _as_protocol(protocol, self.model)
        self._stream: RewardStream | None = None
        self._state = RewardState(num_envs, self.spec, self.spec.threshold(self.model.success_threshold))
        self._progress = np.zeros((num_envs, len(cameras)))
        self._success = np.zeros((num_envs, len(cameras)))
        self._says_uncertainty = self.model.bins > 1
        self._uncertainty = np.zeros(num_envs)
        self._instructions: list[tuple[str, ...]] = [()] * num_envs
        self._stage = np.zeros(num_envs, np.int64)
        self._stages_completed = np.zeros(num_envs, np.int64)
        self._returns = np.zeros(num_envs)
        self._task_returns = np.zeros(num_envs)
        self._highest = np.zeros(num_envs)
        self._over = np.ones(num_envs, np.bool_)

    @property
    def over(self) -> NDArray[np.bool_]:
        """(n,) whether the episode of an environment has ended, or none has begun; a copy."""
        return self._over.copy()

    @property
    def progress(self) -> NDArray[np.float64]:
        """(n,) predicted progress of the newest scored frame of each environment; a copy."""
        return self._progress.mean(axis=1)

    def require_running(self) -> None:
        """Raises `gymnasium.error.ResetNeeded` where a step would continue an episode that is over."""
        self.guard.require_whole()
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
        return self.begin(self.reader.reset(indices, view))

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
        moment = self.reader.step(view, terminated | truncated, starting)
        step = self.pay(moment, task_rewards, terminated, truncated)
        for index in np.flatnonzero(self._over).tolist():
            step.entries[index] |= self.reader.outcome(view(index))
        return step

    def begin(self, moment: Moment) -> list[dict[str, Any]]:
        """The half of `start` that scores; see there."""
        begun = moment.begun
        self._restart(moment)
        self._score(begun, moment)
        self._state.start(begun, self._progress[begun].mean(axis=1))
        self._show(moment, np.zeros(len(self._over), np.bool_), is_step=False)
        return [self._reset_entry(index) for index in begun.tolist()]

    def pay(
        self,
        moment: Moment,
        task_rewards: NDArray[np.float64],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
    ) -> ScoredStep:
        """The half of `step` that scores and pays; see there. True success is not yet among the entries."""
        begun = moment.begun
        starting, scored = np.zeros((2, len(self._over)), np.bool_)
        starting[begun] = True
        scored[moment.scored] = True
        task_rewards = np.where(starting, 0.0, task_rewards)
        self._restart(moment)
        self._score(moment.scored, moment)
        paid = self._state.step(
            progress=self._progress.mean(axis=1),
            success=self._success.mean(axis=1) if self.model.has_success else None,
            scored=scored,
            terminated=terminated,
            task_rewards=task_rewards,
            completes=self._in_last_stage(),
            uncertainty=self._uncertainty if self._says_uncertainty else None,
        )
        self._state.start(begun, self._progress[begun].mean(axis=1))
        rewards = np.where(starting, 0.0, paid.rewards)
        ended = paid.terminated & ~starting
        completed = paid.fires & ~starting
        self._returns += rewards
        self._task_returns += task_rewards
        self._stages_completed += completed
        self._over = ended | truncated
        entries = [
            self._reset_entry(index) if starting[index] else self._step_entry(index, scored, task_rewards, paid)
            for index in range(len(starting))
        ]
        for index in np.flatnonzero(self._over).tolist():
            entries[index]["robometer/episode"] = self._summary(index, moment)
            self.model.doubts.episode(self.model.model_id, float(self._highest[index]))
        self._show(moment, paid.success_detected & ~starting)
        advancing = np.flatnonzero(completed & ~self._over & ~self._in_last_stage())
        for index, entry in zip(advancing.tolist(), self._advance(advancing, moment), strict=True):
            entries[index] |= entry
        return ScoredStep(rewards, ended, entries)

    def record(self, folder: str | Path, environment: int, failures: int, steps: int) -> None:
        """Shows episodes from now on, see `ScoringWrapper.record_live`."""
        about = {
            "threshold": self._state.threshold if self.model.has_success else None,
            "every": self.spec.every,
            "protocol": str(self._protocol),
            "model": self.model.model_id,
        }
        self.stop_recording()
        self.recorder = EpisodeRecorder(folder, len(self._over), about, environment, failures, steps)

    def stop_recording(self) -> None:
        """Says of what is shown that the run has ended."""
        if self.recorder is not None:
            self.recorder.close()
        self.recorder = None

    def _show(self, moment: Moment, detected: NDArray[np.bool_], is_step: bool = True) -> None:
        recorder = self.recorder  # which may be taken away on another thread
        if recorder is None:
            return
        said = Said(
            tasks=self._instructions,
            stage=self._stage,
            progress=self._progress.mean(axis=1),
            success=self._success.mean(axis=1) if self.model.has_success else None,
            uncertainty=self._uncertainty if self._says_uncertainty else None,
            detected=detected,
            paid=self._returns,
            task_returns=self._task_returns,
            over=self._over,
        )
        recorder.note(moment, said, is_step)

    def _restart(self, moment: Moment) -> None:
        begun = moment.begun
        if not len(begun):
            return
        for index, instructions in moment.instructions.items():
            if len(instructions) > 1 and not self._has_stages:
                self._require_no_potential()
                self._require_success()
                self._has_stages = True
            self._instructions[index] = instructions
        self._stage[begun] = 0
        if self._stream is None:
            self._stream = self.model.stream(self._tasks(begun), self._protocol)
        else:
            self._stream.reset(self._histories(begun), self._tasks(begun))
        for counted in (self._returns, self._task_returns, self._stages_completed, self._highest):
            counted[begun] = 0
        self._over[begun] = False

    def _require_no_potential(self) -> None:
        if self.spec.mode == "potential":
            raise ValueError("mode='potential' does not go together with TaskStages, see its documentation")

    def _require_success(self) -> None:
        self.model.require("going on to the next stage", success=True)

    def _advance(self, indices: Indices, moment: Moment) -> list[dict[str, Any]]:
        """Begins the next stage of the chosen environments: their histories restart with the current frame."""
        if not len(indices):
            return []
        assert self._stream is not None, "only what has begun completes a stage"
        self._stage[indices] += 1
        self._stream.reset(self._histories(indices), self._tasks(indices))
        self._score(indices, moment)
        progress = self._progress[indices].mean(axis=1)
        self._state.start(indices, progress)
        return [{"robometer/next_stage_progress": float(value)} for value in progress]

    def _in_last_stage(self) -> NDArray[np.bool_]:
        return self._stage == np.array([len(instructions) - 1 for instructions in self._instructions])

    def _tasks(self, indices: Indices) -> list[str]:
        """The current instruction of each history of the chosen environments."""
        tasks = [self._instructions[index][self._stage[index]] for index in indices.tolist()]
        return [task for task in tasks for _ in range(self._num_cameras)]

    def _score(self, indices: Indices, moment: Moment) -> None:
        """Scores the newest frame of the chosen environments with its history."""
        if not len(indices):
            return
        assert self._stream is not None, "an episode begins before it is scored"
        frames = [frame for index in indices.tolist() for frame in moment.frames[index]]
        prediction = self._stream.append(frames, self._histories(indices))
        shape = (len(indices), self._num_cameras)
        self._progress[indices] = prediction.progress.reshape(shape)
        self._highest[indices] = np.maximum(self._highest[indices], self._progress[indices].mean(axis=1))
        if prediction.success is not None:
            self._success[indices] = prediction.success.reshape(shape)
        if self._says_uncertainty:
            # Of the cameras' mean distribution, whose mean is the mean progress: where they disagree is doubt, too.
            bins = prediction.progress_distribution.reshape(*shape, -1).mean(axis=1, dtype=np.float64)
            self._uncertainty[indices] = progress_uncertainty(bins)

    def _histories(self, indices: Indices) -> list[int]:
        count = self._num_cameras
        return [index * count + camera for index in indices.tolist() for camera in range(count)]

    def _reset_entry(self, index: int) -> dict[str, Any]:
        return {"robometer/reset_progress": float(self._progress[index].mean())}

    def _step_entry(
        self, index: int, scored: NDArray[np.bool_], task_rewards: NDArray[np.float64], paid: StepRewards
    ) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "robometer/progress": float(self._progress[index].mean()),
            "robometer/success_detected": bool(paid.success_detected[index]),
            "robometer/scored": bool(scored[index]),
            "robometer/task_reward": float(task_rewards[index]),
            "robometer/reward": float(paid.rewards[index]),
        }
        success = self._success[index] if self.model.has_success else None
        if success is not None:
            entry["robometer/success"] = float(success.mean())
        if self._says_uncertainty:
            entry["robometer/uncertainty"] = float(self._uncertainty[index])
        if self._has_stages:
            entry["robometer/stage"] = int(self._stage[index])
        if self._num_cameras > 1:
            entry["robometer/progress_per_camera"] = self._progress[index].copy()
            if success is not None:
                entry["robometer/success_per_camera"] = success.copy()
        return entry

    def _summary(self, index: int, moment: Moment) -> dict[str, Any]:
        """What there is to say about an episode that has ended."""
        summary: dict[str, Any] = {
            "return": float(self._returns[index]),
            "task_return": float(self._task_returns[index]),
            "progress": float(self._progress[index].mean()),
            "length": int(moment.steps[index]),
        }
        if self.model.has_success:
            summary["success"] = float(self._success[index].mean())
        if self._has_stages:
            summary["stages_completed"] = int(self._stages_completed[index])
        return summary


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

    def record_live(self, folder: str | Path, environment: int = 0, failures: int = 10, steps: int = 0) -> None:
        """Shows the running episode and the highest-paid failures to ``robometer-rl ui --live FOLDER`` from now on.

        Until `close`, or until `stop_live`. What is written is bounded, see
        `robometer_rl.wrappers.episode_recorder.EpisodeRecorder`.

        Args:
            folder: Where it is written; a run has a folder of its own.
            environment: Whose running episode is shown, of a vector.
            failures: How many are kept, of all environments.
            steps: Steps that the run has made before, over all environments, where it goes on from a save: failures
                that ended later are removed, since they are made again.

        Raises:
            ValueError: There is no such environment, or a number that is none.
            OSError: It cannot be written there.
        """
        self._scorer.record(folder, environment, failures, steps)

    def stop_live(self) -> None:
        """Ends what `record_live` began, and says there that the run has ended."""
        self._scorer.stop_recording()

    def compute_reward(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses what hindsight experience replay (HER) asks for.

        Raises:
            TypeError: Always. Without this method, HER would be answered by the environment inside.
        """
        raise TypeError(
            "compute_reward(achieved_goal, desired_goal, info) cannot be answered: this reward depends on the frames "
            "of a whole history, not on two goals. Hindsight experience replay (HerReplayBuffer) cannot be used with "
            "a learned reward; use another replay buffer"
        )

    def __reduce__(self) -> NoReturn:
        # Before anything else of the wrapper fails to be pickled: the model's message says what to do instead.
        self.model.__reduce__()


def as_model(model: RewardModel | str) -> RewardModel:
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


def as_reward_spec(reward: RewardSpec | Mapping[str, Any]) -> RewardSpec:
    """Returns the spec, made from a mapping of its fields if one is given (as ``EnvSpec.to_json`` leaves it)."""
    if isinstance(reward, Mapping):
        return RewardSpec.from_dict(reward)
    if not isinstance(reward, RewardSpec):
        raise TypeError(f"reward must be a RewardSpec, got {reward!r}")
    return reward
