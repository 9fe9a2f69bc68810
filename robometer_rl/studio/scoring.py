"""The page that scores a recording under one or several instructions."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

from robometer_rl.extras import require
from robometer_rl.prediction import Prediction
from robometer_rl.report.page import data_table
from robometer_rl.report.replay import Replay, Series, draw_replay
from robometer_rl.rewards import RewardSpec
from robometer_rl.score import scored_series, tiled_recording, write_scores
from robometer_rl.studio.asking import Asking, Models
from robometer_rl.studio.material import Material
from robometer_rl.studio.parts import (
    AGAIN,
    Question,
    Update,
    busy,
    choose_others,
    choose_recording,
    done,
    follow,
    guarded,
    lines_of,
    load_model,
    markup,
    player_of,
    question_inputs,
    read_question,
)
from robometer_rl.video import Recording, read_recording

__all__ = ["score_page", "table_of"]

_FIRST_LOOK: Final = 1.0
"""Seconds of asking before what has been answered is drawn; it is drawn anew after twice as long, and so on."""


@dataclass(frozen=True)
class _Scored:
    """What was scored, so that files can be made of it; the frames are read again.

    Attributes:
        path: The recording.
        others: Those of other cameras, which are tiled with it.
        question: How it was asked about.
        tasks: The instructions.
        predictions: One per instruction.
        threshold: Of the success rule.
    """

    path: Path
    others: Sequence[Path]
    question: Question
    tasks: Sequence[str]
    predictions: Sequence[Prediction]
    threshold: float

    def series(self, recording: Recording) -> list[Series]:
        """One per instruction."""
        pairs = zip(self.tasks, self.predictions, strict=True)
        return [scored_series(task, recording, prediction, self.threshold) for task, prediction in pairs]


def score_page(models: Models, material: Material) -> None:
    """Lays the page out, in the context of the application that is being built."""
    gr = require("gradio", "ui")
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            recording = choose_recording(models, material, "score", "Recording")
            others = choose_others(material, "score")
            tasks = gr.Textbox(
                label="Instructions", info="One a line; each gets a curve.", lines=2, elem_id="score-tasks"
            )
            question = question_inputs(models, "score")
            with gr.Row():
                start = gr.Button("Score", variant="primary", elem_id="score-start")
                stop = gr.Button("Stop", elem_id="score-stop")
        with gr.Column(scale=3, min_width=320):
            line = markup(
                done("Choose a recording, say what the robot was to do, and press Score."), elem_id="score-line"
            )
            shown = markup(elem_id="score-shown")
            table = markup(elem_id="score-table")
            with gr.Row():
                pack = gr.Button("Prepare files", visible=False, elem_id="score-pack")
                files = gr.File(label="Results", visible=False, interactive=False, elem_id="score-files")
    kept = gr.State(None)

    def score(
        uploaded: str | None, named: str | None, more: Sequence[str] | None, listed: str | None, texts: str, *asked: Any
    ) -> Iterator[Update]:
        yield {line: busy("reading the recording"), shown: "", table: "", files: gr.update(visible=False, value=None)}
        how, path = read_question(*asked), material.path(uploaded, named)
        below = material.paths(more or (), lines_of(listed))
        read = _read(path, below, how)
        player = player_of(path.name, read)
        model = yield from load_model(models, how.model, line)
        asking = Asking(model, read.frames, lines_of(texts), how.protocol, how.every, how.tiled or bool(below))
        threshold = RewardSpec().threshold(model.success_threshold)
        scored = _Scored(path, below, how, asking.tasks, (), threshold)
        yield from _growing(follow(asking, line, f"scoring {path.name}"), shown, partial(_so_far, scored, asking, read))
        scored = replace(scored, predictions=asking.predictions)
        series = scored.series(read)
        replay = Replay(path.name, series, [player.result()])
        yield {
            line: done(f"{len(read)} frames of {path.name}, scored by {model.model_id}, {asking.protocol}."),
            shown: draw_replay(replay),
            table: table_of(series),
            kept: scored,
            pack: gr.update(visible=True),
        }

    def write(scored: _Scored) -> Iterator[Update]:
        yield {line: busy("writing figures and videos")}
        made = _write(scored, material.uploads)
        yield {line: done("The files are ready."), files: gr.update(value=str(made), visible=True)}

    outputs = [line, shown, table, kept, pack, files]
    inputs = [*recording, *others, tasks, *question]
    asked = start.click(guarded(line, score), inputs, outputs, show_progress="hidden", trigger_mode=AGAIN)
    stop.click(lambda: done("Stopped."), None, line, cancels=[asked], queue=False)
    pack.click(guarded(line, write), kept, [line, files], show_progress="hidden")


def _so_far(scored: _Scored, asking: Asking, read: Recording) -> str:
    """The curves of what has been answered; nothing where there are none yet."""
    frames, predictions = asking.so_far
    series = replace(scored, predictions=predictions).series(read.beginning(frames)) if predictions else []
    return draw_replay(Replay(scored.path.name, series, description=f"{frames} frames so far")) if series else ""


def _growing(updates: Iterable[Update], shown: Any, draw: Callable[[], str]) -> Iterator[Update]:
    """Adds what has been answered to some of the updates, ever more seldom: a long recording takes long to draw."""
    wait = _FIRST_LOOK
    due = monotonic() + wait
    for update in updates:
        if monotonic() < due:
            yield update
        else:
            yield {**update, shown: draw()}
            wait *= 2
            due = monotonic() + wait


def table_of(series: Sequence[Series]) -> str:
    """What stands behind curves, in numbers."""
    columns = ("Name", "First progress", "Final progress", "Highest", "Final success", "Success rule", "Reward paid")
    return data_table(columns, [_row(each) for each in series])


def _row(series: Series) -> Sequence[str | bool]:
    scores, found = series.scores, series.fires_at
    progress, success = scores.progress, scores.success
    return (
        series.name,
        f"{progress[0]:.3f}",
        f"{progress[-1]:.3f}",
        f"{progress.max():.3f}",
        "" if success is None else f"{success[-1]:.3f}",
        "" if success is None else "never" if found is None else f"from {found}",
        "" if series.rewards is None else f"{series.rewards.sum():+.3f}",
    )


def _read(path: Path, others: Sequence[Path], how: Question) -> Recording:
    """A recording, with those of other cameras in one picture if there are any."""
    recording = read_recording(path, how.fps)
    return tiled_recording(path, recording, others) if others else recording


def _write(scored: _Scored, folder: Path) -> Path:
    """An archive with what ``robometer-rl score`` writes, a folder per instruction."""
    recording = _read(scored.path, scored.others, scored.question)
    made = Path(tempfile.mkdtemp(dir=folder)) / f"{scored.path.stem}.zip"
    answers = zip(scored.series(recording), scored.predictions, strict=True)
    # Videos and pictures are packed already.
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive, tempfile.TemporaryDirectory() as place:
        for number, (series, prediction) in enumerate(answers, 1):
            results = Path(place) / f"{number}-{re.sub(r'[^A-Za-z0-9]+', '-', series.name)[:40].strip('-')}"
            write_scores(results, scored.path.name, recording, prediction, series)
            for path in sorted(results.iterdir()):
                archive.write(path, f"{results.name}/{path.name}")
    return made
