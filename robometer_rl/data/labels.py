"""Ground truth of recorded episodes: the progress and success of every frame, as far as the source knows them.

True progress, for training and for evaluation:

- An episode of an expert advances linearly in time from 0 at its first frame to 1 at its first success. Where the
  simulator's state says when the object begins to move, reaching it is worth no more than `TargetConfig.reaching`, and
  the rest is linear in time again: an agent that dwells at a handle has achieved next to nothing, but experts spend
  half of their time on getting there.
- Any other frame in which the task is done has progress 1.
- Any other frame is worth what experts are worth in similar states of the simulator, discounted by how far it is from
  all of them (`ExpertStates`). So stopping half-way keeps what was reached, going away from the object loses it, and a
  pose that no expert visits is worth nothing, however it was reached and however long it took.
- Where the source measured progress or a distance, or recorded states of another layout than those of this package's
  simulators, these say what every frame is worth (`robometer_rl.data.worth`). Progress that a source gives comes
  before everything else.
- Where success was judged but no state recorded, a successful episode advances linearly in time, whoever acted; of any
  other, only what the task's success and the graded outcome of the last frame say is known.
- Where neither success nor state was recorded, the quality label decides whether time is a usable guide
  (`targets.supervises_progress`), up to the success cutoff of the data source; otherwise progress is unknown and
  masked out of the loss. A graded outcome is about the last frame, and then no other frame's progress is known.

The reference goes by time alone: `robometer_rl.training.clip_targets`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.targets import (
    TargetConfig,
    last_frame_mask,
    progress_targets,
    success_cutoff,
    success_labels,
    supervises_progress,
)
from robometer_rl.data.trajectories import Described, Trajectories
from robometer_rl.data.trajectory import Trajectory, linear_progress
from robometer_rl.data.worth import STATE_PARTS, UNDONE_CEILING, Measured, measured_progress

__all__ = ["EXPERT", "ExpertStates", "FrameLabels", "group_key", "has_known_layout", "label_trajectories"]

EXPERT = "expert"
"""The skill whose episodes define progress."""

# The weight of a millimetre in finger opening against a millimetre of distance. The simulator reports openings of 0
# to 1 for some 10 cm.
_GRIPPER_METRES = 0.05
_NEIGHBOURS = 8
_BANDWIDTH = 0.02  # metres: states closer than this are the same moment of the task
_REACH = 0.12  # metres: a state this far from every expert is worth 1 / e of the nearest one
_SPREAD = 0.04  # metres by which a relation may differ at success before it counts half
_MOVED = 0.01  # metres by which an object has moved when reaching is over
_MOVED_PART = 0.05  # the same as part of the farthest that it gets

_KNOWN_WIDTH = 21

_HAND, _GRIPPER, _OBJECT, _SECOND, _GOAL = slice(0, 3), slice(3, 4), slice(4, 7), slice(11, 14), slice(18, 21)


@dataclass(frozen=True, eq=False)
class FrameLabels:
    """What the frames of one trajectory are worth under its own instruction.

    Attributes:
        progress: (T,) float32 in [0, 1]; 0 where unknown.
        progress_known: (T,) bool.
        success: (T,) float32, 0 or 1.
        success_known: (T,) bool.
    """

    progress: NDArray[np.float32]
    progress_known: NDArray[np.bool_]
    success: NDArray[np.float32]
    success_known: NDArray[np.bool_]

    def at(self, indices: NDArray[np.int64]) -> FrameLabels:
        """Those of some frames, in the order of ``indices``."""
        return FrameLabels(
            self.progress[indices], self.progress_known[indices], self.success[indices], self.success_known[indices]
        )


def group_key(trajectory: Described) -> str:
    """What makes two trajectories attempts at the same thing: the simulator's task if there is one, else the text.

    The instructions of one trajectory fit all trajectories of a simulator's task, so ``environment`` must name a task,
    and not a simulator in which each episode has another one.
    """
    return str(trajectory.metadata.get("environment", trajectory.task))


def label_trajectories(
    trajectories: Sequence[Trajectory],
    references: Iterable[Trajectory] | None = None,
    config: TargetConfig | None = None,
) -> Sequence[FrameLabels]:
    """Labels every trajectory by what was recorded.

    Trajectories of which single frames were judged are labelled now. All that is known of others is an outcome,
    of which labels are made when they are asked for: there may be a million of them.

    Args:
        trajectories: What to label.
        references: Where to look for experts; ``trajectories`` themselves by default.
        config: Success cutoffs, data sources without progress, and what reaching is worth; the defaults if None. Its
            rule is not looked at.

    Returns:
        One entry per trajectory, in order.

    Raises:
        CutoffError: The table of cutoffs cannot be read.
    """
    settings = config or TargetConfig()
    many = Trajectories.of(trajectories)
    judged = [index for index, each in enumerate(many.facts()) if each.judged]
    members = [many[index] for index in judged]
    others = members if references is None else [each for each in references if each.judged]
    labels = _label_judged(members, others, settings)
    return _Labels(many, dict(zip(judged, labels, strict=True)), settings)


class _Labels(Sequence[FrameLabels]):
    """Labels of trajectories, some of which are made when they are asked for."""

    def __init__(self, trajectories: Trajectories, known: Mapping[int, FrameLabels], settings: TargetConfig) -> None:
        self._trajectories = trajectories
        self._known = known
        self._settings = settings
        self._cutoffs = settings.table()

    def __len__(self) -> int:
        return len(self._trajectories)

    @overload
    def __getitem__(self, index: int) -> FrameLabels: ...
    @overload
    def __getitem__(self, index: slice) -> list[FrameLabels]: ...
    def __getitem__(self, index: int | slice) -> FrameLabels | list[FrameLabels]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        if number in self._known:
            return self._known[number]
        trajectory = self._trajectories[number]
        labels = _label_by_quality(trajectory, success_cutoff(trajectory.data_source, self._cutoffs))
        return _without_progress(labels) if trajectory.data_source in self._settings.preference_only else labels


def _without_progress(labels: FrameLabels) -> FrameLabels:
    return replace(labels, progress_known=np.zeros(len(labels.progress), bool))


def _label_judged(
    trajectories: Sequence[Trajectory], references: Sequence[Trajectory], settings: TargetConfig
) -> list[FrameLabels]:
    cutoffs = settings.table()
    experts: dict[str, list[Trajectory]] = {}
    for trajectory in references:
        if _defines_progress(trajectory) and has_known_layout(trajectory):
            experts.setdefault(group_key(trajectory), []).append(trajectory)
    states = {key: ExpertStates.of(members, settings.reaching) for key, members in experts.items()}
    measured = _measured(trajectories, references, settings.reaching)
    labelled: list[FrameLabels] = []
    for trajectory, found in zip(trajectories, measured, strict=True):
        cutoff = success_cutoff(trajectory.data_source, cutoffs)
        if found is not None:
            labels = _label_measured(trajectory, found.progress, cutoff)
        else:
            labels = _label(trajectory, states.get(group_key(trajectory)), cutoff, settings.reaching)
        if trajectory.data_source in settings.preference_only:
            labels = _without_progress(labels)
        labelled.append(labels)
    return labelled


def has_known_layout(trajectory: Trajectory) -> bool:
    """Whether its states are those of this package's simulators, `robometer_rl.envs.metaworld.STATE_NAMES`."""
    if trajectory.state is None or trajectory.state.shape[1] != _KNOWN_WIDTH:
        return False
    return "environment" in trajectory.metadata and STATE_PARTS not in trajectory.metadata


