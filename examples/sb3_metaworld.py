"""Learn a Meta-World task with Soft Actor-Critic from what a reward model sees, and compare that with other rewards.

    pip install -c constraints.txt -e ".[metaworld,examples]"
    python examples/sb3_metaworld.py --task drawer-close
    python examples/sb3_metaworld.py --task drawer-close --arm sparse
    tensorboard --logdir outputs/sb3_metaworld
    robometer-rl ui --live outputs/sb3_metaworld

The policy sees the simulator's state; the reward model sees rendered frames and the instruction. Arms:

    robometer_sparse    what the model sees, and 1 per decision in which the task is done
    robometer           what the model sees, and nothing else
    sparse              1 per decision in which the task is done
    dense               the simulator's own shaped reward, which knows everything: what the algorithm can do at best
    clock               the sparse reward, and as much as a rise of progress from 0 to 1 for the time that goes by

A decision holds for ``action_repeat`` steps of the simulator (8 decisions a second), and the model is asked once per
decision. Few long decisions are what lets an agent stumble over handles and buttons, and every one costs a picture.
Evaluation is on true success on seeds that training never uses. A run that is interrupted goes on from its last
evaluation when the same command is given again.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import gymnasium as gym
import numpy as np
import torch
import tyro
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from steady_sac import Steadiness, agent_class, expected_value, make_agent

from robometer_rl import RewardSpec, load_reward_model
from robometer_rl.envs.metaworld import TASKS, make_env
from robometer_rl.files import new_file, write_text
from robometer_rl.wrappers import RenderToInfo, VecRobometerReward
from robometer_rl.wrappers.sb3 import layers
from robometer_rl.wrappers.sb3.callback import RewardHonestyCallback

Arm = Literal["robometer", "robometer_sparse", "sparse", "dense", "clock"]

EVALUATION_SEED = 1_000_000  # training seeds stay far below


@dataclass
class Args:
    """Options.

    Attributes:
        task: Meta-World task.
        arm: Which reward.
        model: Reward model of the robometer arms, as for ``load_reward_model``.
        mode: How its predictions become a reward.
        scale: Weight of the learned reward, and of the clock's.
        success_bonus: Paid on the decision on which the model first believes in success.
        confidence: Pay only progress that the model is that sure of, see ``RewardSpec``.
        clip: What a decision is paid for what the model sees is at most this, up or down.
        decisions: Decisions to learn from, over all environments.
        envs: Environments that run side by side, scored in one batch.
        action_repeat: Simulator steps per decision.
        max_decisions: Decisions per episode.
        gamma: Discount per decision.
        updates: Gradient steps per decision.
        learning_rate: Of all networks.
        entropy: Weight of the policy's entropy at the beginning, above 0; it adapts. Far above what a decision pays, it
            keeps the agent from heading for anything.
        steady: What may keep the agent from unlearning.
        evaluate_every: Decisions between evaluations.
        evaluation_episodes: Episodes of an evaluation, and of the last one.
        seed: Seed.
        output: Where runs are written, one directory each.
        smoke: Run a minute's worth, to see that everything works.
    """

    task: str = "drawer-close"
    arm: Arm = "robometer_sparse"
    model: str = "mini"
    mode: Literal["level", "delta", "potential", "success"] = "delta"
    scale: float = 2.0
    success_bonus: float = 0.0
    confidence: float | None = None
    clip: float | None = None
    decisions: int = 8_000
    envs: int = 4
    action_repeat: int = 10
    max_decisions: int = 30
    gamma: float = 0.95
    updates: float = 2.0
    learning_rate: float = 1e-3
    entropy: float = 0.1
    steady: Steadiness = field(default_factory=Steadiness)
    evaluate_every: int = 1_000
    evaluation_episodes: tuple[int, int] = (20, 50)
    seed: int = 0
    output: Path = Path("outputs/sb3_metaworld")
    smoke: bool = False

    @property
    def name(self) -> str:
        """Of the run and its directory."""
        return f"{self.task}-{self.arm}-{self.seed}"

    @property
    def watched(self) -> bool:
        """Whether a reward model looks on."""
        return self.arm.startswith("robometer")

    @property
    def reward(self) -> RewardSpec:
        """What the robometer arms pay."""
        weight = 1.0 if self.arm == "robometer_sparse" else 0.0
        return RewardSpec(
            mode=self.mode,
            scale=self.scale,
            task_weight=weight,
            gamma=self.gamma,
            success_bonus=self.success_bonus,
            confidence=self.confidence,
        )


class Decisions(gym.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """Holds an action for several steps; pays 1 where the task is done afterwards, or the mean dense reward over 10."""

    def __init__(self, env: gym.Env[np.ndarray, np.ndarray], args: Args) -> None:
        super().__init__(env)
        self._repeat = args.action_repeat
        self._dense = args.arm == "dense"
        self._always = args.scale / args.max_decisions if args.arm == "clock" else 0.0

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One decision."""
        rewards: list[float] = []
        while True:
            observation, reward, terminated, truncated, info = self.env.step(action)
            rewards.append(float(reward))
            if len(rewards) == self._repeat or terminated or truncated:
                break
        paid = float(np.mean(rewards)) / 10.0 if self._dense else float(info["is_success"])
        return observation, paid + self._always, terminated, truncated, info


