"""Pictures of an evaluation: progress by skill, the ROC of success, and final progress by task and skill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from robometer_rl.evaluation.calibration import SuccessCalibration
from robometer_rl.evaluation.measures import judged_episodes
from robometer_rl.evaluation.metrics import auroc, roc_curve
from robometer_rl.evaluation.ranking import QUALITY_RANKS
from robometer_rl.evaluation.scoring import ScoredEpisode, Scores
from robometer_rl.report.canvas import LIGHT, Box, Canvas, Theme, save_picture, shortened, text_width

__all__ = ["draw_calibration", "draw_curves", "draw_ranking", "draw_roc", "write_plots"]

_DENSITY: Final = 2
_MARGIN: Final = 24
_HEAD: Final = 64  # title and subtitle
_POINTS: Final = 101  # of a curve over an episode of any length
_TICKS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


def write_plots(folder: Path, scores: Mapping[str, Scores], model: str, theme: Theme = LIGHT) -> list[Path]:
    """Draws what there is to draw.

    Args:
        folder: Where the pictures go; it is made.
        scores: By condition, with ``recorded`` among them.
        model: Named in the pictures.
        theme: Colours.

    Returns:
        The files.
    """
    pictures = {
        "progress.png": draw_curves(scores["recorded"].episodes, model, theme),
        "ranking.png": draw_ranking(scores["recorded"].episodes, model, theme),
    }
    roc = draw_roc(scores, model, theme)
    if roc is not None:
        pictures["success.png"] = roc
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        save_picture(picture, folder / name)
    return [folder / name for name in pictures]


def draw_curves(episodes: Sequence[ScoredEpisode], model: str, theme: Theme = LIGHT) -> Image.Image:
    """Progress along the episodes of each skill: thin lines are episodes, the thick one is their mean."""
    groups = _by_skill(episodes)
    columns = min(len(groups), 4)
    rows = -(-len(groups) // columns)
    width, height = 250, 210
    canvas = Canvas(
        _MARGIN + columns * (width + _MARGIN), _HEAD + rows * (height + _MARGIN), theme.background, _DENSITY
    )
    _head(canvas, "Progress along the episodes of each skill", f"{model} · thin: episodes · thick: their mean", theme)
    for number, (skill, members) in enumerate(groups.items()):
        left = _MARGIN + (number % columns) * (width + _MARGIN)
        top = _HEAD + (number // columns) * (height + _MARGIN)
        axes = _axes(
            canvas,
            Box(left, top, left + width, top + height),
            f"{skill} ({len(members)})",
            "part of the episode",
            theme,
        )
        curves = np.stack([_resampled(scored.progress) for scored in members])
        for curve in curves:
            _curve(canvas, axes, np.linspace(0, 1, _POINTS), curve, _mixed(theme.progress, theme.surface, 0.25), 0.7)
        _curve(canvas, axes, np.linspace(0, 1, _POINTS), curves.mean(axis=0), theme.progress, 2.6)
    return canvas.finish()


def draw_roc(scores: Mapping[str, Scores], model: str, theme: Theme = LIGHT) -> Image.Image | None:
    """How many true successes are seen for how many false ones, over frames; None where all frames are alike."""
    curves: list[tuple[str, NDArray[Any], NDArray[Any]]] = []
    for condition, said in scores.items():
        _, probabilities, truths = judged_episodes(said.episodes)
        labels = np.concatenate(truths or [np.zeros(0, bool)])
        if labels.any() and not labels.all():
            values = np.concatenate(probabilities)
            curves.append((f"{condition}: AUROC {auroc(values, labels):.3f}", *roc_curve(values, labels)))
    return _draw_roc(
        curves, "Success of single frames", f"{model} · frames of episodes whose success was recorded", theme
    )


def draw_calibration(rules: Sequence[SuccessCalibration], model: str, theme: Theme = LIGHT) -> Image.Image:
    """In how many episodes success rules fire rightly and falsely, over thresholds; dots are the chosen ones.

    Args:
        rules: At most as many as a theme has colours; more are left out, the best are drawn.
        model: Named in the picture.
        theme: Colours.
    """
    drawn = list(rules)[: len(theme.series)]
    curves = [
        (
            f"patience {rule.patience}: threshold {rule.threshold:.3f}",
            *roc_curve(rule.evidence.scores, rule.evidence.labels),
        )
        for rule in drawn
    ]
    chosen = [(rule.false_positive_rate.value, rule.true_positive_rate.value) for rule in drawn]
    picture = _draw_roc(curves, "Success rules", f"{model} · episodes in which they fire", theme, chosen)
    assert picture is not None, "a rule is chosen from both classes"
    return picture


def _draw_roc(
    curves: Sequence[tuple[str, NDArray[Any], NDArray[Any]]],
    title: str,
    subtitle: str,
    theme: Theme,
    dots: Sequence[tuple[float, float]] = (),
) -> Image.Image | None:
    if not curves:
        return None
    side = 380
    canvas = Canvas(side + 2 * _MARGIN, side + _HEAD + _MARGIN, theme.background, _DENSITY)
    _head(canvas, title, subtitle, theme)
    box = Box(_MARGIN, _HEAD, _MARGIN + side, _HEAD + side)
    axes = _axes(canvas, box, "true positive rate", "false positive rate", theme)
    canvas.line([axes.at(0, 0), axes.at(1, 1)], theme.muted)
    for number, (label, false_rate, true_rate) in enumerate(curves):
        color = theme.series[number % len(theme.series)]
        _curve(canvas, axes, false_rate, true_rate, color, 2.4)
        height = axes.bottom - 14 - 18 * (len(curves) - 1 - number)
        left = axes.right - 10 - text_width(label, 12)
        canvas.line([(left - 24, height - 4), (left - 8, height - 4)], color, 2.6)
        canvas.text((left, height), label, theme.ink, size=12)
    for number, (false_rate, true_rate) in enumerate(dots):
        canvas.dot(axes.at(false_rate, true_rate), 5, theme.series[number % len(theme.series)])
    return canvas.finish()


def draw_ranking(episodes: Sequence[ScoredEpisode], model: str, theme: Theme = LIGHT) -> Image.Image:
    """Mean final progress by task and skill; a good model's rows grow from left to right."""
    skills = _by_skill(episodes)
    tasks = sorted({scored.task for scored in episodes})
    cell_width = min(140, max(74, round(max(text_width(skill, 11) for skill in skills)) + 14))
    cell_height = 24
    label_width = min(260.0, max(text_width(task, 12) for task in tasks) + 14)
    canvas = Canvas(
        round(2 * _MARGIN + label_width + len(skills) * cell_width),
        _HEAD + 34 + len(tasks) * cell_height + _MARGIN,
        theme.background,
        _DENSITY,
    )
    _head(canvas, "Final progress by task and skill", f"{model} · mean over episodes; worst skill first", theme)
    for column, (skill, members) in enumerate(skills.items()):
        left = _MARGIN + label_width + column * cell_width
        heading = shortened(skill, cell_width - 8, 11)
        canvas.text((left + cell_width / 2, _HEAD + 20), heading, theme.muted, size=11, anchor="ms")
        for row, task in enumerate(tasks):
            top = _HEAD + 30 + row * cell_height
            finals = [scored.final for scored in members if scored.task == task]
            _cell(canvas, Box(left, top, left + cell_width, top + cell_height), finals, theme)
    for row, task in enumerate(tasks):
        baseline = _HEAD + 30 + row * cell_height + 16
        canvas.text((_MARGIN, baseline), shortened(task, label_width - 10, 12), theme.ink, size=12)
    return canvas.finish()


