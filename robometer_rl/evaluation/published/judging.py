"""One evaluation of one set: everybody's numbers, legacy and corrected, and the files that are made of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table

from robometer_rl.data.published import published
from robometer_rl.evaluation.metrics import Estimate, plain_metrics
from robometer_rl.evaluation.published import measured
from robometer_rl.evaluation.published.answers import Answerer
from robometer_rl.evaluation.published.measured import Legacy
from robometer_rl.evaluation.published.questions import (
    Dataset,
    Drawing,
    Pair,
    Question,
    alignment_questions,
    confusion_questions,
    preference_pairs,
    ranking_questions,
)
from robometer_rl.files import new_file, write_text
from robometer_rl.report.figures import (
    LIGHT,
    MARGIN,
    Theme,
    fitted,
    house_style,
    new_figure,
    place_axes,
    rendered,
    save_picture,
)

__all__ = [
    "FOLDERS",
    "Judged",
    "Kind",
    "NothingToAskError",
    "Row",
    "judge",
    "main_numbers",
    "manifest_of",
    "may_be_asked",
    "tables",
    "write_reference_files",
]

Kind = Literal["alignment", "ranking", "confusion", "preference"]

FOLDERS: Final[Mapping[str, str]] = {
    "alignment": "reward_alignment",
    "ranking": "policy_ranking",
    "confusion": "confusion_matrix",
    "preference": "quality_preference",
}
"""What the reference calls each kind of evaluation, also as a folder."""

_DRAWN: Final[Mapping[str, Callable[[Dataset, Drawing], Sequence[Question | Pair]]]] = {
    "alignment": alignment_questions,
    "ranking": ranking_questions,
    "confusion": confusion_questions,
    "preference": preference_pairs,
}
_MEASURED: Final[Mapping[str, tuple[Callable[..., Legacy], Callable[..., dict[str, Estimate]]]]] = {
    "alignment": (measured.legacy_alignment, measured.alignment),
    "ranking": (measured.legacy_ranking, measured.ranking),
    "confusion": (measured.legacy_confusion, measured.confusion),
    "preference": (measured.legacy_preference, measured.preference),
}
_CELL: Final = 46
_NAMES: Final = 210


class NothingToAskError(ValueError):
    """A set has no episodes of the kind that an evaluation is about; the message says what it wants."""


@dataclass(frozen=True)
class Row:
    """What one answerer reaches.

    Attributes:
        name: Who.
        is_control: Whether it is a control.
        legacy: The reference's numbers.
        corrected: Ours, with intervals; empty where only the reference's were asked for.
    """

    name: str
    is_control: bool
    legacy: Mapping[str, float]
    corrected: Mapping[str, Estimate]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined is None."""
        corrected = plain_metrics(self.corrected)
        return {"name": self.name, "control": self.is_control, "legacy": dict(self.legacy), "corrected": corrected}


@dataclass(frozen=True)
class Judged:
    """An evaluation of a set.

    Attributes:
        kind: Which one.
        name: Short name of the set.
        frame_rule: Which frames of a clip were shown.
        manifest: SHA-256 of the ids, tasks and frames that were asked about.
        questions: How many questions that were.
        rows: Numbers; the model first.
        legacy: What the reference would write of the model.
        matrix: Tasks, and mean answers by instruction and video, of a confusion matrix: corrected where asked for.
    """

    kind: Kind
    name: str
    frame_rule: str
    manifest: str
    questions: int
    rows: Sequence[Row]
    legacy: Legacy
    matrix: tuple[list[str], NDArray[np.float64]] | None = field(default=None)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        matrix = None
        if self.matrix is not None:
            values = [[None if value != value else value for value in row] for row in self.matrix[1].tolist()]
            matrix = {"tasks": self.matrix[0], "instruction_by_video": values}
        return {
            "kind": self.kind,
            "set": self.name,
            "frame_rule": self.frame_rule,
            "manifest": {"questions": self.questions, "sha256": self.manifest},
            "rows": [row.as_dict() for row in self.rows],
            **({} if matrix is None else {"matrix": matrix}),
        }


