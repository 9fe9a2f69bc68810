"""The reward wrappers among the wrappers that users put around and inside them, in good orders and in wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import RecordEpisodeStatistics, RecordVideo, TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize

from robometer_rl.frames import FrameError
from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers import RenderToInfo, RobometerReward, VecRobometerReward
from tests.fixed_models import BrightnessModel
from tests.wrappers.worlds import TASK, BrightnessWorld, NoiseWorld

MODEL = BrightnessModel()
LEVELS = (51, 0, 102, 255)
# What the steps of an episode pay; the world itself pays 1 for each.
DELTAS = [-0.2, 0.4, 0.6]
LEARNED_RETURN, TRUE_RETURN = 0.8, 3.0


class World(BrightnessWorld):
    """Shows the images by rendering and the number of the step as its observation."""

    def __init__(self, size: int = 32) -> None:
        super().__init__(LEVELS, shape=(size, size, 3))
        self.observation_space = spaces.Box(0, 10, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        _, info = super().reset(seed=seed, options=options)
        return np.zeros(1, np.float32), info

    def step(self, action: int) -> Any:
        _, reward, terminated, truncated, info = super().step(action)
        info["is_success"] = info.pop("success") == 1.0
        return np.array([self.t], np.float32), reward, terminated, truncated, info


def paid(env: gym.Env[Any, Any], spec: RewardSpec | None = None) -> RobometerReward[Any, Any]:
    return RobometerReward(env, MODEL, TASK, spec or RewardSpec())


def paid_vector(venv: VecEnv | None = None, **kwargs: Any) -> VecRobometerReward:
    return VecRobometerReward(venv or DummyVecEnv([lambda: RenderToInfo(Monitor(World()))] * 2), MODEL, TASK, **kwargs)


def play(env: gym.Env[Any, Any]) -> tuple[list[float], dict[str, Any]]:
    """Rewards of one episode and its last info."""
    env.reset(seed=0)
    rewards, over, info = [], False, {}
    while not over:
        _, reward, terminated, truncated, info = env.step(0)
        rewards.append(float(reward))
        over = terminated or truncated
    return rewards, info


def play_vector(env: VecEnv) -> tuple[list[float], dict[str, Any]]:
    """The same for the first sub-environment."""
    env.reset()
    rewards, over, info = [], False, {}
    while not over:
        _, reward, dones, infos = env.step(np.zeros(env.num_envs, np.int64))
        rewards.append(float(reward[0]))
        over, info = bool(dones[0]), infos[0]
    return rewards, info


class TestMonitor:
    @pytest.mark.parametrize("monitor", [Monitor, RecordEpisodeStatistics])
    def test_it_records_true_returns_inside_and_learned_ones_outside(self, monitor: Any) -> None:
        for env, recorded in ((paid(monitor(World())), TRUE_RETURN), (monitor(paid(World())), LEARNED_RETURN)):
            rewards, info = play(env)
            np.testing.assert_allclose(rewards, DELTAS, atol=1e-6)
            assert info["episode"]["r"] == pytest.approx(recorded)
            assert info["robometer/episode"]["task_return"] == TRUE_RETURN

    def test_an_algorithm_puts_one_outside_where_there_is_none(self) -> None:
        for env, recorded in ((paid(World()), LEARNED_RETURN), (paid(Monitor(World())), TRUE_RETURN)):
            agent = PPO("MlpPolicy", env, n_steps=6, batch_size=6, policy_kwargs={"net_arch": [4]}).learn(6)
            assert agent.ep_info_buffer is not None
            assert [episode["r"] for episode in agent.ep_info_buffer] == pytest.approx([recorded] * 2)

    def test_around_a_vector_environment(self) -> None:
        worlds: list[Any] = [lambda: RenderToInfo(World())] * 2
        inside = paid_vector(VecMonitor(DummyVecEnv(worlds)))
        outside = VecMonitor(paid_vector(DummyVecEnv(worlds)))
        for env, recorded in ((inside, TRUE_RETURN), (outside, LEARNED_RETURN)):
            rewards, info = play_vector(env)
            np.testing.assert_allclose(rewards, DELTAS, atol=1e-6)
            assert info["episode"]["r"] == pytest.approx(recorded)

    def test_frames_travel_through_one_that_is_outside_of_the_rendering(self) -> None:
        assert play_vector(paid_vector(DummyVecEnv([lambda: Monitor(RenderToInfo(World()))])))[0] == pytest.approx(
            DELTAS
        )


class TestTimeLimit:
    def test_inside_the_last_frame_is_scored(self) -> None:
        rewards, info = play(paid(TimeLimit(World(), 1), RewardSpec(every=2)))
        np.testing.assert_allclose(rewards, [-0.2], atol=1e-6)
        assert info["robometer/episode"]["length"] == 1

    def test_outside_the_reward_does_not_learn_of_the_end(self) -> None:
        rewards, info = play(TimeLimit(paid(World(), RewardSpec(every=2)), 1))
        assert rewards == [0.0]
        assert "robometer/episode" not in info
        # The next episode is paid from its own beginning all the same.
        assert play(TimeLimit(paid(World()), 9))[0] == pytest.approx(DELTAS)

    def test_outside_of_the_rendering_the_last_frame_is_missed(self) -> None:
        env = paid_vector(
            DummyVecEnv([lambda: TimeLimit(RenderToInfo(World(), every=2), 1)]), reward=RewardSpec(every=2)
        )
        env.reset()
        with pytest.raises(FrameError, match="is RenderToInfo outside TimeLimit"):
            env.step(np.zeros(1, np.int64))


@pytest.mark.filterwarnings("ignore:.*Overwriting existing videos")
class TestRecordVideo:
    def test_inside_and_outside(self, tmp_path: Path) -> None:
        def record(env: gym.Env[Any, Any], name: str) -> RecordVideo[Any, Any]:
            return RecordVideo(env, str(tmp_path / name), episode_trigger=lambda _: True)

        for name, env in (("inside", paid(record(World(), "inside"))), ("outside", record(paid(World()), "outside"))):
            assert play(env)[0] == pytest.approx(DELTAS)
            env.close()
            assert [path.name for path in (tmp_path / name).iterdir()] == ["rl-video-episode-0.mp4"]

    @pytest.mark.parametrize("outside", [False, True])
    def test_in_a_sub_environment(self, tmp_path: Path, outside: bool) -> None:
        def record(env: Any) -> Any:
            return RecordVideo(env, str(tmp_path), episode_trigger=lambda number: number == 0)

        def make() -> Any:
            return record(RenderToInfo(World())) if outside else RenderToInfo(record(World()))

        env = paid_vector(DummyVecEnv([make]))
        assert play_vector(env)[0] == pytest.approx(DELTAS)
        env.close()
        assert (tmp_path / "rl-video-episode-0.mp4").stat().st_size > 0


class TestVecNormalize:
    def test_around_the_reward_it_normalises_what_was_paid(self) -> None:
        normalised = VecNormalize(paid_vector())
        normalised.reset()
        for expected in DELTAS:
            observations, rewards, _, infos = normalised.step(np.zeros(2, np.int64))
            np.testing.assert_allclose(normalised.get_original_reward(), [expected] * 2, atol=1e-6)
            assert infos[0]["robometer/reward"] == pytest.approx(expected)
            assert not np.allclose(rewards, expected)
            assert isinstance(observations, np.ndarray)

    def test_inside_it_changes_the_task_reward(self) -> None:
        inside = VecNormalize(DummyVecEnv([lambda: RenderToInfo(Monitor(World()))]), norm_obs=False)
        rewards, info = play_vector(paid_vector(inside))
        np.testing.assert_allclose(rewards, DELTAS, atol=1e-6)
        assert info["robometer/task_reward"] != pytest.approx(1.0)

    def test_images_normalised_inside_are_refused(self) -> None:
        images = VecNormalize(DummyVecEnv([BrightnessWorld]))
        with pytest.raises(ValueError, match="put VecNormalize around VecRobometerReward"):
            VecRobometerReward(images, MODEL, TASK, frames="obs")
        VecRobometerReward(VecNormalize(DummyVecEnv([BrightnessWorld]), norm_obs=False), MODEL, TASK, frames="obs")

    @pytest.mark.parametrize(("key", "refused"), [("image", True), ("state", False)])
    def test_parts_of_the_observation_may_be_normalised(self, key: str, refused: bool) -> None:
        venv = VecNormalize(DummyVecEnv([NoiseWorld]), norm_obs_keys=[key])
        if refused:
            with pytest.raises(ValueError, match="are normalised by the VecNormalize inside"):
                VecRobometerReward(venv, MODEL, TASK, frames=("info/wrist", "obs/image"))
        else:
            VecRobometerReward(venv, MODEL, TASK, frames=("info/wrist", "obs/image")).reset()


class TestVecFrameStack:
    def test_outside_and_inside_with_rendered_frames(self) -> None:
        for env in (
            VecFrameStack(paid_vector(), 3),
            paid_vector(VecFrameStack(DummyVecEnv([lambda: RenderToInfo(World())]), 3)),
        ):
            assert env.observation_space.shape == (3,)
            assert play_vector(env)[0] == pytest.approx(DELTAS)

    def test_stacked_images_are_refused(self) -> None:
        stacked = VecFrameStack(DummyVecEnv([BrightnessWorld]), 3)
        with pytest.raises(FrameError, match="observation space Box"):
            VecRobometerReward(stacked, MODEL, TASK, frames="obs")


class TestEvalCallback:
    def learn(self, env: VecEnv, eval_env: VecEnv) -> EvalCallback:
        callback = EvalCallback(eval_env, n_eval_episodes=2, eval_freq=6, verbose=0)
        PPO("MlpPolicy", env, n_steps=6, batch_size=6, policy_kwargs={"net_arch": [4]}).learn(12, callback=callback)
        return callback

    def test_both_may_share_the_model_and_true_returns_are_reported(self) -> None:
        callback = self.learn(VecNormalize(paid_vector()), VecNormalize(paid_vector(), training=False))
        assert callback.last_mean_reward == TRUE_RETURN
        assert callback._is_success_buffer == [True, True]

    @pytest.mark.filterwarnings("ignore:Training and eval env")
    def test_an_environment_without_the_reward_will_do(self) -> None:
        assert self.learn(paid_vector(), DummyVecEnv([lambda: Monitor(World())])).last_mean_reward == TRUE_RETURN

    @pytest.mark.filterwarnings("ignore:Evaluation environment is not wrapped", "ignore:Training and eval env")
    def test_without_a_monitor_learned_returns_are_reported(self) -> None:
        unmonitored = paid_vector(DummyVecEnv([lambda: RenderToInfo(World())]))
        assert self.learn(paid_vector(), unmonitored).last_mean_reward == pytest.approx(LEARNED_RETURN)

    @pytest.mark.filterwarnings("ignore:Training and eval env")
    def test_statistics_are_synchronised_between_equal_wrappers_only(self) -> None:
        evaluation = VecNormalize(DummyVecEnv([lambda: Monitor(World())]), training=False)
        with pytest.raises(AssertionError, match="wrapped the same way"):
            self.learn(VecNormalize(paid_vector()), evaluation)
