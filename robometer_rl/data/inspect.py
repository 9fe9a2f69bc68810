"""``robometer-rl data inspect`` and ``data verify``: what a store holds, and whether it is sound."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from PIL import Image
from rich.table import Table

from robometer_rl.data.store import ChecksumError, StoreError, TrajectoryStore
from robometer_rl.data.subsampling import kept_frames
from robometer_rl.data.trajectory import QualityLabel, Trajectory
from robometer_rl.data.verified import verify_store
from robometer_rl.report.figures import (
    LIGHT,
    MARGIN,
    fitted,
    house_style,
    new_figure,
    rendered,
    save_picture,
    write_line,
)
from robometer_rl.report.terminal import open_console

__all__ = ["InspectConfig", "StoreSummary", "VerifyConfig", "contact_sheet", "inspect_store", "summarise", "verify"]

logger = logging.getLogger(__name__)

_QUALITIES: Final[tuple[str, ...]] = get_args(QualityLabel)
_FIELDS: Final = ("task", "quality_label", "data_source", "skill", "split", "frames_shape")

_COLUMNS: Final = 8  # frames of a trajectory on the contact sheet
_PICTURE: Final = 96  # their height, in units of two pixels like the rest
_CAPTION: Final = 24
_GAP: Final = 4
_LEAST: Final = 480  # a title needs room
_ROW: Final = _CAPTION + _PICTURE + 12


@dataclass(frozen=True)
class InspectConfig:
    """Counts per task, quality and source, lengths and sizes, and a picture of some trajectories.

    Attributes:
        path: Directory of the store.
        output: Where the contact sheet is written; NAME-contact-sheet.png beside a store called NAME by default.
        rows: Trajectories on the contact sheet, spread over tasks and qualities.
    """

    path: Path
    output: Path | None = None
    rows: int = 16


@dataclass(frozen=True)
class VerifyConfig:
    """Compares all checksums, looks at every frame file, and lists the trajectories that are damaged.

    Attributes:
        path: Directory of the store.
    """

    path: Path


@dataclass(frozen=True)
class StoreSummary:
    """What a store holds, in numbers.

    Attributes:
        qualities: Per task, how many trajectories of each quality label.
        sources: How many of each ``data_source``.
        splits: How many of each split.
        skills: How many of each skill; those without one are called ``-``.
        lengths: (N,) frames per trajectory.
        sizes: How many trajectories have frames of each (height, width).
        megabytes: On disk.
        unreadable: Trajectories whose row is damaged; they are not in the other numbers.
    """

    qualities: dict[str, Counter[str]]
    sources: Counter[str]
    splits: Counter[str]
    skills: Counter[str]
    lengths: np.ndarray
    sizes: Counter[tuple[int, int]]
    megabytes: float
    unreadable: int


def inspect_store(config: InspectConfig) -> StoreSummary:
    """Prints the tables and writes the contact sheet.

    Raises:
        StoreError: There is no store at ``path``, or it is empty.
    """
    store = TrajectoryStore.open(config.path)
    summary = summarise(store)
    if not len(summary.lengths):
        raise StoreError(f"{config.path} holds no trajectories that can be read; {summary.unreadable} are damaged")
    console = open_console()
    for table in _tables(config.path, summary):
        console.print(table)
    output = config.output or config.path.resolve().with_name(f"{config.path.resolve().name}-contact-sheet.png")
    output.parent.mkdir(parents=True, exist_ok=True)
    chosen = _chosen(store, config.rows)
    subtitle = f"{len(chosen)} of {len(summary.lengths)} trajectories · first frame to last · green: successful"
    save_picture(contact_sheet(chosen, config.path.resolve().name, subtitle), output)
    console.print(f"contact sheet: {output}", soft_wrap=True)
    return summary


def verify(config: VerifyConfig) -> None:
    """Prints which trajectories are damaged and why.

    Raises:
        StoreError: There is no store at ``path``, or some of it is damaged.
    """
    found = verify_store(TrajectoryStore.open(config.path))
    count = len(found.trajectories) + len(found.skipped)
    if not found.skipped:
        open_console().print(f"all {count} trajectories are as they were written")
        return
    table = Table("damaged trajectory", "what is wrong")
    for entry in found.skipped:
        table.add_row(entry.name, entry.reason)
    open_console().print(table)
    raise StoreError(f"{len(found.skipped)} of {count} trajectories in {config.path} are damaged")


def summarise(store: TrajectoryStore) -> StoreSummary:
    """Counts what a store holds; of a sealed store only the columns that are counted are read."""
    columns = store.columns(*_FIELDS)
    qualities: dict[str, Counter[str]] = {}
    for task, quality in zip(columns["task"], columns["quality_label"], strict=True):
        qualities.setdefault(task, Counter())[quality] += 1
    shapes = columns["frames_shape"]
    return StoreSummary(
        qualities=dict(sorted(qualities.items())),
        sources=Counter(columns["data_source"]),
        splits=Counter(columns["split"]),
        skills=Counter(skill or "-" for skill in columns["skill"]),
        lengths=np.array([shape[0] for shape in shapes], np.int64),
        sizes=Counter((shape[1], shape[2]) for shape in shapes),
        megabytes=sum(map(_size, store.path.rglob("*"))) / 1e6,
        unreadable=len(store) - len(shapes),
    )


def _size(path: Path) -> int:
    """Bytes of a file; 0 of a directory, and of what another process that writes or seals has removed meanwhile."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


