import numpy as np
import pytest

from robometer_rl.evaluation.plots import draw_curves, draw_ranking, draw_roc, write_plots
from robometer_rl.evaluation.scoring import ScoredEpisode, Scores
from robometer_rl.report.figures import LIGHT
from tests.data.episodes import make_episodes_of_two_tasks


def _scores(final=1.0):
    episodes = []
    for episode in make_episodes_of_two_tasks(2):
        progress = np.linspace(0.0, final if episode.skill == "expert" else 0.2, len(episode))
        episodes.append(ScoredEpisode(episode, progress, np.asarray(episode.success, float) * 0.9))
    return Scores(episodes, [], 0.5)


def _count(picture, color):
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.asarray(picture) == rgb).all(axis=-1).sum())


def test_every_skill_has_a_panel_worst_first():
    picture = draw_curves(_scores().episodes, "mini")
    one = draw_curves([each for each in _scores().episodes if each.episode.skill == "expert"], "mini")
    assert picture.height <= one.height, "panels stand beside each other"
    assert picture.width > one.width
    pixels = np.asarray(picture)
    left, right = np.split(pixels[:, : pixels.shape[1] // 2 * 2], 2, axis=1)
    top = slice(0, pixels.shape[0] // 2)
    assert _count(right[top], LIGHT.progress) > 0, "experts come high"
    assert _count(left[top], LIGHT.progress) == 0, "those who stop do not"


def test_cells_of_the_ranking_are_as_dark_as_progress_is_high():
    full, none = draw_ranking(_scores(1.0).episodes, "mini"), draw_ranking(_scores(0.0).episodes, "mini")
    assert full.size == none.size
    cell = _count(none, LIGHT.progress)  # the experts' true success
    assert _count(full, LIGHT.progress) > 3 * cell > 1000


def test_the_skill_that_ends_lowest_stands_first_whatever_its_outcomes() -> None:
    picture = np.asarray(draw_ranking(_scores(final=0.0).episodes, "mini"))
    columns = np.flatnonzero(
        (picture == [int(LIGHT.progress[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=-1).any(axis=0)
    )
    # The one full cell is in the row of true successes, below experts, who end at 0 and so stand on the left.
    assert columns.size > 0
    assert columns.max() < picture.shape[1] * 0.75


def test_the_roc_has_a_curve_per_condition():
    scores = {"recorded": _scores(), "jitter": _scores()}
    assert _count(draw_roc(scores, "mini"), LIGHT.series[1]) > 100
    assert _count(draw_roc({"recorded": _scores()}, "mini"), LIGHT.series[1]) == 0


def test_without_success_there_is_no_roc(tmp_path):
    failures = [each for each in _scores().episodes if each.episode.skill != "expert"]
    files = write_plots(tmp_path / "plots", {"recorded": Scores(failures, [], 0.5)}, "mini")
    assert sorted(path.name for path in files) == ["progress.png", "ranking.png"]
    assert all(path.is_file() for path in files)
    assert draw_roc({"recorded": Scores([], [], 0.5)}, "mini") is None


@pytest.mark.parametrize("draw", [draw_curves, draw_ranking])
def test_pictures_are_the_same_each_time(draw):
    assert draw(_scores().episodes, "mini").tobytes() == draw(_scores().episodes, "mini").tobytes()
