"""What samples are drawn from: recorded episodes without their frames, as many as there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.labels import FrameLabels, group_key, label_trajectories
from robometer_rl.data.targets import TargetConfig
from robometer_rl.data.trajectories import Trajectories
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.training.clip_targets import ClipTargets

__all__ = ["Episode", "make_episodes"]


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """A trajectory as the sampler sees it: everything but its frames, and little memory, since there may be millions.

    Attributes:
        index: Its position in the data set.
        task: What it is an attempt at; two episodes with the same value are attempts at the same thing.
        instructions: The ways to say it, the first being the recorded one.
        successful: Whether the task is done in its last frame.
        num_frames: How many frames it has.
        truth: Ground truth of the frames of all episodes.
        grade: Graded outcome in [0, 1], if the source grades.
        source: Number of the source that it comes from, where samples are drawn from several by weights.
    """

    index: int
    task: str
    instructions: tuple[str, ...]
    successful: bool
    num_frames: int
    truth: _Truth
    grade: float | None = None
    source: int = 0

    def __len__(self) -> int:
        return self.num_frames

    @property
    def labels(self) -> FrameLabels:
        """Ground truth of its frames."""
        return self.truth.labels[self.index]

    def targets(self, indices: NDArray[np.int64], strategy: str) -> FrameLabels:
        """What the frames at ``indices`` should say in a clip that is made by ``strategy``."""
        made = self.truth.clip_targets(self.index)
        return self.labels.at(indices) if made is None else made(indices, strategy)


@dataclass(frozen=True, eq=False)
class _Truth:
    """Ground truth of all episodes, of each when it is asked for.

    Attributes:
        trajectories: In the order of the episodes.
        labels: Of each.
        config: Which rule targets follow.
        cutoffs: Success cutoffs of data sources.
    """

    trajectories: Trajectories
    labels: Sequence[FrameLabels]
    config: TargetConfig
    cutoffs: Mapping[str, float]

    def clip_targets(self, index: int) -> ClipTargets | None:
        """Makes the targets of clips in the place of labels, where training goes by a rule of the reference."""
        if self.config.rule == "recorded":
            return None
        return ClipTargets.of(self.trajectories[index], self.config, self.cutoffs)


def make_episodes(
    trajectories: Sequence[Trajectory],
    targets: TargetConfig | None = None,
    source_of: Mapping[str, int] | None = None,
    labels: Sequence[FrameLabels] | None = None,
) -> list[Episode]:
    """Labels trajectories and keeps what the sampler needs.

    Args:
        trajectories: In the order in which the sampler is to number them.
        targets: Which rule their targets follow; what was recorded if None.
        source_of: `Episode.source` by id; one source without it.
        labels: Ground truth of each trajectory, where it is known already; what was recorded says it if None.

    Raises:
        CutoffError: The table of success cutoffs cannot be read.
    """
    config = targets or TargetConfig()
    many = Trajectories.of(trajectories)
    known = label_trajectories(many, config=config) if labels is None else labels
    truth = _Truth(many, known, config, config.table())
    tasks: dict[str, str] = {}  # many episodes share one text, which is kept once
    spoken: dict[tuple[str, ...], tuple[str, ...]] = {}
    episodes: list[Episode] = []
    for index, each in enumerate(many.facts()):
        task, texts = group_key(each), (each.task, *each.instructions)
        episodes.append(
            Episode(
                index=index,
                task=tasks.setdefault(task, task),
                instructions=spoken.setdefault(texts, texts),
                successful=each.quality_label == "successful",
                num_frames=len(each),
                truth=truth,
                grade=each.partial_success,
                source=source_of[each.id] if source_of else 0,
            )
        )
    return episodes
