"""Algorithms and the rewards of their environments: what goes together, and what is refused or warned about."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FilterObservation, FlattenObservation
from stable_baselines3 import DQN, PPO, HerReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize

from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers import (
    ActionChunk,
    AsyncVecRobometerReward,
    LabelledReplayBuffer,
    RobometerReward,
    VecRobometerReward,
    check_algorithm,
)
from tests.fixed_models import PixelModel
from tests.wrappers.worlds import TASK, NoiseWorld

MODEL = PixelModel()
POTENTIAL = RewardSpec(mode="potential", gamma=0.99, task_weight=1.0)


def world() -> gym.Env[Any, Any]:
    return FlattenObservation(FilterObservation(NoiseWorld(), ["state"]))


def paid(
    spec: RewardSpec = POTENTIAL, kind: type[VecRobometerReward] = VecRobometerReward, venv: VecEnv | None = None
) -> VecRobometerReward:
    return kind(venv or DummyVecEnv([world]), MODEL, TASK, spec, "info/wrist")


def scalar(chunk: int | None = None) -> RobometerReward | ActionChunk[Any, Any]:
    env = RobometerReward(world(), MODEL, TASK, POTENTIAL)
    return env if chunk is None else ActionChunk(env, chunk, gamma=0.99)


def ppo(env: Any, gamma: float = 0.99) -> PPO:
    return PPO("MlpPolicy", env, gamma=gamma, n_steps=8, batch_size=8, policy_kwargs={"net_arch": [4]})


def dqn(env: Any, **kwargs: Any) -> DQN:
    arguments: dict[str, Any] = {"policy_kwargs": {"net_arch": [4]}, "buffer_size": 100, "learning_starts": 10}
    return DQN(kwargs.pop("policy", "MlpPolicy"), env, **arguments, **kwargs)


class TestDiscount:
    @pytest.mark.parametrize("make", [ppo, dqn])
    def test_another_than_the_potential_has(self, make: Any) -> None:
        with pytest.warns(UserWarning, match=r"discounts with gamma=0.9, the reward with RewardSpec\(gamma=0.99\)"):
            check_algorithm(make(paid(), gamma=0.9))

    @pytest.mark.parametrize(
        ("env", "gamma"),
        [
            (lambda: paid(), 0.99),
            (lambda: paid(RewardSpec()), 0.9),
            (lambda: VecNormalize(paid()), 0.99),
            (scalar, 0.99),
            (lambda: scalar(chunk=5), 0.99**5),
            (lambda: paid(venv=DummyVecEnv([lambda: ActionChunk(world(), 5)])), 0.99),
        ],
    )
    def test_the_same_or_none(self, env: Any, gamma: float) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_algorithm(ppo(env(), gamma))

    def test_per_chunk(self) -> None:
        with pytest.warns(UserWarning, match="which is 0.95099 per chunk of 5 steps"):
            check_algorithm(ppo(scalar(chunk=5), 0.99))


class TestOrder:
    def test_normalised_task_rewards(self) -> None:
        venv = VecNormalize(DummyVecEnv([world]), norm_obs=False)
        with pytest.warns(UserWarning, match="VecNormalize inside the reward wrapper normalises the task reward"):
            check_algorithm(ppo(paid(venv=venv)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_algorithm(ppo(paid(venv=VecNormalize(DummyVecEnv([world]), norm_reward=False))))

    def test_learned_returns_that_look_true(self) -> None:
        with pytest.warns(UserWarning, match="VecMonitor around the reward wrapper reports learned returns"):
            check_algorithm(ppo(VecMonitor(paid())))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_algorithm(ppo(paid(venv=VecMonitor(DummyVecEnv([world])))))

    def test_no_reward_wrapper(self) -> None:
        with pytest.raises(ValueError, match="pays no learned reward"):
            check_algorithm(ppo(DummyVecEnv([world])))

    def test_no_environment(self) -> None:
        agent = ppo(paid())
        agent.env = None
        with pytest.raises(ValueError, match="set_env"):
            check_algorithm(agent)


class TestRewardsThatArriveLater:
    LATER = RewardSpec()

    def later(self) -> VecRobometerReward:
        return paid(self.LATER, AsyncVecRobometerReward)

    def test_what_fits(self) -> None:
        agent = dqn(VecNormalize(self.later(), norm_reward=False), replay_buffer_class=LabelledReplayBuffer)
        check_algorithm(agent)

    def test_an_on_policy_algorithm(self) -> None:
        with pytest.raises(TypeError, match="PPO needs the reward of each step at once"):
            check_algorithm(ppo(self.later()))

    @pytest.mark.filterwarnings("ignore:`n_steps=3` is ignored")
    @pytest.mark.parametrize(
        ("kwargs", "named"),
        [
            ({}, "a ReplayBuffer"),
            ({"n_steps": 3}, "NStepReplayBuffer"),
            ({"n_steps": 3, "replay_buffer_class": LabelledReplayBuffer}, "n_steps=3"),
        ],
    )
    def test_other_buffers(self, kwargs: dict[str, Any], named: str) -> None:
        with pytest.raises(TypeError, match=f"{named}.*replay_buffer_class=LabelledReplayBuffer"):
            check_algorithm(dqn(self.later(), **kwargs))

    def test_normalised_rewards(self) -> None:
        agent = dqn(VecNormalize(self.later()), replay_buffer_class=LabelledReplayBuffer)
        with pytest.raises(ValueError, match=r"VecNormalize\(norm_reward=False\)"):
            check_algorithm(agent)


class GoalWorld(NoiseWorld):
    """Has goals, and can say what reaching one is worth."""

    def __init__(self) -> None:
        super().__init__()
        goal = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = spaces.Dict(dict.fromkeys(("observation", "achieved_goal", "desired_goal"), goal))

    def _observation(self) -> dict[str, Any]:
        return {name: np.zeros(2, np.float32) for name in self.observation_space.spaces}  # pyright: ignore[reportAttributeAccessIssue]

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        return np.zeros(len(achieved_goal))


class TestHindsight:
    @pytest.mark.parametrize(
        "env",
        [
            lambda: paid(RewardSpec(), venv=DummyVecEnv([GoalWorld])),
            lambda: VecNormalize(paid(RewardSpec(), venv=DummyVecEnv([GoalWorld]))),
            lambda: DummyVecEnv([lambda: RobometerReward(GoalWorld(), MODEL, TASK)]),
        ],
        ids=["vector", "within", "scalar"],
    )
    def test_it_is_refused(self, env: Any) -> None:
        agent = dqn(env(), policy="MultiInputPolicy", replay_buffer_class=HerReplayBuffer)
        with pytest.raises(TypeError, match="this reward depends on the frames of a whole history"):
            check_algorithm(agent)
        with pytest.raises(TypeError, match=r"compute_reward.*Hindsight experience replay \(HerReplayBuffer\) cannot"):
            agent.learn(100)

    def test_other_methods_of_the_environments_are_called(self) -> None:
        assert paid().env_method("get_wrapper_attr", "instruction") == [""]
