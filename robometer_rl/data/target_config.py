"""Which rule the targets of training follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robometer_rl.data.cutoffs import published_cutoffs, read_cutoffs

__all__ = ["TargetConfig", "TargetRule"]

TargetRule = Literal["recorded", "absolute_first_frame", "absolute_wrt_total_frames"]


@dataclass(frozen=True)
class TargetConfig:
    """Where progress and success of a frame come from.

    Attributes:
        rule: ``recorded``: what was judged in each frame and what simulator states are worth, and time only where a
            recording has neither (`robometer_rl.data.labels`). The others are the reference's, which go by time and
            outcome whatever else was recorded (`robometer_rl.training.clip_targets`): progress counted from the first
            frame of a clip, as the published model was trained, or from that of the recording. Its third,
            ``relative_first_frame``, has targets below 0, which no head of a Robometer can say.
        reaching: The most that an expert's episode is worth before it moves the object, where simulator states say when
            that is; 1 makes all of them linear in time. An agent that is paid by progress goes where it is paid.
        cutoffs: CSV file with the columns ``data_source`` and ``fraction``: after which fraction of a recording that
            goes by time its task is done; the whole of it for other sources. The published table if None.
        preference_only: Data sources of which only the order of trajectories is learned, and no progress.
        legacy: With the reference's rules, keep their defects; `robometer_rl.data.targets` names them.
    """

    rule: TargetRule = "recorded"
    reaching: float = 0.25
    cutoffs: Path | None = None
    preference_only: tuple[str, ...] = ()
    legacy: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.reaching <= 1.0:
            raise ValueError(f"reaching is the progress of having reached the object, in (0, 1]; got {self.reaching}")
        if self.legacy and self.rule == "recorded":
            raise ValueError(
                "legacy targets are those of the reference's rules; set the rule to absolute_first_frame or "
                "absolute_wrt_total_frames"
            )

    def table(self) -> Mapping[str, float]:
        """Fractions by data source.

        Raises:
            CutoffError: The file cannot be read.
        """
        return published_cutoffs() if self.cutoffs is None else read_cutoffs(self.cutoffs)
