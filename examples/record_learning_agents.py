"""Record agents while they learn: what a reward model must not be fooled by.

    python examples/record_learning_agents.py recordings/agents --tasks drawer-close door-close --arms sparse robometer

Scripted failures are not what a learning agent does: it explores, flails, and dwells on whatever pays. This trains
agents as `sb3_metaworld.py` does and at several stages records episodes of the policy as it acts at that time. They
are rows of the store like any others: labels come from the simulator. The skill is ``agent_<arm>_<stage>``.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import sb3_metaworld
import tyro
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from steady_sac import Steadiness

from robometer_rl.collecting.metaworld_skills import Plan, record_policy
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.envs.metaworld import make_env

LEARNER = sb3_metaworld.Args(mode="level", scale=1.0, steady=Steadiness(schedule="constant"))
"""How the agents learned that are in the training data of robometer-mini; a bad policy is as welcome as a good one."""


@dataclass
class Args:
    """Options.

    Attributes:
        output: Store to record into; episodes that it holds are not recorded again.
        tasks: Meta-World tasks.
        arms: Rewards that the agents learn from.
        stages: Decisions after which episodes are recorded.
        episodes: Episodes per stage.
        frame_interval: Simulator steps between kept frames.
        split: Split to record under.
        learner: How the agents learn; its task, arm and number of decisions are set here.
    """

    output: tyro.conf.Positional[Path]
    tasks: tuple[str, ...] = ("drawer-close",)
    arms: tuple[sb3_metaworld.Arm, ...] = ("sparse", "robometer")
    stages: tuple[int, ...] = (1_000, 2_000, 4_000, 8_000)
    episodes: int = 4
    frame_interval: int = 5
    split: str = "train"
    learner: sb3_metaworld.Args = field(default_factory=lambda: LEARNER)


class AgentPolicy:
    """An agent as it explores, for one recorded episode."""

    def __init__(self, agent: SAC, repeat: int) -> None:
        self._agent = agent
        self._repeat = repeat
        self._step = 0
        self._action = np.zeros(4, np.float32)

    def act(self, observation: np.ndarray, success: bool) -> np.ndarray:
        """The action of the current decision."""
        if self._step % self._repeat == 0:
            self._action, _ = self._agent.predict(observation, deterministic=False)
        self._step += 1
        return self._action


class Recorder(BaseCallback):
    """Records the agent at its stages."""

    def __init__(self, args: Args, learner: sb3_metaworld.Args) -> None:
        super().__init__()
        self.args = args
        self.learner = learner
        self.waiting = sorted(args.stages)

    def _on_step(self) -> bool:
        while self.waiting and self.num_timesteps >= self.waiting[0]:
            self.record(self.waiting.pop(0))
        return True

    def record(self, stage: int) -> None:
        """Records the episodes of one stage."""
        assert isinstance(self.model, SAC)
        args, learner = self.args, self.learner
        store = TrajectoryStore(args.output)
        steps = learner.max_decisions * learner.action_repeat
        env = make_env(learner.task, max_episode_steps=steps)
        skill = f"agent_{learner.arm}_{stage}"
        for episode in range(args.episodes):
            name = f"metaworld-{learner.task}-{skill}-{args.split}-s{learner.seed}-{episode:04d}"
            if name in store:
                continue
            words = [zlib.crc32(word.encode()) for word in (skill, args.split)]
            seed = int(np.random.SeedSequence([learner.seed, *words, episode]).generate_state(1)[0] >> 1)
            plan = Plan(AgentPolicy(self.model, learner.action_repeat), steps, tail=steps, facts={"decisions": stage})
            trajectory = record_policy(
                env, plan, seed, skill=skill, trajectory_id=name, split=args.split, frame_interval=args.frame_interval
            )
            store.append(trajectory)
        env.close()


def main(args: Args) -> None:
    """Every task under every arm."""
    for task in args.tasks:
        for arm in args.arms:
            learner = replace(args.learner, task=task, arm=arm, decisions=max(args.stages))
            sb3_metaworld.run(learner, callbacks=(Recorder(args, learner),))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
