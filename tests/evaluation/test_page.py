from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robometer_rl.evaluation.evaluate import EvaluateConfig, evaluate
from robometer_rl.evaluation.metrics import Estimate
from robometer_rl.evaluation.page import episode_series, metric_rows, write_ranking_page
from robometer_rl.evaluation.policies import rank_policies, typical_episodes
from robometer_rl.evaluation.scoring import Scoring, score_episodes
from robometer_rl.frames import NestedFrames
from robometer_rl.video import read_recording
from tests.data.episodes import make_episodes_of_two_tasks
from tests.evaluation.test_evaluate import Clock, Oracle
from tests.report.test_replay import Elements


def sections(page: Path) -> list[dict[str, Any]]:
    found = Elements(page.read_text()).all("section")
    return [{"key": each["data-key"], **json.loads(each["data-replay"] or "")} for each in found]


def test_an_evaluation_ends_with_a_page_of_its_worst_episodes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    episodes = make_episodes_of_two_tasks(2)
    config = EvaluateConfig("clock", tmp_path, output=tmp_path / "found.json", page=6, pairs=0)
    evaluate(config, Clock(), episodes)
    page = tmp_path / "found" / "index.html"
    assert f"open {page}" in capsys.readouterr().out.replace("\n", "")
    text = page.read_text()
    assert "The verdict on 8 episodes is red" in text
    assert "success_above_failure" in text
    shown = sections(page)
    assert len(shown) == 6
    assert len(list(page.parent.glob("*.mp4"))) == 6
    skills = [each["key"].split("-")[1] for each in shown]
    assert skills[0] == "expert", "a clock of 40 frames is farthest from the success of experts after a dozen"
    ends = [abs(each["series"][0]["progress"][-1] - each["series"][0]["trueProgress"][-1]) for each in shown]
    assert ends[:4] == sorted(ends[:4], reverse=True)


def test_a_replay_shows_all_that_is_known_of_an_episode(tmp_path: Path) -> None:
    config = EvaluateConfig(
        "oracle", tmp_path, output=tmp_path / "found.json", every=2, conditions=("jitter",), pairs=0
    )
    evaluate(config, Oracle(), make_episodes_of_two_tasks(1))
    shown = {each["key"]: each for each in sections(tmp_path / "found" / "index.html")}
    expert = shown["push-expert-0"]
    recorded, jitter = expert["series"]
    assert [recorded["name"], jitter["name"]] == ["recorded", "jitter"]
    assert recorded["steps"] == [0, 2, 4, 6, 8, 10, 11]
    assert recorded["trueSuccess"] == [[9, 11]]
    assert len(recorded["trueProgress"]) == 12
    assert recorded["fires"] == 11, "on two scored frames that follow each other"
    assert recorded["shown"][2] == [0, 2, 4, 4]
    assert jitter["shown"] is None, "its frames are not those of the video"
    (video,) = expert["videos"]
    assert len(read_recording(tmp_path / "found" / video["address"])) == 12


def test_no_page_is_written_where_none_is_wanted(tmp_path: Path) -> None:
    config = EvaluateConfig("oracle", tmp_path, output=tmp_path / "found.json", page=0, pairs=0)
    evaluate(config, Oracle(), make_episodes_of_two_tasks(1))
    assert not (tmp_path / "found" / "index.html").exists()


def test_what_no_condition_has_is_no_row() -> None:
    none = Estimate(np.nan, np.nan, np.nan, 0)
    rows = metric_rows(
        {
            "recorded": {"a": Estimate(0.5, 0.25, 0.75, 4), "b": none, "c": Estimate(1.0, np.nan, np.nan, 2)},
            "jitter": {"a": none},
        }
    )
    assert rows == [("a", "0.500 (0.250 to 0.750)", "4", "", ""), ("c", "1.000", "2", "", "")]


def test_policies_stand_under_one_cursor_before_the_episodes_that_are_ranked_most_wrongly(tmp_path: Path) -> None:
    episodes = [
        replace(each, skill=f"policy {number % 7}") for number, each in enumerate(make_episodes_of_two_tasks(4))
    ]
    scores = score_episodes(Clock(), episodes, Scoring(NestedFrames(4), pairs=0, controls=False))
    names = [str(each.skill) for each in episodes]
    finals = [each.final for each in scores.episodes]
    ranking = rank_policies(names, finals, [each.successful for each in scores.episodes], resamples=20)
    typical = {name: scores.episodes[place] for name, place in typical_episodes(names, finals).items()}
    page = write_ranking_page(tmp_path, "seven", ranking, typical, scores, "nested(4)", {"Model": "clock"})
    together, *alone = sections(page)
    assert len(together["series"]) == len(together["videos"]) == 6, "as many as there are colours"
    shown = [series["name"] for series in together["series"]]
    assert shown[0] == ranking.policies[0].name
    assert shown[-1] == ranking.policies[-1].name
    assert [series["video"] for series in together["series"]] == list(range(6))
    assert len(alone) == 16
    first = next(each for each in scores.episodes if each.episode.id == alone[0]["key"])
    gaps = [episode_series("", each, scores, "given").disagreement for each in scores.episodes]
    assert episode_series("", first, scores, "given").disagreement == max(gap for gap in gaps if gap is not None)
