"""An agent of Stable-Baselines3 that learns from what a model pays and from nothing else, and is recorded meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
from gymnasium import spaces
from rich.progress import Progress

from robometer_rl.documents import parse_object
from robometer_rl.evaluation.measures import AGENT
from robometer_rl.extras import require
from robometer_rl.hardening.config import HardenConfig
from robometer_rl.hardening.environment import ActionRepeat, SeededEpisodes, make_environment
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.report.terminal import open_console
from robometer_rl.wrappers.record_trajectories import RecordTrajectories
from robometer_rl.wrappers.rendering import RenderToInfo

__all__ = ["make_recorded", "train_agent"]

_SCALE: Final = {"delta": 10.0, "level": 1.0}
"""Of the learned reward, so that a decision pays about 0.1 to 1; by ``delta`` a whole episode pays 1 at most."""

_FIRST_SEED: Final = 10_000_000  # of agents' episodes; recordings of people and scripts stay below
_SEEDS: Final = 10_000  # of an agent
_AGENTS: Final = 100  # of a run

_EXPLORES: Final = 500  # decisions at random before an agent learns, a quarter of all at most
_ROLLOUT: Final = 128  # decisions between updates of PPO


def make_recorded(config: HardenConfig, store: Path, number: int) -> gym.Env[Any, Any]:
    """The environment as agent ``number`` of the run acts in it; its episodes go into the store."""
    env = make_environment(config.env, parse_object(config.env_options))
    if config.action_repeat > 1:
        env = ActionRepeat(env, config.action_repeat)
    recorded = RecordTrajectories(
        RenderToInfo(env, config.every),
        store,
        config.task,
        skill=f"{AGENT}_{config.mode}_{number}",
        every=config.every,
        success_key=config.success_key,
        state=config.state,
        progress=config.progress,
        distance=config.distance,
        data_source=f"harden-{number}",
    )
    return SeededEpisodes(recorded, _FIRST_SEED + _SEEDS * (_AGENTS * config.seed + number))


def train_agent(config: HardenConfig, model: RewardModel, folder: Path, number: int) -> None:
    """Trains an agent until the first episode that ends after ``config.decisions`` steps.

    Soft Actor-Critic where actions are numbers, else PPO, with the settings of the Meta-World example.

    Args:
        config: What to do.
        model: What pays.
        folder: Where its episodes go (``episodes``), what it was paid (``honesty.jsonl``), and what the studio shows
            of it while it learns (``live``).
        number: Of the agent, from which its seeds follow.

    Raises:
        ImportError: Stable-Baselines3 is not installed.
        ValueError: The environment does not say whether the task is done, or its episodes do not end.
    """
    sb3 = require("stable_baselines3", "sb3")
    from stable_baselines3.common.callbacks import ConvertCallback
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    from robometer_rl.wrappers.sb3 import VecRobometerReward
    from robometer_rl.wrappers.sb3.callback import RewardHonestyCallback

    reward = replace(config.reward, scale=_SCALE[config.mode])
    venv = DummyVecEnv([lambda: make_recorded(config, folder / "episodes", number)])
    with Progress(console=open_console(stderr=True), transient=True) as bars:
        bar = bars.add_task(f"round {number}: an agent learns", total=config.decisions)

        def advance(seen: dict[str, Any], _: dict[str, Any]) -> bool:
            done = seen["self"].num_timesteps
            bars.update(bar, completed=min(done, config.decisions))
            return done < config.decisions or not seen["dones"].any()

        try:
            paying = VecRobometerReward(venv, model, config.task, reward, success_key=config.success_key)
            agent = _make(sb3, VecNormalize(paying, norm_reward=False), config, number)
            honesty = RewardHonestyCallback(record=folder / "honesty.jsonl", live=folder / "live")
            # An episode that is broken off is not recorded; twice the time is for one that goes on.
            agent.learn(2 * config.decisions, callback=[honesty, ConvertCallback(advance)])
        finally:
            venv.close()


def _make(sb3: Any, venv: Any, config: HardenConfig, number: int) -> Any:
    policy = "MultiInputPolicy" if isinstance(venv.observation_space, spaces.Dict) else "MlpPolicy"
    seed = _AGENTS * config.seed + number
    usual = {"gamma": 0.95, "seed": seed, "device": "cpu"}
    if not isinstance(venv.action_space, spaces.Box):
        return sb3.PPO(policy, venv, n_steps=_ROLLOUT, **usual)
    return sb3.SAC(
        policy, venv, learning_rate=1e-3, learning_starts=min(_EXPLORES, config.decisions // 4), batch_size=256,
        train_freq=1, gradient_steps=2, buffer_size=2 * config.decisions, ent_coef="auto_0.1", **usual,
    )  # fmt: skip
