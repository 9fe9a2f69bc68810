"""Where the frames of an environment come from: the ``frames`` argument of the reward wrappers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from numpy.typing import NDArray

from robometer_rl.frames import Frame, FrameError, are_tensors_of_one_kind, as_frame, as_tensor_frames
from robometer_rl.tiles import TileLayout, tile
from robometer_rl.wrappers.rendering import (
    FRAME_KEY,
    INTERVAL_ATTRIBUTE,
    camera_key,
    is_frame_key,
    renders_to_info,
    require_rgb_array,
)

__all__ = [
    "Camera",
    "FrameSource",
    "FrameSources",
    "Tiles",
    "View",
    "info_camera",
    "parse_cameras",
    "scalar_render_camera",
    "scalar_stacks",
]

T = TypeVar("T")


@dataclass(frozen=True, init=False)
class Tiles:
    """Several cameras in one picture, for checkpoints that were trained on such; see `robometer_rl.tiles`.

    Examples:
        >>> Tiles("obs/top", "obs/front", "obs/wrist").sources
        ('obs/top', 'obs/front', 'obs/wrist')

    Attributes:
        sources: A `FrameSource` for each view, the primary one first.
        layout: Where they are in the picture.
    """

    sources: tuple[FrameSource, ...]
    layout: TileLayout

    def __init__(self, primary: FrameSource, *secondary: FrameSource, layout: TileLayout | None = None) -> None:
        """The view on top, and those below it.

        Raises:
            ValueError: No view besides the primary one.
        """
        if not secondary:
            raise ValueError("Tiles needs a primary source and at least one other")
        object.__setattr__(self, "sources", (primary, *secondary))
        object.__setattr__(self, "layout", layout or TileLayout())


FrameSource = str | Callable[[Any, Mapping[str, Any]], Any] | Tiles
"""``"render"``, ``"render/NAME"`` (a camera of `RenderToInfo`), ``"obs"``, ``"obs/KEY"`` (``"obs/KEY/KEY"`` in a
dictionary within one), ``"info/KEY"``, a callable of one environment's observation and info, or `Tiles` of these."""

FrameSources = FrameSource | tuple[FrameSource, ...]
"""One source, or several cameras."""

_CHOICES = (
    "'render', 'render/NAME', 'obs', 'obs/KEY', 'info/KEY', a callable of (obs, info), Tiles of these for several "
    "cameras in one picture, or a tuple of these for several cameras whose predictions are averaged"
)


@dataclass(frozen=True)
class View:
    """What one environment shows at one moment, unbatched.

    Attributes:
        index: Number of the environment in its batch.
        observation: Its observation.
        info: Its info.
    """

    index: int
    observation: Any
    info: Mapping[str, Any]


@dataclass(frozen=True)
class Camera:
    """One source of frames.

    Attributes:
        name: For messages.
        read: Takes the image from a view.
        tiled: Whether the image shows several cameras.
    """

    name: str
    read: Callable[[View], Any]
    tiled: bool = False

    def frame(self, view: View) -> NDArray[np.uint8]:
        """The frame, (H, W, 3) uint8; a copy, since another camera may draw into the same buffer in the same step.

        Raises:
            FrameError: There is no frame, or it is not an RGB image.
        """
        return self._blamed(view, lambda: np.array(as_frame(self.read(view))))

    def frames(self, views: Sequence[View]) -> list[Frame]:
        """The frames of several environments, copies; tensors stay on their device and are converted all at once.

        Raises:
            FrameError: As `frame`.
        """
        images = [self._blamed(view, partial(self.read, view)) for view in views]
        if are_tensors_of_one_kind(images):
            with suppress(FrameError):  # which is raised below, with the environment
                return list(as_tensor_frames(images))
        converted = [partial(as_frame, image) for image in images]
        return [np.array(self._blamed(view, convert)) for view, convert in zip(views, converted, strict=True)]

    def _blamed(self, view: View, make: Callable[[], T]) -> T:
        try:
            return make()
        except FrameError as error:
            raise FrameError(f"environment {view.index}, frames={self.name!r}: {error}") from error


def parse_cameras(
    frames: Any,
    observation_space: spaces.Space[Any],
    stacked_spaces: Sequence[spaces.Space[Any]],
    render: Callable[[], Camera],
) -> tuple[Camera, ...]:
    """The cameras that ``frames`` names, checked as far as the spaces tell.

    Args:
        frames: A `FrameSource`, or several in a tuple (or a list, which a tuple becomes in JSON).
        observation_space: Of one environment.
        stacked_spaces: Observation spaces of stacked frames among the layers below.
        render: Makes the camera for ``"render"``, or raises because this kind of environment has none.

    Raises:
        ValueError: An unknown source, no camera at all, or an observation key that does not exist.
        FrameError: Observations that are not images.
    """
    sources = frames if isinstance(frames, (tuple, list)) else (frames,)
    if not sources:
        raise ValueError(f"frames=() names no camera; expected {_CHOICES}")
    return tuple(_parse_camera(source, observation_space, stacked_spaces, render) for source in sources)


