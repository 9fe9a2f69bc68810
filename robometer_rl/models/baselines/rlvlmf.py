"""``rlvlmf:WHERE``: RL-VLM-F (arXiv 2402.03681) as a judge of pairs: in which of two pictures is the goal closer?

Its authors train a reward on such labels; here only the comparison is asked for. It sees the last frame of each clip,
and nothing of what came before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.frames import Clip, TaskError, UniformFrames
from robometer_rl.models.baselines.prompted import AskingModel, Engine, open_engine
from robometer_rl.models.baselines.vlm import Question
from robometer_rl.models.reward_model import UnsupportedByModelError
from robometer_rl.prediction import Prediction

__all__ = ["RLVLMF", "choice_of", "load"]

_PROMPT: Final = (
    "The goal of the robot: {task}\n"
    "Describe in a sentence what Image 1 shows, and in another what Image 2 shows, as far as it matters to the goal. "
    "Then say in which of them the goal is closer to being reached.\n"
    "Write a last line that holds one number and nothing else: 0 if it is closer in Image 1, 1 if it is closer in "
    "Image 2, -1 if there is no difference or you are not sure."
)
_CHOICE: Final = re.compile(r"(?<![\w.,+-])(-1|0|1)(?![\w,]|\.\w)")
_FIRST_IS_BETTER: Final = {"0": 1.0, "1": 0.0, "-1": 0.5}
_PIXELS: Final = 50_176, 401_408  # of a picture

Frames = NDArray[np.uint8]


def choice_of(text: str) -> float | None:
    r"""What an answer chooses in its last line: 1 for the first picture, 0 for the second, 0.5 for neither.

    Examples:
        >>> choice_of("The drawer is open in the first.\n0"), choice_of("-1"), choice_of("Answer: 10")
        (1.0, 0.5, None)
    """
    lines = [line for line in text.splitlines() if line.strip()]
    found = _CHOICE.findall(lines[-1]) if lines else []
    return _FIRST_IS_BETTER[found[-1]] if found else None


class RLVLMF(AskingModel):
    """A vision-language model that compares the last frames of two clips; see `RewardModel`.

    It prefers neither where it says so, and where its answer cannot be read, which is counted.

    Args:
        engine: Who is asked.
        source: What `load_reward_model` was given.
    """

    has_progress = False
    max_new_tokens = 512
    default_protocol = UniformFrames(1)

    def __init__(self, engine: Engine, source: str) -> None:
        super().__init__(engine, source, _PROMPT)

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """Raises `UnsupportedByModelError`: it only compares."""
        raise UnsupportedByModelError(
            f"the model {self.model_id!r} compares clips and does not say how far a task has come"
        )

    def compare(self, pairs: Sequence[tuple[Clip, Clip]], both_orders: bool = False) -> NDArray[np.float32]:
        """See `RewardModel.compare`; in both orders, the one that can be read counts where the other cannot.

        Raises:
            TaskError: The two clips of a pair have different tasks.
        """
        with self.lock:
            first = self.ask([self._question(one, other) for one, other in pairs], choice_of)
            second: list[float | None] = [None] * len(pairs)
            if both_orders:
                said = self.ask([self._question(other, one) for one, other in pairs], choice_of)
                second = [None if each is None else 1.0 - each for each in said]
        return np.array([_mean(each) for each in zip(first, second, strict=True)], np.float32)

    def _question(self, first: Clip, second: Clip) -> Question:
        if first.task != second.task:
            raise TaskError(f"a pair has one task, got {first.task!r} and {second.task!r}")
        task = self.engine.check_task(first.task)
        last = [clip.read([len(clip) - 1])[0] for clip in (first, second)]
        return Question(("Image 1:", last[0], "Image 2:", last[1], _PROMPT.replace("{task}", task)))


def _mean(said: tuple[float | None, ...]) -> float:
    known = [each for each in said if each is not None]
    return float(np.mean(known)) if known else 0.5


def load(where: str, device: str | torch.device = "cpu", dtype: str | None = None) -> RLVLMF:
    """Loads an RL-VLM-F; see `robometer_rl.load_reward_model`.

    Args:
        where: ``MODEL@https://HOST/v1`` behind an endpoint of OpenAI's kind, or a Qwen-VL that runs here: a checkpoint
            directory, or a Hub id.
        device: Where weights run.
        dtype: Precision of weights; as stored if None.

    Raises:
        CheckpointError: The checkpoint is incomplete or of another kind.
    """
    return RLVLMF(open_engine(where, device, dtype, *_PIXELS), where)
