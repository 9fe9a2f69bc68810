"""``gvl:WHERE``: generative value learning (GVL, arXiv 2411.04549), any vision-language model shown shuffled frames.

The frames of a clip are shown in random order, the first of them once more in front, and the model says of each how far
the task has come. Nothing was trained for that; order cannot be guessed from position.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.documents import brief
from robometer_rl.frames import Clip, FrameProtocol, NestedFrames, scored_steps
from robometer_rl.models.baselines.prompted import Engine, PromptedModel, open_engine
from robometer_rl.models.baselines.vlm import Question
from robometer_rl.models.reward_model import UnreadableAnswerError
from robometer_rl.prediction import Prediction
from robometer_rl.ranges import LARGEST_COUNT

__all__ = ["GVL", "completions_of", "load", "shown_frames"]

logger = logging.getLogger(__name__)

_OPENING: Final = (
    "You judge how far robots have come with their tasks, from pictures. The task of this robot: {task}\n"
    "Completion is a percentage: 0 where nothing has been done yet, 100 where the task is done. It may fall, where "
    "something that was done is undone.\n"
    "This is the robot before it began, at 0 percent:"
)
_ASKED: Final = (
    "The pictures below were taken while it worked on the task, {task}, and are shown in random order. Judge each by "
    "what can be seen in it, not by its place. Answer with a JSON list and nothing else, with one object for each of "
    '{which}, such as {{"frame_number": 1, "frame_description": "the gripper is above the handle", '
    '"task_completion_percentage": 20}}.'
)
_PROMPT: Final = f"{_OPENING}\n{_ASKED}"
_FENCED: Final = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)
_DECODER: Final = json.JSONDecoder()
_MOST_PERCENT: Final = 1e6  # beyond it a number is a mistake; NaN is not within it either
_PIXELS: Final = 50_176, 200_704  # of a picture: what becomes 49 to 196 tokens of Qwen3-VL
_TOKENS_PER_FRAME: Final = 100

Frames = NDArray[np.uint8]


def shown_frames(frames: int, most: int) -> list[int]:
    """Frames of a clip that are shown: the first, the last, and others evenly between.

    Args:
        frames: Of the clip.
        most: How many at most, 3 or more.
    """
    if frames <= most:
        return list(range(frames))
    inner = [1 + int(0.5 + i * (frames - 2) / (most - 2)) for i in range(most - 2)]
    return sorted({0, *(min(each, frames - 1) for each in inner), frames - 1})


def completions_of(text: str) -> dict[int, float]:
    """What an answer says of each frame, by its number: completion in [0, 1].

    A number that is given twice counts as it was given last. What is no whole number of a frame, or no finite number
    of percent, is left out.

    Examples:
        >>> completions_of('[{"frame_number": 2, "task_completion_percentage": 40}]')
        {2: 0.4}
    """
    found: dict[int, float] = {}
    for entry in _list_in(text):
        number, percent = entry.get("frame_number"), entry.get("task_completion_percentage")
        if not isinstance(percent, (int, float)) or isinstance(percent, bool):
            continue
        if type(number) is int and -_MOST_PERCENT < percent < _MOST_PERCENT:
            found[number] = min(max(percent / 100, 0.0), 1.0)
    return found


def _list_in(text: str) -> list[dict[str, Any]]:
    """The objects of the first JSON list of objects in a text, within a fenced block if there is one."""
    fenced = _FENCED.search(text)
    inside = fenced[1] if fenced else text
    start = inside.find("[")
    while start >= 0:
        try:
            found, _ = _DECODER.raw_decode(inside, start)
        except ValueError:
            found = []
        except RecursionError:  # lists in lists beyond reason, each of which would be tried
            return []
        if entries := [entry for entry in found if isinstance(entry, dict)]:
            return entries
        start = inside.find("[", start + 1)
    return []


class GVL(PromptedModel):
    """A vision-language model that says how far each of some shuffled frames has come; see `RewardModel`.

    Frames that the answer leaves out are asked about once more. Those that are still missing are worth what the shown
    frame before them is, as frames that were not shown are.

    Args:
        engine: Who is asked.
        source: What `load_reward_model` was given.
        max_frames: Most frames shown at once.
        seed: Of their order.

    Attributes:
        max_new_tokens: Where an answer is cut.

    Raises:
        ValueError: Fewer than three frames, or a negative seed.
    """

    causal = False

    def __init__(self, engine: Engine, source: str, max_frames: int = 15, seed: int = 0) -> None:
        _check(max_frames, seed)
        super().__init__(engine, source, _PROMPT, max_frames=max_frames, seed=seed)
        self.max_frames, self.seed = max_frames, seed
        self.default_protocol: FrameProtocol = NestedFrames(max_frames)
        self.max_new_tokens = _TOKENS_PER_FRAME * (max_frames + 1)

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict`; the frames given are the whole clip.

        Raises:
            UnreadableAnswerError: Neither answer says anything of any frame.
        """
        return [self._said(clip, np.arange(len(clip)), 1) for clip in clips]

    def predict_steps(
        self, clips: Sequence[Clip], protocol: FrameProtocol | None = None, every: int = 1
    ) -> list[Prediction]:
        """See `RewardModel.predict_steps`; one question per episode, whatever the protocol."""
        return [self._said(clip, scored_steps(len(clip), every), every) for clip in clips]

    def _said(self, clip: Clip, steps: NDArray[np.int64], every: int) -> Prediction:
        task = self.engine.check_task(clip.task)
        shown = shown_frames(len(steps), self.max_frames)
        frames = clip.read(steps[shown])
        # One order per number of frames: the same clip is always asked about in the same way.
        order = np.random.default_rng((self.seed, len(shown))).permutation(len(shown))
        with self.lock:
            completions = self._asked(frames, order, task)
        # The first frame is at 0 percent, as the model was told, unless it says otherwise.
        values, said = np.zeros(len(steps)), {int(order[number - 1]): each for number, each in completions.items()}
        last = 0.0
        for place, step in enumerate(shown):
            last = said.get(place, last)
            values[step:] = last
        return self._prediction(values, "given", every)

    def _asked(self, frames: Frames, order: NDArray[np.int64], task: str) -> dict[int, float]:
        """Completions by the number under which a frame was shown, counted from 1."""
        found: dict[int, float] = {}
        missing, text = list(range(1, len(order) + 1)), ""
        for _ in range(2):
            which = f"the pictures {', '.join(map(str, missing))}" if found else "them"
            (text,) = self.engine.answers([self._question(frames, order, task, which)], self.max_new_tokens)
            found |= {number: value for number, value in completions_of(text).items() if number in missing}
            missing = [number for number in missing if number not in found]
            if not missing:
                return found
        self.unanswered += len(missing)
        if not found:
            raise UnreadableAnswerError(
                f"{self.model_id} says of none of {len(order)} frames how far they have come, asked twice; it answers "
                f"{brief(text)}"
            )
        logger.warning("%s says nothing of %d of %d frames, asked twice", self.model_id, len(missing), len(order))
        return found

    def _question(self, frames: Frames, order: NDArray[np.int64], task: str, which: str) -> Question:
        parts: list[str | Frames] = [_OPENING.replace("{task}", task), frames[0]]
        parts.append(_ASKED.format(task=task, which=which))
        for number, place in enumerate(order, 1):
            parts += [f"Frame {number}:", frames[place]]
        return Question(tuple(parts))


def load(
    where: str, device: str | torch.device = "cpu", dtype: str | None = None, max_frames: int = 15, seed: int = 0
) -> GVL:
    """Loads a GVL; see `robometer_rl.load_reward_model`.

    Args:
        where: ``MODEL@https://HOST/v1`` behind an endpoint of OpenAI's kind, or a Qwen-VL that runs here: a checkpoint
            directory, or a Hub id.
        device: Where weights run.
        dtype: Precision of weights; as stored if None.
        max_frames: Most frames shown at once.
        seed: Of their order.

    Raises:
        CheckpointError: The checkpoint is incomplete or of another kind.
        ValueError: Fewer than three frames, or a negative seed.
    """
    _check(max_frames, seed)
    return GVL(open_engine(where, device, dtype, *_PIXELS), where, max_frames, seed)


def _check(max_frames: int, seed: int) -> None:
    for name, value, least in (("max_frames", max_frames, 3), ("seed", seed, 0)):
        if type(value) is not int or not least <= value <= LARGEST_COUNT:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {brief(value)}")
