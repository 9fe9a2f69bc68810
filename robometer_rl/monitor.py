"""What a running episode is doing, told from what a reward model says of its frames: for takeovers, stops and filters.

A reward pays; a monitor decides. `Monitor` looks at the newest predictions of several episodes and says of each whether
it is advancing, stalled, regressing, done, or whether the model does not know. `Procedure` leads a robot through
several instructions by it. Neither needs a simulator or torch; ``robometer-rl calibrate --monitor`` chooses the numbers
on recorded episodes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robometer_rl.documents import parse_options
from robometer_rl.frames import check_task
from robometer_rl.prediction import Prediction, StepPrediction
from robometer_rl.ranges import require_counts, require_numbers
from robometer_rl.rewards import threshold_in_force

__all__ = ["STATES", "Monitor", "MonitorSpec", "Order", "Procedure", "Stage", "State", "Status", "episode_states"]

State = Literal["advancing", "stalled", "regressing", "done", "uncertain"]

STATES: Final = get_args(State)
"""All states; how they are told apart, `MonitorSpec` says."""


@dataclass(frozen=True)
class MonitorSpec:
    """What counts as which state, by the first line that is true of an episode. All counts are scored frames.

    * ``"done"``: in ``needed`` of the newest ``out_of`` frames the success probability is at least the threshold and
      progress at least ``least_progress``, the frame of the reset not counted. An episode that is done stays done.
    * ``"uncertain"``: progress is less sure than ``most_uncertainty`` in each of the newest ``doubtful`` frames.
    * ``"regressing"``: progress is at least ``loss`` lower than ``window`` frames ago.
    * ``"stalled"``: progress is not at least ``gain`` higher than ``window`` frames ago.
    * ``"advancing"``: anything else, the first ``window`` frames of an episode included.

    So a robot that stops is noticed after ``window`` frames.

    Attributes:
        success_threshold: In [0, 1]; None takes the model's, else `robometer_rl.rewards.DEFAULT_SUCCESS_THRESHOLD`.
        needed: Frames that say so, at most ``out_of``.
        out_of: Newest frames that are asked.
        least_progress: In [0, 1].
        window: Frames that are looked back.
        gain: In [0, 1].
        loss: In (0, 1].
        most_uncertainty: In (0, 0.5], see `robometer_rl.prediction.progress_uncertainty`; None never doubts.
        doubtful: Frames in a row.

    Raises:
        ValueError: A number out of its range; the message names it.
        TypeError: No number.

    Examples:
        >>> spec = MonitorSpec(window=6, gain=0.03)
        >>> MonitorSpec.from_json(spec.to_json()) == spec
        True
    """

    success_threshold: float | None = None
    needed: int = 2
    out_of: int = 2
    least_progress: float = 0.0
    window: int = 10
    gain: float = 0.02
    loss: float = 0.15
    most_uncertainty: float | None = None
    doubtful: int = 3

    def __post_init__(self) -> None:
        require_counts(self, 1, "needed", "out_of", "window", "doubtful")
        require_numbers(self, "[0, 1]", "least_progress", "gain")
        require_numbers(self, "(0, 1]", "loss")
        if self.success_threshold is not None:
            require_numbers(self, "[0, 1]", "success_threshold")
        if self.most_uncertainty is not None:
            require_numbers(self, "(0, 0.5]", "most_uncertainty")
        if self.needed > self.out_of:
            raise ValueError(f"needed of MonitorSpec is at most out_of, got {self.needed} of {self.out_of} frames")

    def threshold(self, calibrated: float | None) -> float:
        """The success threshold that applies to a model whose own is ``calibrated``; see `threshold_in_force`."""
        return threshold_in_force(self.success_threshold, calibrated)

    def to_json(self) -> str:
        """What `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> MonitorSpec:
        """Reads what `to_json` wrote; absent fields take their defaults.

        Raises:
            ValueError: No such text, an unknown field, or a value that is wrong in any way.
        """
        return parse_options(cls, text)


@dataclass(frozen=True)
class Status:
    """What one episode is doing.

    Attributes:
        state: See `MonitorSpec`.
        frames: For how many scored frames it has been so.
        progress: In the newest frame.
        gained: Progress since ``window`` frames ago, since the first frame in a shorter episode.
    """

    state: State
    frames: int
    progress: float
    gained: float


class Monitor:
    """Follows running episodes by what a model says of their newest frames.

    Args:
        spec: What counts as what.
        episodes: How many run side by side.
        calibrated: The model's own success threshold, ``model.success_threshold``.
        on_change: Called with the number of an episode and its status whenever it enters another state; for logs,
            takeovers and emergency stops. An error in it is raised by `step`.
        confirm: Asked for the number of an episode before it counts as done (a gripper's sensor, a person, a second
            model); while the answer is no, it counts as what it would otherwise be.

    Examples:
        >>> monitor = Monitor(MonitorSpec(window=2, gain=0.1))
        >>> says = lambda progress: StepPrediction([progress], [0.0], np.zeros((1, 0)))
        >>> [monitor.step(says(progress))[0].state for progress in (0.0, 0.2, 0.4, 0.4, 0.4)]
        ['advancing', 'advancing', 'advancing', 'advancing', 'stalled']
    """

    def __init__(
        self,
        spec: MonitorSpec | None = None,
        *,
        episodes: int = 1,
        calibrated: float | None = None,
        on_change: Callable[[int, Status], object] | None = None,
        confirm: Callable[[int], bool] | None = None,
    ) -> None:
        self.spec = spec or MonitorSpec()
        self.threshold = self.spec.threshold(calibrated)
        self._on_change, self._confirm = on_change, confirm
        # The newest frames of each episode, the newest last; NaN before its first.
        self._progress = np.full((episodes, self.spec.window + 1), np.nan)
        self._says_done = np.zeros((episodes, self.spec.out_of), np.bool_)
        self._doubts = np.zeros((episodes, self.spec.doubtful), np.bool_)
        self._states: list[State | None] = [None] * episodes
        self._frames = np.zeros(episodes, np.int64)

    def start(self, indices: Sequence[int] | NDArray[np.int64] | None = None) -> None:
        """Begins the chosen episodes anew, all by default; their next frames are those of a reset."""
        chosen = np.arange(len(self._states)) if indices is None else np.asarray(indices, np.int64)
        self._progress[chosen] = np.nan
        self._says_done[chosen] = self._doubts[chosen] = False
        self._frames[chosen] = 0
        for index in chosen.tolist():
            self._states[index] = None

    def step(self, said: StepPrediction, indices: Sequence[int] | None = None) -> list[Status]:
        """Follows the chosen episodes, all by default, by one frame.

        Args:
            said: What the model says of the newest frame of each, as a stream's ``append`` returns it.
            indices: Which episodes.

        Returns:
            One status per chosen episode.

        Raises:
            ValueError: As many predictions as there are chosen episodes were expected, or the spec limits an
                uncertainty that the model does not give.
        """
        chosen = np.arange(len(self._states)) if indices is None else np.asarray(indices, np.int64)
        if len(said) != len(chosen):
            raise ValueError(f"got predictions of {len(said)} frames for {len(chosen)} episodes; expected one each")
        first = np.isnan(self._progress[chosen, -1])
        self._push(self._progress, chosen, said.progress)
        success = np.zeros(len(chosen)) if said.success is None else said.success
        enough = (success >= self.threshold) & (said.progress >= self.spec.least_progress)
        self._push(self._says_done, chosen, enough & ~first)
        self._push(self._doubts, chosen, self._doubtful(said))
        return [self._follow(index) for index in chosen.tolist()]

    @staticmethod
    def _push(rows: NDArray[np.generic], chosen: NDArray[np.int64], newest: ArrayLike) -> None:
        rows[chosen, :-1] = rows[chosen, 1:]
        rows[chosen, -1] = newest

    def _doubtful(self, said: StepPrediction) -> ArrayLike:
        if self.spec.most_uncertainty is None:
            return False
        if said.uncertainty is None:
            raise ValueError(
                f"the monitor doubts above an uncertainty of {self.spec.most_uncertainty:g}, and this model gives no "
                "distribution of progress; expected most_uncertainty=None"
            )
        return said.uncertainty > self.spec.most_uncertainty

    def _follow(self, index: int) -> Status:
        before = self._states[index]
        progress = self._progress[index]
        known = progress[~np.isnan(progress)]
        gained = float(known[-1] - known[0])
        state = self._state(index, before, gained if len(known) == len(progress) else None)
        self._frames[index] = self._frames[index] + 1 if state == before else 1
        self._states[index] = state
        status = Status(state, int(self._frames[index]), float(known[-1]), gained)
        if state != before and before is not None and self._on_change is not None:
            self._on_change(index, status)
        return status

    def _state(self, index: int, before: State | None, gained: float | None) -> State:
        """``gained`` is None where the episode has not run for a window yet."""
        if before == "done":
            return "done"
        if self._says_done[index].sum() >= self.spec.needed and (self._confirm is None or self._confirm(index)):
            return "done"
        if self._doubts[index].all():
            return "uncertain"
        if gained is None:
            return "advancing"
        if gained <= -self.spec.loss:
            return "regressing"
        return "advancing" if gained >= self.spec.gain else "stalled"


def episode_states(said: Prediction, spec: MonitorSpec | None = None, calibrated: float | None = None) -> list[State]:
    """What a recorded episode was doing in each scored frame, as a monitor would have said.

    For filters: the part of an episode before it stalls, the episodes that never regress.

    Args:
        said: What a model says of it, as ``predict_steps`` returns it.
        spec: See `Monitor`.
        calibrated: See `Monitor`.

    Examples:
        >>> said = Prediction([0.0, 0.5, 0.9], [0.0, 0.9, 0.9], np.zeros((3, 0)), "given", "example")
        >>> episode_states(said)
        ['advancing', 'advancing', 'done']
    """
    monitor = Monitor(spec, calibrated=calibrated)
    states: list[State] = []
    for t in range(len(said)):
        success = None if said.success is None else said.success[t : t + 1]
        newest = StepPrediction(said.progress[t : t + 1], success, said.progress_distribution[t : t + 1])
        states.append(monitor.step(newest)[0].state)
    return states


@dataclass(frozen=True)
class Stage:
    """One instruction of a `Procedure`.

    Attributes:
        task: The instruction.
        timeout: Scored frames that it may take; a stage that takes longer has gone wrong.
        recovery: What to do when it has gone wrong (stalled, regressing, uncertain or late) before it is tried again;
            None tries again at once.
        tries: How often it is tried; when the last try goes wrong, the procedure gives up.

    Raises:
        ValueError: No instruction, or a count below 1.
    """

    task: str
    timeout: int
    recovery: str | None = None
    tries: int = 2

    def __post_init__(self) -> None:
        require_counts(self, 1, "timeout", "tries")
        for task in (self.task, *([] if self.recovery is None else [self.recovery])):
            check_task(task)


@dataclass(frozen=True)
class Order:
    """What the robot is to do now.

    Attributes:
        task: The instruction to follow and to ask the model about; None when there is nothing more to do.
        stage: Number of the stage, from 0.
        recovering: Whether ``task`` is the stage's recovery.
        outcome: ``"running"``, ``"finished"``, or ``"gave up"``.
        status: What the monitor said of the newest frame; None before the first.
        is_new: Whether ``task`` begins with this order: the model's history is to be begun anew with it.
    """

    task: str | None
    stage: int
    recovering: bool
    outcome: Literal["running", "finished", "gave up"]
    status: Status | None
    is_new: bool


class Procedure:
    """Leads one robot through stages: on when one is done, to recovery when one goes wrong, to an end if nothing helps.

    Args:
        stages: At least one.
        spec: What the monitor counts as what.
        calibrated: The model's own success threshold.
        confirm: See `Monitor`; asked for 0.

    Attributes:
        order: What is to be done now.

    Examples:
        >>> procedure = Procedure([Stage("open the drawer", timeout=50), Stage("take out the cup", timeout=80)])
        >>> procedure.order.task
        'open the drawer'
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        spec: MonitorSpec | None = None,
        *,
        calibrated: float | None = None,
        confirm: Callable[[int], bool] | None = None,
    ) -> None:
        if not stages:
            raise ValueError("a Procedure needs at least one Stage, got none")
        self._stages = tuple(stages)
        self._monitor = Monitor(spec, calibrated=calibrated, confirm=confirm)
        self._tries = 1
        self._spent = 0
        self.order = Order(self._stages[0].task, 0, False, "running", None, True)

    def step(self, said: StepPrediction) -> Order:
        """What is to be done after a frame.

        Args:
            said: What the model says of it when asked about the present order's task; one value.

        Raises:
            ValueError: The procedure has ended.
        """
        if self.order.task is None:
            raise ValueError(f"the procedure has {self.order.outcome}; expected no further frame: make another one")
        (status,) = self._monitor.step(said)
        stage = self._stages[self.order.stage]
        self._spent += 1
        late = self._spent >= stage.timeout
        if status.state == "done":
            self.order = self._begin_again(status) if self.order.recovering else self._begin_next(status)
        elif status.state == "advancing" and not late:
            self.order = Order(self.order.task, self.order.stage, self.order.recovering, "running", status, False)
        else:
            self.order = self._mend(stage, status)
        return self.order

    def _mend(self, stage: Stage, status: Status) -> Order:
        """The stage, or its recovery, has gone wrong."""
        if self.order.recovering or stage.recovery is None:
            return self._begin_again(status)
        if self._tries >= stage.tries:
            return Order(None, self.order.stage, False, "gave up", status, False)
        return self._begin(stage.recovery, self.order.stage, True, status)

    def _begin_again(self, status: Status) -> Order:
        stage = self._stages[self.order.stage]
        if self._tries >= stage.tries:
            return Order(None, self.order.stage, False, "gave up", status, False)
        self._tries += 1
        return self._begin(stage.task, self.order.stage, False, status)

    def _begin_next(self, status: Status) -> Order:
        following = self.order.stage + 1
        if following == len(self._stages):
            return Order(None, self.order.stage, False, "finished", status, False)
        self._tries = 1
        return self._begin(self._stages[following].task, following, False, status)

    def _begin(self, task: str, stage: int, recovering: bool, status: Status) -> Order:
        self._monitor.start()
        self._spent = 0
        return Order(task, stage, recovering, "running", status, True)
