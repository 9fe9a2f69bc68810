"""One evaluation of one set: everybody's numbers, legacy and corrected, and the files that are made of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from rich.table import Table

from robometer_rl.data.published import published
from robometer_rl.evaluation.metrics import Estimate, plain_metrics, read_metrics
from robometer_rl.evaluation.published import matrices, measured
from robometer_rl.evaluation.published.answers import Answerer
from robometer_rl.evaluation.published.matrices import Matrix, draw_matrix
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
from robometer_rl.report.figures import save_picture

__all__ = [
    "FOLDERS",
    "Judged",
    "Kind",
    "NothingToAskError",
    "Row",
    "judge",
    "legacy_names",
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
_MATRICES: Final[Mapping[str, Callable[..., Matrix]]] = {
    "alignment": matrices.alignment_matrix,
    "ranking": matrices.ranking_matrix,
    "confusion": matrices.confusion_matrix,
    "preference": matrices.preference_matrix,
}


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

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Row:
        """What `as_dict` has written.

        Raises:
            ValueError: It is something else.
        """
        try:
            legacy = {str(name): float(value) for name, value in row["legacy"].items()}
            return cls(str(row["name"]), bool(row["control"]), legacy, read_metrics(row["corrected"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no row with 'name', 'control', 'legacy' and 'corrected': {error}") from error


@dataclass(frozen=True)
class Judged:
    """An evaluation of a set.

    Attributes:
        kind: Which one.
        name: Short name of the set.
        frame_rule: Which frames of a clip were shown.
        manifest: SHA-256 of the ids, tasks and frames that were asked about.
        asked: The questions, or the pairs of them: corrected ones, unless only the reference's were asked.
        said: What the first model answered to them, see `Answerer.progress` and `Answerer.preferences`.
        rows: Numbers; the first model first.
        legacy: What the reference would write of the first model.
        matrix: Its answers, task by task; None of a mean over sets.
    """

    kind: Kind
    name: str
    frame_rule: str
    manifest: str
    asked: Sequence[Any]
    said: Any
    rows: Sequence[Row]
    legacy: Legacy
    matrix: Matrix | None

    @property
    def questions(self) -> int:
        """How many there are."""
        return len(self.asked)

    @property
    def picture(self) -> str:
        """Where `write_reference_files` draws the matrix, below its folder."""
        return f"{FOLDERS[self.kind]}/{self.name}_{FOLDERS[self.kind]}.png"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "kind": self.kind,
            "set": self.name,
            "frame_rule": self.frame_rule,
            "manifest": {"questions": self.questions, "sha256": self.manifest},
            "rows": [row.as_dict() for row in self.rows],
            **({} if self.matrix is None else {"matrix": self.matrix.as_dict()}),
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
    judged_by = "legacy" if legacy_only else "corrected"
    rows: list[Row] = []
    first: tuple[Legacy, Any] | None = None
    for each in asked:
        if not may_be_asked(kind, each):
            continue
        said = {name: _answers(kind, each, about) for name, about in questions.items()}
        legacy = of_legacy(dataset, questions["legacy"], said["legacy"])
        corrected = {} if legacy_only else of_corrected(dataset, questions["corrected"], said["corrected"])
        rows.append(Row(each.name, each.is_control, legacy.metrics, corrected))
        if first is None:
            first = legacy, said[judged_by]
    assert first is not None, "somebody may be asked"
    about = questions[judged_by]
    rule = f"uniform({drawing.max_frames}){', padded' if legacy_only and drawing.padded else ''}"
    prefixes = {None: "whole clips", 0: "a prefix per frame"}.get(drawing.prefixes, f"{drawing.prefixes} prefixes")
    return Judged(
        kind=kind,
        name=published().short_name(dataset.names),
        frame_rule=f"{rule}, {prefixes}",
        manifest=manifest_of(about),
        asked=about,
        said=first[1],
        rows=rows,
        legacy=first[0],
        matrix=_MATRICES[kind](dataset, about, first[1]),
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
    names = legacy_names(judged.kind, judged.rows)
    cells = [(row, [f"{row.legacy[name]:.3f}" if name in row.legacy else "" for name in names]) for row in judged.rows]
    return [*made, _table(f"legacy, as the reference computes it: {title}", names, cells)]


def legacy_names(kind: Kind, rows: Sequence[Row]) -> list[str]:
    """Which of the reference's numbers are shown; files have them all."""
    names = list(dict.fromkeys(name for row in rows for name in row.legacy))
    if kind == "ranking":  # of whole clips all three are the same
        return [name for name in names if name.endswith("_last") and not name.startswith(("min_", "max_"))]
    return names


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
    Its animations of curves are not made; matrices are drawn for all kinds.

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
            save_picture(draw_matrix(each.matrix, f"{each.rows[0].name} on {each.name}"), folder / each.picture)
            if each.kind == "confusion":
                with new_file(place / f"{each.name}_confusion_matrix.npy") as partial, partial.open("wb") as file:
                    np.save(file, each.matrix.values)
                labelled = {"tasks": each.matrix.rows, "rows": "instructions", "columns": "tasks of the videos"}
                write_text(place / f"{each.name}_confusion_matrix.json", json.dumps(labelled, indent=2) + "\n")
    write_text(folder / "all_metrics.json", json.dumps(everything, indent=2) + "\n")
