from __future__ import annotations

import csv
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from robometer_rl.frames import FrameError, TaskError
from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers import RenderToInfo, TaskFromAttribute, VecRobometerReward
from tests.fixed_models import BrightnessModel, PixelModel
from tests.wrappers.drivers import SB3Driver, check_log, make_world
from tests.wrappers.worlds import TASK, BrightnessWorld, NoiseWorld

MODEL = BrightnessModel()
LONG, SHORT = (0, 51, 102, 153), (255, 102)
ENDS = RewardSpec(patience=1, success_threshold=0.1, terminate_on_success=True)


def dummy(*levels: tuple[int, ...], wrapper: Callable[[Any], Any] | None = None, **world: Any) -> DummyVecEnv:
    def make(shown: tuple[int, ...]) -> gym.Env[Any, Any]:
        env = BrightnessWorld(shown, **world)
        return env if wrapper is None else wrapper(env)

    return DummyVecEnv([partial(make, shown) for shown in levels])


def make(venv: VecEnv | None = None, **kwargs: Any) -> VecRobometerReward:
    arguments: dict[str, Any] = {"model": MODEL, "task": TASK, "frames": "obs", **kwargs}
    return VecRobometerReward(dummy(LONG, SHORT) if venv is None else venv, **arguments)


def step(env: VecEnv) -> tuple[list[float], list[bool], list[dict[str, Any]], list[int]]:
    """Rewards, dones, infos and the brightness of the observations of one step."""
    observations, rewards, dones, infos = env.step(np.zeros(env.num_envs, np.int64))
    assert isinstance(observations, np.ndarray)
    return rewards.round(6).tolist(), dones.tolist(), infos, observations[:, 0, 0, 0].tolist()


