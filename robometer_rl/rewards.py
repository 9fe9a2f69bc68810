"""How predictions become a reward: the modes, the success rule, and what a step pays.

Time: an episode of T steps shows T + 1 frames. The frame of the reset is scored (p_0) and pays nothing; step t ends in
frame t + 1, whose prediction p_{t+1} decides what step t pays. Between scored frames the last prediction is held.

Everything here works on arrays: `RewardState` on the running episodes of a batch of environments, `episode_rewards`
on a recorded episode. Both pay through `step_reward` and count through `next_streak`, so a relabelled episode has the
rewards that a live wrapper would have paid.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from numbers import Integral, Real
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robometer_rl.documents import brief, options_of, parse_options
from robometer_rl.frames import scored_steps
from robometer_rl.ranges import LARGEST_COUNT, require_numbers

__all__ = [
    "DEFAULT_REWARD",
    "DEFAULT_SUCCESS_THRESHOLD",
    "EpisodeRewards",
    "NonFiniteRewardError",
    "RewardSpec",
    "RewardState",
    "StepRewards",
    "episode_rewards",
    "is_scored",
    "next_streak",
    "require_finite",
    "step_reward",
    "success_holds",
    "threshold_in_force",
]

Mode = Literal["level", "delta", "potential", "success"]
TerminalPotential = Literal["zero", "keep"]
Unscored = Literal["hold", "zero"]

_LARGEST_REWARD: Final = float(np.finfo(np.float32).max)  # learners keep rewards in 32 bits
_ROUNDING: Final = 1e-6

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

DEFAULT_SUCCESS_THRESHOLD: Final = 0.65
"""Used where neither the spec nor the checkpoint states one; the published model was well calibrated at 0.65-0.69."""


class NonFiniteRewardError(ValueError):
    """A reward that was to be paid is NaN or infinite, by the environment's own part of it or by the weights."""


