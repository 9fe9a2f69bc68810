"""Learn a Meta-World task from a reward model that lives in another process, on this machine or others.

    pip install -c constraints.txt -e ".[metaworld,examples,serve]"
    python examples/sb3_remote.py                                           # starts a server, and ends it
    python examples/sb3_remote.py --servers 2                               # two that share the work
    python examples/sb3_remote.py --address http://:TOKEN@gpu-box:8000      # one that is there already

The environment knows an address and nothing of the model. Each step sends one frame per environment; what the server
pays is what a model in this process would. Kill the server while the agent learns and start it again: the training
waits, the histories are rebuilt, and no reward is lost.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tyro
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv

from robometer_rl import RewardSpec, load_reward_model
from robometer_rl.envs.metaworld import TASKS, make_env
from robometer_rl.wrappers import RenderToInfo, VecRobometerReward
from robometer_rl.wrappers.sb3.callback import RewardHonestyCallback


@dataclass
class Args:
    """Options.

    Attributes:
        address: Of a server, or of several with commas between them; if empty, servers are started here.
        servers: How many are started.
        model: What they serve.
        task: Meta-World task.
        envs: Environments that run side by side, scored in one call.
        steps: Steps to learn from, over all environments.
        seed: Seed.
        output: Where the agent and what it was paid are written.
        smoke: Run a few seconds' worth, to see that everything works.
    """

    address: str = ""
    servers: int = 1
    model: str = "mini"
    task: str = "drawer-close"
    envs: int = 4
    steps: int = 20_000
    seed: int = 0
    output: Path = Path("outputs/sb3_remote")
    smoke: bool = False


@contextmanager
def server(model: str) -> Iterator[str]:
    """A server in a process of its own, and its address."""
    program = "from robometer_rl.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, "serve", "--model", model, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="")
                if line.startswith("serving "):
                    yield line.split()[-1]
                    return
            raise RuntimeError(f"the server ended with exit code {process.wait()}")
        finally:
            process.terminate()


def train(arguments: Args, address: str) -> None:
    """Trains an agent that is paid by the model at an address."""
    # An outage of up to ten minutes is waited for; after that the training ends with an error.
    model = load_reward_model(address, patience=600.0)
    episode_steps = 10 if arguments.smoke else 150
    make = partial(make_env, arguments.task, size=64 if arguments.smoke else 128, max_episode_steps=episode_steps)
    venv = DummyVecEnv([lambda: RenderToInfo(make())] * arguments.envs)
    venv.seed(arguments.seed)
    venv = VecRobometerReward(venv, model, TASKS[arguments.task].task, RewardSpec(mode="delta"))
    arguments.output.mkdir(parents=True, exist_ok=True)
    callback = RewardHonestyCallback(record=arguments.output / "honesty.jsonl")
    agent = SAC("MlpPolicy", venv, learning_starts=40, seed=arguments.seed)
    agent.learn(80 if arguments.smoke else arguments.steps, callback=callback)
    agent.save(arguments.output / "agent")
    assert agent.replay_buffer is not None
    rewards = agent.replay_buffer.rewards[: agent.replay_buffer.size()]
    print(
        f"{rewards.size} rewards from {model.source}, {np.mean(rewards):.4f} on average; the agent is in "
        f"{arguments.output / 'agent.zip'}, what it was paid beside what it achieved in honesty.jsonl"
    )
    venv.close()


def main() -> None:
    """Starts what is not there, and trains."""
    arguments = tyro.cli(Args)
    with ExitStack() as servers:
        started = [
            servers.enter_context(server(arguments.model)) for _ in range(arguments.servers) if not arguments.address
        ]
        train(arguments, arguments.address or ",".join(started))


if __name__ == "__main__":
    main()
