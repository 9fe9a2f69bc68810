"""Steer a policy that must stay as it is: learn what to add to its actions, paid by a reward model.

    pip install -c constraints.txt -e ".[libero,examples]"
    python examples/steer_frozen_policy.py                  # what the model sees, and 1 when the task is done
    python examples/steer_frozen_policy.py --arm sparse     # 1 when the task is done

A large policy that was trained elsewhere is often good, but not good enough, and cannot be trained further. Here such a
policy is made first: a small network that imitates a few scripted demonstrations of a LIBERO task, and so succeeds in
part of the episodes only. It is frozen. Then Soft Actor-Critic learns a second network that sees the state and what the
frozen policy is about to do, and adds to its actions:

    action = clip(frozen(state) + weight * learned(state, frozen(state)))

The frozen policy acts at every step of the simulator; what is added is decided every ``action_repeat`` steps. The first
decisions are random, to fill the replay buffer; after them it is nearly nothing, and grows by learning. Rewards,
evaluation on unseen initial states and resuming are those of ``sb3_libero.py``. To steer a policy of your own, give its
actions in the place of `Base`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import sb3_libero
import torch
import tyro
from numpy.typing import NDArray
from sb3_libero import TRAINING_STATES, evaluate, make_task, shortened
from stable_baselines3 import SAC
from stable_baselines3.common.type_aliases import PolicyPredictor
from torch import nn

from robometer_rl.collecting.libero_policies import ScriptedPolicy
from robometer_rl.collecting.libero_scene import Scene
from robometer_rl.collecting.libero_skills import solution
from robometer_rl.envs.libero import LiberoEnv
from robometer_rl.files import new_file, write_text

Numbers = NDArray[np.float32]

DEMONSTRATION_STEPS = 400  # at most; scripts take about 50 to close a drawer


@dataclass
class Args(sb3_libero.Args):
    """Options.

    Attributes:
        suite: LIBERO suite.
        task_id: Number of the task in its suite; scripts can demonstrate those that ``robometer-rl collect`` records.
        demonstrations: Successful episodes that the frozen policy imitates. The fewer, the more is left to learn.
        fit: Gradient steps of the imitation.
        weight: How far an action may be moved; 2 can turn any action into any other.
        steps: Simulator steps to learn from, over all environments.
        max_steps: Simulator steps per episode.
        entropy: As in ``sb3_libero.py``; small, since what is to be learned is a correction.
        output: Where runs are written, one directory each.
    """

    demonstrations: int = 3
    fit: int = 2000
    weight: float = 0.5
    steps: int = 20_000
    max_steps: int = 200
    evaluate_every: int = 5_000
    entropy: float = 0.02
    output: Path = Path("outputs/steer_frozen_policy")

    @property
    def folder(self) -> Path:
        """Of the demonstrations and the frozen policy, which all arms share."""
        return self.output / f"{self.suite}-{self.task_id}-frozen-{self.seed}"


class Base(nn.Module):
    """The policy that is frozen: a small network that imitates."""

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, states: int, actions: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(states))
        self.register_buffer("spread", torch.ones(states))
        self.layers = nn.Sequential(
            nn.Linear(states, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, actions)
        )

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Actions (N, A) for states (N, S)."""
        return self.layers((states - self.mean) / self.spread)

    @torch.no_grad()
    def act(self, state: Numbers) -> Numbers:
        """The action (A,) for a state (S,), in [-1, 1]."""
        return self(torch.as_tensor(state, dtype=torch.float32)[None])[0].clamp(-1.0, 1.0).numpy()


