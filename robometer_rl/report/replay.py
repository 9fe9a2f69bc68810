"""Recordings and curves under one cursor, as HTML that needs nothing else: the page of every command, and the studio.

A `Replay` is drawn by a little script of our own (``assets/replay``), from numbers that stand in the page. Playing
moves the cursor; pointing at the curves, or an arrow key, shows that frame. Videos are fetched when they are looked at.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.frames import FrameSequence, as_frame, parse_protocol, same_length, scored_steps
from robometer_rl.prediction import Prediction
from robometer_rl.report.episode import EpisodeScores, runs_of_true
from robometer_rl.report.markup import html, html_json, printable
from robometer_rl.report.page import data_table, definitions, document
from robometer_rl.rewards import RewardSpec, episode_rewards
from robometer_rl.video import write_video

__all__ = [
    "PLAYBACK_FPS",
    "Replay",
    "Series",
    "Video",
    "draw_replay",
    "judged_series",
    "paid_between",
    "reduced",
    "render_page",
    "replay_head",
    "series_of",
    "shown_frames",
    "spread_band",
    "video_address",
    "worst_first",
]

PLAYBACK_FPS: Final = 10.0
"""At which recordings without times are played."""

_MAX_SIDE: Final = 480  # pixels of a video in a page
_DIGITS: Final = 4
_LIKELY: Final = (0.1, 0.9)  # ends of the band of uncertainty


@dataclass(frozen=True, eq=False)
class Video:
    """A recording beside the curves.

    Attributes:
        name: Such as the camera, or the policy.
        address: Relative to the page, or a ``data:`` address.
        seconds: (T,) when each frame is shown, ascending from 0.
    """

    name: str
    address: str
    seconds: NDArray[np.float64]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the script."""
        return {"name": printable(self.name), "address": self.address, "seconds": _rounded(self.seconds)}


