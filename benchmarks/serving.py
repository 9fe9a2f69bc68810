"""What a reward model costs behind HTTP, beside what it costs in the same process.

    python -m benchmarks.serving
    python -m benchmarks.serving --clients 1 4 --steps 20 --rounds 1 --no-replicas

The server is ``robometer-rl serve`` in a process of its own, clients are threads of this one. Local and remote take
turns, so that what else the machine does hits both:

    append      one frame to each of as many histories as there are clients: a local stream of all of them in one call,
                against clients with one history each
    reference   the same frames through ``/evaluate_batch_npy``, which knows no histories: every step sends all that its
                protocol shows
    peek        16 candidates for one history at once, against 16 streams that have the history already and are given
                one candidate each, and against 16 streams that are given the history first
    replicas    clips through two replicas that Ray runs, against one server

Writes results/serving.json: milliseconds (median and 99th percentile over calls) and frames per second. It is written
after every part, and a run that is started again with the same options goes on behind the last one; remove the file to
measure all of it anew.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.recording import RESULTS, write_result
from robometer_rl import Clip, RewardModel, load_reward_model
from robometer_rl.serving.connection import Connection
from robometer_rl.serving.reference_client import ReferenceServerModel

TASK = "open the drawer"
CANDIDATES = 16


@dataclass(frozen=True)
class Args:
    """Options.

    Attributes:
        model: Whatever ``load_reward_model`` takes.
        device: Where it runs.
        clients: Numbers of clients.
        size: Height and width of frames.
        steps: Steps per round.
        rounds: How often each is timed.
        replicas: Whether two replicas are measured, which takes Ray.
        name: Of the result.
    """

    model: str = "mini"
    device: str = "cpu"
    clients: tuple[int, ...] = (1, 4, 16, 64)
    size: int = 128
    steps: int = 60
    rounds: int = 3
    replicas: bool = True
    name: str = "serving"


Times = list[float]
"""Seconds of each call."""


@contextmanager
def server(arguments: Args, *words: str) -> Iterator[str]:
    """A server in a process of its own, and its address."""
    program = "from robometer_rl.cli import main; raise SystemExit(main())"
    options = ["serve", "--model", arguments.model, "--device", arguments.device, "--port", "0", *words]
    with subprocess.Popen([sys.executable, "-c", program, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield next(found[1] for line in process.stdout if (found := re.match(r"serving .* at (http\S+)", line)))
        finally:
            process.terminate()


def frames(arguments: Args, count: int) -> NDArray[np.uint8]:
    """(steps, count, size, size, 3) noise: what is shown changes nothing of what it costs."""
    shape = (arguments.steps, count, arguments.size, arguments.size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def at_once(jobs: Sequence[Callable[[], Times]]) -> tuple[Times, float]:
    """Times of all calls of jobs on a thread each, and seconds until all have ended."""
    times: list[Times] = [[] for _ in jobs]
    begin = threading.Barrier(len(jobs) + 1)

    def run(number: int) -> None:
        begin.wait()
        times[number] = jobs[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    begin.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return [each for part in times for each in part], time.perf_counter() - start


def local_append(model: RewardModel, shown: NDArray[np.uint8]) -> tuple[Times, float]:
    """One stream of all histories."""
    stream = model.stream([TASK] * shown.shape[1])
    return at_once([lambda: [timed(lambda step=step: stream.append(step)) for step in shown]])


def remote_append(model: RewardModel, shown: NDArray[np.uint8]) -> tuple[Times, float]:
    """One client per history."""
    streams = [model.stream([TASK]) for _ in range(shown.shape[1])]

    def client(number: int) -> Callable[[], Times]:
        return lambda: [timed(lambda s=step: streams[number].append(s[number : number + 1])) for step in shown]

    return at_once([client(number) for number in range(len(streams))])


def peek(model: RewardModel, shown: NDArray[np.uint8]) -> dict[str, float]:
    """Milliseconds of candidates of one history together, and each in a stream of its own."""
    one, separate = model.stream([TASK]), [model.stream([TASK]) for _ in range(CANDIDATES)]
    kept: dict[int, NDArray[np.uint8]] = {}
    times: dict[str, Times] = {"together": [], "separate": [], "built": []}
    for t, step in enumerate(shown):
        frame, candidates = step[:1], np.repeat(step[:1], CANDIDATES, axis=0)
        times["together"].append(timed(lambda candidates=candidates: one.peek(candidates)))
        if t % 8 == 4:

            def build(t: int = t, kept: dict[int, NDArray[np.uint8]] = kept, frame: Any = frame) -> None:
                for _ in range(CANDIDATES):
                    stream = model.stream([TASK])
                    stream.restore(0, t, kept)
                    stream.append(frame)

            times["built"].append(timed(build))
        one.append(frame)
        retained = one.protocol.retained(t).tolist()
        kept = {number: image for number, image in {**kept, t: step[0]}.items() if number in retained}
        times["separate"].append(timed(lambda frame=frame: [stream.append(frame) for stream in separate]))
    found = {name: float(np.median(each)) * 1000 for name, each in times.items()}
    faster = {f"times_faster_than_{name}": found[name] / found["together"] for name in ("separate", "built")}
    return {f"{name}_ms": value for name, value in found.items()} | faster


def clips_through(model: RewardModel, shown: NDArray[np.uint8], clients: int) -> tuple[Times, float]:
    """Clips of eight frames from several clients at once."""
    clip = Clip(np.ascontiguousarray(shown[:8, 0]), TASK)
    count = len(shown) // 4
    return at_once([lambda: [timed(lambda: model.predict([clip])) for _ in range(count)]] * clients)


def summary(times: Times, seconds: float, frames_shown: int) -> dict[str, float]:
    """Milliseconds per call, and frames per second."""
    median, most = np.percentile(times, [50, 99]) * 1000
    return {"p50_ms": float(median), "p99_ms": float(most), "frames_per_s": frames_shown / seconds}


def merged(rounds: Sequence[tuple[Times, float]], frames_shown: int) -> dict[str, float]:
    """All rounds; the rate is that of the median round."""
    seconds = float(np.median([each[1] for each in rounds]))
    return summary([time for each in rounds for time in each[0]], seconds, frames_shown)


def appends(arguments: Args, local: RewardModel, url: str, count: int) -> dict[str, Any]:
    """One frame per step from so many clients."""
    remote = load_reward_model(url)
    reference = ReferenceServerModel(Connection(url, 600.0, 60.0))
    reference.default_protocol = local.default_protocol
    shown, few = frames(arguments, count), max(8, arguments.steps // 6)
    kinds: dict[str, Callable[[], tuple[Times, float]]] = {
        "local": lambda: local_append(local, shown),
        "remote": lambda: remote_append(remote, shown),
        "reference": lambda: remote_append(reference, shown[:few]),
    }
    for run in kinds.values():  # buffers grow, files are read
        run()
    rounds: dict[str, list[tuple[Times, float]]] = {kind: [] for kind in kinds}
    for _ in range(arguments.rounds):
        for kind, run in kinds.items():
            rounds[kind].append(run())
    steps = {"local": arguments.steps, "remote": arguments.steps, "reference": few}
    entry = {kind: merged(each, steps[kind] * count) for kind, each in rounds.items()}
    share = entry["remote"]["frames_per_s"] / entry["local"]["frames_per_s"]
    over = entry["remote"]["p50_ms"] - entry["local"]["p50_ms"]
    return {"clients": count, **entry, "share_of_local": share, "p50_over_local_ms": over}


def memory(url: str) -> float:
    """Bytes per history that the server counts, while one is open."""
    model = load_reward_model(url)
    stream = model.stream([TASK])
    for _ in range(2):  # what the first one takes is counted before the second one is answered
        stream.append(np.zeros((1, 128, 128, 3), np.uint8))
    about = Connection(url, 60.0, 0.0).ask("GET", "/v1/model").content
    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    taken = float(re.findall(r"^robometer_stream_bytes (\S+)$", text, re.MULTILINE)[0])
    return taken / about["limits"]["histories"]


def measure(arguments: Args, found: dict[str, Any], keep: Callable[[dict[str, Any]], object]) -> None:
    """Adds to ``found`` the parts that it lacks, and has it kept after each."""
    local, shown = load_reward_model(arguments.model, arguments.device), frames(arguments, 1)

    def eight_clients(url: str) -> dict[str, float]:
        rounds = [clips_through(load_reward_model(url), shown, 8) for _ in range(arguments.rounds)]
        return merged(rounds, 8 * 8 * (len(shown) // 4))

    parts: dict[str, Callable[[str], Any]] = {
        "memory per history": memory,
        **{f"append {count}": lambda url, n=count: appends(arguments, local, url, n) for count in arguments.clients},
        "peek local": lambda _: peek(local, shown),
        "peek remote": lambda url: peek(load_reward_model(url), shown),
        "one server": eight_clients,
    }
    servers = [(parts, ("--limits.histories", str(2 * max(CANDIDATES, *arguments.clients) + 2)))]
    if arguments.replicas:
        servers.append(({"two replicas": eight_clients}, ("--replicas", "2")))
    for asked, words in servers:
        left = {name: part for name, part in asked.items() if name not in found}
        if not left:
            continue
        with server(arguments, *words) as url:
            for name, part in left.items():
                found[name] = part(url)
                keep(found)


def show(found: dict[str, Any]) -> None:
    """The table of appends, and what else was measured."""
    table = Table("clients", "local p50", "remote p50", "remote p99", "over local", "share of local", "reference p50")
    for entry in (part for name, part in found.items() if name.startswith("append")):
        cells = [entry["local"]["p50_ms"], entry["remote"]["p50_ms"], entry["remote"]["p99_ms"]]
        cells.append(entry["p50_over_local_ms"])
        share, reference = f"{entry['share_of_local']:.0%}", f"{entry['reference']['p50_ms']:.1f} ms"
        table.add_row(str(entry["clients"]), *(f"{cell:.1f} ms" for cell in cells), share, reference)
    console = Console()
    console.print(table)
    for name in ("peek local", "peek remote"):
        numbers = found[name]
        console.print(
            f"{name} of {CANDIDATES}: {numbers['times_faster_than_separate']:.1f} times as fast as streams that "
            f"have the history, {numbers['times_faster_than_built']:.1f} times as fast as streams that are given it"
        )
    console.print(f"{found['memory per history'] / 1e6:.2f} MB per history")
    for name in ("one server", "two replicas"):
        if name in found:
            console.print(f"frames per second of 8 clients, {name}: {found[name]['frames_per_s']:.0f}")


def measured(options: dict[str, Any], name: str) -> dict[str, Any]:
    """The parts that a run with the same options has left."""
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    return before["parts"] if before.get("options") == options else {}


def main() -> None:
    """Measures what is not measured yet, writes and shows it."""
    arguments = tyro.cli(Args)
    asked = ("model", "device", "size", "steps", "rounds")
    options = {name: getattr(arguments, name) for name in asked}
    found = measured(options, arguments.name)
    if found:
        Console().print(f"measured before: {', '.join(found)}")
    measure(arguments, found, lambda parts: write_result(arguments.name, {"options": options, "parts": parts}))
    show(found)
    Console().print(f"numbers are in {RESULTS / arguments.name}.json")


if __name__ == "__main__":
    main()
