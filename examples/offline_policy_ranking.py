"""Rank policies from recordings of what they do, with a reward model that sees frames and the instruction only.

    pip install -c constraints.txt -e ".[metaworld]"
    python examples/offline_policy_ranking.py --task drawer-open           # records six policies, then ranks them
    python examples/offline_policy_ranking.py --task libero_90-28          # the same in LIBERO (extra libero)
    python examples/offline_policy_ranking.py --recordings my_store --split test
    python examples/offline_policy_ranking.py --recordings my_videos --task "open the drawer"

A policy is worth the mean over its episodes of the progress that the model sees in the last frame. Where true success
was recorded, Kendall's tau says how right the order is. The policies of the first two commands succeed in 0, 20, 40,
60, 80 and 100 % of their episodes: a part of these is the expert's, the others fail in every way that the simulator's
scripts know, from flailing about to undoing what was done. An episode that turns out otherwise (what was undone may
still be done at the end) is recorded anew, so that no two policies are equally good. Recording goes on where it was
interrupted.

Recordings of your own, of any task, are a store or a folder of videos. In a store, and in a folder with a
``videos.jsonl`` (docs/data.md), ``skill`` names the policy of an episode. A folder without one has a folder of videos
per policy, as in ``my_videos/policy_a/run_1.mp4``; nobody then knows which succeeded, and policies are put in order
without being held against the truth.

A page shows a typical episode of each policy under one cursor, and the episodes whose score is farthest from true
success, or from the mean where that is not known.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from robometer_rl import Clip, RewardModel, load_reward_model
from robometer_rl.collecting.simulators import Simulator, simulator_of
from robometer_rl.data.labels import EXPERT, group_key
from robometer_rl.data.reading import Unreadable
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.data.verified import open_verified
from robometer_rl.evaluation.page import PolicyEpisode, write_ranking_page
from robometer_rl.evaluation.policies import PolicyRanking, rank_policies, typical_episodes
from robometer_rl.files import write_text
from robometer_rl.formats.dataset import DatasetOptions
from robometer_rl.formats.videos import FILE_NAME, VideoDataset, VideosConfig, read_videos
from robometer_rl.frames import FrameProtocol, scored_steps
from robometer_rl.provenance import provenance
from robometer_rl.rewards import DEFAULT_REWARD

logger = logging.getLogger(__name__)

BATCH = 8  # episodes per call of the model
ATTEMPTS = 20  # at an episode with all skills together, until it turns out as planned


@dataclass
class Args:
    """Options.

    Attributes:
        task: Task to record the policies in, drawer-open by default. Of recordings of your own the instruction: of bare
            videos what the policies were to do, of others which are meant where they show several tasks.
        recordings: Recordings of your own to rank, a store or a folder of videos; nothing is recorded then.
        split: Which split of them, all of them by default.
        store: Where recordings are made; one per task below the output by default.
        model: Reward model, as for ``load_reward_model``.
        every: Scoring interval in recorded frames.
        page: Episodes that are scored frame by frame and shown on the page, beside a typical one of each policy.
        policies: Policies to record, with success rates evenly spread from 0 to 1.
        episodes: Episodes per policy.
        size: Height and width of recorded frames.
        seed: Of the recordings.
        output: Where recordings and results go.
        smoke: Record two policies with two episodes each, to see that everything works.
    """

    task: str | None = None
    recordings: Path | None = None
    split: str | None = None
    store: Path | None = None
    model: str = "mini"
    every: int = 1
    page: int = 12
    policies: int = 6
    episodes: int = 20
    size: int = 128
    seed: int = 0
    output: Path = Path("outputs/policy_ranking")
    smoke: bool = False


@dataclass(frozen=True, eq=False)
class Episode:
    """A recording of a policy.

    Attributes:
        policy: Whose.
        clip: What it shows.
        succeeds: Whether it succeeded; None where nobody knows.
        tiled: Whether it shows several cameras in one picture.
    """

    policy: str
    clip: Clip
    succeeds: bool | None
    tiled: bool = False


def read_recordings(args: Args, path: Path) -> list[Episode]:
    """Recordings of somebody's own: what is wanted of them, whose policy and whose one task are known."""
    if path.is_dir() and (path / FILE_NAME).is_file():
        found = list(_readable(read_videos(VideosConfig(path))))
    elif path.is_dir() and not (path / "store.json").is_file():
        return list(read_folders(path, args))
    else:
        found = open_verified(path).trajectories
    episodes = [each for each in found if args.split in (None, each.split) and args.task in (None, *_names(each))]
    if not episodes:
        known = sorted({(each.split, each.task) for each in found})
        raise ValueError(f"{path} has no episodes of split {args.split} and task {args.task}; it has those of {known}")
    tasks = sorted({each.task for each in episodes})
    if len(tasks) > 1:
        raise ValueError(
            f"{path} shows several tasks, whose scores cannot be compared: choose one by --task of {tasks}"
        )
    if unnamed := [each.id for each in episodes if each.skill is None]:
        raise ValueError(f"{len(unnamed)} episodes do not say whose they are, {unnamed[0]} for one: set their skill")
    return [Episode(str(each.skill), each.clip(), each.quality_label == "successful", each.tiled) for each in episodes]


