"""How fast dense rewards are: one full forward per step against shared work, on one machine in one run.

    python benchmarks/inference.py                       # everything, writes results/inference.json and .png
    python benchmarks/inference.py --models wide --lengths 100 --rounds 5   # the results of other models are kept

Methods, all timed warm and from uint8 frames, preprocessing included:

    reference   one `Qwen3VLModel` forward over 8 uniform frames per step, batch 1, as the reference wrapper does
    single      the same question through this library's `predict`, batch 1
    batched     the same, 16 steps at a time
    uniform     `predict_steps` with uniform frames
    nested      `predict_steps` with nested frames
    stream-N    `stream.append` for N environments, per environment and step
    one-pass    the lower limit: every frame through the tower once, and once through the decoder in clips of 8

Times are medians over rounds in which the methods take turns; ``ratio`` is the median of the ratios within a round.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from cycled import Cycled
from memory import peak_megabytes
from numpy.typing import NDArray
from recording import RESULTS, write_result
from reference import reference_forward
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from robometer_rl import Clip, NestedFrames, UniformFrames, load_reward_model
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.provenance import provenance
from robometer_rl.report.figures import LIGHT, Key, house_style, panels, rendered, save_picture
from robometer_rl.training.config import NetworkShape
from robometer_rl.training.from_scratch import make_checkpoint

ModelName = Literal["wide", "mini", "fixture"]

FIXTURE = Path(__file__).parent.parent / "tests" / "fixtures" / "robometer_tiny" / "checkpoint"
WIDE = NetworkShape(
    hidden=512, layers=8, feed_forward=1536, key_value_heads=4, vision_hidden=512, vision_layers=8,
    vision_feed_forward=1536, deepstack=(2, 5), side=256,
)  # fmt: skip
SIDES: dict[str, int] = {"wide": 256, "mini": 128, "fixture": 128}
TASK = "open the top drawer of the cabinet"


@dataclass
class Args:
    """Options.

    Attributes:
        models: ``wide`` is a random model of 8 layers and width 512; ``fixture`` a random one of 3 layers and width 64.
        lengths: Steps of an episode.
        environments: Sizes of a stream.
        rounds: How often each method is timed.
        reference_steps: Steps of an episode that the slow methods are timed on; all of them cost the same.
        memory: Models whose episodes of 1,000 and 10,000 steps are scored in processes of their own, for peak memory.
        probe: Used by ``memory`` in its processes: score one episode of that many steps and print the peak.
    """

    models: tuple[ModelName, ...] = ("wide", "mini", "fixture")
    lengths: tuple[int, ...] = (50, 100, 200, 500)
    environments: tuple[int, ...] = (1, 4, 16)
    rounds: int = 3
    reference_steps: int = 12
    memory: tuple[ModelName, ...] = ("mini",)
    probe: int | None = None


def load(name: ModelName) -> Robometer:
    """The model to measure."""
    if name == "wide":
        return Robometer(make_checkpoint(WIDE, [TASK], seed=0), source="wide", model_id="wide")
    model = load_reward_model(FIXTURE if name == "fixture" else "mini")
    assert isinstance(model, Robometer)
    return model


def episode(side: int, length: int) -> NDArray[np.uint8]:
    """A bright square that crosses a noisy background."""
    frames = np.random.default_rng(0).integers(0, 60, (length, side, side, 3), dtype=np.uint8)
    for t in range(length):
        left = t * (side - side // 4) // max(1, length - 1)
        frames[t, side // 3 : side // 2, left : left + side // 4] = (220, 180, 40)
    return frames


def histories(frames: NDArray[np.uint8], steps: list[int]) -> list[Clip]:
    """What uniform frames show for these steps."""
    return [Clip(frames[UniformFrames(8).slots(t)], TASK) for t in steps]


def one_pass(model: Robometer, frames: NDArray[np.uint8]) -> None:
    """Every frame once through the tower and once through the decoder, in clips of 8."""
    clips = [Clip(frames[start : start + 8], TASK) for start in range(0, len(frames), 8)]
    tokens = model.processor.progress_inputs(clips[:1]).input_ids.shape[1]
    size = max(1, model.token_budget // tokens)
    for start in range(0, len(clips), size):
        model.predict(clips[start : start + size])


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def time_episodes(model: Robometer, side: int, length: int, args: Args) -> dict[str, dict[str, float]]:
    """Seconds per step of every offline method, which take turns."""
    frames = episode(side, length)
    clip = Clip(frames, TASK)
    # Steps from the ninth on cost the same; the first ones are a little shorter only in the reference.
    sample = np.linspace(8, length - 1, args.reference_steps).astype(int).tolist()
    shown = histories(frames, sample)
    methods: dict[str, tuple[Callable[[], object], int]] = {
        "reference": (lambda: [reference_forward(model, clip) for clip in shown], len(sample)),
        "single": (lambda: [model.predict([clip]) for clip in shown], len(sample)),
        "batched": (lambda: model.predict(shown), len(sample)),
        "uniform": (lambda: model.predict_steps([clip], UniformFrames(8)), length),
        "nested": (lambda: model.predict_steps([clip], NestedFrames(8)), length),
        "one-pass": (lambda: one_pass(model, frames), length),
    }
    times: dict[str, list[float]] = {name: [] for name in methods}
    for name in ("reference", "nested", "one-pass"):
        methods[name][0]()
    for _ in range(args.rounds):
        for name, (work, steps) in methods.items():
            times[name].append(seconds(work) / steps)
    return {name: summary(times[name], times["reference"], times["one-pass"]) for name in methods}


def summary(times: list[float], reference: list[float], limit: list[float]) -> dict[str, float]:
    """Median milliseconds per step, and median ratios within rounds."""
    own = np.array(times)
    return {
        "ms_per_step": float(np.median(own) * 1e3),
        "speedup_over_reference": float(np.median(np.array(reference) / own)),
        "times_one_pass": float(np.median(own / np.array(limit))),
    }


def time_stream(model: Robometer, side: int, environments: int, length: int) -> dict[str, float]:
    """Latency of appends, and per environment and step, over one episode after a warm-up episode."""
    frames = episode(side, length)
    stream = model.stream([TASK] * environments, NestedFrames(8))
    for t in range(16):
        stream.append([frames[t]] * environments)
    stream.reset()
    shown = histories(frames, [length - 1])[0]
    latency, reference = [], []
    for t in range(length):
        latency.append(seconds(lambda t=t: stream.append([frames[t]] * environments)))
        if t % max(1, length // 8) == 0:
            reference.append(seconds(lambda: reference_forward(model, shown)))
    values = np.array(latency) * 1e3
    per_step = float(values.mean() / environments)
    return {
        "ms_per_step": per_step,
        "speedup_over_reference": float(np.median(reference) * 1e3 / per_step),
        "append_p50_ms": float(np.percentile(values, 50)),
        "append_p99_ms": float(np.percentile(values, 99)),
        "append_worst_ms": float(values.max()),
    }


def render_time(side: int) -> dict[str, float]:
    """Milliseconds that Meta-World takes to render one frame of this size, over 100 steps of one episode."""
    from robometer_rl.envs.metaworld import MetaWorldEnv

    env = MetaWorldEnv("drawer-close", size=side)
    env.reset(seed=0)
    action, latency = np.zeros(env.action_space.shape or (), np.float32), []
    for _ in range(100):
        env.step(action)
        latency.append(seconds(env.render) * 1e3)
    env.close()
    return {"p50_ms": float(np.percentile(latency, 50)), "p99_ms": float(np.percentile(latency, 99))}


def stride_jumps(model: Robometer, side: int) -> dict[str, float]:
    """Mean |p_t - p_(t-1)| where the stride doubles and elsewhere, on clips that stand still."""
    protocol = NestedFrames(8)
    still = [Clip(np.repeat(episode(side, 9)[t : t + 1], 120, axis=0), TASK) for t in range(0, 9, 2)]
    changes = np.array([protocol.stride(t) != protocol.stride(t - 1) for t in range(1, 120)])
    steps = np.array([np.abs(np.diff(p.progress)) for p in model.predict_steps(still, protocol)])
    return {"at_stride_change": float(steps[:, changes].mean()), "elsewhere": float(steps[:, ~changes].mean())}


def peak_memory(name: ModelName, length: int) -> float:
    """Peak resident megabytes of a process that scores one episode of that many steps under nested frames."""
    command = [sys.executable, __file__, "--models", name, "--probe", str(length)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def probe(name: ModelName, length: int) -> None:
    """Scores one long episode and prints the peak memory of this process in megabytes."""
    load(name).predict_steps([Clip(Cycled(episode(SIDES[name], 64), length), TASK)], NestedFrames(8))
    print(peak_megabytes())


def measure(name: ModelName, args: Args) -> dict[str, object]:
    """All numbers of one model."""
    model, side = load(name), SIDES[name]
    episodes = {
        length: time_episodes(model, side, length, args) for length in tqdm(args.lengths, desc=f"{name} episodes")
    }
    streams = {n: time_stream(model, side, n, 100) for n in tqdm(args.environments, desc=f"{name} streams")}
    memory = {length: peak_memory(name, length) for length in (1_000, 10_000)} if name in args.memory else {}
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    return {
        "parameters": parameters,
        "frame_side": side,
        "episodes": episodes,
        "streams": streams,
        "metaworld_render": render_time(side) if name == "mini" else {},
        "stride_jumps": stride_jumps(model, side),
        "nested_peak_memory_mb": memory,
    }


def show(results: dict[str, dict], console: Console) -> None:
    """Prints the tables."""
    for name, numbers in results.items():
        table = Table("steps", "method", "ms / step", "x faster than reference", "x one-pass limit", title=name)
        for length, methods in numbers["episodes"].items():
            for method, cell in methods.items():
                values = (cell["ms_per_step"], cell["speedup_over_reference"], cell["times_one_pass"])
                table.add_row(str(length), method, *(f"{value:.2f}" for value in values))
        for environments, cell in numbers["streams"].items():
            latency = "/".join(f"{cell[f'append_{key}_ms']:.0f}" for key in ("p50", "p99", "worst"))
            values = (
                f"{cell['ms_per_step']:.2f}",
                f"{cell['speedup_over_reference']:.2f}",
                f"p50/p99/worst {latency} ms",
            )
            table.add_row("100", f"stream-{environments}", *values)
        console.print(table)
        console.print(f"still clips, mean |dp|: {numbers['stride_jumps']}; peak MB: {numbers['nested_peak_memory_mb']}")
        if numbers["metaworld_render"]:
            console.print(f"Meta-World renders one frame of this size in {numbers['metaworld_render']}")


def plot(results: dict[str, dict], path: Path) -> None:
    """Milliseconds per step against episode length."""
    from matplotlib.ticker import LogLocator

    methods = list(
        dict.fromkeys(m for numbers in results.values() for cells in numbers["episodes"].values() for m in cells)
    )
    colors = dict(zip(methods, LIGHT.series, strict=False))
    keys = [Key(method, color, ring=True) for method, color in colors.items()]
    with house_style(LIGHT):
        title, subtitle = "Time to score an episode", "CPU · both axes logarithmic"
        size = (390, 300)
        figure, places = panels(
            title, subtitle, 1, len(results), size, LIGHT, "steps of an episode", "ms per step", keys
        )
        for axes, (name, numbers) in zip(places, results.items(), strict=True):
            lengths = [int(length) for length in numbers["episodes"]]
            for method, color in colors.items():
                times = [cells[method]["ms_per_step"] for cells in numbers["episodes"].values()]
                axes.loglog(lengths, times, marker="o", mfc="none", color=color)
            axes.set_title(f"{name}, {numbers['frame_side']} px")
            axes.set_xticks(lengths, [str(length) for length in lengths])
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
        save_picture(rendered(figure), path)


def main(args: Args) -> None:
    """Runs the benchmark."""
    logging.basicConfig(level=logging.WARNING)
    if args.probe is not None:
        probe(args.models[0], args.probe)
        return
    path = RESULTS / "inference.json"
    results = json.loads(path.read_text())["models"] if path.exists() else {}
    for name in args.models:  # written after each, since the wide model takes its time
        results[name] = json.loads(json.dumps({"origin": provenance(), **measure(name, args)}))
        write_result("inference", {"models": results})
    show(results, Console(width=120))
    plot(results, RESULTS / "inference.png")
    print(f"wrote {path}")


if __name__ == "__main__":
    main(tyro.cli(Args))
