"""The page that lists recorded episodes, shows one, asks a model about them, and flags them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robometer_rl.data.flags import FLAGS, Flag
from robometer_rl.data.reading import EPISODE_DAMAGE
from robometer_rl.extras import require
from robometer_rl.frames import as_frames, parse_protocol
from robometer_rl.relabeling.report import labelled_series
from robometer_rl.report.markup import html
from robometer_rl.report.replay import PLAYBACK_FPS, Replay, Series, Video, draw_replay, video_address
from robometer_rl.rewards import RewardSpec
from robometer_rl.score import scored_series
from robometer_rl.studio.asking import Asking, Models
from robometer_rl.studio.episodes import ORDERS, OUTCOMES, Entry, Episode, Episodes, Library, Wanted, chosen
from robometer_rl.studio.notes import Notes, Said
from robometer_rl.studio.parts import (
    AGAIN,
    FIELDS,
    Question,
    Update,
    busy,
    done,
    follow,
    guarded,
    load_model,
    markup,
    play,
    question_inputs,
    read_question,
    sometimes,
    trouble,
)
from robometer_rl.video import Recording

__all__ = ["BrowsePage", "list_of", "show_episode"]

logger = logging.getLogger(__name__)

_PER_PAGE: Final = 25
_ANY: Final = "any"

_ON_LIST: Final = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-key]");
  if (button) trigger("click", {key: button.dataset.key});
});
"""
_READ_ADDRESS: Final = """
(data, episode) => {
  const named = new URL(location).searchParams;
  const tabs = [...document.querySelectorAll("#studio-tabs [role=tab]")];
  if (named.get("episode")) tabs.find((tab) => tab.textContent.trim() === "Browse")?.click();
  return [named.get("data") ?? data, named.get("episode") ?? ""];
}
"""
_GO_THERE: Final = """
(data, episode) => {
  const address = new URL(location);
  for (const [name, value] of [["data", data], ["episode", episode]]) {
    if (value) address.searchParams.set(name, value); else address.searchParams.delete(name);
  }
  history.replaceState(null, "", address);
  document.getElementById("browse-episode")?.scrollIntoView({block: "start"});
}
"""


def list_of(entries: Sequence[Entry], said: Mapping[str, Said], flags: Mapping[str, Flag]) -> str:
    """Episodes as a table with a button each.

    Args:
        entries: In their order.
        said: What a model said of some of them, by key.
        flags: Flags of some of them, by key.
    """
    rows = "".join(_row(entry, said.get(entry.key), flags.get(entry.key)) for entry in entries)
    columns = (
        "Episode",
        "Instruction",
        "Outcome",
        "Source",
        "Frames",
        "Final progress",
        "Paid",
        "Success rule",
        "Flag",
    )
    head = "".join(f"<th scope='col'>{column}</th>" for column in columns)
    table = f"<table class='studio-list'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<div class='card wide'>{table}</div>"


def _row(entry: Entry, said: Said | None, flag: Flag | None) -> str:
    fires = {None: "", True: "fires", False: "never"}[None if said is None else said.fires]
    cells = [
        entry.task,
        entry.outcome if entry.partial_success is None else f"{entry.outcome} ({entry.partial_success:.2f})",
        entry.source,
        str(entry.frames),
        "" if said is None else f"{said.progress[-1]:.2f}",
        "" if said is None else f"{said.paid:+.2f}",
        fires,
        "" if flag is None or not flag.flagged else "⚑ " + flag.note,
    ]
    name = f"<button type='button' data-key='{html(entry.key)}'>{html(entry.key)}</button>"
    return f"<tr><th scope='row'>{name}</th>{''.join(f'<td>{html(cell)}</td>' for cell in cells)}</tr>"


