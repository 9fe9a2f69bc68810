"""What several pages of the studio have: a recording to choose, a question to ask, and a line that says how it goes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, fields
from functools import partial, wraps
from threading import BoundedSemaphore
from time import monotonic
from typing import Any, Final

from robometer_rl.errors import FIXABLE, explain
from robometer_rl.extras import require
from robometer_rl.frames import FrameProtocol, parse_protocol
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.report.markup import html
from robometer_rl.report.replay import PLAYBACK_FPS, Video, video_address
from robometer_rl.score import shown_seconds
from robometer_rl.studio.asking import Asking, Models, in_background
from robometer_rl.studio.material import RECORDINGS, Material
from robometer_rl.video import Recording

__all__ = [
    "AGAIN",
    "FIELDS",
    "OWN_FAULT",
    "Question",
    "Update",
    "busy",
    "choose_recording",
    "done",
    "follow",
    "guarded",
    "lines_of",
    "load_model",
    "markup",
    "play",
    "player_of",
    "question_inputs",
    "read_question",
    "sometimes",
    "trouble",
]

logger = logging.getLogger(__name__)

Update = Mapping[Any, Any]
"""What a page's handler yields: new values by component."""

_ENCODERS: Final = BoundedSemaphore(2)  # videos that are encoded at a time, whoever has gone away meanwhile
_SAID_EVERY: Final = 0.25  # seconds between two words about progress
OWN_FAULT: Final = "This is an error of the program itself; where the studio was started, the log says more."
_OWN: Final = "the model's own"
_WEBCAM: Final = """
<div class='studio-webcam'>
<button type='button' class='webcam-open'>Record with the webcam</button>
<div class='webcam-stage' hidden><video muted playsinline aria-label='What the webcam shows'></video>
<button type='button' class='webcam-record'>● Start</button>
<button type='button' class='webcam-close'>Close the webcam</button></div>
<p class='studio-line' role='status'></p>
</div>
"""


def done(text: str) -> str:
    """The line when all went well."""
    return f"<p class='studio-line' role='status'>{html(text)}</p>"


def trouble(text: str) -> str:
    """The line when something a person can set right went wrong."""
    return f"<p class='studio-line studio-trouble' role='alert'>{html(text)}</p>"


def busy(text: str, part: float | None = None) -> str:
    """The line while something is done; ``part`` of it, in [0, 1], where that is known."""
    value = "" if part is None else f" value='{part:.3f}'"
    return f"<p class='studio-line' role='status'>{html(text)} <progress{value} max='1'></progress></p>"


def markup(value: str = "", **options: Any) -> Any:
    """A place for markup of ours, which the style of Gradio's own texts leaves alone."""
    return require("gradio", "ui").HTML(value, apply_default_css=False, **options)


AGAIN: Final = "multiple"
"""How clicks on what can be stopped are taken; else Gradio counts what was stopped as running, and takes no more."""


def guarded(line: Any, handler: Callable[..., Iterator[Update]]) -> Callable[..., Iterator[Update]]:
    """A handler whose errors become a sentence in ``line``, where they are of the kind that a person can set right."""

    @wraps(handler)
    def answer(*values: Any) -> Iterator[Update]:
        try:
            yield from handler(*values)
        except FIXABLE as error:
            said = explain(error)
            yield {line: trouble(said or OWN_FAULT)}
            if said is None:
                raise
            logger.debug("the error came from here:", exc_info=True)
        except Exception:
            yield {line: trouble(OWN_FAULT)}
            raise

    return answer


def follow(asking: Asking, line: Any, what: str) -> Iterator[Update]:
    """Asks to the end, and says a few times a second how far it is."""
    for number in sometimes(asking):
        yield {line: busy(f"{what}: {number} of {asking.total}", number / asking.total)}


def sometimes(counted: Iterable[int]) -> Iterator[int]:
    """Counts to the end, and says a few times a second how far it is."""
    said = -_SAID_EVERY
    for number in counted:
        if monotonic() - said >= _SAID_EVERY:
            said = monotonic()
            yield number


def lines_of(text: str | None) -> list[str]:
    """The lines of a field in which one thing stands on each."""
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


@dataclass(frozen=True)
class Question:
    """How a model is asked.

    Attributes:
        model: Who.
        protocol: Which frames of its history each step is scored with; the model's own if None.
        every: Scoring interval in frames.
        fps: What recordings with times are thinned to; None for all frames.
        tiled: Whether pictures show several cameras, see `robometer_rl.tiles`.
    """

    model: str
    protocol: FrameProtocol | None
    every: int
    fps: float | None
    tiled: bool


