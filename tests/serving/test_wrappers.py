"""Every wrapper pays the same over HTTP as with a model in its own process, and an outage is an error or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.rewards import RewardSpec
from robometer_rl.serving.problems import ServerError
from tests.fixed_models import PixelModel
from tests.library import ROOT
from tests.serving.servers import serving, start
from tests.wrappers.drivers import KINDS, check_log, make_driver

DELTA = RewardSpec(mode="delta", task_weight=0.5, every=2)


@pytest.fixture(scope="module", params=["one server", "two servers"])
def remote(request: pytest.FixtureRequest) -> Iterator[RewardModel]:
    with serving(PixelModel) as first, serving(PixelModel) as second:
        urls = [first.url, second.url] if request.param == "two servers" else [first.url]
        yield load_reward_model(",".join(urls))


def check(kind: str, remote: RewardModel, steps: int, spec: RewardSpec = DELTA) -> None:
    driver = make_driver(kind, 4, remote, spec, size=8)
    driver.reset(seed=7)
    for _ in range(steps):
        driver.step()
    assert check_log(driver, PixelModel(), spec, tolerance=1e-6, size=8) > steps


@pytest.mark.parametrize("kind", KINDS)
def test_wrappers_are_paid_by_a_server_as_by_a_model(kind: str, remote: RewardModel) -> None:
    check(kind, remote, 30)


@pytest.mark.parametrize("kind", KINDS)
def test_confidence_travels(kind: str, remote: RewardModel) -> None:
    check(kind, remote, 30, RewardSpec(confidence=0.3))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_wrappers_are_paid_by_a_server_as_by_a_model_for_long(kind: str, remote: RewardModel) -> None:
    check(kind, remote, 620)


class Pictures(gym.Env[np.ndarray, np.int64]):
    """Each picture is another one."""

    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)
    render_mode = "rgb_array"

    def __init__(self) -> None:
        self.count = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.count += 1
        return np.zeros(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        return np.zeros(1, np.float32), 0.0, False, self.count % 20 == 0, {}

    def render(self) -> np.ndarray:
        return np.random.default_rng(self.count).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def rewards_of(model: RewardModel, steps: int, interrupt: object = None) -> np.ndarray:
    """What an agent that learns later was paid, by the asynchronous wrapper and its buffer."""
    pytest.importorskip("stable_baselines3")
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_vec_env

    from robometer_rl.wrappers import AsyncVecRobometerReward, LabelledReplayBuffer, RenderToInfo

    venv = make_vec_env(Pictures, n_envs=2, wrapper_class=RenderToInfo)
    venv = AsyncVecRobometerReward(venv, model, task="push")
    agent = DQN("MlpPolicy", venv, buffer_size=1000, replay_buffer_class=LabelledReplayBuffer, learning_starts=10_000)
    try:
        agent.learn(steps, callback=interrupt)  # pyright: ignore[reportArgumentType]
        assert agent.replay_buffer is not None
        agent.replay_buffer.drain()  # pyright: ignore[reportAttributeAccessIssue]
        return agent.replay_buffer.rewards[: steps // 2].copy()
    finally:
        venv.close()


def test_rewards_that_arrive_later_come_from_servers_too(remote: RewardModel) -> None:
    np.testing.assert_allclose(rewards_of(remote, 120), rewards_of(PixelModel(), 120), atol=1e-6)


FAMILY = """
from tests.fixed_models import PixelModel

def load(where):
    return PixelModel()
"""


def test_a_server_that_is_killed_while_an_agent_learns_changes_no_reward(tmp_path: Path) -> None:
    """Never a reward of 0: the transitions have the rewards that they would have had, or the training ends."""
    (tmp_path / "pixel_family.py").write_text(FAMILY)
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    servers = [start("--model", "pixel_family:x", "--port", "0", environment=environment)]
    port = servers[0].url.rpartition(":")[2]
    model = load_reward_model(servers[0].url, patience=600.0)

    def kill(variables: dict, _: dict) -> bool:
        if variables["self"].num_timesteps == 60:
            servers[-1].kill()
            servers.append(start("--model", "pixel_family:x", "--port", port, environment=environment))
        return True

    np.testing.assert_allclose(rewards_of(model, 120, kill), rewards_of(PixelModel(), 120), atol=1e-6)
    short = load_reward_model(servers[-1].url, patience=0.1)
    servers[-1].kill()
    with pytest.raises(ServerError, match="does not answer"):
        rewards_of(short, 120)
