"""What Stable-Baselines3's vector environments show, read for one of their environments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecFrameStack, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from robometer_rl.wrappers.frame_sources import Camera, FrameSources, View, info_camera
from robometer_rl.wrappers.observation_reader import Views
from robometer_rl.wrappers.rendering import FRAME_KEY, INTERVAL_ATTRIBUTE, RenderToInfo, renders_to_info

__all__ = ["layers", "render_camera", "require_original_images", "require_vec_env", "stacked_spaces", "views"]

Info = dict[str, Any]


def layers(venv: VecEnv) -> Iterator[VecEnv]:
    """The wrappers of a vector environment from the outside in, and at last what they wrap."""
    yield venv
    while isinstance(venv, VecEnvWrapper):
        venv = venv.venv
        yield venv


def require_vec_env(venv: VecEnv) -> None:
    """Raises `TypeError` for an adapter around what is no `VecEnv`."""
    *_, base = layers(venv)
    if not isinstance(base, VecEnv):
        raise TypeError(
            f"{type(venv).__name__} is around a {type(base).__name__}, which is no VecEnv of Stable-Baselines3, and "
            "does not say how its environments are reset (SuperSuit's SB3VecEnvWrapper is of this kind): use "
            "DummyVecEnv or SubprocVecEnv around single environments"
        )


def stacked_spaces(venv: VecEnv) -> list[spaces.Space[Any]]:
    """Observation spaces of stacked frames, in the sub-environments or around all of them."""
    around = [layer for layer in layers(venv) if isinstance(layer, VecFrameStack)]
    found = [layer.observation_space for layer in around if layer.observation_space != layer.venv.observation_space]
    base = venv.unwrapped
    return [*found, base.observation_space] if any(base.env_is_wrapped(FrameStackObservation)) else found


def require_original_images(venv: VecEnv, frames: FrameSources) -> None:
    """Raises `ValueError` if the frames are observations that a `VecNormalize` has changed."""
    sources = frames if isinstance(frames, (tuple, list)) else (frames,)
    for kind, _, key in (source.partition("/") for source in sources if isinstance(source, str)):
        if kind == "obs" and any(isinstance(layer, VecNormalize) and _normalises(layer, key) for layer in layers(venv)):
            raise ValueError(
                f"frames={frames!r} are normalised by the VecNormalize inside, and the model knows images as they are: "
                "put VecNormalize around VecRobometerReward"
            )


def _normalises(layer: VecNormalize, key: str) -> bool:
    if isinstance(layer.observation_space, spaces.Dict):
        return layer.norm_obs and key in (layer.norm_obs_keys or ())
    return layer.norm_obs


def views(observations: VecEnvObs, infos: Sequence[Info], dones: NDArray[np.bool_] | None = None) -> Views:
    """What each environment shows; where it is done, the last moment of the episode."""

    @cache
    def view(index: int) -> View:
        if dones is not None and dones[index]:
            return View(index, infos[index]["terminal_observation"], infos[index])
        return View(index, _row(observations, index), infos[index])

    return view


def _row(observations: VecEnvObs, index: int) -> Any:
    if isinstance(observations, dict):
        return {key: batch[index] for key, batch in observations.items()}
    if isinstance(observations, tuple):
        return tuple(batch[index] for batch in observations)
    return observations[index]


def render_camera(venv: VecEnv, every: int) -> Camera:
    """The camera for ``frames="render"``, of which every ``every``-th picture is wanted.

    Raises:
        ValueError: The sub-environments do not render to their info, or at another interval.
    """
    wrapped = venv.env_is_wrapped(RenderToInfo)
    if renders_to_info(wrapped, lambda: venv.get_attr(INTERVAL_ATTRIBUTE), every):
        return info_camera(FRAME_KEY)
    raise ValueError(
        "frames='render' cannot work around a VecEnv: after a done, render() shows the next episode. Wrap each "
        f"sub-environment in robometer_rl.wrappers.RenderToInfo(env, every={every})"
    )
