"""How good a reward model is on LIBERO, suite by suite: VOC, ranking and success detection on recorded rollouts.

    python -m benchmarks.libero.reward_quality                                # records, then measures mini
    python -m benchmarks.libero.reward_quality --model robometer/Robometer-4B
    python -m benchmarks.libero.reward_quality --store my_store --no-record   # on your own recordings

Recorded are the tasks that scripts can solve: all of libero_object and libero_spatial, and the drawers of libero_90;
experts, and failures of seven kinds, from initial states that no training recording uses. Other suites take part if
the store has episodes of them, such as imported demonstrations with failures. Recording goes on where it was stopped;
a suite that was measured with this model on the same episodes is not measured again.

docs/evaluation.md explains the numbers. Writes results/NAME.json; tables and pictures of each suite are beside the
recordings.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.recording import write_result
from robometer_rl import load_reward_model
from robometer_rl.collecting.collect import CollectConfig, EpisodeCounts, collect
from robometer_rl.collecting.libero_scene import TASKS
from robometer_rl.data.labels import group_key
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.envs.libero import SUITES
from robometer_rl.evaluation.evaluate import EvaluateConfig, evaluate
from robometer_rl.models.reward_model import RewardModel

SHOWN: Final = (
    "voc_pearson",
    "voc_pearson_clock",
    "voc_pearson_still",
    "final_tau_a",
    "success_above_failure",
    "success_auroc",
    "success_rule_recall",
    "success_rule_false_alarms",
    "wrong_task_progress",
)


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        model: Whatever ``load_reward_model`` takes.
        tasks: LIBERO tasks to record.
        episodes: Episodes per task by skill.
        record: Record what the store lacks; without it, measure on what is there.
        store: Where recordings are kept.
        split: The split of the store to measure on, and to record under.
        every: Scoring interval in recorded frames.
        pairs: Most pairs per task that preference is asked about.
        size: Height and width of recorded frames.
        workers: Processes that record.
        device: Where the model runs.
        dtype: Its precision; as stored if None.
        output: Where the evaluations of the suites go.
        name: Of the result.
    """

    model: str = "mini"
    tasks: tuple[str, ...] = tuple(TASKS)
    episodes: EpisodeCounts = field(
        default_factory=lambda: EpisodeCounts(
            expert=4, noisy=2, stop_halfway=2, wrong_place=2, random=1, hover=2, drop=2, wrong_object=2
        )
    )
    record: bool = True
    store: Path = Path("outputs/libero/recordings")
    split: str = "test"
    every: int = 1
    pairs: int = 20
    size: int = 128
    workers: int = 2
    device: str = "cpu"
    dtype: str | None = None
    output: Path = Path("outputs/libero/reward_quality")
    name: str = "libero_reward_quality"


def suite_of(episode: Trajectory) -> str | None:
    """The suite that an episode belongs to; None for anything else in the store."""
    named = (episode.data_source, group_key(episode).rpartition("-")[0])
    return next((name for name in named if name in SUITES), None)


def measure(args: Args, model: RewardModel, suite: str, episodes: list[Trajectory]) -> dict[str, Any]:
    """Evaluates one suite, unless that was done."""
    names = "\n".join(sorted(episode.id for episode in episodes))
    key = hashlib.sha256(f"{names}\n{args.every}\n{args.pairs}".encode()).hexdigest()[:12]
    path = args.output / args.model.strip("/").replace("/", "-") / f"{suite}-{key}.json"
    if not path.exists():
        config = EvaluateConfig(args.model, args.store, output=path, every=args.every, pairs=args.pairs)
        evaluate(config, model, episodes)
    return json.loads(path.read_text())


def table(found: dict[str, dict[str, Any]], model: str) -> Table:
    """The numbers of all suites side by side."""
    shown = Table("metric", *found, title=f"{model} on LIBERO (95 % intervals)", title_justify="left")
    for name in SHOWN:
        shown.add_row(name, *(_cell(result["metrics"].get(name)) for result in found.values()))
    shown.add_row("episodes", *(str(sum(result["episodes"].values())) for result in found.values()))
    return shown


def _cell(estimate: dict[str, Any] | None) -> str:
    if estimate is None or estimate["value"] is None:
        return ""
    interval = "" if estimate["low"] is None else f" ({estimate['low']:.2f} to {estimate['high']:.2f})"
    return f"{estimate['value']:.2f}{interval}"


def main(args: Args) -> dict[str, dict[str, Any]]:
    """Records what is missing, measures every suite and reports."""
    if args.record:
        collect(CollectConfig(args.store, args.tasks, args.episodes, args.split, size=args.size, workers=args.workers))
    suites: dict[str, list[Trajectory]] = {}
    for episode in TrajectoryStore.open(args.store):
        suite = suite_of(episode)
        if suite is not None and episode.split == args.split:
            suites.setdefault(suite, []).append(episode)
    model = load_reward_model(args.model, args.device, args.dtype)
    found = {suite: measure(args, model, suite, suites[suite]) for suite in SUITES if suite in suites}
    Console().print(table(found, args.model))
    write_result(args.name, {"model": args.model, "every": args.every, "suites": found})
    return found


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