def contact_sheet(trajectories: Sequence[Trajectory], title: str = "", subtitle: str = "") -> Image.Image:
    """One row of frames per trajectory, evenly spread from the first to the last, under what it is said to be.

    It is what shows at a glance whether pictures are upright and colours right, and whether the last frame of a
    success shows the task done.

    Raises:
        StoreError: There are no trajectories.
    """
    if not trajectories:
        raise StoreError("there is no sound trajectory to show on a contact sheet")
    pictures = [_pictures(trajectory) for trajectory in trajectories]
    width = max(_LEAST, 2 * MARGIN + max(sum(frame.width // 2 + _GAP for frame in row) - _GAP for row in pictures))
    with house_style(LIGHT):
        figure, top = new_figure(title, subtitle, (width, _GAP + len(trajectories) * _ROW), LIGHT)
        height = round(figure.bbox.height)
        for number, (trajectory, row) in enumerate(zip(trajectories, pictures, strict=True)):
            upper = top + _GAP + number * _ROW
            color = LIGHT.success if trajectory.quality_label == "successful" else LIGHT.ink
            write_line(figure, MARGIN, upper + 14, fitted(_caption(trajectory), width - 2 * MARGIN, 11), color, 11)
            left = 2 * MARGIN
            for frame in row:
                lower = height - 2 * (upper + _CAPTION) - frame.height
                figure.figimage(np.asarray(frame), left, round(lower))
                left += frame.width + 2 * _GAP
        return rendered(figure)


def _caption(trajectory: Trajectory) -> str:
    graded = "" if trajectory.partial_success is None else f" {trajectory.partial_success:.2f}"
    facts = [
        f"{trajectory.quality_label}{graded}",
        trajectory.data_source,
        trajectory.split,
        f"{len(trajectory)} frames",
    ]
    return f"{trajectory.task}  ({', '.join(facts)})  {trajectory.id}"


def _pictures(trajectory: Trajectory) -> list[Image.Image]:
    """Frames of one height; a recording that is shorter than a row leaves the rest of it empty."""
    frames = trajectory.clip().read(kept_frames(len(trajectory), max_frames=_COLUMNS).tolist())
    width = 2 * max(1, round(frames.shape[2] * _PICTURE / frames.shape[1]))
    # Small ones are enlarged smoothly, as a model's processor does it.
    return [Image.fromarray(frame).resize((width, 2 * _PICTURE), Image.Resampling.LANCZOS) for frame in frames]


def _chosen(store: TrajectoryStore, count: int) -> list[Trajectory]:
    """Trajectories of as many tasks and qualities as ``count`` allows, ordered by these; damaged ones are passed by."""
    columns = store.columns("task", "quality_label")
    groups: dict[tuple[str, str], list[str]] = {}
    for trajectory_id, task, quality in zip(columns["id"], columns["task"], columns["quality_label"], strict=True):
        groups.setdefault((task, quality), []).append(trajectory_id)
    # First one of each group, then a second one of each, ...: ids of a group follow each other in rank.
    ranked = sorted((rank, key, name) for key, names in groups.items() for rank, name in enumerate(names))
    chosen: list[tuple[tuple[str, str], Trajectory]] = []
    for _, key, trajectory_id in ranked:
        if len(chosen) == count:
            break
        try:
            trajectory = store[trajectory_id]
            trajectory.frames[:1]  # compares the checksum
        except ChecksumError as error:
            logger.warning("left out of the contact sheet: %s", error)
            continue
        chosen.append((key, trajectory))
    return [trajectory for _, trajectory in sorted(chosen, key=lambda entry: entry[0])]


def _tables(path: Path, summary: StoreSummary) -> list[Table]:
    lengths = summary.lengths
    facts = Table(title=str(path), show_header=False)
    facts.add_row("trajectories", f"{len(lengths)}" + (f" and {summary.unreadable} damaged" * bool(summary.unreadable)))
    facts.add_row("frames", f"{lengths.sum()}")
    facts.add_row("frames each", f"{lengths.min()} to {lengths.max()}, median {np.median(lengths):g}")
    facts.add_row("height x width", _counts({f"{h} x {w}": count for (h, w), count in summary.sizes.most_common()}))
    facts.add_row("source", _counts(dict(summary.sources.most_common())))
    facts.add_row("split", _counts(dict(summary.splits.most_common())))
    facts.add_row("skill", _counts(dict(summary.skills.most_common())))
    facts.add_row("on disk", f"{summary.megabytes:.1f} MB")
    tasks = Table("task", *_QUALITIES, "all")
    for column in tasks.columns[1:]:
        column.justify = "right"
    for task, counts in summary.qualities.items():
        tasks.add_row(task, *(str(counts[quality]) for quality in _QUALITIES), str(counts.total()))
    totals = sum(summary.qualities.values(), Counter[str]())
    tasks.add_section()
    tasks.add_row("all", *(str(totals[quality]) for quality in _QUALITIES), str(totals.total()))
    return [facts, tasks]


def _counts(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())