def clone(states: Numbers, actions: Numbers, fit: int, seed: int) -> Base:
    """A policy that imitates ``actions`` (N, A) in ``states`` (N, S), frozen."""
    torch.manual_seed(seed)
    base = Base(states.shape[1], actions.shape[1])
    seen, done = torch.as_tensor(states), torch.as_tensor(actions)
    base.mean.copy_(seen.mean(0))
    base.spread.copy_(seen.std(0).clamp(min=0.1))  # what hardly varied here must not count the more elsewhere
    optimizer = torch.optim.Adam(base.layers.parameters(), lr=1e-3)
    for _ in range(fit):
        batch = torch.randint(len(seen), (128,))
        loss = nn.functional.mse_loss(base(seen[batch]), done[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return base.requires_grad_(False).eval()


class Steered(gym.Wrapper[Any, Any, Any, Any]):
    """Takes what is added to the actions of a frozen policy, and shows its next action beside the state."""

    def __init__(self, env: gym.Env[Any, Any], base: Base, weight: float) -> None:
        super().__init__(env)
        self._base = base
        self._weight = weight
        self._proposed: Numbers = np.zeros(0, np.float32)
        space, actions = cast(gym.spaces.Box, env.observation_space), cast(gym.spaces.Box, env.action_space)
        self._low, self._high = actions.low, actions.high
        self.observation_space = gym.spaces.Box(
            np.concatenate([space.low, actions.low]), np.concatenate([space.high, actions.high]), dtype=np.float32
        )
        self.action_space = gym.spaces.Box(-1.0, 1.0, actions.shape, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """An episode of the environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_proposal(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Does what the frozen policy proposed, moved by ``weight * action``."""
        moved = np.clip(self._proposed + self._weight * np.asarray(action), self._low, self._high)
        observation, reward, terminated, truncated, info = self.env.step(moved.astype(np.float32))
        return self._with_proposal(observation), reward, terminated, truncated, info

    def _with_proposal(self, observation: Numbers) -> Numbers:
        self._proposed = self._base.act(observation)
        return np.concatenate([observation, self._proposed], dtype=np.float32)


class AddsNothing:
    """The frozen policy alone, in the form of an agent."""

    def __init__(self, actions: int) -> None:
        self._nothing = np.zeros(actions, np.float32)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Numbers, None]:
        """Zeros."""
        return self._nothing, None


def begin_small(agent: SAC) -> None:
    """Lets an untrained agent add nearly nothing, with a noise of about a third of what it may add."""
    with torch.no_grad():
        for layer, bias in ((agent.actor.mu, 0.0), (agent.actor.log_std, -1.0)):
            assert isinstance(layer, nn.Linear), f"expected an actor without gSDE, got {layer}"
            layer.weight.mul_(0.01)
            layer.bias.fill_(bias)


def demonstrations(args: Args) -> tuple[Numbers, Numbers]:
    """States (N, S) and actions (N, A) of successful scripted episodes; recorded ones are not repeated."""
    folder = args.folder / "demonstrations"
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(args.seed).permutation(TRAINING_STATES)
    env: gym.Env[Any, Any] | None = None
    found: list[tuple[Numbers, Numbers]] = []
    for first in order.tolist():
        if len(found) == args.demonstrations:
            break
        recorded = folder / f"{first:02d}.npz"
        if not recorded.exists():
            if env is None:
                env = make_task(replace(args, action_repeat=1, max_steps=DEMONSTRATION_STEPS), frames=False)
            states, actions, success = demonstrate(env, first)
            with new_file(recorded) as path, path.open("wb") as file:
                np.savez(file, states=states, actions=actions, success=success)
        with np.load(recorded) as arrays:
            if arrays["success"]:
                found.append((arrays["states"], arrays["actions"]))
    if env is not None:
        env.close()
    if len(found) < args.demonstrations:
        raise ValueError(
            f"got --demonstrations {args.demonstrations}, expected at most {len(found)}: from so many of the "
            f"{TRAINING_STATES} initial states of {args.suite} {args.task_id} the script succeeds"
        )
    states, actions = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return states, actions


def demonstrate(env: gym.Env[Any, Any], first: int) -> tuple[Numbers, Numbers, bool]:
    """States (T, S), actions (T, A) and success of one scripted episode from an initial state."""
    observation, _ = env.reset(seed=first, options={"init_state": first})
    script = ScriptedPolicy(solution(Scene(cast(LiberoEnv, env.unwrapped)), pace=1.0))
    states, actions, over, success = [], [], False, False
    while not over:
        action = script.act()
        states.append(observation)
        actions.append(action)
        observation, _, terminated, truncated, info = env.step(action)
        over, success = terminated or truncated, bool(info["is_success"])
    return np.stack(states), np.stack(actions), success


def make_base(args: Args) -> tuple[Base, float]:
    """The frozen policy and how often it succeeds alone in the episodes of the last evaluation; made only once."""
    args.folder.mkdir(parents=True, exist_ok=True)
    kept, network = args.folder / "frozen.json", args.folder / "frozen.pt"
    names = ("demonstrations", "fit", "weight", "action_repeat", "max_steps", "evaluation_episodes")
    settings = json.loads(json.dumps({name: getattr(args, name) for name in names}))
    states, actions = demonstrations(args)
    if kept.exists():
        found = json.loads(kept.read_text())
        if found["settings"] != settings:
            raise ValueError(
                f"{args.folder} holds a frozen policy made with {found['settings']}, got {settings}; "
                "remove it or choose another --output"
            )
        base = Base(states.shape[1], actions.shape[1])
        base.load_state_dict(torch.load(network, weights_only=True))
        return base.requires_grad_(False).eval(), found["success"]
    base = clone(states, actions, args.fit, args.seed)
    env = make_task(args, frames=False, change=partial(Steered, base=base, weight=args.weight))
    alone: PolicyPredictor = AddsNothing(actions.shape[1])
    success = evaluate(alone, args, env, args.evaluation_episodes[1])
    env.close()
    with new_file(network) as path:
        torch.save(base.state_dict(), path)
    write_text(kept, json.dumps({"settings": settings, "steps_seen": len(states), "success": success}, indent=1) + "\n")
    return base, success


def main(args: Args) -> sb3_libero.Progress:
    """Makes the frozen policy, steers it, and says how good both are."""
    base, alone = make_base(args)
    print(f"the frozen policy, of {args.demonstrations} demonstration(s), succeeds in {alone:4.0%} of unseen episodes")
    curve = sb3_libero.run(args, change=partial(Steered, base=base, weight=args.weight), prepare=begin_small)
    for steps, success in zip(curve.steps, curve.success, strict=True):
        print(f"{steps:8d} steps: {success:4.0%} of unseen episodes succeed when it is steered")
    print(f"\nin {args.output}: {args.folder.name}/frozen.pt, which was not changed, and {args.name}/agent.zip")
    print(next_step(args, alone, curve.success[-1]))
    return curve


def next_step(args: Args, alone: float, steered: float) -> str:
    """What to do after a run."""
    if alone == 1.0:
        return "the frozen policy left nothing to learn: try fewer --demonstrations, or another --task-id"
    if steered <= alone:
        return "steering did not help: look at honesty.jsonl beside the agent, try a smaller --weight, or more --steps"
    other = "sparse" if args.watched else "robometer_sparse"
    return f"how much of it is the reward's part: --arm {other}; whether it lasts: --seed {args.seed + 1}"


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    if arguments.smoke:
        arguments = replace(shortened(arguments), demonstrations=1, fit=20)
    main(arguments)
