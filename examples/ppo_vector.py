"""Proximal Policy Optimization on a vector environment that a reward model pays; one file, no RL library.

    pip install -c constraints.txt -e ".[metaworld]"
    python examples/ppo_vector.py                                  # Meta-World's drawer-close
    python examples/ppo_vector.py --reward sparse                  # the same, paid for true success only
    python examples/ppo_vector.py --env gym_pusht/PushT-v0 --imports gym_pusht --task "push the T onto the target"
    robometer-rl ui --live outputs/ppo_vector/drawer-close-robometer-0/live

The policy sees the observation, a vector of numbers; the reward model what ``render()`` draws, and the instruction.
Environments run side by side and reset themselves in the step that ends an episode (``SAME_STEP``), so that the last
frame comes from `RenderToInfo` and the last observation from ``infos["final_obs"]``. What is paid is ``--reward``:

    robometer   progress that the model sees
    both        the same, and 1 per decision in which the environment says that the task is done
    sparse      that alone, without a model

An agent is judged by true success on seeds that training never uses. PPO needs many more steps than the off-policy
example, `sb3_metaworld.py`, and less time for each of them: many environments are scored in one batch.
"""

from __future__ import annotations

import importlib
import json
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn
from torch.distributions import Normal

from robometer_rl import RewardSpec
from robometer_rl.envs.metaworld import TASKS, make_env
from robometer_rl.files import new_file, write_text
from robometer_rl.true_success import SuccessLatch
from robometer_rl.wrappers import RenderToInfo
from robometer_rl.wrappers.vector import RobometerReward

EVALUATION_SEED = 1_000_000  # training seeds stay far below


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        env: A Meta-World task, or the id of any environment of Gymnasium with a vector of numbers to observe, a box of
            actions, and pictures.
        task: The instruction; may be left out in Meta-World.
        imports: Modules that register the environment.
        reward: What is paid.
        model: Reward model, as for ``load_reward_model``.
        decisions: Decisions to learn from, over all environments.
        envs: Environments side by side.
        processes: Run each in a process of its own.
        action_repeat: Steps of the environment per decision.
        max_decisions: Decisions per episode.
        rollout: Decisions of each environment between updates.
        epochs: Passes over them per update.
        minibatches: Parts of them, a gradient step each.
        learning_rate: At the beginning; it falls to 0.
        gamma: Discount per decision.
        gae_lambda: Of the advantages: 0 trusts the critic, 1 the rewards.
        clip: How far an update may change the probability of an action.
        entropy: Weight of the policy's entropy.
        evaluation_episodes: Unseen episodes before and after training.
        seed: Seed.
        output: Where runs are written, one directory each.
        smoke: Run a minute's worth, to see that everything works.
    """

    env: str = "drawer-close"
    task: str | None = None
    imports: tuple[str, ...] = ()
    reward: Literal["robometer", "both", "sparse"] = "robometer"
    model: str = "mini"
    decisions: int = 40_000
    envs: int = 8
    processes: bool = False
    action_repeat: int = 10
    max_decisions: int = 30
    rollout: int = 60
    epochs: int = 10
    minibatches: int = 8
    learning_rate: float = 1e-3
    gamma: float = 0.95
    gae_lambda: float = 0.9
    clip: float = 0.2
    entropy: float = 1e-3
    evaluation_episodes: int = 50
    seed: int = 0
    output: Path = Path("outputs/ppo_vector")
    smoke: bool = False

    @property
    def directory(self) -> Path:
        """Of the run."""
        return self.output / f"{self.env.replace('/', '-')}-{self.reward}-{self.seed}"


class Decisions(gym.Wrapper[Any, Any, Any, Any]):
    """Holds an action for several steps; pays 1 where the environment says afterwards that the task is done.

    ``info["is_success"]`` says whether it was done in the episode so far, if the environment says anything about that.
    """

    def __init__(self, env: gym.Env[Any, Any], repeat: int) -> None:
        super().__init__(env)
        self._repeat = repeat
        self._success = SuccessLatch()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        self._success.begin()
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One decision."""
        for _ in range(self._repeat):
            observation, _, terminated, truncated, info = self.env.step(action)
            done = self._success.note(info)
            if terminated or truncated:
                break
        said = {} if self._success.achieved is None else {"is_success": self._success.achieved}
        return observation, float(done), terminated, truncated, {**info, **said}


def make(args: Args, frames: bool) -> gym.Env[Any, Any]:
    """One environment, with actions from -1 to 1; with its frames in the info if a model is to see them."""
    for module in args.imports:
        importlib.import_module(module)
    steps, render_mode = args.max_decisions * args.action_repeat, "rgb_array" if frames else None
    if args.env in TASKS:
        env = make_env(args.env, max_episode_steps=steps, render_mode=render_mode)
    else:
        env = gym.make(args.env, max_episode_steps=steps, render_mode=render_mode)
    for name, space in (("observations", env.observation_space), ("actions", env.action_space)):
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise SystemExit(f"the {name} of {args.env} are {space}; expected a Box with one axis")
    env = Decisions(gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1)), args.action_repeat)
    return RenderToInfo(env) if frames else env


