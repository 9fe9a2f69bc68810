from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import FilterObservation, TimeLimit
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv

from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers import ActionChunk, RenderToInfo, RobometerReward, VecRobometerReward
from robometer_rl.wrappers.vector import RobometerReward as VectorRobometerReward
from tests.fixed_models import BrightnessModel, PixelModel
from tests.wrappers.worlds import TASK, BrightnessWorld, NoiseWorld

LEVELS = (0, 51, 102, 255, 153, 204)
PROGRESS = np.array(LEVELS) / 255
MODEL = BrightnessModel()

gym.register("tests/Chunks-v0", entry_point="tests.wrappers.worlds:BrightnessWorld")


def paid(spec: RewardSpec | None = None, world: Any = None, model: Any = None) -> RobometerReward:
    return RobometerReward(world or BrightnessWorld(LEVELS), model or MODEL, TASK, spec or RewardSpec())


def play(env: gym.Env[Any, Any], action: Any = 0, seed: int = 0) -> tuple[list[float], list[dict[str, Any]]]:
    """Rewards and infos of one episode."""
    env.reset(seed=seed)
    rewards, infos, over = [], [], False
    while not over:
        _, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
        infos.append(info)
        over = terminated or truncated
    return rewards, infos


class TestAroundTheReward:
    def test_the_sum_is_discounted_and_breaks_off_at_the_end(self) -> None:
        rewards, infos = play(ActionChunk(paid(), 2, gamma=0.5), [0, 0])
        steps = np.diff(PROGRESS)
        expected = [steps[0] + 0.5 * steps[1], steps[2] + 0.5 * steps[3], steps[4]]
        np.testing.assert_allclose(rewards, expected, atol=1e-6)
        assert [info["robometer/chunk_length"] for info in infos] == [2, 2, 1]
        assert infos[-1]["robometer/episode"]["length"] == 5
        assert all(type(reward) is float for reward in rewards)

    @settings(max_examples=25)
    @given(
        seed=st.integers(0, 1000),
        size=st.integers(1, 6),
        gamma=st.sampled_from([1.0, 0.9]),
        spec=st.builds(
            RewardSpec,
            mode=st.sampled_from(["level", "delta", "success"]),
            task_weight=st.sampled_from([0.0, 0.5]),
            success_threshold=st.sampled_from([0.3, 0.6]),
            success_bonus=st.sampled_from([0.0, 2.0]),
            terminate_on_success=st.booleans(),
            every=st.integers(1, 4),
        ),
    )
    def test_its_steps_are_paid_as_they_are_without_it(
        self, seed: int, size: int, gamma: float, spec: RewardSpec
    ) -> None:
        def world() -> RobometerReward:
            return paid(spec, NoiseWorld(), PixelModel())

        steps, step_infos = play(world(), seed=seed)
        chunks, infos = play(ActionChunk(world(), size, gamma), [0] * size, seed)
        cut = [steps[begin : begin + size] for begin in range(0, len(steps), size)]
        expected = [sum(gamma**i * reward for i, reward in enumerate(part)) for part in cut]
        np.testing.assert_allclose(chunks, expected, rtol=0, atol=1e-9)
        assert [info["robometer/chunk_length"] for info in infos] == [len(part) for part in cut]
        assert infos[-1]["robometer/episode"] == step_infos[-1]["robometer/episode"]

    def test_the_interval_counts_steps(self) -> None:
        world = BrightnessWorld(LEVELS)
        rewards, infos = play(ActionChunk(paid(RewardSpec(every=2), world), 3), [0, 0, 0])
        # Frames 0, 2, 4 and the last one.
        assert world.renders == 4
        np.testing.assert_allclose(rewards, [PROGRESS[2], PROGRESS[5] - PROGRESS[2]], atol=1e-6)
        assert [info["robometer/scored"] for info in infos] == [False, True]

    def test_the_success_rule_ends_a_chunk(self) -> None:
        spec = RewardSpec(patience=1, success_threshold=0.15, terminate_on_success=True, success_bonus=1.0)
        rewards, infos = play(ActionChunk(paid(spec), 4), [0] * 4)
        np.testing.assert_allclose(rewards, [1.4], atol=1e-6)
        assert infos[0]["robometer/chunk_length"] == 2

    def test_a_potential_telescopes(self) -> None:
        spec = RewardSpec(mode="potential", gamma=0.9, allow_pure_shaping=True)
        world = BrightnessWorld(LEVELS, terminates=False)
        rewards, _ = play(ActionChunk(paid(spec, world), 5, gamma=0.9), [0] * 5)
        np.testing.assert_allclose(rewards, [0.9**5 * PROGRESS[5] - PROGRESS[0]], atol=1e-6)

    def test_the_time_limit_inside_counts_steps(self) -> None:
        _, infos = play(ActionChunk(paid(world=TimeLimit(BrightnessWorld(LEVELS), 3)), 2), [0, 0])
        assert [info["robometer/chunk_length"] for info in infos] == [2, 1]
        assert infos[-1]["robometer/episode"]["length"] == 3


