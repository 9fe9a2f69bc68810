"""How all tests run, and what a log says of the machine they ran on."""

import os
import signal
import sys
import tempfile

import pytest
from hypothesis import HealthCheck, settings

# The networks of tests are tiny, and `make test` gives every core a process of its own: threads of several processes
# would wait for each other most of the time. Read when torch is imported, here and in every process of a test.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# No test depends on how fast or how busy the machine is, and each does the same every time.
settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# What is kept for the next time is that of the tests, and goes with them; read here and in every process of a test.
CACHE = tempfile.TemporaryDirectory(prefix="robometer-tests-")
os.environ["ROBOMETER_CACHE"] = CACHE.name

GIGABYTES_OF_A_WORKER = 2.5

# Who is started in the background of a script ignores Ctrl-C, who is started by nohup ignores the end of his terminal,
# and so does all that they start; tests end programs in all these ways.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


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


def processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One per processor, as far as memory goes, and no more than there are large files of tests."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return max(1, min(processors(), int(memory / GIGABYTES_OF_A_WORKER), 16))


def pytest_report_header() -> str:
    return f"processors: {processors()}, threads of a pool: {os.environ['OMP_NUM_THREADS']}"
