"""The page that holds two recordings against each other, or one recording under two instructions or two models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Final

from robometer_rl.extras import require
from robometer_rl.models.reward_model import RewardModel, UnsupportedByModelError
from robometer_rl.report.markup import html
from robometer_rl.report.page import data_table
from robometer_rl.report.replay import Replay, Series, Video, draw_replay
from robometer_rl.rewards import RewardSpec
from robometer_rl.score import scored_series
from robometer_rl.studio.asking import Asking, Models, Preference, prefer
from robometer_rl.studio.material import Material
from robometer_rl.studio.parts import (
    AGAIN,
    Question,
    Update,
    busy,
    choose_recording,
    done,
    follow,
    guarded,
    load_model,
    markup,
    player_of,
    question_inputs,
    read_question,
)
from robometer_rl.studio.scoring import table_of
from robometer_rl.video import Recording, read_recording

__all__ = ["compare_page", "preference_table"]

_RECORDINGS: Final = "Two recordings, one instruction"
_INSTRUCTIONS: Final = "One recording, two instructions"
_MODELS: Final = "One recording, two models"


def compare_page(models: Models, material: Material) -> None:
    """Lays the page out, in the context of the application that is being built."""
    gr = require("gradio", "ui")
    kinds = [_RECORDINGS, _INSTRUCTIONS, *([_MODELS] if len(models.names) > 1 else [])]
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            kind = gr.Radio(kinds, value=_RECORDINGS, label="What is compared", elem_id="compare-kind")
            first = choose_recording(models, material, "compare-first", "Recording A")
            with gr.Column() as second_recording:
                second = choose_recording(models, material, "compare-second", "Recording B")
            task = gr.Textbox(label="Instruction", elem_id="compare-task")
            other_task = gr.Textbox(label="Other instruction", elem_id="compare-other-task", visible=False)
            question = question_inputs(models, "compare")
            names = list(models.names)
            other_model = gr.Dropdown(
                names, value=names[-1], label="Other model", visible=False, elem_id="compare-other"
            )
            with gr.Row():
                start = gr.Button("Compare", variant="primary", elem_id="compare-start")
                stop = gr.Button("Stop", elem_id="compare-stop")
        with gr.Column(scale=3, min_width=320):
            line = markup(done("Choose what is to be compared, and press Compare."), elem_id="compare-line")
            shown = markup(elem_id="compare-shown")
            table = markup(elem_id="compare-table")

    def fit(chosen: str) -> list[Any]:
        return [gr.update(visible=chosen == each) for each in (_RECORDINGS, _INSTRUCTIONS, _MODELS)]

    def compare(chosen: str, *given: Any) -> Iterator[Update]:
        uploads, texts, asked, other = given[:4], given[4:6], given[6:-1], given[-1]
        how = read_question(*asked)
        yield {line: busy("reading the recordings"), shown: "", table: ""}
        comparison = _Comparison(line, how, models)
        recordings = _read(material, uploads if chosen == _RECORDINGS else uploads[:2], how)
        if chosen == _RECORDINGS:
            yield from comparison.recordings(recordings, texts[0])
        elif chosen == _INSTRUCTIONS:
            yield from comparison.instructions(recordings[0], texts)
        else:
            yield from comparison.models(recordings[0], texts[0], (how.model, other))
        yield {line: done(comparison.said), shown: draw_replay(comparison.replay()), table: comparison.table()}

    kind.change(fit, kind, [second_recording, other_task, other_model], show_progress="hidden")
    inputs = [kind, *first, *second, task, other_task, *question, other_model]
    outputs = [line, shown, table]
    asked = start.click(guarded(line, compare), inputs, outputs, show_progress="hidden", trigger_mode=AGAIN)
    stop.click(lambda: done("Stopped."), None, line, cancels=[asked], queue=False)


def preference_table(preference: Preference, names: Sequence[str]) -> str:
    """What a model says of two recordings, in both orders, and what to make of it.

    Args:
        preference: What it says.
        names: Of the first and the second recording.
    """
    rows = [
        (f"{names[0]} shown first", f"{preference.shown_first:.3f}"),
        (f"{names[1]} shown first", f"{preference.shown_second:.3f}"),
        ("Mean of both orders", f"{preference.mean:.3f}"),
    ]
    better = names[0] if preference.mean >= 0.5 else names[1]
    said = f"{better} is preferred" + (
        ", in both orders." if preference.is_steady else " on average; the answer depends on which is shown first."
    )
    table = data_table(("Preference", f"Probability that {names[0]} is better"), rows)
    return f"{table}<p class='studio-line'>{html(said)}</p>"


class _Comparison:
    """Two series, and what was found out about them."""

    def __init__(self, line: Any, how: Question, models: Models) -> None:
        self._line, self._how, self._models = line, how, models
        self._series: list[Series] = []
        self._shown: list[tuple[str, Recording]] = []
        self._players: list[Future[Video]] = []
        self._preference = ""
        self.said = ""

    def recordings(self, named: Sequence[tuple[str, Recording]], task: str) -> Iterator[Update]:
        """Two recordings under one instruction, and which of them is preferred."""
        self._show([(f"{letter}: {name}", recording) for letter, (name, recording) in zip("AB", named, strict=True)])
        model = yield from load_model(self._models, self._how.model, self._line)
        for number, (name, recording) in enumerate(self._shown):
            yield from self._score(model, recording, [task], [name], number)
        yield {self._line: busy("asking which one is better")}
        self._preference = self._prefer(model, task)
        self.said = f"Both under the instruction {task!r}, scored by {model.model_id}."

    def instructions(self, named: tuple[str, Recording], tasks: Sequence[str]) -> Iterator[Update]:
        """One recording under two instructions."""
        self._show([named])
        model = yield from load_model(self._models, self._how.model, self._line)
        yield from self._score(model, named[1], tasks, tasks, 0)
        self.said = f"{named[0]} under two instructions, scored by {model.model_id}."

    def models(self, named: tuple[str, Recording], task: str, names: Sequence[str]) -> Iterator[Update]:
        """One recording, asked of two models."""
        self._show([named])
        for name in names:
            model = yield from load_model(self._models, name, self._line)
            yield from self._score(model, named[1], [task], [name], 0)
        self.said = f"{named[0]} under the instruction {task!r}, scored by {' and '.join(names)}."

    def replay(self) -> Replay:
        """Both series on one axis."""
        videos = [player.result() for player in self._players]
        return Replay(" and ".join(name for name, _ in self._shown), self._series, videos)

    def table(self) -> str:
        """Their numbers, and the preference where there is one."""
        return table_of(self._series) + self._preference

    def _show(self, named: Sequence[tuple[str, Recording]]) -> None:
        self._shown = list(named)
        self._players = [player_of(name, recording) for name, recording in named]

    def _score(
        self, model: RewardModel, recording: Recording, tasks: Sequence[str], names: Sequence[str], video: int
    ) -> Iterator[Update]:
        asking = Asking(model, recording.frames, tasks, self._how.protocol, self._how.every, self._how.tiled)
        yield from follow(asking, self._line, f"scoring {self._shown[video][0]}")
        threshold = RewardSpec().threshold(model.success_threshold)
        self._series += [
            scored_series(name, recording, prediction, threshold, task, video)
            for name, task, prediction in zip(names, tasks, asking.predictions, strict=True)
        ]

    def _prefer(self, model: RewardModel, task: str) -> str:
        (first, one), (second, other) = self._shown
        try:
            return preference_table(prefer(model, one.frames, other.frames, task), (first, second))
        except UnsupportedByModelError as error:
            return f"<p class='studio-line'>{html(str(error))}</p>"


def _read(material: Material, chosen: Sequence[str | None], how: Question) -> list[tuple[str, Recording]]:
    """Recordings by name; ``chosen`` has an upload and a name in the data of each."""
    paths = [material.path(uploaded, named) for uploaded, named in zip(chosen[::2], chosen[1::2], strict=True)]
    return [(path.name, read_recording(path, how.fps)) for path in paths]
