"""A training run while it steps: what the page says, and what it draws as the run goes on."""

from __future__ import annotations

import math
import os
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest

import robometer_rl
from robometer_rl.live import LIVE, RunFolder
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.studio.asking import Models
from robometer_rl.studio.episodes import Library
from robometer_rl.studio.live import Runs, replay_of, since
from robometer_rl.studio.material import Material
from robometer_rl.studio.notes import Notes
from robometer_rl.wrappers import RobometerReward, episode_recorder
from tests.fixed_models import BrightnessModel
from tests.studio.browsers import HOSTILE, Visit, answering, visiting
from tests.wrappers.worlds import BrightnessWorld


class Hopeless(BrightnessWorld):
    """Gets brighter with every step, and never says that the task is done."""

    def step(self, action: int) -> Any:
        return (*super().step(action)[:4], {"success": False})


def running(folder: Path, model: RewardModel | None = None, steps: int = 12, task: str = HOSTILE) -> Any:
    world = Hopeless([10 + 20 * number for number in range(steps + 1)], shape=(64, 64, 3))
    env = RobometerReward(world, model or BrightnessModel(), task)
    env.record_live(folder)
    return env


def play(env: Any, steps: int, pause: float = 0.0) -> None:
    for _ in range(steps):
        time.sleep(pause)
        env.step(0)


def test_what_was_paid_is_what_is_drawn(tmp_path: Path) -> None:
    env = running(tmp_path)
    _, info = env.reset()
    said, paid = [info["robometer/reset_progress"]], [0.0]
    for _ in range(12):
        info = env.step(0)[4]
        said.append(info["robometer/progress"])
        paid.append(info["robometer/reward"])
    env.close()
    episode = RunFolder(tmp_path).running()
    assert episode is not None
    replay = replay_of(episode, "a run")
    (series,) = replay.series
    assert series.scores.progress.tolist() == pytest.approx(said, abs=1e-6)
    assert series.rewards is not None
    assert series.rewards.tolist() == pytest.approx(paid, abs=1e-5)
    assert series.scores.threshold == pytest.approx(0.65)
    assert series.shown is not None
    assert series.shown[8].tolist() == np.rint(np.linspace(0, 8, 8)).astype(int).tolist()
    assert series.true_success is not None
    assert not series.true_success.any()
    assert len(replay.pictures) == 13
    assert f"paid {sum(paid):+.3f}, own reward 12.000; the task was not done" in replay.description


def test_runs_are_found_in_and_below_what_was_given(tmp_path: Path) -> None:
    for name in ("one/live", "two"):
        running(tmp_path / "runs" / name).close()
    assert Runs([tmp_path / "runs"]).names == ("runs/one/live", "runs/two")
    assert Runs([tmp_path / "runs" / "two"]).names == ("two",)
    runs = Runs([tmp_path / "absent", tmp_path / "runs"])
    assert runs.folder("runs/two").path == tmp_path / "runs" / "two"
    assert "into absent, runs yet" in runs.nothing()
    assert "--live FOLDER" in Runs(()).nothing()
    for wrong in ("runs/one", "runs/../../etc", "elsewhere", "absent"):
        with pytest.raises(ValueError, match=r"is not the folder of a training run|leads out of|is in none of"):
            runs.folder(wrong)


@pytest.mark.parametrize(
    ("seconds", "said"), [(-1, "0 s"), (59, "59 s"), (61, "1 min"), (7300, "2 h"), (1e6, "11 days")]
)
def test_times_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert since(seconds) == said


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("gradio")
    from robometer_rl.studio.app import application

    (tmp_path / "uploads").mkdir()
    models = Models({"brightness": BrightnessModel})
    material = Material((), tmp_path / "uploads")
    app = application(
        models, material, Library(()), Notes(tmp_path / "notes"), runs=Runs([tmp_path / "run", tmp_path / "other"])
    )
    with answering(app) as address:
        yield address


def says(visit: Visit, text: str) -> None:
    visit.page.locator("#live .live-line").get_by_text(text).first.wait_for()