class Policy:
    """What `evaluate_policy` needs of a policy."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        count = len(next(iter(observation.values())) if isinstance(observation, dict) else observation)
        return np.zeros(count, np.int64), state


class TestSteps:
    def test_done(self) -> None:
        env = make()
        env.reset()
        assert [info["robometer/reset_progress"] for info in env.reset_infos] == [0.0, 1.0]
        rewards, dones, infos, seen = step(env)
        assert (rewards, dones, seen) == ([0.2, -0.6], [False, True], [51, 255])
        assert infos[1]["robometer/progress"] == pytest.approx(0.4)
        assert infos[1]["robometer/reset_progress"] == env.reset_infos[1]["robometer/reset_progress"] == 1.0
        assert infos[1]["robometer/episode"]["length"] == 1
        assert "robometer/reset_progress" not in infos[0]
        np.testing.assert_array_equal(infos[1]["terminal_observation"], np.full((8, 8, 3), 102))
        assert step(env)[0] == [0.2, -0.6]

    def test_the_time_limit_keeps_the_potential(self) -> None:
        spec = RewardSpec(mode="potential", gamma=0.5, allow_pure_shaping=True)
        for terminates, expected in ((True, -1.0), (False, -0.8)):
            env = make(dummy(SHORT, terminates=terminates), reward=spec)
            env.reset()
            assert step(env)[0] == [expected]

    def test_reset_in_the_middle_of_an_episode(self) -> None:
        env = make(reward=RewardSpec(mode="level"))
        env.reset()
        step(env)
        env.reset()
        assert step(env)[0] == [0.2, 0.4]

    def test_frames_rendered_inside_are_taken_and_removed(self) -> None:
        venv = dummy(LONG, SHORT, wrapper=partial(RenderToInfo, every=2))
        env = make(venv, frames="render", reward=RewardSpec(every=2))
        env.reset()
        rewards, _, infos, _ = step(env)
        assert rewards == [0.0, -0.6]
        assert not any("robometer/frame" in info for info in [*infos, *env.reset_infos])
        assert venv.get_attr("renders") == [1, 3]

    def test_around_wrappers_that_change_observations(self) -> None:
        env = make(VecTransposeImage(dummy(LONG, SHORT)))
        env.reset()
        observations, rewards, _, _ = env.step(np.zeros(2, np.int64))
        assert isinstance(observations, np.ndarray)
        assert observations.shape == (2, 3, 8, 8)
        np.testing.assert_allclose(rewards, [0.2, -0.6], atol=1e-6)


class TestEndOnPredictedSuccess:
    """The first environment succeeds at its second frame of four; the second never does."""

    LEVELS = ((0, 51, 102, 153), (0, 0, 0, 0, 0, 0))

    def test_the_environment_is_really_reset(self) -> None:
        venv = dummy(*self.LEVELS)
        env = make(venv, reward=ENDS)
        env.reset()
        step(env)
        rewards, dones, infos, seen = step(env)
        assert (rewards, dones, seen) == ([0.2, 0.0], [True, False], [0, 0])
        assert (venv.get_attr("resets"), venv.get_attr("t")) == ([2, 1], [0, 2])
        np.testing.assert_array_equal(infos[0]["terminal_observation"], np.full((8, 8, 3), 102))
        assert infos[0]["TimeLimit.truncated"] is False
        assert "episode" not in infos[0]
        assert infos[0]["robometer/reset_progress"] == 0.0
        assert step(env)[0] == [0.2, 0.0]

    def test_a_truncation_in_the_same_step_is_a_termination(self) -> None:
        env = make(dummy((0, 255), terminates=False), reward=ENDS)
        env.reset()
        _, dones, infos, _ = step(env)
        assert dones == [True]
        assert infos[0]["TimeLimit.truncated"] is False

    @pytest.mark.parametrize("where", ["inside", "outside"])
    def test_the_monitor_records_the_true_return(self, where: str) -> None:
        venv = dummy(*self.LEVELS, wrapper=Monitor if where == "inside" else None)
        env = make(VecMonitor(venv) if where == "outside" else venv, reward=ENDS)
        env.reset()
        for _ in range(2):
            step(env)
            _, dones, infos, _ = step(env)
            assert dones == [True, False]
            episode = infos[0]["episode"]
            assert (episode["r"], episode["l"]) == (2.0, 2)
            assert 0 <= episode["t"] < 60
        # The second episode of the other environment ends by itself, with its own count.
        infos = step(env)[2]
        assert (infos[1]["episode"]["r"], infos[1]["episode"]["l"]) == (5.0, 5)

    @pytest.mark.parametrize("where", ["inside", "outside"])
    def test_the_monitor_agrees_in_every_episode(self, where: str) -> None:
        model = PixelModel()
        spec = RewardSpec(success_threshold=0.6, patience=1, terminate_on_success=True)
        venv: VecEnv = DummyVecEnv([partial(make_monitored, 1)] * 2 if where == "inside" else [NoiseWorld] * 2)
        env = make(VecMonitor(venv) if where == "outside" else venv, model=model, frames="obs/image", reward=spec)
        env.seed(0)
        env.reset()
        ends = set()
        for _ in range(40):
            for info in env.step(np.zeros(2, np.int64))[3]:
                assert ("episode" in info) == ("robometer/episode" in info)
                if "episode" in info:
                    ours = info["robometer/episode"]
                    assert (info["episode"]["r"], info["episode"]["l"]) == (ours["task_return"], ours["length"])
                    ends.add(info["robometer/success_detected"])
        assert ends == {False, True}

    def test_a_monitor_file_around_lists_all_episodes(self, tmp_path: Path) -> None:
        venv = VecMonitor(dummy(*self.LEVELS), str(tmp_path / "log"), info_keywords=("success",))
        env = make(venv, reward=ENDS)
        env.reset()
        for _ in range(5):
            step(env)
        assert venv.episode_count == 3
        env.close()
        # Below a line of JSON, as Stable-Baselines3's load_results reads it through pandas.
        rows = list(csv.DictReader((tmp_path / "log.monitor.csv").read_text().splitlines()[1:]))
        assert [int(row["l"]) for row in rows] == [2, 2, 5]
        assert [float(row["success"]) for row in rows] == [0.0, 0.0, 1.0]

    @pytest.mark.filterwarnings("ignore:Evaluation environment is not wrapped")
    @pytest.mark.parametrize("monitor", [None, "inside", "outside"])
    def test_evaluate_policy_finishes(self, monitor: str | None) -> None:
        # Never done by itself: only predicted success ends these episodes.
        endless = tuple(range(0, 250, 10)) + (250,) * 10_000
        venv: VecEnv = dummy(endless, endless, wrapper=Monitor if monitor == "inside" else None)
        env = make(VecMonitor(venv) if monitor == "outside" else venv, reward=ENDS)
        returns, lengths = evaluate_policy(Policy(), env, n_eval_episodes=5, return_episode_rewards=True)
        assert lengths == [9] * 5
        expected = 90 / 255 if monitor is None else 9.0
        np.testing.assert_allclose(returns, [expected] * 5, rtol=1e-5)

    @pytest.mark.parametrize(
        "wrapper",
        [partial(VecNormalize, norm_obs=False), VecTransposeImage, lambda venv: VecMonitor(VecTransposeImage(venv))],
    )
    def test_no_wrapper_may_be_in_between(self, wrapper: Any) -> None:
        venv = wrapper(dummy(LONG))
        with pytest.raises(TypeError, match="directly around the base VecEnv or a VecMonitor"):
            make(venv, reward=ENDS)
        make(venv)

    def test_a_monitor_that_refuses_early_resets_knows_that_this_is_none(self) -> None:
        env = make(dummy(LONG, wrapper=partial(Monitor, allow_early_resets=False)), reward=ENDS)
        env.reset()
        assert [step(env)[1] for _ in range(4)] == [[False], [True]] * 2

    @pytest.mark.parametrize("space", ["dict", "tuple"])
    def test_observations_of_several_parts(self, space: str) -> None:
        class World(BrightnessWorld):
            def __init__(self) -> None:
                super().__init__((0, 51, 102, 153))
                parts = {"image": spaces.Box(0, 255, (8, 8, 3), np.uint8), "t": spaces.Box(0, 9, (1,), np.float32)}
                self.observation_space = spaces.Dict(parts) if space == "dict" else spaces.Tuple(parts.values())  # pyright: ignore

            def _image(self) -> Any:
                parts = {
                    "image": np.full((8, 8, 3), self.levels[self.t], np.uint8),
                    "t": np.array([self.t], np.float32),
                }
                return parts if space == "dict" else tuple(parts.values())

        frames = "obs/image" if space == "dict" else lambda observation, info: observation[0]
        env = make(DummyVecEnv([World]), reward=ENDS, frames=frames)
        env.reset()
        env.step(np.zeros(1, np.int64))
        observations, _, dones, infos = env.step(np.zeros(1, np.int64))
        key: Any = "t" if space == "dict" else 1
        assert dones.tolist() == [True]
        assert infos[0]["terminal_observation"][key].tolist() == [2.0]
        assert observations[key].tolist() == [[0.0]]


class TestInvalidArguments:
    def test_rendering_outside(self) -> None:
        with pytest.raises(
            ValueError, match=r"frames='render' cannot work around a VecEnv.*RenderToInfo\(env, every=2\)"
        ):
            make(frames="render", reward=RewardSpec(every=2))

    def test_the_interval_inside_must_be_that_of_the_spec(self) -> None:
        with pytest.raises(ValueError, match=r"renders every \[3\] steps, but frames are wanted with every=1"):
            make(dummy(LONG, wrapper=partial(RenderToInfo, every=3)), frames="render")

    def test_all_or_none(self) -> None:
        venv = DummyVecEnv([NoiseWorld, lambda: RenderToInfo(NoiseWorld())])
        with pytest.raises(ValueError, match=r"or none of them; \[0\] are not"):
            make(venv, frames="render")

    def test_task(self) -> None:
        with pytest.raises(TaskError, match="got the task"):
            make(task=None)

    def test_stacked_frames(self) -> None:
        with pytest.raises(FrameError, match="observation space Box"):
            make(VecFrameStack(dummy(LONG), 4))

    def test_step_before_reset(self) -> None:
        with pytest.raises(ResetNeeded, match="call reset"):
            step(make())

    def test_pickling_says_what_to_do_instead(self) -> None:
        with pytest.raises(TypeError, match=r"wrap the vectorised environment outside with .*RenderToInfo"):
            pickle.dumps(make())


def test_worker_processes_render() -> None:
    model = PixelModel()
    spec = RewardSpec(every=2, success_threshold=0.5, patience=1, terminate_on_success=True)
    venv = SubprocVecEnv([partial(make_monitored, 2)] * 2)
    driver = SB3Driver(VecRobometerReward(venv, model, TaskFromAttribute("instruction"), spec), 2)
    driver.reset(seed=5)
    for _ in range(40):
        driver.step()
    evaluate_policy(Policy(), driver.env, n_eval_episodes=3)
    driver.env.close()
    assert check_log(driver, model, spec, task=None) == 80


def make_monitored(every: int, size: int = 8) -> gym.Env[Any, Any]:
    return RenderToInfo(Monitor(make_world(None, size=size)), every)


def test_an_algorithm_learns_on_it() -> None:
    venv = DummyVecEnv([partial(make_monitored, 1, size=36)] * 2)
    env = VecRobometerReward(venv, PixelModel(), TASK, ENDS)
    model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=16, n_epochs=1, policy_kwargs={"net_arch": [4]})
    model.learn(64)
    assert model.ep_info_buffer
    assert all({"r", "l", "t"} <= set(episode) for episode in model.ep_info_buffer)


class TestVecEnvsOfOthers:
    def test_what_is_around_no_vec_env_is_refused(self) -> None:
        class Adapter(VecEnvWrapper):
            """As SuperSuit's."""

            def __init__(self, venv: Any) -> None:
                self.venv, self.num_envs = venv, venv.num_envs

            def reset(self) -> Any: ...

            def step_wait(self) -> Any: ...

        inner = Adapter(SyncVectorEnv([BrightnessWorld]))
        with pytest.raises(TypeError, match=r"Adapter is around a SyncVectorEnv, which is no VecEnv.*use DummyVecEnv"):
            make(inner)

    def test_one_that_does_not_reset_single_environments_is_found_out(self) -> None:
        class All(DummyVecEnv):
            def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
                return super().env_method(method_name, *args, **kwargs)

        env = make(All([partial(BrightnessWorld, LONG), partial(BrightnessWorld, (0,) * 9)]), reward=ENDS)
        env.reset()
        step(env)
        with pytest.raises(TypeError, match=r"indices=\[0\]\) with 2 resets instead of one"):
            step(env)
        with pytest.raises(ResetNeeded):
            step(env)
        env.reset()
        step(env)


