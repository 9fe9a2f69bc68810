"""How fast a recorded dataset is labelled, against a loop that asks about one step at a time.

    python -m benchmarks.relabeling                  # records what it needs into --work, once; results/relabeling.json

The dataset has the layout of LeRobot v3.0: recordings of Meta-World, encoded as LeRobot encodes them. Methods:

    naive      the loop of other labellers: an episode is decoded, then one forward over 8 uniform frames per step,
               computed by transformers as the reference does
    single     the same loop through this library's `predict`
    uniform    `robometer-rl relabel` with uniform frames, from the first byte read to the last byte written
    nested     the same with nested frames
    decoding   what of the last two is not the model: episodes are read and decoded, and that is all
    ray        as nested, with ``--engine ray`` and workers on this machine, their start included; left out where Ray is
               not installed

Methods take turns in rounds; the loops label some episodes, others in every round. Ratios are of labels per second
within a round, their intervals are bootstrapped over rounds. ``decoding_share`` is the time of decoding over that of
labelling; decoding happens in a thread beside the model, so that only a part of it is waited for.

Memory is that of processes that label as many steps in all, in episodes of different lengths.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.cycled import Cycled
from benchmarks.lerobot_dataset import RecordedEpisode, write_dataset
from benchmarks.memory import peak_megabytes, resident_megabytes
from benchmarks.recording import write_result
from benchmarks.reference import reference_forward
from benchmarks.runs import ROOT
from robometer_rl import Clip, NestedFrames, UniformFrames, load_reward_model
from robometer_rl.collecting.collect import DEFAULT_TASKS, CollectConfig, EpisodeCounts, collect
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.evaluation.metrics import bootstrap
from robometer_rl.files import new_directory
from robometer_rl.formats.dataset import DatasetOptions, Labels, RelabelDataset
from robometer_rl.formats.table import open_dataset
from robometer_rl.frames import FrameProtocol
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.provenance import versions
from robometer_rl.relabeling.batches import decode
from robometer_rl.relabeling.commands import relabel
from robometer_rl.relabeling.engine import Engine, Labeller, one_process
from robometer_rl.relabeling.ray_engine import RayEngine

PROTOCOLS: dict[str, FrameProtocol] = {"uniform": UniformFrames(8), "nested": NestedFrames(8)}
LOOPS = ("naive", "single")

Result = TypeVar("Result")

# 16 episodes of each task: as many as one process records.
EPISODES = EpisodeCounts(
    expert=6, noisy=3, stop_halfway=2, wrong_place=1, random=1, hover=1, undo=1, wrong_push=1, flail=0, drop=0,
    wrong_object=0,
)  # fmt: skip


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        model: Whatever ``load_reward_model`` takes; a Robometer.
        work: Where recordings and datasets are kept.
        recordings: A store of trajectories to use in place of new recordings, as `robometer-rl collect` makes it.
        tasks: Meta-World tasks that are recorded.
        episodes: Episodes of each.
        side: Height and width of frames.
        rounds: How often each method is timed.
        loop_episodes: Episodes that the loops label in a round.
        ray_workers: Workers of Ray on this machine; 0 to leave Ray out.
        memory_steps: Lengths of episodes at which memory is measured.
        memory_labels: Labels that are made while it is.
        probe: Used by the benchmark in its processes: label this dataset once and print memory.
    """

    model: str = "mini"
    work: Path = Path("outputs/relabeling")
    recordings: Path | None = None
    tasks: tuple[str, ...] = DEFAULT_TASKS[:13]
    episodes: EpisodeCounts = field(default_factory=lambda: EPISODES)
    side: int = 128
    rounds: int = 5
    loop_episodes: int = 16
    ray_workers: int = 2
    memory_steps: tuple[int, ...] = (100, 10_000)
    memory_labels: int = 10_000
    probe: Path | None = None


def recordings(args: Args) -> TrajectoryStore:
    """The recordings that datasets are made of."""
    if args.recordings is not None:
        return TrajectoryStore.open(args.recordings)
    return collect(CollectConfig(args.work / "recordings", args.tasks, args.episodes, size=args.side))


def recorded_dataset(args: Args, store: TrajectoryStore) -> Path:
    """A dataset of all recordings, made once."""
    root = args.work / f"recorded-{_name_of(store)}"
    if not root.exists():
        with new_directory(root) as directory:
            write_dataset(directory, _recorded_episodes(store), args.side)
    return root


def _name_of(store: TrajectoryStore) -> str:
    return hashlib.sha256("\n".join(store.ids()).encode()).hexdigest()[:8]