def _names(trajectory: Trajectory) -> tuple[str, ...]:
    return (trajectory.task, *trajectory.instructions, group_key(trajectory))


def _readable(read: Iterator[Trajectory | Unreadable]) -> Iterator[Trajectory]:
    for each in read:
        if isinstance(each, Unreadable):
            logger.warning("%s is left out: %s", each.name, each.reason)
        else:
            yield each


def read_folders(path: Path, args: Args) -> Iterator[Episode]:
    """The videos in the folders of ``path``, one folder per policy, which say nothing but what they show."""
    folders = sorted(folder for folder in path.glob("*") if folder.is_dir())
    if args.task is None or args.split is not None or not folders:
        raise ValueError(
            f"{path} is no store and has no {FILE_NAME}; expected a folder of videos per policy, their instruction by "
            f"--task, and no --split. It has the folders {[folder.name for folder in folders]}"
        )
    for folder in folders:
        videos = VideoDataset(DatasetOptions(folder, tasks=(args.task,)))
        for key in videos.keys:
            (frames,) = videos.episode(key).cameras.values()
            yield Episode(folder.name, Clip(frames, args.task), None)


def record_policies(args: Args, task: str, path: Path) -> list[Episode]:
    """Records what the store at ``path`` does not hold yet, and returns all of it."""
    simulator = simulator_of(task)
    store = TrajectoryStore(path)
    # A noisy expert may as well succeed as fail; the others hardly ever succeed.
    failures = [skill for skill in simulator.skills_of(task) if skill not in (EXPERT, "noisy")]
    names = {
        f"{task}-policy_{policy}-s{args.seed}-{episode:04d}": (policy, episode)
        for policy in range(args.policies)
        for episode in range(args.episodes)
    }
    missing = [name for name in names if name not in store]
    env = simulator.make_env(task, size=args.size) if missing else None
    for name in track(missing, f"recording {task}", console=Console(stderr=True)):
        policy, episode = names[name]
        succeeds = episode < round(args.episodes * policy / (args.policies - 1))
        first = (policy + episode) % len(failures)
        skills = [EXPERT] if succeeds else failures[first:] + failures[:first]
        recorded = record_outcome(simulator, env, task, skills, succeeds, name, args.seed)
        store.append(replace(recorded, skill=f"policy_{policy}"))
    if env is not None:
        env.close()
    return [Episode(str(each.skill), each.clip(), each.quality_label == "successful") for each in store]


def record_outcome(
    simulator: Simulator, env: Any, task: str, skills: list[str], succeeds: bool, name: str, seed: int
) -> Trajectory:
    """One episode that succeeds, or fails, as planned: by the first skill, or the next where it hardly ever does."""
    each = ATTEMPTS // len(skills)
    for attempt, skill in enumerate(skill for skill in skills for _ in range(each)):
        recorded = simulator.record_episode(
            env,
            skill,
            np.random.SeedSequence([seed, zlib.crc32(name.encode()), attempt]),
            trajectory_id=name,
            split="test",
            frame_interval=simulator.frame_interval(task),
        )
        if (recorded.quality_label == "successful") == succeeds:
            return recorded
    raise RuntimeError(
        f"none of {', '.join(skills)} {'succeeds' if succeeds else 'fails'} in {task}: {each} attempts each"
    )


