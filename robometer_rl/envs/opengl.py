"""Drawing with MuJoCo: what to do where OpenGL is not there, and contexts that are freed before it goes."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import weakref
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

from robometer_rl.documents import brief

__all__ = ["OpenGLError", "free_with", "import_mujoco", "with_opengl"]

T = TypeVar("T")

logger = logging.getLogger(__name__)


class OpenGLError(OSError):
    """MuJoCo cannot draw on this machine as ``MUJOCO_GL`` asks; the message says what to install or set."""


def import_mujoco() -> Any:
    """Imports MuJoCo, which loads the library that ``MUJOCO_GL`` names.

    Raises:
        ModuleNotFoundError: It is not installed.
        OpenGLError: There is no such library, or ``MUJOCO_GL`` names none.
    """
    return with_opengl(lambda: import_module("mujoco"))


def with_opengl(make: Callable[[], T]) -> T:
    """Calls what loads OpenGL or opens a context.

    Raises:
        OpenGLError: It could not.
    """
    hook = sys.unraisablehook
    try:
        return make()
    except ModuleNotFoundError:
        raise
    except _opengl_errors() as error:
        logger.debug("the error came from here:", exc_info=True)
        problem = f"{type(error).__name__}: {brief(str(error))}"
        # Renderers that are half made fail once more where they are freed, which is at the end of this block.
        sys.unraisablehook = lambda _: None
    sys.unraisablehook = hook
    raise OpenGLError(
        f"MuJoCo cannot open an OpenGL context with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')} ({problem}): set "
        "MUJOCO_GL=egl before mujoco is first imported, or MUJOCO_GL=osmesa where there is no graphics driver, and "
        "install its library (on Debian and Ubuntu libegl1 or libosmesa6)"
    )


def _opengl_errors() -> tuple[type[Exception], ...]:
    """What PyOpenGL, MuJoCo and Gymnasium raise where a library is not there or cannot do what they need."""
    kinds: list[type[Exception]] = [ImportError, AttributeError, OSError, RuntimeError]
    for module, name in (("mujoco", "FatalError"), ("OpenGL.error", "Error")):
        if module in sys.modules:
            kinds.append(getattr(sys.modules[module], name))
    return tuple(kinds)


_open: set[weakref.finalize[..., Any]] = set()


def free_with(owner: object, free: Callable[..., object], *arguments: Any) -> Callable[[], object]:
    """Has ``free(*arguments)`` called once: when its owner goes, when the program ends, or by who calls the result.

    To be called when a context is open. MuJoCo ends EGL with the program, from the first context on, and what is freed
    later than that fails with a traceback. At exit the last that was registered is called first.
    """
    if not _open:
        atexit.unregister(_free_all)
        atexit.register(_free_all)
    finalizer = weakref.finalize(owner, free, *arguments)
    finalizer.atexit = False  # its turn may come after EGL's end
    _open.difference_update([other for other in _open if not other.alive])
    _open.add(finalizer)
    return finalizer


def _free_all() -> None:
    for finalizer in _open:
        finalizer()
