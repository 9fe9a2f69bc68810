"""Learn a LIBERO task with Soft Actor-Critic, with and without the help of a reward model.

    pip install -c constraints.txt -e ".[libero,examples]"
    python examples/sb3_libero.py --arm robometer_sparse
    python examples/sb3_libero.py --arm sparse
    tensorboard --logdir outputs/sb3_libero

The task is by default the one of the published experiment: libero_90 task 28, "close the top drawer of the cabinet",
in episodes of 400 steps. The policy sees the simulator's state; the reward model sees the camera and the instruction.

    robometer_sparse    what the model sees, and 1 when the task is done
    robometer           what the model sees, and nothing else
    sparse              1 when the task is done

An action is held for ``action_repeat`` steps of the simulator, and the model is asked once per decision. All numbers of
steps are the simulator's. Training draws from the first 40 of the task's 50 initial states. Evaluation is on the last
ten: after the first round each episode begins with some random actions, so that no two are alike. A run that is
interrupted goes on from its last evaluation when the same command is given again.

Solving the task ends the episode. A level reward would be lost then, so an agent that is paid one learns to hover
near success; what is paid here is the change of progress.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import gymnasium as gym
import numpy as np
import tyro
from gymnasium.wrappers import TransformObservation
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from steady_sac import Steadiness, agent_class, make_agent

from robometer_rl import RewardSpec, load_reward_model
from robometer_rl.files import new_file, write_text
from robometer_rl.wrappers import RenderToInfo, RewardHonestyCallback, TaskFromInfo, VecRobometerReward

Change = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]
"""Wraps the environment before decisions are made in it; pickled for worker processes."""

Arm = Literal["robometer_sparse", "robometer", "sparse"]

TRAINING_STATES = 40  # of the recorded initial states; the others are for evaluation
ENV_ID = "robometer_rl.envs:robometer_rl/Libero-v0"  # the module that registers it is imported in workers, too


@dataclass
class Args:
    """Options.

    Attributes:
        suite: LIBERO suite.
        task_id: Number of the task in its suite.
        arm: Which reward.
        model: Reward model of the robometer arms, as for ``load_reward_model``.
        mode: How its predictions become a reward.
        scale: Weight of the learned reward.
        steps: Simulator steps to learn from, over all environments.
        envs: Environments side by side, each in a process of its own (2 GB).
        action_repeat: Simulator steps per decision.
        max_steps: Simulator steps per episode.
        size: Height and width of the frames that the model sees.
        gamma: Discount per decision.
        updates: Gradient steps per decision.
        learning_rate: Of all networks.
        entropy: Weight of the policy's entropy at the beginning, above 0; it adapts. Far above what a decision pays, it
            keeps the agent from heading for anything.
        steady: What may keep the agent from unlearning.
        evaluate_every: Simulator steps between evaluations.
        evaluation_episodes: Episodes of an evaluation, and of the last one.
        seed: Seed.
        output: Where runs are written, one directory each.
        smoke: Run a minute's worth, to see that everything works.
    """

    suite: str = "libero_90"
    task_id: int = 28
    arm: Arm = "robometer_sparse"
    model: str = "mini"
    mode: Literal["delta", "level", "success"] = "delta"
    scale: float = 2.0
    steps: int = 100_000
    envs: int = 1
    action_repeat: int = 10
    max_steps: int = 400
    size: int = 128
    gamma: float = 0.95
    updates: float = 2.0
    learning_rate: float = 1e-3
    entropy: float = 0.1
    steady: Steadiness = field(default_factory=Steadiness)
    evaluate_every: int = 10_000
    evaluation_episodes: tuple[int, int] = (10, 50)
    seed: int = 0
    output: Path = Path("outputs/sb3_libero")
    smoke: bool = False

    @property
    def name(self) -> str:
        """Of the run and its directory."""
        return f"{self.suite}-{self.task_id}-{self.arm}-{self.seed}"

    @property
    def decisions(self) -> int:
        """Decisions to learn from, over all environments."""
        return -(-self.steps // self.action_repeat)

    @property
    def watched(self) -> bool:
        """Whether a reward model looks on."""
        return self.arm.startswith("robometer")

    @property
    def reward(self) -> RewardSpec:
        """What the robometer arms pay."""
        # The episode ends with the first frame of success: a second one to be sure of it would never come.
        return RewardSpec(
            mode=self.mode, scale=self.scale, task_weight=float(self.arm == "robometer_sparse"), patience=1
        )


Options = TypeVar("Options", bound=Args)


class Decisions(gym.Wrapper[Any, Any, Any, Any]):
    """Holds an action for several steps, and begins episodes in some of the initial states."""

    def __init__(self, env: gym.Env[Any, Any], repeat: int, states: range) -> None:
        super().__init__(env)
        self._repeat = repeat
        self._states = states

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """An episode in a state that is drawn, unless ``options`` chooses one."""
        if seed is not None:
            self.np_random = np.random.default_rng(seed)
        drawn = {"init_state": int(self.np_random.choice(self._states))}
        return self.env.reset(seed=seed, options={**drawn, **(options or {})})

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One decision; pays 1 if it solved the task."""
        for _ in range(self._repeat):
            observation, _, terminated, truncated, info = self.env.step(action)
            if terminated or truncated:
                break
        return observation, float(info["is_success"]), terminated, truncated, info


