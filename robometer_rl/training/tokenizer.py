"""A small tokenizer in the shape of Qwen's, for models that are made from scratch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import AddedToken, Qwen2Tokenizer

from robometer_rl.models.robometer.prompts import (
    ANNOUNCE_A,
    ANNOUNCE_B,
    CLOSING,
    EXTRA_TOKENS,
    caption,
    preference_prompt,
    progress_prompt,
)

__all__ = ["QWEN_TOKENS", "train_tokenizer"]

QWEN_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>"),
    *("<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>"),
    *("<think>", "</think>"),
)
"""Qwen3-VL's added tokens in their order; those up to the video pad are special."""

_SPECIAL = QWEN_TOKENS[:14]
# The prompts are in every input, so each of their words should become one token.
_PROMPT_COPIES = 50
_MODEL_MAX_LENGTH = 32768


def train_tokenizer(tasks: Iterable[str], vocab_size: int = 1500) -> Qwen2Tokenizer:
    """Trains byte-level BPE on instructions and on the prompts they are put into.

    Args:
        tasks: Instructions. Any other text can still be tokenised, with more tokens.
        vocab_size: Entries before the added tokens; 256 of them are bytes.

    Returns:
        A tokenizer with Qwen's added tokens and then Robometer's five, in the order that checkpoints expect.
    """
    prompt = f"user\n{progress_prompt('')}{preference_prompt('', with_progress=True)}{ANNOUNCE_A}{ANNOUNCE_B}{CLOSING}"
    captions = "".join(caption(number) for number in range(1, 17))
    # Text is split and normalised by Qwen's own rules; only the merges are new.
    rules = Qwen2Tokenizer().backend_tokenizer
    backend = Tokenizer(BPE())
    backend.normalizer, backend.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    trainer = BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, initial_alphabet=sorted(ByteLevel.alphabet()), show_progress=False
    )
    backend.train_from_iterator([*[prompt + captions] * _PROMPT_COPIES, *tasks], trainer)
    learned = json.loads(backend.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        # Pairs, as tokenizer.json has them; the declared type has only the older form, strings.
        merges=cast(Any, [tuple(pair) for pair in learned["merges"]]),
        unk_token=None,  # pyright: ignore[reportArgumentType]
        eos_token=QWEN_TOKENS[0],
        pad_token=QWEN_TOKENS[0],
        model_max_length=_MODEL_MAX_LENGTH,
    )
    tokenizer.add_tokens([AddedToken(token, special=token in _SPECIAL, normalized=False) for token in QWEN_TOKENS])
    tokenizer.eos_token = "<|im_end|>"  # only now: naming it above would have made it the first added token
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in EXTRA_TOKENS])
    return tokenizer
