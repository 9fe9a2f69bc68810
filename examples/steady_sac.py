"""Soft Actor-Critic as the examples use it, with what is said to keep it from unlearning what it could do.

`docs/reward_design.md` has what each of these settings did to agents that are paid a learned reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

Critics = Literal["plain", "layer_norm", "dropout", "crossq"]
Schedule = Literal["constant", "linear"]


@dataclass(frozen=True)
class Steadiness:
    """What may keep an agent steady.

    Attributes:
        schedule: Whether the learning rate stays as it is, or falls to 0 at the end of the budget.
        critics: Critics as Stable-Baselines3 has them; with layer norm; with dropout of 1 % besides (DroQ, arXiv
            2110.02034); or CrossQ (arXiv 1902.05605), which needs sb3-contrib.
        target_entropy: In nats; None is one less than 0 for each number of an action.
    """

    schedule: Schedule = "linear"
    critics: Critics = "plain"
    target_entropy: float | None = None


class NormalizedPolicy(SACPolicy):
    """SAC's networks, with layer norm in the critics, and dropout before it if there is any."""

    def __init__(self, *arguments: Any, dropout: float = 0.0, **options: Any) -> None:
        self._dropout = dropout
        super().__init__(*arguments, **options)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """The critics, each hidden layer normalised before its activation."""
        critic = super().make_critic(features_extractor)
        for number, network in enumerate(critic.q_networks):
            assert isinstance(network, nn.Sequential)
            modules: list[nn.Module] = []
            for module in network:
                modules.append(module)
                if isinstance(module, nn.Linear) and module is not network[-1]:
                    modules += [nn.Dropout(self._dropout)] if self._dropout else []
                    modules.append(nn.LayerNorm(module.out_features))
            critic.q_networks[number] = nn.Sequential(*modules)
            critic.add_module(f"qf{number}", critic.q_networks[number])
        return critic.to(self.device)


def agent_class(steadiness: Steadiness) -> type[SAC]:
    """The algorithm, for making an agent and for loading one."""
    if steadiness.critics != "crossq":
        return SAC
    from sb3_contrib import CrossQ

    return CrossQ  # pyright: ignore[reportReturnType] # what is used of it here, it has in common with SAC


def make_agent(
    venv: VecEnv, steadiness: Steadiness, learning_rate: float, policy_kwargs: dict[str, Any], **options: Any
) -> SAC:
    """An agent that has learned nothing yet; ``options`` are those of `SAC`."""
    entropy = steadiness.target_entropy
    policy: str | type[SACPolicy] = "MlpPolicy"
    if steadiness.critics == "crossq":
        # As wide as the others, so that the difference is the algorithm.
        policy_kwargs = {**policy_kwargs, "net_arch": [256, 256]}
    elif steadiness.critics != "plain":
        policy = NormalizedPolicy
        policy_kwargs = {**policy_kwargs, "dropout": 0.01 if steadiness.critics == "dropout" else 0.0}
    falls = steadiness.schedule == "linear"
    return agent_class(steadiness)(
        policy, venv, learning_rate=LinearSchedule(learning_rate, 0.0, 1.0) if falls else learning_rate,
        target_entropy="auto" if entropy is None else entropy, policy_kwargs=policy_kwargs, device="cpu", **options,
    )  # fmt: skip


def expected_value(agent: SAC, observation: Any) -> float:
    """What the critics promise for the policy's action without noise: the discounted sum of what will be paid."""
    agent.policy.set_training_mode(False)  # or CrossQ would take one observation for a batch to normalise by
    with torch.no_grad():
        seen = agent.policy.obs_to_tensor(observation)[0]
        action = agent.actor(seen, deterministic=True)
        return float(torch.cat(agent.critic(seen, action), dim=1).min())
