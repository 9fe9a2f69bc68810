"""``robometer-rl score``: what a reward model says about a recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table

from robometer_rl.files import write_text
from robometer_rl.frames import Clip, FrameError, FrameProtocol, check_task, parse_protocol, scored_steps
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.prediction import Prediction
from robometer_rl.report.episode import EpisodeScores, runs_of_true
from robometer_rl.report.figures import LIGHT, Curve, Panel, draw_figure, save_picture
from robometer_rl.report.overlay import overlay_frames
from robometer_rl.report.replay import PLAYBACK_FPS, Replay, Series, Video, judged_series, reduced, render_page
from robometer_rl.report.terminal import open_console
from robometer_rl.rewards import RewardSpec
from robometer_rl.tiles import TiledFrames
from robometer_rl.video import Recording, read_recording, write_video

__all__ = [
    "ScoreConfig",
    "run_score",
    "score",
    "scored_series",
    "shown_seconds",
    "tiled_recording",
    "write_scores",
]

_SAME_RATE: Final = 0.01  # of two frame rates, the part by which they may differ


@dataclass(frozen=True)
class ScoreConfig:
    """Score a video: predicted progress and success probability in every frame.

    Writes the predictions (prediction.npz, prediction.csv), a figure (curves.png), the video with the predictions
    below it (overlay.mp4), and a page that shows the recording and the curves under one cursor (index.html).
    """

    video: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")]
    """A video file, a .gif, an .npz (array 'frames', 'arr_0' or the only one), or a folder of images."""
    task: str
    """The instruction, such as 'open the drawer'."""
    model: str = "mini"
    """The embedded 'mini', a checkpoint directory, or a Hub id ('robometer/Robometer-4B', 'ID@REVISION')."""
    protocol: str | None = None
    """Frames that a step is scored with: 'uniform' or 'nested', also as 'nested(8)'; the model's own if not given."""
    every: int = 1
    """Score every so many frames, and the last one; between them the overlay holds the last value."""
    fps: float | None = None
    """Thin a video or GIF to this many frames per second before anything else; all frames if not given."""
    device: str = "cpu"
    """Where the model runs, such as 'cuda'."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = None
    """Precision of the model; as stored in the checkpoint if not given."""
    tile: tuple[Path, ...] = ()
    """Recordings of other cameras, shown below VIDEO in one picture, for models that were trained on such."""
    tiled: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """VIDEO shows several cameras in one picture already."""
    out: Path | None = None
    """Folder for the results; outputs/score/NAME for a video called NAME if not given."""


def run_score(config: ScoreConfig) -> None:
    """Scores the recording that ``config`` names with the model that it names."""
    # A wrong option or path should not cost the time of loading a model.
    check_task(config.task)
    _protocol(config)
    recording = read_recording(config.video, config.fps)
    if config.tile:
        recording = tiled_recording(config.video, recording, config.tile)
    scored_steps(len(recording), config.every)
    from robometer_rl.models.loading import load_reward_model

    score(config, recording, load_reward_model(config.model, config.device, config.dtype))


def tiled_recording(path: Path, recording: Recording, others: Sequence[Path]) -> Recording:
    """A recording with those of other cameras below it in one picture; the shortest decides how long it is.

    Args:
        path: Of the recording, for errors.
        recording: What is on top.
        others: Synchronised recordings, whose frames of the same numbers are shown.

    Raises:
        FrameError: They have other frame rates, or end before the first frame.
        ImportError: The extra ``tiles`` is not installed.
    """
    views = [recording.frames]
    for other in others:
        found = read_recording(other)
        if recording.fps and found.fps and abs(found.fps / recording.fps - 1) > _SAME_RATE:
            raise FrameError(
                f"{other} has {found.fps:g} frames per second and {path} {recording.fps:g}: what is tiled has to be "
                "synchronised"
            )
        views.append(found.frames[recording.numbers[recording.numbers < len(found)]])
    frames = TiledFrames(views)[:]
    return replace(recording.beginning(len(frames)), frames=frames)


def _protocol(config: ScoreConfig) -> FrameProtocol | None:
    return parse_protocol(config.protocol) if config.protocol else None


def score(config: ScoreConfig, recording: Recording, model: RewardModel) -> Prediction:
    """Scores a recording, writes the results and shows a summary.

    Args:
        config: The task, how to score, and where to write.
        recording: The frames of ``config.video``.
        model: The model, whatever ``config.model`` says.

    Returns:
        One value per scored frame, see `robometer_rl.RewardModel.predict_steps`.
    """
    model.require("scoring a recording", progress=True)
    model.require_views("scoring a recording", tiled=bool(config.tile) or config.tiled)
    clip = Clip(recording.frames, config.task)
    console = open_console()
    with open_console(stderr=True).status(f"scoring {len(scored_steps(len(clip), config.every))} frames"):
        prediction = model.predict_steps([clip], _protocol(config), config.every)[0]
    threshold = RewardSpec().threshold(model.success_threshold)
    out = config.out or Path("outputs") / "score" / config.video.stem
    series = scored_series(config.task, recording, prediction, threshold)
    write_scores(out, config.video.name, recording, prediction, series)
    console.print(_summary(config.video.name, prediction, series.scores))
    console.print(f"prediction.npz, prediction.csv, curves.png and overlay.mp4 are in {out}", soft_wrap=True)
    console.print(f"see it: open {out / 'index.html'}", soft_wrap=True)
    return prediction


def scored_series(
    name: str, recording: Recording, prediction: Prediction, threshold: float, task: str | None = None, video: int = 0
) -> Series:
    """What was predicted of a recording, as it is drawn beside it.

    Args:
        name: What tells it from other series.
        recording: The frames that were scored.
        prediction: One value per scored frame.
        threshold: Of the success rule.
        task: The instruction; the name if None.
        video: Which of the replay's videos it is about.
    """
    return judged_series(
        name, prediction, len(recording), threshold, task, recording.numbers, recording.true_success, video
    )


def shown_seconds(recording: Recording) -> NDArray[np.float64]:
    """(T,) when a page shows each frame: as it was recorded, or at an even rate where that is not known."""
    if recording.times is not None:
        return recording.times - recording.times[0]
    return np.arange(len(recording)) / (recording.playback_fps or PLAYBACK_FPS)


def write_scores(out: Path, name: str, recording: Recording, prediction: Prediction, series: Series) -> None:
    """Writes what `ScoreConfig` promises.

    Args:
        out: Folder; it is made.
        name: Of the recording.
        recording: The frames that were scored.
        prediction: One value per scored frame.
        series: The same as it is drawn, see `scored_series`.
    """
    out.mkdir(parents=True, exist_ok=True)
    scores = series.scores
    prediction.save(out / "prediction.npz")
    seconds = recording.seconds
    is_scored = np.isin(recording.numbers, scores.numbers)
    scores.write_csv(out / "prediction.csv", None if seconds is None else seconds[is_scored])
    save_picture(_figure(prediction, scores, recording), out / "curves.png")
    overlay = overlay_frames(recording.frames, scores.hold(recording.numbers), recording.true_success)
    fps = recording.playback_fps or PLAYBACK_FPS
    write_video(out / "overlay.mp4", overlay, fps, recording.times)
    write_video(out / "video.mp4", reduced(recording.frames), fps, recording.times)
    video = Video(name, "video.mp4", shown_seconds(recording))
    facts = {
        "Model": f"{_model(prediction)}, {prediction.dtype}",
        "Frame protocol": f"{prediction.protocol}, {_interval(prediction.every)}",
        "Reward": "the change of progress since the scored frame before",
        "Instruction": scores.task,
    }
    lead = f"{name}, scored by {_model(prediction)}."
    page = render_page(scores.task, lead, [Replay(name, [series], [video])], facts)
    write_text(out / "index.html", page)


def _figure(prediction: Prediction, scores: EpisodeScores, recording: Recording) -> Image.Image:
    curves = [
        Curve("progress", scores.numbers, scores.progress, LIGHT.progress),
    ]
    if scores.success is not None:
        curves.append(Curve("success probability", scores.numbers, scores.success, LIGHT.success))
    mark = scores.success_frame
    label = "" if mark is None else f"success from frame {mark}"
    threshold = None if scores.success is None else scores.threshold
    runs = [] if recording.true_success is None else runs_of_true(recording.true_success)
    done = [(int(recording.numbers[first]), int(recording.numbers[end])) for first, end in runs]
    panel = Panel("Prediction", curves, threshold, mark, label, done)
    return draw_figure(scores.task, _origin(prediction), [panel])


def _origin(prediction: Prediction) -> str:
    return f"{_model(prediction)} · {prediction.protocol} · {_interval(prediction.every)} · {prediction.dtype}"


def _model(prediction: Prediction) -> str:
    return f"{prediction.model_id}@{prediction.revision}" if prediction.revision else prediction.model_id


def _interval(every: int) -> str:
    return "every frame" if every == 1 else f"every {every} frames"


def _summary(name: str, prediction: Prediction, scores: EpisodeScores) -> Table:
    progress, success, found = prediction.progress, prediction.success, scores.success_frame
    rule = f"probability >= {scores.threshold:.2f} on {RewardSpec().patience} consecutive scored frames"
    table = Table(title=f"{name}: {scores.task}", title_justify="left", show_header=False)
    table.add_column(style="dim")
    table.add_column()
    table.add_row("frames", f"{int(scores.numbers[-1]) + 1} in the file, {len(prediction)} scored")
    table.add_row("progress", f"first {progress[0]:.3f}, last {progress[-1]:.3f}, highest {progress.max():.3f}")
    if (spread := prediction.uncertainty) is not None:
        known = f"last ±{spread[-1]:.3f}, mean ±{spread.mean():.3f}, largest ±{spread.max():.3f}"
        table.add_row("uncertainty", known)
    if success is None:
        table.add_row("success", "this model says nothing of success")
    else:
        table.add_row("success", "never" if found is None else f"from frame {found}")
        table.add_row("success rule", rule)
        table.add_row("final probability", f"{success[-1]:.3f}")
    table.add_row("model", _model(prediction))
    table.add_row("protocol", f"{prediction.protocol}, {_interval(prediction.every)}")
    table.add_row("dtype", prediction.dtype)
    return table