def judge(
    kind: Kind, dataset: Dataset, drawing: Drawing, asked: Sequence[Answerer], legacy_only: bool = False
) -> Judged:
    """Evaluates one set.

    Args:
        kind: Which evaluation.
        dataset: The set.
        drawing: What is drawn of it. Whether clips are padded is not looked at unless only the reference's numbers
            are wanted: those are about padded clips, ours never are.
        asked: A model, and controls.
        legacy_only: Ask the reference's questions alone, and compute its numbers alone.

    Raises:
        NothingToAskError: There is nothing in the set to ask about.
        UnsupportedByModelError: A model cannot answer such questions.
    """
    plain = replace(drawing, padded=False)
    as_published = drawing if legacy_only else replace(drawing, padded=True)
    questions: dict[str, list[Any]] = {"legacy": list(_DRAWN[kind](dataset, as_published))}
    if not legacy_only:
        questions["corrected"] = list(_DRAWN[kind](dataset, plain))
    if not questions["legacy"]:
        raise NothingToAskError(
            f"the set {' and '.join(dataset.names)} has no episodes for {kind}: {_WANTED[kind]}; it has "
            f"{len(dataset.episodes)} episodes of the qualities "
            f"{sorted({each.quality_label for each in dataset.episodes})}"
        )
    of_legacy, of_corrected = _MEASURED[kind]
    rows: list[Row] = []
    first: Legacy | None = None
    matrix = None
    for each in asked:
        if not may_be_asked(kind, each):
            continue
        said = {name: _answers(kind, each, about) for name, about in questions.items()}
        legacy = of_legacy(dataset, questions["legacy"], said["legacy"])
        corrected = {} if legacy_only else of_corrected(dataset, questions["corrected"], said["corrected"])
        rows.append(Row(each.name, each.is_control, legacy.metrics, corrected))
        if first is None:
            first = legacy
            if kind == "confusion":
                last = "legacy" if legacy_only else "corrected"
                values = [float(answer[-1]) for answer in said[last]]
                matrix = measured.matrix_of(questions[last], values)
    assert first is not None, "somebody may be asked"
    judged_by = questions["legacy" if legacy_only else "corrected"]
    rule = f"uniform({drawing.max_frames}){', padded' if legacy_only and drawing.padded else ''}"
    prefixes = {None: "whole clips", 0: "a prefix per frame"}.get(drawing.prefixes, f"{drawing.prefixes} prefixes")
    return Judged(
        kind=kind,
        name=published().short_name(dataset.names),
        frame_rule=f"{rule}, {prefixes}",
        manifest=manifest_of(judged_by),
        questions=len(judged_by),
        rows=rows,
        legacy=first,
        matrix=matrix,
    )


def may_be_asked(kind: Kind, answerer: Answerer) -> bool:
    """Whether an evaluation means anything for somebody: one that asks about all tasks knows no wrong one."""
    return kind != "confusion" or answerer.change != "wrong_task"


_WANTED: Final = {
    "alignment": "it needs successful ones of at least 6 frames",
    "ranking": "it needs tasks with episodes of different quality",
    "confusion": "it needs successful or suboptimal ones of at least 6 frames",
    "preference": "it needs tasks with episodes of different quality",
}


def _answers(kind: Kind, answerer: Answerer, about: list[Any]) -> Any:
    return answerer.preferences(about) if kind == "preference" else answerer.progress(about)


def manifest_of(questions: Sequence[Question | Pair]) -> str:
    """SHA-256 of what is asked about, whatever it looks like: ids, tasks and the numbers of frames, in order."""
    listed = [[(clip.episode.id, clip.task, clip.frames) for clip in _clips(each)] for each in questions]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _clips(question: Question | Pair) -> tuple[Question, ...]:
    return (question,) if isinstance(question, Question) else (question.better, question.worse)


_MAIN: Final[Mapping[Kind, tuple[str, str]]] = {
    "alignment": ("voc_pearson_time", "pearson"),
    "ranking": ("ranking_accuracy", "ranking_acc_last"),
    "confusion": ("own_task_first", "normalized_trace_minus_offdiag"),
    "preference": ("preference_accuracy_mean", "preference_accuracy"),
}


def main_numbers(judged: Judged) -> list[str]:
    """The one number that matters most, of each model beside the best control: a line each."""
    ours, theirs = _MAIN[judged.kind]

    def value(row: Row) -> float:
        return row.corrected[ours].value if row.corrected else row.legacy.get(theirs, float("nan"))

    controls = [(value(row), row.name) for row in judged.rows if row.is_control and value(row) == value(row)]
    beside = f", the best control ({max(controls)[1]}) {max(controls)[0]:.3f}" if controls else ""
    models = [row for row in judged.rows if not row.is_control] or judged.rows[:1]
    return [
        f"{judged.name}: {ours if row.corrected else theirs} of {row.name} {value(row):.3f}{beside}" for row in models
    ]


