from __future__ import annotations

import hashlib

import pytest

from robometer_rl.frames import TaskError
from robometer_rl.models.robometer import prompts
from tests.golden import tiny


def fingerprint(text: str) -> tuple[int, str]:
    return len(text), hashlib.sha256(text.encode()).hexdigest()[:16]


def test_prompts_are_the_published_ones_byte_for_byte() -> None:
    """Lengths and hashes of the reference's texts (docs/reference.md §2.2)."""
    pair = prompts.preference_prompt("{TASK}", with_progress=False)
    suffix = prompts.preference_prompt("{TASK}", with_progress=True).removeprefix(pair)
    assert fingerprint(prompts.progress_prompt("{TASK}")) == (318, "9b0009bac496dc9b")
    assert fingerprint(pair) == (175, "614a71610237e35d")
    assert fingerprint(suffix) == (284, "661937463e84a0bc")
    assert fingerprint(prompts.ANNOUNCE_A) == (22, "f7974b094e23993d")
    assert fingerprint(prompts.ANNOUNCE_B) == (22, "c4d6e1cb72641c09")
    assert fingerprint(prompts.CLOSING) == (56, "13d6ccd0f9f3a162")


def test_extra_tokens_are_in_the_order_of_their_rows() -> None:
    vocabulary = tiny().processor.tokenizer.get_vocab()
    assert [vocabulary[token] for token in prompts.EXTRA_TOKENS] == [630, 631, 632, 633, 634]


@pytest.mark.parametrize("brace", ["{", "{}", "{task}", "100%s"])
def test_a_task_is_put_in_as_it_is(brace: str) -> None:
    task = f"open the {brace} drawer"
    assert f"'{task}'" in prompts.progress_prompt(task)
    assert f"'{task}'" in prompts.preference_prompt(task, with_progress=True)


@pytest.mark.parametrize(
    "token", ["<|prog_token|>", "<|image_pad|>", "<|im_end|>", "<|vision_start|>", "<|endoftext|>"]
)
def test_a_task_that_spells_out_a_reserved_token_is_refused(token: str) -> None:
    reserved = tiny().processor.tokens.reserved
    with pytest.raises(TaskError, match="reserves"):
        prompts.check_prompt_task(f"open the {token} drawer", reserved)
    assert prompts.check_prompt_task("open the <drawer>", reserved) == "open the <drawer>"
