"""How much other people's files may ask for: what they claim is looked at before memory is taken.

A few bytes of a header can stand for a picture, a recording or an array larger than any memory. Every reader that
decodes pictures, or reads arrays by the shape that a file states, asks here first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

__all__ = ["MAX_PIXELS", "MAX_RECORDED_FRAMES", "check_packed", "check_picture", "check_recording", "check_room"]

MAX_PIXELS: Final = 1 << 26
"""The most pixels of a picture, 8192 x 8192; cameras of robots have at most a few million."""

MAX_RECORDED_FRAMES: Final = 1 << 24
"""The most frames of a recording: 93 hours at 50 frames per second."""

# What packs best packs zeros about as many times as small.
_MOST_PACKED: Final = 100_000


def check_picture(height: int, width: int, what: object) -> None:
    """Raises `ValueError` unless a picture of so many pixels may be decoded."""
    if height * width > MAX_PIXELS:
        raise ValueError(f"{what} claims {width} x {height} pixels; expected at most {MAX_PIXELS:,} together")


def check_recording(shape: Sequence[int], what: object) -> None:
    """Raises `ValueError` unless frames of the shape (T, H, W, 3) may be read one after the other."""
    count, height, width, _ = shape
    if count > MAX_RECORDED_FRAMES:
        raise ValueError(f"{what} claims {count} frames; expected at most {MAX_RECORDED_FRAMES:,}")
    check_picture(height, width, what)


def check_packed(claimed: int, stored: int, what: object) -> None:
    """Raises `ValueError` if so many bytes cannot have been packed into those that are stored."""
    if claimed > _MOST_PACKED * max(1, stored):
        raise ValueError(f"{what} has {stored} bytes and claims to unpack to {claimed}")


def check_room(nbytes: int, what: object) -> None:
    """Raises `ValueError` unless so many bytes fit into the memory of this machine, whatever else is in it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if nbytes > memory:
        raise ValueError(f"{what} has {nbytes / 1e9:,.1f} GB, more than the {memory / 1e9:,.1f} GB of memory here")
