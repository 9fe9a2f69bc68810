"""Tokens and rope positions of prompts, against the chat text as a whole and transformers' own positions."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from robometer_rl.models.robometer.config import CheckpointError
from robometer_rl.models.robometer.processing import RobometerProcessor
from robometer_rl.models.robometer.prompts import EXTRA_TOKENS, IMAGE_PAD, QWEN3_CHAT, caption
from robometer_rl.models.robometer.tokens import PromptTokens, Segment, SpecialIds, join, pad
from tests.golden import CHECKPOINT, FIXTURES, clips, pairs, report, tiny

PREPROCESSOR = (CHECKPOINT / "preprocessor_config.json").read_text()


def tokens() -> PromptTokens:
    return tiny().processor.tokens


@cache
def merging() -> PreTrainedTokenizerFast:
    """The fixture's tokenizer with a merge across the seam between a prompt and "Picture 1: ".

    The published vocabulary reads ".Picture" as one word, and may merge any part of it.
    """
    described = json.loads((CHECKPOINT / "tokenizer.json").read_text())
    model = described["model"]
    merged = {part for merge in model["merges"] for part in merge}
    # Another token gives its place to ".P", since ids must not move: one that no other is made of.
    given_up = next(merge for merge in reversed(model["merges"]) if "".join(merge) not in merged)
    model["merges"] = [[".", "P"], *(merge for merge in model["merges"] if merge != given_up)]
    model["vocab"][".P"] = model["vocab"].pop("".join(given_up))
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)), pad_token="<|endoftext|>"
    )


def expanded(text: str, counts: list[int]) -> str:
    """Chat text with each image's placeholder repeated as often as it has tokens."""
    first, *others = text.split(IMAGE_PAD)
    return first + "".join(IMAGE_PAD * count + other for count, other in zip(counts, others, strict=True))


@pytest.mark.parametrize(
    "tokenizer", [AutoTokenizer.from_pretrained(CHECKPOINT), merging()], ids=["fixture", "merging"]
)
@pytest.mark.parametrize("name", ["progress_batch", "preference_batch"])
def test_ids_are_those_of_the_chat_text_as_a_whole(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    processor = RobometerProcessor(tokenizer, PREPROCESSOR, tiny().config, tiny().network.backbone)
    if name == "progress_batch":
        inputs = processor.progress_inputs(clips(name, "prog0", "prog1", "prog2"))
    else:
        inputs = processor.preference_inputs(pairs(name))
    sizes = iter(len(part) * [processor.patcher.tokens(part.grid)] for part in inputs.frames or [])
    for row, text in enumerate(report(name)["texts"]):
        counts = [count for _ in inputs.sides[row] for count in next(sizes)]
        whole = tokenizer.encode(expanded(text, counts), add_special_tokens=False)
        assert inputs.input_ids[row][inputs.attention_mask[row]].tolist() == whole


def test_the_merging_tokenizer_merges_across_seams() -> None:
    apart = merging().encode("0 progress.") + merging().encode("Picture 1: ")
    assert merging().encode("0 progress.Picture 1: ") != apart


def test_a_frame_takes_as_many_tokens_as_the_number_of_its_picture_needs() -> None:
    grid = (4, 6)
    numbers = [tokens().frame(number, grid) for number in (None, 2, 9, 10, 99, 100)]
    lengths = [len(segment) for segment in numbers]
    visual = 2 * 3 + 3  # start, end and progress token
    written = [len(tiny().processor.tokenizer.encode(caption(number))) for number in (2, 9, 10, 99, 100)]
    assert lengths == [visual, *(visual + count for count in written)]
    assert lengths[2] < lengths[3] < lengths[5]


def test_without_progress_tokens_a_frame_ends_with_its_image() -> None:
    plain = PromptTokens(tiny().processor.tokenizer, 2, False, QWEN3_CHAT)
    assert plain.frame(3, (4, 4)).ids.tolist() == tokens().frame(3, (4, 4)).ids.tolist()[:-1]


grids = st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda grid: (2 * grid[0], 2 * grid[1]))


@given(st.lists(grids, min_size=1, max_size=12))
@settings(max_examples=30)
def test_positions_are_those_of_transformers(sizes: list[tuple[int, int]]) -> None:
    frames = [tokens().frame(number + 1 if number else None, grid) for number, grid in enumerate(sizes)]
    prompt = join([tokens().head("Open the drawer.Picture 1: "), *frames, tokens().tail()])
    ids = prompt.ids[None]
    model: Any = tiny().network.model
    positions, _ = model.get_rope_index(
        input_ids=ids,
        mm_token_type_ids=(ids == tokens().image_id).long(),
        image_grid_thw=torch.tensor([[1, *grid] for grid in sizes]),
        attention_mask=torch.ones_like(ids),
    )
    assert torch.equal(prompt.positions, positions[:, 0])
    assert prompt.advance == positions.max() + 1


def test_segments_join_end_to_start() -> None:
    two = Segment(torch.tensor([1, 2]), torch.tensor([[0, 0], [0, 1], [0, 2]]), 5)
    joined = join([two, two])
    assert joined.ids.tolist() == [1, 2, 1, 2]
    assert joined.positions.tolist() == [[0, 0, 5, 5], [0, 1, 5, 6], [0, 2, 5, 7]]
    assert (len(joined), joined.advance) == (4, 10)
    assert len(join([])) == 0


def test_shorter_prompts_are_padded_on_the_right() -> None:
    long, short = (Segment(torch.arange(n), torch.arange(n).expand(3, -1), n) for n in (3, 1))
    batch = pad([short, long], pad_id=9)
    assert batch.ids.tolist() == [[0, 9, 9], [0, 1, 2]]
    assert batch.mask.tolist() == [[True, False, False], [True, True, True]]
    assert batch.positions[:, 0].tolist() == [[0, 0, 0]] * 3


def test_a_tokenizer_without_the_extra_tokens_is_refused(tmp_path: Path) -> None:
    base = AutoTokenizer.from_pretrained(FIXTURES / "base_processor")
    with pytest.raises(CheckpointError, match="prog_token"):
        PromptTokens(base, 2, True, QWEN3_CHAT)


def test_special_token_ids_are_the_recorded_ones() -> None:
    recorded = report("forward_report")
    vocabulary = tiny().processor.tokenizer.get_vocab()
    assert {token: vocabulary[token] for token in recorded["special_token_ids"]} == recorded["special_token_ids"]
    assert len(tiny().processor.tokenizer) == recorded["len_tokenizer"]
    ids = tokens()
    assert ids.special_ids(multi_image=True) == SpecialIds(616, (616,), progress=634, preference=632)
    assert ids.special_ids(multi_image=False) == SpecialIds(617, (617,), progress=634, preference=632)
    assert set(EXTRA_TOKENS) <= ids.reserved
