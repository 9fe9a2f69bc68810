"""From clips and pairs of clips to the tensors of one forward pass."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase

from robometer_rl.documents import parse_json, read_text
from robometer_rl.frames import Clip, TaskError
from robometer_rl.models.robometer.backbone import Backbone
from robometer_rl.models.robometer.config import (
    PUBLISHED_MAX_PIXELS,
    PUBLISHED_MIN_PIXELS,
    CheckpointError,
    RobometerConfig,
    blamed_on,
)
from robometer_rl.models.robometer.patches import FramePatcher, Grid, PatchedFrames
from robometer_rl.models.robometer.prompts import (
    ANNOUNCE_A,
    ANNOUNCE_B,
    CLOSING,
    EXTRA_TOKENS,
    check_prompt_task,
    preference_prompt,
    progress_prompt,
)
from robometer_rl.models.robometer.tokens import FrameBlocks, PromptTokens, Segment, TokenBatch, join, pad

__all__ = ["PREPROCESSOR_FILE", "EncodedFrames", "RobometerInputs", "RobometerProcessor"]

PREPROCESSOR_FILE = "preprocessor_config.json"
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"),
)

# Video mode has limits of its own in the reference's preprocessing: 128 to 768 merged tokens of 32 x 32 pixels.
_VIDEO_MIN_PIXELS = 128 * 32 * 32
_VIDEO_MAX_PIXELS = 768 * 32 * 32


@dataclass
class EncodedFrames:
    """Frames of one size of which only what the vision tower makes of them is known.

    Attributes:
        features: Of each frame, see `vision.encode_frames`.
        grid: Rows and columns of patches that a frame had.
    """

    features: list[torch.Tensor]
    grid: Grid

    def __len__(self) -> int:
        return len(self.features)


Frames = PatchedFrames | EncodedFrames


@dataclass
class RobometerInputs:
    """One batch for `network.RobometerNetwork`.

    Attributes:
        tokens: B padded prompts.
        frames: The frames of all prompts in order of appearance, grouped into runs of one size. None where
            ``features`` are given.
        sides: Per prompt, the number of frame values of each of its trajectories: one number for a clip, two for a
            pair. A frame has one value; in video mode a pair of frames has one.
        features: Instead of ``frames``: what the vision tower makes of each of them, see `vision.encode_frames`.
    """

    tokens: TokenBatch
    frames: list[PatchedFrames] | None
    sides: list[tuple[int, ...]]
    features: list[torch.Tensor] | None = None

    @property
    def input_ids(self) -> torch.Tensor:
        """(B, S) token ids."""
        return self.tokens.ids

    @property
    def attention_mask(self) -> torch.Tensor:
        """(B, S) bool."""
        return self.tokens.mask

    @property
    def position_ids(self) -> torch.Tensor:
        """(3, B, S) rope positions."""
        return self.tokens.positions

    def to(self, device: torch.device | str) -> RobometerInputs:
        """A copy on ``device``."""
        tokens = TokenBatch(*(part.to(device) for part in (self.tokens.ids, self.tokens.mask, self.tokens.positions)))
        frames = self.frames and [PatchedFrames(part.pixels.to(device), part.grid) for part in self.frames]
        features = self.features and [part.to(device) for part in self.features]
        return replace(self, tokens=tokens, frames=frames, features=features)


class RobometerProcessor:
    """Tokenizer, prompts and frame preprocessing of one checkpoint.

    Attributes:
        tokenizer: With the five extra tokens in it.
        patcher: Frame preprocessing.
        tokens: Makes the segments of prompts.
        config: The checkpoint's settings.
        backbone: What prompts and frames are for.

    Raises:
        CheckpointError: Settings of the preprocessor, or video mode of a backbone that is shown images only.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, preprocessor_json: str, config: RobometerConfig, backbone: Backbone
    ) -> None:
        if not config.multi_image and backbone.chat.video is None:
            raise CheckpointError(
                f"settings have use_multi_image off, and video mode is read of Qwen3-VL only, not of "
                f"{type(backbone).__name__}"
            )
        self.tokenizer = tokenizer
        self.config = config
        self.backbone = backbone
        self._preprocessor_json = preprocessor_json
        self.patcher = backbone.patcher(preprocessor_json, *_limits(config, preprocessor_json, backbone))
        reads_tokens = config.per_frame_token and config.multi_image
        self.tokens = PromptTokens(tokenizer, self.patcher.merge_size, reads_tokens, backbone.chat)

    @classmethod
    def load(
        cls, directory: Path, config: RobometerConfig, backbone: Backbone, with_extra_tokens: bool = False
    ) -> RobometerProcessor:
        """Reads the tokenizer and preprocessor files of a directory.

        Args:
            directory: Of a checkpoint, or of the language model that it was made of.
            config: The checkpoint's settings.
            backbone: What prompts and frames are for.
            with_extra_tokens: Whether to add the five tokens that a language model does not have.

        Raises:
            CheckpointError: A missing or damaged file, or a tokenizer that cannot write prompts.
        """
        for name in ("tokenizer_config.json", PREPROCESSOR_FILE):
            if not (directory / name).is_file():
                raise CheckpointError(f"{directory} has no {name}; a checkpoint needs its tokenizer and preprocessor")
        with blamed_on(directory / PREPROCESSOR_FILE):
            preprocessor = read_text(directory / PREPROCESSOR_FILE)
            backbone.patcher(preprocessor, config.min_pixels, config.max_pixels)
        tokenizer = _load_tokenizer(directory)
        if with_extra_tokens:
            tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in EXTRA_TOKENS])
        with blamed_on(_tokenizer_files(directory)):
            loaded = cls(tokenizer, preprocessor, config, backbone)
            loaded.tokens.check_words(loaded._progress_text("open the drawer"))
        return loaded

    def save(self, directory: Path) -> None:
        """Writes what `load` reads; `OSError` if that cannot be written."""
        try:
            self.tokenizer.save_pretrained(directory)
        except OSError:
            raise
        except Exception as error:  # the tokenizer's own writer has no other class for a full disk
            raise OSError(errno.EIO, str(error), str(directory)) from error
        (directory / PREPROCESSOR_FILE).write_text(self._preprocessor_json)

    def progress_inputs(self, clips: Sequence[Clip]) -> RobometerInputs:
        """One prompt per clip; lengths and sizes may differ."""
        return self.progress_prompts([clip.task for clip in clips], [self.patch(clip) for clip in clips])

    def progress_prompts(self, tasks: Sequence[str], frames: Sequence[Frames]) -> RobometerInputs:
        """One prompt per task, about frames that are patched or encoded already; all of one kind."""
        prompts = [
            join(
                [
                    *self._trajectory(self._progress_text(task), shown.grid, len(shown), first=1, head=True),
                    self.tokens.tail(),
                ]
            )
            for task, shown in zip(tasks, frames, strict=True)
        ]
        return self._inputs(prompts, frames, [(len(shown),) for shown in frames])

    def preference_inputs(self, pairs: Sequence[tuple[Clip, Clip]]) -> RobometerInputs:
        """One prompt per pair; the first clip is trajectory A and the pair has its task.

        Raises:
            TaskError: The two clips of a pair have different tasks.
        """
        for a, b in pairs:
            if a.task != b.task:
                raise TaskError(f"a pair has one task, got {a.task!r} and {b.task!r}")
        return self.preference_prompts([a.task for a, _ in pairs], [(self.patch(a), self.patch(b)) for a, b in pairs])

    def preference_prompts(self, tasks: Sequence[str], pairs: Sequence[tuple[Frames, Frames]]) -> RobometerInputs:
        """One prompt per task, about two trajectories whose frames are patched or encoded already; all of one kind."""
        prompts = [self._pair(task, a, b) for task, (a, b) in zip(tasks, pairs, strict=True)]
        sides = [(len(a), len(b)) for a, b in pairs]
        return self._inputs(prompts, [side for pair in pairs for side in pair], sides)

    def _inputs(
        self, prompts: list[Segment], frames: Sequence[Frames], sides: Sequence[tuple[int, ...]]
    ) -> RobometerInputs:
        patched = [shown for shown in frames if isinstance(shown, PatchedFrames)]
        encoded = [feature for shown in frames if isinstance(shown, EncodedFrames) for feature in shown.features]
        tokens = pad(prompts, self.tokens.pad_id)
        if encoded:
            return RobometerInputs(tokens, None, list(sides), encoded)
        return RobometerInputs(tokens, patched, list(sides))

    def patch(self, clip: Clip) -> PatchedFrames:
        """The patches of a clip's frames, or of its frame pairs in video mode."""
        frames = clip.read()
        if self.config.multi_image:
            return self.patcher(frames)
        first, then = self._video_patchers
        return then.frame_pairs(first.resize(frames))

    @cached_property
    def _video_patchers(self) -> tuple[FramePatcher, FramePatcher]:
        """The reference resizes the frames of a video as images first, and then again in pairs.

        The first time to multiples of twice the side of a token: its preprocessing gives that side where the side of a
        patch is asked for.
        """
        patcher, low, high = self.patcher, self.config.min_pixels, self.config.max_pixels
        assert isinstance(patcher, FramePatcher), "video mode is refused of all others"
        first = replace(patcher, patch_size=2 * patcher.patch_size, min_pixels=4 * low, max_pixels=4 * high)
        if (low, high) == (PUBLISHED_MIN_PIXELS, PUBLISHED_MAX_PIXELS):
            low, high = _VIDEO_MIN_PIXELS, _VIDEO_MAX_PIXELS
        return first, replace(patcher, min_pixels=low, max_pixels=high)

    def frame_blocks(self, task: str, grid: Grid, count: int) -> FrameBlocks:
        """The prompt of a single trajectory of ``count`` images, cut behind every frame."""
        opening, first, *later = self._trajectory(self._progress_text(task), grid, count, first=1, head=True)
        return FrameBlocks([join([opening, first]), *later])

    def check_task(self, task: str) -> str:
        """Returns ``task``; raises `TaskError` if it is empty or spells out a token that the model reserves."""
        return check_prompt_task(task, self.tokens.reserved)

    def _progress_text(self, task: str) -> str:
        return progress_prompt(self.check_task(task))

    def _pair(self, task: str, a: Frames, b: Frames) -> Segment:
        prompt = preference_prompt(self.check_task(task), with_progress=self.config.predict_pref_progress)
        second = len(a) + 1 if self.config.multi_image else 2
        return join(
            [
                *self._trajectory(prompt + ANNOUNCE_A, a.grid, len(a), first=1, head=True),
                *self._trajectory(ANNOUNCE_B, b.grid, len(b), first=second, head=False),
                self.tokens.tail(CLOSING, preference=True),
            ]
        )

    def _trajectory(self, text: str, grid: Grid, count: int, first: int, head: bool) -> list[Segment]:
        """``text``, then ``count`` frames; ``first`` is the number of the first picture, or of the video."""
        opened = self.tokens.head if head else self.tokens.split
        if self.config.multi_image:
            later = [self.tokens.frame(first + number, grid) for number in range(1, count)]
            return [opened(text + self.tokens.chat.caption(first)), self.tokens.frame(None, grid), *later]
        # A pair of frames stands at the mean of its two times, one frame a second.
        stamps = [f"<{2 * number + 0.5:.1f} seconds>" for number in range(count)]
        segments = [self.tokens.video_pair(stamp, grid) for stamp in stamps[1:]]
        return [opened(f"{text}Video {first}: {stamps[0]}"), self.tokens.video_pair("", grid), *segments]


def _limits(config: RobometerConfig, preprocessor_json: str, backbone: Backbone) -> tuple[int, int]:
    """Least and most pixels of a frame; those of the reference are 4 to 16384 tokens, whatever the side of one."""
    limits = config.min_pixels, config.max_pixels
    patcher = backbone.patcher(preprocessor_json, *limits)
    if limits != (PUBLISHED_MIN_PIXELS, PUBLISHED_MAX_PIXELS) or not isinstance(patcher, FramePatcher):
        return limits
    return 4 * patcher.factor**2, 16384 * patcher.factor**2


def _load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    with blamed_on(_tokenizer_files(directory)):
        for name in _TOKENIZER_FILES:
            if (directory / name).is_file():
                with blamed_on(directory / name):
                    text = read_text(directory / name)
                    # The vocabulary is megabytes, and parsed by the tokenizer.
                    _ = parse_json(text) if name.endswith(".json") and name != "tokenizer.json" else None
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def _tokenizer_files(directory: Path) -> str:
    """The files that a tokenizer is made of, for errors: which of them is wrong is not always to be told."""
    names = [name for name in _TOKENIZER_FILES if (directory / name).is_file()]
    return f"the tokenizer in {directory} ({', '.join(names)})"