def _measured(
    trajectories: Sequence[Trajectory], references: Iterable[Trajectory], reaching: float
) -> list[Measured | None]:
    """What the sources measured, task by task; None of trajectories that something else is known of."""
    others: dict[str, list[Trajectory]] = {}
    for trajectory in references:
        others.setdefault(group_key(trajectory), []).append(trajectory)
    groups: dict[str, list[int]] = {}
    for index, trajectory in enumerate(trajectories):
        if trajectory.progress is not None or not has_known_layout(trajectory):
            groups.setdefault(group_key(trajectory), []).append(index)
    found: list[Measured | None] = [None] * len(trajectories)
    for key, members in groups.items():
        values = measured_progress([trajectories[index] for index in members], others.get(key, []), reaching)
        for index, value in zip(members, values, strict=True):
            found[index] = value
    return found


def _label_measured(trajectory: Trajectory, progress: NDArray[np.float32], cutoff: float) -> FrameLabels:
    """Progress as it was measured, and success as it was judged, or as the outcome says of the last frame."""
    known = np.ones(len(trajectory), bool)
    if trajectory.success is not None:
        return FrameLabels(progress, known, trajectory.success.astype(np.float32), known.copy())
    judged = _label_by_quality(trajectory, cutoff)
    return FrameLabels(progress, known, judged.success, judged.success_known)


def _label(trajectory: Trajectory, experts: ExpertStates | None, cutoff: float, reaching: float) -> FrameLabels:
    if trajectory.success is None:
        return _label_by_quality(trajectory, cutoff)
    success = trajectory.success.astype(np.float32)
    known = np.ones(len(trajectory), bool)
    if _defines_progress(trajectory):
        progress = _expert_progress(trajectory, reaching)
    elif experts is not None and has_known_layout(trajectory):
        assert trajectory.state is not None
        progress = np.where(trajectory.success, 1.0, np.minimum(experts.progress(trajectory.state), UNDONE_CEILING))
    else:
        progress, known = _progress_without_state(trajectory)
    return FrameLabels(progress.astype(np.float32), known, success, np.ones(len(trajectory), bool))


