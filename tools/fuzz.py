"""Attacks the commands of ``robometer-rl`` with damaged files, odd command lines, traps and kills, and counts the harm.

    python tools/fuzz.py                    # the whole attack: an hour or so on two cores
    python tools/fuzz.py --quick            # a tenth of it
    python tools/fuzz.py --only files       # one of its parts: files, lines, probes, kills
    python tools/fuzz.py --seed 7           # other damage; equal seeds do equal damage

It prints a table of figures, and ends with 0 only if no try ended in a traceback, by a signal, not at all, with
something torn or touched that should not be, or with a trap that did what it was made for. What it found is told with
the command that shows it; the folders of such tries stay in ``--folder``. With ``--record`` the figures of parts that
were run whole go to benchmarks/results/fuzzing.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

# Read when the libraries are imported. One thread: forks of a process with more would wait for those it lacks.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MUJOCO_GL=os.environ.get("MUJOCO_GL", "egl"))
os.environ.update(HF_ENDPOINT="http://127.0.0.1:9", COLUMNS="200")
os.environ.pop("ROBOMETER_DEBUG", None)

from fuzzing.attack import PARTS, Attack
from fuzzing.trying import preload

from benchmarks.recording import RESULTS, write_result
from robometer_rl.provenance import provenance


def main() -> int:
    """Runs the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tries")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(PARTS), help="only this part; may be given again")
    parser.add_argument("--match", default="", help="only kinds, commands or probes whose name has this in it")
    parser.add_argument(
        "--folder", type=Path, help="where to work, and to keep what was found; a temporary one if None"
    )
    parser.add_argument("--record", action="store_true", help="write the figures to benchmarks/results/fuzzing.json")
    options = parser.parse_args()
    if options.record and (options.quick or options.match):
        parser.error("figures of a part are recorded where it is run whole: leave out --quick and --match")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="robometer-fuzz-"))
    begin = time.monotonic()
    preload()
    attack = Attack(folder.resolve(), options.seed, 0.1 if options.quick else 1.0, options.match)
    for part in options.only or PARTS:
        PARTS[part](attack)
        if options.record:
            _record(part, attack.figures(part), options.seed)
    sys.stdout.write(attack.table() + "\n")
    sys.stdout.write(f"{time.monotonic() - begin:.0f} s; seed {options.seed}; what was found is in {folder}\n")
    return int(attack.harm() > 0)


def _record(part: str, figures: dict[str, float], seed: int) -> None:
    """Writes the figures of a part; those of the others stay what they are."""
    path = RESULTS / "fuzzing.json"
    parts = json.loads(path.read_text())["parts"] if path.exists() else {}
    parts[part] = {"origin": provenance(), "seed": seed, **figures}
    write_result("fuzzing", {"parts": parts})


if __name__ == "__main__":
    sys.exit(main())