def frames(visit: Visit, least: int) -> None:
    """Waits until the running episode has so many frames."""
    visit.page.wait_for_function(
        "least => +(document.querySelector('.live-running [role=slider]')?.getAttribute('aria-valuemax')) + 1 >= least",
        arg=least,
    )


@pytest.mark.slow
def test_the_curve_grows_while_a_run_steps_and_a_failure_is_listed_after_its_end(
    studio: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine writing takes long, and is put off in turn: until after the last step, with such a short run.
    monkeypatch.setattr(episode_recorder, "_SHARE", math.inf)
    with visiting(studio, ready="#live") as visit:
        says(visit, "No training run has written into run, other yet.")
        env = running(tmp_path / "run", robometer_rl.load_reward_model("mini"))
        env.reset()
        play(env, 3)
        says(visit, "The run goes on; it last wrote")
        replay = visit.page.locator("#live .live-running .replay")
        replay.get_by_text("Play").wait_for()
        assert HOSTILE in replay.inner_text()
        drawn = replay.locator("polyline").first.get_attribute("points") or ""
        slider = replay.get_by_role("slider")
        play(env, 5, pause=0.4)
        frames(visit, 6)
        assert len((replay.locator("polyline").first.get_attribute("points") or "").split()) > len(drawn.split())
        # The cursor stays at the end, and so does its picture.
        assert slider.get_attribute("aria-valuenow") == slider.get_attribute("aria-valuemax")
        visit.page.wait_for_function("document.querySelector('.live-running .replay-videos img').naturalWidth === 64")
        assert replay.get_by_text("What the model was shown for frame").count() == 1
        # Who looks at an earlier frame goes on to.
        slider.press("Home")
        visit.page.locator("#live .live-running img[alt='frame 0']").wait_for()
        play(env, 4, pause=1.1)
        frames(visit, 13)
        assert slider.get_attribute("aria-valuenow") == "0"
        assert "12 steps, paid" in replay.inner_text()
        button = visit.page.locator("#live .live-failures button").first
        button.click()
        opened = visit.page.locator("#live .live-opened .replay")
        opened.get_by_text("Play").wait_for()
        assert "the task was not done" in opened.inner_text()
        env.close()
        says(visit, "The run has ended; it last wrote")
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 1280


@pytest.mark.slow
def test_another_run_is_chosen_and_one_that_died_is_said_to_be_silent(studio: str, tmp_path: Path) -> None:
    for name in ("run", "other"):
        env = running(tmp_path / name, task=f"the task of {name}")
        env.reset()
        play(env, 12)
    earlier = time.time() - 3 * 3600
    for path in (tmp_path / "other").iterdir():
        os.utime(path, (earlier, earlier))
    with visiting(studio, 390, 800, ready="#live") as visit:
        says(visit, "The run goes on")
        visit.page.locator("#live").get_by_text("the task of run").first.wait_for()
        visit.page.locator("#live select").select_option("other")
        says(visit, "The run last wrote 3 h ago, and has not said that it ended")
        visit.page.locator("#live").get_by_text("the task of other").first.wait_for()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
        (tmp_path / "other" / LIVE).write_text("damaged")
        says(visit, "other/live.json is none of a run")
        (tmp_path / "other" / LIVE).unlink()
        says(visit, "other is not the folder of a training run (any longer)")


@pytest.mark.slow
def test_only_pictures_of_runs_are_given_out(studio: str, tmp_path: Path) -> None:
    env = running(tmp_path / "run")
    env.reset()
    env.close()
    episode = RunFolder(tmp_path / "run").running()
    assert episode is not None
    began = episode.begun.time

    def get(query: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"{studio}/live/picture?{query}") as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, b""

    of = f"run=run&key={episode.begun.key}&began={began}"
    assert get(f"{of}&step=0") == (200, episode.points[0].picture)
    for query in (
        f"{of}&step=5",
        f"run=run&key=../running&began={began}&step=0",
        f"run=../run&key={episode.begun.key}&began={began}&step=0",
        f"run=run&key={episode.begun.key}&began=1&step=0",
    ):
        assert get(query) == (204, b""), query
    assert get("run=run&step=x")[0] == 422
