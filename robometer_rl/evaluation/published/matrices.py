"""Labelled matrices of the reference's evaluations: where a model is right and where it is wrong, task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.evaluation.plots import draw_cells
from robometer_rl.evaluation.published.questions import Dataset, Pair, Question, by_episode, grade_level
from robometer_rl.evaluation.ranking import QUALITY_RANKS
from robometer_rl.report.figures import (
    LIGHT,
    MARGIN,
    Theme,
    fitted,
    house_style,
    new_figure,
    place_axes,
    points,
    rendered,
    text_width,
)

__all__ = ["Matrix", "alignment_matrix", "confusion_matrix", "draw_matrix", "preference_matrix", "ranking_matrix"]

Floats = NDArray[np.floating[Any]]

_PARTS: Final = ("0 to 0.2", "0.2 to 0.4", "0.4 to 0.6", "0.6 to 0.8", "0.8 to 1")
_LEVELS: Final = 5  # of graded outcomes, as RoboReward has them
_MOST: Final = 200  # tasks of a matrix that is read
_CELL: Final = 46
_NAMES: Final = 210  # room for them at most
_SIZE: Final = 10.5  # of their letters


@dataclass(frozen=True, eq=False)
class Matrix:
    """Values in [0, 1] with a name for each row and each column.

    Attributes:
        about: What a value is, what the rows are, and what the columns are.
        rows: Names.
        columns: Names.
        values: (rows, columns) float64; NaN where nothing was asked.
    """

    about: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: NDArray[np.float64]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what was not asked is None."""
        values = [[None if value != value else value for value in row] for row in self.values.tolist()]
        return {"about": self.about, "rows": list(self.rows), "columns": list(self.columns), "values": values}

    @classmethod
    def from_dict(cls, matrix: Mapping[str, Any]) -> Matrix:
        """What `as_dict` has written.

        Raises:
            ValueError: It is something else, or too large to be drawn.
        """
        try:
            names = [[str(name) for name in matrix[key]] for key in ("rows", "columns")]
            values = np.array(matrix["values"], np.float64)
            about = str(matrix["about"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no matrix with 'about', 'rows', 'columns' and 'values': {error}") from error
        if values.shape != (len(names[0]), len(names[1])) or not 0 < max(values.shape) <= _MOST:
            raise ValueError(
                f"the matrix has values of shape {values.shape} for {len(names[0])} rows and {len(names[1])} columns; "
                f"expected as many of each, at most {_MOST}"
            )
        return cls(about, names[0], names[1], values)


def _means(
    about: str, rows: Sequence[str], columns: Sequence[str], found: Mapping[tuple[str, str], list[float]]
) -> Matrix:
    values = np.full((len(rows), len(columns)), np.nan)
    row_of, column_of = ({name: place for place, name in enumerate(names)} for names in (rows, columns))
    for (row, column), numbers in found.items():
        values[row_of[row], column_of[column]] = np.mean(numbers)
    return Matrix(about, rows, columns, values)


def _tasks(questions: Sequence[Question]) -> list[str]:
    return sorted({each.task for each in questions} | {each.episode.task for each in questions})


def confusion_matrix(dataset: Dataset, questions: Sequence[Question], answers: Sequence[Floats]) -> Matrix:
    """Mean progress in the last frame by instruction and task of the video."""
    found: dict[tuple[str, str], list[float]] = {}
    for each, said in zip(questions, answers, strict=True):
        found.setdefault((each.task, each.episode.task), []).append(float(said[-1]))
    tasks = _tasks(questions)
    return _means("mean progress of videos (columns) under instructions (rows)", tasks, tasks, found)


def alignment_matrix(dataset: Dataset, questions: Sequence[Question], answers: Sequence[Floats]) -> Matrix:
    """Mean progress of successful episodes by task and by what it should be: of a good model it grows along a row."""
    found: dict[tuple[str, str], list[float]] = {}
    for each, said in zip(questions, answers, strict=True):
        if each.episode.quality_label != "successful":
            continue
        # Of a prefix its last frame is asked about, of a whole clip every frame that is no padding.
        places = [each.real - 1] if each.last is not None else range(each.real)
        targets = each.targets(corrected=True)
        for place in places:
            part = _PARTS[min(int(targets[place] * len(_PARTS)), len(_PARTS) - 1)]
            found.setdefault((each.task, part), []).append(float(said[place]))
    about = "mean progress that is seen, by task (rows) and true progress (columns)"
    return _means(about, _tasks(questions), _PARTS, found)


def ranking_matrix(dataset: Dataset, questions: Sequence[Question], answers: Sequence[Floats]) -> Matrix:
    """Mean progress in the last frame by task and quality, the worst quality first."""
    found: dict[tuple[str, str], list[float]] = {}
    for members in by_episode(questions):
        last = questions[members[-1]]
        found.setdefault((last.task, _quality(dataset, last)), []).append(float(answers[members[-1]][-1]))
    columns = [f"level {level + 1}" for level in range(_LEVELS)] if dataset.graded else list(QUALITY_RANKS)
    kind = "graded outcome" if dataset.graded else "quality"
    about = f"mean progress in the last frame, by task (rows) and {kind} (columns)"
    there = {quality for _, quality in found}
    return _means(about, _tasks(questions), [name for name in columns if name in there], found)


def _quality(dataset: Dataset, question: Question) -> str:
    if not dataset.graded:
        return question.episode.quality_label
    return f"level {grade_level(question.episode.partial_success or 0.0) + 1}"


def preference_matrix(dataset: Dataset, pairs: Sequence[Pair], said: NDArray[np.floating[Any]]) -> Matrix:
    """Mean probability that the better episode is preferred, by task and by which of the two is shown first."""
    found: dict[tuple[str, str], list[float]] = {}
    columns = ("better one first", "better one second")
    for each, (first, second) in zip(pairs, said.astype(np.float64), strict=True):
        for column, right in zip(columns, (first, 1.0 - second), strict=True):
            found.setdefault((each.better.task, column), []).append(float(right))
    about = "mean probability of the right answer, by task (rows) and order (columns)"
    return _means(about, _tasks([each.better for each in pairs]), columns, found)


def draw_matrix(matrix: Matrix, title: str, theme: Theme = LIGHT) -> Image.Image:
    """A matrix with its names and its values; what was not asked stays empty."""
    left, below = (
        min(_NAMES, 16 + max(text_width(name, _SIZE) for name in names)) for names in (matrix.rows, matrix.columns)
    )
    wide, high = _CELL * len(matrix.columns), _CELL * len(matrix.rows)
    width = max(wide + left + 2 * MARGIN, 520)
    with house_style(theme):
        figure, top = new_figure(title, matrix.about, (width, high + below + 8), theme)
        axes = place_axes(figure, MARGIN + left, top + 8, wide, high)
        draw_cells(axes, matrix.values, theme)
        columns, rows = (np.arange(len(names)) + 0.5 for names in (matrix.columns, matrix.rows))
        axes.set_xticks(columns, [fitted(name, below - 12, _SIZE) for name in matrix.columns], rotation=90)
        axes.set_yticks(rows, [fitted(name, left - 12, _SIZE) for name in matrix.rows])
        axes.tick_params(labelsize=points(_SIZE), length=0)
        return rendered(figure)
