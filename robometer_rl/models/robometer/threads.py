"""How many threads of the processor a small amount of work is shared among.

One new frame of a small model is some hundred operations of tens of microseconds each. Shared among threads, each of
them ends with a wait for the slowest, and torch's threads wait by spinning: with a processor for every thread that
saves a third of the time, but beside other busy processes (simulators, other runs) a thread that waits keeps the one
that it waits for from running, and a frame takes ten times as long or more. ``benchmarks/threads.py`` measures it.
Little work is therefore done on one thread, and large work on as many as torch has. Threads that sleep while they wait
(``OMP_WAIT_POLICY=PASSIVE``, which servers and other commands set) leave the processor to whom they wait for: they gain
from smaller work already, and lose less beside others.

`torch.set_num_threads` is not made for this: threads that begin to compute meanwhile would keep the small number for
good, and MKL would obey it in all threads. `at_most` sets it in the calling thread alone.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import torch

__all__ = ["ONE_THREAD_WORK", "ONE_THREAD_WORK_ASLEEP", "at_most", "threads_for"]

logger = logging.getLogger(__name__)

ONE_THREAD_WORK: Final = 4e9
"""Parameters times tokens up to which one thread computes: about a third of a second of one core.

That is 38 environments of robometer-mini (5.5 million parameters) whose frames have 128 x 128 pixels, and less than one
frame of a model with 4 billion parameters.
"""

ONE_THREAD_WORK_ASLEEP: Final = 2e9
"""The same where threads sleep while they wait: 19 environments of robometer-mini.

On two cores, 32 of them behind a server take 120 ms on two threads and 187 ms on one; 16 gained on one processor and
lost on another, where it takes longer to wake a thread (results of ``benchmarks/serving.py`` and ``threads.py``).
"""

# The runtime reads it when torch is imported, and never again.
_ASLEEP: Final = os.environ.get("OMP_WAIT_POLICY", "").strip().upper() == "PASSIVE"


def threads_for(parameters: int, tokens: int) -> int | None:
    """Threads for one pass of so many tokens through a network of so many parameters; None for all that torch has."""
    return 1 if parameters * tokens <= (ONE_THREAD_WORK_ASLEEP if _ASLEEP else ONE_THREAD_WORK) else None


@contextmanager
def at_most(count: int | None) -> Iterator[None]:
    """Limits what the calling thread computes with on the processor to ``count`` threads, until the block ends.

    Other threads are not affected, whether they exist or are started meanwhile. Nothing changes if ``count`` is None or
    not below what the thread has, nor with a build of torch whose runtime cannot be reached (other systems than Linux).
    """
    before = torch.get_num_threads()
    runtime = _runtime()
    if count is None or count >= before or runtime is None:
        yield
        return
    before_mkl = runtime.limit(count, count)
    try:
        yield
    finally:
        runtime.limit(before, before_mkl)


@dataclass(frozen=True)
class _Runtime:
    """The libraries that torch computes with; both functions concern the calling thread alone.

    Attributes:
        set_openmp: How many threads OpenMP starts.
        set_mkl: How many MKL asks for, 0 for as many as everywhere; returns what it was. None without MKL.
    """

    set_openmp: Callable[[int], None]
    set_mkl: Callable[[int], int] | None

    def limit(self, openmp: int, mkl: int) -> int:
        """Sets both numbers; returns MKL's earlier one."""
        self.set_openmp(openmp)
        return 0 if self.set_mkl is None else self.set_mkl(mkl)


@cache
def _runtime() -> _Runtime | None:
    """OpenMP's and MKL's functions as found in the library that torch has loaded, and in those that it needs."""
    if sys.platform != "linux" or not torch.backends.openmp.is_available():
        return None
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        set_mkl = library.MKL_Set_Num_Threads_Local if torch.backends.mkl.is_available() else None
        return _Runtime(library.omp_set_num_threads, set_mkl)
    except (OSError, AttributeError) as error:
        logger.debug("small models compute on all threads: the runtime of this torch was not found (%s)", error)
        return None
