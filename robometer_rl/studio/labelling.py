"""The page that asks people which of two episodes is better, by key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from robometer_rl.extras import require
from robometer_rl.frames import as_frames
from robometer_rl.report.markup import html
from robometer_rl.report.replay import video_address
from robometer_rl.studio.asking import Models
from robometer_rl.studio.episodes import Episodes, Library
from robometer_rl.studio.notes import Notes
from robometer_rl.studio.pairs import Answer, Pair, Pairs, agreement, judgements
from robometer_rl.studio.parts import Update, busy, done, guarded, markup, play, sometimes

__all__ = ["LabelPage"]

_BUTTONS: Final[tuple[tuple[Answer, str], ...]] = (
    ("left", "← Left is better"),
    ("equal", "= Equal"),
    ("right", "Right is better →"),
    ("skip", "S  Skip"),
    ("undo", "U  Undo"),
)


class LabelPage:
    """Lays the page out, in the context of the application that is being built.

    Args:
        library: Whose episodes are compared.
        models: Whose answers decide which pairs come first, see `robometer_rl.studio.pairs.Pairs`.
        notes: Where answers are kept.
    """

    def __init__(self, library: Library, models: Models, notes: Notes) -> None:
        self.library, self.notes = library, notes
        gr = self._gr = require("gradio", "ui")
        names = list(library.names)
        with gr.Row():
            self.data = gr.Dropdown(names, value=names[0] if names else None, label="Data set", elem_id="label-data")
            first = "Pairs that this model is least sure of come first"
            self.model = gr.Dropdown(list(models.names), value=models.names[0], label=first, elem_id="label-model")
            self.annotator = gr.Textbox(label="Your name", elem_id="label-annotator")
        start = gr.Button("Begin, or go on", variant="primary", elem_id="label-start")
        self.line = markup(done("Say who you are, and begin. Everything can be done by key."), elem_id="label-line")
        self.shown = markup(elem_id="label-shown")
        with gr.Row(visible=False) as self.answers:
            buttons: dict[Answer, Any] = {
                answer: gr.Button(text, elem_id=f"label-{answer}") for answer, text in _BUTTONS
            }
        self.pairs, self.pair = gr.State(None), gr.State(None)
        outputs = [self.line, self.shown, self.answers, self.pairs, self.pair]

        def on(button: Any, handler: Callable[..., Iterator[Update]], inputs: list[Any]) -> None:
            button.click(guarded(self.line, handler), inputs, outputs, show_progress="hidden")

        on(start, self._begin, [self.data, self.model, self.annotator])
        for answer, button in buttons.items():
            on(button, partial(self._answer, answer=answer), [self.data, self.model, self.pairs, self.pair])

    def _begin(self, data: str, model: str, annotator: str) -> Iterator[Update]:
        if not annotator or not annotator.strip():
            raise ValueError("no name is given; write one, so that what annotators say can be told apart")
        episodes = self.library.get(data)
        for number in sometimes(episodes):
            yield {self.line: busy(f"listing {data}: {number} of {len(episodes.keys)}", number / len(episodes.keys))}
        pairs = Pairs(data, episodes.entries, annotator.strip(), self.notes, self.notes.said(model, data))
        yield {self.pairs: pairs, **self._next(episodes, model, pairs)}

    def _answer(self, data: str, model: str, pairs: Pairs, pair: Pair | None, *, answer: Answer) -> Iterator[Update]:
        if answer == "undo":
            pairs.undo()
        elif pair is not None:
            pairs.answer(pair, answer)
        yield self._next(self.library.get(data), model, pairs)

    def _next(self, episodes: Episodes, model: str, pairs: Pairs) -> Update:
        """The pair that is asked about next, and how far it has come."""
        pair = pairs.next()
        people, with_model = agreement(judgements(self.notes, episodes.name), self.notes.said(model, episodes.name))
        said = f"{pairs.answered} of {len(pairs)} pairs. Annotators agree on {people}, with {model} on {with_model}."
        if not len(pairs):
            said = f"{episodes.name} has no two episodes of one instruction."
        elif pair is None:
            said = f"All done: {said}"
        return {
            self.line: done(said),
            self.shown: "" if pair is None else _both(episodes, pair),
            self.answers: self._gr.update(visible=len(pairs) > 0),
            self.pair: pair,
        }


def _both(episodes: Episodes, pair: Pair) -> str:
    """The two of a pair side by side, without what anybody says of them."""
    players = []
    for side, key in (("left", pair.left), ("right", pair.right)):
        frames = as_frames(episodes.episode(key).frames[:])
        players.append(play(side, video_address(frames), at_once=True))
    return f"<h3>{html(pair.task)}</h3><div class='studio-players studio-pair'>{''.join(players)}</div>"