def make_task(args: Args, frames: bool, change: Change | None = None) -> gym.Env[Any, Any]:
    """One environment; with its frames in the info if a model is to see them."""
    env = gym.make(
        ENV_ID, suite=args.suite, task_id=args.task_id, width=args.size, height=args.size,
        render_mode="rgb_array" if frames else None, max_episode_steps=args.max_steps,
    )  # fmt: skip
    # Places are in metres and differ by centimetres, too little to learn from fast.
    env = TransformObservation(env, lambda state: 5 * state, env.observation_space)
    env = env if change is None else change(env)
    env = Monitor(Decisions(env, args.action_repeat, range(TRAINING_STATES)), info_keywords=("is_success",))
    return RenderToInfo(env) if frames else env


def make_training_envs(args: Args, change: Change | None = None) -> VecEnv:
    """The environments to learn in, paying the arm's reward."""
    makers = [partial(make_task, args, args.watched, change)] * args.envs
    venv = DummyVecEnv(makers) if args.envs == 1 else SubprocVecEnv(makers, start_method="spawn")
    venv.seed(args.seed * args.envs)
    if args.watched:
        venv = VecRobometerReward(venv, load_reward_model(args.model), TaskFromInfo("task"), args.reward)
    return venv


@dataclass
class Progress:
    """What is known of a run so far; its JSON is the run's result."""

    arguments: dict[str, Any]
    steps: list[int] = field(default_factory=list)
    success: list[float] = field(default_factory=list)
    noisy_success: list[float] = field(default_factory=list)
    seconds: float = 0.0
    finished: bool = False


def evaluate(agent: PolicyPredictor, args: Args, env: gym.Env[Any, Any], episodes: int, noise: bool = False) -> float:
    """Part of the episodes from unseen initial states that end in success, with the policy's noise or without."""
    held_out = range(TRAINING_STATES, env.get_wrapper_attr("num_init_states"))
    solved = 0
    for episode in range(episodes):
        rng = np.random.default_rng(episode)
        first = held_out[episode % len(held_out)]
        observation, info = env.reset(seed=episode, options={"init_state": first})
        jitter = episode // len(held_out)  # random decisions before the agent takes over
        over = False
        while not over:
            action = agent.predict(observation, deterministic=not noise)[0]
            if jitter:
                action, jitter = rng.uniform(-1, 1, action.shape).astype(np.float32), jitter - 1
            observation, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
        solved += info["is_success"]
    return solved / episodes


