"""The page that shows a training run: its running episode, and what it was paid most for although it failed.

The page asks once a second (``assets/studio/live.js``), while somebody looks at it; nothing is remembered in between.
What is answered comes from the folder that the run writes, see `robometer_rl.live`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import numpy as np

from robometer_rl.errors import FIXABLE, explain
from robometer_rl.extras import require
from robometer_rl.live import LIVE, Failure, LiveEpisode, Run, RunFolder
from robometer_rl.report.episode import EpisodeScores
from robometer_rl.report.markup import html
from robometer_rl.report.replay import Replay, Series, draw_replay, shown_frames, spread_band
from robometer_rl.studio.material import called, files_in, located
from robometer_rl.studio.parts import OWN_FAULT, markup, trouble

__all__ = ["Runs", "live_page", "live_routes", "replay_of", "since"]

_SILENT_S: Final = 30.0  # after which a run that has not ended is no longer said to go on
_LOOK_AGAIN_S: Final = 5.0  # for runs that have begun

_PAGE: Final = """
<div class='studio-live'>
<label class='studio-choice' hidden>Run <select></select></label>
<div class='live-line'><p class='studio-line'>…</p></div>
<div class='live-running'></div>
<div class='live-failures'></div>
<div class='live-opened' aria-live='polite'></div>
</div>
"""


class Runs:
    """The runs in the places that the studio was given, which may begin after it.

    Args:
        places: Folders of runs, or folders above them.
    """

    def __init__(self, places: Sequence[Path]) -> None:
        self.places = places
        self._found: tuple[str, ...] = ()
        self._looked = -_LOOK_AGAIN_S
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Of those that have written something."""
        with self._lock:
            if time.monotonic() - self._looked >= _LOOK_AGAIN_S:
                self._found = tuple(
                    called(place, path.parent)
                    for place in self.places
                    if place.is_dir()
                    for path in sorted(files_in(place))
                    if path.name == LIVE
                )
                self._looked = time.monotonic()
            return self._found

    def folder(self, name: str) -> RunFolder:
        """The folder of the run called ``name``.

        Raises:
            ValueError: There is none.
        """
        path = located(self.places, name)
        if not (path / LIVE).exists():
            raise ValueError(f"{name} is not the folder of a training run (any longer): it has no {LIVE}")
        return RunFolder(path)

    def nothing(self) -> str:
        """What to say as long as there is no run."""
        if not self.places:
            return (
                "The studio shows training runs that it is told of: start it with --live FOLDER, where a run writes "
                "with RewardHonestyCallback(live=FOLDER), or with record_live(FOLDER) of a reward wrapper."
            )
        where = ", ".join(called(place, place) for place in self.places)
        return (
            f"No training run has written into {where} yet. This page shows one as soon as it does: it is told to by "
            "RewardHonestyCallback(live=FOLDER), or by record_live(FOLDER) of a reward wrapper."
        )


def live_page() -> None:
    """Lays the page out, in the context of the application that is being built."""
    markup(_PAGE, elem_id="live", js_on_load="robometerLive(element)")


def live_routes(app: Any, runs: Runs, path: str) -> None:
    """Adds to an application of FastAPI, whose pages begin with ``path``, what the page asks for."""
    responses = require("fastapi.responses", "ui")

    def state(run: str = "") -> Any:
        return responses.JSONResponse(_guarded(lambda: _state(runs, run)))

    def failure(run: str, key: str) -> Any:
        return responses.JSONResponse(_guarded(lambda: {"shown": _failure(runs.folder(run), run, key)}))

    def picture(run: str, key: str, step: int, began: float) -> Any:
        content = _guarded(lambda: {"picture": _picture(runs.folder(run), key, step, began)}).get("picture")
        if content is None:  # another episode runs meanwhile
            return responses.Response(status_code=204)
        headers = {"cache-control": "private, max-age=3600, immutable"}
        return responses.Response(content, media_type="image/jpeg", headers=headers)

    for route in (state, failure, picture):
        app.add_api_route(f"{path.rstrip('/')}/live/{route.__name__}", route, methods=["GET"])


