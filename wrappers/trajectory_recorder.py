"""What the three recording wrappers share: episodes of a batch of environments, written to a store as they end.

The wrappers know when an environment was reset, with which seed, and where its terminal frame is; everything else
happens here, once.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.data.store import TrajectoryStore, seal_if_installed
from robometer_rl.data.trajectory import DISCRETE_ACTIONS, TILED, Trajectory
from robometer_rl.formats.trajectories import episode_id
from robometer_rl.frames import as_array
from robometer_rl.true_success import TrueSuccessError, read_success
from robometer_rl.wrappers.frame_sources import Camera, FrameSource, parse_cameras
from robometer_rl.wrappers.guard import EpisodeGuard
from robometer_rl.wrappers.measurements import MeasurementSource, Scalar, State, StateSource
from robometer_rl.wrappers.observation_reader import Indices, MomentReader, Views
from robometer_rl.wrappers.tasks import TaskSource, TaskStages, parse_task

__all__ = ["RecordOptions", "RecordingWrapper", "TrajectoryRecorder"]

logger = logging.getLogger(__name__)

_SMALLEST = 16
_KEPT_ACTIONS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class RecordOptions(TypedDict, total=False):
    """What may be said of a recording, each with its default.

    Attributes:
        skill: Name of the policy that acts, as in ``"expert"`` or ``"random"``; may be set anew between episodes.
        frames: ``"render"`` (the default), ``"obs"``, ``"obs/KEY"``, ``"info/KEY"``, a callable of one environment's
            (obs, info), or `robometer_rl.wrappers.Tiles` of these.
        every: Keep frames 0, every, 2 every, ... counted from the reset, and the last of each episode (1).
        size: Shrink frames until their shorter side has this many pixels; None (the default) to keep them as they are.
        success_key: Info key of true success; None for ``is_success``, else ``success`` (`robometer_rl.true_success`).
        state: Low-dimensional state of the simulator: ``"obs"``, ``"obs/KEY"``, ``"info/KEY"``, a callable of one
            environment's (obs, info), or a mapping of names to these, whose parts are then known by name.
        progress: How far the task has come, in [0, 1], if you can say so: from the same sources.
        distance: How far it is from being done, smaller is better, in any unit: from the same sources.
        split: Which part of the data the episodes belong to (``"train"``).
        data_source: Tag of the data set; by default the name of the environment.
    """

    skill: str | None
    frames: FrameSource
    every: int
    size: int | None
    success_key: str | None
    state: StateSource | None
    progress: MeasurementSource | None
    distance: MeasurementSource | None
    split: str
    data_source: str | None


@dataclass(frozen=True)
class _Origin:
    """What makes an episode the one that it is: the last seed that its environment was given, and resets since then."""

    seed: int
    resets: int = 0

    def __str__(self) -> str:
        return f"seed{self.seed}" if not self.resets else f"seed{self.seed}.{self.resets}"


@dataclass
class _Episode:
    """The running episode of one environment."""

    origin: _Origin | None
    task: str
    skill: str | None
    task_return: float = 0.0
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    success: list[bool] = field(default_factory=list)
    state: list[NDArray[np.float32]] = field(default_factory=list)
    scalars: dict[str, list[np.float32]] = field(default_factory=dict)
    actions: list[NDArray[np.float64]] = field(default_factory=list)


_ONE_INSTRUCTION = "{} cannot be recorded: a trajectory has one instruction; record the stages as tasks"


class TrajectoryRecorder:
    """Keeps what n environments show and writes every episode that ends to a store.

    Args:
        store: The store, or its directory, which is made if it is missing.
        task: Where instructions come from, see `robometer_rl.wrappers.tasks.parse_task`; not `TaskStages`.
        env_id: Name of the environment.
        num_envs: Number of environments.
        observation_space: Of one environment.
        action_space: Of one environment; actions are kept if they are arrays and every step has a frame.
        stacked_spaces: Observation spaces of stacked frames among the layers below, which are no images.
        resets_inside: Whether environments are reset inside the step that ends their episode.
        render_camera: Makes the camera for ``frames="render"``, given the interval of kept frames.
        read_attribute: Values of a named attribute of the chosen environments.
        skill: See `RecordOptions`, also for the others.
        frames: ...
        every: ...
        size: ...
        success_key: ...
        state: ...
        progress: ...
        distance: ...
        split: ...
        data_source: ...

    Attributes:
        store: Where episodes go.
        skill: Of episodes that begin from now on.
        guard: What every reset and step of a wrapper goes through.

    Raises:
        TaskError: The task is not an instruction.
        StoreError: The directory holds something else.
        ValueError: An option that is none; `robometer_rl.frames.FrameError` if frames are not images.
    """

    def __init__(
        self,
        store: TrajectoryStore | str | Path,
        task: TaskSource,
        *,
        env_id: str,
        num_envs: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        stacked_spaces: Sequence[spaces.Space[Any]] = (),
        resets_inside: bool = False,
        render_camera: Callable[[int], Camera],
        read_attribute: Callable[[str, Sequence[int]], Sequence[Any]],
        skill: str | None = None,
        frames: FrameSource = "render",
        every: int = 1,
        size: int | None = None,
        success_key: str | None = None,
        state: StateSource | None = None,
        progress: MeasurementSource | None = None,
        distance: MeasurementSource | None = None,
        split: str = "train",
        data_source: str | None = None,
    ) -> None:
        task = parse_task(task, num_envs)
        if isinstance(task, TaskStages):
            raise ValueError(_ONE_INSTRUCTION.format(task))
        _check_counts(every, size)
        if isinstance(frames, (tuple, list)):
            raise ValueError(f"frames={frames!r} names {len(frames)} cameras; a trajectory has one, or Tiles of them")
        cameras = parse_cameras(frames, observation_space, stacked_spaces, lambda: render_camera(every))
        self._tiled = cameras[0].tiled
        self._reader = MomentReader(
            task,
            cameras,
            every=every,
            num_envs=num_envs,
            read_attribute=read_attribute,
            success_key=success_key,
            resets_inside=resets_inside,
        )
        self._success_key = success_key
        self._every = every
        self._size = size
        self._action_space = action_space if every == 1 and isinstance(action_space, _KEPT_ACTIONS) else None
        self._state = None if state is None else State(state)
        given = {"progress": progress, "distance": distance}
        self._scalars = {name: Scalar(name, source) for name, source in given.items() if source is not None}
        self._split = split
        self._env_id = env_id
        self._data_source = data_source or env_id
        self.skill = skill
        self.guard = EpisodeGuard()
        self._episodes: list[_Episode | None] = [None] * num_envs
        self._origins: list[_Origin | None] = [None] * num_envs
        self._written: set[str] = set()
        self.store = store if isinstance(store, TrajectoryStore) else TrajectoryStore(store)
        self.store.remove_left_over()
        self._seeds = _recorded(self.store)

    @property
    def over(self) -> NDArray[np.bool_]:
        """(n,) whether the episode of an environment has ended, or none has begun."""
        return np.array([episode is None for episode in self._episodes])

    def require_running(self) -> None:
        """Raises `gymnasium.error.ResetNeeded` where a step would continue an episode that is over."""
        self.guard.require_whole()
        if self.over.any():
            ended = np.flatnonzero(self.over).tolist()
            raise ResetNeeded(f"the episodes of environments {ended} have ended; reset them before the next step()")

    def is_recorded(self, seed: int) -> bool:
        """Whether the store has the episode that a reset with ``seed`` begins, of the present skill and this split."""
        return (self._data_source, self._split, self.skill, seed) in self._seeds

    def start(self, indices: Indices, view: Views, seeds: Sequence[int | None]) -> None:
        """Begins episodes.

        Args:
            indices: The environments that were reset.
            view: What they show.
            seeds: The seed that each of them was given, in the order of ``indices``.
        """
        for index in indices.tolist():
            self._drop(index)
        moment = self._reader.reset(indices, view)
        for index, seed in zip(indices.tolist(), seeds, strict=True):
            self._begin(index, moment.instructions[index], seed)
            self._keep(index, as_array(moment.frames[index][0]), 0, view)

    def step(
        self,
        view: Views,
        actions: Any,
        rewards: NDArray[np.float64],
        ended: NDArray[np.bool_],
        starting: NDArray[np.bool_] | None = None,
    ) -> None:
        """Takes note of one step of all environments, and writes the episodes that it ends.

        Args:
            view: What an environment shows after the step, the true terminal frame where its episode ends.
            actions: What was done, by number of the environment.
            rewards: (n,) their own rewards.
            ended: (n,) where the episode is over.
            starting: (n,) where this step was a reset: an episode begins.

        Raises:
            TrueSuccessError: Nothing was said of success in an episode that has ended, or what cannot be read.
            StoreError: Another process has written the same episode.
        """
        moment = self._reader.step(view, ended, starting)
        for index, instructions in moment.instructions.items():
            self._begin(index, instructions, None)
        for index, frames in moment.frames.items():
            self._keep(index, as_array(frames[0]), int(moment.steps[index]), view)
            episode = self._episodes[index]
            if self._action_space is not None and index not in moment.instructions and episode is not None:
                episode.actions.append(np.array(as_array(actions[index]), np.float64).ravel())
        for index, episode in enumerate(self._episodes):
            if episode is not None and index not in moment.instructions:
                episode.task_return += float(rewards[index])
        for index in np.flatnonzero(ended).tolist():
            self._finish(index, view)

    def close(self) -> None:
        """Ends the recording; an episode that is running is not written."""
        for index in range(len(self._episodes)):
            self._drop(index)
        seal_if_installed(self.store)
        logger.info("%s holds %d trajectories, %d of them new", self.store.path, len(self.store), len(self._written))

    def _begin(self, index: int, instructions: Sequence[str], seed: int | None) -> None:
        if len(instructions) > 1:
            raise ValueError(_ONE_INSTRUCTION.format(instructions))
        before = self._origins[index]
        if seed is not None:
            origin = _Origin(int(seed))
        else:
            origin = None if before is None else _Origin(before.seed, before.resets + 1)
        self._origins[index] = origin
        self._episodes[index] = _Episode(
            origin, instructions[0], self.skill, scalars={name: [] for name in self._scalars}
        )

    def _keep(self, index: int, frame: NDArray[np.uint8], step: int, view: Views) -> None:
        episode, moment = self._episodes[index], view(index)
        assert episode is not None, "an episode begins before it is recorded"
        episode.frames.append(frame if self._size is None else _shrunk(frame, self._size))
        episode.steps.append(step)
        # What a reset says of success does not count.
        episode.success.append(step > 0 and bool(read_success(moment.info, self._success_key)))
        if self._state is not None:
            episode.state.append(self._state.of(moment))
        for name, scalar in self._scalars.items():
            episode.scalars[name].append(scalar.of(moment))

    def _finish(self, index: int, view: Views) -> None:
        episode, self._episodes[index] = self._episodes[index], None
        assert episode is not None, "only what has begun ends"
        outcome = self._reader.outcome(view(index))
        if not outcome:
            raise TrueSuccessError(
                f"environment {index}: the infos have said nothing of success in the whole episode, and a recording "
                f"without its outcome teaches nothing; they have {sorted(view(index).info)}. Give success_key=, the "
                "info key that says whether the task is done, or write one into the info in a wrapper inside"
            )
        origin = str(episode.origin or secrets.token_hex(8))
        name = episode_id(
            self._data_source, episode.task.replace(" ", "_"), episode.skill or "run", self._split, origin
        )
        if name in self.store:
            level = logging.WARNING if name in self._written else logging.INFO
            logger.log(level, "%s is recorded already, and not again: give another seed, or name the skill", name)
            return
        self.store.append(self._trajectory(name, episode, outcome["robometer/true_success"]))
        self._written.add(name)
        if episode.origin is not None and not episode.origin.resets:
            self._seeds.add((self._data_source, self._split, episode.skill, episode.origin.seed))

    def _trajectory(self, name: str, episode: _Episode, succeeded: bool) -> Trajectory:
        metadata: dict[str, Any] = {
            "env_id": self._env_id,
            "frame_interval": self._every,
            "return": episode.task_return,
        }
        if self._tiled:
            metadata[TILED] = True
        if self._state is not None and self._state.parts:
            metadata["state_parts"] = {part: list(place) for part, place in self._state.parts.items()}
        if isinstance(self._action_space, spaces.Discrete) and self._action_space.start == 0:
            metadata[DISCRETE_ACTIONS] = int(self._action_space.n)
        measured: dict[str, Any] = {scalar: np.array(values) for scalar, values in episode.scalars.items()}
        return Trajectory(
            id=name,
            task=episode.task,
            frames=np.stack(episode.frames),
            quality_label="successful" if succeeded else "failure",
            data_source=self._data_source,
            success=np.array(episode.success),
            state=np.stack(episode.state) if episode.state else None,
            steps=np.array(episode.steps),
            actions=np.stack(episode.actions) if episode.actions else None,
            skill=episode.skill,
            seed=episode.origin.seed if episode.origin is not None and not episode.origin.resets else None,
            split=self._split,
            metadata=metadata,
            **measured,
        )

    def _drop(self, index: int) -> None:
        episode, self._episodes[index] = self._episodes[index], None
        if episode is not None and episode.steps[-1] > 0:
            logger.warning(
                "environment %d: an episode of %s was broken off after %d steps or more and is not recorded; wrap the "
                "environment in gymnasium.wrappers.TimeLimit if it does not end its episodes itself",
                index,
                episode.origin or "no seed",
                episode.steps[-1],
            )


class RecordingWrapper:
    """What the recording wrappers have in common beside their base classes: they hold a recorder."""

    _recorder: TrajectoryRecorder

    @property
    def store(self) -> TrajectoryStore:
        """Where episodes go, each as soon as it has ended."""
        return self._recorder.store

    @property
    def skill(self) -> str | None:
        """Name of the policy that acts; set it before the reset that begins its episodes."""
        return self._recorder.skill

    @skill.setter
    def skill(self, name: str | None) -> None:
        self._recorder.skill = name

    def is_recorded(self, seed: int) -> bool:
        """Whether the store has the episode that a reset with ``seed`` begins, of the present skill."""
        return self._recorder.is_recorded(seed)


def _recorded(store: TrajectoryStore) -> set[tuple[str, str, str | None, int | None]]:
    """Data source, split, skill and seed of what the store has."""
    if not len(store):  # perhaps there is none yet
        return set()
    columns = store.columns("data_source", "split", "skill", "seed")
    return set(zip(columns["data_source"], columns["split"], columns["skill"], columns["seed"], strict=True))


def _check_counts(every: Any, size: Any) -> None:
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every={every!r}; expected a positive number of steps between kept frames")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < _SMALLEST):
        raise ValueError(f"size={size!r}; expected at least {_SMALLEST} pixels, or None")


def _shrunk(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    scale = size / min(height, width)
    if scale >= 1.0:
        return frame
    shape = (max(round(width * scale), size), max(round(height * scale), size))
    return np.asarray(Image.fromarray(frame).resize(shape, Image.Resampling.BOX))
