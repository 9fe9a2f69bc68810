"""What the environments built on robosuite share, LIBERO's and robosuite's own: pictures, seeds and a quiet import."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from robometer_rl.envs.opengl import free_with, import_mujoco, with_opengl

__all__ = ["Cameras", "DrawnEnv", "numpy_seeded", "prepare_import"]

ObsType = TypeVar("ObsType")

_ADVICE = ("macro", "robosuite_models", "mink", "controller configuration")


def prepare_import() -> None:
    """To be called before robosuite is imported: it then draws without a screen, and gives no advice.

    Raises:
        ModuleNotFoundError: MuJoCo is not installed.
        OpenGLError: It cannot draw as ``MUJOCO_GL`` asks.
    """
    if sys.platform == "linux":
        # robosuite asks for EGL as well, but only after MuJoCo was imported and has made its choice.
        os.environ.setdefault("MUJOCO_GL", "egl")
    # It recommends on every import that its users write a macro file into its folder, and install further packages.
    logging.getLogger("robosuite_logs").addFilter(_is_no_advice)
    import_mujoco()


def _is_no_advice(record: logging.LogRecord) -> bool:
    return not any(word in record.getMessage() for word in _ADVICE)


@contextmanager
def numpy_seeded(seed: int) -> Iterator[None]:
    """Seeds NumPy's global generator, the only one that robosuite 1.4 draws from, and puts it back afterwards."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


class Cameras:
    """Draws the named cameras of one simulation, when asked, and each at most once per simulator state."""

    def __init__(self, sim: Any, names: Sequence[str], width: int, height: int, shadows: bool) -> None:
        self.names = tuple(names)
        self.width = width
        self.height = height
        self._sim = sim
        self._shadows = shadows
        self._renderer: Any = None
        self._options: Any = None
        self._drawn: dict[str, NDArray[np.uint8]] = {}

    def check_names(self) -> None:
        """Raises `ValueError` unless the scene has every camera."""
        known = list(self._sim.model.camera_names)
        for name in self.names:
            if name not in known:
                raise ValueError(f"unknown camera {name!r}; this scene has {known}")

    def frame(self, name: str) -> NDArray[np.uint8]:
        """The picture of one camera, upright RGB (height, width, 3), the caller's own copy."""
        if name not in self._drawn:
            self._drawn[name] = self._draw(name)
        return self._drawn[name].copy()

    def forget(self) -> None:
        """To be called when the simulator has moved."""
        self._drawn = {}

    def close(self) -> None:
        """Frees the OpenGL context, if one was ever opened."""
        if self._renderer is not None:
            self._free()

    def _draw(self, name: str) -> NDArray[np.uint8]:
        if self._renderer is None:
            self._renderer = self._open_renderer()
        self._renderer.update_scene(self._sim.data._data, camera=name, scene_option=self._options)
        frame = self._renderer.render()
        if frame.min() == frame.max():
            # Seen with several contexts in one process: a reward model would score such a frame without complaint.
            raise RuntimeError(
                f"camera {name!r} drew a frame of one colour ({frame.min()}), so its OpenGL context is broken; use "
                "MUJOCO_GL=egl and fewer rendering environments per process"
            )
        return frame

    def _open_renderer(self) -> Any:
        mujoco = import_mujoco()
        model = self._sim.model._model
        # MuJoCo draws into a buffer whose size belongs to the model, 640 x 480 by default.
        buffer = model.vis.global_
        buffer.offwidth = max(buffer.offwidth, self.width)
        buffer.offheight = max(buffer.offheight, self.height)
        renderer = with_opengl(lambda: mujoco.Renderer(model, self.height, self.width))
        self._free = free_with(self, renderer.close)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self._shadows
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = self._shadows
        self._options = mujoco.MjvOption()
        self._options.geomgroup[0] = 0  # robosuite's collision shapes
        return renderer


class DrawnEnv(gym.Env[ObsType, NDArray[np.float32]]):
    """An environment around a simulator of robosuite, drawn by `Cameras`."""

    _simulator: Any
    _cameras: Cameras
    _closed: bool

    def render(self) -> NDArray[np.uint8]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Draws the first camera, upright RGB of shape (height, width, 3).

        Raises:
            RuntimeError: The environment was made without ``render_mode="rgb_array"``, or nothing can be drawn here.
        """
        if self.render_mode != "rgb_array":
            raise RuntimeError('nothing to render: make the environment with render_mode="rgb_array"')
        return self._cameras.frame(self._cameras.names[0])

    def close(self) -> None:
        """Frees the simulator and what drawing took; may be called again."""
        if not self._closed:
            self._cameras.close()
            self._simulator.close()
            self._closed = True
