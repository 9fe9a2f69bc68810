from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robometer_rl.evaluation.published.answers import answerers
from robometer_rl.evaluation.published.commands import (
    AlignmentConfig,
    ConfusionConfig,
    PreferenceConfig,
    PublishedConfig,
    RankingConfig,
    judge_stores,
)
from robometer_rl.evaluation.published.judging import judge
from robometer_rl.evaluation.published.matrices import Matrix, draw_matrix
from robometer_rl.evaluation.published.page import write_published_page
from robometer_rl.evaluation.published.questions import Dataset, Drawing
from robometer_rl.models.controls import load
from robometer_rl.video import read_recording
from tests.data.episodes import make_episodes_of_two_tasks
from tests.evaluation.published.recorded import PixelReader
from tests.evaluation.test_page import sections
from tests.report.test_replay import Elements

EPISODES = Dataset(("made up",), tuple(make_episodes_of_two_tasks(2)))


class Comparing(PixelReader):
    """Compares, and has no idea of progress."""

    has_progress = False
    has_success = False


def judged(config: PublishedConfig, tmp_path: Path) -> tuple[list[dict[str, Any]], str]:
    """The replays of the page, and its text."""
    (one,) = judge_stores(config, PixelReader(), [EPISODES])
    page = tmp_path / "index.html"
    text = Elements(page.read_text()).text
    assert "pixel-reader, frames shuffled" in text, "controls stand beside the model"
    assert "Legacy, as the reference computes it" in text
    assert f"{one.name}: " in text
    pictures = [each["srcset"].split()[0] for each in Elements(page.read_text()).all("img")]  # pyright: ignore[reportOptionalMemberAccess]
    assert pictures == [one.picture]
    assert (tmp_path / one.picture).is_file()
    shown = sections(page)
    for replay in shown:
        for video in replay["videos"]:
            assert len(read_recording(tmp_path / video["address"])) == len(video["seconds"])
    return shown, text


def test_alignment_shows_answers_beside_the_truth_the_worst_first(tmp_path: Path) -> None:
    shown, text = judged(AlignmentConfig("m", (tmp_path,), output=tmp_path, controls=True), tmp_path)
    assert "Corrected, with 95 % intervals" in text
    errors = []
    for replay in shown:
        (series,) = replay["series"]
        truth = np.array(series["trueProgress"])[series["steps"]]
        errors.append(np.mean((np.array(series["progress"]) - truth) ** 2))
        assert series["shown"][0] == series["steps"], "the whole clip was shown at once"
    assert errors == sorted(errors, reverse=True)
    assert len(shown) == 4


def test_prefixes_are_one_curve_with_what_was_shown_for_each(tmp_path: Path) -> None:
    shown, _ = judged(AlignmentConfig("m", (tmp_path,), output=tmp_path, prefixes=3), tmp_path)
    for replay in shown:
        (series,) = replay["series"]
        assert len(series["steps"]) == 3
        assert series["steps"][0] == 0
        assert series["shown"][0] == [0] + [-1] * 7
        assert [max(row) for row in series["shown"]] == series["steps"]


def test_ranking_shows_the_pairs_that_are_in_the_wrong_order_first(tmp_path: Path) -> None:
    shown, _ = judged(RankingConfig("m", (tmp_path,), output=tmp_path, page=3), tmp_path)
    assert len(shown) == 3
    gaps = []
    for replay in shown:
        better, worse = replay["series"]
        assert (better["video"], worse["video"], len(replay["videos"])) == (0, 1, 2)
        assert better["name"].startswith("better (successful")
        gaps.append(better["progress"][-1] - worse["progress"][-1])
    assert gaps == sorted(gaps)


def test_confusion_shows_a_video_under_its_own_instruction_and_the_worst_other(tmp_path: Path) -> None:
    shown, text = judged(ConfusionConfig("m", (tmp_path,), output=tmp_path), tmp_path)
    margins = []
    for replay in shown:
        own, other = replay["series"]
        assert own["name"] == f"own: {own['task']}"
        assert {own["task"], other["task"]} == {"push the block", "pull the rope"}
        margins.append(own["progress"][-1] - other["progress"][-1])
    assert margins == sorted(margins)
    said = json.loads((tmp_path / "evaluation.json").read_text())
    assert said["schema_version"] == 1
    assert said["evaluations"][0]["matrix"]["rows"] == ["pull the rope", "push the block"]
    assert "mean progress of videos (columns) under instructions (rows)" in text


def test_preference_shows_pairs_with_the_progress_that_is_seen_in_them(tmp_path: Path) -> None:
    shown, text = judged(PreferenceConfig("m", (tmp_path,), output=tmp_path, pairs=3, page=2), tmp_path)
    assert [len(replay["series"]) for replay in shown] == [2, 2]
    assert "Right, better one first" in text


def test_a_model_without_progress_has_a_page_without_curves(tmp_path: Path) -> None:
    config = PreferenceConfig("m", (tmp_path,), output=tmp_path, pairs=3, controls=False)
    judge_stores(config, Comparing(), [EPISODES])
    page = tmp_path / "index.html"
    assert sections(page) == []
    assert "pixel-reader sees no progress" in page.read_text()


def test_no_page_is_written_where_none_is_wanted(tmp_path: Path) -> None:
    judge_stores(RankingConfig("m", (tmp_path,), output=tmp_path, page=0), load("clock"), [EPISODES])
    assert (tmp_path / "evaluation.json").exists()
    assert not (tmp_path / "index.html").exists()
    with pytest.raises(ValueError, match="page must be at least 0"):
        RankingConfig("m", (tmp_path,), page=-1)


def test_several_sets_stand_on_one_page(tmp_path: Path) -> None:
    asked = answerers([PixelReader()], None, controls=False)
    sets = [Dataset((name,), EPISODES.episodes) for name in ("one", "two")]
    found = [judge("confusion", each, Drawing(), asked) for each in sets]
    for each in found:
        (tmp_path / each.picture).parent.mkdir(exist_ok=True)
    page = write_published_page(tmp_path, found, asked[0], {"Model": "m"}, 200)
    sets = [replay["key"].split(": ")[0] for replay in sections(page)]
    assert sets.count("one") == sets.count("two") > 0


def test_a_matrix_says_what_was_not_asked_and_is_drawn_with_its_names() -> None:
    matrix = Matrix(
        "about", ["a long name of a task", "b"], ["x", "y", "z"], np.array([[0.1, np.nan, 1], [0, 0.5, 0.7]])
    )
    assert matrix.as_dict()["values"] == [[0.1, None, 1.0], [0.0, 0.5, 0.7]]
    picture = draw_matrix(matrix, "title")
    assert picture.width >= 1000
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 50
