"""Pages about many recordings: one file of HTML, and beside it their videos, fetched as they are looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from rich.progress import track

from robometer_rl.files import new_files
from robometer_rl.frames import FrameSequence
from robometer_rl.report.replay import PLAYBACK_FPS, Replay, Video, reduced, render_page
from robometer_rl.report.terminal import open_console
from robometer_rl.video import write_video

__all__ = ["MOST_SHOWN", "PAGE", "Recorded", "write_recordings"]

MOST_SHOWN: Final = 200
"""Recordings on a page; more are not looked at, and their videos would fill a disk."""

PAGE: Final = "index.html"
_VIDEOS: Final = "recording-*.mp4"

Recorded = tuple[Replay, Mapping[str, FrameSequence]]
"""What was said of a recording, without its videos, and the frames of each of these by their names, in order."""


def write_recordings(
    folder: Path,
    title: str,
    lead: str,
    recordings: Iterable[Recorded],
    facts: Mapping[str, str],
    *,
    count: int,
    sections: Sequence[str] = (),
    show_progress: bool = False,
) -> Path:
    """Writes the page and its videos; the page is there when all of them are.

    Args:
        folder: Where; it is made if it is missing, and other files in it stay.
        title: Heading.
        lead: A sentence or two below it.
        recordings: In the order in which they are to be looked at. They are taken one after the other, so that the
            frames of one are in memory at a time.
        facts: What produced the numbers: model, protocol, versions.
        count: How many recordings these are, for the progress bar.
        sections: Markup before the table.
        show_progress: Draw a progress bar on standard error.

    Returns:
        The page, ``index.html``.

    Raises:
        OSError: No space, no permission; a page that was there is as it was.
    """
    console = open_console(stderr=True)
    replays: list[Replay] = []
    with new_files(folder, PAGE) as partial:
        shown = track(
            recordings, "videos of the page", count, console=console, transient=True, disable=not show_progress
        )
        for number, (replay, cameras) in enumerate(shown, 1):
            videos = []
            for name, frames in cameras.items():
                file = _VIDEOS.replace("*", f"{number:04d}" + (f"-{len(videos) + 1}" if len(cameras) > 1 else ""))
                write_video(partial / file, reduced(frames), PLAYBACK_FPS)
                videos.append(Video(name, file, np.arange(len(frames)) / PLAYBACK_FPS))
            replays.append(replace(replay, videos=videos))
        (partial / PAGE).write_text(render_page(title, lead, replays, facts, sections=sections), encoding="utf-8")
    _remove_others(folder, replays)
    return folder / PAGE


def _remove_others(folder: Path, replays: Sequence[Replay]) -> None:
    """Removes videos of an earlier page with more recordings."""
    named = {video.address for replay in replays for video in replay.videos}
    for path in folder.glob(_VIDEOS):
        if path.name not in named:
            path.unlink()
