"""Ids of episodes, made of what their source calls them."""

from __future__ import annotations

import hashlib
import re

__all__ = ["episode_id", "fingerprint"]

_MAX_LENGTH = 200
_ESCAPED = re.compile(r"[^A-Za-z0-9._-]")


def episode_id(data_source: str, *names: str) -> str:
    """An id that is the same at every reading, differs between episodes, and can name a file of a store.

    Args:
        data_source: Tag of the data set, with which the id begins.
        names: What the source calls the episode, from the file to the episode in it; never a machine's own path.

    Returns:
        The names joined by ``-``. A slash becomes ``+``, any other character that a file name may not have its hex
        code after ``=``; what is longer than 200 characters is cut and closed with a fingerprint of the whole.

    Example:
        >>> episode_id("videos", "kitchen/open drawer.mp4")
        'videos-kitchen+open=20drawer.mp4'
    """
    joined = "-".join(_ESCAPED.sub(_escape, name) for name in (data_source, *names))
    # A tag in another script would start with an escape, and a file name should start with a letter.
    joined = joined if joined[:1].isalnum() else f"x{joined}"
    return joined if len(joined) <= _MAX_LENGTH else f"{joined[: _MAX_LENGTH - 9]}-{fingerprint(joined)}"


def fingerprint(text: str) -> str:
    """Eight hex digits that tell texts apart."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _escape(match: re.Match[str]) -> str:
    if match[0] == "/":
        return "+"
    return "".join(f"={byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))