def make_vector(args: Args) -> VectorEnv[Any, Any, Any]:
    """The environments to learn in, which pay ``args.reward``."""
    watched = args.reward != "sparse"
    task = args.task or (TASKS[args.env].task if args.env in TASKS else None)
    if watched and task is None:
        raise SystemExit(f"{args.env} needs an instruction: --task 'push the T onto the target'")
    vector = AsyncVectorEnv if args.processes else SyncVectorEnv
    envs = vector([partial(make, args, watched)] * args.envs, autoreset_mode=AutoresetMode.SAME_STEP)
    if not watched or task is None:
        return envs
    paid = RobometerReward(envs, args.model, task, RewardSpec(task_weight=float(args.reward == "both")))
    paid.record_live(args.directory / "live")
    return paid


class Agent(nn.Module):
    """A policy and a critic, which see observations of mean 0 and variance 1."""

    count: torch.Tensor
    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, observations: int, actions: int) -> None:
        super().__init__()
        self.policy, self.critic = (
            _network(observations, outputs, gain) for outputs, gain in ((actions, 0.01), (1, 1.0))
        )
        self.log_std = nn.Parameter(torch.full((actions,), -0.5))
        self.register_buffer("count", torch.tensor(1e-4, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(observations, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(observations, dtype=torch.float64) * 1e-4)

    def note(self, observations: torch.Tensor) -> None:
        """Takes (n, observations) into the mean and the variance of all that were seen."""
        seen = observations.double()
        total = self.count + len(seen)
        shift = seen.mean(0) - self.mean
        self.spread += ((seen - seen.mean(0)) ** 2).sum(0) + shift**2 * self.count * len(seen) / total
        self.mean += shift * len(seen) / total
        self.count.copy_(total)

    def forward(self, observations: torch.Tensor) -> tuple[Normal, torch.Tensor]:
        """What to do, and (n,) how much will be paid."""
        normal = (observations - self.mean) / (self.spread / self.count + 1e-8).sqrt()
        normal = normal.clamp(-10, 10).float()
        return Normal(self.policy(normal), self.log_std.exp()), self.critic(normal).squeeze(-1)


def _network(inputs: int, outputs: int, gain: float) -> nn.Sequential:
    layers = [nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)]
    for layer, scale in ((layers[0], 2**0.5), (layers[2], 2**0.5), (layers[4], gain)):
        nn.init.orthogonal_(layer.weight, scale)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return nn.Sequential(*layers)


@dataclass
class Rollout:
    """What was done in T decisions of n environments; (T, n, ...) each, and ``values`` of T + 1."""

    observations: list[torch.Tensor] = field(default_factory=list)
    actions: list[torch.Tensor] = field(default_factory=list)
    log_probs: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    rewards: list[torch.Tensor] = field(default_factory=list)
    ends: list[torch.Tensor] = field(default_factory=list)

    def advantages(self, gamma: float, gae_lambda: float) -> torch.Tensor:
        """(T, n) generalized advantage estimates; nothing passes the end of an episode."""
        found: list[torch.Tensor] = []
        following = torch.zeros_like(self.values[-1])
        for t in reversed(range(len(self.rewards))):
            goes_on = 1.0 - self.ends[t]
            error = self.rewards[t] + gamma * self.values[t + 1] * goes_on - self.values[t]
            following = error + gamma * gae_lambda * goes_on * following
            found.append(following)
        return torch.stack(found[::-1])


@torch.no_grad()
def collect(
    agent: Agent, envs: VectorEnv[Any, Any, Any], observation: torch.Tensor, args: Args, log: list[bool]
) -> Any:
    """Plays a rollout from ``observation``; returns it with the observation after it. ``log`` gains true successes."""
    rollout = Rollout()
    for _ in range(args.rollout):
        agent.note(observation)
        policy, value = agent(observation)
        action = policy.sample()
        seen, reward, terminated, truncated, infos = envs.step(action.clamp(-1, 1).numpy())
        paid = torch.as_tensor(np.asarray(reward), dtype=torch.float32)
        ends = terminated | truncated
        for index in np.flatnonzero(truncated & ~terminated).tolist():
            # The episode was broken off, not over: what would have been paid later is what the critic expects.
            last = torch.as_tensor(infos["final_obs"][index])[None]
            paid[index] += args.gamma * agent(last)[1].item()
        if ends.any() and "is_success" in infos["final_info"]:
            log += infos["final_info"]["is_success"][ends].tolist()
        for kept, new in zip(
            (rollout.observations, rollout.actions, rollout.log_probs, rollout.values, rollout.rewards, rollout.ends),
            (observation, action, policy.log_prob(action).sum(-1), value, paid, torch.as_tensor(ends).float()),
            strict=True,
        ):
            kept.append(new)
        observation = torch.as_tensor(seen)
    rollout.values.append(agent(observation)[1])
    return rollout, observation


def update(agent: Agent, optimizer: torch.optim.Optimizer, rollout: Rollout, args: Args) -> None:
    """One update: several passes over a rollout, in which no action may become much more likely at once."""
    advantages = rollout.advantages(args.gamma, args.gae_lambda)
    returns = (advantages + torch.stack(rollout.values[:-1])).flatten()
    observations, actions = (torch.stack(each).flatten(0, 1) for each in (rollout.observations, rollout.actions))
    before, advantages = torch.stack(rollout.log_probs).flatten(), advantages.flatten()
    for _ in range(args.epochs):
        for part in torch.randperm(len(before)).chunk(args.minibatches):
            policy, value = agent(observations[part])
            ratio = (policy.log_prob(actions[part]).sum(-1) - before[part]).exp()
            weight = (advantages[part] - advantages[part].mean()) / (advantages[part].std(correction=0) + 1e-8)
            clipped = ratio.clamp(1 - args.clip, 1 + args.clip)
            gain = torch.min(ratio * weight, clipped * weight).mean() + args.entropy * policy.entropy().sum(-1).mean()
            loss = 0.5 * (value - returns[part]).square().mean() - gain
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()


@torch.no_grad()
def evaluate(agent: Agent, args: Args) -> float | None:
    """Part of unseen episodes in which the task is done; None if the environment does not say."""
    env, achieved = make(args, frames=False), []
    for episode in range(args.evaluation_episodes):
        observation, _ = env.reset(seed=EVALUATION_SEED + episode)
        over, info = False, {}
        while not over:
            action = agent(torch.as_tensor(observation)[None])[0].mean[0].clamp(-1, 1).numpy()
            observation, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
        achieved.append(info.get("is_success"))
    env.close()
    return None if None in achieved else float(np.mean(achieved))


def train(args: Args) -> tuple[Agent, dict[str, Any]]:
    """Trains one agent; returns it, and what is written of it."""
    torch.manual_seed(args.seed)
    args.directory.mkdir(parents=True, exist_ok=True)
    envs = make_vector(args)
    observation = torch.as_tensor(envs.reset(seed=args.seed * args.envs)[0])
    agent = Agent(observation.shape[1], envs.single_action_space.shape[0])  # pyright: ignore[reportOptionalSubscript]
    optimizer = torch.optim.Adam(agent.parameters(), args.learning_rate, eps=1e-5)
    updates = -(-args.decisions // (args.rollout * args.envs))
    result: dict[str, Any] = {"arguments": asdict(args), "before": evaluate(agent, args), "decisions": [], "paid": []}
    result["success_while_learning"] = []
    started = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        shown = bar.add_task("the first rollout", total=updates)
        for number in range(updates):
            optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - number / updates)
            log: list[bool] = []
            rollout, observation = collect(agent, envs, observation, args, log)
            update(agent, optimizer, rollout, args)
            result["decisions"].append((number + 1) * args.rollout * args.envs)
            result["paid"].append(float(torch.stack(rollout.rewards).mean()))
            result["success_while_learning"].append(float(np.mean(log)) if log else None)
            rate = f"{np.mean(log):.0%} succeed" if log else "no episode has ended"
            bar.update(shown, advance=1, description=f"{result['paid'][-1]:+.3f} per decision, {rate}")
    envs.close()
    result |= {"seconds": time.perf_counter() - started, "after": evaluate(agent, args)}
    with new_file(args.directory / "agent.pt") as path:
        torch.save(agent.state_dict(), path)
    write_text(args.directory / "result.json", json.dumps(result, indent=1, default=str) + "\n")
    return agent, result


def main(args: Args) -> None:
    """Trains, and says what came of it."""
    if args.smoke:
        args = replace(
            args,
            decisions=40,
            envs=2,
            rollout=10,
            max_decisions=4,
            epochs=2,
            minibatches=2,
            evaluation_episodes=2,
            output=args.output / "smoke",
        )
    _, result = train(args)
    print(
        f"{result['decisions'][-1]} decisions in {result['seconds']:.0f} s; the agent is {args.directory / 'agent.pt'}"
    )
    if result["after"] is None:
        print(f"{args.env} does not say whether a task is done (info['is_success']), so nobody knows how good it is")
    else:
        rates = f"{result['before']:.0%} before and {result['after']:.0%} after training"
        print(f"done in {rates}, of {args.evaluation_episodes} unseen episodes")
    live = f"robometer-rl ui --live {args.directory / 'live'}, to see it; " if args.reward != "sparse" else ""
    other = "sparse" if args.reward == "robometer" else "robometer"
    print(f"next: --reward {other}, to compare; {live}python {Path(__file__).name} --seed {args.seed + 1}, for another")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
