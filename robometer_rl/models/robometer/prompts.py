"""The texts that Robometer checkpoints were trained with: constants, byte for byte (docs/reference.md §2.2)."""

from __future__ import annotations

from dataclasses import dataclass

from robometer_rl.frames import TaskError, check_task

__all__ = [
    "ANNOUNCE_A",
    "ANNOUNCE_B",
    "CLOSING",
    "EXTRA_TOKENS",
    "PREF_TOKEN",
    "PROG_TOKEN",
    "QWEN2_5_CHAT",
    "QWEN3_CHAT",
    "SMOLVLM_CHAT",
    "SPLIT_TOKEN",
    "VISION_END",
    "VISION_START",
    "Chat",
    "preference_prompt",
    "progress_prompt",
]

SPLIT_TOKEN = "<|split_token|>"
PREF_TOKEN = "<|pref_token|>"
PROG_TOKEN = "<|prog_token|>"
# In the order in which they follow the base vocabulary. The reward and sim tokens are unused but occupy rows.
EXTRA_TOKENS = (SPLIT_TOKEN, "<|reward_token|>", PREF_TOKEN, "<|sim_token|>", PROG_TOKEN)

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
IMAGE_PAD = "<|image_pad|>"
VIDEO_PAD = "<|video_pad|>"

_PROGRESS_SENTENCE = (
    "predict the task progress at each frame{which}, how far along the robot is towards completing the task, a float "
    "between 0 and 1, where 0 is the starting state and 1 is when the task is completed. If the robot is not "
    "performing the same task, predict 0 progress."
)
_PROGRESS = "The task for the robot is '{task}'. Given the trajectory video, " + _PROGRESS_SENTENCE
_PREFERENCE = (
    "Given these two trajectories for the task '{task}', evaluate which one makes more progress towards the task. "
    "Return A for the first trajectory and B for the second trajectory."
)
_PREFERENCE_PROGRESS = " Also " + _PROGRESS_SENTENCE

ANNOUNCE_A = "This is Trajectory A. "
ANNOUNCE_B = "This is Trajectory B. "
CLOSING = "Now predict the preference between the two trajectories."


def progress_prompt(task: str) -> str:
    """Text before the first frame of a single trajectory."""
    return _PROGRESS.format(task=task, which="")


def preference_prompt(task: str, with_progress: bool) -> str:
    """Text before the first trajectory of a pair; ``with_progress`` also asks for the first one's progress."""
    prompt = _PREFERENCE.format(task=task)
    if with_progress:
        prompt += _PREFERENCE_PROGRESS.format(which=" of the first trajectory")
    return prompt


def caption(number: int) -> str:
    """Text before the ``number``-th image of a prompt, counted from 1, where images have captions."""
    return f"Picture {number}: "


@dataclass(frozen=True)
class Chat:
    """How the chat template of a language model writes a user's turn with pictures in it.

    Attributes:
        opening: Special tokens and texts before the turn's own text, which continues the last of them.
        before: Special tokens before those of a picture.
        image: Stands in the place of every token that a picture becomes.
        after: Special tokens after those of a picture.
        end: Ends the turn, with a newline behind it.
        video: What stands for frame pairs in video mode; None where that mode is not read.
        has_captions: Whether ``caption`` stands before every picture.
        axes: 3 where rope positions of a picture spread over time, height and width; 1 where its tokens are counted
            like words.
    """

    opening: tuple[str, ...]
    before: tuple[str, ...]
    image: str
    after: tuple[str, ...]
    end: str
    video: str | None = None
    has_captions: bool = False
    axes: int = 3

    @property
    def special(self) -> tuple[str, ...]:
        """All special tokens."""
        visual = (self.image,) if self.video is None else (self.image, self.video)
        parts = (*self.opening, self.end, *self.before, *self.after, *visual)
        return tuple(dict.fromkeys(part for part in parts if part.startswith("<")))

    def caption(self, number: int) -> str:
        """Text before the ``number``-th picture, counted from 1; empty where there is none."""
        return caption(number) if self.has_captions else ""


QWEN3_CHAT = Chat(
    opening=(TURN_START, "user\n"),
    before=(VISION_START,),
    image=IMAGE_PAD,
    after=(VISION_END,),
    end=TURN_END,
    video=VIDEO_PAD,
    has_captions=True,
)
QWEN2_5_CHAT = Chat(
    opening=(TURN_START, "system\nYou are a helpful assistant.", TURN_END, "\n", TURN_START, "user\n"),
    before=(VISION_START,),
    image=IMAGE_PAD,
    after=(VISION_END,),
    end=TURN_END,
    has_captions=True,
)
SMOLVLM_CHAT = Chat(
    opening=(TURN_START, "User: "),
    before=("<fake_token_around_image>", "<global-img>"),
    image="<image>",
    after=("<fake_token_around_image>",),
    end="<end_of_utterance>",
    axes=1,
)


def check_prompt_task(task: str, reserved: frozenset[str]) -> str:
    """Returns ``task``; raises `TaskError` if a reserved token is spelled out in it.

    Such a text would add a frame or an answer position to the prompt, and the values would belong to other frames.
    """
    check_task(task)
    found = sorted(token for token in reserved if token in task)
    if found:
        raise TaskError(f"the task {task!r} contains {found}, which the model reserves; leave them out")
    return task