@dataclass(frozen=True, eq=False)
class Series:
    """What one model said of one recording under one instruction.

    Attributes:
        name: What tells it from the other series.
        steps: (N,) int64, which frames were scored, counted from 0.
        scores: What was said of them, N values.
        rewards: (N,) what was paid since the scored frame before; None if nobody is paid.
        original: (N,) what was paid before it was relabelled, likewise; None if nobody was paid.
        band: (N, 2) lower and upper end of the progress that the model holds possible; None if it does not say.
        shown: (N, K) int64, the frames that the model was shown for each value, then -1; None if that is not known.
        true_success: (T,) bool of every frame; None if it is not known.
        true_progress: (T,) of every frame; None if it is not known.
        outcome: Whether the recording succeeded, where no more is known of its true success.
        video: Which of the replay's videos it is about.
        counted: What ``scores.numbers`` counts, where it is not ``steps``: frames that are shown may be some of those
            that were recorded, or some of the steps of a simulator.
    """

    name: str
    steps: NDArray[np.int64]
    scores: EpisodeScores
    rewards: NDArray[np.floating] | None = None
    original: NDArray[np.floating] | None = None
    band: NDArray[np.floating] | None = None
    shown: NDArray[np.int64] | None = None
    true_success: NDArray[np.bool_] | None = None
    true_progress: NDArray[np.floating] | None = None
    outcome: bool | None = None
    video: int = 0
    counted: str = "recorded frame"

    def __post_init__(self) -> None:
        for name in ("steps", "rewards", "original", "band", "shown"):
            if getattr(self, name) is not None:
                same_length(name, len(getattr(self, name)), len(self.scores))

    @property
    def paid(self) -> float:
        """Sum of what was paid."""
        return 0.0 if self.rewards is None else float(self.rewards.sum())

    @property
    def disagreement(self) -> float | None:
        """How far what was said is from what is known, in [0, 1]; None where nothing is known to hold it against.

        The larger of two: how far progress in the last frame is from true progress, and how wrong success is: the
        highest probability in a recording that never succeeds, or what the highest from the first true success on
        lacks of 1. Of a model without success, its progress is held against the outcome where no true progress is
        known.
        """
        gaps = []
        if self.true_progress is not None:
            gaps.append(abs(float(self.scores.progress[-1]) - float(self.true_progress[self.steps[-1]])))
        said = self.scores.success
        if said is None and self.true_progress is None:
            said = self.scores.progress
        first = self._first_success()
        if said is not None and first is not None:
            there = said[self.steps >= first]
            gaps.append(1.0 - float(there.max()) if len(there) else float(said.max()))
        return max(gaps, default=None)

    def called(self, place: int) -> str:
        """What the scored frame at a place is called, as on the axis: "frame 33", or "frame 33 (step 102)"."""
        frame, number = int(self.steps[place]), int(self.scores.numbers[place])
        return f"frame {frame}" if frame == number else f"frame {frame} ({self.counted} {number})"

    @property
    def fires_at(self) -> str | None:
        """What the first frame in which the success rule holds is called; None if there is none."""
        first = self.scores.first_detected
        return None if first is None else self.called(first)

    def _first_success(self) -> int | None:
        """First frame in which it is known to have succeeded, beyond the last one if it never does; None: unknown."""
        never = int(self.steps[-1]) + 1
        if self.true_success is not None:
            return int(np.argmax(self.true_success)) if self.true_success.any() else never
        return None if self.outcome is None else never - self.outcome

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the script."""
        scores = self.scores
        first = scores.first_detected
        return {
            "name": printable(self.name),
            "task": printable(scores.task),
            "steps": self.steps.tolist(),
            "numbers": scores.numbers.tolist(),
            "counted": self.counted,
            "progress": _rounded(scores.progress),
            "success": None if scores.success is None else _rounded(scores.success),
            "threshold": None if scores.success is None else round(float(scores.threshold), _DIGITS),
            "fires": None if first is None else int(self.steps[first]),
            "rewards": None if self.rewards is None else _rounded(self.rewards),
            "original": None if self.original is None else _rounded(self.original),
            "band": None if self.band is None else [_rounded(self.band[:, 0]), _rounded(self.band[:, 1])],
            "shown": None if self.shown is None else self.shown.tolist(),
            "trueSuccess": None if self.true_success is None else runs_of_true(self.true_success),
            "trueProgress": None if self.true_progress is None else _rounded(self.true_progress),
            "video": self.video,
        }


@dataclass(frozen=True, eq=False)
class Replay:
    """Recordings and what was said of them, on one time axis.

    Attributes:
        name: Heading.
        series: None where a recording is only looked at, frame by frame.
        videos: As many as there are; none where only numbers are known.
        description: One sentence.
        values: A row of the page's table, the same columns for all that have one; booleans become "yes" and "no".
        key: What it is called in addresses; the name if empty.
        marked: A frame that is marked on the axis; None for none.
        pictures: Addresses of a picture per frame, in place of videos, of a recording that may still grow.
    """

    name: str
    series: Sequence[Series]
    videos: Sequence[Video] = ()
    description: str = ""
    values: Mapping[str, str | bool] = field(default_factory=dict)
    key: str = ""
    marked: int | None = None
    pictures: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.series and not self.videos:
            raise ValueError(f"the replay {self.name!r} has neither series nor videos; expected at least one")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the script."""
        ends = [int(series.steps[-1]) + 1 for series in self.series]
        return {
            "name": printable(self.name),
            "frames": max([*ends, *(len(video.seconds) for video in self.videos), len(self.pictures)]),
            "fps": PLAYBACK_FPS,
            "marked": self.marked,
            "series": [series.as_dict() for series in self.series],
            "videos": [video.as_dict() for video in self.videos],
            "pictures": list(self.pictures),
        }


