"""How fast training is, and how much memory it takes, against a straight loop over the same samples.

    python benchmarks/training.py                        # robometer-mini's shape; writes results/training.json
    python benchmarks/training.py --shape tiny --steps 3 --warmup 1 --rounds 1

Both train the same network with a frozen vision tower on the same samples, in processes of their own and in turns:

    straight   forward, backward, step: batches as they are drawn, the frozen tower sees the pixels of every batch, all
               tokens go through all layers, and of a pair only the first trajectory is supervised, as in the reference
    library    `run_stage`: cached features, length bucketing, a last layer of those tokens only that are read, both
               trajectories of a pair supervised

Seconds are those of the processor, of one thread, so that what else runs on the machine counts for little. ``ratio`` is
the median over rounds of the library's samples per second over the straight loop's, once the features are cached.
Caching a frame costs as much as is saved on ``break_even_samples_per_frame`` samples.

``loading`` is about training from pixels: how many frames of 240 x 320 pixels a worker reads and cuts into patches in a
second of its processor, by what they are kept in.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import memory
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from recording import RESULTS, write_result
from rich.console import Console
from rich.table import Table
from torch import nn

from robometer_rl.data.array_frames import ArrayFrames
from robometer_rl.data.store import TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.data.video_frames import VideoFrames
from robometer_rl.models.robometer.checkpoint import Checkpoint
from robometer_rl.models.robometer.config import PUBLISHED_MAX_PIXELS, PUBLISHED_MIN_PIXELS
from robometer_rl.models.robometer.network import RobometerNetwork, RobometerOutput
from robometer_rl.models.robometer.patches import FramePatcher
from robometer_rl.models.robometer.processing import RobometerInputs
from robometer_rl.training.bucketing import TokenCounts
from robometer_rl.training.collate import Collator, FrameSource, PixelSource, TrainingBatch
from robometer_rl.training.config import LossWeights, NetworkShape, StageConfig
from robometer_rl.training.episodes import make_episodes
from robometer_rl.training.features import FeatureCache
from robometer_rl.training.from_scratch import make_checkpoint
from robometer_rl.training.objective import Objective
from robometer_rl.training.samples import PairSample, Sample
from robometer_rl.training.sampling import Sampler, SamplingConfig
from robometer_rl.training.trainable import choose_trainable
from robometer_rl.training.trainer import StageData, run_stage, training_arguments
from robometer_rl.video.writing import write_video

Method = Literal["straight", "library"]
METHODS: tuple[Method, ...] = ("straight", "library")
SHAPES = {
    "mini": NetworkShape(),
    "tiny": NetworkShape(
        hidden=64, layers=2, feed_forward=64, key_value_heads=1, vision_hidden=32, vision_layers=2,
        vision_feed_forward=32, deepstack=(0,), side=64,
    ),
}  # fmt: skip
FRAME = (240, 320)
CLIP = 8  # frames that are read at once
RECORDINGS = 3
TASKS = ("open the top drawer of the cabinet", "push the button")


@dataclass
class Args:
    """Options.

    Attributes:
        shape: Of the network; its frames are squares of the shape's side.
        steps: Optimiser steps that are timed.
        warmup: Steps before them.
        batch_size: Samples per step.
        rounds: How often each method is timed.
        episodes: Recordings of each task and outcome.
        clips: Read to see how fast a worker is; 0 leaves that out.
        method: Used by the benchmark in its processes: time this method once and print the numbers.
    """

    shape: Literal["mini", "tiny"] = "mini"
    steps: int = 12
    warmup: int = 3
    batch_size: int = 16
    rounds: int = 2
    episodes: int = 3
    clips: int = 40
    method: Method | None = None


@dataclass
class Clock:
    """A collator that notes when each batch is asked for, and what is in it."""

    collator: Collator
    first_side_only: bool
    times: list[float] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    supervised: list[int] = field(default_factory=list)

    def __call__(self, samples: Sequence[Sample]) -> dict[str, TrainingBatch]:
        """See `Collator`."""
        self.times.append(time.process_time())
        self.samples.append(len(samples))
        self.supervised.append(sum(self._frames(sample) for sample in samples))
        return self.collator(samples)

    def _frames(self, sample: Sample) -> int:
        if not isinstance(sample, PairSample):
            return len(sample)
        return len(sample.first) + (0 if self.first_side_only else len(sample.second))

    def rates(self, warmup: int) -> dict[str, float]:
        """Per second, over the batches after the first few."""
        seconds = self.times[-1] - self.times[warmup]
        return {
            "samples_per_second": sum(self.samples[warmup:-1]) / seconds,
            "supervised_frames_per_second": sum(self.supervised[warmup:-1]) / seconds,
        }


def made_up(side: int, each: int) -> list[Trajectory]:
    """Successes and failures of two tasks, of different lengths: a square that crosses a noisy background, or stops."""
    rng = np.random.default_rng(0)
    trajectories = []
    for task in TASKS:
        for number in range(2 * each):
            length, done = 20 + 4 * number, number < each
            place = np.linspace(0.0, 1.0 if done else 0.5, length)
            frames = rng.integers(0, 60, (length, side, side, 3), dtype=np.uint8)
            for frame, position in zip(frames, place, strict=True):
                left = int(position * (side - side // 4))
                frame[side // 3 : side // 2, left : left + side // 4] = (220, 180, 40)
            quality = "successful" if done else "failure"
            success = place >= 1.0
            trajectories.append(
                Trajectory(f"{task} {number}", task, frames, quality, "made-up", success=success, skill="expert")
            )
    return trajectories


class WholePass(nn.Module):
    """A network whose tokens all go through all layers, as in the forward of transformers.

    Args:
        network: Whose weights these are.
    """

    def __init__(self, network: RobometerNetwork) -> None:
        super().__init__()
        self.network = network
        self.config = network.config
        self.preference_head = network.preference_head

    def forward(self, inputs: RobometerInputs) -> RobometerOutput:
        """See `RobometerNetwork.forward`."""
        network, ids = self.network, inputs.input_ids
        hidden, _ = network.decode(ids, inputs.position_ids, network.encode(inputs.frames or []))
        frames = hidden[ids == network.special.progress]
        preference = None
        if len(inputs.sides[0]) == 2:
            preference = network.preference_head(hidden[ids == network.special.preference]).squeeze(-1)
        return RobometerOutput(*network.read(frames), preference, inputs.sides, frames)


def straight(checkpoint: Checkpoint, sampler: Sampler, clock: Clock, args: Args) -> None:
    """The loop that one would write."""
    network = checkpoint.network
    choose_trainable(network, vision=False, preference=True)
    objective = Objective(checkpoint, LossWeights(legacy=True), len(sampler.tasks)).train()
    objective.network = WholePass(network)  # type: ignore[assignment]
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    for step in range(args.warmup + args.steps + 1):
        start = step * args.batch_size
        batch = clock([sampler.sample(0, start + place) for place in range(args.batch_size)])["batch"]
        objective(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def library(
    checkpoint: Checkpoint, sampler: Sampler, clock: Clock, trajectories: list[Trajectory], args: Args, directory: Path
) -> None:
    """What `robometer-rl train` does in its frozen stage."""
    stage = StageConfig(steps=args.warmup + args.steps + 1, batch_size=args.batch_size, bucket_batches=8)
    data = StageData(sampler, clock, TokenCounts(checkpoint.processor, trajectories), 0)
    arguments = training_arguments(
        directory,
        stage.steps,
        stage.batch_size,
        stage.learning_rate,
        stage.weight_decay,
        stage.warmup,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_steps=stage.steps,
    )
    run_stage(checkpoint, data, stage, LossWeights(), arguments)


def time_once(args: Args, method: Method) -> dict[str, float]:
    """Rates and memory of one method in this process."""
    shape = SHAPES[args.shape]
    trajectories = made_up(shape.side, args.episodes)
    sampler = Sampler(make_episodes(trajectories), SamplingConfig())
    checkpoint = make_checkpoint(shape, TASKS, seed=0)
    before = peak_megabytes()
    cache_seconds = 0.0
    with tempfile.TemporaryDirectory() as directory:
        source: FrameSource = PixelSource(trajectories, augment=False, seed=0)
        if method == "library":
            start = time.process_time()
            path = Path(directory) / "features.npy"
            source = FeatureCache.compute(checkpoint.network, checkpoint.processor, trajectories, path, views=1)
            cache_seconds = time.process_time() - start
        clock = Clock(Collator(checkpoint.processor, source), first_side_only=method == "straight")
        if method == "library":
            library(checkpoint, sampler, clock, trajectories, args, Path(directory) / "saves")
        else:
            straight(checkpoint, sampler, clock, args)
    peak = peak_megabytes()
    return clock.rates(args.warmup) | {
        "peak_mb": peak,
        "peak_mb_above_start": peak - before,
        "cache_seconds": cache_seconds,
        "cached_frames": float(sum(map(len, trajectories))),
    }


def loading(clips: int) -> dict[str, float]:
    """Frames that a worker reads and cuts in a second of its processor: of PNG images, videos, packed arrays."""
    patcher = make_checkpoint(SHAPES["mini"], TASKS, seed=0).processor.patcher
    assert isinstance(patcher, FramePatcher)
    patcher = replace(patcher, min_pixels=PUBLISHED_MIN_PIXELS, max_pixels=PUBLISHED_MAX_PIXELS)
    rng, rates = np.random.default_rng(0), {}
    with tempfile.TemporaryDirectory() as name:
        for kind, recordings in recorded(Path(name)).items():
            start = time.process_time()
            for number in range(clips):  # from one recording to the next, as samples do
                shown = recordings[number % len(recordings)]
                patcher(np.asarray(shown[np.sort(rng.integers(len(shown), size=CLIP))]))
            rates[kind] = clips * CLIP / (time.process_time() - start)
    return rates


def recorded(folder: Path) -> dict[str, list[Any]]:
    """The same recordings, kept in each way."""
    pictures = [moving(seed) for seed in range(RECORDINGS)]
    store = TrajectoryStore(folder / "store")
    for number, frames in enumerate(pictures):
        store.append(Trajectory(f"{number}", TASKS[0], frames, "successful", "made-up"))
        write_video(folder / f"{number}.mp4", frames, fps=10)
        np.savez_compressed(folder / f"{number}.npz", frames=frames)
    return {
        "png": [trajectory.frames for trajectory in store],
        "video": [VideoFrames(folder / f"{number}.mp4") for number in range(RECORDINGS)],
        "npz": [ArrayFrames(folder / f"{number}.npz", pictures[number].shape) for number in range(RECORDINGS)],
    }


def moving(seed: int) -> NDArray[np.uint8]:
    """32 frames of what a camera might have seen: large coloured patches that move, and a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (FRAME[0] // 16, FRAME[1] // 16, 3), dtype=np.uint8))
    picture = np.asarray(coarse.resize((FRAME[1], FRAME[0])), np.float32)
    noise = rng.normal(0, 3, (32, *FRAME, 3))
    return np.clip([np.roll(picture, step, 1) for step in range(32)] + noise, 0, 255).astype(np.uint8)


def peak_megabytes() -> float:
    """Most memory that this process has had: of the GPU if there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return memory.peak_megabytes()


def in_a_process(args: Args, method: Method) -> dict[str, float]:
    """`time_once` in a process of its own, whose peak memory is the method's."""
    options = [
        part
        for name, value in asdict(args).items()
        if name != "method"
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    command = [sys.executable, __file__, *options, "--method", method]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=one_thread).stdout
    return json.loads(output.splitlines()[-1])


def summarise(rounds: Sequence[dict[Method, dict[str, float]]]) -> dict[str, float]:
    """Ratios of the library to the straight loop."""
    key = "samples_per_second"
    ours, theirs = ([numbers[method] for numbers in rounds] for method in ("library", "straight"))
    per_frame = median(numbers["cache_seconds"] / numbers["cached_frames"] for numbers in ours)
    saved = median(1 / b[key] - 1 / a[key] for a, b in zip(ours, theirs, strict=True))
    return {
        "ratio": median(a[key] / b[key] for a, b in zip(ours, theirs, strict=True)),
        "peak_memory_ratio": median(a["peak_mb"] / b["peak_mb"] for a, b in zip(ours, theirs, strict=True)),
        "seconds_per_cached_frame": per_frame,
        "break_even_samples_per_frame": per_frame / saved,
    }


def show(rounds: Sequence[dict[Method, dict[str, float]]], summary: dict[str, float], console: Console) -> None:
    """Prints a table."""
    table = Table("method", "samples / s", "supervised frames / s", "peak MB", "above start")
    keys = ("samples_per_second", "supervised_frames_per_second", "peak_mb", "peak_mb_above_start")
    for method in METHODS:
        table.add_row(method, *(f"{median(numbers[method][key] for numbers in rounds):.1f}" for key in keys))
    console.print(table)
    console.print(", ".join(f"{name} {value:.2f}" for name, value in summary.items()))


def main(args: Args) -> None:
    """Runs the benchmark."""
    logging.basicConfig(level=logging.WARNING)
    if args.method is not None:
        print(json.dumps(time_once(args, args.method)))
        return
    rounds: list[dict[Method, dict[str, float]]] = []
    for number in range(args.rounds):
        turns = METHODS if number % 2 == 0 else METHODS[::-1]
        rounds.append({method: in_a_process(args, method) for method in turns})
    summary = summarise(rounds)
    settings = {name: value for name, value in asdict(args).items() if name != "method"}
    rates = loading(args.clips) if args.clips else {}
    write_result("training", {"settings": settings, **summary, "rounds": rounds, "loading": rates})
    show(rounds, summary, Console(width=120))
    for kind, rate in rates.items():
        print(f"a worker reads {rate:.0f} frames / s of {kind}")
    print(f"wrote {RESULTS / 'training.json'}")


if __name__ == "__main__":
    main(tyro.cli(Args))
