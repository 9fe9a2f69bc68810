"""The page that asks people which of two episodes is better, or how one ended, by key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import numpy as np

from robometer_rl.data.judgements import Answer, ClipAnswer, ClipLabel
from robometer_rl.evaluation.agreement import Agreement, Difference
from robometer_rl.extras import require
from robometer_rl.frames import as_frames
from robometer_rl.report.markup import html
from robometer_rl.report.page import data_table
from robometer_rl.report.replay import PLAYBACK_FPS, Replay, Video, draw_replay, video_address
from robometer_rl.studio.asked import (
    Clips,
    Pair,
    Pairs,
    clip_agreement,
    labels_of,
    pair_agreement,
    preferences_of,
)
from robometer_rl.studio.asking import Models
from robometer_rl.studio.episodes import Entry, Episodes, Library
from robometer_rl.studio.notes import Notes
from robometer_rl.studio.parts import Update, busy, done, guarded, markup, play, sometimes

__all__ = ["LabelPage"]

_PAIRS: Final = "Which of two episodes is better"
_CLIPS: Final = "How one episode ended"
_BUTTONS: Final[Mapping[Answer, str]] = {
    "left": "← Left is better",
    "equal": "= Equal",
    "right": "Right is better →",
    "skip": "S  Skip",
    "undo": "U  Undo",
}
_OUTCOMES: Final[Mapping[str, ClipAnswer]] = {
    "Y  Success": "successful",
    "P  Partly": "suboptimal",
    "N  Failure": "failure",
}


class LabelPage:
    """Lays the page out, in the context of the application that is being built.

    Args:
        library: Whose episodes are labelled.
        models: Whose answers decide what comes first, see `robometer_rl.studio.asked`.
        notes: Where answers are kept.
    """

    def __init__(self, library: Library, models: Models, notes: Notes) -> None:
        self.library, self.notes = library, notes
        gr = self._gr = require("gradio", "ui")
        names = list(library.names)
        self.what = gr.Radio([_PAIRS, _CLIPS], value=_PAIRS, label="What is asked", elem_id="label-what")
        with gr.Row():
            self.data = gr.Dropdown(names, value=names[0] if names else None, label="Data set", elem_id="label-data")
            first = "What this model is least sure of comes first"
            self.model = gr.Dropdown(list(models.names), value=models.names[0], label=first, elem_id="label-model")
            self.annotator = gr.Textbox(label="Your name", elem_id="label-annotator")
        start = gr.Button("Begin, or go on", variant="primary", elem_id="label-start")
        self.line = markup(done("Say who you are, and begin. Everything can be done by key."), elem_id="label-line")
        self.shown = markup(elem_id="label-shown")
        with gr.Row(visible=False) as self.pair_answers:
            buttons: dict[Answer, Any] = {
                answer: gr.Button(text, elem_id=f"label-{answer}") for answer, text in _BUTTONS.items()
            }
        with gr.Column(visible=False) as self.clip_answers:
            keep, skip, undo = self._lay_out_clip()
        self.agreement = markup(elem_id="label-agreement")
        self.work, self.asked = gr.State(None), gr.State(None)
        self._wire(start, buttons, {"keep": keep, "skip": skip, "undo": undo})

    def _lay_out_clip(self) -> tuple[Any, Any, Any]:
        gr = self._gr
        with gr.Row():
            self.outcome = gr.Radio(list(_OUTCOMES), label="How it ended", elem_id="label-outcome")
            self.frame = gr.Number(
                None,
                label="Success from frame",
                info="F: the frame at the cursor.",
                precision=0,
                minimum=0,
                elem_id="label-success-frame",
            )
            self.grade = gr.Number(
                None,
                label="How far it got",
                info="From 0 to 1; the keys 0 to 9 are tenths.",
                minimum=0,
                maximum=1,
                step=0.05,
                elem_id="label-grade",
            )
            self.note = gr.Textbox(label="Note", elem_id="label-note")
        with gr.Row():
            gr.Button("F  Success from this frame", elem_id="label-here")
            return (
                gr.Button("Enter  Keep, and go on", variant="primary", elem_id="label-keep"),
                gr.Button("S  Skip", elem_id="label-pass"),
                gr.Button("U  Undo", elem_id="label-back"),
            )

    def _wire(self, start: Any, pairs: Mapping[Answer, Any], clips: Mapping[str, Any]) -> None:
        fields = [self.outcome, self.frame, self.grade, self.note]
        outputs = [self.line, self.shown, self.pair_answers, self.clip_answers, self.agreement, self.work, self.asked]
        outputs += fields

        def on(event: Any, handler: Callable[..., Iterator[Update]], inputs: list[Any]) -> None:
            event(guarded(self.line, handler), inputs, outputs, show_progress="hidden")

        on(start.click, self._begin, [self.what, self.data, self.model, self.annotator])
        on(self.what.change, self._clear, [])
        state = [self.data, self.model, self.work, self.asked]
        for answer, button in pairs.items():
            on(button.click, partial(self._answer_pair, answer=answer), state)
        on(clips["keep"].click, self._keep, [*state, *fields])
        on(clips["skip"].click, self._skip, state)
        on(clips["undo"].click, self._undo, state)

    def _clear(self) -> Iterator[Update]:
        """When something else is to be asked: nothing is, until that begins."""
        hidden = self._gr.update(visible=False)
        yield {
            self.line: done("Press Begin."),
            self.shown: "",
            self.agreement: "",
            self.pair_answers: hidden,
            self.clip_answers: hidden,
        }

    def _begin(self, what: str, data: str, model: str, annotator: str) -> Iterator[Update]:
        if not annotator or not annotator.strip():
            raise ValueError("no name is given; write one, so that what annotators say can be told apart")
        episodes = self.library.get(data)
        for number in sometimes(episodes):
            yield {self.line: busy(f"listing {data}: {number} of {len(episodes.keys)}", number / len(episodes.keys))}
        about = (data, episodes.entries, annotator.strip(), self.notes, self.notes.said(model, data))
        if what == _PAIRS:
            yield self._next_pair(episodes, model, Pairs(*about))
        else:
            yield self._next_clip(episodes, model, Clips(*about))

    def _answer_pair(
        self, data: str, model: str, pairs: Pairs, pair: Pair | None, *, answer: Answer
    ) -> Iterator[Update]:
        if answer == "undo":
            pairs.undo()
        elif pair is not None:
            pairs.answer(pair, answer)
        yield self._next_pair(self.library.get(data), model, pairs)

    def _next_pair(self, episodes: Episodes, model: str, pairs: Pairs) -> Update:
        """The pair that is asked about next, and how far it has come."""
        pair = pairs.next()
        said = f"{pairs.answered} of {len(pairs)} pairs."
        if not len(pairs):
            said = f"{episodes.name} has no two episodes of one instruction."
        elif pair is None:
            said = f"All done: {said}"
        agreed = pair_agreement(preferences_of(self.notes, episodes.name), self.notes.said(model, episodes.name))
        return {
            self.line: done(said),
            self.shown: "" if pair is None else _both(episodes, pair),
            self.pair_answers: self._gr.update(visible=len(pairs) > 0),
            self.clip_answers: self._gr.update(visible=False),
            self.agreement: _table(model, {"Which is better": tuple(map(_categories, agreed))}),
            self.work: pairs,
            self.asked: pair,
        }

    def _keep(
        self,
        data: str,
        model: str,
        clips: Clips,
        asked: tuple[Entry, float | None] | None,
        outcome: str | None,
        frame: float | None,
        grade: float | None,
        note: str | None,
    ) -> Iterator[Update]:
        if asked is None:
            raise ValueError("all clips are labelled; U takes the last answer back")
        if outcome is None:
            raise ValueError("how did it end? Y for a success, P for partly, N for a failure, or S to skip it")
        answer, (entry, fps) = _OUTCOMES[outcome], asked
        if frame is not None and answer != "successful":
            said = outcome.split(maxsplit=1)[1]
            raise ValueError(f"success from frame {frame:g} does not go with {said!r}; clear one of the two")
        if frame is not None and frame != int(frame):
            raise ValueError(f"success begins with a whole frame, got {frame:g}")
        clips.answer(entry, answer, None if frame is None else int(frame), grade, (note or "").strip(), fps)
        yield self._next_clip(self.library.get(data), model, clips)

    def _skip(self, data: str, model: str, clips: Clips, asked: tuple[Entry, float | None] | None) -> Iterator[Update]:
        if asked is not None:
            clips.answer(asked[0], "skip")
        yield self._next_clip(self.library.get(data), model, clips)

    def _undo(self, data: str, model: str, clips: Clips, _: Any) -> Iterator[Update]:
        taken = clips.undo()
        yield self._next_clip(self.library.get(data), model, clips, taken)

    def _next_clip(self, episodes: Episodes, model: str, clips: Clips, before: ClipLabel | None = None) -> Update:
        """The clip that is asked about next, with what was said ``before`` if that was taken back."""
        entry = clips.next()
        said = f"{clips.answered} of {len(clips)} clips."
        shown, asked = "", None
        if not len(clips):
            said = f"{episodes.name} has no episodes."
        elif entry is None:
            said = f"All done: {said}"
        else:
            shown, fps = _clip(episodes, entry, before)
            asked = (entry, fps)
        labels = labels_of(self.notes, episodes.name)
        agreed = clip_agreement(labels, self.notes.said(model, episodes.name))
        outcomes = {answer: text for text, answer in _OUTCOMES.items()}
        return {
            self.line: done(said),
            self.shown: shown,
            self.pair_answers: self._gr.update(visible=False),
            self.clip_answers: self._gr.update(visible=len(clips) > 0),
            self.agreement: _table(
                model,
                {
                    "How it ended": tuple(_categories(each.outcome) for each in agreed),
                    "First frame of success": tuple(_frames(each.frames, each.seconds) for each in agreed),
                    "How far it got": tuple(_apart(each.grades) for each in agreed),
                },
            ),
            self.work: clips,
            self.asked: asked,
            self.outcome: None if before is None else outcomes.get(before.answer),
            self.frame: None if before is None else before.success_frame,
            self.grade: None if before is None else before.partial_success,
            self.note: "" if before is None else before.note,
        }


def _both(episodes: Episodes, pair: Pair) -> str:
    """The two of a pair side by side, without what anybody says of them."""
    players = []
    for side, entry in (("left", pair.left), ("right", pair.right)):
        frames = as_frames(episodes.episode(entry.key).frames[:])
        players.append(play(side, video_address(frames), at_once=True))
    return f"<h3>{html(pair.task)}</h3><div class='studio-players studio-pair'>{''.join(players)}</div>"


def _clip(episodes: Episodes, entry: Entry, before: ClipLabel | None) -> tuple[str, float | None]:
    """A clip to be looked at frame by frame, without what anybody says of it, and its frame rate."""
    episode = episodes.episode(entry.key)
    rate = episode.fps or PLAYBACK_FPS
    videos = [
        Video(name, video_address(as_frames(camera[:]), rate), np.arange(len(camera)) / rate)
        for name, camera in episode.cameras.items()
    ]
    marked = None if before is None else before.success_frame
    return draw_replay(Replay(entry.task, (), videos, marked=marked, key=entry.key)), episode.fps


def _table(model: str, rows: Mapping[str, tuple[str, ...]]) -> str:
    """Agreement between annotators, and with a model."""
    return data_table(
        ("Agreement on", "Between annotators", f"With {model}"), [(name, *row) for name, row in rows.items()]
    )


def _categories(found: Agreement) -> str:
    if not found.pairs:
        return "nothing yet"
    corrected = "not defined" if np.isnan(found.corrected) else f"{found.corrected:.2f}"
    twice = "" if found.pairs == found.items else f" about {found.items}"
    return f"{found.same} of {found.pairs}{twice} ({found.share:.0%}), {found.measure} {corrected}"


def _apart(found: Difference) -> str:
    return f"{found.mean:.2f} apart ({_episodes(found.items)})" if found.pairs else "nothing yet"


def _frames(frames: Difference, seconds: Difference) -> str:
    if not frames.pairs:
        return "nothing yet"
    in_seconds = f"; {seconds.mean:.2f} s ({_episodes(seconds.items)})" if seconds.pairs else ""
    return f"{frames.mean:.1f} frames apart ({_episodes(frames.items)}){in_seconds}"


def _episodes(count: int) -> str:
    return f"{count} episode{'' if count == 1 else 's'}"
