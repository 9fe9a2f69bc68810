"""A recorded run of a robot (or a person) on a task: what training and evaluation read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from robometer_rl.documents import brief
from robometer_rl.frames import Clip, FrameSequence, as_array, check_task

__all__ = ["DISCRETE_ACTIONS", "JUDGED", "TILED", "QualityLabel", "Trajectory", "TrajectoryError", "linear_progress"]

TILED: Final = "tiled"
"""The entry of `Trajectory.metadata` that is true where frames show several cameras, see `robometer_rl.tiles`."""

JUDGED: Final = ("success", "progress", "state", "distance")
"""Fields of `Trajectory` by which single frames are judged."""

DISCRETE_ACTIONS: Final = "discrete_actions"
"""The entry of `Trajectory.metadata` that says of how many actions one is chosen, where actions are its numbers."""

QualityLabel = Literal["successful", "suboptimal", "failure"]


class TrajectoryError(ValueError):
    """A trajectory that cannot be learned from; the message names it and what is wrong with it."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Frames of one run with its instruction, its outcome and where it came from (docs/reference.md §4.1).

    Arrays named "per frame" have one entry for each of the T recorded frames; None means that the source does not
    know. They are never estimated here.

    Attributes:
        id: Unique name within a data set.
        task: The instruction, a non-empty string.
        frames: (T, H, W, 3) RGB with T >= 2; may be lazy, see `robometer_rl.frames.Clip`.
        quality_label: ``successful``, ``suboptimal`` or ``failure``.
        data_source: Tag of the data set that it belongs to, as in ``metaworld``.
        is_robot: False for videos of people.
        partial_success: Graded outcome in [0, 1], if the source grades.
        success: (T,) bool per frame: the source's own judgement that the task is done in that frame.
        progress: (T,) float32 per frame, in [0, 1]: how far the task has come, as the source measures it itself.
        state: (T, D) float32 per frame: low-dimensional simulator state.
        proprioception: (T, D) float32 per frame: what the robot measures of itself, as in joint angles. Nothing is
            judged by it; it is kept for policies.
        actions: (T, A) or (T - 1, A) float64, for policies, too: row t is what was done when frame t was seen, and led
            to frame t + 1. There are T rows where what the last one led to was not recorded.
        distance: (T,) float32 per frame: distance to the goal, as the simulator measures it; smaller is better, the
            unit is the source's own.
        steps: (T,) int64 per frame: environment steps since reset; frame 0 is the reset observation's.
        instructions: Paraphrases of ``task``, without ``task`` itself.
        skill: Name of the policy that acted, if known.
        seed: Seed of the episode, if known.
        split: ``train`` or ``test``, or another name that the source gives.
        source: Where it was imported from: a file or a Hub id, then ``#`` and the episode inside it if it holds
            several, as in ``demo.hdf5#data/demo_3``. None for simulators.
        metadata: Further facts of the source, JSON values only.

    Raises:
        TaskError: ``task`` is not a non-empty string.
        FrameError: The frames are not RGB images.
        TrajectoryError: Fewer than 2 frames; a per-frame array of another length, with values that are not finite, or
            that are not what its type says (a success of 0.5, a step of 1.5, steps that go back); an unknown quality
            label; progress or a partial success outside [0, 1]; a seed that is no whole number; or an empty id, data
            source, split or source.
    """

    id: str
    task: str
    frames: FrameSequence
    quality_label: QualityLabel
    data_source: str
    is_robot: bool = True
    partial_success: float | None = None
    success: NDArray[np.bool_] | None = None
    progress: NDArray[np.float32] | None = None
    state: NDArray[np.float32] | None = None
    distance: NDArray[np.float32] | None = None
    steps: NDArray[np.int64] | None = None
    proprioception: NDArray[np.float32] | None = None
    actions: NDArray[np.float64] | None = None
    instructions: tuple[str, ...] = ()
    skill: str | None = None
    seed: int | None = None
    split: str = "train"
    source: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("id", "data_source", "split", *(["source"] if self.source is not None else [])):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise TrajectoryError(f"trajectory {self.id!r} has the {name} {value!r}; expected a non-empty string")
        object.__setattr__(self, "frames", Clip(self.frames, self.task).frames)
        if isinstance(self.instructions, str):
            raise TrajectoryError(f"{self._called} has the instructions {brief(self.instructions)}; expected a tuple")
        for instruction in self.instructions:
            check_task(instruction)
        if len(self.frames) < 2:
            raise TrajectoryError(f"trajectory {self.id!r} has {len(self.frames)} frame(s); expected at least 2")
        if self.quality_label not in get_args(QualityLabel):
            raise TrajectoryError(
                f"trajectory {self.id!r} has the quality label {self.quality_label!r}; "
                f"expected one of {get_args(QualityLabel)}"
            )
        self._set_scalars()
        self._set_per_frame("success", np.bool_, ndim=1)
        self._set_per_frame("progress", np.float32, ndim=1)
        if self.progress is not None and not (self.progress.min() >= 0.0 and self.progress.max() <= 1.0):
            raise TrajectoryError(
                f"trajectory {self.id!r} has progress from {self.progress.min():g} to {self.progress.max():g}; "
                "expected values in [0, 1], 0 where nothing is done and 1 where the task is"
            )
        self._set_per_frame("state", np.float32, ndim=2)
        self._set_per_frame("distance", np.float32, ndim=1)
        self._set_per_frame("steps", np.int64, ndim=1)
        self._set_per_frame("proprioception", np.float32, ndim=2)
        self._set_per_frame("actions", np.float64, ndim=2, may_lack_last=True)
        self._require_order()

    @property
    def _called(self) -> str:
        return f"trajectory {self.id!r}"

    def _set_scalars(self) -> None:
        """Checks the numbers of which there is one; they are stored as Python's own, as JSON has them."""
        if self.partial_success is not None:
            value = self.partial_success
            if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 <= float(value) <= 1.0:
                raise TrajectoryError(f"{self._called} has partial success {brief(value)}; expected a value in [0, 1]")
            object.__setattr__(self, "partial_success", float(value))
        if self.seed is not None:
            if isinstance(self.seed, bool) or not isinstance(self.seed, Integral):
                raise TrajectoryError(f"{self._called} has the seed {brief(self.seed)}; expected a whole number")
            object.__setattr__(self, "seed", int(self.seed))

    def _require_order(self) -> None:
        if self.distance is not None and (self.distance < 0).any():
            raise TrajectoryError(
                f"{self._called} has a distance of {self.distance.min():g}; expected 0 or more metres"
            )
        if self.steps is not None and (self.steps[0] < 0 or (np.diff(self.steps) < 0).any()):
            raise TrajectoryError(
                f"{self._called} has steps that are below 0 or go back, {brief(self.steps.tolist())}; expected "
                "environment steps since the reset, in order"
            )

    def _set_per_frame(self, name: str, dtype: type[np.generic], ndim: int, *, may_lack_last: bool = False) -> None:
        if getattr(self, name) is None:
            return
        try:
            given = as_array(getattr(self, name))
        except ValueError as error:
            raise TrajectoryError(f"{self._called} has {name} that cannot be read: {error}") from error
        count = len(self.frames)
        if given.ndim != ndim or len(given) not in ((count, count - 1) if may_lack_last else (count,)):
            raise TrajectoryError(
                f"{self._called} has {name} of shape {given.shape} for {count} frames; expected {ndim} dimension(s), "
                f"one entry per frame{', or for all but the last' if may_lack_last else ''}"
            )
        if given.dtype.kind not in "biuf":
            raise TrajectoryError(
                f"{self._called} has {name} of dtype {given.dtype}; expected {np.dtype(dtype)} of every frame, or None "
                "instead of the array where some are not known"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            array = given.astype(dtype, copy=False)
        if not (np.isfinite(given).all() and np.isfinite(array).all()):
            raise TrajectoryError(f"{self._called} has NaN or infinite values in {name}")
        if np.dtype(dtype).kind != "f" and (wrong := np.flatnonzero(array != given)).size:
            raise TrajectoryError(
                f"{self._called} has {name} {given[wrong[0]]:g} in frame {wrong[0]}; expected "
                f"{'True or False (1 or 0)' if dtype is np.bool_ else 'whole numbers'}"
            )
        object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its frames."""
        return self.clip().size

    @property
    def judged(self) -> bool:
        """Whether anything is known of single frames: success, progress, state or distance."""
        return any(getattr(self, name) is not None for name in JUDGED)

    @property
    def tiled(self) -> bool:
        """Whether its frames show several cameras in one picture, see `robometer_rl.tiles`."""
        return self.metadata.get(TILED) is True

    @property
    def success_index(self) -> int | None:
        """Index of the first frame in which the task is done; None if it never is, or if nobody judged."""
        if self.success is None or not self.success.any():
            return None
        return int(np.argmax(self.success))

    def clip(self, task: str | None = None) -> Clip:
        """The frames with the instruction, or with another ``task``, as a model is asked about them."""
        return Clip(self.frames, self.task if task is None else task)


def linear_progress(num_frames: int, success_index: int) -> NDArray[np.float32]:
    """Progress of an expert as time has it: linear from 0 at the reset frame to 1 at first success, 1 from then on.

    It says nothing about a run that wanders, and is meant for runs that head for the goal all the time. True progress
    is this where no states were recorded, see `robometer_rl.data.labels`.

    Args:
        num_frames: T, frames of the episode.
        success_index: Index of the first frame in which the task is done, 1 <= success_index < T.

    Returns:
        (T,) float32 in [0, 1].

    Raises:
        ValueError: ``success_index`` is not a frame after the reset frame.

    Examples:
        >>> linear_progress(6, success_index=4).tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """
    if not 1 <= success_index < num_frames:
        raise ValueError(
            f"first success at frame {success_index} of {num_frames}; expected 1 <= success_index < {num_frames}"
        )
    return np.minimum(np.arange(num_frames) / success_index, 1.0).astype(np.float32)
