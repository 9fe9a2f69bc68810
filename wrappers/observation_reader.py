"""What environments show, read on the thread that steps them, so that it can be scored there or on another."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robometer_rl.frames import Frame, FrameError, as_array, grey_stacks
from robometer_rl.rewards import is_scored
from robometer_rl.true_success import SuccessLatch, TrueSuccessError, find_success
from robometer_rl.wrappers.frame_sources import Camera, View
from robometer_rl.wrappers.rendering import is_frame_key
from robometer_rl.wrappers.tasks import TaskSource, read_instructions

__all__ = ["Indices", "Moment", "MomentReader", "SharedBufferWarning", "Views"]

Indices = NDArray[np.int64]
"""Numbers of environments."""

Views = Callable[[int], View]
"""What the environment of a number shows; asked where it is needed only."""


class SharedBufferWarning(UserWarning):
    """The last frame of an episode may have been overwritten by the reset that followed in the same step."""


@dataclass(frozen=True)
class Moment:
    """What n environments showed after one step or reset: copies of all that scoring it takes.

    Attributes:
        instructions: By the environments that begin an episode in this moment: what is to be done in it, one
            instruction per stage.
        frames: By the environments whose frame is scored: one (H, W, 3) uint8 frame per camera. Tensors where the
            environments show tensors.
        steps: (n,) steps since each environment's reset.
        achieved: (n,) whether the task was done after any of them; None as long as the environment has not said.
    """

    instructions: Mapping[int, tuple[str, ...]]
    frames: Mapping[int, Sequence[Frame]]
    steps: NDArray[np.int64]
    achieved: Sequence[bool | None]

    @property
    def begun(self) -> Indices:
        """The environments that begin an episode in this moment."""
        return np.array(list(self.instructions), np.int64)

    @property
    def scored(self) -> Indices:
        """The environments whose frame is scored."""
        return np.array(list(self.frames), np.int64)


class MomentReader:
    """Reads frames, instructions and outcomes from a batch of environments, and knows which frames are scored.

    Args:
        task: Where instructions come from, as `robometer_rl.wrappers.tasks.parse_task` returns it.
        cameras: Where frames come from.
        every: Scoring interval.
        num_envs: Number of environments.
        read_attribute: Values of a named attribute of the chosen environments.
        success_key: Info key of true success, see `robometer_rl.true_success`.
        resets_inside: Whether environments are reset inside the step that ends their episode.

    Warns:
        SharedBufferWarning: They are, and the last frame of an episode equals the first of the next. Once.
    """

    def __init__(
        self,
        task: TaskSource,
        cameras: Sequence[Camera],
        *,
        every: int,
        num_envs: int,
        read_attribute: Callable[[str, Sequence[int]], Sequence[Any]],
        success_key: str | None,
        resets_inside: bool,
    ) -> None:
        self._task = task
        self._cameras = cameras
        self._every = every
        self._read_attribute = read_attribute
        self._success_key = success_key
        self._success = [SuccessLatch(success_key) for _ in range(num_envs)]
        self._steps = np.zeros(num_envs, np.int64)
        self._newest: dict[int, Sequence[Frame]] = {}
        self._last: dict[int, Sequence[Frame]] = {}
        # `RenderToInfo` has copied its frames before the reset.
        in_doubt = [camera for camera in cameras if not _is_copied(camera)]
        self._may_share_buffer = resets_inside and bool(in_doubt)

    def reset(self, indices: Indices, view: Views) -> Moment:
        """Reads the first moment of new episodes.

        Args:
            indices: The environments that were reset; all of them the first time.
            view: What they show.
        """
        moment = self._read(indices, indices, view)
        self._compare_with_the_end(moment)
        return moment

    def step(self, view: Views, ended: NDArray[np.bool_], starting: NDArray[np.bool_] | None = None) -> Moment:
        """Reads the moment after a step of all environments.

        Args:
            view: What an environment shows after the step, the true terminal frame where its episode ends.
            ended: (n,) whether the environment says that the episode is over.
            starting: (n,) where this step was a reset.

        Raises:
            FrameError: A frame that is no colour image.
            TrueSuccessError: The info says something about success that cannot be read.
        """
        starting = np.zeros(len(self._steps), np.bool_) if starting is None else starting
        self._steps[~starting] += 1
        scored = starting | is_scored(self._steps, self._every, ended)
        for index in np.flatnonzero(~starting).tolist():
            try:
                self._success[index].note(view(index).info)
            except TrueSuccessError as error:
                raise TrueSuccessError(f"environment {index}: {error}") from error
        moment = self._read(np.flatnonzero(starting), np.flatnonzero(scored), view)
        self._last = {index: moment.frames[index] for index in np.flatnonzero(ended).tolist()}
        return moment

    def outcome(self, last: View) -> dict[str, Any]:
        """The info entry with the true success of an episode that has ended; empty if the environment does not say.

        Raises:
            KeyError: The info has no ``success_key``.
        """
        achieved = self._success[last.index].achieved
        if achieved is None and self._success_key is not None and find_success(last.info, self._success_key) is None:
            raise KeyError(
                f"environment {last.index}: the info at the end of an episode has no success_key "
                f"{self._success_key!r}; it has {sorted(last.info)}"
            )
        return {} if achieved is None else {"robometer/true_success": achieved}

    def _read(self, begun: Indices, scored: Indices, view: Views) -> Moment:
        instructions = read_instructions(self._task, begun.tolist(), view, self._read_attribute)
        self._steps[begun] = 0
        for index in begun.tolist():
            self._success[index].begin()
            self._newest.pop(index, None)
        views = [view(index) for index in scored.tolist()]
        shown = zip(*(camera.frames(views) for camera in self._cameras), strict=True)
        frames = dict(zip(scored.tolist(), shown, strict=True))
        self._require_colour(frames)
        return Moment(
            instructions=dict(zip(begun.tolist(), instructions, strict=True)),
            frames=frames,
            steps=self._steps.copy(),
            achieved=[latch.achieved for latch in self._success],
        )

    def _require_colour(self, frames: Mapping[int, Sequence[Frame]]) -> None:
        """Refuses grey frames that are stacked to what has the shape of a colour image."""
        known = [index for index in frames if index in self._newest]
        for number, camera in enumerate(self._cameras):
            now = [frames[index][number] for index in known]
            stacked = grey_stacks(now, [self._newest[index][number] for index in known])
            if any(stacked):
                raise FrameError(
                    f"environment {known[stacked.index(True)]}, frames={camera.name!r}: the channels are three grey "
                    "frames one after the other, not colours: put the stacking of frames outside the reward wrapper, "
                    "and give colour frames"
                )
        self._newest.update(frames)

    def _compare_with_the_end(self, begun: Moment) -> None:
        """Warns if the first frame of an episode is also the last one of the episode before, as in a shared buffer."""
        if not self._may_share_buffer:
            return
        for index in begun.frames.keys() & self._last.keys():
            # Whatever comes out, one look is enough: who shares a buffer does so every time.
            self._may_share_buffer = False
            for camera, first, last in zip(self._cameras, begun.frames[index], self._last[index], strict=True):
                if not _is_copied(camera) and np.array_equal(as_array(first), as_array(last)):
                    warnings.warn(
                        f"frames={camera.name!r}: the last frame of an episode of environment {index} equals the "
                        "first frame of the next. If the environment draws into one buffer, then the reset inside the "
                        "step has drawn over the last frame, and the last step of every episode is paid for the wrong "
                        "one: return copies, for instance by wrapping each sub-environment in gymnasium.wrappers."
                        "TransformObservation(env, copy.deepcopy, env.observation_space). If nothing has moved in the "
                        "episode, all is well",
                        SharedBufferWarning,
                        stacklevel=2,
                    )
                    return


def _is_copied(camera: Camera) -> bool:
    return is_frame_key(camera.name.removeprefix("info/"))
