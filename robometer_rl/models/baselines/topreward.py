"""``topreward:WHERE``: TOPReward (arXiv 2602.19313), how likely a vision-language model finds it that a task was done.

The model is shown what has happened so far and a statement, and one number is read off it: the log-probability that it
goes on with ``True``. Nothing was trained for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from robometer_rl.documents import brief
from robometer_rl.frames import Clip, FrameProtocol, NestedFrames, scored_steps
from robometer_rl.models.baselines.prompted import PromptedModel
from robometer_rl.models.baselines.scored_token import last_token_log_probabilities
from robometer_rl.models.baselines.vlm import Film, LocalVLM, Picture, Prompt, Video, pair_seconds
from robometer_rl.models.robometer.patches import resize_frame
from robometer_rl.models.robometer.prompts import TURN_END
from robometer_rl.prediction import Prediction
from robometer_rl.ranges import require_counts, require_numbers

__all__ = ["Rule", "Settings", "Shown", "TOPReward", "Value", "curve", "load", "prefix_lengths"]

Rule = Literal["authors", "reference"]
"""``authors``: every frame of a prefix is shown, at its own time and in its own shape. ``reference``: what Robometer's
evaluation does, which shows four or five frames of a prefix, squashed to a square, as if filmed at 24 frames a second.
"""

Value = Literal["curve", "probability"]

_OPENING: Final = "The above video shows a robot manipulation trajectory that completes the following task: "
_DECIDE: Final = " Decide whether the above statement is True or not. The answer is:"
_SHOWN_FPS: Final = 2.0
_MOST_FRAMES: Final = 64
_SIDE: Final = 224  # to which the reference squashes frames
_ASSUMED_FPS: Final = 24.0  # of a film that says nothing of it
_LEAST_KEPT: Final = 4
_OLD_FACTOR: Final = 28  # side of a token of the models before Qwen3-VL
_OLD_CELLS: Final = 128, 768  # of a frame of a video at least and at most, in squares of that factor
_VIDEO_PIXELS: Final = 4096, 25_165_824  # of one frame at least, and of a whole video at most, in Qwen3-VL's settings

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Shown:
    """The frames of a prefix that are shown, and when.

    Attributes:
        frames: Numbers in the clip.
        seconds: When each was filmed.
    """

    frames: list[int]
    seconds: list[float]


@dataclass(frozen=True)
class Settings:
    """How a model is asked, and what is made of its answer.

    Attributes:
        rule: Which frames of a prefix are shown.
        chat_template: Whether the statement stands within the turn of the user; otherwise it is left open behind the
            video. None for what the rule does: the reference's does, the authors' does not.
        value: What progress is. The ``curve`` of a clip is stretched over it: 0 where its prefixes are least likely to
            show the task done and 1 where they are most likely to. So every clip holds a 0 and a 1, and curves of two
            clips cannot be compared. ``probability`` is that of the word itself: comparable, known before the clip has
            ended, and often very small.
        prefixes: Most prefixes of a clip that are asked about for a curve.
        fps: Frames per second of clips; of more than two a second, two are shown.

    Raises:
        ValueError: One of them is none.
    """

    rule: Rule = "authors"
    chat_template: bool | None = None
    value: Value = "curve"
    prefixes: int = 15
    fps: float = _SHOWN_FPS

    def __post_init__(self) -> None:
        for name, known in (("rule", get_args(Rule)), ("value", get_args(Value))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {brief(getattr(self, name))}")
        require_counts(self, 1, "prefixes")
        require_numbers(self, "(0, inf)", "fps")

    @property
    def in_turn(self) -> bool:
        """Whether the statement stands within the turn of the user."""
        return self.rule == "reference" if self.chat_template is None else self.chat_template


class TOPReward(PromptedModel):
    """A vision-language model that is asked whether a task was done; see `RewardModel`.

    Args:
        vlm: A Qwen3-VL.
        source: What `load_reward_model` was given.
        settings: How it is asked.

    Raises:
        CheckpointError: Not a Qwen3-VL.
    """

    def __init__(self, vlm: LocalVLM, source: str, settings: Settings | None = None) -> None:
        vlm.require_qwen3("TOPReward")
        self.vlm, self.settings = vlm, settings or Settings()
        super().__init__(vlm, source, self.text("{task}"), **asdict(self.settings))
        self.causal = self.settings.value == "probability"
        self.default_protocol = NestedFrames(16)

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict`; for curves the frames given are the whole clip."""
        return [self._said(clip, np.arange(len(clip)), 1) for clip in clips]

    def predict_last(self, clips: Sequence[Clip]) -> list[Prediction]:
        """See `RewardModel.predict_last`."""
        if self.settings.value == "curve":
            return super().predict_last(clips)
        found = [self.log_probabilities(clip.read(), clip.task, [len(clip)]) for clip in clips]
        return [self._prediction(np.exp(values), "given") for values in found]

    def predict_steps(
        self, clips: Sequence[Clip], protocol: FrameProtocol | None = None, every: int = 1
    ) -> list[Prediction]:
        """See `RewardModel.predict_steps`; a curve is drawn over the whole episode, whatever the protocol."""
        if self.settings.value == "probability":
            return super().predict_steps(clips, protocol, every)
        return [self._said(clip, scored_steps(len(clip), every), every) for clip in clips]

    def log_probabilities(
        self, frames: Frames, task: str, lengths: Sequence[int], seconds: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """What everything else is made of.

        Args:
            frames: (T, H, W, 3) of a clip.
            task: The instruction.
            lengths: Of the prefixes that are asked about.
            seconds: (T,) when each frame was filmed; one after the other at `Settings.fps` if None.

        Returns:
            (len(lengths),) natural logarithms of the probability of ``True``.

        Raises:
            TaskError: The task spells out a token that the model reserves.
        """
        text = self.text(self.vlm.check_task(task))
        times = np.arange(len(frames)) / self.settings.fps if seconds is None else seconds
        with self.lock:
            return last_token_log_probabilities(self.vlm, self._prompts(frames, times, text, lengths))

    def text(self, task: str) -> str:
        """The question, with a mark where the video stands, and its answer."""
        film = Video(np.zeros((2, 1, 1, 3), np.uint8), ())
        if self.settings.in_turn:
            return self.vlm.chat([film, f"{_OPENING}{task}{_DECIDE}"]) + "True"
        opened = self.vlm.chat([film, _OPENING], answer=False).split(TURN_END)[0]
        return f"{opened}{task}{_DECIDE} True"

    def _said(self, clip: Clip, steps: NDArray[np.int64], every: int) -> Prediction:
        """Progress of some frames of a clip, each with those before it."""
        kept = steps if self.settings.value == "probability" else steps[_thinned(len(steps))]
        frames, rule = clip.read(kept), self.settings.rule
        if self.settings.value == "probability":
            lengths = list(range(1, len(kept) + 1))
        else:
            lengths = prefix_lengths(len(kept), self.settings.prefixes, rule)
        found = self.log_probabilities(frames, clip.task, lengths, kept / self.settings.fps)
        if self.settings.value == "probability":
            return self._prediction(np.exp(found), "given", every)
        # Frames that were thinned out are worth what the one before them is.
        held = np.searchsorted(kept, steps, side="right") - 1
        return self._prediction(curve(lengths, found, len(kept), rule)[held], "given", every)

    def _prompts(self, frames: Frames, seconds: NDArray[np.float64], text: str, lengths: Sequence[int]) -> list[Prompt]:
        """One question per prefix; pairs of frames that several show are one object."""
        sized = self._sized(frames)
        pairs: dict[tuple[int, int], Picture] = {}
        prompts = []
        for length in lengths:
            shown = self.shown(seconds[:length])
            numbers = [*shown.frames, *shown.frames[-1:]] if len(shown.frames) % 2 else shown.frames
            wanted = list(zip(numbers[::2], numbers[1::2], strict=True))
            for pair in wanted:
                if pair not in pairs:
                    (pairs[pair],) = self.vlm.frame_pairs(sized[list(pair)])
            film = Film([pairs[pair] for pair in wanted], pair_seconds(shown.seconds))
            prompts.append(self.vlm.prompt(text, [film]))
        return prompts

    def shown(self, seconds: NDArray[np.float64]) -> Shown:
        """The frames of a prefix that are shown, of a prefix whose frames were filmed at these times."""
        if self.settings.rule == "authors":
            between = seconds[1] - seconds[0] if len(seconds) > 1 else 1.0
            places = np.arange(0.0, len(seconds), max(1.0 / (_SHOWN_FPS * between), 1.0))
            chosen = np.unique(np.round(places).astype(int).clip(max=len(seconds) - 1))
            return Shown(chosen.tolist(), seconds[chosen].tolist())
        # An even number is handed on; of these, transformers' processor keeps two per second of a film at 24.
        given = np.append(np.arange(len(seconds)), np.full(len(seconds) % 2, len(seconds) - 1))
        kept = min(max(int(len(given) / _ASSUMED_FPS * _SHOWN_FPS), _LEAST_KEPT), len(given))
        places = np.linspace(0, len(given) - 1, kept).round().astype(int)
        return Shown(given[places].tolist(), (places / _ASSUMED_FPS).tolist())

    def _sized(self, frames: Frames) -> Frames:
        """Frames in the size in which they are shown."""
        patcher = self.vlm.patcher
        if self.settings.rule == "authors":
            least, most = _VIDEO_PIXELS
            return replace(patcher, min_pixels=least, max_pixels=most // max(len(frames), 2)).resize_video(frames)
        # First as a tool that knows the models before Qwen3-VL does it, then as Qwen3-VL's processor does.
        square = np.stack([resize_frame(frame, _SIDE, _SIDE) for frame in frames])
        least, most = (cells * _OLD_FACTOR**2 for cells in _OLD_CELLS)
        old = replace(patcher, patch_size=_OLD_FACTOR // patcher.merge_size, min_pixels=least, max_pixels=most)
        return replace(patcher, min_pixels=1, max_pixels=most).resize_video(old.resize_video(square), rounded=False)


def prefix_lengths(frames: int, most: int, rule: Rule = "authors") -> list[int]:
    """Prefixes of a clip that are asked about, evenly spread, the whole clip among them.

    Args:
        frames: Of the clip.
        most: Prefixes at most.
        rule: The reference asks about clips of one or two frames only as a whole.
    """
    if rule == "reference" and frames <= 2:
        return [frames]
    return np.unique(np.linspace(1, frames, min(most, frames)).astype(int)).tolist()


def curve(
    lengths: Sequence[int], log_probabilities: NDArray[np.float64], frames: int, rule: Rule
) -> NDArray[np.float64]:
    """Progress of every frame of a clip: log-probabilities of its prefixes stretched to [0, 1], straight between them.

    Args:
        lengths: Of the prefixes, ascending.
        log_probabilities: Of each.
        frames: Of the clip.
        rule: Where all prefixes are as likely nothing has come about, and progress is 0; the reference says 1.

    Returns:
        (frames,) in [0, 1].
    """
    low, high = log_probabilities.min(), log_probabilities.max()
    if high == low:
        return np.full(frames, 1.0 if rule == "reference" else 0.0)
    return np.interp(np.arange(1, frames + 1), lengths, (log_probabilities - low) / (high - low))


def load(
    where: str,
    device: str | torch.device = "cpu",
    dtype: str | None = None,
    rule: Rule = "authors",
    chat_template: bool | None = None,
    value: Value = "curve",
    prefixes: int = 15,
    fps: float = _SHOWN_FPS,
) -> TOPReward:
    """Loads a TOPReward; see `robometer_rl.load_reward_model`.

    Args:
        where: A Qwen3-VL, such as ``Qwen/Qwen3-VL-8B-Instruct``: a checkpoint directory, or a Hub id.
        device: Where to run.
        dtype: Precision; as stored if None.
        rule: See `Settings`, as for the others.
        chat_template: See there.
        value: See there.
        prefixes: See there.
        fps: See there.

    Raises:
        CheckpointError: The checkpoint is incomplete or of another kind.
        ValueError: An option that is none.
    """
    settings = Settings(rule, chat_template, value, prefixes, fps)
    return TOPReward(LocalVLM.load(where, device, dtype), where, settings)


def _thinned(frames: int) -> NDArray[np.int64]:
    """Frames of a clip that are looked at."""
    return np.linspace(0, frames - 1, min(frames, _MOST_FRAMES)).astype(np.int64)