def make_task(args: Args, frames: bool) -> gym.Env[np.ndarray, np.ndarray]:
    """One environment; with its frames in the info if a model is to see them."""
    env = make_env(
        args.task,
        max_episode_steps=args.max_decisions * args.action_repeat,
        render_mode="rgb_array" if frames else None,
    )
    env = Monitor(Decisions(env, args), info_keywords=("is_success",))
    return RenderToInfo(env) if frames else env


class Magnified(FlattenExtractor):
    """What networks see of the state: places are in metres and differ by centimetres, too little to learn from fast."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Places in units of 20 cm."""
        return 5.0 * super().forward(observations)


class Stopwatch(VecEnvWrapper):
    """Counts the seconds that steps of everything inside it take."""

    seconds = 0.0

    def reset(self) -> VecEnvObs:
        """See `VecEnv`."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """One step; the clock runs."""
        started = time.perf_counter()
        result = self.venv.step_wait()
        self.seconds += time.perf_counter() - started
        return result


class Clipped(VecEnvWrapper):
    """Limits what is paid beside the task's own reward, up and down."""

    def __init__(self, venv: VecEnv, limit: float) -> None:
        super().__init__(venv)
        self._limit = limit

    def reset(self) -> VecEnvObs:
        """See `VecEnv`."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """One step."""
        observations, rewards, dones, infos = self.venv.step_wait()
        task = np.array([info["robometer/task_reward"] for info in infos], np.float32)
        return observations, task + np.clip(rewards - task, -self._limit, self._limit), dones, infos


def make_training_envs(args: Args) -> VecEnv:
    """The environments to learn in, paying the arm's reward, with clocks inside and outside of it."""
    venv = DummyVecEnv([lambda: make_task(args, frames=args.watched)] * args.envs)
    venv.seed(args.seed * args.envs)
    venv = Stopwatch(venv)
    if args.watched:
        model = load_reward_model(args.model)
        venv = Stopwatch(VecRobometerReward(venv, model, TASKS[args.task].task, args.reward))
        if args.clip is not None:
            venv = Clipped(venv, args.clip)
    return venv


def scoring_seconds(venv: VecEnv) -> float:
    """What the reward has taken: the outer clock less the inner one."""
    clocks = [layer.seconds for layer in layers(venv) if isinstance(layer, Stopwatch)]
    return clocks[0] - clocks[-1]


@dataclass
class Progress:
    """What is known of a run so far; its JSON is the run's result.

    Of every evaluation: ``success`` and ``success_at_end`` of the policy without noise and ``noisy_success`` of the one
    that explores; ``value``, what the critics promise at the first decision, and ``worth``, what the task then pays,
    discounted and as if the last decision went on for ever; ``entropy_weight`` at that time.
    """

    arguments: dict[str, Any]
    decisions: list[int] = field(default_factory=list)
    success: list[float] = field(default_factory=list)
    success_at_end: list[float] = field(default_factory=list)
    noisy_success: list[float] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    worth: list[float] = field(default_factory=list)
    entropy_weight: list[float] = field(default_factory=list)
    seconds: float = 0.0
    scoring_seconds: float = 0.0
    finished: bool = False


@dataclass(frozen=True)
class Evaluation:
    """Means over unseen episodes; see `Progress`."""

    success: float
    success_at_end: float
    value: float
    worth: float