FIELDS: Final = len(fields(Question))
"""Of `question_inputs`, the model first."""


def read_question(model: str, protocol: str, every: float | None, fps: float | None, tiled: bool) -> Question:
    """What stands in the fields of `question_inputs`.

    Raises:
        ValueError: An interval that is none.
    """
    if every is None or every != int(every) or every < 1:
        raise ValueError(f"the interval is {every}; expected a whole number of frames, 1 or more")
    chosen = None if protocol in ("", _OWN) else parse_protocol(protocol)
    return Question(model, chosen, int(every), fps or None, bool(tiled))


def choose_recording(models: Models, material: Material, name: str, label: str) -> list[Any]:
    """Fields for one recording: an upload, and the name of one in the data; `Material.path` takes their values.

    What the browser's webcam shows can be recorded, too, and becomes the upload.

    Whoever chooses one is about to ask a model, and has words to write before that: loading the first one begins.
    """
    gr = require("gradio", "ui")
    upload = gr.File(label=label, file_types=list(RECORDINGS), elem_id=f"{name}-upload", height=120)
    markup(_WEBCAM, elem_id=f"{name}-webcam", js_on_load=f"robometerWebcam(element, '{name}-upload')")
    named = gr.Dropdown(
        material.listed(RECORDINGS),
        value=None,
        label=f"{label}, from the data",
        info="A file, or the name of a folder of images.",
        allow_custom_value=True,
        elem_id=f"{name}-named",
        visible=bool(material.places),
    )
    for chosen in (upload.upload, named.input):
        chosen(partial(_begin, models), None, None, queue=False, show_progress="hidden")
    return [upload, named]


def _begin(models: Models) -> None:
    models.begin(models.names[0])


def choose_others(material: Material, name: str) -> list[Any]:
    """Fields for recordings of other cameras, to be shown in one picture; `Material.paths` takes their values."""
    gr = require("gradio", "ui")
    with gr.Accordion("Other cameras", open=False):
        upload = gr.File(
            label="Shown below it",
            file_count="multiple",
            file_types=list(RECORDINGS),
            elem_id=f"{name}-others-upload",
            height=120,
        )
        named = gr.Textbox(
            label="The same, from the data",
            info="A name a line, in the order of the model's training.",
            lines=2,
            elem_id=f"{name}-others-named",
            visible=bool(material.places),
        )
    return [upload, named]


def question_inputs(models: Models, name: str, recordings: bool = True) -> list[Any]:
    """Fields for how a model is asked; `read_question` takes their values.

    Args:
        models: Who can be asked.
        name: With which the names of the fields begin.
        recordings: Whether it is asked about recordings, of which nobody has said yet what they show.
    """
    gr = require("gradio", "ui")
    with gr.Accordion("How the model is asked", open=False):
        return [
            gr.Dropdown(list(models.names), value=models.names[0], label="Model", elem_id=f"{name}-model"),
            gr.Dropdown(
                [_OWN, "nested(8)", "uniform(8)"],
                value=_OWN,
                label="Frame protocol",
                info="Which frames of its history each frame is scored with.",
                allow_custom_value=True,
                elem_id=f"{name}-protocol",
            ),
            gr.Number(1, label="Score every so many frames", precision=0, minimum=1, elem_id=f"{name}-every"),
            gr.Number(
                None,
                label="Thin to frames per second",
                info="All frames if empty.",
                elem_id=f"{name}-fps",
                visible=recordings,
            ),
            gr.Checkbox(label="The pictures show several cameras, tiled", elem_id=f"{name}-tiled", visible=recordings),
        ]


def load_model(models: Models, name: str, line: Any) -> Generator[Update, None, RewardModel]:
    """Gives the model called ``name``; says so while it has to be loaded."""
    if not models.is_loaded(name):
        yield {line: busy(f"loading {name}")}
    return models.get(name)


def player_of(name: str, recording: Recording) -> Future[Video]:
    """A recording as pages play it, inside the page; encoded while a model is asked about it."""

    def encode() -> Video:
        with _ENCODERS:
            address = video_address(recording.frames, recording.playback_fps or PLAYBACK_FPS, recording.times)
        return Video(name, address, shown_seconds(recording))

    return in_background(encode)


def play(name: str, address: str, at_once: bool = False) -> str:
    """A recording alone, with the browser's own controls.

    Args:
        name: Below it.
        address: Of the video.
        at_once: Whether it begins without being told.
    """
    begins = " autoplay" if at_once else ""
    return (
        f"<figure class='studio-player'><video controls muted loop playsinline{begins} src='{html(address)}' "
        f"aria-label='{html(name)}'></video><figcaption>{html(name)}</figcaption></figure>"
    )
