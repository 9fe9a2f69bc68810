"""How much memory a process took."""

from __future__ import annotations

from pathlib import Path

__all__ = ["peak_megabytes", "resident_megabytes"]


def peak_megabytes() -> float:
    """The most memory that this process ever had, on Linux.

    `resource.getrusage` would not do: a new process starts with the peak of the one that started it.
    """
    return _status("VmHWM")


def resident_megabytes() -> float:
    """The memory that this process has now, on Linux."""
    return _status("VmRSS")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
