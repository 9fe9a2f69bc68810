"""``robodopamine:WHERE``: the reward model of Robo-Dopamine (GRM), a Qwen-VL that was trained to compare two moments.

It is shown where a task began, what it looks like when it is done, a moment before and a moment after, from three
cameras each, and prints by how many percent what was left has been done, or what had been done was undone. Here one
camera stands for all three.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.documents import brief
from robometer_rl.frames import FrameProtocol, NestedFrames
from robometer_rl.models.baselines.prompted import ChainModel, Engine, StepwiseModel, open_engine
from robometer_rl.models.baselines.vlm import Question
from robometer_rl.video.images import decode_image

__all__ = ["PROMPT", "Forward", "Incremental", "Mode", "hop_of", "load"]

Mode = Literal["incremental", "forward"]
"""``incremental``: each frame is compared with the one before it, and what is said is added up. ``forward``: each frame
is compared with the first."""

PROMPT: Final = """
You are a rigorous, impartial vision evaluator for robot task progress. Your job is to judge whether the AFTER image \
set moves closer to the task objective than the BEFORE image set, using the provided reference examples only as \
anchors.

<Task>
`{task}`

REFERENCE EXAMPLES (for visual anchoring only; not necessarily this run's actual START/END):
- REFERENCE START — Robot Front Image (task just starting): <image>
- REFERENCE END — Robot Front Image (task fully completed): <image>
</Task>

BEFORE Robot Front Image: <image>
BEFORE Robot Left Wrist Image: <image>
BEFORE Robot Right Wrist Image: <image>

AFTER Robot Front Image: <image>
AFTER Robot Left Wrist Image: <image>
AFTER Robot Right Wrist Image: <image>

Goal
Compare the BEFORE and AFTER three-view sets and judge whether AFTER moves closer to accomplishing the task than \
BEFORE, using the REFERENCE START/END images as conceptual anchors.

Progress Estimation (no formulas)
1) Calibrate using the references:
   - REFERENCE START = “just beginning”; REFERENCE END = “fully completed.”
   - Visually estimate how far BEFORE and AFTER are along this START→END continuum.
2) Direction:
   - AFTER better than BEFORE → positive score.
   - AFTER worse than BEFORE → negative score.
   - Essentially the same → 0.
3) Normalize to an integer percentage in [-100%, +100%]:
   - For improvements, scale the improvement relative to what remained from BEFORE to END.
   - For regressions, scale the deterioration relative to how far BEFORE had progressed from START.
   - Clip to [-100%, +100%] and round to the nearest integer percent.

Evaluation Criteria (apply across all three views)
1) Task Alignment: Evidence directly tied to `{task}`.
2) Completeness & Accuracy: Correct pose, contact, placement, orientation, grasp quality, absence of collisions, \
stability, etc.
3) View-Specific Evidence & Consistency:
   - Use the **Front** view for global layout, object pose, approach path, end-state geometry, and scene-level \
constraints.
   - Use the **Left/Right Wrist** views to inspect **fine-grained gripper state** (finger closure, contact \
location/area, slippage, wedge/misalignment, object deformation, cable/wire/cloth entanglement, unintended contact, \
occluded collisions).
   - When views disagree, prioritize the view that provides **decisive cues** for the criterion at hand. In \
particular, wrist views often **override** for grasp/contact validity and safety.
   - If any single view shows a failure that invalidates success (e.g., mis-grasp, collision, unsafe/unstable pose), \
let that override when judging progress.
4) Ignore Irrelevant Factors: Lighting, color shifts, background clutter, or UI/watermarks that don't affect task \
success.
5) Ambiguity: If evidence is genuinely inconclusive or conflicting without decisive cues, treat progress as \
unchanged → 0%.

