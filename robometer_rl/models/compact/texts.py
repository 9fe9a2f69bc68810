"""Instructions as numbers: words and pairs of neighbouring words, hashed into a table that is learned."""

from __future__ import annotations

import re
import zlib
from itertools import pairwise
from typing import Final

import torch

__all__ = ["BUCKETS", "normalised", "word_buckets"]

BUCKETS: Final = 1024
"""Rows of the table. A task has a dozen words; that two of a few tasks share a row is rare, and does little."""


def normalised(task: str) -> str:
    """What of an instruction matters: its words, without case and punctuation.

    Examples:
        >>> normalised("Open  the drawer!")
        'open the drawer'
    """
    return " ".join(re.findall(r"\w+", task.casefold()))


def word_buckets(task: str) -> torch.Tensor:
    """(n,) int64 rows of the table for an instruction: its words, and pairs of neighbours, which keep their order."""
    words = normalised(task).split() or [task]
    terms = [*words, *(f"{a} {b}" for a, b in pairwise(words))]
    # Not Python's own hash, which is another one in every process.
    return torch.tensor([zlib.crc32(term.encode("utf-8", "surrogatepass")) % BUCKETS for term in terms])
