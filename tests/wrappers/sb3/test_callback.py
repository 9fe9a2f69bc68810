"""The callback on agents of Stable-Baselines3, in a world whose truth and looks are scripted by episode."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from robometer_rl.live import RunFolder
from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers import (
    AsyncVecRobometerReward,
    LabelledReplayBuffer,
    RenderToInfo,
    RobometerReward,
    VecRobometerReward,
)
from robometer_rl.wrappers.sb3.callback import RewardFarmingWarning, RewardHonestyCallback, evaluate_honesty
from tests.fixed_models import BrightnessModel
from tests.wrappers.worlds import TASK

STEPS = 3
LEVEL = RewardSpec(mode="level")


class Scripted(gym.Env[Any, Any]):
    """Shows ``brightness(episode)`` in all frames but the first and is done after the last step if ``done(episode)``.

    Episodes are counted over all environments that share a counter.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = spaces.Box(0, 10, (1,), np.float32)
    action_space = spaces.Discrete(2)
    render_mode = "rgb_array"

    def __init__(
        self, brightness: Callable[[int], int], done: Callable[[int], bool], counter: Any, says: bool = True
    ) -> None:
        self.brightness, self.done, self.counter, self.says = brightness, done, counter, says

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t, self.number = 0, next(self.counter)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        last = self.t == STEPS
        success = last and self.done(self.number)
        info = {"is_success": success} if self.says else {}
        return np.array([self.t], np.float32), float(success), False, last, info

    def render(self) -> Any:
        level = self.brightness(self.number) + int(self.np_random.integers(0, 9)) if self.t else 0
        return np.full((8, 8, 3), min(level, 255), np.uint8)


def paid(
    brightness: Callable[[int], int],
    done: Callable[[int], bool],
    says: bool = True,
    envs: int = 2,
    spec: RewardSpec = LEVEL,
) -> VecRobometerReward:
    counter = count()
    venv = DummyVecEnv([lambda: RenderToInfo(Monitor(Scripted(brightness, done, counter, says)))] * envs)
    return VecRobometerReward(venv, BrightnessModel(), TASK, spec)


def trained(venv: Any, callback: RewardHonestyCallback, episodes: int, folder: Path | None = None) -> PPO:
    agent = PPO("MlpPolicy", venv, n_steps=64, batch_size=128, n_epochs=1, policy_kwargs={"net_arch": [4]})
    agent.set_logger(configure(None, []) if folder is None else configure(str(folder), ["csv"]))
    agent.learn(episodes * STEPS, callback=callback)
    return agent


def test_an_agent_that_is_paid_ever_more_for_nothing_is_reported_once() -> None:
    venv = paid(brightness=lambda episode: min(20 + episode, 240), done=lambda episode: False)
    with pytest.warns(RewardFarmingWarning, match="seems to farm") as caught:
        trained(venv, RewardHonestyCallback(window=20), episodes=160)
    assert len(caught) == 1


def test_success_that_is_seen_where_there_is_none_is_reported_once() -> None:
    """Even where nothing rises: the agent was paid for nothing from the start."""
    venv = paid(brightness=lambda episode: 240, done=lambda episode: False)
    with pytest.warns(
        RewardFarmingWarning, match=r"took 100% of the last 20 episodes for successes, and none"
    ) as caught:
        trained(venv, RewardHonestyCallback(window=20), episodes=60)
    assert len(caught) == 1


def test_success_that_rises_too_is_no_reason_to_warn(tmp_path: Path) -> None:
    venv = paid(
        brightness=lambda episode: min(20 + 3 * episode, 240),
        done=lambda episode: 37 * episode % 100 < 2 * (episode - 20),
    )
    callback = RewardHonestyCallback(window=20, record=tmp_path / "honesty.jsonl")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RewardFarmingWarning)
        trained(venv, callback, episodes=160, folder=tmp_path)
    logged = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    assert set(logged) >= {"honesty/learned_return", "honesty/true_success_rate", "honesty/suspicious_windows"}
    entries = [json.loads(line) for line in (tmp_path / "honesty.jsonl").read_text().splitlines()]
    assert len(entries) >= 160
    # A level reward of the last three frames, each of the scripted brightness; two frames above sqrt(0.65) fire.
    for episode, entry in enumerate(entries[:60:2]):
        level = min(20 + 3 * 2 * episode, 240) / 255
        assert entry["kind"] == "episode"
        assert entry["learned_return"] == pytest.approx(STEPS * level, abs=STEPS * 12 / 255)
        assert entry["true_return"] == float(entry["true_success"])
        if abs(level - 0.65**0.5) > 0.05:
            assert entry["predicted_success"] == (level > 0.65**0.5)


def test_evaluations_are_of_the_number_of_episodes_asked_for(tmp_path: Path) -> None:
    venv = paid(lambda episode: 100, lambda episode: False)
    eval_env = paid(lambda episode: 250, lambda episode: episode % 2 == 0, envs=3)
    record = tmp_path / "honesty.jsonl"
    callback = RewardHonestyCallback(20, record, eval_env, eval_every=60, eval_episodes=7)
    trained(venv, callback, episodes=50)
    evaluations = [each for each in map(json.loads, record.read_text().splitlines()) if each["kind"] == "evaluation"]
    assert [each["step"] for each in evaluations] == [60, 120, 180, 240]
    for each in evaluations:
        assert each["episodes"] == 7
        assert each["predicted_success_rate"] == 1.0
        assert 0 < each["true_success_rate"] < 1
        assert each["false_positive_rate"] == 1.0
    found = evaluate_honesty(callback.model, eval_env, 1)
    assert found.episodes == 1
    assert np.isnan(found.return_correlation)