Output Format (STRICT)
Return ONLY one line containing the score wrapped in <score> tags, as an integer percentage with a percent sign:
<score>+NN%</score>  or  <score>-NN%</score>  or  <score>0%</score>
"""
"""What checkpoints were trained with, byte for byte: ``{task}`` is the instruction, ``<image>`` stands for pictures."""

_PIXELS: Final = 12_544, 76_800  # of a picture, in training
_SCORE: Final = re.compile(r"\s*([+-]?\d+(?:\.\d+)?)\s*%?\s*")
_GREY: Final = np.full((224, 224, 3), 128, np.uint8)

Frames = NDArray[np.uint8]


def hop_of(text: str) -> float | None:
    """The share that an answer names behind its last ``<score>``, or alone, in [-1, 1]; None if there is none.

    Examples:
        >>> hop_of("<score>+35%</score>"), hop_of("-5%"), hop_of("<score>3O%</score>")
        (0.35, -0.05, None)
    """
    inside = text.rpartition("<score>")[2].partition("</score>")[0]
    found = _SCORE.fullmatch(inside)
    return None if found is None else min(max(float(found[1]), -100.0), 100.0) / 100


def question_about(start: Frames, goal: Frames, before: Frames, after: Frames, task: str) -> Question:
    """What is asked about two moments, each (H, W, 3), as is what the task looks like at its start and its end."""
    pictures = [start, goal, before, before, before, after, after, after]
    texts = [text.replace("{task}", task) for text in PROMPT.split("<image>")]
    parts = [part for pair in zip(texts, pictures, strict=False) for part in pair]
    return Question((*parts, texts[-1]))


class Incremental(ChainModel):
    """A GRM whose comparisons of neighbouring frames are added up; see `RewardModel`.

    Args:
        engine: Who is asked.
        source: What `load_reward_model` was given.
        goal: (H, W, 3) the task done; grey if None, as its authors advise where no such picture is at hand.
    """

    def __init__(self, engine: Engine, source: str, goal: Frames | None = None) -> None:
        super().__init__(engine, source, PROMPT, mode="incremental", goal=_known_as(goal))
        self.goal = _GREY if goal is None else goal

    def question(self, start: Frames, before: Frames, after: Frames, task: str) -> Question:
        """See `ChainModel.question`."""
        return question_about(start, self.goal, before, after, task)

    def hop(self, text: str) -> float | None:
        """See `hop_of`."""
        return hop_of(text)

    def after(self, progress: float, hop: float) -> float:
        """A rise does that share of what is left, a fall undoes that share of what has been done."""
        return progress + ((1.0 - progress) * hop if hop >= 0 else progress * hop)


class Forward(StepwiseModel):
    """A GRM that compares each frame with the first; see `RewardModel`.

    Args:
        engine: Who is asked.
        source: What `load_reward_model` was given.
        goal: See `Incremental`.
    """

    default_protocol: FrameProtocol = NestedFrames(2)  # the first frame and the newest

    def __init__(self, engine: Engine, source: str, goal: Frames | None = None) -> None:
        super().__init__(engine, source, PROMPT, mode="forward", goal=_known_as(goal))
        self.goal = _GREY if goal is None else goal

    def shown(self, history: Sequence[int]) -> Sequence[int]:
        """The first and the last."""
        return sorted({history[0], history[-1]})

    def question(self, frames: Frames, task: str) -> Question | float:
        """The last of the frames against the first, which has come nowhere."""
        if len(frames) == 1:
            return 0.0
        return question_about(frames[0], self.goal, frames[0], frames[-1], task)

    def value(self, text: str) -> float | None:
        """What has been done of all there was to do; nothing, where the frame is worse than the first."""
        hop = hop_of(text)
        return None if hop is None else max(hop, 0.0)


def load(
    where: str,
    device: str | torch.device = "cpu",
    dtype: str | None = None,
    mode: Mode = "incremental",
    goal: str | Path | None = None,
) -> Incremental | Forward:
    """Loads a GRM; see `robometer_rl.load_reward_model`.

    Args:
        where: ``tanhuajie2001/Robo-Dopamine-GRM-3B`` or another: a checkpoint directory, a Hub id, or
            ``MODEL@https://HOST/v1``.
        device: Where weights run.
        dtype: Precision of weights; as stored if None.
        mode: What frames are compared with.
        goal: Picture of the task done; grey if None.

    Raises:
        CheckpointError: The checkpoint is incomplete or of another kind.
        ValueError: No such mode, or a file that is no picture.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}; got {brief(mode)}")
    picture = None if goal is None else decode_image(Path(goal))
    kind = Incremental if mode == "incremental" else Forward
    return kind(open_engine(where, device, dtype, *_PIXELS), where, picture)


def _known_as(goal: Frames | None) -> str:
    return "grey" if goal is None else hashlib.sha256(goal.tobytes()).hexdigest()
