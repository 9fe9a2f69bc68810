"""Train from recordings that have no rewards: let a reward model label them, then learn offline.

    pip install -c constraints.txt -e ".[metaworld,examples]"
    python examples/relabel_then_train.py --task drawer-close
    tensorboard --logdir outputs/relabel_then_train

What is recorded: rollouts of Meta-World's script, some disturbed so much that they fail: states, actions, and a frame
every few steps. No reward is kept but the sparse one, for comparison. Then, for each arm, a policy is trained on the
same transitions without touching the environment:

    robometer   rewards are what the model sees in the frames
    sparse      rewards are 1 in steps in which the task is done
    imitation   rewards are ignored: behaviour cloning of all that was recorded

The learner is TD3+BC (Fujimoto and Gu, 2021, arXiv 2106.06860) on Stable-Baselines3's TD3 and replay buffer.

Recordings that are already in a replay buffer, a LeRobot data set, or another format need no program of their own:
`robometer-rl relabel` writes rewards into them, and examples/offline_rl.py learns from what it has written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from stable_baselines3 import TD3
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import polyak_update
from torch.nn import functional

from robometer_rl import Clip, RewardSpec, load_reward_model
from robometer_rl.collecting.metaworld_policies import ExpertPolicy, NoisyPolicy
from robometer_rl.envs.metaworld import TASKS, make_env
from robometer_rl.files import write_text
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.rewards import episode_rewards, is_scored

Arm = Literal["robometer", "sparse", "imitation"]

EVALUATION_SEED = 1_000_000  # recording seeds stay far below


@dataclass
class Args:
    """Options.

    Attributes:
        task: Meta-World task.
        arms: Where rewards come from; one policy each.
        model: Reward model of the robometer arm, as for ``load_reward_model``.
        mode: How its predictions become a reward.
        every: Scoring interval in steps; frames in between are not rendered.
        episodes: Rollouts to record.
        noise: Noise of the recorded policies, as much for the worst; 1 is as much as an action can be.
        max_steps: Steps per episode.
        updates: Gradient steps per arm.
        evaluate_every: Gradient steps between evaluations.
        evaluation_episodes: Unseen episodes of an evaluation, and of the last one.
        alpha: Weight of the learned value against imitation.
        gamma: Discount per step.
        seed: Seed.
        output: Where logs and results go.
        smoke: Run a minute's worth, to see that everything works.
    """

    task: str = "drawer-close"
    arms: tuple[Arm, ...] = ("robometer", "sparse", "imitation")
    model: str = "mini"
    mode: Literal["level", "delta", "success"] = "level"
    every: int = 5
    episodes: int = 60
    noise: float = 3.0
    max_steps: int = 150
    updates: int = 20_000
    evaluate_every: int = 5_000
    evaluation_episodes: tuple[int, int] = (10, 50)
    alpha: float = 2.5
    gamma: float = 0.98
    seed: int = 0
    output: Path = Path("outputs/relabel_then_train")
    smoke: bool = False


@dataclass
class Recording:
    """One rollout of T steps.

    Attributes:
        observations: (T + 1, 39).
        actions: (T, 4).
        frames: (S, H, W, 3), those that will be scored.
        done: (T,) whether the task is done after a step.
    """

    observations: np.ndarray
    actions: np.ndarray
    frames: np.ndarray
    done: np.ndarray


class TD3BC(TD3):
    """TD3 on a filled replay buffer, whose actor imitates the data as well.

    Attributes:
        alpha: Weight of the value; 0 imitates only.
    """

    alpha: float = 2.5

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """Gradient steps on the critics, and on the actor every ``policy_delay``-th time."""
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        for _ in range(gradient_steps):
            self._n_updates += 1
            data = self.replay_buffer.sample(batch_size)
            with torch.no_grad():
                noise = torch.randn_like(data.actions) * self.target_policy_noise
                noise = noise.clamp(-self.target_noise_clip, self.target_noise_clip)
                following = (self.actor_target(data.next_observations) + noise).clamp(-1, 1)
                value = torch.cat(self.critic_target(data.next_observations, following), dim=1).min(1, keepdim=True)[0]
                target = data.rewards + (1 - data.dones) * self.gamma * value
            critic_loss = sum(functional.mse_loss(q, target) for q in self.critic(data.observations, data.actions))
            assert isinstance(critic_loss, torch.Tensor)
            self.critic.optimizer.zero_grad()
            critic_loss.backward()
            self.critic.optimizer.step()
            self.logger.record_mean("train/critic_loss", critic_loss.item())
            if self._n_updates % self.policy_delay == 0:
                self._train_actor(data.observations, data.actions)

    def _train_actor(self, observations: torch.Tensor, actions: torch.Tensor) -> None:
        chosen = self.actor(observations)
        value = self.critic.q1_forward(observations, chosen)
        imitation = functional.mse_loss(chosen, actions)
        loss = imitation - self.alpha * value.mean() / value.abs().mean().detach().clamp(min=1e-6)
        self.actor.optimizer.zero_grad()
        loss.backward()
        self.actor.optimizer.step()
        self.logger.record_mean("train/imitation_loss", imitation.item())
        for online, slow in ((self.critic, self.critic_target), (self.actor, self.actor_target)):
            polyak_update(online.parameters(), slow.parameters(), self.tau)


def record(args: Args) -> list[Recording]:
    """Rollouts by scripts between expert and useless."""
    env = make_env(args.task, max_episode_steps=args.max_steps)
    rng = np.random.default_rng(args.seed)
    recordings = []
    for number in progress(range(args.episodes), "recording"):
        policy = NoisyPolicy(ExpertPolicy(args.task), rng, args.noise * number / max(args.episodes - 1, 1))
        observation, info = env.reset(seed=args.seed * args.episodes + number)
        observations, actions, frames, done = [observation], [], [env.render()], []
        for step in range(1, args.max_steps + 1):
            actions.append(policy.act(observation, info["is_success"]))
            observation, _, _, _, info = env.step(actions[-1])
            observations.append(observation)
            done.append(info["is_success"])
            if is_scored(step, args.every, step == args.max_steps):
                frames.append(env.render())
        recordings.append(Recording(*map(np.array, (observations, actions, frames, done))))
    env.close()
    return recordings


def rewards_of(recording: Recording, arm: Arm, args: Args, model: RewardModel | None) -> np.ndarray:
    """(T,) what the steps of a rollout pay: for a model exactly what its wrapper would have paid."""
    if model is None:
        return recording.done.astype(np.float64) if arm == "sparse" else np.zeros(len(recording.done))
    spec = RewardSpec(mode=args.mode, every=args.every)
    # The frames between scored ones were never drawn, so all that there are are scored.
    (prediction,) = model.predict_steps([Clip(recording.frames, TASKS[args.task].task)])
    paid = episode_rewards(
        spec, prediction.progress, prediction.success, recording.done, terminated=False,
        threshold=spec.threshold(model.success_threshold),
    )  # fmt: skip
    return paid.rewards


class Normalised(gym.ObservationWrapper[np.ndarray, np.ndarray, np.ndarray]):
    """Observations with the mean and the deviation that they have in the recordings."""

    def __init__(self, env: gym.Env[Any, Any], recordings: list[Recording]) -> None:
        super().__init__(env)
        seen = np.concatenate([recording.observations for recording in recordings])
        self.mean, self.deviation = seen.mean(axis=0), seen.std(axis=0) + 1e-3
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, seen.shape[1:], np.float64)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """One observation, or several."""
        return (observation - self.mean) / self.deviation


def train(args: Args, arm: Arm, recordings: list[Recording]) -> list[dict[str, float]]:
    """Trains and evaluates one policy; returns its curve."""
    env = Normalised(make_env(args.task, max_episode_steps=args.max_steps, render_mode=None), recordings)
    steps = sum(len(recording.actions) for recording in recordings)
    agent = TD3BC("MlpPolicy", env, gamma=args.gamma, buffer_size=steps, seed=args.seed, device="cpu")
    agent.alpha = 0.0 if arm == "imitation" else args.alpha
    agent.set_logger(configure(str(args.output / "tensorboard" / f"{args.task}-{arm}-{args.seed}"), ["tensorboard"]))
    model = load_reward_model(args.model) if arm == "robometer" else None
    assert agent.replay_buffer is not None
    for recording in progress(recordings, f"{arm}: relabelling"):
        states, rewards = env.observation(recording.observations), rewards_of(recording, arm, args, model)
        for t, reward in enumerate(rewards):
            # The episode would have gone on: its end is a truncation, and the value behind it counts.
            infos = [{"TimeLimit.truncated": t == len(rewards) - 1}]
            over, action = np.array([t == len(rewards) - 1]), recording.actions[t : t + 1]
            agent.replay_buffer.add(states[t], states[t + 1], action, np.array([reward]), over, infos)
    curve = []
    for updates in progress(range(args.evaluate_every, args.updates + 1, args.evaluate_every), f"{arm}: training"):
        agent.train(args.evaluate_every)
        success = evaluate(agent, env, args.evaluation_episodes[int(updates + args.evaluate_every > args.updates)])
        agent.logger.record("evaluation/success", success)
        agent.logger.dump(updates)
        curve.append({"updates": updates, "success": success})
    env.close()
    return curve


def evaluate(agent: TD3BC, env: Normalised, episodes: int) -> float:
    """Part of unseen episodes in which the task is done at some time."""
    ever = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=EVALUATION_SEED + episode)
        done, over = False, False
        while not (done or over):
            action, _ = agent.predict(observation, deterministic=True)
            observation, _, _, over, info = env.step(action)
            done = info["is_success"]
        ever.append(done)
    return float(np.mean(ever))


def progress(items: Iterable[Any], name: str) -> Iterable[Any]:
    """A progress bar on standard error."""
    return track(list(items), name, console=Console(stderr=True))


def main(args: Args) -> dict[str, Any]:
    """Records once, trains every arm, prints a table and writes ``result.json``."""
    recordings = record(args)
    succeeded = float(np.mean([recording.done.any() for recording in recordings]))
    curves = {arm: train(args, arm, recordings) for arm in args.arms}
    table = Table(
        "rewards from", "true success on unseen seeds", title=f"{args.task}; {succeeded:.0%} of the data succeed"
    )
    for arm, curve in curves.items():
        table.add_row(arm, f"{curve[-1]['success']:.0%}")
    Console().print(table)
    result = {"task": args.task, "seed": args.seed, "data_success": succeeded, "curves": curves}
    write_text(args.output / f"{args.task}-{args.seed}.json", json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    if arguments.smoke:
        arguments = replace(
            arguments, episodes=3, max_steps=20, updates=20, evaluate_every=10, evaluation_episodes=(1, 2),
            output=arguments.output / "smoke",
        )  # fmt: skip
    main(arguments)
