"""After an error no wrapper pays a step of a broken episode, and after a reset all is well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv

from robometer_rl.frames import Clip, FrameError, TaskError
from robometer_rl.prediction import Prediction
from robometer_rl.rewards import RewardSpec
from robometer_rl.true_success import TrueSuccessError
from robometer_rl.wrappers import ActionChunk, AsyncVecRobometerReward, RenderToInfo, RobometerReward, TaskFromInfo
from robometer_rl.wrappers.guard import EpisodeGuard
from tests.fixed_models import PixelModel
from tests.wrappers.drivers import KINDS, check_log, make_driver
from tests.wrappers.worlds import TASK, NoiseWorld


class Fault(Exception):
    """What goes wrong in these tests."""


class Faults:
    """Goes wrong once, at the call of this number to something of this name."""

    def __init__(self) -> None:
        self.name, self.left = "", 0

    def plan(self, name: str, number: int) -> None:
        self.name, self.left = name, number

    def strikes(self, name: str) -> bool:
        self.left -= name == self.name
        return name == self.name and self.left == 0


FAULTS = Faults()


class FaultyWorld(NoiseWorld):
    """A world in which something goes wrong."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if FAULTS.strikes("before a reset"):
            raise Fault
        observation, info = super().reset(seed=seed)
        if FAULTS.strikes("after a reset"):
            raise Fault
        if FAULTS.strikes("task"):
            info["instruction"] = None
        return observation, info

    def step(self, action: int) -> Any:
        if FAULTS.strikes("before a step"):
            raise Fault
        observation, reward, terminated, truncated, info = super().step(action)
        if FAULTS.strikes("after a step"):
            raise Fault
        if FAULTS.strikes("success"):
            info["is_success"] = [True, False]
        if FAULTS.strikes("task reward"):
            reward = np.nan
        return observation, reward, terminated, truncated, info

    def render(self) -> Any:
        return None if FAULTS.strikes("frame") else super().render()


class FaultyModel(PixelModel):
    """A model that fails once."""

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        if FAULTS.strikes("model"):
            raise Fault
        if FAULTS.strikes("Ctrl-C in the model"):
            raise KeyboardInterrupt
        return super().predict(clips)


NAMES = (
    "before a reset",
    "after a reset",
    "task",
    "before a step",
    "after a step",
    "success",
    "task reward",
    "frame",
    "model",
    "Ctrl-C in the model",
)
ERRORS = (Fault, KeyboardInterrupt, FrameError, TaskError, TrueSuccessError, ValueError)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    name=st.sampled_from(NAMES),
    number=st.integers(1, 12),
    every=st.integers(1, 2),
    seed=st.integers(0, 1000),
    ends=st.booleans(),
)
def test_a_broken_episode_needs_a_reset(kind: str, name: str, number: int, every: int, seed: int, ends: bool) -> None:
    spec = RewardSpec(task_weight=0.5, every=every, success_threshold=0.7, terminate_on_success=ends, patience=1)
    model = FaultyModel()
    task = TaskFromInfo("instruction")
    driver = make_driver(kind, 2, model, spec, task=task, world=FaultyWorld)
    FAULTS.plan(name, number)
    actions: list[Callable[[], None]] = [lambda: driver.reset(seed=seed), *[driver.step] * 30]
    for act in actions:
        try:
            act()
        except ERRORS:
            break
    else:
        reject()  # it was planned for later
    for _ in range(2):
        with pytest.raises(ResetNeeded, match=r"call reset\(\)"):
            driver.step()
    if kind in ("next_step", "same_step", "disabled"):
        with pytest.raises(ResetNeeded, match="must reset all environments"):
            driver.env.reset(options={"reset_mask": np.array([True, False])})
    driver.reset(seed=seed + 1)
    for _ in range(15):
        driver.step()
    for played in driver.log.values():
        # The step that failed may have begun an episode which nobody was told of.
        played[:] = [episode for episode in played if episode.rewards or episode is played[-1]]
    assert check_log(driver, PixelModel(), spec, task=None) > 0


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("name", ["before a step", "after a step", "frame", "after a reset"])
def test_a_chunk_that_broke_needs_a_reset(name: str, outside: bool) -> None:
    model = PixelModel()
    inside = FaultyWorld() if outside else ActionChunk(FaultyWorld(), 3)
    env: Any = RobometerReward(inside, model, TASK)
    env = ActionChunk(env, 3) if outside else env
    FAULTS.plan(name, 2)
    chunk = [0, 0, 0]
    with pytest.raises((Fault, FrameError, ResetNeeded)):  # noqa: PT012
        env.reset(seed=3)
        env.step(chunk)
        env.reset()
        env.step(chunk)
    with pytest.raises(ResetNeeded):
        env.step(chunk)
    env.reset()
    env.step(chunk)


@pytest.mark.parametrize("make", [lambda env: RenderToInfo(env), lambda env: ActionChunk(env, 1)])
def test_wrappers_in_workers_need_it_too(make: Callable[[Any], Any]) -> None:
    env, action = make(FaultyWorld()), [0]
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(action)
    env.reset(seed=0)
    for name in ("after a reset", "before a step"):
        FAULTS.plan(name, 1)
        with pytest.raises(Fault):  # noqa: PT012
            env.reset()
            env.step(action)
        with pytest.raises(ResetNeeded, match="call reset"):
            env.step(action)
        env.reset()
    env.step(action)


def test_what_fails_where_steps_are_made_needs_a_reset_though_rewards_come_later() -> None:
    env = AsyncVecRobometerReward(DummyVecEnv([lambda: RenderToInfo(FaultyWorld())]), PixelModel(), TASK)
    env.reset()
    FAULTS.plan("frame", 1)
    with pytest.raises(FrameError, match="got one frame of shape"):
        env.step(np.zeros(1, np.int64))
    for _ in range(2):
        with pytest.raises(ResetNeeded, match="the last step"):
            env.step(np.zeros(1, np.int64))
    env.reset()
    _, _, _, infos = env.step(np.zeros(1, np.int64))
    assert np.isfinite(infos[0]["robometer/pending"].wait()).all()
    env.close()


class TestEpisodeGuard:
    def test_before_the_first_reset(self) -> None:
        with pytest.raises(ResetNeeded, match="call reset"):
            EpisodeGuard().require_whole()

    def test_the_first_reset_must_be_of_everything(self) -> None:
        guard = EpisodeGuard()
        with pytest.raises(ResetNeeded, match="must reset all environments"), guard.resetting(everything=False):
            pytest.fail("nothing is reset")
        with guard.resetting():
            pass
        with guard.resetting(everything=False):
            pass
        guard.require_whole()

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_an_error_is_passed_on_and_remembered(self, error: type[BaseException]) -> None:
        guard = EpisodeGuard()
        with guard.resetting():
            pass
        with pytest.raises(error), guard.stepping():
            raise error
        with pytest.raises(ResetNeeded, match=r"the last step\(\) failed"):
            guard.require_whole()
        with pytest.raises(error), guard.resetting():
            raise error
        with pytest.raises(ResetNeeded, match=r"the last reset\(\) failed"), guard.stepping():
            pytest.fail("no step is made")
