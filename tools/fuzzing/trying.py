"""One try of one command, in a fork of a process that has imported everything already.

A fresh interpreter imports for seconds; a fork begins at once, so that hundreds of tries are affordable on two cores.
"""

from __future__ import annotations

import atexit
import importlib
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HANG_SECONDS = 20.0  # of processor time; or three times as long on the clock, since other programs may be running
MEMORY = 8 << 30  # bytes of data of a try, so that a bomb meets an error and not the machine's end
LARGEST = 4 << 30  # bytes of a file that a try may write, so that it meets an error and not a full disk
POLL = 0.02
ACCEPTED = (0, 2)
TRACES = ("Traceback (most recent call last)", "Exception ignored in", "Fatal Python error", "Segmentation fault")


@dataclass(frozen=True)
class Outcome:
    """What became of a try.

    Attributes:
        words: The command line.
        code: Exit code; None if a signal ended it.
        signal: The signal that ended it, if one did.
        output: Standard output and error, as far as they were printed.
        seconds: Processor time.
        hangs: Whether it did not come to an end.
        killed: Whether it was sent a signal on purpose.
        memory: Bytes of memory that it had at most, what it shares with its parent included.
        clock: Seconds on the clock.
    """

    words: tuple[str, ...]
    code: int | None
    signal: int | None
    output: str
    seconds: float
    hangs: bool
    killed: bool = False
    memory: int = 0
    clock: float = 0.0

    @property
    def problem(self) -> str | None:
        """What is wrong with it, None if nothing is."""
        if self.hangs:
            return "hang"
        if any(trace in self.output for trace in TRACES):
            return "traceback"
        if self.signal is not None and not self.killed:
            return "signal"
        if self.code is not None and self.code not in ACCEPTED and not self.killed:
            return "exit code"
        return None


def preload() -> None:
    """Imports every module of the library, and what its modules import late."""
    import robometer_rl

    for module in pkgutil.walk_packages(robometer_rl.__path__, "robometer_rl."):
        # The simulators start threads of their own; a missing extra is its command's to report.
        try:
            importlib.import_module(module.name)
        except ImportError:
            continue
    for name in ("av", "datasets.arrow_writer", "h5py", "minari", "pyarrow.parquet", "transformers.models.qwen3_vl"):
        importlib.import_module(name)


def attempt(
    words: Sequence[str], folder: Path, kill: tuple[signal.Signals, float] | None = None, **environment: str
) -> Outcome:
    """Runs ``robometer-rl WORDS`` in ``folder``.

    Args:
        words: The command line.
        folder: Working directory; what is printed goes to a file in it.
        kill: A signal, and after how many seconds it is sent.
        environment: Variables beside those of this process.
    """
    from robometer_rl.cli import program

    def run() -> int:
        sys.argv[1:] = words
        return program()

    return attempt_call(run, tuple(words), folder, kill, **environment)


def attempt_call(
    call: Callable[[], Any],
    words: tuple[str, ...],
    folder: Path,
    kill: tuple[signal.Signals, float] | None = None,
    **environment: str,
) -> Outcome:
    """The same for a function, called ``words`` in the outcome."""
    printed = folder / "printed.txt"
    sys.stdout.flush()
    sys.stderr.flush()
    heard, begun = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(heard)
        _run(call, folder, printed, environment, begun)
    os.close(begun)
    os.read(heard, 1)  # on a busy machine a child may begin late, and what comes before is not the program
    os.close(heard)
    return _watch(child, words, printed, kill)


def _run(call: Callable[[], Any], folder: Path, printed: Path, environment: dict[str, str], begun: int) -> None:
    """The child's side; never returns. Closes ``begun`` where the program begins."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.environ.update(environment)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, LARGEST))
        target = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.close(begun)
        result = call()
        code = result if isinstance(result, int) else 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # as the interpreter does
        traceback.print_exc()
    finally:
        try:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _watch(child: int, words: tuple[str, ...], printed: Path, kill: tuple[signal.Signals, float] | None) -> Outcome:
    begin, killed, hangs = time.monotonic(), False, False
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        clock = time.monotonic() - begin
        if kill is not None and not killed and clock >= kill[1]:
            _send(child, kill[0])
            killed = True
        if _processor_time(child) > HANG_SECONDS or clock > 3 * HANG_SECONDS:
            hangs = True
            os.killpg(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            break
        time.sleep(min(POLL, max(kill[1] - clock, 0.001)) if kill and not killed else POLL)
    _end_group(child)
    output = printed.read_bytes().decode("utf-8", "replace") if printed.is_file() else ""
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    used = usage.ru_utime + usage.ru_stime
    return Outcome(words, code, number, output, used, hangs, killed, usage.ru_maxrss * 1024, time.monotonic() - begin)


def _send(child: int, number: signal.Signals) -> None:
    """Sends a signal to a try; Ctrl-C to what it has started as well, as a terminal does."""
    if number == signal.SIGINT and os.getpgid(child) == child:
        os.killpg(child, number)
    else:
        os.kill(child, number)


def _processor_time(child: int) -> float:
    """Seconds that a process has used until now, as Linux has them."""
    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _end_group(child: int) -> None:
    """Ends what a try has started and left behind, and waits for its end."""
    for _ in range(50):
        try:
            os.killpg(child, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(POLL)
