"""Rank policies from recordings of what they do, with a reward model that sees frames and the instruction only.

    pip install -c constraints.txt -e ".[metaworld]"
    python examples/offline_policy_ranking.py --task drawer-open           # records six policies, then ranks them
    python examples/offline_policy_ranking.py --task libero_90-28          # the same in LIBERO (extra libero)
    python examples/offline_policy_ranking.py --store my_store --task ""   # ranks the policies of your own recordings

A policy is worth the mean over its episodes of the progress that the model sees in the last frame. Where true success
was recorded, Kendall's tau says how right the order is. The policies of the first two commands succeed in 0, 20, 40,
60, 80 and 100 % of their episodes: a part of these is the expert's, the others fail in every way that the simulator's
scripts know, from flailing about to undoing what was done. An episode that turns out otherwise (what was undone may
still be done at the end) is recorded anew, so that no two policies are equally good.

In a store of your own, ``skill`` names the policy of an episode. Recording goes on where it was interrupted.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from robometer_rl import Clip, load_reward_model
from robometer_rl.collecting.simulators import Simulator, simulator_of
from robometer_rl.data.labels import EXPERT
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.evaluation.policies import PolicyRanking, rank_policies
from robometer_rl.files import write_text
from robometer_rl.frames import FrameProtocol, scored_steps
from robometer_rl.provenance import provenance

BATCH = 8  # episodes per call of the model
ATTEMPTS = 20  # at an episode with all skills together, until it turns out as planned


@dataclass
class Args:
    """Options.

    Attributes:
        task: Task to record the policies in; empty to rank what the store holds.
        store: Where recordings are, or are made; one per task below the output by default.
        model: Reward model, as for ``load_reward_model``.
        every: Scoring interval in recorded frames.
        policies: Policies to record, with success rates evenly spread from 0 to 1.
        episodes: Episodes per policy.
        size: Height and width of recorded frames.
        seed: Of the recordings.
        output: Where recordings and results go.
        smoke: Record two policies with two episodes each, to see that everything works.
    """

    task: str = "drawer-open"
    store: Path | None = None
    model: str = "mini"
    every: int = 1
    policies: int = 6
    episodes: int = 20
    size: int = 128
    seed: int = 0
    output: Path = Path("outputs/policy_ranking")
    smoke: bool = False

    @property
    def recordings(self) -> Path:
        """The store."""
        return self.store or self.output / self.task


def record_policies(args: Args) -> None:
    """Records what the store does not hold yet."""
    simulator = simulator_of(args.task)
    store = TrajectoryStore(args.recordings)
    # A noisy expert may as well succeed as fail; the others hardly ever succeed.
    failures = [skill for skill in simulator.skills_of(args.task) if skill not in (EXPERT, "noisy")]
    wanted = [(policy, episode) for policy in range(args.policies) for episode in range(args.episodes)]
    missing = [(policy, episode) for policy, episode in wanted if trajectory_id(args, policy, episode) not in store]
    if not missing:
        return
    env = simulator.make_env(args.task, size=args.size)
    for policy, episode in track(missing, f"recording {args.task}", console=Console(stderr=True)):
        succeeds = episode < round(args.episodes * policy / (args.policies - 1))
        first = (policy + episode) % len(failures)
        skills = [EXPERT] if succeeds else failures[first:] + failures[:first]
        recorded = record_outcome(simulator, env, skills, succeeds, trajectory_id(args, policy, episode), args)
        store.append(replace(recorded, skill=f"policy_{policy}"))
    env.close()


def record_outcome(
    simulator: Simulator, env: Any, skills: list[str], succeeds: bool, name: str, args: Args
) -> Trajectory:
    """One episode that succeeds, or fails, as planned: by the first skill, or the next where it hardly ever does."""
    each = ATTEMPTS // len(skills)
    for attempt, skill in enumerate(skill for skill in skills for _ in range(each)):
        recorded = simulator.record_episode(
            env,
            skill,
            np.random.SeedSequence([args.seed, zlib.crc32(name.encode()), attempt]),
            trajectory_id=name,
            split="test",
            frame_interval=simulator.frame_interval(args.task),
        )
        if (recorded.quality_label == "successful") == succeeds:
            return recorded
    raise RuntimeError(
        f"none of {', '.join(skills)} {'succeeds' if succeeds else 'fails'} in {args.task}: {each} attempts each"
    )


def trajectory_id(args: Args, policy: int, episode: int) -> str:
    """Unique name of an episode."""
    return f"{args.task}-policy_{policy}-s{args.seed}-{episode:04d}"


def final_progress(args: Args, episodes: list[Trajectory]) -> tuple[list[float], str]:
    """What the model sees in the last frame of each episode, with its history; and the protocol of the histories."""
    model = load_reward_model(args.model)
    protocol = model.default_protocol
    values: list[float] = []
    for start in track(range(0, len(episodes), BATCH), "scoring", console=Console(stderr=True)):
        clips = [last_history(episode.clip(), protocol, args.every) for episode in episodes[start : start + BATCH]]
        values += [float(prediction.progress[-1]) for prediction in model.predict(clips)]
    return values, str(protocol)


def last_history(clip: Clip, protocol: FrameProtocol, every: int) -> Clip:
    """The frames that a model is shown when it scores the last step: all that a final score takes."""
    steps = scored_steps(len(clip), every)
    return Clip(clip.read(steps[protocol.slots(len(steps) - 1)]), clip.task)


def show(ranking: PolicyRanking, title: str) -> None:
    """The ranking as a table."""
    table = Table("policy", "mean final progress", "true success", title=title, title_justify="left")
    for policy in ranking.policies:
        table.add_row(policy.name, str(policy.score), f"{policy.success_rate:.0%}")
    Console().print(table)
    Console().print(f"Kendall's tau_a {ranking.tau_a}, tau_b {ranking.tau_b}")


def run(args: Args) -> dict[str, Any]:
    """Records if asked to, ranks, and writes ``result.json`` beside the recordings."""
    if args.task:
        record_policies(args)
    elif args.store is None:
        raise ValueError("give --task, to record policies, or --store, to rank recorded ones")
    episodes = [episode for episode in TrajectoryStore.open(args.recordings) if episode.success is not None]
    scores, protocol = final_progress(args, episodes)
    successes = [episode.quality_label == "successful" for episode in episodes]
    ranking = rank_policies([str(episode.skill) for episode in episodes], scores, successes)
    show(ranking, f"{args.model} on {args.recordings.name}, {len(episodes)} episodes")
    result = {
        "origin": provenance(),
        "model": args.model,
        "protocol": protocol,
        "every": args.every,
        "task": args.task or args.recordings.name,
        "episodes": len(episodes),
        **ranking.as_dict(),
        "finished": True,
    }
    args.output.mkdir(parents=True, exist_ok=True)
    write_text(args.output / f"{args.recordings.name}.json", json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    if arguments.smoke:
        arguments = replace(arguments, policies=2, episodes=2, size=64, output=arguments.output / "smoke")
    run(arguments)
