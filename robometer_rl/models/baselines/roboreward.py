"""``roboreward:WHERE``: RoboReward, a Qwen3-VL that was trained to print a score of an episode.

The score, 1 to 5, is about the end of the clip. Progress of each frame is the score of the clip that ends there: that
use is the one of Robometer's evaluation, not of RoboReward's authors, who score whole episodes.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.frames import NestedFrames
from robometer_rl.models.baselines.prompted import StepwiseModel
from robometer_rl.models.baselines.vlm import LocalVLM, Question, Video

__all__ = ["PROMPT", "RoboReward", "load", "score_of"]

PROMPT: Final = """\
Given the task, assign a discrete progress score reward (1,2,3,4,5) for the robot in the video in the format: \
ANSWER: <score>
Rubric for end-of-episode progress (judge only the final state without time limits):
1 - No Success: Final state shows no goal-relevant change for the command.
2 - Minimal Progress: Final state shows a small but insufficient change toward the goal.
3 - Partial Completion: The final state shows good progress toward the goal but violates more than one requirement or \
a major requirement.
4 - Near Completion: Final state is correct in region and intent but misses a single minor requirement.
5 - Perfect Completion: Final state satisfies all requirements.

Task: {TASK}"""
"""What checkpoints were trained with, byte for byte; ``{TASK}`` stands for the instruction."""

_ANSWER: Final = re.compile(r"answer:[\s*<]*([1-5])[\s*>.]*", re.IGNORECASE)

Frames = NDArray[np.uint8]


def score_of(text: str) -> int | None:
    """The score that an answer gives behind its last ``ANSWER:``; None if there is no such score, and nothing else.

    Examples:
        >>> score_of("Nearly there. ANSWER: 4"), score_of("ANSWER: 4.5"), score_of("3 out of 5")
        (4, None, None)
    """
    start = text.lower().rfind("answer:")
    found = None if start < 0 else _ANSWER.fullmatch(text[start:])
    return None if found is None else int(found[1])


class RoboReward(StepwiseModel):
    """A loaded RoboReward; see `RewardModel`.

    Args:
        vlm: The checkpoint.
        source: What `load_reward_model` was given.

    Raises:
        CheckpointError: Not a Qwen3-VL.
    """

    def __init__(self, vlm: LocalVLM, source: str) -> None:
        vlm.require_qwen3("RoboReward")
        super().__init__(vlm, source, PROMPT, fps=1)
        self.vlm = vlm
        self.default_protocol = NestedFrames(32)
        # The tool that prepared its videos takes the side of a token for that of a patch where it resizes pictures.
        patcher = vlm.patcher
        double, token = (2 * patcher.factor) ** 2, patcher.factor**2
        self._first = replace(
            patcher, patch_size=2 * patcher.patch_size, min_pixels=4 * double, max_pixels=16384 * double
        )
        self._then = replace(patcher, min_pixels=128 * token, max_pixels=768 * token)

    def question(self, frames: Frames, task: str) -> Question:
        """The clip at one frame a second, an odd last frame twice, and the prompt."""
        shown = self.sized(np.concatenate([frames, frames[-1:]]) if len(frames) % 2 else frames)
        return Question((Video(shown, range(len(shown))), PROMPT.replace("{TASK}", task)))

    def sized(self, frames: Frames) -> Frames:
        """Frames as the checkpoint was shown them: two resizes, of which the second enlarges small ones."""
        return self._then.resize_video(self._first.resize(frames))

    def value(self, text: str) -> float | None:
        """A score of 1 is no progress, one of 5 all of it."""
        score = score_of(text)
        return None if score is None else (score - 1) / 4


def load(where: str, device: str | torch.device = "cpu", dtype: str | None = None) -> RoboReward:
    """Loads a RoboReward; see `robometer_rl.load_reward_model`.

    Args:
        where: ``teetone/RoboReward-4B`` or another: a checkpoint directory, or a Hub id.
        device: Where to run.
        dtype: Precision; as stored if None.

    Raises:
        CheckpointError: The checkpoint is incomplete or of another kind.
    """
    return RoboReward(LocalVLM.load(where, device, dtype), where)
