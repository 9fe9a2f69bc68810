"""Targets as the reference makes them: of a clip's frames, from time, the quality label and a graded outcome alone.

The published model was trained on these (docs/reference.md §5), on recordings of which nothing else is known. What was
judged or measured frame by frame is not looked at; `robometer_rl.data.labels` is about that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.labels import FrameLabels
from robometer_rl.data.targets import (
    ProgressMode,
    TargetConfig,
    last_frame_mask,
    progress_targets,
    success_cutoff,
    success_labels,
    success_mask,
    supervises_progress,
)
from robometer_rl.data.trajectory import Trajectory

__all__ = ["ClipTargets"]


@dataclass(frozen=True)
class ClipTargets:
    """Makes the targets of clips of one recording.

    Attributes:
        num_frames: Length of the recording.
        quality_label: Its outcome.
        data_source: Tag of its data set.
        partial_success: Its graded outcome, if it has one.
        mode: Of progress.
        cutoff: Fraction of the recording at which its task is done.
        preference_only: Data sources without progress.
        legacy: Keep the defects of the reference: those of `progress_targets`, and frames of a graded recording other
            than its last one count as frames without progress, instead of being left out.
    """

    num_frames: int
    quality_label: str
    data_source: str
    partial_success: float | None
    mode: ProgressMode
    cutoff: float
    preference_only: frozenset[str]
    legacy: bool

    @classmethod
    def of(cls, trajectory: Trajectory, config: TargetConfig, cutoffs: Mapping[str, float]) -> ClipTargets | None:
        """The targets of one trajectory; None if ``config`` asks for those that were recorded."""
        if config.rule == "recorded":
            return None
        return cls(
            num_frames=len(trajectory),
            quality_label=trajectory.quality_label,
            data_source=trajectory.data_source,
            partial_success=trajectory.partial_success,
            mode=config.rule,
            cutoff=success_cutoff(trajectory.data_source, cutoffs),
            preference_only=frozenset(config.preference_only),
            legacy=config.legacy,
        )

    def __call__(self, indices: NDArray[np.int64], strategy: str) -> FrameLabels:
        """Targets of the frames at ``indices``, as they are shown, of a clip that is made by ``strategy``."""
        outcome = self.partial_success
        progress = progress_targets(indices, self.num_frames, self.mode, self.cutoff, outcome, self.legacy)
        success = success_labels(progress, self.quality_label, self.cutoff)
        trusted = supervises_progress(self.quality_label, strategy, self.data_source, outcome, self.preference_only)
        shown = np.ones(len(indices), bool) if self.legacy else last_frame_mask(indices, self.num_frames, outcome)
        return FrameLabels(
            progress=progress.astype(np.float32),
            progress_known=shown & trusted,
            success=success,
            success_known=success_mask(progress, success, self.quality_label),
        )
