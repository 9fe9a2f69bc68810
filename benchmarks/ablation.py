r"""What is the preference loss worth: progress and success alone, against these and preference, over several seeds.

    python -m benchmarks.ablation            # two arms x seeds; results/ablation.json; goes on where it was stopped

Needs the extras ``metaworld`` and ``train``. Records training episodes of the benchmark's eight tasks that mini was
trained on, with today's labels, and trains each arm for as many steps on them: as many samples, of which in one arm
three in ten are pairs. Decoder and heads start from random numbers, drawn from the seed;
the frozen vision tower is that of the shipped mini, which saw other episodes of these tasks, read the simulator's state
off single frames and was trained by neither loss. Both arms of a seed share start, episodes and features, so that their
difference is one of the losses. No episode is kept out to choose a success threshold: it is 0.5 throughout.

Every checkpoint is judged on the frozen episodes of ``robometer-rl benchmark metaworld``, by that command's code. For
each metric the result has the mean and the range over seeds of either arm, and the mean of the differences of a seed
with its 95 % interval by Student's t. `METRICS` were chosen before the first run; all others are in the result, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.recording import write_result
from robometer_rl.collecting.collect import CollectConfig, EpisodeCounts, collect
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.evaluation.benchmark.asking import ask_everybody, manifest, manifest_differences
from robometer_rl.evaluation.benchmark.definitions import benchmark
from robometer_rl.evaluation.benchmark.sets import benchmark_sets
from robometer_rl.evaluation.metrics import Estimate, plain_metrics, read_metrics
from robometer_rl.evaluation.page import number_with_interval
from robometer_rl.evaluation.published.answers import answerers
from robometer_rl.files import write_text
from robometer_rl.models.loading import load_reward_model
from robometer_rl.models.locations import locate
from robometer_rl.models.robometer.checkpoint import SETTINGS_FILE, load_checkpoint, save_checkpoint
from robometer_rl.training.config import NetworkShape, TrainConfig
from robometer_rl.training.features import FeatureCache
from robometer_rl.training.from_scratch import instructions_with, make_checkpoint
from robometer_rl.training.pipeline import select_trajectories, train
from robometer_rl.training.recipes import load_recipe

ARMS: Final[Mapping[str, float]] = {"progress_only": 0.0, "both_losses": 0.3}
"""Part of the samples that are pairs; 0.3 is the recipe's."""

DIFFERENCE: Final = "difference"
"""Both losses less progress only, in the result beside the arms."""

METRICS: Final = (
    "success_above_failure",
    "final_tau_a",
    "success_auroc",
    "success_rule_recall",
    "success_rule_false_alarms",
    "preference_accuracy_mean",
    "preference_accuracy_both",
    "voc_pearson",
    "regression_correlation",
    "wrong_task_progress",
    "stall_rise",
    "still_progress_range",
    "final_progress_expert",
    "final_progress_random",
)

TASKS: Final = benchmark("metaworld").recordings["metaworld"].tasks

EPISODES: Final = EpisodeCounts(
    expert=4, noisy=2, stop_halfway=2, wrong_place=1, random=1, hover=1, undo=1, wrong_push=1, flail=1, drop=0,
    wrong_object=0,
)  # fmt: skip

