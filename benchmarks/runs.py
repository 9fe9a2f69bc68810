"""Many runs of the examples: each a command that anyone can repeat, resumed where it was interrupted.

`outputs/` is not committed, results are. A benchmark that writes the entries of `kept` into its result, and plans with
`recalled`, goes on in a fresh clone: a run that the result has, made with the same command, is not made again.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.recording import RESULTS
from robometer_rl.provenance import provenance

__all__ = ["METAWORLD", "ROOT", "Run", "RunsFailedError", "kept", "merged", "recalled", "run_all", "words"]

ROOT = Path(__file__).parents[1]

METAWORLD: Final[Mapping[str, object]] = {
    "arm": "robometer_sparse", "model": "mini", "mode": "delta", "scale": 2.0, "envs": 4, "max-decisions": 30,
    "gamma": 0.95, "updates": 2.0, "learning-rate": 0.001, "entropy": 0.1, "steady.schedule": "constant",
    "steady.critics": "plain",
}  # fmt: skip
"""How agents learn Meta-World where a benchmark says nothing else. Everything that decides it is said, so that a
command means the same after the defaults of examples/sb3_metaworld.py have changed."""


def words(example: str, options: Mapping[str, object]) -> tuple[str, ...]:
    """The command of an example with options by their names."""
    said: list[str] = [f"examples/{example}.py"]
    for name, value in options.items():
        said += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return tuple(said)


class RunsFailedError(RuntimeError):
    """Some runs failed; the message names them and their logs. What is finished is kept."""


@dataclass(frozen=True)
class Run:
    """A command with a result.

    Attributes:
        name: For people.
        command: What follows the interpreter, run from the repository's root.
        result: JSON file that the command writes; a run is finished when it says so (``"finished": true``).
        known: What a committed result says of it, where the file is not there.
    """

    name: str
    command: tuple[str, ...]
    result: Path
    known: Mapping[str, Any] | None = None

    @property
    def shown(self) -> str:
        """The command as it can be typed."""
        return shlex.join(["python", *self.command])

    def read(self) -> dict[str, Any] | None:
        """The result as far as it is known; None if there is none."""
        path = ROOT / self.result
        if path.exists():
            return json.loads(path.read_text())
        return None if self.known is None else dict(self.known)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return bool((self.read() or {}).get("finished"))

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return ROOT / self.result.parent / f"{self.name}.log"

    def execute(self) -> int:
        """Runs it in a process of its own; returns the exit code."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        variables = {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl", **os.environ}
        with self.log.open("a") as log:
            command = [sys.executable, *self.command]
            return subprocess.run(command, cwd=ROOT, env=variables, stdout=log, stderr=subprocess.STDOUT).returncode


def recalled(runs: Sequence[Run], name: str) -> list[Run]:
    """The runs, each with what ``results/<name>.json`` says of its command, if it does."""
    known = {entry["command"]: entry for entry in _entries(name)}
    return [replace(run, known=known.get(run.shown)) for run in runs]


def merged(entries: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The entries, and those of ``results/<name>.json`` with other commands: a part of a benchmark drops nothing."""
    commands = {entry["command"] for entry in entries}
    return [*entries, *(entry for entry in _entries(name) if entry["command"] not in commands)]


def _entries(name: str) -> list[dict[str, Any]]:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["runs"] if path.exists() else []


def kept(runs: Sequence[Run], more: Callable[[Run], Mapping[str, Any]] = lambda run: {}) -> list[dict[str, Any]]:
    """What a result keeps of the finished runs: name, command, numbers, ``more`` of them, and where they come from."""
    entries = []
    for run in runs:
        numbers = run.read() or {}
        if run.known is not None:
            entries.append(dict(run.known))
        elif numbers.get("finished"):
            del numbers["arguments"]  # the command says them
            origin = {"origin": provenance()}
            entries.append({"name": run.name, "command": run.shown, **numbers, **more(run), **origin})
    return entries


def run_all(runs: Sequence[Run], workers: int, after: Callable[[], object] = lambda: None) -> None:
    """Executes what is not finished, some at the same time.

    A run that fails does not stop the others. ``after`` is called whenever one has ended.

    Raises:
        RunsFailedError: Some failed, or ended without a finished result.
    """
    waiting = [run for run in runs if not run.finished]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress, ThreadPoolExecutor(workers) as pool:
        bar = progress.add_task("runs", total=len(runs), completed=len(runs) - len(waiting))
        futures = {pool.submit(run.execute): run for run in waiting}
        for future in as_completed(futures):
            future.result()
            after()
            progress.advance(bar)
    failed = [run for run in waiting if not run.finished]
    if failed:
        lines = "\n".join(f"  {run.shown}\n    see {run.log}" for run in failed)
        raise RunsFailedError(f"{len(failed)} of {len(runs)} runs are not finished:\n{lines}")
