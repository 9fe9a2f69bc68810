from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robometer_rl.evaluation.evaluate import EvaluateConfig, evaluate
from robometer_rl.evaluation.metrics import Estimate
from robometer_rl.evaluation.page import PolicyEpisode, metric_rows, write_ranking_page
from robometer_rl.evaluation.policies import rank_policies, typical_episodes
from robometer_rl.frames import Clip
from robometer_rl.video import read_recording
from tests.data.episodes import make_episodes_of_two_tasks
from tests.evaluation.test_evaluate import Clock, Oracle
from tests.fixed_models import BrightnessModel
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
    assert recorded["shown"][2] == [0, 2, 4, -1], "what is repeated as padding was not seen again"
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


@pytest.mark.parametrize("is_known", [True, False])
def test_policies_stand_under_one_cursor_before_the_episodes_that_are_ranked_most_wrongly(
    tmp_path: Path, is_known: bool
) -> None:
    model = BrightnessModel()
    episodes = []
    for number in range(14):
        levels = np.linspace(0, 17 * number, 5).astype(np.uint8)
        clip = Clip(np.tile(levels[:, None, None, None], (1, 16, 16, 3)), "light the lamp")
        (said,) = model.predict_steps([clip])
        succeeds = number % 3 == 0 if is_known else None
        episodes.append(PolicyEpisode(f"run {number}", f"policy {number % 7}", clip, said, succeeds))
    names, finals = [each.policy for each in episodes], [float(each.said.progress[-1]) for each in episodes]
    truths = [bool(each.succeeds) for each in episodes] if is_known else None
    ranking = rank_policies(names, finals, truths, resamples=20)
    typical = {name: episodes[place] for name, place in typical_episodes(names, finals).items()}
    page = write_ranking_page(tmp_path, "seven", ranking, typical, episodes, 0.65, {"Model": "brightness"})
    together, *alone = sections(page)
    assert len(together["series"]) == len(together["videos"]) == 6, "as many as there are colours"
    shown = [series["name"] for series in together["series"]]
    assert (shown[0], shown[-1]) == (ranking.policies[0].name, ranking.policies[-1].name)
    assert [series["video"] for series in together["series"]] == list(range(6))
    assert [each["key"] for each in alone] == [each.name for each in episodes], "in the order that was asked for"
    assert ("tau_a with true success" in page.read_text()) == is_known
    first = Elements(page.read_text()).text.split("run 0", 1)[1]
    assert ("policy 01.00success0.00never" in first) == is_known, "the darkest is a success: farther off none can be"