def _by_skill(episodes: Sequence[ScoredEpisode]) -> dict[str, list[ScoredEpisode]]:
    """Episodes by skill, from the skill with the worst outcomes to the one with the best."""
    groups: dict[str, list[ScoredEpisode]] = {}
    for scored in episodes:
        groups.setdefault(str(scored.episode.skill), []).append(scored)

    def outcome(skill: str) -> tuple[float, str]:
        return float(np.mean([QUALITY_RANKS[scored.episode.quality_label] for scored in groups[skill]])), skill

    return {skill: groups[skill] for skill in sorted(groups, key=outcome)}


def _resampled(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.interp(np.linspace(0, 1, _POINTS), np.linspace(0, 1, len(values)), values)


def _head(canvas: Canvas, title: str, subtitle: str, theme: Theme) -> None:
    room = canvas.width - 2 * _MARGIN
    canvas.text((_MARGIN, 30), shortened(title, room, 17), theme.ink, size=17)
    canvas.text((_MARGIN, 49), shortened(subtitle, room, 11.5), theme.muted, size=11.5)


def _axes(canvas: Canvas, box: Box, title: str, x_label: str, theme: Theme) -> Box:
    """Axes from 0 to 1 both ways; returns the box between them."""
    axes = Box(box.left + 30, box.top + 26, box.right - 6, box.bottom - 34)
    canvas.text((axes.left, box.top + 16), shortened(title, axes.width, 12.5), theme.ink, size=12.5)
    canvas.rectangle(axes, fill=theme.surface)
    for value in _TICKS:
        left, height = axes.at(0, value)
        canvas.line([(left, height), (axes.right, height)], theme.grid)
        canvas.text((left - 6, height), f"{value:g}", theme.muted, size=10, anchor="rm")
        x, bottom = axes.at(value, 0)
        canvas.text((x, bottom + 6), f"{value:g}", theme.muted, size=10, anchor="mt")
    canvas.text(((axes.left + axes.right) / 2, axes.bottom + 20), x_label, theme.muted, size=10.5, anchor="mt")
    return axes


def _curve(canvas: Canvas, axes: Box, x: NDArray[Any], y: NDArray[Any], color: str, width: float) -> None:
    canvas.line([axes.at(float(a), float(b)) for a, b in zip(x, np.clip(y, 0, 1), strict=True)], color, width)


def _cell(canvas: Canvas, box: Box, finals: list[float], theme: Theme) -> None:
    inner = Box(box.left + 1, box.top + 1, box.right - 1, box.bottom - 1)
    if not finals:
        canvas.rectangle(inner, fill=theme.surface)
        return
    value = float(np.mean(finals))
    canvas.rectangle(inner, fill=_mixed(theme.progress, theme.surface, float(np.clip(value, 0, 1))))
    color = theme.background if value > 0.55 else theme.ink
    canvas.text(((box.left + box.right) / 2, box.bottom - 8), f"{value:.2f}", color, size=11.5, anchor="ms")


def _mixed(color: str, background: str, share: float) -> str:
    """``share`` of a colour over a background, as hexadecimal RGB."""
    pairs = zip(ImageColor.getrgb(color)[:3], ImageColor.getrgb(background)[:3], strict=True)
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)