def evaluate(agent: SAC, args: Args, episodes: int, noise: bool = False) -> Evaluation:
    """Plays unseen episodes, with the policy's noise or without."""
    env = make_task(replace(args, arm="sparse"), frames=False)
    ever, at_end, values, worths = [], [], [], []
    for episode in range(episodes):
        observation, _ = env.reset(seed=EVALUATION_SEED + episode)
        values.append(expected_value(agent, observation))
        paid: list[float] = []
        over = False
        while not over:
            action, _ = agent.predict(observation, deterministic=not noise)
            observation, reward, terminated, truncated, _ = env.step(action)
            paid.append(float(reward))
            over = terminated or truncated
        ever.append(max(paid) > 0)
        at_end.append(paid[-1] > 0)
        for_ever = args.gamma ** len(paid) * paid[-1] / (1 - args.gamma) if args.gamma < 1 else 0.0
        worths.append(float(np.dot(args.gamma ** np.arange(len(paid)), paid)) + for_ever)
    env.close()
    return Evaluation(*(float(np.mean(each)) for each in (ever, at_end, values, worths)))


class EvaluateAndSave(BaseCallback):
    """Evaluates at fixed numbers of decisions and saves everything that the run needs to go on."""

    def __init__(self, args: Args, progress: Progress, directory: Path) -> None:
        super().__init__()
        self.args = args
        self.progress = progress
        self.directory = directory
        self.started = time.perf_counter()
        self.scored = 0.0

    def _on_step(self) -> bool:
        due = (len(self.progress.decisions) + 1) * self.args.evaluate_every
        if self.num_timesteps >= min(due, self.args.decisions):
            self.evaluate()
        return True

    def evaluate(self) -> None:
        """One evaluation and save."""
        agent = cast(SAC, self.model)
        last = self.num_timesteps >= self.args.decisions
        episodes = self.args.evaluation_episodes[int(last)]
        quiet = evaluate(agent, self.args, episodes)
        noisy = evaluate(agent, self.args, episodes, noise=True)
        progress = self.progress
        progress.decisions.append(self.num_timesteps)
        for name, value in asdict(quiet).items():
            getattr(progress, name).append(value)
        progress.noisy_success.append(noisy.success)
        assert agent.log_ent_coef is not None
        progress.entropy_weight.append(float(agent.log_ent_coef.detach().exp()))
        scored = scoring_seconds(self.training_env)
        progress.seconds += time.perf_counter() - self.started
        progress.scoring_seconds += scored - self.scored
        progress.finished = last
        self.started, self.scored = time.perf_counter(), scored
        for name, value in {**asdict(quiet), "noisy_success": noisy.success}.items():
            self.logger.record(f"evaluation/{name}", value)
        with new_file(self.directory / "agent.zip") as path:
            agent.save(path)
        with new_file(self.directory / "replay.pkl") as path:
            agent.save_replay_buffer(path)
        write_text(self.directory / "result.json", json.dumps(asdict(progress), indent=1, default=str) + "\n")


def run(args: Args, callbacks: tuple[BaseCallback, ...] = (), progress_bar: bool = True) -> Progress:
    """Trains one agent, or goes on with it; returns its curve."""
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
    venv = make_training_envs(args)
    if progress.decisions:
        agent = agent_class(args.steady).load(directory / "agent", env=venv)
        agent.load_replay_buffer(directory / "replay")
    else:
        agent = make_agent(
            venv, args.steady, args.learning_rate, {"features_extractor_class": Magnified}, gamma=args.gamma,
            learning_starts=500, batch_size=256, train_freq=1, gradient_steps=max(1, round(args.updates * args.envs)),
            buffer_size=args.decisions + args.envs, ent_coef=f"auto_{args.entropy}", seed=args.seed,
            tensorboard_log=str(args.output / "tensorboard"),
        )  # fmt: skip
    # Warns when what is paid rises and true success does not; curves under "honesty" in TensorBoard.
    honesty = []
    if args.watched:
        honesty.append(RewardHonestyCallback(record=directory / "honesty.jsonl", live=directory / "live"))
    left = args.decisions - agent.num_timesteps
    agent.learn(
        left, callback=[EvaluateAndSave(args, progress, directory), *honesty, *callbacks], tb_log_name=args.name,
        progress_bar=progress_bar, reset_num_timesteps=not progress.decisions, log_interval=20,
    )  # fmt: skip
    venv.close()
    return progress


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    if arguments.smoke:
        arguments = replace(
            arguments,
            decisions=200,
            evaluate_every=100,
            evaluation_episodes=(1, 2),
            max_decisions=10,
            envs=2,
            output=arguments.output / "smoke",
        )
    curve = run(arguments)
    for decisions, success in zip(curve.decisions, curve.success, strict=True):
        print(f"{decisions:8d} decisions: {success:4.0%} of unseen episodes succeed")
