"""Whether a Stable-Baselines3 algorithm and the reward that its environment pays go together."""

from __future__ import annotations

import math
import warnings

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers.chunks import ActionChunk
from robometer_rl.wrappers.reward import RobometerReward
from robometer_rl.wrappers.sb3.asynchronous import AsyncVecRobometerReward
from robometer_rl.wrappers.sb3.replay_buffer import LabelledReplayBuffer
from robometer_rl.wrappers.sb3.vec_env import VecRobometerReward
from robometer_rl.wrappers.sb3.vec_reader import layers

__all__ = ["check_algorithm", "steps_per_decision"]


def check_algorithm(algorithm: BaseAlgorithm) -> None:
    """Checks an algorithm against the learned reward of its environment, before it learns.

    Environments never see the algorithm, so nothing but a call of this function can compare the two.

    Warns:
        UserWarning: The algorithm's gamma is not that of the `robometer_rl.RewardSpec`, so that a potential is not
            discounted as the agent's returns are; or a wrapper is in a place where it does something else than most
            want: a `VecNormalize` inside the reward wrapper normalises the task reward, a `VecMonitor` outside it
            reports learned returns as true ones.

    Raises:
        TypeError: A combination that cannot work: hindsight experience replay with a learned reward; rewards that
            arrive later and an algorithm or replay buffer that needs them at once.
        ValueError: The environment pays no learned reward, or `VecNormalize` normalises rewards that arrive later.

    Examples:
        With ``make_env``, which makes an environment with ``render_mode="rgb_array"``:

        >>> from stable_baselines3 import SAC
        >>> from stable_baselines3.common.env_util import make_vec_env
        >>> from robometer_rl.wrappers import RenderToInfo, VecRobometerReward, check_algorithm
        >>> venv = make_vec_env(make_env, wrapper_class=RenderToInfo)
        >>> venv = VecRobometerReward(venv, "mini", task="open the drawer")
        >>> agent = SAC("MlpPolicy", venv, gamma=0.99)
        >>> check_algorithm(agent)
    """
    env = algorithm.get_env()
    if env is None:
        raise ValueError("the algorithm has no environment yet: call set_env() first")
    stack = list(layers(env))
    position = next((i for i, layer in enumerate(stack) if isinstance(layer, VecRobometerReward)), len(stack))
    if isinstance(algorithm, OffPolicyAlgorithm) and isinstance(algorithm.replay_buffer, HerReplayBuffer):
        raise TypeError(
            "HerReplayBuffer recomputes rewards from two goals, and this reward depends on the frames of a whole "
            "history: use another replay buffer"
        )
    _check_discount(algorithm, _reward_spec(stack), steps_per_decision(env))
    _check_order(stack[:position], stack[position + 1 :])
    if any(isinstance(layer, AsyncVecRobometerReward) for layer in stack):
        _check_asynchronous(algorithm, stack[:position])


def _reward_spec(stack: list[VecEnv]) -> RewardSpec:
    for layer in stack:
        if isinstance(layer, VecRobometerReward):
            return layer.reward_spec
    if all(stack[-1].env_is_wrapped(RobometerReward)):
        return stack[-1].get_attr("reward_spec")[0]
    raise ValueError(f"{stack[0]} pays no learned reward: neither it nor its sub-environments have a reward wrapper")


def steps_per_decision(env: VecEnv) -> int:
    """How many steps that the reward wrapper pays one by one the agent discounts at once."""
    return env.get_attr("scored_steps_per_chunk")[0] if all(env.env_is_wrapped(ActionChunk)) else 1


def _check_discount(algorithm: BaseAlgorithm, spec: RewardSpec, steps: int) -> None:
    if spec.gamma is None or not isinstance(algorithm, (OnPolicyAlgorithm, OffPolicyAlgorithm)):
        return
    expected = spec.gamma**steps
    if not math.isclose(algorithm.gamma, expected):
        per_chunk = f", which is {expected:.6g} per chunk of {steps} steps" if steps > 1 else ""
        warnings.warn(
            f"{type(algorithm).__name__} discounts with gamma={algorithm.gamma}, the reward with "
            f"RewardSpec(gamma={spec.gamma}){per_chunk}: a potential changes which policy is best unless the two agree",
            stacklevel=3,
        )


def _check_order(outside: list[VecEnv], inside: list[VecEnv]) -> None:
    if any(isinstance(layer, VecNormalize) and layer.norm_reward for layer in inside):
        warnings.warn(
            "VecNormalize inside the reward wrapper normalises the task reward before it is weighed and reported: put "
            "it around the reward wrapper, or give norm_reward=False",
            stacklevel=3,
        )
    if any(isinstance(layer, VecMonitor) for layer in outside):
        warnings.warn(
            "VecMonitor around the reward wrapper reports learned returns as if they were true ones: put it, or "
            "Monitor, inside",
            stacklevel=3,
        )


def _check_asynchronous(algorithm: BaseAlgorithm, outside: list[VecEnv]) -> None:
    if not isinstance(algorithm, OffPolicyAlgorithm):
        raise TypeError(
            f"{type(algorithm).__name__} needs the reward of each step at once, and AsyncVecRobometerReward pays "
            "later: use VecRobometerReward, or an off-policy algorithm"
        )
    if not isinstance(algorithm.replay_buffer, LabelledReplayBuffer) or algorithm.n_steps > 1:
        raise TypeError(
            f"{type(algorithm).__name__} has a {type(algorithm.replay_buffer).__name__} and n_steps="
            f"{algorithm.n_steps}; rewards that arrive later need replay_buffer_class=LabelledReplayBuffer "
            "(LabelledDictReplayBuffer for dictionary observations) and n_steps=1"
        )
    if any(isinstance(layer, VecNormalize) and layer.norm_reward for layer in outside):
        raise ValueError(
            "VecNormalize(norm_reward=True) keeps statistics of rewards when a step is made, which is before they are "
            "known: use VecNormalize(norm_reward=False) and RewardSpec.scale"
        )
