"""Kills runs of relabelling at random moments; a program, so that what is killed is not the test.

``python -m tests.relabeling.killing DATASET OUTPUTS KILLS SEED`` relabels once without a break, then KILLS times with a
SIGKILL at a random moment and once more to the end, and says what it found as one line of JSON. Runs are forks, which
begin at once, so that most of a run is work and not the start of an interpreter.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from robometer_rl.relabeling.commands import relabel
from robometer_rl.relabeling.dataset import DatasetOptions
from robometer_rl.relabeling.engine import Labeller
from robometer_rl.relabeling.formats import open_dataset
from tests.fixed_models import PixelModel

# So that a run consists of many packs.
PACK_TOKENS = 60


def run(dataset: Path, output: Path) -> None:
    kind, opened = open_dataset(DatasetOptions(dataset, tasks=("open the drawer",)))
    writer = opened.writer(kind.modes[0], output)
    relabel(opened, Labeller(PixelModel(), pack_tokens=PACK_TOKENS), writer, verify=True)


def forked(dataset: Path, output: Path, kill_after: float | None = None) -> int:
    """The status of a run in a process of its own, as `os.waitpid` has it."""
    child = os.fork()
    if child == 0:
        try:
            run(dataset, output)
        except BaseException as error:  # a child must not go on as if it were the parent
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def content(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def main(dataset: Path, outputs: Path, kills: int, seed: int) -> dict[str, int]:
    rng = random.Random(seed)
    reference = outputs / "unbroken"
    start = time.monotonic()
    assert forked(dataset, reference) == 0
    duration = time.monotonic() - start
    expected = content(reference)
    found = {"killed": 0, "finished": 0, "half_written": 0, "different": 0, "resumed": 0, "left_over": 0}
    while found["killed"] < kills:
        folder = outputs / f"{found['killed'] + found['finished']}"
        folder.mkdir()
        output = folder / "unbroken"
        if forked(dataset, output, rng.uniform(0.0, duration)) == 0:
            found["finished"] += 1
            continue
        found["killed"] += 1
        found["half_written"] += output.exists() and content(output) != expected
        journal = folder / "unbroken.journal"
        found["resumed"] += journal.exists() and journal.stat().st_size > 2000
        status = forked(dataset, output)
        found["different"] += status != 0 or content(output) != expected
        found["left_over"] += sorted(path.name for path in folder.iterdir()) != ["unbroken"]
        shutil.rmtree(folder)
    return found


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.stdout.write(json.dumps(main(Path(arguments[0]), Path(arguments[1]), int(arguments[2]), int(arguments[3]))))
