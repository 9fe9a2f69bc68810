"""What a run shows of itself: the curve that its wrapper paid, and the failures that were paid most."""

from __future__ import annotations

import io
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stable_baselines3.common.vec_env import DummyVecEnv

import robometer_rl
from robometer_rl.live import LiveEpisode, RunFolder
from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers import AsyncVecRobometerReward, RenderToInfo, RobometerReward
from robometer_rl.wrappers.tasks import TaskStages
from tests.fixed_models import BrightnessModel, PixelModel
from tests.wrappers.drivers import KINDS, Driver, Played, make_driver
from tests.wrappers.worlds import TASK, BrightnessWorld, NoiseEpisode, NoiseWorld

SIZE = 8


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is written at once, so that no test waits."""
    monkeypatch.setattr("robometer_rl.wrappers.episode_recorder._EVERY_S", 0.0)
    monkeypatch.setattr("robometer_rl.wrappers.episode_recorder._SHARE", np.inf)


def watched(kind: str, folder: Path, envs: int = 3, **options: Any) -> tuple[Driver, Any]:
    """What plays, and the wrapper that is watched."""
    driver = make_driver(kind, 1 if kind == "scalar" else envs, PixelModel(), RewardSpec(), size=SIZE)
    env = driver.env[0] if kind == "scalar" else driver.env
    env.record_live(folder, **options)
    return driver, env


def failures(driver: Driver) -> list[Played]:
    ended = [played for log in driver.log.values() for played in log if played.end is not None]
    failed = [played for played in ended if not NoiseEpisode(played.number, 9, SIZE).success]
    return sorted(failed, key=lambda played: -played.summary["return"])


def brightness(picture: bytes) -> float:
    return float(np.asarray(Image.open(io.BytesIO(picture))).mean())


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kind", KINDS)
def test_the_highest_paid_failures_are_kept_with_what_they_were_paid_for(kind: str, tmp_path: Path) -> None:
    driver, env = watched(kind, tmp_path, failures=3)
    driver.reset(seed=3)
    for _ in range(40):
        driver.step()
    folder = RunFolder(tmp_path)
    run, expected = folder.read(), failures(driver)
    ended = sum(played.end is not None for log in driver.log.values() for played in log)
    assert (run.episodes, run.unknown, run.over) == (ended, 0, False)
    assert len(expected) > 3
    assert [each.ended.paid for each in run.failures] == pytest.approx([p.summary["return"] for p in expected[:3]])
    assert sorted(path.stem for path in (tmp_path / "failures").iterdir()) == sorted(each.key for each in run.failures)
    for failure, played in zip(run.failures, expected[:3], strict=True):
        episode = folder.failure(failure.key)
        assert episode.ended == failure.ended
        assert episode.begun.tasks == [TASK]
        assert [point.step for point in episode.points] == list(range(len(played.rewards) + 1))
        progress = [played.reset_progress, *played.progress]
        assert [point.progress for point in episode.points] == pytest.approx(progress, abs=1e-6)
        assert [point.success for point in episode.points[1:]] == pytest.approx(played.success, abs=1e-6)
        paid = np.cumsum([0.0, *played.rewards])
        assert [point.paid for point in episode.points] == pytest.approx(paid, abs=1e-5)
        assert [point.achieved for point in episode.points] == [None, *[False] * len(played.rewards)]
        assert failure.detected == any(point.detected for point in episode.points)
    env.close()
    assert folder.read().over


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kind", KINDS)
def test_the_running_episode_is_that_of_the_chosen_environment(kind: str, tmp_path: Path) -> None:
    chosen = 0 if kind == "scalar" else 2
    driver, _ = watched(kind, tmp_path, environment=chosen)
    driver.reset(seed=5)
    seen = 0
    for _ in range(25):
        driver.step()
        episode = RunFolder(tmp_path).running()
        assert episode is not None
        played = driver.log[chosen][-1]
        if episode.ended is None and played.end is None:
            assert episode.begun.environment == chosen
            assert [point.step for point in episode.points] == list(range(len(played.rewards) + 1))
            assert episode.points[-1].progress == pytest.approx([played.reset_progress, *played.progress][-1], abs=1e-6)
            seen += 1
    assert seen > 5


@pytest.mark.usefixtures("always")
def test_rewards_that_arrive_later_are_shown_when_they_have(tmp_path: Path) -> None:
    venv = AsyncVecRobometerReward(DummyVecEnv([lambda: RenderToInfo(NoiseWorld())] * 2), PixelModel(), task=TASK)
    venv.record_live(tmp_path, environment=1)
    venv.reset()
    ended = 0
    for _ in range(30):
        _, _, dones, infos = venv.step(np.zeros(2, np.int64))
        infos[0]["robometer/pending"].claimed = True
        ended += int(dones.sum())
    venv.close()
    run, running = RunFolder(tmp_path).read(), RunFolder(tmp_path).running()
    assert (run.episodes, run.over) == (ended, True)
    assert running is not None
    assert running.begun.environment == 1


@pytest.mark.usefixtures("always")
def test_an_embedded_model_is_watched_in_a_small_world(tmp_path: Path) -> None:
    levels = (0, 60, 120, 180)
    env = RobometerReward(BrightnessWorld(levels, shape=(64, 64, 3)), robometer_rl.load_reward_model("mini"), TASK)
    env.record_live(tmp_path)
    _, info = env.reset()
    said = [info["robometer/reset_progress"]]
    said += [env.step(0)[4]["robometer/progress"] for _ in levels[1:]]
    episode = RunFolder(tmp_path).running()
    assert episode is not None
    assert episode.ended is not None
    assert [point.progress for point in episode.points] == pytest.approx(said, abs=1e-6)
    assert [brightness(point.picture) for point in episode.points] == pytest.approx(levels, abs=2)
    assert (episode.begun.model, episode.begun.protocol) == (env.model.model_id, str(env.model.default_protocol))
    assert episode.ended.achieved is True
    assert RunFolder(tmp_path).read().failures == ()


@pytest.mark.usefixtures("always")
def test_long_episodes_are_thinned_evenly_and_keep_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robometer_rl.wrappers.episode_recorder._MOST_POINTS", 16)
    env = RobometerReward(BrightnessWorld([3 * number for number in range(71)]), BrightnessModel(), TASK)
    env.record_live(tmp_path)
    env.reset()
    for step in range(1, 71):
        env.step(0)
        episode = RunFolder(tmp_path).running()
        assert episode is not None
        assert len(episode.points) <= 17
        steps = [point.step for point in episode.points]
        assert steps[:-1] == list(range(0, steps[-1], episode.interval))
        assert step - steps[-1] < episode.interval
    assert (steps[0], steps[-1], episode.interval) == (0, 70, 8)
    assert episode.ended is not None


def test_little_is_written_and_everything_at_the_end(tmp_path: Path) -> None:
    driver, env = watched("scalar", tmp_path)
    driver.reset(seed=0)
    before = RunFolder(tmp_path).read()
    for _ in range(50):
        driver.step()
    early = RunFolder(tmp_path).running()
    assert early is not None
    env.close()
    assert before.episodes == 0
    late = RunFolder(tmp_path).running()
    assert late is not None
    assert late.begun.steps > early.begun.steps
    assert len(RunFolder(tmp_path).read().failures) == min(10, len(failures(driver)))


def test_an_environment_that_says_nothing_of_success_has_no_failures(tmp_path: Path) -> None:
    class Silent(BrightnessWorld):
        def step(self, action: int) -> Any:
            return (*super().step(action)[:4], {})

    env = RobometerReward(Silent(), BrightnessModel(), TASK)
    env.record_live(tmp_path)
    env.reset()
    for _ in range(5):
        env.step(0)
    env.close()
    run = RunFolder(tmp_path).read()
    assert (run.episodes, run.unknown, run.failures) == (1, 1, ())


def test_several_cameras_are_side_by_side_and_large_pictures_small(tmp_path: Path) -> None:
    world = BrightnessWorld(shape=(480, 640, 3))
    env = RobometerReward(world, BrightnessModel(), TASK, frames=("render", "obs"))
    env.record_live(tmp_path)
    env.reset()
    env.close()
    episode = RunFolder(tmp_path).running()
    assert episode is not None
    assert Image.open(io.BytesIO(episode.points[0].picture)).size == (640, 240)


def test_stages_say_which_instruction_applies(tmp_path: Path) -> None:
    stages = TaskStages(("reach", "pull"))
    env = RobometerReward(
        BrightnessWorld([0, 255, 255, 255, 255, 255]), BrightnessModel(), stages, RewardSpec(patience=2)
    )
    env.record_live(tmp_path)
    env.reset()
    for _ in range(4):
        env.step(0)
    env.close()
    episode = RunFolder(tmp_path).running()
    assert episode is not None
    assert episode.begun.tasks == ["reach", "pull"]
    assert [point.stage for point in episode.points] == [0, 0, 0, 1, 1]


def play(env: Any, episodes: int) -> None:
    for _ in range(episodes):
        env.reset()
        over = False
        while not over:
            _, _, terminated, truncated, _ = env.step(0)
            over = terminated or truncated


class Failing(BrightnessWorld):
    """Pays more in every episode, and never succeeds."""

    def reset(self, **options: Any) -> Any:
        self.levels = [0, 0, 10 * self.resets + 10]
        return super().reset(**options)

    def step(self, action: int) -> Any:
        return (*super().step(action)[:4], {"success": False})


def failing(folder: Path, **options: Any) -> Any:
    env = RobometerReward(Failing(), BrightnessModel(), TASK)
    env.record_live(folder, **options)
    return env


def test_a_run_that_goes_on_forgets_what_comes_again_and_a_new_one_all(tmp_path: Path) -> None:
    env = failing(tmp_path)
    play(env, 5)
    env.close()
    folder = RunFolder(tmp_path)
    assert [failure.ended.steps for failure in folder.read().failures] == [10, 8, 6, 4, 2]
    # A save was made after six steps.
    env = failing(tmp_path, steps=6)
    assert [failure.ended.steps for failure in folder.read().failures] == [6, 4, 2]
    assert len(list((tmp_path / "failures").iterdir())) == 3
    assert folder.running() is None
    play(env, 1)
    env.close()
    assert sorted(failure.ended.steps for failure in folder.read().failures) == [2, 4, 6, 8]
    (tmp_path / "failures" / "notes.jsonl").write_text("of somebody else")
    failing(tmp_path)
    assert folder.read().failures == ()
    assert [path.name for path in (tmp_path / "failures").iterdir()] == ["notes.jsonl"]


@pytest.mark.usefixtures("always")
def test_watching_may_begin_in_the_middle_of_an_episode(tmp_path: Path) -> None:
    env = RobometerReward(BrightnessWorld(), BrightnessModel(), TASK)
    env.reset()
    env.step(0)
    env.record_live(tmp_path)
    _, _, _, _, info = env.step(0)
    episode = RunFolder(tmp_path).running()
    assert episode is not None
    assert [point.step for point in episode.points] == [2]
    assert episode.points[0].paid == pytest.approx(info["robometer/progress"])
    env.stop_live()
    env.step(0)
    assert RunFolder(tmp_path).running() == episode


@pytest.mark.usefixtures("always")
def test_a_folder_that_is_taken_away_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    env = failing(tmp_path / "live")
    play(env, 1)
    shutil.rmtree(tmp_path / "live")
    (tmp_path / "live").write_text("a file is in its place")
    with caplog.at_level(logging.ERROR):
        play(env, 3)
        env.close()
    assert [record.message for record in caplog.records] == [
        "the run cannot be shown from here on, and goes on without: see docs/studio.md"
    ]


@pytest.mark.parametrize("wrong", [{"environment": 1}, {"environment": -1}, {"failures": -1}, {"steps": -1}])
def test_wrong_numbers_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        failing(tmp_path, **wrong)


def test_what_a_killed_run_has_left_is_read(tmp_path: Path) -> None:
    env = failing(tmp_path)
    play(env, 2)
    env.close()
    path = tmp_path / "running.jsonl"
    whole = LiveEpisode.parse(path.read_text())
    path.write_text(path.read_text()[:-9])
    assert LiveEpisode.parse(path.read_text()).points == whole.points
