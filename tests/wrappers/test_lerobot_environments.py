"""Environments that LeRobot makes with `gymnasium.make`: pixels in a dictionary, success in ``is_success``."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from robometer_rl.wrappers import RobometerReward
from robometer_rl.wrappers.vector import RobometerReward as VectorReward
from tests.fixed_models import BrightnessModel

TASK = "push the T onto the target"


def push_t(top: bool = False, steps: int = 300) -> gym.Env[Any, Any]:
    """As LeRobot makes it; ``top`` puts its pixels where those of its other environments are."""
    pytest.importorskip("gym_pusht")
    env = gym.make(
        "gym_pusht/PushT-v0", obs_type="pixels_agent_pos", render_mode="rgb_array", max_episode_steps=steps,
        disable_env_checker=True,
    )  # fmt: skip
    if not top:
        return env
    seen = env.observation_space
    assert isinstance(seen, spaces.Dict)
    space = spaces.Dict({"pixels": spaces.Dict({"top": seen["pixels"]}), "agent_pos": seen["agent_pos"]})
    return gym.wrappers.TransformObservation(env, lambda found: {**found, "pixels": {"top": found["pixels"]}}, space)


def brightness(pixels: NDArray[np.uint8]) -> float:
    return float(pixels.mean()) / 255


@pytest.mark.parametrize(("frames", "top"), [("obs/pixels", False), ("obs/pixels/top", True), ("render", False)])
def test_one_environment_is_paid_for_its_pixels(frames: str, top: bool) -> None:
    env = RobometerReward(push_t(top), BrightnessModel(), TASK, frames=frames)
    observation, info = env.reset(seed=0)
    before = info["robometer/reset_progress"]
    for _ in range(3):
        observation, reward, *_, info = env.step(np.array([100.0, 400.0], np.float32))
        assert reward == pytest.approx(info["robometer/progress"] - before, abs=1e-6)
        before = info["robometer/progress"]
        if frames != "render":
            pixels = observation["pixels"]["top"] if top else observation["pixels"]
            assert before == pytest.approx(brightness(pixels), abs=1e-6)
    assert "robometer/true_success" not in info
    env.close()


def test_its_success_is_true_success() -> None:
    env = RobometerReward(push_t(), BrightnessModel(), TASK, frames="obs/pixels")
    env.reset(seed=0)
    world: Any = env.unwrapped
    world.block.angle = np.pi / 4
    world.block.position = (256, 256)  # where the T belongs, and the hand is elsewhere
    *_, terminated, _, info = env.step(world.agent.position)
    assert terminated
    assert info["is_success"]
    assert info["robometer/true_success"] is True
    env.close()


@pytest.mark.parametrize("top", [False, True])
def test_several_that_reset_themselves_as_lerobot_makes_them(top: bool) -> None:
    envs = SyncVectorEnv([partial(push_t, top, 2)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    env = VectorReward(envs, BrightnessModel(), TASK, frames="obs/pixels/top" if top else "obs/pixels")

    def seen(observations: Any) -> NDArray[np.uint8]:
        return observations["pixels"]["top"] if top else observations["pixels"]

    observations, infos = env.reset(seed=0)
    for _ in range(2):
        first = [brightness(each) for each in seen(observations)]
        np.testing.assert_allclose(infos["robometer/reset_progress"], first, atol=1e-6)
        _, _, *ends, infos = env.step(np.full((2, 2), 100, np.float32))
        assert not np.any(ends)
        before = infos["robometer/progress"]
        observations, rewards, _, truncated, infos = env.step(np.full((2, 2), 300, np.float32))
        assert truncated.all()
        last = [brightness(seen(each)) for each in infos["final_obs"]]
        np.testing.assert_allclose(infos["robometer/progress"], last, atol=1e-6)
        np.testing.assert_allclose(rewards, last - before, atol=1e-6)
        assert infos["robometer/true_success"].tolist() == [False, False]
    env.close()
