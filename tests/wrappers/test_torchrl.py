"""The transform for TorchRL pays what the vector wrapper pays for the same frames."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from robometer_rl import RewardSpec
from robometer_rl.frames import FrameError
from robometer_rl.wrappers.vector import RobometerReward as VectorReward
from tests.fixed_models import BrightnessModel, PixelModel
from tests.wrappers.worlds import TASK, BrightnessWorld

torch = pytest.importorskip("torch")
pytest.importorskip("torchrl")

from torchrl.envs import (  # noqa: E402
    GymWrapper,
    ParallelEnv,
    RewardSum,
    SerialEnv,
    StepCounter,
    TransformedEnv,
    check_env_specs,
)

from robometer_rl.wrappers.torchrl import RobometerReward  # noqa: E402

LONG, SHORT = (0, 51, 102, 153, 204, 255), (255, 102, 0)
MODEL = PixelModel()


def world(levels: tuple[int, ...] = LONG) -> GymWrapper:
    return GymWrapper(BrightnessWorld(levels, render_mode=None))


def transformed(kind: str, model: Any = MODEL, **arguments: Any) -> TransformedEnv:
    base: Any = world()
    if kind != "single":
        make = SerialEnv if kind == "serial" else partial(ParallelEnv, mp_start_method="fork")
        base = make(2, [partial(world, LONG), partial(world, SHORT)])
    return TransformedEnv(base, RobometerReward(model, TASK, frames="pixels", **arguments))


@pytest.mark.parametrize("kind", ["single", "serial", pytest.param("parallel", marks=pytest.mark.slow)])
def test_the_specs_say_what_comes(kind: str) -> None:
    env = transformed(kind, reward=RewardSpec(terminate_on_success=True, success_threshold=2.0 / 3))
    check_env_specs(env)
    assert env.reset()["robometer", "progress"].shape == (*env.batch_size, 1)
    env.close()


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("kind", ["serial", pytest.param("parallel", marks=pytest.mark.slow)])
def test_rewards_are_those_of_the_vector_wrapper(kind: str, every: int) -> None:
    spec = RewardSpec(task_weight=0.5, every=every)
    env = transformed(kind, reward=spec)
    played = env.rollout(13, break_when_any_done=False)
    env.close()
    envs = SyncVectorEnv(
        [partial(BrightnessWorld, LONG), partial(BrightnessWorld, SHORT)], autoreset_mode=AutoresetMode.SAME_STEP
    )
    ours = VectorReward(envs, MODEL, TASK, spec, frames="obs")
    ours.reset()
    for t in range(13):
        _, rewards, terminated, truncated, infos = ours.step(np.zeros(2, np.int64))
        step = played[:, t]["next"]
        np.testing.assert_allclose(step["reward"][:, 0], rewards, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(step["done"][:, 0], terminated | truncated)
        np.testing.assert_allclose(step["robometer", "progress"][:, 0], infos["robometer/progress"], rtol=1e-6)
        np.testing.assert_allclose(step["robometer", "task_reward"][:, 0], infos["robometer/task_reward"])
    assert played["next", "reward"].dtype is torch.float32


def test_one_environment_and_other_transforms_around() -> None:
    env = transformed("single", BrightnessModel())
    env.append_transform(RewardSum())
    env.append_transform(StepCounter())
    steps = env.rollout(20)
    np.testing.assert_allclose(steps["next", "reward"][:, 0], 0.2, rtol=1e-6)
    assert len(steps) == 5
    np.testing.assert_allclose(float(steps["next", "episode_reward"][-1]), 1.0, rtol=1e-6)
    np.testing.assert_allclose(steps["robometer", "progress"][:, 0], [0, 0.2, 0.4, 0.6, 0.8], atol=1e-6)
    assert steps["next", "robometer", "task_reward"].sum() == 5


def test_predicted_success_ends_an_episode_which_is_really_reset() -> None:
    spec = RewardSpec(terminate_on_success=True, success_threshold=0.3, patience=1, success_bonus=1.0)
    env = transformed("serial", BrightnessModel(), reward=spec)
    steps = env.rollout(6, break_when_any_done=False)
    ends = steps["next", "terminated"][..., 0].tolist()
    assert ends[0] == [False, False, True, False, False, True]  # 0.6 ** 2 > 0.3
    assert ends[1] == [False, True, False, True, False, True], "its own end; what a reset shows does not count"
    assert steps["next", "robometer", "success_detected"][0, :, 0].tolist() == ends[0]
    np.testing.assert_allclose(steps["next", "reward"][0, :, 0], [0.2, 0.2, 1.2] * 2, rtol=1e-5)


def test_a_clone_has_histories_of_its_own() -> None:
    env = transformed("single", BrightnessModel())
    env.rollout(2)
    other = TransformedEnv(world(), env.transform.clone())
    with pytest.raises(RuntimeError, match="has seen no reset"):
        other.step(other.rand_action(other.base_env.reset()))
    other.rollout(3)
    assert env.rollout(3)["next", "reward"].shape == (3, 1)


def test_an_episode_that_is_over_is_not_gone_on_with() -> None:
    env = transformed("single", BrightnessModel())
    steps = env.rollout(5)
    with pytest.raises(ResetNeeded, match="have ended"):
        env.step(env.rand_action(steps[-1]["next"].exclude("reward")))


def test_what_is_missing_is_named() -> None:
    env = TransformedEnv(world(), RobometerReward(BrightnessModel(), TASK, frames="top"))
    with pytest.raises(KeyError, match=r"frames='top': the tensordict has .*pixels"):
        env.reset()
    env = TransformedEnv(
        GymWrapper(BrightnessWorld(shape=(8, 8, 1))), RobometerReward(BrightnessModel(), TASK, frames="observation")
    )
    with pytest.raises(FrameError, match=r"environment 0.*grey"):
        env.reset()
    with pytest.raises(TypeError, match="lives once, in the main process"):
        pickle.dumps(env.transform)