def final_progress(args: Args, model: RewardModel, episodes: list[Episode]) -> list[float]:
    """What the model sees in the last frame of each episode, with its history."""
    model.require_views("ranking policies", tiled=all(episode.tiled for episode in episodes))
    protocol = model.default_protocol
    values: list[float] = []
    for start in track(range(0, len(episodes), BATCH), "scoring", console=Console(stderr=True)):
        clips = [last_history(episode.clip, protocol, args.every) for episode in episodes[start : start + BATCH]]
        values += [float(prediction.progress[-1]) for prediction in model.predict(clips)]
    return values


def last_history(clip: Clip, protocol: FrameProtocol, every: int) -> Clip:
    """The frames that a model is shown when it scores the last step: all that a final score takes."""
    steps = scored_steps(len(clip), every)
    return Clip(clip.read(steps[protocol.slots(len(steps) - 1)]), clip.task)


def show(ranking: PolicyRanking, title: str) -> None:
    """The ranking as a table."""
    table = Table("policy", "mean final progress", "true success", title=title, title_justify="left")
    for policy in ranking.policies:
        true = "" if policy.success_rate is None else f"{policy.success_rate:.0%}"
        table.add_row(policy.name, str(policy.score), true)
    Console().print(table)
    if ranking.tau_a is None:
        Console().print("how right that is, only true success could say: record which episodes succeed")
    else:
        Console().print(f"Kendall's tau_a {ranking.tau_a}, tau_b {ranking.tau_b}")


def write_page(
    args: Args, model: RewardModel, ranking: PolicyRanking, episodes: list[Episode], finals: list[float], name: str
) -> Path:
    """The page: a typical episode of each policy, and those whose score is farthest from true success or the mean."""
    scores = np.array(finals)
    typical = typical_episodes([episode.policy for episode in episodes], scores)
    truths = [float(scores.mean()) if each.succeeds is None else float(each.succeeds) for each in episodes]
    worst = np.argsort(-np.abs(scores - truths), kind="stable")[: args.page].tolist()
    shown: dict[int, PolicyEpisode] = {}
    chosen = dict.fromkeys([*typical.values(), *worst])
    for at in track(chosen, "scoring frame by frame", console=Console(stderr=True)):
        each = episodes[at]
        (said,) = model.predict_steps([each.clip], every=args.every)
        shown[at] = PolicyEpisode(f"{each.policy}, episode {at}", each.policy, each.clip, said, each.succeeds)
    return write_ranking_page(
        args.output / f"{name}-page",
        f"Policies of {name}, ranked by {model.model_id}",
        ranking,
        {policy: shown[at] for policy, at in typical.items()},
        [shown[at] for at in worst],
        DEFAULT_REWARD.threshold(model.success_threshold),
        {
            "Model": f"{model.model_id}, {model.dtype}",
            "Frame protocol": f"{model.default_protocol}, every {args.every} frames",
            "Episodes": str(len(episodes)),
        },
    )


def run(args: Args) -> dict[str, Any]:
    """Records if no recordings are given, ranks, and writes ``NAME.json`` into the output."""
    if args.recordings is not None:
        path, task = args.recordings, args.task
        episodes = read_recordings(args, path)
    else:
        task = args.task or "drawer-open"
        path = args.store or args.output / task
        episodes = record_policies(args, task, path)
    model = load_reward_model(args.model)
    scores = final_progress(args, model, episodes)
    successes = [episode.succeeds for episode in episodes if episode.succeeds is not None]
    known = successes if len(successes) == len(episodes) else None
    ranking = rank_policies([episode.policy for episode in episodes], scores, known)
    name = path.resolve().name
    show(ranking, f"{args.model} on {name}, {len(episodes)} episodes")
    result = {
        "origin": provenance(),
        "model": args.model,
        "protocol": str(model.default_protocol),
        "every": args.every,
        "task": task or episodes[0].clip.task,
        "split": args.split,
        "episodes": len(episodes),
        **ranking.as_dict(),
        "finished": True,
    }
    page = write_page(args, model, ranking, episodes, scores, name)
    write_text(args.output / f"{name}.json", json.dumps(result, indent=1) + "\n")
    Console().print(f"written to {args.output / name}.json; see it: open {page}", soft_wrap=True)
    return result


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    if arguments.smoke:
        arguments = replace(arguments, policies=2, episodes=2, size=64, output=arguments.output / "smoke")
    run(arguments)
