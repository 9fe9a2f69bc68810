"""Pages of the reference's evaluations: numbers beside those of controls, matrices, and the worst answers as videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.evaluation.metrics import pearson
from robometer_rl.evaluation.page import number_with_interval
from robometer_rl.evaluation.published.answers import Answerer
from robometer_rl.evaluation.published.judging import Judged, Kind, Row, legacy_names, main_numbers
from robometer_rl.evaluation.published.questions import Pair, Question, by_episode
from robometer_rl.evaluation.ranking import QUALITY_RANKS
from robometer_rl.report.episode import EpisodeScores
from robometer_rl.report.markup import html
from robometer_rl.report.page import data_table, figure
from robometer_rl.report.recordings import Recorded, write_recordings
from robometer_rl.report.replay import Replay, Series

__all__ = ["published_tables", "write_published_page"]

_ASKS: Final[Mapping[Kind, str]] = {
    "alignment": "Does progress of successful episodes grow with time?",
    "ranking": "Do episodes of a task come out in the order of their quality?",
    "confusion": "Is a video worth most under its own instruction?",
    "preference": "Is the better of two episodes of a task preferred, in both orders?",
}
_ORDER: Final[Mapping[Kind, str]] = {
    "alignment": "first those whose progress is farthest from the truth (dotted)",
    "ranking": "each beside the better one of its task that it is most wrongly ranked with, the worst pair first",
    "confusion": "under their own instruction and those under which they are worth most, the worst margin first",
    "preference": "pairs, first those whose right answer is held least likely",
}
_MOST_INSTRUCTIONS: Final = 6  # under one cursor: as many as there are colours

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class _Worst:
    """A recording of the page, or two.

    Attributes:
        gap: How wrong the answer is, which decides the order.
        replay: What was said.
        episodes: Whose frames are shown, by the names of the videos.
    """

    gap: float
    replay: Replay
    episodes: Mapping[str, Question]

    def recorded(self) -> Recorded:
        return self.replay, {name: question.episode.frames for name, question in self.episodes.items()}


def write_published_page(
    folder: Path, judged: Sequence[Judged], model: Answerer, facts: Mapping[str, str], most: int
) -> Path:
    """Writes ``index.html`` and the videos of the worst answers.

    Args:
        folder: Where `robometer_rl.evaluation.published.judging.write_reference_files` has written its pictures.
        judged: Evaluations of one kind, on at least one set.
        model: The first model, whose answers these are.
        facts: What produced the numbers.
        most: Recordings that are shown at most.

    Returns:
        The page.
    """
    kind = judged[0].kind
    found = [
        replace(each, replay=_of_set(each.replay, one, len(judged)))
        for one in judged
        for each in _answers(one, model, most)
    ]
    shown = sorted(found, key=lambda each: -each.gap)[:most]
    return write_recordings(
        folder,
        f"{model.name}: {kind}",
        f"{_ASKS[kind]} {_below(kind, len(shown), model)}",
        (each.recorded() for each in shown),
        facts,
        count=len(shown),
        sections=[section for each in judged for section in _sections(each)],
        show_progress=model.show_progress,
    )


def _of_set(replay: Replay, judged: Judged, sets: int) -> Replay:
    """With the name of its set, where there are several."""
    if sets == 1:
        return replay
    return replace(replay, name=f"{judged.name}: {replay.name}")


def _below(kind: Kind, shown: int, model: Answerer) -> str:
    if not shown:
        silent = kind == "preference" and not model.model.has_progress
        return f"{model.name} sees no progress, so that there are no curves to show." if silent else ""
    return f"Below are {shown} of the recordings: {_ORDER[kind]}."


def _sections(judged: Judged) -> list[str]:
    """The numbers of a set, of everybody, and where its model is right and wrong."""
    lines = [*main_numbers(judged), f"{judged.frame_rule}, {judged.questions} questions, {judged.manifest[:16]}"]
    items = "".join(f"<li>{html(line)}</li>" for line in lines)
    parts = [f"<h2>{html(judged.name)}</h2>\n<div class='card'><ul>{items}</ul></div>"]
    parts += published_tables(judged.kind, judged.rows)
    if judged.matrix is not None:
        parts.append(f"<h3>{html(judged.matrix.about)}</h3>\n{figure(judged.picture, judged.matrix.about)}")
    return parts


def published_tables(kind: Kind, rows: Sequence[Row]) -> list[str]:
    """The corrected numbers of models and controls, where there are any, and those of the reference, as markup."""
    parts = []
    if names := list(dict.fromkeys(name for row in rows for name in row.corrected)):
        parts.append(_table("Corrected, with 95 % intervals and counts", names, rows, _corrected))
    return [*parts, _table("Legacy, as the reference computes it", legacy_names(kind, rows), rows, _legacy)]


def _table(title: str, names: Sequence[str], rows: Sequence[Row], cell: Any) -> str:
    found = [(row.name, "control" if row.is_control else "model", *(cell(row, name) for name in names)) for row in rows]
    columns = ("Who", "", *(name.replace("_", " ") for name in names))
    return f"<h3>{html(title)}</h3>\n{data_table(columns, found)}"


def _corrected(row: Row, name: str) -> str:
    estimate = row.corrected.get(name)
    if estimate is None or not estimate.count:
        return ""
    return f"{number_with_interval(estimate)}, {estimate.count}"


def _legacy(row: Row, name: str) -> str:
    return f"{row.legacy[name]:.3f}" if name in row.legacy else ""


def _answers(judged: Judged, model: Answerer, most: int) -> list[_Worst]:
    match judged.kind:
        case "alignment":
            return [_aligned(judged, members, model.name) for members in by_episode(judged.asked)]
        case "ranking":
            return _ranked(judged)
        case "confusion":
            return [each for members in by_episode(judged.asked) if (each := _confused(judged, members)) is not None]
        case "preference":
            return _preferred(judged, model, most) if model.model.has_progress else []


def _series(name: str, asked: Sequence[tuple[Question, Floats]], video: int = 0, truth: Floats | None = None) -> Series:
    """Answers about one episode under one instruction: to a whole clip, or to its prefixes."""
    question, said = asked[0]
    if question.last is None:
        steps, values = np.array(question.frames[: question.real]), said[: question.real]
        shown = np.tile(steps, (len(steps), 1))
    else:
        steps = np.array([each.last for each, _ in asked])
        values = np.array([said[each.real - 1] for each, said in asked])
        most = max(each.real for each, _ in asked)
        shown = np.array([[*each.frames[: each.real], *[-1] * (most - each.real)] for each, _ in asked])
    scores = EpisodeScores(
        question.task, steps, np.asarray(values, np.float32), None, np.zeros(len(steps), bool), float("nan")
    )
    return Series(name, steps, scores, shown=shown, true_progress=truth, video=video)


def _about(question: Question) -> str:
    episode = question.episode
    graded = "" if episode.partial_success is None else f", graded {episode.partial_success:.2f}"
    return f"{episode.quality_label}{graded}"


def _aligned(judged: Judged, members: Sequence[int], model: str) -> _Worst:
    asked = [(judged.asked[place], judged.said[place]) for place in members]
    first = asked[0][0]
    # What every frame is worth, whichever were asked about.
    truth = np.array(Question(first.episode, first.task, tuple(range(len(first.episode)))).targets(corrected=True))
    series = _series(model, asked, truth=truth)
    said, wanted = series.scores.progress.astype(np.float64), truth[series.steps]
    error = float(np.mean((said - wanted) ** 2))
    correlation = pearson(said, wanted)
    values = {
        "Squared error": f"{error:.3f}",
        "Correlation": "" if np.isnan(correlation) else f"{correlation:.3f}",
        "Final progress": f"{said[-1]:.2f}",
    }
    replay = Replay(first.episode.id, [series], description=f"{first.task} · {_about(first)}", values=values)
    return _Worst(error, replay, {"recording": first})


def _ranked(judged: Judged) -> list[_Worst]:
    """Every episode beside the better one of its task that ends lowest."""
    by_task: dict[str, list[list[int]]] = {}
    for members in by_episode(judged.asked):
        by_task.setdefault(judged.asked[members[0]].task, []).append(members)
    found: list[_Worst] = []
    for groups in by_task.values():
        for worse in groups:
            better = [each for each in groups if _rank(judged, each) > _rank(judged, worse)]
            if better:
                found.append(_pair(judged, min(better, key=lambda each: _final(judged, each)), worse))
    return found


def _rank(judged: Judged, members: Sequence[int]) -> float:
    episode = judged.asked[members[0]].episode
    return QUALITY_RANKS[episode.quality_label] if episode.partial_success is None else episode.partial_success


def _final(judged: Judged, members: Sequence[int]) -> float:
    return float(judged.said[members[-1]][-1])


def _pair(judged: Judged, better: Sequence[int], worse: Sequence[int]) -> _Worst:
    sides = [[(judged.asked[place], judged.said[place]) for place in members] for members in (better, worse)]
    gap = _final(judged, worse) - _final(judged, better)
    values = {
        "Better by": f"{-gap:+.3f}",
        "Task": sides[0][0][0].task,
    }
    return _Worst(gap, *_beside(sides, values))


def _beside(
    sides: Sequence[Sequence[tuple[Question, Floats]]], values: Mapping[str, str | bool]
) -> tuple[Replay, dict[str, Question]]:
    """A better and a worse episode under one cursor."""
    better, worse = (side[0][0] for side in sides)
    names = [f"{word} ({_about(each)})" for word, each in (("better", better), ("worse", worse))]
    series = [_series(name, side, video) for video, (name, side) in enumerate(zip(names, sides, strict=True))]
    replay = Replay(f"{better.episode.id} above {worse.episode.id}", series, description=better.task, values=values)
    return replay, dict(zip(names, (better, worse), strict=True))


def _confused(judged: Judged, members: Sequence[int]) -> _Worst | None:
    """A video under its own instruction, then under those under which it is worth most."""
    own = next((n for n in members if judged.asked[n].task == judged.asked[n].episode.task), None)
    others = sorted((n for n in members if n != own), key=lambda n: -float(judged.said[n][-1]))
    if own is None or not others:
        return None
    drawn = [own, *others[: _MOST_INSTRUCTIONS - 1]]
    series = [
        _series(f"{'own: ' if n == own else ''}{judged.asked[n].task}", [(judged.asked[n], judged.said[n])])
        for n in drawn
    ]
    margin = float(judged.said[own][-1]) - float(judged.said[others[0]][-1])
    question = judged.asked[own]
    values = {
        "Own above the best other": f"{margin:+.3f}",
        "Task": question.task,
        "Best other": judged.asked[others[0]].task,
    }
    replay = Replay(question.episode.id, series, description=f"{question.task} · {_about(question)}", values=values)
    return _Worst(-margin, replay, {"recording": question})


def _preferred(judged: Judged, model: Answerer, most: int) -> list[_Worst]:
    """The pairs that are answered most wrongly, with the progress that the model sees in their episodes."""
    right = np.stack([judged.said[:, 0], 1.0 - judged.said[:, 1]], axis=1).astype(np.float64)
    places = np.argsort(right.mean(axis=1), kind="stable")[:most].tolist()
    pairs: list[Pair] = [judged.asked[place] for place in places]
    progress = model.progress([side for pair in pairs for side in (pair.better, pair.worse)])
    found: list[_Worst] = []
    for number, (pair, (first, second)) in enumerate(zip(pairs, right[places].tolist(), strict=True)):
        values = {
            "Right, better one first": f"{first:.3f}",
            "Better one second": f"{second:.3f}",
            "Task": pair.better.task,
        }
        sides = [[(pair.better, progress[2 * number])], [(pair.worse, progress[2 * number + 1])]]
        found.append(_Worst(1.0 - (first + second) / 2, *_beside(sides, values)))
    return found