Metrics = Mapping[str, Estimate]


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        seeds: Of the start and of what is drawn.
        steps: Of training.
        batch_size: Samples of a step.
        tasks: Recorded and trained on.
        episodes: Recorded of each task.
        data_seed: Of the recordings.
        limit: Judge by only so many tasks of each set of the benchmark.
        workers: Processes that record.
        output: Where recordings, checkpoints and what was measured of each go.
        name: Of the file with the results.
        smoke: Run at the smallest sizes, to see that it works.
    """

    seeds: tuple[int, ...] = (1, 2, 3)
    steps: int = 250
    batch_size: int = 8
    tasks: tuple[str, ...] = TASKS
    episodes: EpisodeCounts = EPISODES
    data_seed: int = 15
    limit: int | None = None
    workers: int = 1
    output: Path = Path("outputs/ablation")
    name: str = "ablation"
    smoke: bool = False

    @property
    def recordings(self) -> CollectConfig:
        """What is trained on."""
        return CollectConfig(
            output=self.output / "recordings",
            tasks=self.tasks,
            episodes=self.episodes,
            seed=self.data_seed,
            workers=self.workers,
        )


def smallest(args: Args) -> Args:
    """What takes a minute."""
    few = replace(EPISODES, expert=2, noisy=0, stop_halfway=0, wrong_place=0, random=1, hover=0, undo=0, wrong_push=0)
    return replace(
        args, seeds=(1,), steps=2, tasks=("door-lock", "push"), episodes=replace(few, flail=0), limit=1,
        output=args.output / "smoke", name=f"{args.name}_smoke", smoke=False,
    )  # fmt: skip


def main(args: Args) -> dict[str, Any]:
    """Records, trains and judges what is not there yet, and writes down what there is."""
    if args.smoke:
        return main(smallest(args))
    collect(args.recordings)
    runs: list[dict[str, Any]] = []
    for seed in args.seeds:
        start = _start(args, seed)
        for arm in ARMS:
            runs.append({"arm": arm, "seed": seed, **_run(args, start, arm, seed)})
            result = _result(args, runs)
            path = write_result(args.name, result)
    Console().print(*(_table(each) for each in result["sets"]), f"wrote {path}", sep="\n")
    return result


def _start(args: Args, seed: int) -> Path:
    """A checkpoint with mini's vision tower, and everything else from random numbers."""
    made = args.output / f"start-{seed}"
    if not (made / SETTINGS_FILE).exists():
        texts = instructions_with(TrajectoryStore.open(args.recordings.output))
        checkpoint = make_checkpoint(NetworkShape(), texts, seed)
        mini = load_checkpoint(locate("mini").directory)
        checkpoint.network.model.visual.load_state_dict(mini.network.model.visual.state_dict())
        save_checkpoint(made, checkpoint)
    return made


def _run(args: Args, start: Path, arm: str, seed: int) -> dict[str, Any]:
    """Trains and judges one checkpoint, unless that was done before."""
    config = _training(args, start, arm, seed)
    kept = config.output / "judged.json"
    if not kept.exists():
        computed, own = _features(args, config), config.output / "features.npy"
        if not own.exists():
            config.output.mkdir(parents=True, exist_ok=True)
            os.link(computed, own)
        checkpoint = train(config)
        report = json.loads((config.output / "report.json").read_text())
        judged = {"seconds": report["seconds"]["frozen"], **_judged(args, checkpoint)}
        write_text(kept, json.dumps(judged, indent=1) + "\n")
    return json.loads(kept.read_text())


def _features(args: Args, config: TrainConfig) -> Path:
    """What the tower makes of all frames, which is the same for all runs."""
    path = args.output / "features.npy"
    if not path.exists():
        checkpoint = load_checkpoint(Path(str(config.start)))
        episodes = select_trajectories(config).trajectories
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            FeatureCache.compute(
                checkpoint.network, checkpoint.processor, episodes, path, config.feature_views, args.data_seed
            )
    return path


def _training(args: Args, start: Path, arm: str, seed: int) -> TrainConfig:
    """Mini's recipe, but for the start, the steps and the pairs; samples of like length go together, to save time."""
    recipe = load_recipe("robometer-mini").config
    return replace(
        recipe,
        data=(args.recordings.output,),
        output=args.output / f"{arm}-{seed}",
        start=str(start),
        pretraining=replace(recipe.pretraining, steps=0),
        frozen=replace(recipe.frozen, steps=args.steps, batch_size=args.batch_size, bucket_batches=8),
        sampling=replace(recipe.sampling, pair_fraction=ARMS[arm]),
        validation_fraction=0.0,
        seed=seed,
    )


