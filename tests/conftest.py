"""How all tests run, and what a log says of the machine they ran on."""

import os
import signal
import sys

import pytest

# The networks of tests are tiny, and some tests ask them from many threads or processes. Each brings a pool of its own,
# by default as wide as the whole machine: on a machine with many cores, or a share of them, pools would wait for each
# other most of the time. Read when torch is imported, here and in every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Who is started in the background of a script ignores Ctrl-C, and so does all that he starts; tests interrupt programs.
signal.signal(signal.SIGINT, signal.default_int_handler)


def scheduling() -> tuple[int, "os.sched_param"] | None:
    """Policy and priority of this process; None where it is not asked for them."""
    return (os.sched_getscheduler(0), os.sched_getparam(0)) if sys.platform == "linux" else None


AT_START = scheduling()


@pytest.hookimpl(trylast=True)  # an error before pytest's own teardown would leave fixtures up
def pytest_runtest_teardown() -> None:
    """A library that makes this process a real-time one lets threads of later tests starve, for hours."""
    found = scheduling()
    if AT_START is not None and found != AT_START:
        os.sched_setscheduler(0, *AT_START)
        raise AssertionError(f"the test left this process with the scheduling {found} instead of {AT_START}")


def pytest_report_header() -> str:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"processors: {available}, threads of a pool: {os.environ['OMP_NUM_THREADS']}"