def _progress_without_state(trajectory: Trajectory) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Progress of a recording in which only success was judged frame by frame, and where it is known."""
    assert trajectory.success is not None
    if trajectory.quality_label == "successful" and trajectory.success_index:
        return linear_progress(len(trajectory), trajectory.success_index), np.ones(len(trajectory), bool)
    progress, known = trajectory.success.astype(np.float32), trajectory.success.copy()
    if trajectory.partial_success is not None and not trajectory.success[-1]:
        progress[-1], known[-1] = trajectory.partial_success, True
    return progress, known


def _label_by_quality(trajectory: Trajectory, cutoff: float) -> FrameLabels:
    outcome, frames = trajectory.partial_success, range(len(trajectory))
    usable = supervises_progress(trajectory.quality_label, None, trajectory.data_source, outcome)
    progress = progress_targets(frames, len(trajectory), cutoff=cutoff, partial_success=outcome)
    success = success_labels(progress, trajectory.quality_label)
    known = last_frame_mask(frames, len(trajectory), outcome) & usable
    # Somewhere between its middle and its end a demonstration begins to look done; nobody said where.
    decided = (known & ((progress < 0.5) | (success == 1))) | (trajectory.quality_label != "successful")
    if outcome is not None:
        progress[-1], known[-1] = outcome, True
    return FrameLabels(np.where(known, progress, 0.0).astype(np.float32), known, success, decided)


def _defines_progress(trajectory: Trajectory) -> bool:
    return trajectory.skill == EXPERT and bool(trajectory.success_index)


def _expert_progress(trajectory: Trajectory, reaching: float) -> NDArray[np.float32]:
    assert trajectory.success_index is not None
    time = linear_progress(len(trajectory), trajectory.success_index)
    if not has_known_layout(trajectory):
        return time
    assert trajectory.state is not None
    reached = float(time[_reached(trajectory.state[: trajectory.success_index + 1])])
    if reached <= reaching:
        return time
    return np.interp(time, [0.0, reached, 1.0], [0.0, reaching, 1.0]).astype(np.float32)


def _reached(state: NDArray[np.float32]) -> int:
    """The last frame of (T, 21) states before the object moves; the first one if it never does."""
    way = np.linalg.norm(state[:, _OBJECT] - state[0, _OBJECT], axis=1)
    moved = int(np.argmax(way > max(_MOVED, _MOVED_PART * float(way.max()))))  # 0 if it never does
    return max(moved - 1, 0)


class ExpertStates:
    """What experts are worth, by simulator state, for one task.

    States are compared by where the hand, the objects and the goal are relative to each other, so that episodes with
    different goals can be compared. Relations that experts do not bring about, such as the place of an object that the
    task is not about, differ at success from episode to episode and count less for it.
    """

    def __init__(
        self, features: NDArray[np.float64], progress: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> None:
        """Features (N, F) in metres and progress (N,) of N states of experts, and the weight (F,) of each feature."""
        self._features = features * weights
        self._progress = progress
        self._weights = weights

    @classmethod
    def of(cls, experts: Sequence[Trajectory], reaching: float) -> ExpertStates:
        """Collects the frames of expert episodes up to their first success.

        Args:
            experts: Successful episodes with states.
            reaching: The most that they are worth before the object moves.
        """
        features, progress = [], []
        for expert in experts:
            assert expert.state is not None
            assert expert.success_index is not None
            end = expert.success_index + 1
            features.append(_relative(expert.state[:end]))
            progress.append(_expert_progress(expert, reaching)[:end])
        at_success = np.stack([episode[-1] for episode in features])
        return cls(np.concatenate(features), np.concatenate(progress).astype(np.float64), _consistency(at_success))

    def progress(self, state: NDArray[np.float32]) -> NDArray[np.float64]:
        """Progress in [0, 1] of (T, 21) states, see `robometer_rl.envs.metaworld.STATE_NAMES`."""
        query = _relative(state) * self._weights
        squared = ((query[:, None] - self._features[None]) ** 2).sum(-1)
        count = min(_NEIGHBOURS, len(self._features))
        nearest = np.argpartition(squared, count - 1, axis=1)[:, :count]
        distance = np.sqrt(np.take_along_axis(squared, nearest, axis=1))
        closest = distance.min(axis=1, keepdims=True)
        weight = np.exp(-(((distance - closest) / _BANDWIDTH) ** 2))
        value = (weight * self._progress[nearest]).sum(1) / weight.sum(1)
        # Experts of unseen goals are a bandwidth apart themselves; only what lies beyond that is a departure.
        departure = np.maximum(closest[:, 0] - _BANDWIDTH, 0.0)
        return value * np.exp(-((departure / _REACH) ** 2))


def _relative(state: NDArray[np.float32]) -> NDArray[np.float64]:
    """(T, 13) features of (T, 21) states; relations to a missing object are constant or copies of the hand's place."""
    values = state.astype(np.float64)
    hand, thing, second, goal = (values[:, part] for part in (_HAND, _OBJECT, _SECOND, _GOAL))
    second_present = np.any(second != 0.0, axis=1, keepdims=True)
    pieces = [hand - thing, hand - goal, thing - goal, (hand - second) * second_present]
    return np.concatenate([*pieces, _GRIPPER_METRES * values[:, _GRIPPER]], axis=1)


def _consistency(at_success: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weight (F,) of each relation from its features (episodes, F) at success."""
    spread = at_success.std(axis=0)[:12].reshape(4, 3)
    relation = np.sqrt((spread**2).sum(axis=1))
    return np.append(np.repeat(1.0 / (1.0 + (relation / _SPREAD) ** 2), 3), 1.0)
