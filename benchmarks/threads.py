"""What threads are worth to a small model, on an idle machine and beside as many busy processes as it has cores.

    python -m benchmarks.threads                  # ten minutes on two cores, which nothing else should use
    python -m benchmarks.threads --environments 1 --threads 1 --seconds 0.1

Timed, each in a process of its own:

    append      the newest frames of 1, 4 and 16 environments, one call of `stream.append`
    episode     every step of an episode of 100 steps, one call of `predict_steps`

on 1, 2 and all threads, and as `Robometer` decides itself, with the two ways in which threads of OpenMP wait for each
other: by spinning (what torch's builds do where ``OMP_WAIT_POLICY`` is not set) and asleep (``PASSIVE``). Beside
milliseconds of the clock stand those of the processor, spinning included. The result holds the machine's load at the
start of each process, for a machine that was not idle is no measure. Writes results/threads.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.recording import write_result

ROOT = Path(__file__).parents[1]
TASK = "open the top drawer of the cabinet"

Wait = Literal["spinning", "asleep"]


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        model: Whatever ``load_reward_model`` takes; a Robometer.
        environments: Numbers of environments.
        threads: Numbers of threads beside all that the machine has and the model's own decision.
        waits: How threads wait for each other.
        beside: Numbers of busy processes; none, and as many as the machine has cores, by default.
        size: Height and width of frames.
        seconds: For each number; at least three calls are timed in any case.
        episode_steps: Length of the episode.
        probe: What each of the processes is asked: ``OWN`` or a number of threads. It prints what it finds as JSON.
    """

    model: str = "mini"
    environments: tuple[int, ...] = (1, 4, 16)
    threads: tuple[int, ...] = (1, 2)
    waits: tuple[Wait, ...] = ("spinning", "asleep")
    beside: tuple[int, ...] | None = None
    size: int = 128
    seconds: float = 3.0
    episode_steps: int = 100
    probe: str | None = None


OWN = "own"
BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(10**6):
        pass
"""


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that compute without end."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def timed(work: Callable[[], object], seconds: float) -> dict[str, float]:
    """Milliseconds of a call: the median and the slowest of a hundred on the clock, and the mean of the processor."""
    work()
    clock: list[float] = []
    processor = time.process_time()
    while len(clock) < 3 or sum(clock) < seconds:
        start = time.perf_counter()
        work()
        clock.append(time.perf_counter() - start)
    used = (time.process_time() - processor) / len(clock)
    p50, p99 = (float(np.percentile(clock, q)) for q in (50, 99))
    return {"p50_ms": 1e3 * p50, "p99_ms": 1e3 * p99, "processor_ms": 1e3 * used, "calls": len(clock)}


def probe(args: Args) -> dict[str, Any]:
    """What this process finds, with the threads that it was told."""
    import torch

    from robometer_rl import Clip, load_reward_model
    from robometer_rl.models.robometer.inference import Robometer

    model = load_reward_model(args.model)
    assert isinstance(model, Robometer), "only Robometer has a number of threads"
    if args.probe != OWN:
        model.threads = int(str(args.probe))
        torch.set_num_threads(model.threads)
    frames = np.random.default_rng(0).integers(0, 60, (args.episode_steps, args.size, args.size, 3), np.uint8)
    found: dict[str, Any] = {"load": os.getloadavg()[0]}
    for count in args.environments:
        stream = model.stream([TASK] * count)
        # From the 29th step to the 56th nothing changes from one step to the next.
        for frame in frames[:29]:
            stream.append([frame] * count)
        found[f"append_{count}"] = timed(lambda s=stream, n=count: s.append([frames[0]] * n), args.seconds)
    found["episode"] = timed(lambda: model.predict_steps([Clip(frames, TASK)]), args.seconds)
    return found


def measure(args: Args, threads: str, wait: Wait) -> dict[str, Any]:
    """Asks a process that has never computed with other threads."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_", "KMP_"))}
    if wait == "asleep":
        variables["OMP_WAIT_POLICY"] = "PASSIVE"
    words = ["--model", args.model, "--size", str(args.size), "--seconds", str(args.seconds), "--probe", threads]
    words += ["--episode-steps", str(args.episode_steps), "--environments", *map(str, args.environments)]
    command = [sys.executable, "-m", "benchmarks.threads", *words]
    done = subprocess.run(command, cwd=ROOT, env=variables, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(args: Args) -> dict[str, Any] | None:
    """Measures every combination and reports."""
    if args.probe is not None:
        print(json.dumps(probe(args)))
        return None
    counts = [*map(str, sorted({*args.threads, cores()})), OWN]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for beside, wait, threads in tqdm(list(product(args.beside or (0, cores()), args.waits, counts))):
        with busy(beside):
            numbers = measure(args, threads, wait)
        found.setdefault(f"beside_{beside}", {}).setdefault(wait, {})[threads] = numbers
    asked = [*(f"append_{count}" for count in args.environments), "episode"]
    table = Table("busy processes", "threads wait", "threads", *(f"{name}, ms (p50 / p99)" for name in asked))
    for beside, by_wait in found.items():
        for wait, by_threads in by_wait.items():
            for threads, numbers in by_threads.items():
                cells = (f"{numbers[name]['p50_ms']:.1f} / {numbers[name]['p99_ms']:.1f}" for name in asked)
                table.add_row(beside.removeprefix("beside_"), wait, threads, *cells)
    Console().print(table)
    options = {name: value for name, value in asdict(args).items() if name != "probe"}
    write_result("threads", {"cores": cores(), **options, **found})
    return found


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
