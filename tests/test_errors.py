from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from robometer_rl.errors import explain
from robometer_rl.prediction import NonFiniteOutputError


def error_of(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path) if path else OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("got 3; expected 4"), "got 3; expected 4"),
        (ValueError("two\n   lines \x1b[2J"), r"two lines \x1b[2J"),
        (ValueError(), "ValueError"),
        (NonFiniteOutputError("clip 0: NaN"), "clip 0: NaN"),
        (error_of(errno.ENOSPC), "No space left on device; free some space, then give the same command again"),
        (error_of(errno.EACCES, "a/b"), "a/b: Permission denied; change its permissions or choose another path"),
        (error_of(errno.ENOTDIR, "a/b"), "a/b: Not a directory; a part of this path is a file; expected a folder"),
        (FileNotFoundError("no video at x"), "no video at x"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "not enough memory ([enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 "
            "bytes); give it smaller or fewer frames, or a larger --every",
        ),
        (ModuleNotFoundError("No module named 'h5py'", name="h5py"), "pip install 'robometer-rl[hdf5]'"),
        (
            ModuleNotFoundError("No module named 'stable_baselines3.common'", name="stable_baselines3.common"),
            "pip install 'robometer-rl[sb3]'",
        ),
        (ModuleNotFoundError("to read x, run: pip install y", name="h5py"), "to read x, run: pip install y"),
        (ModuleNotFoundError("No module named 'nonsense'", name="nonsense"), "No module named 'nonsense'"),
    ],
)
def test_it_is_one_line_that_says_what_to_do(error: Exception, said: str) -> None:
    explained = explain(error)
    assert explained is not None
    assert explained.endswith(said)
    assert "\n" not in explained


def test_real_errors_of_memory_and_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(MemoryError) as memory:
        np.empty(2**50)
    assert (explain(memory.value) or "").startswith("not enough memory (Unable to allocate")
    with pytest.raises(OSError) as folder:
        (tmp_path / "x").with_name("y" * 300).write_text("")
    assert (explain(folder.value) or "").endswith("File name too long; choose a shorter name")


def test_an_error_of_the_program_is_not_explained() -> None:
    assert explain(RuntimeError("dictionary changed size during iteration")) is None


def test_a_file_that_is_quoted_does_not_fill_the_screen() -> None:
    assert len(explain(ValueError("x" * 10**6)) or "") < 2100
