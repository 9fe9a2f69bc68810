"""Learn a policy from a recorded dataset alone, with the rewards that a reward model has seen in it.

    pip install -c constraints.txt -e ".[offline]"
    robometer-rl relabel recordings --model runs/mine/checkpoint
    python examples/offline_rl.py recordings-robometer --env FetchReach-v4 --imports gymnasium_robotics

Any dataset that `robometer-rl relabel` has labelled and that holds actions and low-dimensional observations: Minari,
HDF5, LeRobot or a folder of ``.npz`` episodes, of any environment. On the same transitions, without touching the
environment, one policy is trained for each arm:

    robometer   implicit Q-learning (Kostrikov et al., 2021, arXiv 2110.06169) on the rewards that the model saw
    original    the same on the rewards that the dataset had before, if it had any
    imitation   rewards are ignored: behaviour cloning of all that was recorded

Learner, networks and replay buffer are TorchRL's. With ``--env`` policies are judged by true success over unseen
episodes of the environment that was recorded. Without it, where there is a robot and no simulator, by how far their
actions are from those of successful episodes that were kept out: a policy that ignores what failures did is closer.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tensordict import TensorDict
from tensordict.nn import InteractionType, TensorDictModule
from torch import nn
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.modules import MLP, IndependentNormal, NormalParamExtractor, ProbabilisticActor, ValueOperator
from torchrl.objectives import BCLoss, IQLLoss, LossModule, SoftUpdate

from robometer_rl.files import write_text
from robometer_rl.formats.dataset import DatasetOptions
from robometer_rl.formats.table import open_dataset
from robometer_rl.formats.transitions import OfflineEpisode, read_transitions
from robometer_rl.provenance import provenance
from robometer_rl.true_success import SuccessLatch

Arm = Literal["robometer", "original", "imitation"]

EVALUATION_SEED = 1_000_000  # recordings' own seeds stay far below
KEPT_OUT = 10  # of the episodes that succeed, every so many are not learned from


@dataclass
class Args:
    """Options.

    Attributes:
        dataset: What `robometer-rl relabel` has written.
        env: Environment to judge policies in, as for ``gymnasium.make``.
        imports: Module that registers the environment.
        env_options: Keyword arguments of ``gymnasium.make``, as JSON.
        observations: Names of the arrays that make an observation, in order; all of them by default.
        cameras: Cameras that were shown, where the dataset has several.
        arms: What is trained.
        updates: Gradient steps per arm.
        batch_size: Transitions per step.
        gamma: Discount per step.
        expectile: Of implicit Q-learning: how much a state is worth, between the mean of what was done there and the
            best of it.
        temperature: How much better actions are imitated more.
        episodes: Unseen episodes that a policy is judged by.
        seed: Seed.
        output: Where results and policies go.
        smoke: Train for seconds, to see that everything works.
    """

    dataset: tyro.conf.Positional[Path]
    env: str | None = None
    imports: str | None = None
    env_options: str = "{}"
    observations: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    arms: tuple[Arm, ...] = ("robometer", "original", "imitation")
    updates: int = 20_000
    batch_size: int = 256
    gamma: float = 0.99
    expectile: float = 0.8
    temperature: float = 3.0
    episodes: int = 50
    seed: int = 0
    output: Path = Path("outputs/offline_rl")
    smoke: bool = False


@dataclass(frozen=True, eq=False)
class Scale:
    """Observations and actions as networks like them.

    Attributes:
        mean: (D,) of observations.
        deviation: (D,).
        low: (A,) the smallest action of the recordings, which becomes -1.
        high: (A,) the largest, which becomes 1.
    """

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @classmethod
    def of(cls, episodes: Sequence[OfflineEpisode]) -> Scale:
        """The scale of recordings."""
        seen = np.concatenate([episode.observations for episode in episodes])
        acted = np.concatenate([episode.actions for episode in episodes])
        return cls(seen.mean(axis=0), seen.std(axis=0) + 1e-3, acted.min(axis=0), acted.max(axis=0))

    def observation(self, values: NDArray[Any]) -> torch.Tensor:
        """(..., D) about 1 in size."""
        return torch.as_tensor((values - self.mean) / self.deviation, dtype=torch.float32)

    def action(self, values: NDArray[Any]) -> torch.Tensor:
        """(..., A) in [-1, 1]."""
        width = np.maximum(self.high - self.low, 1e-6)
        return torch.as_tensor(2.0 * (values - self.low) / width - 1.0, dtype=torch.float32)

    def played(self, action: torch.Tensor) -> NDArray[np.float32]:
        """The inverse of `action`, of what is between the smallest and the largest."""
        part = (action.clamp(-1.0, 1.0).numpy() + 1.0) / 2.0
        return (self.low + part * (self.high - self.low)).astype(np.float32)


def rewards_of(episodes: Sequence[OfflineEpisode], arm: Arm) -> list[NDArray[np.float64]]:
    """(N,) rewards per episode, scaled as the authors of the method do: returns of episodes span their length."""
    if arm == "imitation":
        return [np.zeros(len(episode.actions)) for episode in episodes]
    found = [episode.rewards if arm == "robometer" else episode.original_rewards for episode in episodes]
    rewards = [each for each in found if each is not None]
    returns = [float(each.sum()) for each in rewards]
    span = max(returns) - min(returns)
    length = float(np.mean([len(each) for each in rewards]))
    return [each * (length / span if span else 1.0) for each in rewards]


def replay_buffer(
    episodes: Sequence[OfflineEpisode], rewards: Sequence[NDArray[np.float64]], scale: Scale, batch_size: int
) -> TensorDictReplayBuffer:
    """All transitions of the episodes."""
    storage = LazyTensorStorage(sum(len(episode.actions) for episode in episodes))
    buffer = TensorDictReplayBuffer(storage=storage, batch_size=batch_size)
    for episode, paid in zip(episodes, rewards, strict=True):
        seen, steps = scale.observation(episode.observations), len(episode.actions)
        last = torch.arange(steps)[:, None] == steps - 1
        following = {
            "observation": seen[1:],
            "reward": torch.as_tensor(paid, dtype=torch.float32)[:, None],
            "done": last,
            "terminated": last & episode.terminated,
        }
        content = {"observation": seen[:-1], "action": scale.action(episode.actions), "next": following}
        buffer.extend(TensorDict(content, [steps]))
    return buffer


def make_actor(inputs: int, outputs: int) -> ProbabilisticActor:
    """A Gaussian policy."""
    network = nn.Sequential(
        MLP(inputs, 2 * outputs, num_cells=[256, 256], activation_class=nn.ReLU), NormalParamExtractor()
    )
    return ProbabilisticActor(
        TensorDictModule(network, ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=IndependentNormal,
        default_interaction_type=InteractionType.DETERMINISTIC,
    )


def make_loss(args: Args, arm: Arm, actor: ProbabilisticActor, inputs: int, outputs: int) -> LossModule:
    """What is minimised."""
    if arm == "imitation":
        return BCLoss(actor)
    cells: dict[str, Any] = {"num_cells": [256, 256], "activation_class": nn.ReLU}
    loss = IQLLoss(
        actor,
        ValueOperator(MLP(inputs + outputs, 1, **cells), in_keys=["observation", "action"]),
        value_network=ValueOperator(MLP(inputs, 1, **cells), in_keys=["observation"]),
        loss_function="l2",
        temperature=args.temperature,
        expectile=args.expectile,
    )
    loss.make_value_estimator(gamma=args.gamma)
    return loss


def train(args: Args, arm: Arm, episodes: Sequence[OfflineEpisode], scale: Scale) -> ProbabilisticActor:
    """Trains one policy."""
    torch.manual_seed(args.seed)
    buffer = replay_buffer(episodes, rewards_of(episodes, arm), scale, args.batch_size)
    inputs, outputs = len(scale.mean), len(scale.low)
    actor = make_actor(inputs, outputs)
    loss = make_loss(args, arm, actor, inputs, outputs)
    target = SoftUpdate(loss, tau=0.005) if isinstance(loss, IQLLoss) else None
    optimizer = torch.optim.Adam(loss.parameters(), 3e-4)
    for _ in track(range(args.updates), f"{arm}: training", console=Console(stderr=True)):
        parts = loss(buffer.sample())
        optimizer.zero_grad()
        sum((value for name, value in parts.items() if name.startswith("loss_")), torch.zeros(())).backward()
        optimizer.step()
        if target is not None:
            target.step()
    return actor


@torch.no_grad()
def act(actor: ProbabilisticActor, scale: Scale, observation: NDArray[Any]) -> NDArray[np.float32]:
    """What a policy does, without noise."""
    return scale.played(actor(TensorDict({"observation": scale.observation(observation)}))["action"])


def success_rate(args: Args, actor: ProbabilisticActor, scale: Scale) -> float:
    """Part of unseen episodes in which the task is done at some time."""
    if args.imports is not None:
        importlib.import_module(args.imports)
    env = gym.make(str(args.env), **json.loads(args.env_options))
    done = []
    for episode in track(range(args.episodes), "judging", console=Console(stderr=True), transient=True):
        observation, _ = env.reset(seed=EVALUATION_SEED + episode)
        success, over = SuccessLatch(), False
        while not over:
            action = act(actor, scale, flat(observation, args.observations))
            observation, _, terminated, truncated, info = env.step(action.astype(env.action_space.dtype))
            success.note(info)
            over = terminated or truncated
        if success.achieved is None:
            raise ValueError(
                f"the infos of {args.env} say nothing of success, by which policies are judged; leave it out"
            )
        done.append(success.achieved)
    env.close()
    return float(np.mean(done))


def flat(observation: Any, names: Sequence[str]) -> NDArray[Any]:
    """An observation of the environment as those of the dataset are laid out, see `read_transitions`."""
    if not isinstance(observation, dict):
        return np.asarray(observation).reshape(-1)
    return np.concatenate([np.asarray(observation[name]).reshape(-1) for name in names or sorted(observation)])


def action_error(actor: ProbabilisticActor, scale: Scale, episodes: Sequence[OfflineEpisode]) -> float:
    """Mean distance from the actions of episodes, where the smallest and the largest action are 2 apart."""
    errors = []
    for episode in episodes:
        acted = scale.action(act(actor, scale, episode.observations[:-1]))
        errors.append(float((acted - scale.action(episode.actions)).abs().mean()))
    return float(np.mean(errors))


def main(args: Args) -> dict[str, Any]:
    """Trains every arm, prints a table and writes ``NAME-SEED.json`` and the policies."""
    # What the robot was to do is nothing to a policy that learns one task.
    _, dataset = open_dataset(DatasetOptions(args.dataset, args.cameras, ("-",)))
    recorded = list(read_transitions(dataset, args.observations))
    succeeded = [episode for episode in recorded if episode.success]
    kept_out = succeeded[::KEPT_OUT] if args.env is None else []
    episodes = [episode for episode in recorded if episode not in kept_out]
    arms: list[Arm] = [
        arm for arm in args.arms if arm != "original" or all(each.original_rewards is not None for each in episodes)
    ]
    scale = Scale.of(episodes)
    name = args.dataset.resolve().name
    args.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, float] = {}
    for arm in arms:
        actor = train(args, arm, episodes, scale)
        torch.save(actor.state_dict(), args.output / f"{name}-{arm}-{args.seed}.pt")
        if args.env is not None:
            found[arm] = success_rate(args, actor, scale)
        elif kept_out:
            found[arm] = action_error(actor, scale, kept_out)
    steps = sum(len(episode.actions) for episode in episodes)
    judged = "true success" if args.env is not None else "distance from successful actions"
    title = f"{name}: {len(episodes)} episodes, {steps} steps, {len(succeeded) / len(recorded):.0%} successful"
    table = Table("learned from", judged, title=title, title_justify="left")
    for arm, value in found.items():
        table.add_row(arm, f"{value:.0%}" if args.env is not None else f"{value:.3f}")
    Console().print(table)
    result = {
        "origin": provenance(),
        "dataset": name,
        "episodes": len(episodes),
        "steps": steps,
        "data_success": len(succeeded) / len(recorded),
        "env": args.env,
        judged.replace(" ", "_"): found,
        "finished": True,
    }
    write_text(args.output / f"{name}-{args.seed}.json", json.dumps(result, indent=1) + "\n")
    Console().print(f"policies and results are in {args.output}", soft_wrap=True)
    return result


if __name__ == "__main__":
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    arguments = tyro.cli(Args, description=__doc__)
    if arguments.smoke:
        arguments = replace(arguments, updates=20, batch_size=16, episodes=2, output=arguments.output / "smoke")
    main(arguments)