def _recorded_episodes(store: TrajectoryStore) -> Iterator[RecordedEpisode]:
    for trajectory in store:
        done = np.zeros(len(trajectory.frames), np.bool_) if trajectory.success is None else trajectory.success
        # What a step has led to is seen in the frame after it.
        yield RecordedEpisode(trajectory.task, trajectory.frames, np.append(done[1:], done[-1]))


def resampled_dataset(args: Args, store: TrajectoryStore, count: int, steps: int) -> Path:
    """A dataset of so many episodes of so many steps, made once."""
    root = args.work / f"resampled-{_name_of(store)}-{count}x{steps}"
    if not root.exists():
        shown = [store[number % len(store)] for number in range(count)]
        episodes = (
            RecordedEpisode(each.task, Cycled(_there_and_back(each.frames[:]), steps), np.zeros(steps, np.bool_))
            for each in shown
        )
        with new_directory(root) as directory:
            write_dataset(directory, episodes, args.side)
    return root


def _there_and_back(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A round that goes on where it began, without a jump."""
    return np.concatenate([frames, frames[-2:0:-1]])


def load(args: Args) -> Robometer:
    """The model to measure."""
    model = load_reward_model(args.model)
    if not isinstance(model, Robometer):
        raise TypeError(f"{args.model!r} is no Robometer, whose forward the loop computes")
    return model


def label_all(
    dataset: RelabelDataset, model: Robometer, protocol: FrameProtocol, engine: Engine = one_process
) -> Labels:
    """Labels a dataset as the command does, into a copy that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        writer = dataset.writer("copy", Path(folder) / "labelled")
        labels = relabel(dataset, Labeller(model, protocol=protocol), writer, engine=engine)
    assert labels is not None
    return labels


def label_in_a_loop(
    dataset: RelabelDataset, keys: Sequence[str], forward: Callable[[Clip], float]
) -> dict[str, NDArray[np.float64]]:
    """Progress of every step of some episodes, one question per step."""
    found = {}
    for key in keys:
        episode = dataset.episode(key)
        (camera,) = episode.cameras.values()
        frames = np.asarray(camera[:])
        clips = [Clip(frames[UniformFrames(8).slots(t)], episode.tasks[0]) for t in range(len(frames))]
        found[key] = np.array([forward(clip) for clip in clips])
    return found


def decode_all(dataset: RelabelDataset) -> int:
    """Reads and decodes every episode, and returns the number of frames."""
    count = 0
    for key in dataset.keys:
        count += sum(len(decode(frames, 1)) for frames in dataset.episode(key).cameras.values())
    return count


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What a call returns, and its wall time in seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


@dataclass
class Timings:
    """Labels per second of every method by round, and how far the loop's answers are from those of ``uniform``."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    difference: float = 0.0

    def add(self, name: str, labels: int, spent: float) -> None:
        """Notes one round."""
        self.rates.setdefault(name, []).append(labels / spent)

    def ratio(self, name: str, other: str) -> dict[str, float]:
        """How many times as fast ``name`` is, with an interval of 95 %."""
        estimate = bootstrap(np.array(self.rates[name]) / np.array(self.rates[other]))
        return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def time_methods(args: Args, dataset: RelabelDataset, model: Robometer) -> Timings:
    """Lets the methods take turns."""
    forwards = {"naive": partial(reference_forward, model), "single": partial(last_progress, model)}
    timings = Timings()
    stride = max(1, len(dataset) // args.loop_episodes)
    for forward in forwards.values():  # warm
        label_in_a_loop(dataset, dataset.keys[:1], forward)
    for number in range(args.rounds):
        results: dict[str, Labels] = {}
        for name, protocol in PROTOCOLS.items():
            results[name], spent = timed(partial(label_all, dataset, model, protocol))
            timings.add(name, count(results[name]), spent)
        timings.add("decoding", *timed(partial(decode_all, dataset)))
        if has_ray(args):
            labels, spent = timed(partial(label_all, dataset, model, PROTOCOLS["nested"], ray_engine(args)))
            timings.add("ray", count(labels), spent)
        keys = dataset.keys[number % stride :: stride][: args.loop_episodes]
        for name, forward in forwards.items():
            found, spent = timed(partial(label_in_a_loop, dataset, keys, forward))
            timings.add(name, sum(map(len, found.values())), spent)
            apart = [np.abs(results["uniform"].episodes[key].progress - found[key]).max() for key in keys]
            timings.difference = max(timings.difference, float(max(apart)))
    return timings


def count(labels: Labels) -> int:
    """Observations that were labelled."""
    return sum(len(entry.progress) for entry in labels.episodes.values())


def has_ray(args: Args) -> bool:
    """Whether Ray is measured."""
    return args.ray_workers > 0 and find_spec("ray") is not None


def ray_engine(args: Args) -> RayEngine:
    """Workers on this machine."""
    return RayEngine(partial(load_reward_model, args.model), workers=args.ray_workers)


def ray_start_seconds(args: Args, store: TrajectoryStore, model: Robometer) -> float:
    """How long Ray takes for next to nothing: to start, to load the models, and to stop."""
    path = resampled_dataset(args, store, count=1, steps=8)
    _, dataset = open_dataset(DatasetOptions(path))
    return timed(partial(label_all, dataset, model, PROTOCOLS["nested"], ray_engine(args)))[1]


def last_progress(model: Robometer, clip: Clip) -> float:
    """Progress of a clip's last frame."""
    (prediction,) = model.predict([clip])
    return float(prediction.progress[-1])


def probe(args: Args, path: Path) -> None:
    """Labels a dataset and prints megabytes of this process: with the model loaded, and at most."""
    model = load(args)
    loaded = resident_megabytes()
    _, dataset = open_dataset(DatasetOptions(path))
    label_all(dataset, model, PROTOCOLS["nested"])
    print(json.dumps({"loaded_mb": loaded, "peak_mb": peak_megabytes()}))


def memory(args: Args, dataset: Path) -> dict[str, float]:
    """What `probe` finds in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.relabeling", "--model", args.model, "--probe", str(dataset.absolute())]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def summary(timings: Timings) -> dict[str, Any]:
    """The numbers of every method, and what they mean for each other."""
    methods: dict[str, Any] = {}
    for name, rates in timings.rates.items():
        methods[name] = {"labels_per_second": median(rates), "labels_per_second_by_round": rates}
        if name in PROTOCOLS:
            methods[name] |= {f"times_{loop}": timings.ratio(name, loop) for loop in LOOPS}
            methods[name] |= {"decoding_share": timings.ratio(name, "decoding")["value"]}
        if name == "ray":
            methods[name] |= {"times_nested": timings.ratio(name, "nested")}
    return {"methods": methods, "loops_and_uniform_apart": timings.difference}


def interval(ratio: dict[str, float]) -> str:
    """As it is printed."""
    return f"{ratio['value']:.1f} ({ratio['low']:.1f} to {ratio['high']:.1f})"


def show(found: dict[str, Any], memories: dict[int, dict[str, float]]) -> None:
    """Prints the numbers."""
    ratios = ("times_naive", "times_single", "times_nested")
    table = Table("method", "labels/s", *(name.replace("_", " ") for name in ratios), "decoding share")
    for name, numbers in found["methods"].items():
        shown = (interval(numbers[ratio]) if ratio in numbers else "" for ratio in ratios)
        share = numbers.get("decoding_share")
        table.add_row(name, f"{numbers['labels_per_second']:.1f}", *shown, "" if share is None else f"{share:.0%}")
    Console().print(table)
    table = Table("steps of an episode", "MB with the model loaded", "MB at most")
    for steps, numbers in memories.items():
        table.add_row(str(steps), f"{numbers['loaded_mb']:.0f}", f"{numbers['peak_mb']:.0f}")
    Console().print(table)


def main(args: Args) -> None:
    """Measures, prints and records."""
    if args.probe is not None:
        return probe(args, args.probe)
    store = recordings(args)
    path = recorded_dataset(args, store)
    _, dataset = open_dataset(DatasetOptions(path))
    model = load(args)
    found = summary(time_methods(args, dataset, model))
    lengths = {steps: max(1, args.memory_labels // steps) for steps in args.memory_steps}
    memories = {steps: memory(args, resampled_dataset(args, store, count, steps)) for steps, count in lengths.items()}
    if has_ray(args):
        found["ray_start_seconds"] = ray_start_seconds(args, store, model)
    else:
        Console().print("ray: not measured, since it is not installed or ray_workers is 0")
    show(found, memories)
    facts = {
        "model": args.model,
        "model_id": model.model_id,
        "side": args.side,
        "rounds": args.rounds,
        "loop_episodes": args.loop_episodes,
        "ray_workers": args.ray_workers if has_ray(args) else None,
        "dataset": {
            "episodes": len(dataset),
            "labels": sum(len(each.frames) for each in store),
            "format": "LeRobot v3.0",
        },
        "packages": versions(("av", "pyarrow")),
    }
    write_result("relabeling", {**facts, **found, "memory_labels": args.memory_labels, "memory": memories})


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(tyro.cli(Args, description=__doc__))