def scalar_stacks(env: gym.Env[Any, Any]) -> list[spaces.Space[Any]]:
    """Observation spaces of the frame-stacking wrappers among the layers of an environment."""
    found: list[spaces.Space[Any]] = []
    while isinstance(env, gym.Wrapper):
        if isinstance(env, FrameStackObservation):
            found.append(env.observation_space)
        env = env.env
    return found


def scalar_render_camera(env: gym.Env[Any, Any], every: int) -> Camera:
    """The camera for ``frames="render"`` of one environment, of which every ``every``-th picture is wanted.

    Raises:
        ValueError: The environment does not render RGB arrays, or renders to its info at another interval.
    """
    wrapped = [env.has_wrapper_attr(INTERVAL_ATTRIBUTE)]
    if renders_to_info(wrapped, lambda: [env.get_wrapper_attr(INTERVAL_ATTRIBUTE)], every):
        return info_camera(FRAME_KEY)
    require_rgb_array(env.render_mode)
    return Camera("render", lambda view: env.render())


def _parse_camera(
    source: Any,
    observation_space: spaces.Space[Any],
    stacked_spaces: Sequence[spaces.Space[Any]],
    render: Callable[[], Camera],
) -> Camera:
    if isinstance(source, Tiles):
        views = [_parse_camera(each, observation_space, stacked_spaces, render) for each in source.sources]
        name = f"tiles({', '.join(view.name for view in views)})"
        return Camera(name, lambda view: tile([each.frame(view) for each in views], source.layout), tiled=True)
    if callable(source):
        return Camera(str(source), lambda view: source(view.observation, view.info))
    if source == "render":
        return render()
    if source == "obs":
        _require_image_space("obs", observation_space, stacked_spaces)
        return Camera("obs", lambda view: view.observation)
    kind, _, key = source.partition("/") if isinstance(source, str) else ("", "", "")
    if kind == "render" and key:
        if render().name != f"info/{FRAME_KEY}":
            raise ValueError(
                f"frames={source!r} needs RenderToInfo(env, every=..., cameras={{{key!r}: ...}}) around each of the "
                "environments"
            )
        return info_camera(camera_key(key))
    if kind == "obs" and key:
        return _observation_camera(key, observation_space, stacked_spaces)
    if kind == "info" and key:
        return info_camera(key)
    raise ValueError(f"unknown frames {source!r}; expected {_CHOICES}")


def _observation_camera(key: str, space: spaces.Space[Any], stacked_spaces: Sequence[spaces.Space[Any]]) -> Camera:
    path = _path(key, space)
    if path is None:
        has = f"has the keys {sorted(_keys(space))}" if isinstance(space, spaces.Dict) else f"is {space}"
        raise ValueError(f"frames='obs/{key}' needs an observation with the key {key!r}; the observation space {has}")
    stacks = [_at(path, stack) for stack in stacked_spaces if _path(key, stack) == path]
    _require_image_space(f"obs/{key}", _at(path, space), stacks)
    return Camera(f"obs/{key}", lambda view: _at(path, view.observation))


def _at(path: Sequence[str], whole: Any) -> Any:
    for key in path:
        whole = whole[key]
    return whole


def _path(key: str, space: Any) -> tuple[str, ...] | None:
    """The keys that ``key`` stands for, from the outside in; keys may have slashes, too. None if there are none."""
    if not isinstance(space, spaces.Dict):
        return None
    if key in space.spaces:
        return (key,)
    for name, inner in space.spaces.items():
        if key.startswith(f"{name}/") and (rest := _path(key.removeprefix(f"{name}/"), inner)):
            return (name, *rest)
    return None


def _keys(space: spaces.Dict) -> Iterator[str]:
    """What can stand behind ``obs/``."""
    for name, inner in space.spaces.items():
        if isinstance(inner, spaces.Dict):
            yield from (f"{name}/{rest}" for rest in _keys(inner))
        else:
            yield name


def _require_image_space(name: str, space: spaces.Space[Any], stacked_spaces: Sequence[spaces.Space[Any]]) -> None:
    if not isinstance(space, spaces.Box):
        raise FrameError(f"frames={name!r} needs image observations, a Box space; the observation space is {space}")
    # In any order of axes: a stack may have been transposed. What has been unstacked since then has another shape.
    if any(stack.shape is not None and sorted(stack.shape) == sorted(space.shape) for stack in stacked_spaces):
        raise FrameError(
            f"frames={name!r}: the observation space {space} is that of several frames on top of each other, which are "
            "no colour image: stack frames outside the reward wrapper, or give frames='render', or a callable that "
            "takes the newest frame from the observation and is in colour"
        )
    try:
        as_frame(np.zeros(space.shape, space.dtype))
    except FrameError as error:
        raise FrameError(f"frames={name!r}, observation space {space}: {error}") from error


def info_camera(key: str) -> Camera:
    """The camera that reads an info key; `FRAME_KEY` is what `RenderToInfo` sends."""
    hint = "; is RenderToInfo outside TimeLimit, and outside every wrapper that makes a new info?"

    def read(view: View) -> Any:
        if key not in view.info:
            raise FrameError(f"the info has no {key!r}; it has {sorted(view.info)}{hint if is_frame_key(key) else ''}")
        return view.info[key]

    return Camera(f"info/{key}", read)