def _guarded(answer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """An answer, or a line that says what went wrong, where it is of the kind that a person can set right."""
    try:
        return answer()
    except FIXABLE as error:
        if (said := explain(error)) is None:
            raise
        return {"line": trouble(said)}


def _state(runs: Runs, name: str) -> dict[str, Any]:
    names = runs.names
    if not name and not names:
        return {"runs": [], "line": _said(runs.nothing())}
    name = name or names[0]
    known: dict[str, Any] = {"runs": list(names), "run": name}
    try:
        folder = runs.folder(name)
        run, episode = folder.read(), folder.running()
    except FIXABLE as error:
        return known | {"line": trouble(explain(error) or OWN_FAULT)}
    written = folder.written or time.time()
    steps = episode.points[-1].steps if episode is not None and episode.points else 0
    known["line"] = _said(_how_it_goes(run, steps, time.time() - written))
    known["failures"] = _failures(run)
    if episode is not None and episode.points:
        known["running"] = draw_replay(replay_of(episode, name))
    return known


def _failure(folder: RunFolder, name: str, key: str) -> str:
    try:
        return draw_replay(replay_of(folder.failure(key), name))
    except FileNotFoundError as error:
        raise ValueError(f"episode {key} is no longer among the highest-paid failures") from error


def _picture(folder: RunFolder, key: str, step: int, began: float) -> bytes | None:
    episode = folder.running()
    if episode is None or (episode.begun.key, episode.begun.time) != (key, began):
        try:
            episode = folder.failure(key)
        except FileNotFoundError:
            return None
    found = (point.picture for point in episode.points if point.step == step and episode.begun.time == began)
    return next(found, None)


def replay_of(episode: LiveEpisode, run: str) -> Replay:
    """An episode of the run called ``run``, as pages draw it.

    Frames are those that were kept, which may be fewer than the steps that were made.
    """
    begun, points = episode.begun, episode.points
    numbers = np.array([point.step for point in points])
    places = np.arange(len(points))
    progress = np.array([point.progress for point in points])
    said = [point.success for point in points if point.success is not None]
    spread = [point.uncertainty for point in points if point.uncertainty is not None]
    paid = np.array([point.paid for point in points])
    task = begun.tasks[min(points[-1].stage, len(begun.tasks) - 1)]
    scores = EpisodeScores(
        task=task,
        numbers=numbers,
        progress=progress.astype(np.float32),
        success=np.array(said, np.float32) if len(said) == len(points) else None,
        success_detected=np.array([point.detected for point in points]),
        threshold=0.0 if begun.threshold is None else begun.threshold,
    )
    series = Series(
        name=begun.model,
        steps=places,
        scores=scores,
        rewards=np.diff(paid, prepend=paid[0]),
        band=spread_band(progress, np.array(spread)) if len(spread) == len(points) else None,
        shown=_shown(episode),
        true_success=_achieved(episode),
        counted="step",
    )
    of = {"run": run, "key": begun.key, "began": begun.time}
    pictures = [f"live/picture?{urlencode({**of, 'step': point.step})}" for point in points]
    return Replay(task, [series], description=_description(episode), key=begun.key, pictures=pictures)


def _shown(episode: LiveEpisode) -> np.ndarray[Any, Any] | None:
    """Which frames the model was shown; None where not all of them were kept, or a stage began a new history."""
    begun, points = episode.begun, episode.points
    if episode.interval > 1 or len(begun.tasks) > 1 or points[0].step > 0:
        return None
    try:
        return shown_frames(begun.protocol, np.arange(len(points)))
    except ValueError:  # a protocol that somebody has written for this run
        return None


def _achieved(episode: LiveEpisode) -> np.ndarray[Any, Any] | None:
    known = [point.achieved for point in episode.points]
    return None if all(each is None for each in known) else np.array([bool(each) for each in known])


def _description(episode: LiveEpisode) -> str:
    begun, last, ended = episode.begun, episode.points[-1], episode.ended
    stage = f", stage {last.stage + 1} of {len(begun.tasks)}" if len(begun.tasks) > 1 else ""
    kept = "" if episode.interval == 1 else f"; one of {episode.interval} scored frames is kept"
    where = f"Environment {begun.environment}, from step {begun.steps:,} of the run on{stage}: "
    if ended is None:
        return f"{where}{last.step} steps so far, paid {last.paid:+.3f}{kept}."
    truth = {None: "nobody says whether the task was done", True: "the task was done", False: "the task was not done"}
    own = "" if ended.task_return is None else f", own reward {ended.task_return:.3f}"
    return f"{where}{ended.length} steps, paid {ended.paid:+.3f}{own}; {truth[ended.achieved]}{kept}."


def _how_it_goes(run: Run, steps: int, silent: float) -> str:
    if run.over:
        said = f"The run has ended; it last wrote {since(silent)} ago."
    elif silent > _SILENT_S:
        said = (
            f"The run last wrote {since(silent)} ago, and has not said that it ended: it was stopped, or it learns or "
            "evaluates meanwhile."
        )
    else:
        said = f"The run goes on; it last wrote {since(silent)} ago."
    several = f" in {run.environments} environments" if run.environments > 1 else ""
    said += f" {steps:,} steps; {run.episodes:,} episodes have ended{several}."
    if run.unknown:
        said += f" Of {run.unknown:,} of them the environment does not say whether the task was done."
    return said


def since(seconds: float) -> str:
    """A time that has passed, as people say it.

    Examples:
        >>> since(0.4), since(90), since(3 * 3600), since(100 * 3600)
        ('0 s', '1 min', '3 h', '4 days')
    """
    seconds = max(0.0, seconds)
    for unit, size, most in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds // 86400:.0f} days"


def _failures(run: Run) -> str:
    if not run.failures:
        return ""
    columns = ("Ended at step", "Instruction", "Environment", "Steps", "Paid", "Its own reward", "Success rule")
    head = "".join(f"<th scope='col'>{column}</th>" for column in columns)
    rows = "".join(map(_row, run.failures))
    table = f"<table class='studio-list'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<h3>Paid most although they failed</h3><div class='card wide'>{table}</div>"


def _row(failure: Failure) -> str:
    ended = failure.ended
    cells = [
        failure.task,
        str(failure.environment),
        str(ended.length),
        f"{ended.paid:+.3f}",
        "" if ended.task_return is None else f"{ended.task_return:.3f}",
        "fires" if failure.detected else "never",
    ]
    name = f"<button type='button' data-key='{html(failure.key)}'>{ended.steps:,}</button>"
    return f"<tr><th scope='row'>{name}</th>{''.join(f'<td>{html(cell)}</td>' for cell in cells)}</tr>"


def _said(text: str) -> str:
    """A line that changes every second, which a screen reader should not read out each time."""
    return f"<p class='studio-line'>{html(text)}</p>"
