"""What a command says of an error that a person can set right: one line instead of a traceback."""

from __future__ import annotations

import errno
import importlib.metadata
import re
from collections.abc import Mapping
from typing import Final

from robometer_rl.models.reward_model import UnsupportedByModelError
from robometer_rl.prediction import NonFiniteOutputError
from robometer_rl.report.markup import single_line

__all__ = ["FIXABLE", "explain"]

FIXABLE: Final = (ValueError, OSError, ImportError, MemoryError, NonFiniteOutputError, RuntimeError)
"""Errors that may be of the kind that `explain` explains."""

_LONGEST: Final = 2000  # letters; some libraries quote a whole file

# What to do about errors of the file system, whoever met them.
_ADVICE: Final[Mapping[int, str]] = {
    errno.ENOSPC: "free some space, then give the same command again",
    errno.EDQUOT: "free some of your quota, then give the same command again",
    errno.EACCES: "change its permissions or choose another path",
    errno.EPERM: "change its permissions or choose another path",
    errno.EROFS: "choose a path that can be written to",
    errno.EEXIST: "something else is there already; choose another path or move it away",
    errno.ENOTDIR: "a part of this path is a file; expected a folder",
    errno.EISDIR: "expected a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its symbolic links lead in a circle",
    errno.EMFILE: "raise the limit on open files with `ulimit -n`",
}


def explain(error: BaseException) -> str | None:
    """One line about an error that a person can set right.

    Those are wrong values, missing or damaged files, packages that are not installed, a model that answers NaN, and a
    machine that is short of memory or disk.

    Args:
        error: One of `FIXABLE`.

    Returns:
        What was given, what was expected and what to do; None for an error of the program itself.
    """
    said = single_line(str(error)) or type(error).__name__
    if isinstance(error, MemoryError) or _is_out_of_device_memory(error):
        said = f"not enough memory ({said}); give it smaller or fewer frames, or a larger --every"
    elif isinstance(error, ModuleNotFoundError):
        said = _with_extra(error, said)
    elif isinstance(error, OSError) and error.errno is not None:
        said = _with_advice(error)
    elif isinstance(error, RuntimeError) and not isinstance(error, UnsupportedByModelError):
        return None
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"


def _is_out_of_device_memory(error: BaseException) -> bool:
    """PyTorch has a type of its own only for some devices, and none that could be asked for without importing it."""
    return isinstance(error, RuntimeError) and re.search("out of memory|can't allocate memory", str(error)) is not None


def _with_advice(error: OSError) -> str:
    said = single_line(error.strerror or str(error))
    if error.filename is not None:
        said = f"{single_line(str(error.filename))}: {said}"
    advice = _ADVICE.get(error.errno or 0)
    return f"{said}; {advice}" if advice else said


def _with_extra(error: ModuleNotFoundError, said: str) -> str:
    """Names the extra that brings a missing package, unless the message says already what to install."""
    extra = None if error.name is None or "pip install" in said else _extra_of(error.name.partition(".")[0])
    return f"{said}: pip install 'robometer-rl[{extra}]'" if extra else said


def _extra_of(package: str) -> str | None:
    for requirement in importlib.metadata.requires("robometer-rl") or ():
        found = re.match(r"""([\w.-]+).*extra == ["']([\w-]+)["']""", requirement)
        if found and found[1].lower().replace("-", "_") == package.lower() and found[2] != "dev":
            return found[2]
    return None