class EvaluateAndSave(BaseCallback):
    """Evaluates at fixed numbers of steps and saves everything that the run needs to go on."""

    def __init__(self, args: Args, progress: Progress, directory: Path, change: Change | None = None) -> None:
        super().__init__()
        self.args = args
        self.progress = progress
        self.directory = directory
        self.env = make_task(args, frames=False, change=change)
        self.started = time.perf_counter()

    def _on_step(self) -> bool:
        # The last decision of an episode may be shorter than the others; budgets are in full ones.
        steps = self.num_timesteps * self.args.action_repeat
        last = self.num_timesteps >= self.args.decisions
        if last or steps >= (len(self.progress.steps) + 1) * self.args.evaluate_every:
            self.evaluate(steps, last)
        return True

    def evaluate(self, steps: int, last: bool) -> None:
        """One evaluation and save."""
        agent = cast(SAC, self.model)
        episodes = self.args.evaluation_episodes[int(last)]
        success = evaluate(agent, self.args, self.env, episodes)
        noisy_success = evaluate(agent, self.args, self.env, self.args.evaluation_episodes[0], noise=True)
        progress = self.progress
        progress.steps.append(steps)
        progress.success.append(success)
        progress.noisy_success.append(noisy_success)
        progress.seconds += time.perf_counter() - self.started
        progress.finished = last
        self.started = time.perf_counter()
        self.logger.record("evaluation/success", success)
        self.logger.record("evaluation/noisy_success", noisy_success)
        with new_file(self.directory / "agent.zip") as path:
            agent.save(path)
        with new_file(self.directory / "replay.pkl") as path:
            agent.save_replay_buffer(path)
        write_text(self.directory / "result.json", json.dumps(asdict(progress), indent=1, default=str) + "\n")

    def _on_training_end(self) -> None:
        self.env.close()


def run(args: Args, change: Change | None = None, prepare: Callable[[SAC], None] | None = None) -> Progress:
    """Trains one agent, or goes on with it; returns its curve.

    Args:
        args: Options.
        change: Wraps each environment, see `Change`.
        prepare: Is given the agent before it learns anything.
    """
    directory = args.output / args.name
    directory.mkdir(parents=True, exist_ok=True)
    arguments = json.loads(json.dumps(asdict(args), default=str))
    progress = Progress(arguments)
    result = directory / "result.json"
    if result.exists():
        progress = Progress(**json.loads(result.read_text()))
        if progress.arguments != arguments:
            raise ValueError(f"{directory} holds a run with other arguments; remove it or choose another --output")
        if progress.finished:
            return progress
    set_random_seed(args.seed)
    venv = make_training_envs(args, change)
    if progress.steps:
        agent = agent_class(args.steady).load(directory / "agent", env=venv)
        agent.load_replay_buffer(directory / "replay")
    else:
        agent = make_agent(
            venv, args.steady, args.learning_rate, {}, gamma=args.gamma, buffer_size=args.decisions, batch_size=256,
            learning_starts=min(500, args.decisions // 4), train_freq=1,
            gradient_steps=max(1, round(args.updates * args.envs)), ent_coef=f"auto_{args.entropy}", seed=args.seed,
            tensorboard_log=str(args.output / "tensorboard"),
        )  # fmt: skip
        if prepare is not None:
            prepare(agent)
    # Warns when what is paid rises and true success does not; curves under "honesty" in TensorBoard.
    honesty = [RewardHonestyCallback(window=20, record=directory / "honesty.jsonl")] if args.watched else []
    agent.learn(
        args.decisions - agent.num_timesteps,
        callback=[EvaluateAndSave(args, progress, directory, change), *honesty],
        tb_log_name=args.name, progress_bar=True, reset_num_timesteps=not progress.steps, log_interval=4,
    )  # fmt: skip
    venv.close()
    return progress


def shortened(args: Options) -> Options:
    """The same options for a minute's worth."""
    return replace(
        args, steps=80, evaluate_every=40, evaluation_episodes=(1, 2), max_steps=20, size=64,
        output=args.output / "smoke",
    )  # fmt: skip


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    if arguments.smoke:
        arguments = shortened(arguments)
    curve = run(arguments)
    for steps, success in zip(curve.steps, curve.success, strict=True):
        print(f"{steps:8d} steps: {success:4.0%} of unseen episodes succeed")
