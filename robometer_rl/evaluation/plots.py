"""Pictures of an evaluation: progress by skill, the ROC of success, and final progress by task and skill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robometer_rl.evaluation.calibration import SuccessCalibration
from robometer_rl.evaluation.measures import judged_episodes
from robometer_rl.evaluation.metrics import auroc, roc_curve
from robometer_rl.evaluation.scoring import ScoredEpisode, Scores
from robometer_rl.report.figures import (
    LIGHT,
    MARGIN,
    Key,
    Theme,
    dodge,
    fitted,
    house_style,
    name_lines,
    new_figure,
    panels,
    place_axes,
    points,
    rendered,
    save_picture,
    text_width,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_calibration", "draw_cells", "draw_curves", "draw_ranking", "draw_roc", "write_plots"]

_POINTS: Final = 101  # of a curve over an episode of any length
_TICKS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
_ROW: Final = 26  # height of a cell


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
    subtitle = f"{model} · thin: episodes · thick: their mean · worst skill first, by the mean at the end"
    time = np.linspace(0, 1, _POINTS)
    with house_style(theme):
        size = (250 if columns > 1 else 432, 215)
        figure, places = panels(
            "Progress along the episodes of each skill",
            subtitle,
            -(-len(groups) // columns),
            columns,
            size,
            theme,
            "part of the episode",
        )
        for axes in places[len(groups) :]:
            axes.remove()
        for axes, (skill, members) in zip(places, groups.items(), strict=False):
            _unit_square(axes)
            title = f"{skill} ({len(members)}): {_mean([scored.final for scored in members]):.2f}"
            axes.set_title(fitted(title, axes.bbox.width / 2, 12.5))
            curves = np.clip(np.stack([_resampled(scored.progress) for scored in members]), 0, 1)
            axes.plot(time, curves.T, color=theme.progress, alpha=0.25, linewidth=points(0.8), clip_on=False)
            axes.plot(time, curves.mean(axis=0), color=theme.progress, linewidth=points(2.6), clip_on=False)
        return rendered(figure)


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
    with house_style(theme):
        size = (440, 432)
        figure, (axes,) = panels(
            title, subtitle, 1, 1, size, theme, "false positive rate", "true positive rate", titled=False
        )
        _unit_square(axes)
        axes.plot([0, 1], [0, 1], color=theme.muted, linewidth=points(1), dashes=(4, 4))
        colors = [theme.series[number % len(theme.series)] for number in range(len(curves))]
        for number, ((_, false_rate, true_rate), color) in enumerate(zip(curves, colors, strict=True)):
            place = dodge(axes, number, len(curves), slope=True)
            axes.plot(false_rate, true_rate, color=color, transform=place, clip_on=False)
        for number, (dot, color) in enumerate(zip(dots, colors, strict=bool(dots))):
            place = dodge(axes, number, len(curves), slope=True)
            axes.plot(
                *dot, "o", color=color, transform=place, ms=points(11), mec=theme.surface, clip_on=False, zorder=3
            )
        name_lines(axes, [Key(label, color) for (label, _, _), color in zip(curves, colors, strict=True)], inside=True)
        return rendered(figure)


def draw_ranking(episodes: Sequence[ScoredEpisode], model: str, theme: Theme = LIGHT) -> Image.Image:
    """Mean final progress by task and skill, the skill that ends lowest first.

    The last rows have the mean of all episodes, by which skills are sorted, and how many of them truly succeed: of a
    good model that grows from left to right, too.
    """
    skills = _by_skill(episodes)
    tasks = sorted({scored.task for scored in episodes})
    means = [
        [_mean([scored.final for scored in members if scored.task == task]) for members in skills.values()]
        for task in tasks
    ]
    means.append([_mean([scored.final for scored in members]) for members in skills.values()])
    means.append([_mean([scored.successful for scored in members]) for members in skills.values()])
    names = [*tasks, "all of these", "part of true successes"]
    wide = min(150, max(76, round(max(text_width(skill, 10.5) for skill in skills)) + 16))
    label_width = min(280.0, max(text_width(name, 11.5) for name in names) + 14)
    width = max(440.0, 2 * MARGIN + label_width + len(skills) * wide)
    with house_style(theme):
        subtitle = f"{model} · mean over episodes · worst skill first, by all of its episodes"
        figure, top = new_figure(
            "Final progress by task and skill", subtitle, (width, 30 + len(names) * _ROW + 12), theme
        )
        axes = place_axes(figure, MARGIN + label_width, top + 30, len(skills) * wide, len(names) * _ROW)
        draw_cells(axes, np.array(means), theme)
        axes.set_xticks(np.arange(len(skills)) + 0.5, [fitted(skill, wide - 8, 10.5) for skill in skills])
        axes.set_yticks(np.arange(len(names)) + 0.5, [fitted(name, label_width - 10, 11.5) for name in names])
        axes.axhline(len(tasks), color=theme.muted, linewidth=points(1))
        axes.tick_params("x", labelsize=points(10.5), length=0, top=False, labeltop=True, labelbottom=False)
        axes.tick_params("y", labelsize=points(11.5), labelcolor=theme.ink, pad=points(label_width))
        for label in axes.get_yticklabels():
            label.set_horizontalalignment("left")
        return rendered(figure)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def draw_cells(axes: Axes, values: NDArray[np.float64], theme: Theme) -> None:
    """Cells as dark as their values in [0, 1] are high; NaN leaves one empty."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("progress", [theme.surface, theme.progress]).with_extremes(
        bad=theme.surface
    )
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    shown = np.ma.masked_invalid(np.clip(values, 0, 1))
    axes.pcolormesh(shown, cmap=shades, vmin=0, vmax=1, edgecolors=theme.background, linewidth=points(2))
    axes.invert_yaxis()
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            color = theme.background if value > 0.55 else theme.ink
            place = (column + 0.5, row + 0.53)
            axes.text(*place, f"{value:.2f}", color=color, fontsize=points(11), ha="center", va="center")


def _unit_square(axes: Axes) -> None:
    """From 0 to 1 both ways, with room for lines along the edges."""
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.03, 1.03), xticks=_TICKS, yticks=_TICKS)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")


def _by_skill(episodes: Sequence[ScoredEpisode]) -> dict[str, list[ScoredEpisode]]:
    """Episodes by skill, from the skill whose mean final progress is lowest to the one where it is highest."""
    groups: dict[str, list[ScoredEpisode]] = {}
    for scored in episodes:
        groups.setdefault(str(scored.episode.skill), []).append(scored)
    return dict(sorted(groups.items(), key=lambda group: (_mean([scored.final for scored in group[1]]), group[0])))


def _resampled(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.interp(np.linspace(0, 1, _POINTS), np.linspace(0, 1, len(values)), values)
