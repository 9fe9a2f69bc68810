"""One way to drive all reward wrappers, and to compare what they paid with what they should have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv

from robometer_rl.models.reward_model import RewardModel
from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers.rendering import RenderToInfo
from robometer_rl.wrappers.reward import RobometerReward
from robometer_rl.wrappers.sb3 import VecRobometerReward
from robometer_rl.wrappers.vector import RobometerReward as VectorRobometerReward
from robometer_rl.wrappers.vector import env_info
from tests.wrappers.worlds import TASK, NoiseEpisode, NoiseWorld, expected_episode

KINDS = ("scalar", "next_step", "same_step", "disabled", "sb3")


@dataclass
class Played:
    """What one environment was paid in one episode."""

    number: int
    reset_progress: float
    rewards: list[float] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)
    success: list[float] = field(default_factory=list)
    uncertainty: list[float] = field(default_factory=list)
    end: tuple[bool, bool] | None = None
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass
class Driver:
    """Plays one kind of wrapper; subclasses know its interface.

    ``log[i]`` lists the episodes of environment i.
    """

    env: Any
    num_envs: int
    log: dict[int, list[Played]] = field(default_factory=lambda: defaultdict(list))

    def begin(self, index: int, info: dict[str, Any], number: int) -> None:
        self.log[index].append(Played(number, info["robometer/reset_progress"]))

    def pay(self, index: int, reward: float, terminated: bool, truncated: bool, info: dict[str, Any]) -> None:
        """Notes one step; ``info`` is that of the transition that was paid."""
        played = self.log[index][-1]
        assert info["number"] == played.number
        assert played.end is None
        played.rewards.append(float(reward))
        played.progress.append(info["robometer/progress"])
        played.success.append(info["robometer/success"])
        played.uncertainty.append(info["robometer/uncertainty"])
        assert info["t"] == len(played.rewards)
        assert info["robometer/reward"] == reward
        assert "robometer/frame" not in info
        if terminated or truncated:
            played.end = (bool(terminated), bool(truncated))
            played.summary = dict(info["robometer/episode"])
            assert info["robometer/true_success"] == info["is_success"]
        else:
            assert "robometer/episode" not in info
            assert "robometer/true_success" not in info

    def reset(self, seed: int | None = None, mask: NDArray[np.bool_] | None = None) -> None:
        raise NotImplementedError

    def step(self) -> None:
        raise NotImplementedError


class ScalarDriver(Driver):
    def reset(self, seed: int | None = None, mask: NDArray[np.bool_] | None = None) -> None:
        for index, env in enumerate(self.env):
            if mask is None or mask[index]:
                self._reset(index, env, None if seed is None else seed + index)

    def _reset(self, index: int, env: Any, seed: int | None) -> None:
        _, info = env.reset(seed=seed)
        self.begin(index, info, info["number"])

    def step(self) -> None:
        for index, env in enumerate(self.env):
            _, reward, terminated, truncated, info = env.step(0)
            assert type(reward) is float
            self.pay(index, reward, terminated, truncated, info)
            if terminated or truncated:
                self._reset(index, env, None)


class VectorDriver(Driver):
    def reset(self, seed: int | None = None, mask: NDArray[np.bool_] | None = None) -> None:
        options = None if mask is None else {"reset_mask": mask}
        _, infos = self.env.reset(seed=seed, options=options)
        for index in range(self.num_envs):
            if mask is None or mask[index]:
                info = env_info(infos, index, self.num_envs)
                self.begin(index, info, info["number"])
        assert options is None or "reset_mask" in options

    def step(self) -> None:
        mode = self.env.metadata["autoreset_mode"]
        over = [bool(self.log[index]) and self.log[index][-1].end is not None for index in range(self.num_envs)]
        _, rewards, terminated, truncated, infos = self.env.step(np.zeros(self.num_envs, np.int64))
        assert rewards.dtype == np.float64
        for index in range(self.num_envs):
            info = env_info(infos, index, self.num_envs)
            done = bool(terminated[index] or truncated[index])
            if over[index]:
                assert mode is AutoresetMode.NEXT_STEP
                assert (rewards[index], done) == (0.0, False)
                assert "robometer/reward" not in info
                self.begin(index, info, info["number"])
                continue
            paid = info
            if mode is AutoresetMode.SAME_STEP and done:
                paid = info["final_info"]
                copied = {key: value for key, value in info.items() if key.startswith("robometer/")}
                copied.pop("robometer/reset_progress")
                assert set(copied) == {key for key in paid if key.startswith("robometer/")}
                assert all(np.all(copied[key] == paid[key]) for key in copied)
            self.pay(index, rewards[index], terminated[index], truncated[index], paid)
            if mode is AutoresetMode.SAME_STEP and done:
                self.begin(index, info, info["number"])
            else:
                assert "robometer/reset_progress" not in info
        if mode is AutoresetMode.DISABLED and (terminated | truncated).any():
            self.reset(mask=terminated | truncated)


class SB3Driver(Driver):
    def reset(self, seed: int | None = None, mask: NDArray[np.bool_] | None = None) -> None:
        if seed is not None:
            self.env.seed(seed)
        self.env.reset()
        for index in range(self.num_envs):
            info = self.env.reset_infos[index]
            self.begin(index, info, info["number"])

    def step(self) -> None:
        observations, rewards, dones, infos = self.env.step(np.zeros(self.num_envs, np.int64))
        for index, info in enumerate(infos):
            truncated = bool(dones[index] and info["TimeLimit.truncated"])
            self.pay(index, rewards[index], bool(dones[index] and not truncated), truncated, info)
            assert ("robometer/reset_progress" in info) == bool(dones[index])
            if dones[index]:
                size = observations["image"].shape[1]
                last = NoiseEpisode(info["number"], 1, size).frame(info["t"], "obs/image")
                np.testing.assert_array_equal(info["terminal_observation"]["image"], last)
                reset_info = self.env.reset_infos[index]
                assert info["robometer/reset_progress"] == reset_info["robometer/reset_progress"]
                assert "robometer/frame" not in reset_info
                self.begin(index, reset_info, reset_info["number"])
                first = NoiseEpisode(reset_info["number"], 1, size).frame(0, "obs/image")
                np.testing.assert_array_equal(observations["image"][index], first)


def make_world(every: int | None, world: type[NoiseWorld] = NoiseWorld, **kwargs: Any) -> gym.Env[Any, Any]:
    """A `NoiseWorld`, rendering to its info if ``every`` is given."""
    env = world(**kwargs)
    return env if every is None else RenderToInfo(env, every)


def make_driver(
    kind: str,
    num_envs: int,
    model: RewardModel,
    reward: RewardSpec,
    frames: Any = "render",
    task: Any = TASK,
    **world: Any,
) -> Driver:
    """Wraps ``num_envs`` worlds with the reward wrapper of this kind."""
    renders = "render" in (frames if isinstance(frames, tuple) else (frames,))
    needs_frames = renders and kind in ("same_step", "sb3")
    make: Callable[[], Any] = partial(make_world, reward.every if needs_frames else None, **world)
    arguments = {"model": model, "task": task, "reward": reward, "frames": frames}
    if kind == "scalar":
        return ScalarDriver([RobometerReward(make(), **arguments) for _ in range(num_envs)], num_envs)
    if kind == "sb3":
        return SB3Driver(VecRobometerReward(DummyVecEnv([make] * num_envs), **arguments), num_envs)
    envs = SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode[kind.upper()])
    return VectorDriver(VectorRobometerReward(envs, **arguments), num_envs)


def check_log(
    driver: Driver,
    model: RewardModel,
    spec: RewardSpec,
    *,
    cameras: tuple[str, ...] = ("render",),
    task: str | None = TASK,
    tolerance: float = 1e-6,
    max_length: int = 9,
    size: int = 8,
) -> int:
    """Compares every episode played with the whole episode scored at once; returns how many steps were compared."""
    compared = 0
    for index in range(driver.num_envs):
        for played in driver.log[index]:
            episode = NoiseEpisode(played.number, max_length, size)
            expected = expected_episode(episode, model, spec, cameras, episode.task if task is None else task)
            count = len(played.rewards)
            np.testing.assert_allclose(played.reset_progress, expected.reset_progress, rtol=0, atol=tolerance)
            assert count <= len(expected.rewards)
            assert (played.end is not None) == (count == len(expected.rewards))
            compared += count
            # The last frame of an episode that was broken off is scored only if its time has come.
            np.testing.assert_allclose(played.rewards, expected.rewards[:count], rtol=0, atol=tolerance)
            np.testing.assert_allclose(played.progress, expected.progress[1 : count + 1], rtol=0, atol=tolerance)
            np.testing.assert_allclose(played.success, expected.success[1 : count + 1], rtol=0, atol=tolerance)
            np.testing.assert_allclose(played.uncertainty, expected.uncertainty[1 : count + 1], rtol=0, atol=tolerance)
            if played.end is not None:
                # Stable-Baselines3 has no word for a step that terminated and was truncated.
                truncated = expected.truncated and not (isinstance(driver, SB3Driver) and expected.terminated)
                assert played.end == (expected.terminated, truncated)
                task_return = sum(episode.task_reward(t + 1) for t in range(count))
                assert played.summary["length"] == count
                np.testing.assert_allclose(played.summary["return"], sum(played.rewards), atol=tolerance * count)
                np.testing.assert_allclose(played.summary["task_return"], task_return)
                assert played.summary["progress"] == played.progress[-1]
                assert played.summary["success"] == played.success[-1]
                assert set(played.summary) == {"return", "task_return", "progress", "success", "length"}
    return compared
