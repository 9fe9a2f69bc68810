from __future__ import annotations

import subprocess
import sys

import pytest

from robometer_rl.models.compact.texts import BUCKETS, normalised, word_buckets


def test_case_and_punctuation_do_not_matter() -> None:
    assert normalised("  Öffne die  Schublade!") == "öffne die schublade"
    assert word_buckets("Open the drawer.").tolist() == word_buckets("open the drawer").tolist()


def test_the_order_of_words_matters() -> None:
    one, other = (set(word_buckets(text).tolist()) for text in ("a on b", "b on a"))
    assert one != other


@pytest.mark.parametrize("task", ["open", "!?", "拿起积木", "a b c d e f"])
def test_every_instruction_has_rows(task: str) -> None:
    rows = word_buckets(task)
    assert len(rows)
    assert 0 <= int(rows.min()) <= int(rows.max()) < BUCKETS


def test_every_process_has_the_same_rows() -> None:
    code = "from robometer_rl.models.compact.texts import word_buckets; print(word_buckets('open the drawer').tolist())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(word_buckets("open the drawer").tolist())