def test_a_record_goes_on_where_training_does(tmp_path: Path) -> None:
    record = tmp_path / "honesty.jsonl"
    venv = paid(lambda episode: 100, lambda episode: False)
    callback = RewardHonestyCallback(20, record)
    agent = trained(venv, callback, episodes=40)
    steps = [json.loads(line)["step"] for line in record.read_text().splitlines()]
    record.write_text(record.read_text() + json.dumps({"kind": "episode", "step": agent.num_timesteps + 6}) + "\n")
    agent.learn(2 * 64, callback=callback, reset_num_timesteps=False)
    after = [json.loads(line)["step"] for line in record.read_text().splitlines()]
    assert after[: len(steps)] == steps
    assert after == sorted(after)
    assert "learned_return" in json.loads(record.read_text().splitlines()[len(steps)])


def test_a_world_that_hides_the_truth_is_refused() -> None:
    venv = paid(lambda episode: 100, lambda episode: False, says=False)
    with pytest.raises(ValueError, match="does not say whether the task is done"):
        trained(venv, RewardHonestyCallback(), episodes=4)


def test_an_environment_without_learned_reward_is_refused() -> None:
    venv = DummyVecEnv([lambda: Monitor(Scripted(lambda episode: 100, lambda episode: False, count()))])
    with pytest.raises(ValueError, match="pays no learned reward"):
        trained(venv, RewardHonestyCallback(), episodes=4)
    agent = PPO("MlpPolicy", venv, n_steps=8, batch_size=8, policy_kwargs={"net_arch": [4]})
    with pytest.raises(ValueError, match="VecRobometerReward"):
        evaluate_honesty(agent, venv, 1)


def test_a_gamma_that_is_not_the_agents_is_warned_about() -> None:
    venv = paid(lambda episode: 100, lambda episode: False, spec=RewardSpec("potential", task_weight=1.0, gamma=0.9))
    with pytest.warns(UserWarning, match=r"discounts with gamma=0.99, the reward with RewardSpec\(gamma=0.9\)"):
        trained(venv, RewardHonestyCallback(), episodes=4)


@pytest.mark.parametrize("later", [False, True])
def test_rewards_that_arrive_later_are_looked_at_like_others(later: bool, tmp_path: Path) -> None:
    counter = count()
    inner = DummyVecEnv([lambda: RenderToInfo(Monitor(Scripted(lambda n: 20 * n, lambda n: n % 3 == 0, counter)))] * 2)
    kind = AsyncVecRobometerReward if later else VecRobometerReward
    venv = kind(inner, BrightnessModel(), TASK, LEVEL)
    callback = RewardHonestyCallback(record=tmp_path / "honesty.jsonl")
    buffer = LabelledReplayBuffer if later else None
    agent = DQN("MlpPolicy", venv, policy_kwargs={"net_arch": [4]}, replay_buffer_class=buffer, seed=0)
    agent.learn(2 * 8 * STEPS, callback=callback)
    venv.close()
    lines = [json.loads(line) for line in (tmp_path / "honesty.jsonl").read_text().splitlines()]
    assert [line["true_success"] for line in lines] == [number % 3 == 0 for number in range(16)]
    # Frames are 20 n bright, less a little, after the first of three steps and later.
    paid_for = [line["learned_return"] for line in lines]
    np.testing.assert_allclose(paid_for, STEPS * np.minimum(20 * np.arange(16) + 4, 255) / 255, atol=0.06)
    assert callback.outcomes[-1].true_return == 1.0


def test_a_record_may_be_named_by_a_text_and_lie_in_a_new_folder(tmp_path: Path) -> None:
    record = tmp_path / "runs" / "honesty.jsonl"
    venv = paid(lambda episode: 100, lambda episode: False)
    trained(venv, RewardHonestyCallback(20, str(record)), episodes=10)
    assert len(record.read_text().splitlines()) >= 10
    with pytest.raises(TypeError, match="PathLike"):
        RewardHonestyCallback(record=3)  # pyright: ignore[reportArgumentType]


def test_a_run_is_shown_while_it_learns_and_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "live")
    venv = paid(lambda episode: max(240 - 3 * episode, 20), lambda episode: episode % 4 == 0)
    callback = RewardHonestyCallback(100, live=folder.path)
    agent = trained(venv, callback, episodes=40)
    run, running = folder.read(), folder.running()
    assert run.over
    assert (run.environments, run.watched, run.unknown) == (2, 0, 0)
    assert run.episodes == len(callback.outcomes)
    failed = [outcome.learned_return for outcome in callback.outcomes if not outcome.true_success]
    best = sorted(failed, reverse=True)[:10]
    assert [failure.ended.paid for failure in run.failures] == pytest.approx(best)
    assert running is not None
    assert running.points[-1].steps == agent.num_timesteps
    # Going on, nothing is forgotten; going on from a save, what came later is.
    agent.learn(64, callback=callback, reset_num_timesteps=False)
    assert folder.read().failures == run.failures
    agent.num_timesteps = 12
    agent.learn(64, callback=callback, reset_num_timesteps=False)
    assert [f.key for f in run.failures if f.ended.steps <= 12] == [
        f.key for f in folder.read().failures if f.ended.steps <= 12
    ]
    assert 12 < max(failure.ended.steps for failure in folder.read().failures) <= agent.num_timesteps


def test_a_reward_wrapper_of_one_environment_is_shown_too(tmp_path: Path) -> None:
    counter = count()
    model = BrightnessModel()

    def make() -> Any:
        return RobometerReward(Monitor(Scripted(lambda n: 100, lambda n: False, counter)), model, TASK, LEVEL)

    trained(DummyVecEnv([make, make]), RewardHonestyCallback(20, live=tmp_path), episodes=10)
    run = RunFolder(tmp_path).read()
    assert (run.over, run.environments) == (True, 1)
    assert len(run.failures) == 10