class BrowsePage:
    """Lays the page out, in the context of the application that is being built.

    Args:
        library: What can be browsed.
        models: Who can be asked.
        notes: Where flags and answers are kept.
    """

    def __init__(self, library: Library, models: Models, notes: Notes) -> None:
        self.library, self.models, self.notes = library, models, notes
        self._gr = require("gradio", "ui")
        self._lay_out_list()
        self._lay_out_episode()
        self._wire()

    def _lay_out_list(self) -> None:
        gr, names = self._gr, list(self.library.names)
        with gr.Row():
            self.data = gr.Dropdown(names, value=names[0] if names else None, label="Data set", elem_id="browse-data")
            self.order = gr.Dropdown(list(ORDERS), value=next(iter(ORDERS)), label="Order", elem_id="browse-order")
            self.outcome = gr.Dropdown([_ANY, *OUTCOMES], value=_ANY, label="Outcome", elem_id="browse-outcome")
            self.text = gr.Textbox(label="Name or instruction contains", elem_id="browse-text")
        with gr.Accordion("More filters", open=False), gr.Row():
            self.task = gr.Dropdown([_ANY], value=_ANY, label="Instruction", elem_id="browse-task")
            self.source = gr.Dropdown([_ANY], value=_ANY, label="Source", elem_id="browse-source")
            self.least = gr.Number(0, label="At least so many frames", precision=0, minimum=0, elem_id="browse-least")
            self.most = gr.Number(0, label="At most (0: any)", precision=0, minimum=0, elem_id="browse-most")
            self.flagged = gr.Checkbox(label="Flagged only", elem_id="browse-flagged")
        self.question = question_inputs(self.models, "browse", recordings=False)
        with gr.Row():
            self.show = gr.Button("List", variant="primary", elem_id="browse-start")
            self.ask_all = gr.Button("Ask the model about all that are listed", elem_id="browse-ask-all")
            self.stop = gr.Button("Stop", elem_id="browse-stop")
        self.line = markup(done("Choose a data set, and press List."), elem_id="browse-line")
        self.list = markup(elem_id="browse-list", js_on_load=_ON_LIST)
        with gr.Row(visible=False) as self.turning:
            self.back = gr.Button("‹ Page before", elem_id="browse-back")
            self.forth = gr.Button("Next page ›", elem_id="browse-forth")
        self.page = gr.State(0)

    def _lay_out_episode(self) -> None:
        gr = self._gr
        self.current = gr.Textbox("", visible="hidden", elem_id="browse-current")
        with gr.Column(visible=False, elem_id="browse-episode") as self.opened:
            self.shown = markup(elem_id="browse-shown")
            with gr.Row():
                self.ask = gr.Button("Ask the model about this episode", elem_id="browse-ask")
                self.flag = gr.Checkbox(label="Flag", elem_id="browse-flag")
                self.note = gr.Textbox(label="Why", elem_id="browse-note")
                self.keep = gr.Button("Keep flag and note", elem_id="browse-keep")
            markup(_how_to_exclude(self.notes.folder), elem_id="browse-exclude")

    def _wire(self) -> None:
        filters = [self.task, self.source, self.outcome, self.text, self.least, self.most, self.flagged]
        listed = [self.data, self.order, *filters, *self.question]
        listing = [self.line, self.list, self.page, self.turning, self.task, self.source]
        about = [self.data, self.current, *self.question]
        episode = [self.line, self.opened, self.shown, self.flag, self.note]

        def on(event: Any, handler: Callable[..., Iterator[Update]], inputs: list[Any], outputs: list[Any]) -> Any:
            return event(guarded(self.line, handler), inputs, outputs, show_progress="hidden", trigger_mode=AGAIN)

        long = [
            on(self.show.click, partial(self._list, turn=None), [self.page, *listed], listing),
            on(self.text.submit, partial(self._list, turn=None), [self.page, *listed], listing),
            on(self.back.click, partial(self._list, turn=-1), [self.page, *listed], listing),
            on(self.forth.click, partial(self._list, turn=1), [self.page, *listed], listing),
            on(self.ask_all.click, self._ask_all, [self.page, *listed], listing),
            on(self.ask.click, self._ask_one, about, episode),
        ]
        self.stop.click(lambda: done("Stopped; what was answered is kept."), None, self.line, cancels=long, queue=False)
        chosen_key = self.list.click(_key_of(self._gr.EventData), None, self.current, queue=False)
        opened = on(chosen_key.then, self._open, about, episode)
        opened.then(None, [self.data, self.current], None, js=_GO_THERE)
        kept = on(self.keep.click, self._keep, [self.data, self.current, self.flag, self.note], [self.line])
        on(kept.then, partial(self._list, turn=0), [self.page, *listed], listing)

    def open_at(self, blocks: Any) -> None:
        """Opens the episode that the address names, when the application ``blocks`` is loaded."""
        named = [self.data, self.current]
        episode = [self.line, self.opened, self.shown, self.flag, self.note]

        def show(*values: Any) -> Update:
            shown: dict[Any, Any] = {}
            for update in guarded(self.line, self._open)(*values):
                shown.update(update)
            return shown

        # In the browser alone: an answer of the server could come when somebody has chosen something already. Then
        # outside of the queue: the stream of its answers ends with them, and a question asked just then is lost.
        at = blocks.load(None, named, named, js=_READ_ADDRESS)
        at.then(show, [*named, *self.question], episode, show_progress="hidden", queue=False)

    def _list(self, page: int, data: str, order: str, *given: Any, turn: int | None = 0) -> Iterator[Update]:
        """Shows a page of the list: the first one without a ``turn``, else the one that many further on."""
        gr, episodes = self._gr, self.library.get(data)
        yield from self._read(episodes)
        entries = self._chosen(episodes, order, *given)
        pages = max(1, -(-len(entries) // _PER_PAGE))
        page = 0 if turn is None else min(max(0, page + turn), pages - 1)
        part = entries[page * _PER_PAGE : (page + 1) * _PER_PAGE]
        said = self.notes.said(given[-FIELDS], data)
        where = f", {page * _PER_PAGE + 1} to {page * _PER_PAGE + len(part)} of them" if pages > 1 else ""
        damaged = f"; {len(episodes.skipped)} cannot be read" if episodes.skipped else ""
        yield {
            self.line: done(f"{len(entries)} of {len(episodes.entries)} episodes of {data}{where}{damaged}."),
            self.list: list_of(part, said, self.notes.flags(data)),
            self.page: page,
            self.turning: gr.update(visible=pages > 1),
            self.task: gr.update(choices=_choices(entry.task for entry in episodes.entries)),
            self.source: gr.update(choices=_choices(entry.source for entry in episodes.entries)),
        }

    def _read(self, episodes: Episodes) -> Iterator[Update]:
        for number in sometimes(episodes):
            yield {
                self.line: busy(
                    f"listing {episodes.name}: {number} of {len(episodes.keys)}", number / len(episodes.keys)
                )
            }

    def _chosen(self, episodes: Episodes, order: str, *given: Any) -> list[Entry]:
        task, source, outcome, text, least, most, flagged, model = given[:8]
        task, source, outcome = ("" if each == _ANY else each for each in (task, source, outcome))
        wanted = Wanted(task, outcome, source, text or "", int(least or 0), int(most or 0), bool(flagged))
        name = episodes.name
        return chosen(episodes.entries, wanted, order, self.notes.said(model, name), self.notes.flags(name))

    def _open(self, data: str, key: str, model: str, *_: Any) -> Iterator[Update]:
        if not key:  # Gradio empties the fields of a handler that yields nothing
            yield {self.opened: self._gr.update(visible=False)}
            return
        yield {self.line: busy(f"opening {key}")}
        episode = self.library.get(data).episode(key)
        flag = self.notes.flags(data).get(key) or Flag(data, key, flagged=False)
        said = self.notes.said(model, data).get(key)
        yield {
            self.line: done(f"{key}: {_description(episode.entry)}"),
            self.opened: self._gr.update(visible=True),
            self.shown: show_episode(episode, said),
            self.flag: flag.flagged,
            self.note: flag.note,
        }

    def _ask_one(self, data: str, key: str, *asked: Any) -> Iterator[Update]:
        yield from self._ask(data, self.library.get(data).episode(key), read_question(*asked), key)
        yield from self._open(data, key, *asked)

    def _ask_all(self, page: int, data: str, order: str, *given: Any) -> Iterator[Update]:
        episodes, how = self.library.get(data), read_question(*given[-FIELDS:])
        yield from self._read(episodes)
        known = self.notes.said(how.model, data)
        entries = [e for e in self._chosen(episodes, order, *given) if not _is_answer(known.get(e.key), how)]
        damaged: list[str] = []
        for number, entry in enumerate(entries, 1):
            try:
                episode = episodes.episode(entry.key)
                episode = replace(episode, cameras={"video": as_frames(episode.frames[:])})
            except EPISODE_DAMAGE as error:  # one bad file among thousands is no reason to stop
                logger.warning("%s is passed over: %s", entry.key, error)
                damaged.append(entry.key)
                continue
            yield from self._ask(data, episode, how, f"{number} of {len(entries)}, {entry.key}")
        yield from self._list(page, data, order, *given)
        if damaged:
            yield {
                self.line: trouble(
                    f"{len(damaged)} episodes cannot be read and were passed over: {', '.join(damaged[:5])}"
                )
            }

    def _ask(self, data: str, episode: Episode, how: Question, what: str) -> Iterator[Update]:
        """Asks about an episode under its own instruction, and keeps the answer."""
        model = yield from load_model(self.models, how.model, self.line)
        asking = Asking(model, episode.frames, [episode.entry.task], how.protocol, how.every, episode.tiled)
        yield from follow(asking, self.line, what)
        (answer,) = asking.predictions
        self.notes.keep(
            Said(
                data=data,
                episode=episode.entry.key,
                task=episode.entry.task,
                model=how.model,
                protocol=answer.protocol,
                every=answer.every,
                threshold=RewardSpec().threshold(model.success_threshold),
                progress=_plain(answer.progress),
                success=None if answer.success is None else _plain(answer.success),
            )
        )

    def _keep(self, data: str, key: str, flagged: bool, note: str) -> Iterator[Update]:
        self.notes.flag(Flag(data, key, bool(flagged), (note or "").strip()))
        yield {self.line: done(f"Kept in {self.notes.folder.name}/{FLAGS}.")}


def _is_answer(said: Said | None, how: Question) -> bool:
    """Whether something was said, and to the same question."""
    return said is not None and said.every == how.every and how.protocol in (None, parse_protocol(said.protocol))


def _plain(values: NDArray[np.float32]) -> tuple[float, ...]:
    return tuple(np.round(values.astype(np.float64), 6).tolist())


def show_episode(episode: Episode, said: Said | None) -> str:
    """An episode as markup: under one cursor with its labels and with what a model said of it, or else as videos.

    Args:
        episode: The episode.
        said: What a model said.
    """
    frames = {name: as_frames(camera[:]) for name, camera in episode.cameras.items()}
    times = np.arange(len(episode.frames)) / PLAYBACK_FPS
    videos = [Video(name, video_address(camera), times) for name, camera in frames.items()]
    name, about = episode.entry.key, _description(episode.entry)
    series = _labelled(episode)
    if said is not None:
        recording = Recording(next(iter(frames.values())), np.arange(len(times)), true_success=episode.true_success)
        told = f"{said.model}, asked here" if series else said.model
        series.append(scored_series(told, recording, said.prediction(), said.threshold, said.task))
    if not series:
        return f"<div class='studio-players'>{''.join(play(video.name, video.address) for video in videos)}</div>"
    series[0] = replace(series[0], true_progress=episode.true_progress)
    return draw_replay(Replay(name, series, videos, about))


def _labelled(episode: Episode) -> list[Series]:
    """What relabelling has written, beside the rewards that it has taken the place of."""
    if episode.labels is None:
        return []
    labels, made = episode.labels
    if len(labels.progress) != len(episode.frames):
        raise ValueError(
            f"{episode.entry.key} has {len(episode.frames)} frames and labels of {len(labels.progress)}: they are "
            "those of another recording"
        )
    name = "as labelled" if made is None else f"labelled by {made.model_id}"
    return [labelled_series(name, episode.entry.task, labels, made, episode.task_rewards, episode.true_success)]


def _description(entry: Entry) -> str:
    graded = "" if entry.partial_success is None else f", graded {entry.partial_success:.2f}"
    return f"{entry.task!r}, {entry.outcome}{graded}, {entry.frames} frames, from {entry.source}."


def _how_to_exclude(folder: Path) -> str:
    """What to type, for flags in a folder of notes; who only sees the page learns no folders above it."""
    flags = html(str((Path(folder.name) if folder.is_absolute() else folder) / FLAGS))
    return (
        f"<p class='studio-line'><code>robometer-rl train RECIPE --exclude {flags}</code> trains without flagged "
        "episodes; <code>adapt</code> and <code>evaluate</code> take <code>--exclude</code>, too.</p>"
    )


def _choices(values: Iterable[str]) -> list[str]:
    return [_ANY, *sorted(set(values))]


def _key_of(event_type: Any) -> Callable[[Any], str]:
    """What takes the key out of a click on the list; Gradio looks for the type of its argument."""

    def key_of(event: Any) -> str:
        return event.key

    key_of.__annotations__["event"] = event_type
    return key_of