def _judged(args: Args, checkpoint: Path) -> dict[str, Any]:
    """What the benchmark measures of a checkpoint frame by frame and of pairs, by set."""
    whole = benchmark("metaworld")
    asked = replace(whole, kinds={"preference": whole.kinds["preference"]})
    everybody = answerers([load_reward_model(checkpoint)], checkpoint.parent / "answers.jsonl", controls=False)
    datasets = benchmark_sets(asked, (), args.output / "benchmark", args.limit, args.workers)
    sets = [ask_everybody(asked, dataset, everybody) for dataset in datasets]
    metrics: dict[str, Any] = {}
    for each in sets:
        (measured,) = each.measured.values()
        compared = each.judged["preference"].rows[0].corrected
        metrics[each.name] = plain_metrics({**measured, **compared})
    is_frozen = not manifest_differences(asked, sets)
    return {"manifest": {"frozen": is_frozen, "sha256": manifest(sets)}, "metrics": metrics}


def over_seeds(values: Sequence[float | None]) -> Estimate:
    """The mean of a metric, from the lowest to the highest; seeds for which it is undefined are left out."""
    found = np.array([value for value in values if value is not None])
    if not len(found):
        return Estimate(np.nan, np.nan, np.nan, 0, len(values))
    mean, low, high = found.mean(), found.min(), found.max()
    return Estimate(float(mean), float(low), float(high), len(found), len(values) - len(found))


def paired_difference(pairs: Sequence[tuple[float | None, float | None]]) -> Estimate:
    """The mean of second minus first, with its 95 % interval by Student's t; a single pair has none."""
    found = np.array([second - first for first, second in pairs if first is not None and second is not None])
    undefined = len(pairs) - len(found)
    if len(found) < 2:
        value = float(found[0]) if len(found) else np.nan
        return Estimate(value, np.nan, np.nan, len(found), undefined)
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    mean = found.mean()
    return Estimate(float(mean), float(mean - half), float(mean + half), len(found), undefined)


def _result(args: Args, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    settings = {key: value for key, value in asdict(args).items() if key not in ("output", "name", "smoke", "workers")}
    trained = TrajectoryStore.open(args.recordings.output)
    return {
        "settings": settings | {"pair_fraction": dict(ARMS)},
        "training_episodes": len(trained.ids()),
        "chosen_metrics": METRICS,
        "sets": [{"set": name, "metrics": _summary(runs, name)} for name in runs[0]["metrics"]],
        "runs": list(runs),
    }


def _summary(runs: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Every metric of a set, for the arms and for their difference in the seeds that have both."""
    by_arm = {arm: {each["seed"]: each["metrics"][name] for each in runs if each["arm"] == arm} for arm in ARMS}
    without, with_pairs = by_arm.values()
    seeds = sorted(without.keys() & with_pairs.keys())
    summary: dict[str, Any] = {}
    for arm, found in by_arm.items():
        metrics = {metric: over_seeds([each[metric]["value"] for each in found.values()]) for metric in _names(found)}
        summary[arm] = plain_metrics(metrics)
    difference: dict[str, Estimate] = {}
    for metric in _names(without) if seeds else ():
        difference[metric] = paired_difference(
            [(without[seed][metric]["value"], with_pairs[seed][metric]["value"]) for seed in seeds]
        )
    return {**summary, DIFFERENCE: plain_metrics(difference)}


def _names(found: Mapping[int, Mapping[str, Any]]) -> list[str]:
    return list(next(iter(found.values()), {}))


def _table(judged: Mapping[str, Any]) -> Table:
    arms = [*ARMS, DIFFERENCE]
    table = Table("", *arms, title=judged["set"], title_justify="left")
    found = [read_metrics(judged["metrics"][arm]) for arm in arms]
    for metric in METRICS:
        cells = [each.get(metric) for each in found]
        table.add_row(metric, *("" if cell is None or not cell.count else number_with_interval(cell) for cell in cells))
    return table


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