def series_of(
    name: str,
    prediction: Prediction,
    scores: EpisodeScores,
    num_frames: int,
    paid: NDArray[np.floating] | None = None,
    true_success: NDArray[np.bool_] | None = None,
    video: int = 0,
) -> Series:
    """What was predicted of a recording, as a series.

    Args:
        name: See `Series`.
        prediction: One value per scored frame.
        scores: The same beside the numbers of the frames.
        num_frames: T, of the recording.
        paid: (T - 1,) the reward of each step, if any.
        true_success: See `Series`.
        video: See `Series`.
    """
    steps = scored_steps(num_frames, prediction.every)
    bins = prediction.progress_distribution
    return Series(
        name=name,
        steps=steps,
        scores=scores,
        rewards=None if paid is None else paid_between(steps, paid),
        band=_band(bins) if bins.shape[1] > 1 else None,
        shown=None if prediction.protocol == "given" else shown_frames(prediction.protocol, steps),
        true_success=true_success,
        video=video,
    )


def judged_series(
    name: str,
    prediction: Prediction,
    num_frames: int,
    threshold: float,
    task: str | None = None,
    numbers: NDArray[np.int64] | None = None,
    true_success: NDArray[np.bool_] | None = None,
    video: int = 0,
) -> Series:
    """What was predicted of a recording, with the success rule and the reward that are usual.

    Args:
        name: What tells it from other series.
        prediction: One value per scored frame.
        num_frames: T, of the recording.
        threshold: Of the success rule, see `robometer_rl.RewardSpec.threshold`.
        task: The instruction; the name if None.
        numbers: (T,) what the frames are called; counted from 0 if None.
        true_success: See `Series`.
        video: See `Series`.
    """
    steps = scored_steps(num_frames, prediction.every)
    paid = episode_rewards(
        RewardSpec(every=prediction.every),
        prediction.progress,
        prediction.success,
        np.zeros(num_frames - 1),
        terminated=False,
        threshold=threshold,
    )
    scores = EpisodeScores(
        task=name if task is None else task,
        numbers=steps if numbers is None else numbers[steps],
        progress=prediction.progress,
        success=prediction.success,
        success_detected=np.append(False, paid.success_detected)[steps],
        threshold=threshold,
        uncertainty=prediction.uncertainty,
    )
    return series_of(name, prediction, scores, num_frames, paid.rewards, true_success, video)


def paid_between(steps: NDArray[np.int64], rewards: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N,) what was paid since the scored frame before, given the (T - 1,) rewards of steps; 0 for the first frame."""
    total = np.concatenate([[0.0], np.cumsum(np.asarray(rewards, np.float64))])
    return np.diff(total[steps], prepend=0.0)


def worst_first(replays: Sequence[Replay]) -> list[int]:
    """Positions of replays in the order in which they should be looked at.

    First those of which something is known, by how far the model is from it (`Series.disagreement` of their first
    series); then the others, by how far what they are paid is from what is paid usually (the median).
    """
    first = [replay.series[0] for replay in replays]
    usual = float(np.median([series.paid for series in first])) if first else 0.0

    def place(position: int) -> tuple[bool, float]:
        gap = first[position].disagreement
        return gap is None, -abs(first[position].paid - usual) if gap is None else -gap

    return sorted(range(len(first)), key=place)


def shown_frames(protocol: str, steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N, K) which frames a model is shown for each of the N scored ones; -1 at the end of rows that have fewer.

    Args:
        protocol: Name of what chooses them among the scored frames, as in ``nested(8)``.
        steps: (N,) frames that are scored.
    """
    slots = parse_protocol(protocol).slots
    rows = [steps[slots(number)] for number in range(len(steps))]
    width = max(map(len, rows))
    return np.stack([np.pad(row, (0, width - len(row)), constant_values=-1) for row in rows])


