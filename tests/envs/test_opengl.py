"""Contexts are freed before EGL ends, and a machine that cannot draw says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from robometer_rl.envs.opengl import OpenGLError, free_with, with_opengl

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="MuJoCo chooses an OpenGL backend by itself elsewhere")


def run_python(code: str, **environment: str) -> tuple[int, str]:
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return ended.returncode, ended.stdout


class Fragile:
    """Fails once more where it is freed, as MuJoCo's and Gymnasium's renderers do."""

    def __init__(self) -> None:
        raise ImportError("Unable to load OpenGL library")

    def __del__(self) -> None:
        raise AttributeError("_context")


def test_what_cannot_be_opened_says_what_to_do_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(OpenGLError, match=r"MUJOCO_GL=osmesa \(ImportError: 'Unable.*set MUJOCO_GL=egl .*libosmesa6"):
        with_opengl(Fragile)
    assert capsys.readouterr().err == ""
    assert with_opengl(lambda: 3) == 3


@pytest.mark.parametrize("error", [ModuleNotFoundError("no mujoco"), ValueError("no such camera"), KeyError("size")])
def test_other_errors_are_what_they_are(error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        with_opengl(fail)


def test_what_is_open_is_freed_once() -> None:
    class Owner:
        pass

    owner, freed = Owner(), []
    free = free_with(owner, freed.append, 1)
    free()
    free()
    assert freed == [1]
    free_with(owner, freed.append, 2)
    del owner
    assert freed == [1, 2]


def test_at_exit_it_is_freed_before_what_was_opened_before_ends() -> None:
    code, said = run_python(
        """
        import atexit, weakref
        class Owner: pass
        early, owner = Owner(), Owner()
        weakref.finalize(early, print, "a finaliser")
        atexit.register(print, "EGL ends")  # when the first context is opened
        from robometer_rl.envs.opengl import free_with
        free_with(owner, print, "context freed")
        """
    )
    assert (code, said.split("\n")[:2]) == (0, ["context freed", "EGL ends"])


@linux_only
@pytest.mark.parametrize("backend", ["osmesa", "nonsense"])
def test_a_backend_that_is_not_there_is_one_line(backend: str) -> None:
    pytest.importorskip("metaworld")
    code, said = run_python(
        """
        import ctypes.util, sys
        if ctypes.util.find_library("OSMesa"):
            print("it is there")
            sys.exit(2)
        from robometer_rl.cli import main
        sys.exit(main(["demo", "--out", "nowhere"]))
        """,
        MUJOCO_GL=backend,
        PYOPENGL_PLATFORM="",
    )
    if "it is there" in said:
        pytest.skip("this machine has OSMesa")
    assert code == 2
    assert "Traceback" not in said
    assert f"robometer-rl demo: MuJoCo cannot open an OpenGL context with MUJOCO_GL={backend}" in said
    assert "set MUJOCO_GL=egl" in said
