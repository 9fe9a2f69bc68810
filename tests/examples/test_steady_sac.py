"""The networks and the schedule are those that were asked for, and an agent that was saved goes on with them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from tests.library import ROOT

sys.path.append(str(ROOT / "examples"))

from steady_sac import Critics, Steadiness, agent_class, expected_value, make_agent


def made(steadiness: Steadiness, **options: Any) -> Any:
    """An agent for two pendulums."""
    venv = make_vec_env("Pendulum-v1", n_envs=2)
    return make_agent(venv, steadiness, 1e-3, {}, seed=0, learning_starts=8, batch_size=8, buffer_size=100, **options)


def counted(agent: Any, kind: type[nn.Module]) -> int:
    """How many layers of a kind the critics have."""
    return sum(isinstance(module, kind) for module in agent.critic.modules())


@pytest.mark.parametrize(("critics", "norms", "dropouts"), [("plain", 0, 0), ("layer_norm", 4, 0), ("dropout", 4, 4)])
def test_critics_have_the_layers_that_they_are_named_after(critics: Critics, norms: int, dropouts: int) -> None:
    agent = made(Steadiness(critics=critics))
    assert (counted(agent, nn.LayerNorm), counted(agent, nn.Dropout)) == (norms, dropouts)
    assert not any(isinstance(module, nn.LayerNorm | nn.Dropout) for module in agent.actor.modules())
    for one, other in zip(agent.critic.parameters(), agent.critic_target.parameters(), strict=True):
        assert np.array_equal(one.detach().numpy(), other.detach().numpy())
    learned = {id(weight) for group in agent.critic.optimizer.param_groups for weight in group["params"]}
    assert learned == {id(weight) for weight in agent.critic.parameters()}


@pytest.mark.parametrize("critics", ["plain", "layer_norm", "dropout", "crossq"])
def test_an_agent_learns_is_saved_and_goes_on(critics: Critics, tmp_path: Path) -> None:
    if critics == "crossq":
        pytest.importorskip("sb3_contrib")
    steadiness = Steadiness(critics=critics)
    agent = made(steadiness)
    before = [weight.detach().clone() for weight in agent.critic.parameters()]
    agent.learn(24)
    assert any(not np.array_equal(a, b.detach()) for a, b in zip(before, agent.critic.parameters(), strict=True))
    agent.save(tmp_path / "agent")
    again = agent_class(steadiness).load(tmp_path / "agent", env=agent.get_env())
    observation = np.array([[0.5, 0.5, 0.1]], np.float32)
    # Dropout is off where values are read, whatever was done before.
    assert expected_value(again, observation) == expected_value(again, observation)
    assert expected_value(again, observation) == pytest.approx(expected_value(agent, observation), abs=1e-5)
    again.learn(8, reset_num_timesteps=False)
    assert again.num_timesteps == 32


def test_a_falling_rate_ends_at_nothing_and_a_constant_one_stays() -> None:
    rates = {}
    for schedule in ("linear", "constant"):
        agent = made(Steadiness(schedule=schedule))
        rates[schedule] = [agent.lr_schedule(remaining) for remaining in (1.0, 0.5, 0.0)]
    assert rates == {"linear": pytest.approx([1e-3, 5e-4, 0.0]), "constant": [1e-3] * 3}


def test_entropy_is_the_one_aimed_at() -> None:
    assert made(Steadiness(target_entropy=-0.3)).target_entropy == -0.3
    assert made(Steadiness()).target_entropy == -1.0
