import pytest
from transformers import AutoTokenizer

from robometer_rl.models.robometer.prompts import EXTRA_TOKENS, progress_prompt
from robometer_rl.training.tokenizer import QWEN_TOKENS, instructions, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(instructions())


def test_added_tokens_come_in_the_order_that_checkpoints_expect(tokenizer):
    vocabulary = tokenizer.get_vocab()
    first = len(vocabulary) - len(QWEN_TOKENS) - len(EXTRA_TOKENS)
    added = [*QWEN_TOKENS, *EXTRA_TOKENS]
    assert [vocabulary[token] for token in added] == list(range(first, len(vocabulary)))
    assert len(tokenizer) == len(vocabulary)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_prompts_cost_few_tokens_and_any_text_survives(tokenizer):
    prompt = progress_prompt("open the drawer")
    assert len(tokenizer.encode(prompt)) < 1.5 * len(prompt.split())
    for text in (prompt, "öffne die Schublade 抽屉 \n\t 🤖", "a" * 50):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_it_is_saved_and_loaded_as_qwens_is(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "Qwen2Tokenizer"
    text = "<|im_start|>user\n" + progress_prompt("push the block") + "Picture 1: <|vision_start|><|image_pad|>"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.get_vocab() == tokenizer.get_vocab()


def test_instructions_are_plenty_and_always_the_same():
    texts = instructions()
    assert 3000 < len(texts) < 6000
    assert texts == instructions()
    assert "open the alphabet soup" in texts
    assert not any(text != text.strip() or "\n" in text for text in texts)