def test_workers_are_not_stepped_before_a_reset() -> None:
    venv = SubprocVecEnv([partial(BrightnessWorld, LONG)])
    env = make(venv)
    with pytest.raises(ResetNeeded, match="call reset"):
        step(env)
    # Had a step been sent, its answer would be taken for that of the reset.
    env.reset()
    assert step(env)[0] == [0.2]
    env.close()


def test_infos_are_kept_before_a_reset_draws_over_them() -> None:
    class Reuses(BrightnessWorld):
        def __init__(self) -> None:
            super().__init__(LONG)
            self.camera = np.zeros((8, 8, 3), np.uint8)

        def reset(self, **kwargs: Any) -> Any:
            self.camera[:] = 0
            return super().reset(**kwargs)[0], {"camera": self.camera}

        def step(self, action: int) -> Any:
            self.camera[:] = LONG[self.t + 1]
            return (*super().step(action)[:4], {"camera": self.camera})

    class Bare(DummyVecEnv):
        """Copies nothing."""

        def step_wait(self) -> Any:
            for index, env in enumerate(self.envs):
                _, self.buf_rews[index], self.buf_dones[index], _, info = env.step(self.actions[index])
                self.buf_infos[index] = info
                self._save_obs(index, env.unwrapped._image())
            return self._obs_from_buf(), self.buf_rews, self.buf_dones, self.buf_infos

    env = make(Bare([Reuses]), reward=ENDS, frames="info/camera")
    env.reset()
    assert step(env)[0] == [0.2]
    rewards, dones, infos, _ = step(env)
    assert (rewards, dones) == ([0.2], [True])
    assert infos[0]["camera"][0, 0, 0] == 102
    assert step(env)[0] == [0.2]