def tables(judged: Judged) -> list[Table]:
    """The corrected numbers of everybody, if there are any, and those of the reference."""
    title = f"{judged.kind} on {judged.name}: {judged.frame_rule}, {judged.questions} questions"
    made = []
    if judged.rows[0].corrected:
        names = list(dict.fromkeys(name for row in judged.rows for name in row.corrected))
        cells = [(row, [_shown(row.corrected.get(name)) for name in names]) for row in judged.rows]
        made.append(_table(f"{title} (95 % intervals)", names, cells))
    names = list(dict.fromkeys(name for row in judged.rows for name in row.legacy))
    if judged.kind == "ranking":  # of whole clips all three are the same; files have them all
        names = [name for name in names if name.endswith("_last") and not name.startswith(("min_", "max_"))]
    cells = [(row, [f"{row.legacy[name]:.3f}" if name in row.legacy else "" for name in names]) for row in judged.rows]
    return [*made, _table(f"legacy, as the reference computes it: {title}", names, cells)]


def _table(title: str, names: Sequence[str], rows: Sequence[tuple[Row, list[str]]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for row, cells in rows:
        table.add_row(row.name, *cells, style="dim" if row.is_control else None)
    return table


def _shown(estimate: Estimate | None) -> str:
    if estimate is None or not estimate.count:
        return ""
    return f"{estimate.value:.3f}\n({estimate.low:.3f} to {estimate.high:.3f})"


def write_reference_files(folder: Path, judged: Sequence[Judged]) -> None:
    """Writes what the reference would, of the model alone: its folders, files and keys.

    ``_confusion_matrix.json`` beside the ``.npy`` has the tasks in their order, which the reference stores nowhere.
    Its animations of curves are not made.

    Args:
        folder: The reference's ``output_dir``.
        judged: Evaluations; those of one kind share a ``metrics.json``.
    """
    everything: dict[str, dict[str, float]] = {}
    for each in judged:
        place = folder / FOLDERS[each.kind]
        place.mkdir(parents=True, exist_ok=True)
        for name, content in {"results": each.legacy.results, **each.legacy.documents}.items():
            write_text(place / f"{each.name}_{name}.json", json.dumps(content, indent=2) + "\n")
        metrics = everything.setdefault(FOLDERS[each.kind], {})
        metrics |= {f"{each.name}/{name}": value for name, value in each.legacy.metrics.items()}
        write_text(place / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        if each.matrix is not None:
            tasks, matrix = each.matrix
            with new_file(place / f"{each.name}_confusion_matrix.npy") as partial, partial.open("wb") as file:
                np.save(file, matrix)
            labelled = {"tasks": tasks, "rows": "instructions", "columns": "tasks of the videos"}
            write_text(place / f"{each.name}_confusion_matrix.json", json.dumps(labelled, indent=2) + "\n")
            picture = draw_matrix(tasks, matrix, f"{each.rows[0].name} on {each.name}")
            save_picture(picture, place / f"{each.name}_confusion_matrix.png")
    write_text(folder / "all_metrics.json", json.dumps(everything, indent=2) + "\n")


def draw_matrix(tasks: Sequence[str], matrix: NDArray[np.float64], title: str, theme: Theme = LIGHT) -> Image.Image:
    """A confusion matrix with its tasks and its values; what was not asked stays empty."""
    side = _CELL * len(tasks)
    width = max(side + _NAMES + 2 * MARGIN, 520)
    with house_style(theme):
        figure, top = new_figure(
            title, "mean progress of videos (columns) under instructions (rows)", (width, side + _NAMES), theme
        )
        axes = place_axes(figure, MARGIN + _NAMES, top + 8, side, side)
        axes.grid(visible=False)
        axes.imshow(np.ma.masked_invalid(matrix), cmap="Blues", vmin=0.0, vmax=1.0)
        names = [fitted(task, _NAMES - 16, 9.5) for task in tasks]
        axes.set_xticks(range(len(tasks)), names, rotation=90)
        axes.set_yticks(range(len(tasks)), names)
        for (row, column), value in np.ndenumerate(matrix):
            if not np.isnan(value):
                color = "white" if value > 0.6 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color)
        return rendered(figure)
