"""Find the success threshold for your own environment: record labelled rollouts in it, choose a rule, try it on others.

    pip install -c constraints.txt -e ".[metaworld]"
    python examples/calibrate_threshold.py --tasks drawer-open window-close

A success rule with a threshold that fits other cameras and tasks ends episodes that have not succeeded, and pays
agents for it. So: record rollouts whose success is known, good ones and failures of every kind; calibrate on a part of
them; and look at what the rule does on the rest before anything learns from it.

For recordings that you have already, and to write the threshold into a checkpoint, there is `robometer-rl calibrate`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from robometer_rl import RewardSpec, load_reward_model
from robometer_rl.collecting.collect import CollectConfig, EpisodeCounts, collect
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.evaluation.calibration import calibrate_success, gather_evidence, score_success
from robometer_rl.files import write_text

SPLITS = ("calibration", "test")


@dataclass
class Args:
    """Options.

    Attributes:
        tasks: Tasks to record, of Meta-World or LIBERO (``libero_90-28``).
        model: Reward model, as for ``load_reward_model``.
        episodes: Episodes of each skill of each task in each half; four times as many of the expert.
        every: Scoring interval in recorded frames (Meta-World's are 3 steps apart, LIBERO's 2 or 4).
        patience: Candidates for the number of consecutive frames that have to look like success.
        max_false_alarms: Part of the episodes in which the rule may fire before the task is done.
        workers: Processes that record.
        output: Where recordings are kept and the reward is written.
        smoke: Record a handful of episodes, to see that everything works.
    """

    tasks: tuple[str, ...] = ("drawer-open", "window-close")
    model: str = "mini"
    episodes: int = 4
    every: int = 1
    patience: tuple[int, ...] = (1, 2, 3, 5)
    max_false_alarms: float = 0.05
    workers: int = 2
    output: Path = Path("outputs/calibrate_threshold")
    smoke: bool = False


def record(args: Args) -> dict[str, list[Trajectory]]:
    """Rollouts whose success the simulator knows, by split; what is recorded already is kept."""
    few = args.episodes
    counts = EpisodeCounts(4 * few, few, few, few, few, few, few, few, few, few, few)
    if args.smoke:
        counts = EpisodeCounts(3, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0)
    size = 64 if args.smoke else 128
    for split in SPLITS:
        store = collect(
            CollectConfig(args.output / "rollouts", args.tasks, counts, split, size=size, workers=args.workers)
        )
    return {split: [episode for episode in store if episode.split == split] for split in SPLITS}


def main(args: Args) -> RewardSpec:
    """Records, calibrates, tries, and writes ``reward.json``."""
    rollouts = record(args)
    model = load_reward_model(args.model)
    best, *_ = calibrate_success(
        model,
        rollouts["calibration"],
        patiences=args.patience,
        every=args.every,
        max_false_alarms=args.max_false_alarms,
    )
    spec = RewardSpec(success_threshold=round(best.threshold, 4), patience=best.patience)
    scored = {split: score_success(model, episodes, every=args.every) for split, episodes in rollouts.items()}
    table = Table("success rule", "half", "fires in successes", "fires falsely")
    for name, rule in (("before", RewardSpec()), ("calibrated", spec)):
        shown = f"{name}: threshold {rule.threshold(model.success_threshold):.3f}, patience {rule.patience}"
        for split, (successes, done) in scored.items():
            right, false = gather_evidence(successes, done, rule.patience).rates(
                rule.threshold(model.success_threshold)
            )
            table.add_row(shown, split, f"{right:.0%}", f"{false:.0%}")
    Console().print(table)
    Console().print(f"95 % interval of the threshold: {best.threshold_low:.3f} to {best.threshold_high:.3f}")
    if not best.usable:
        Console().print("[bold]It misses most successes: fine-tune the model on such episodes before you use it.")
    write_text(args.output / "reward.json", spec.to_json() + "\n")
    Console().print(f"RewardSpec.from_json(...) reads {args.output / 'reward.json'}")
    return spec


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    if arguments.smoke:
        arguments = replace(arguments, tasks=arguments.tasks[:1], workers=1, output=arguments.output / "smoke")
    main(arguments)
