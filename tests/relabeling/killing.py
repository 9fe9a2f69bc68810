"""Kills runs of relabelling at random moments; a program, so that what is killed is not the test.

``python -m tests.relabeling.killing KIND DATASET TRIALS KILLS SEED`` relabels a copy of the dataset once without a
break, then KILLS copies with a SIGKILL at a random moment and once more to the end, and says what it found as one line
of JSON. Runs are forks, which begin at once, so that most of a run is work and not the start of an interpreter.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from robometer_rl.relabeling.commands import journal_path
from robometer_rl.relabeling.engine import Labeller
from tests.fixed_models import PixelModel
from tests.relabeling.kinds import KINDS, content

# So that a run consists of many packs.
PACK_TOKENS = 60


def run(kind: str, dataset: Path) -> None:
    KINDS[kind].run(dataset, Labeller(PixelModel(), pack_tokens=PACK_TOKENS), verify=True)


def forked(kind: str, dataset: Path, kill_after: float | None = None) -> int:
    """The status of a run in a process of its own, as `os.waitpid` has it."""
    child = os.fork()
    if child == 0:
        try:
            run(kind, dataset)
        except BaseException as error:  # a child must not go on as if it were the parent
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def copied(dataset: Path, folder: Path) -> Path:
    """A copy of a dataset in a new folder."""
    folder.mkdir(parents=True)
    copy = shutil.copytree if dataset.is_dir() else shutil.copy2
    return Path(copy(dataset, folder / dataset.name))


def main(kind: str, dataset: Path, trials: Path, kills: int, seed: int) -> dict[str, int]:
    rng = random.Random(seed)
    original = content(dataset)
    is_kept = KINDS[kind].mode != "in_place"
    # What a run imports is there when children begin, so that they are killed at work.
    run(kind, copied(dataset, trials / "first"))
    unbroken = copied(dataset, trials / "unbroken")
    start = time.monotonic()
    assert forked(kind, unbroken) == 0
    duration = time.monotonic() - start
    expected = content(KINDS[kind].output(unbroken))
    left = sorted(path.name for path in unbroken.parent.iterdir())
    found = Counter(killed=0, finished=0, half_written=0, different=0, damaged=0, resumed=0, left_over=0)
    while found["killed"] < kills:
        path = copied(dataset, trials / "broken")
        if forked(kind, path, rng.uniform(0.0, duration)) == 0:
            found["finished"] += 1
        else:
            found["killed"] += 1
            output = KINDS[kind].output(path)
            found["half_written"] += output.exists() and content(output) not in (expected, original)
            found["damaged"] += is_kept and content(path) != original
            journal = journal_path(KINDS[kind].open(path)[1])
            found["resumed"] += journal.exists() and journal.stat().st_size > 2000
            # Killed after its last act, it had finished, and would now say that its output is there already.
            is_done = is_kept and output.exists() and not journal.exists()
            status = 0 if is_done else forked(kind, path)
            found["different"] += status != 0 or content(output) != expected
            found["damaged"] += is_kept and content(path) != original
            found["left_over"] += sorted(entry.name for entry in path.parent.iterdir()) != left
        shutil.rmtree(path.parent)
    return dict(found)


if __name__ == "__main__":
    kind, dataset, trials, kills, seed = sys.argv[1:]
    sys.stdout.write(json.dumps(main(kind, Path(dataset), Path(trials), int(kills), int(seed))))