def spread_band(progress: NDArray[np.floating], spread: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, 2) a band of uncertainty around (N,) progress, a standard deviation to either side, within [0, 1]."""
    return np.clip(np.stack([progress - spread, progress + spread], axis=1), 0.0, 1.0).astype(np.float64)


def _band(distribution: NDArray[np.floating]) -> NDArray[np.floating]:
    """(N, 2) between which a model holds progress for likely: the 10th and the 90th percentile of its bins."""
    below = np.cumsum(np.asarray(distribution, np.float64), axis=1)
    values = np.linspace(0.0, 1.0, distribution.shape[1])
    last = len(values) - 1
    ends = [np.minimum((below < share * below[:, -1:]).sum(axis=1), last) for share in _LIKELY]
    return np.stack([values[end] for end in ends], axis=1)


def video_address(frames: FrameSequence, fps: float = PLAYBACK_FPS, seconds: NDArray[np.floating] | None = None) -> str:
    """Frames as a video inside an address, so that a page is one file; large ones are reduced.

    Args:
        frames: (T, H, W, 3) RGB.
        fps: Frames per second.
        seconds: (T,) when each is shown, where the rate varies.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, reduced(frames), fps, seconds)
        return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def reduced(frames: FrameSequence) -> Iterator[NDArray[np.uint8]]:
    """The frames one after another, no side longer than pages show."""
    height, width = frames.shape[1:3]
    scale = min(1.0, _MAX_SIDE / max(height, width))
    size = max(2, round(width * scale)), max(2, round(height * scale))
    for number in range(len(frames)):
        frame = as_frame(frames[number : number + 1][0])
        yield frame if scale == 1.0 else np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))


def draw_replay(replay: Replay) -> str:
    """The element that the script fills: its numbers, and a sentence for readers without scripts.

    Returns:
        Markup that stands alone in a page with `replay_head`; every text in it is escaped.
    """
    numbers = html_json(replay.as_dict())
    said = "; ".join(_summary(series) for series in replay.series)
    summary = f"<p class='replay-said'>{html(said)}</p>" if said else ""
    kind = "replay" if replay.series else "replay plain"
    key = html(replay.key or replay.name)
    description = f"<p class='replay-about'>{html(replay.description)}</p>" if replay.description else ""
    return (
        f"<section class='{kind}' data-key='{key}' aria-label='{html(replay.name)}' data-replay='{numbers}'>"
        f"<h3>{html(replay.name)}</h3>{description}{summary}</section>"
    )


@cache
def replay_head() -> str:
    """The style and the script of all replays of a page, as elements of its head."""
    assets = files("robometer_rl") / "assets" / "replay"
    style, script = ((assets / name).read_text(encoding="utf-8") for name in ("replay.css", "replay.js"))
    return f"<style>\n{style}</style>\n<script>\n{script}</script>"


def render_page(
    title: str,
    lead: str,
    replays: Sequence[Replay],
    facts: Mapping[str, str],
    command: str = "",
    sections: Sequence[str] = (),
) -> str:
    """A complete page about replays.

    Args:
        title: Heading.
        lead: A sentence or two below it.
        replays: In the order in which they are to be looked at.
        facts: What produced the numbers: model, protocol, versions.
        command: The command line that makes this page again.
        sections: Markup before the table.

    Returns:
        An HTML document that asks nothing of the network but the videos that are named in it.
    """
    listed = [replay for replay in replays if replay.values]
    table = ""
    if listed:
        rows = [(replay.name, *replay.values.values()) for replay in listed]
        links = [f"#{replay.key or replay.name}" for replay in listed]
        table = f"<h2>Results</h2>\n{data_table(('Name', *listed[0].values), rows, links)}"
    made = f"<h2>How this was made</h2>\n<div class='card'><dl>{definitions(facts)}</dl></div>\n"
    if command:
        made += f"<pre class='card'>{html(command)}</pre>"
    parts = [
        f"<h1>{html(title)}</h1>\n<p class='lead'>{html(lead)}</p>",
        *sections,
        table,
        *map(draw_replay, replays),
        made,
    ]
    return document(title, [part for part in parts if part], replay_head())


def _summary(series: Series) -> str:
    scores = series.scores
    said = f"{series.name}: progress {scores.progress[0]:.2f} to {scores.progress[-1]:.2f}"
    if scores.success is None:
        return said
    found = series.fires_at
    return f"{said}, success {'is not detected' if found is None else f'from {found}'}"


def _rounded(values: NDArray[Any]) -> list[float]:
    return np.round(np.asarray(values, np.float64), _DIGITS).tolist()