@dataclass(frozen=True)
class RewardSpec:
    """What a step pays: ``task_weight * task + scale * learned + success_bonus * fires``.

    With p_t the predicted progress, ``learned`` is one of

    * ``"level"``: p_{t+1}. Open to reward hacking: an agent is paid for standing still near the goal.
    * ``"delta"``: p_{t+1} - p_t, which sums to p_T - p_0 over an episode.
    * ``"potential"``: gamma Phi' - Phi with Phi = p, potential-based shaping (Ng, Harada and Russell, 1999), which
      leaves optimal policies as the task reward has them (docs/reference.md §9.2).
    * ``"success"``: 1 while the success rule holds, else 0.

    The success rule holds once the success probability was at least the threshold on ``patience`` consecutive scored
    frames, the frame of the reset not counted; it ``fires`` on the first step of an episode on which it holds.

    Attributes:
        mode: The learned part.
        task_weight: Weight of the environment's own reward, which must be finite unless this is 0.
        scale: Weight of the learned part.
        gamma: Discount in (0, 1] of ``"potential"``, which requires it; the other modes ignore it.
        terminal_potential: Phi' of ``"potential"`` on a terminated step: ``"zero"``, or ``"keep"`` for p_T. A truncated
            episode always keeps p_T, since it would have gone on.
        success_threshold: In [0, 1]; None takes the checkpoint's calibration, else `DEFAULT_SUCCESS_THRESHOLD`.
        patience: Consecutive scored frames that the success rule needs.
        success_bonus: Paid once per episode, on the step on which the success rule fires.
        terminate_on_success: Whether the episode terminates there.
        every: Scoring interval in steps, see `robometer_rl.frames.scored_steps`.
        unscored: What ``"level"`` and ``"success"`` pay between scored frames: the held value, or zero. The others
            act on the held prediction: ``"delta"`` pays 0 there, ``"potential"`` (gamma - 1) p.
        allow_pure_shaping: Permits ``"potential"`` without a task weight, which cannot teach a task by itself.
        confidence: In [0, 1]: progress is paid only where the model is that sure of it, that is where
            ``1 - 2 * uncertainty`` (`robometer_rl.prediction.progress_uncertainty`) is at least this: the gate of RARM
            (arXiv 2606.22027). Elsewhere the last confident progress of the episode is held, so that ``"delta"`` pays
            what has changed once the model is sure again, and ``"level"`` pays nothing. p_0 counts in any case: no
            action leads to it. Success is not held back. None pays all progress.

    Raises:
        ValueError: A value out of its range, or a combination that cannot work; the message says which.
        TypeError: A value of the wrong type.

    Examples:
        >>> spec = RewardSpec(mode="potential", task_weight=1.0, gamma=0.99)
        >>> RewardSpec.from_json(spec.to_json()) == spec
        True
    """

    mode: Mode = "delta"
    task_weight: float = 0.0
    scale: float = 1.0
    gamma: float | None = None
    terminal_potential: TerminalPotential = "zero"
    success_threshold: float | None = None
    patience: int = 2
    success_bonus: float = 0.0
    terminate_on_success: bool = False
    every: int = 1
    unscored: Unscored = "hold"
    allow_pure_shaping: bool = False
    confidence: float | None = None

    def __post_init__(self) -> None:
        self._choose("mode", get_args(Mode))
        self._choose("terminal_potential", get_args(TerminalPotential))
        self._choose("unscored", get_args(Unscored))
        for name in ("task_weight", "scale", "success_bonus"):
            self._finite(name)
        for name in ("patience", "every"):
            self._count(name)
        for name in ("terminate_on_success", "allow_pure_shaping"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.gamma is not None and not 0.0 < self._finite("gamma") <= 1.0:
            raise ValueError(f"gamma must be in (0, 1], got {self.gamma!r}")
        if self.success_threshold is not None and not 0.0 <= self._finite("success_threshold") <= 1.0:
            raise ValueError(f"success_threshold is a probability in [0, 1], got {self.success_threshold!r}")
        if self.mode == "potential":
            self._check_potential()
        if self.confidence is not None:
            self._check_confidence(self.confidence)

    def _check_potential(self) -> None:
        if self.gamma is None:
            raise ValueError("mode='potential' needs gamma, the discount of the agent that will be paid")
        if self.task_weight == 0.0 and not self.allow_pure_shaping:
            raise ValueError(
                "mode='potential' without a task reward cannot teach the task: shaping leaves the best policy as it "
                "was. Give task_weight, another mode, or allow_pure_shaping=True"
            )

    def _check_confidence(self, confidence: float) -> None:
        require_numbers(self, "[0, 1]", "confidence")
        if self.mode == "success":
            raise ValueError(
                "confidence holds back progress, of which mode='success' pays none: give another mode, or a higher "
                "success_threshold"
            )
        object.__setattr__(self, "confidence", float(confidence))

    def _choose(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {getattr(self, name)!r}")

    # Numbers are stored as Python's own, so that a spec written as JSON is equal to the one read back.
    def _finite(self, name: str) -> float:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, got {value!r}")
        try:
            number = float(value)
        except OverflowError:  # an integer beyond all floats
            number = math.inf
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {number!r}")
        if abs(number) > _LARGEST_REWARD:
            raise ValueError(f"{name} must be at most {_LARGEST_REWARD:g}, the largest reward, got {number!r}")
        object.__setattr__(self, name, number)
        return number

    def _count(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} must be an integer, got {value!r}")
        count = int(value)
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}")
        if count > LARGEST_COUNT:
            raise ValueError(f"{name} must be at most {LARGEST_COUNT}, got {brief(count)}")
        object.__setattr__(self, name, count)

    @property
    def needs_success(self) -> bool:
        """Whether what is paid, or when an episode ends, depends on the success probability."""
        return self.mode == "success" or self.success_bonus != 0.0 or self.terminate_on_success

    @property
    def needs_progress(self) -> bool:
        """Whether what is paid depends on the predicted progress."""
        return self.mode != "success" and self.scale != 0.0

    @property
    def needs_uncertainty(self) -> bool:
        """Whether what is paid depends on how sure the model is of progress."""
        return self.confidence is not None and self.needs_progress

    def is_confident(self, uncertainty: ArrayLike | None) -> Bools:
        """Whether progress of such uncertainty is paid, elementwise; a single True if all progress is.

        Args:
            uncertainty: Of progress, any shape; None where the model does not say.

        Raises:
            ValueError: The reward depends on it, and there is none.
        """
        if self.confidence is None or not self.needs_uncertainty:
            return np.ones((), np.bool_)
        if uncertainty is None:
            raise ValueError(f"got no uncertainty of progress, which the reward {self.summary()} needs")
        return np.asarray(1.0 - 2.0 * np.asarray(uncertainty, np.float64) >= self.confidence)

    def summary(self) -> str:
        """The fields that differ from the defaults, as they are written in Python; for messages."""
        given = [(field, getattr(self, field.name)) for field in fields(self)]
        changed = [f"{field.name}={value!r}" for field, value in given if value != field.default]
        return f"RewardSpec({', '.join(changed)})"

    def threshold(self, calibrated: float | None) -> float:
        """The success threshold in force, given a model's ``success_threshold``.

        Raises:
            ValueError: The model's is no probability.
        """
        return threshold_in_force(self.success_threshold, calibrated)

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, values as JSON has them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RewardSpec:
        """The inverse of `to_dict`; absent fields take their defaults.

        Raises:
            ValueError: An unknown field, or a value that is wrong in any way, its type included: it comes from a file
                or a command line.
        """
        return options_of(cls, values)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> RewardSpec:
        """The inverse of `to_json`; see `from_dict`."""
        return parse_options(cls, text)


DEFAULT_REWARD: Final = RewardSpec()


def threshold_in_force(stated: float | None, calibrated: float | None) -> float:
    """The success threshold that a user states, else a model's own, else `DEFAULT_SUCCESS_THRESHOLD`.

    Raises:
        ValueError: The model's applies, and is no probability.
    """
    if stated is not None:
        return stated
    if calibrated is None:
        return DEFAULT_SUCCESS_THRESHOLD
    if not 0.0 <= calibrated <= 1.0:
        raise ValueError(f"the model's success_threshold is {calibrated!r}; expected a probability in [0, 1]")
    return calibrated


def is_scored(step: ArrayLike, every: int, done: ArrayLike) -> Bools:
    """Whether the frame ``step`` steps after a reset is scored: `robometer_rl.frames.scored_steps` as time goes by.

    Args:
        step: Steps since the reset, any shape.
        every: Scoring interval.
        done: Whether the episode ends in this frame, same shape.
    """
    return (np.asarray(step) % every == 0) | np.asarray(done, np.bool_)


def next_streak(streak: ArrayLike, success: ArrayLike, threshold: float) -> NDArray[np.int64]:
    """Consecutive scored frames at or above ``threshold``, one scored frame later.

    Args:
        streak: The count so far, any shape; 0 after a reset, whose frame is not counted.
        success: Success probability in the newly scored frame, same shape.
        threshold: Of `RewardSpec.threshold`.
    """
    return np.where(np.asarray(success) >= threshold, np.asarray(streak) + 1, 0)


def success_holds(success: ArrayLike, threshold: float, patience: int) -> Bools:
    """Whether the success rule holds after each scored frame of an episode, (S,); never after that of the reset.

    Args:
        success: (S,) success probability of the scored frames.
        threshold: Of `RewardSpec.threshold`.
        patience: Of `RewardSpec`.
    """
    streaks = accumulate(
        np.asarray(success)[1:], lambda streak, value: next_streak(streak, value, threshold), initial=np.int64(0)
    )
    return np.array(list(streaks)) >= patience


def step_reward(
    spec: RewardSpec,
    *,
    before: Floats,
    after: Floats,
    success_detected: Bools,
    fires: Bools,
    scored: Bools,
    confident: Bools,
    terminated: Bools,
    task_rewards: Floats,
    unit: str = "step",
) -> Floats:
    """What steps pay, elementwise: over the environments of a batch or over the steps of an episode.

    Args:
        spec: The reward.
        before: Held progress before the step, confident as far as the reward asks for that.
        after: Held progress after it, likewise.
        success_detected: Whether the success rule holds after it.
        fires: Whether that is for the first time in the episode.
        scored: Whether the frame after it was scored.
        confident: Whether the model was sure of the progress that it said last, see `RewardSpec.is_confident`.
        terminated: Whether it terminated the episode, on predicted success included.
        task_rewards: The environment's own reward; whatever it is where it has no weight.
        unit: What the elements are, for messages.

    Returns:
        Rewards of the same shape.

    Raises:
        NonFiniteRewardError: A task reward that has a weight is NaN or infinite, or what would be paid is too large for
            the 32 bits that learners keep rewards in.
    """
    if spec.mode == "level":
        learned = np.where(confident, after, 0.0)
    elif spec.mode == "success":
        learned = success_detected.astype(np.float64)
    elif spec.mode == "delta":
        learned = after - before
    else:
        assert spec.gamma is not None, "RewardSpec requires it"
        potential = np.where(terminated, 0.0, after) if spec.terminal_potential == "zero" else after
        learned = spec.gamma * potential - before
    if spec.unscored == "zero" and spec.mode in ("level", "success"):
        learned = np.where(scored, learned, 0.0)
    # 0 times NaN is NaN, and environments without a reward of their own report it.
    task = require_finite(spec, task_rewards, unit) if spec.task_weight else 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        rewards = spec.task_weight * task + spec.scale * learned + spec.success_bonus * fires
    if not (np.abs(rewards) <= _LARGEST_REWARD).all():
        (wrong,) = np.nonzero(~(np.abs(rewards) <= _LARGEST_REWARD))
        raise NonFiniteRewardError(
            f"the reward is {rewards[wrong[0]]:g} ({unit} {', '.join(map(str, wrong))}), and the largest one that "
            f"learners can keep is {_LARGEST_REWARD:g}: give {spec.summary()} smaller weights"
        )
    return rewards


def require_finite(spec: RewardSpec, task_rewards: Floats, unit: str = "step") -> Floats:
    """Returns the environment's own rewards; raises `NonFiniteRewardError` if some that have a weight are not finite.

    Args:
        spec: The reward.
        task_rewards: One per environment of a batch, or per step of an episode.
        unit: Which of the two, for the message.
    """
    if spec.task_weight != 0.0 and not np.isfinite(task_rewards).all():
        (wrong,) = np.nonzero(~np.isfinite(task_rewards))
        raise NonFiniteRewardError(
            f"the environment's own reward is {task_rewards[wrong[0]]} ({unit} {', '.join(map(str, wrong))}), and "
            f"task_weight={spec.task_weight:g} asks to pay a part of it: mend the environment, or give task_weight=0"
        )
    return task_rewards


@dataclass(frozen=True)
class StepRewards:
    """What one step paid in n environments.

    Attributes:
        rewards: (n,) float64.
        success_detected: (n,) bool, whether the success rule holds.
        fires: (n,) bool, whether it does for the first time in the episode.
        terminated: (n,) bool, as the environments reported it or because predicted success ends the episode.
    """

    rewards: Floats
    success_detected: Bools
    fires: Bools
    terminated: Bools


class RewardState:
    """What a `RewardSpec` has to remember about the running episodes of a batch of environments.

    Args:
        num_envs: Number of environments.
        spec: The reward.
        threshold: Success threshold, see `RewardSpec.threshold`.
    """

    def __init__(self, num_envs: int, spec: RewardSpec, threshold: float) -> None:
        self.spec = spec
        self.threshold = threshold
        self._progress = np.zeros(num_envs)
        self._streak = np.zeros(num_envs, np.int64)
        self._fired = np.zeros(num_envs, np.bool_)

    def start(self, indices: NDArray[np.int64], progress: Floats) -> None:
        """Begins episodes in the chosen environments; ``progress`` (len(indices),) is that of their reset frames."""
        self._progress[indices] = progress
        self._streak[indices] = 0
        self._fired[indices] = False

    def step(
        self,
        *,
        progress: Floats,
        success: Floats | None,
        scored: Bools,
        terminated: Bools,
        task_rewards: Floats,
        completes: ArrayLike = True,
        uncertainty: Floats | None = None,
    ) -> StepRewards:
        """Pays one step of every environment.

        Every argument is (num_envs,), predictions held between scored frames; ``success`` is None where the model says
        none, and so is the ``uncertainty`` of progress. ``completes`` says where success is that of the whole task, so
        that ``terminate_on_success`` may end the episode.

        Raises:
            NonFiniteRewardError: A task reward that has a weight is NaN or infinite.
            ValueError: The reward depends on the uncertainty of progress, and there is none.
        """
        if success is not None:
            self._streak = np.where(scored, next_streak(self._streak, success, self.threshold), self._streak)
        success_detected = self._streak >= self.spec.patience
        fires = success_detected & ~self._fired
        self._fired |= fires
        ended = terminated | np.logical_and(fires, completes) if self.spec.terminate_on_success else terminated
        confident = self.spec.is_confident(uncertainty)
        after = np.where(confident, progress, self._progress)
        rewards = step_reward(
            self.spec,
            before=self._progress,
            after=after,
            success_detected=success_detected,
            fires=fires,
            scored=scored,
            confident=confident,
            terminated=ended,
            task_rewards=task_rewards,
            unit="environment",
        )
        self._progress = after
        return StepRewards(rewards, success_detected, fires, ended)


@dataclass(frozen=True)
class EpisodeRewards:
    """What the T steps of a recorded episode pay.

    Attributes:
        rewards: (T,) float64.
        success_detected: (T,) bool, whether the success rule holds after the step.
        fires: (T,) bool, True at most once.
        progress: (T + 1,) float64, what was paid for: held between scored frames, and where the model was not sure.
        confident: (T + 1,) bool, whether the model was sure of what it said last, see `RewardSpec.is_confident`.
    """

    rewards: Floats
    success_detected: Bools
    fires: Bools
    progress: Floats
    confident: Bools


def episode_rewards(
    spec: RewardSpec,
    progress: ArrayLike,
    success: ArrayLike | None,
    task_rewards: ArrayLike,
    *,
    terminated: bool,
    threshold: float,
    uncertainty: ArrayLike | None = None,
) -> EpisodeRewards:
    """Rewards of a recorded episode of T steps, as a wrapper would have paid them.

    The episode is taken as it was recorded: with ``terminate_on_success``, cut it after the step that fires and pass
    ``terminated=True``.

    Args:
        spec: The reward.
        progress: (S,) progress of the scored frames, S = ``len(scored_steps(T + 1, spec.every))``, as
            `robometer_rl.RewardModel.predict_steps` returns them for T + 1 frames.
        success: (S,) success probability of the same frames; None where the model says none, and then the success
            rule never holds.
        task_rewards: (T,) the environment's own rewards.
        terminated: Whether the last step terminated the episode (False: it was truncated, or the recording stops).
        threshold: Success threshold, see `RewardSpec.threshold`.
        uncertainty: (S,) of the progress of the same frames; None where the model does not say.

    Raises:
        ValueError: The number of predictions does not belong to T steps scored every ``spec.every``, predictions or a
            threshold are NaN or outside [0, 1], or the reward depends on success or uncertainty and there is none.
        NonFiniteRewardError: A task reward that has a weight is NaN or infinite.
    """
    task = np.asarray(task_rewards, np.float64)
    if task.ndim != 1:
        raise ValueError(f"got task_rewards of shape {task.shape}; expected one number per step")
    num_steps = len(task)
    scored = scored_steps(num_steps + 1, spec.every)
    if success is None and spec.needs_success:
        raise ValueError(f"got no success probabilities, which the reward {spec.summary()} needs")
    said = _predictions(progress, success, uncertainty, num_steps, scored, spec.every)
    _require_probabilities("threshold", np.atleast_1d(np.float64(threshold)))
    held = np.searchsorted(scored, np.arange(num_steps + 1), side="right") - 1
    success_detected = np.zeros(num_steps, np.bool_)
    if success is not None:
        success_detected = success_holds(success, threshold, spec.patience)[held][1:]
    fires = success_detected & (np.cumsum(success_detected) == 1)
    confident, believed = _believed(spec, said.get("uncertainty"), len(scored))
    paid_for = said["progress"][believed][held]
    rewards = step_reward(
        spec,
        before=paid_for[:-1],
        after=paid_for[1:],
        success_detected=success_detected,
        fires=fires,
        scored=np.isin(np.arange(1, num_steps + 1), scored),
        confident=confident[held][1:],
        terminated=(np.arange(num_steps) == num_steps - 1) & terminated,
        task_rewards=task,
    )
    return EpisodeRewards(rewards, success_detected, fires, paid_for, confident[held])


def _believed(spec: RewardSpec, uncertainty: Floats | None, count: int) -> tuple[Bools, NDArray[np.int64]]:
    """(count,) whether the model is sure of each scored frame, and which frame's progress counts at each."""
    confident = np.broadcast_to(spec.is_confident(uncertainty), count)
    return confident, np.maximum.accumulate(np.where(confident, np.arange(count), 0))


def _predictions(
    progress: ArrayLike,
    success: ArrayLike | None,
    uncertainty: ArrayLike | None,
    num_steps: int,
    scored: NDArray[np.int64],
    every: int,
) -> dict[str, Floats]:
    """Arrays by name, of one number in [0, 1] per scored frame."""
    given = {"progress": progress, "success": success, "uncertainty": uncertainty}
    said = {name: np.asarray(values, np.float64) for name, values in given.items() if values is not None}
    for name, value in said.items():
        if value.shape != scored.shape:
            raise ValueError(
                f"got {name} of shape {value.shape}; an episode of {num_steps} steps has {num_steps + 1} frames, of "
                f"which {len(scored)} are scored with every={every}"
            )
        _require_probabilities(name, value)
    return said


def _require_probabilities(name: str, values: Floats) -> None:
    inside = (values >= -_ROUNDING) & (values <= 1.0 + _ROUNDING)  # NaN is not
    if not inside.all():
        (wrong,) = np.nonzero(~inside)
        raise ValueError(f"got {name} {values[wrong[0]]:g} at place {wrong[0]}; expected numbers in [0, 1]")
