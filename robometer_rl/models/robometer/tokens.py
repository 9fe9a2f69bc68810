r"""Prompts as runs of tokens with rope positions.

A prompt is a chain of segments. Only text between two special tokens is ever tokenised, always as one string, since a
vocabulary may merge across any seam inside it. With Qwen3-VL, whose chat template others resemble::

    head     <|im_start|> "user\n The task for the robot is ... Picture 1: "
    frame 1  <|vision_start|> o o o o o o <|vision_end|> <|prog_token|>
    frame 2  "Picture 2: " <|vision_start|> o o o o o o <|vision_end|> <|prog_token|>
    ...
    tail     <|im_end|> "\n"

Rope positions are three rows: time, height, width (docs/reference.md §2.4). Text advances all three by one. The tokens
of a frame that starts at p share the time p and spread over heights p + row and widths p + column; whatever follows
starts at p + max(rows, columns). A segment stores positions relative to its start, so that the segment of a frame
depends on the number of the picture and the frame's size alone, and is made once. Where the language model knows one
kind of position only, all rows count tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from robometer_rl.models.robometer.config import CheckpointError
from robometer_rl.models.robometer.patches import Grid
from robometer_rl.models.robometer.prompts import EXTRA_TOKENS, PREF_TOKEN, PROG_TOKEN, SPLIT_TOKEN, Chat

__all__ = ["FrameBlocks", "PromptTokens", "Segment", "SpecialIds", "TokenBatch", "join", "pad"]

_KEPT = 512  # frames; grids and picture numbers are few


@dataclass(frozen=True)
class SpecialIds:
    """Token ids that a network looks for in its inputs.

    Attributes:
        visual: Stands where a feature of a picture goes.
        pooled: Of the tokens of a frame, those that are pooled where no progress token follows it: the visual ones,
            and whatever else the language model's template puts among them.
        progress: Progress and success are read there.
        preference: Preference is.
    """

    visual: int
    pooled: tuple[int, ...]
    progress: int
    preference: int


@dataclass(frozen=True, eq=False)
class Segment:
    """A run of tokens.

    Attributes:
        ids: (n,) token ids.
        positions: (3, n) rope positions relative to the start of the segment.
        advance: Where the next segment starts, relative to the start of this one.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    advance: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class TokenBatch:
    """Token sequences of different lengths, padded on the right.

    Attributes:
        ids: (B, S) token ids.
        mask: (B, S) bool, False at padding.
        positions: (3, B, S) rope positions, 0 at padding.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor


@dataclass(frozen=True, eq=False)
class FrameBlocks:
    """Where the frames of one prompt stand.

    Attributes:
        blocks: Tokens of the k-th shown frame, k counted from 0; the first one brings the prompt.
    """

    blocks: list[Segment]

    @cached_property
    def starts(self) -> list[int]:
        """Rope position at which each block starts."""
        return [0, *accumulate(block.advance for block in self.blocks)]

    @cached_property
    def ends(self) -> list[int]:
        """Tokens before each block; one entry more than blocks, so that ``ends[k]`` is the end of k blocks."""
        return [0, *accumulate(len(block) for block in self.blocks)]


def join(segments: Iterable[Segment]) -> Segment:
    """One segment of several that follow each other."""
    parts = [_run([]), *segments]
    start, positions = 0, []
    for part in parts:
        positions.append(part.positions + start)
        start += part.advance
    return Segment(torch.cat([part.ids for part in parts]), torch.cat(positions, dim=1), start)


def pad(sequences: Sequence[Segment], pad_id: int) -> TokenBatch:
    """Pads sequences on the right to the longest one."""
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), longest), pad_id)
    mask = torch.zeros((len(sequences), longest), dtype=torch.bool)
    positions = torch.zeros((3, len(sequences), longest), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence.ids
        mask[row, : len(sequence)] = True
        positions[:, row, : len(sequence)] = sequence.positions
    return TokenBatch(ids, mask, positions)


class PromptTokens:
    """Makes the segments of prompts for one tokenizer.

    Args:
        tokenizer: With the five extra tokens in it.
        merge_size: Patches per side that become one token.
        per_frame_token: Whether a progress token follows each frame.
        chat: The language model's template.

    Raises:
        CheckpointError: A token that prompts need is missing from the tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, merge_size: int, per_frame_token: bool, chat: Chat) -> None:
        self.chat = chat
        self._tokenizer = tokenizer
        self._merge_size = merge_size
        self._per_frame_token = per_frame_token
        vocabulary = tokenizer.get_vocab()
        required = (*chat.special, *EXTRA_TOKENS)
        missing = [token for token in required if token not in vocabulary]
        if missing:
            raise CheckpointError(f"the tokenizer lacks {missing}, which Robometer prompts are made of")
        self._special = {token: vocabulary[token] for token in required}
        self.reserved = frozenset(tokenizer.all_special_tokens) | frozenset(required)
        self.image_id = self._special[chat.image]
        self.pad_id = int(tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0)
        # A dictionary, and no cache of functools: data workers that are started anew are sent the tokenizer.
        self._frames: dict[tuple[int | None, Grid], Segment] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what is computed again in no time: of tensors, each is a file where processes send them."""
        return {**vars(self), "_frames": {}}

    def special_ids(self, multi_image: bool) -> SpecialIds:
        """What the network looks for, with frames as images or in pairs as a video."""
        chat, ids = self.chat, self._special
        progress, preference = ids[PROG_TOKEN], ids[PREF_TOKEN]
        if not multi_image:
            assert chat.video is not None, "asked of templates with a video only"
            return SpecialIds(ids[chat.video], (ids[chat.video],), progress, preference)
        # The reference pools all that stands between the first and the last token of a frame.
        pooled = (*(ids[token] for token in chat.before[1:]), self.image_id)
        return SpecialIds(self.image_id, pooled, progress, preference)

    def check_words(self, text: str) -> None:
        """Raises `CheckpointError` unless the tokenizer makes entries of the vocabulary, and only those, of a text."""
        entries = len(self._tokenizer)
        ids = self._ids(text)
        known = {*self._tokenizer.get_vocab().values(), *ids}
        if not ids or not all(type(number) is int and 0 <= number < entries for number in known):
            raise CheckpointError(
                f"its {entries} entries have numbers from {min(known)} to {max(known)}; expected 0 to {entries - 1}"
            )

    def head(self, text: str) -> Segment:
        """Start of the user turn and ``text``, which ends with the caption of the first frame."""
        *fixed, last = self.chat.opening
        parts = [[self._special[part]] if part in self._special else self._ids(part) for part in fixed]
        return _run([*(number for part in parts for number in part), *self._ids(last + text)])

    def split(self, text: str) -> Segment:
        """The seam between two trajectories and the ``text`` that announces the second."""
        return _run([self._special[SPLIT_TOKEN], *self._ids(text)])

    def tail(self, text: str = "", preference: bool = False) -> Segment:
        """``text``, the preference token if asked for, and the end of the user turn."""
        parts = [self._ids(text), [self._special[PREF_TOKEN]] if preference else [], [self._special[self.chat.end]]]
        return _run([*parts[0], *parts[1], *parts[2], *self._ids("\n")])

    def frame(self, number: int | None, grid: Grid) -> Segment:
        """One frame; ``number`` is the picture's number, or None where the text before it has captioned it already."""
        key = (number, grid)
        if key not in self._frames:
            if len(self._frames) == _KEPT:
                self._frames.clear()
            before = [] if number is None else self._ids(self.chat.caption(number))
            after = [PROG_TOKEN] if self._per_frame_token else []
            self._frames[key] = self._visual(before, self.image_id, grid, after)
        return self._frames[key]

    def video_pair(self, text: str, grid: Grid) -> Segment:
        """One frame pair of a video, after the ``text`` that stands before it."""
        assert self.chat.video is not None, "asked of templates with a video only"
        return self._visual(self._ids(text), self._special[self.chat.video], grid, [])

    def _visual(self, before: list[int], pad_id: int, grid: Grid, after: list[str]) -> Segment:
        rows, columns = (side // self._merge_size for side in grid)
        lead = _run([*before, *(self._special[token] for token in self.chat.before)])
        image = _run([pad_id] * (rows * columns))
        if self.chat.axes == 3:
            row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            places = torch.stack([torch.zeros_like(row), row, column]).flatten(1)
            image = Segment(image.ids, places, max(rows, columns))
        return join([lead, image, _run([self._special[token] for token in (*self.chat.after, *after)])])

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False) if text else []


def _run(ids: list[int]) -> Segment:
    """Tokens that advance by one each."""
    return Segment(torch.tensor(ids, dtype=torch.long), torch.arange(len(ids)).expand(3, -1), len(ids))