class TestInsideTheReward:
    SPEC = RewardSpec(task_weight=1.0)

    def test_a_chunk_is_one_step(self) -> None:
        world = BrightnessWorld(LEVELS)
        env = paid(self.SPEC, ActionChunk(world, 2, gamma=0.5))
        rewards, infos = play(env, [0, 0])
        np.testing.assert_allclose(rewards, [1.5 + 0.4, 1.5 + 0.2, 1.0 + 0.2], atol=1e-6)
        assert [info["robometer/task_reward"] for info in infos] == [1.5, 1.5, 1.0]
        assert world.renders == 4

    @pytest.mark.parametrize("kind", ["gymnasium", "sb3"])
    def test_vector_environments_pay_the_same(self, kind: str) -> None:
        def world() -> Any:
            return RenderToInfo(ActionChunk(BrightnessWorld(LEVELS), 2, gamma=0.5))

        actions = np.zeros((2, 2), np.int64)
        if kind == "sb3":
            venv = VecRobometerReward(DummyVecEnv([world] * 2), MODEL, TASK, self.SPEC)
            venv.reset()
            rewards = [venv.step(actions)[1].tolist() for _ in range(3)]
        else:
            envs = VectorRobometerReward(SyncVectorEnv([world] * 2), MODEL, TASK, self.SPEC)
            envs.reset()
            rewards = [envs.step(actions)[1].tolist() for _ in range(3)]
        np.testing.assert_allclose(rewards, [[1.9, 1.9], [1.7, 1.7], [1.2, 1.2]], atol=1e-6)


class TestActions:
    def test_each_action_is_executed_in_turn(self) -> None:
        class World(BrightnessWorld):
            executed: list[list[float]]

            def __init__(self) -> None:
                super().__init__(LEVELS)
                self.action_space = spaces.Box(-1, 1, (2,), np.float32)
                self.executed = []

            def step(self, action: Any) -> Any:
                self.executed.append(action.tolist())
                return super().step(0)

        world = World()
        env = ActionChunk(world, 3)
        env.reset()
        assert env.action_space == spaces.Box(-1, 1, (3, 2), np.float32)
        env.step(np.array([[0.0, 0.5], [1.0, 0.0], [0.0, -1.0]], np.float32))
        assert world.executed == [[0.0, 0.5], [1.0, 0.0], [0.0, -1.0]]

    @pytest.mark.parametrize("actions", [[], [0], [0, 0, 0]])
    def test_another_number_of_actions(self, actions: list[int]) -> None:
        env = ActionChunk(paid(), 2)
        env.reset()
        with pytest.raises(ValueError, match=f"got {len(actions)} actions; expected a chunk of 2"):
            env.step(actions)

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_checkers_find_nothing_wrong(self) -> None:
        check_env(ActionChunk(paid(), 2))
        sb3_check_env(ActionChunk(paid(), 2))

    def test_an_algorithm_learns_chunks(self) -> None:
        env = ActionChunk(paid(RewardSpec(), FilterObservation(NoiseWorld(), ["state"]), PixelModel()), 3)
        PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, n_epochs=1, policy_kwargs={"net_arch": [4]}).learn(8)


class TestInvalidArguments:
    @pytest.mark.parametrize("size", [0, -1, 2.0, True, None])
    def test_size(self, size: Any) -> None:
        with pytest.raises(ValueError, match="size must be a positive integer"):
            ActionChunk(paid(), size)

    @pytest.mark.parametrize("gamma", [0.0, 1.1, -0.5, float("nan")])
    def test_gamma(self, gamma: float) -> None:
        with pytest.raises(ValueError, match="gamma must be in"):
            ActionChunk(paid(), 2, gamma)

    def test_a_potential_with_another_discount(self) -> None:
        env = paid(RewardSpec(mode="potential", gamma=0.9, task_weight=1.0))
        ActionChunk(env, 2, gamma=0.9)
        with pytest.raises(ValueError, match=r"RewardSpec\(gamma=0.9\) per step, the chunk with gamma=1.0"):
            ActionChunk(env, 2)

    def test_rendering_for_an_outer_wrapper_goes_around_it(self) -> None:
        inside = RenderToInfo(BrightnessWorld(LEVELS))
        with pytest.raises(ValueError, match="put it around ActionChunk"):
            ActionChunk(inside, 2)
        ActionChunk(paid(world=inside), 2)


def test_its_specification_rebuilds_it() -> None:
    env = ActionChunk(gym.make("tests/Chunks-v0", render_mode="rgb_array"), 3, gamma=0.5)
    assert env.spec is not None
    rebuilt = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(rebuilt, ActionChunk)
    assert play(rebuilt, [0] * 3)[0] == play(env, [0] * 3)[0]
