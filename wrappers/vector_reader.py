"""What vector environments show, read for one of their environments whatever their autoreset mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import iterate
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from numpy.typing import NDArray

from robometer_rl.frames import FrameError
from robometer_rl.wrappers.frame_sources import Camera, View, info_camera, scalar_stacks
from robometer_rl.wrappers.observation_reader import Views
from robometer_rl.wrappers.recorders import vector_layers
from robometer_rl.wrappers.rendering import FRAME_KEY, INTERVAL_ATTRIBUTE, renders_to_info, require_rgb_array
from robometer_rl.wrappers.tasks import TaskFromAttribute, TaskSource
from robometer_rl.wrappers.vector_infos import batch_row, env_info, final_info, final_key, on_host

__all__ = ["VectorReader"]

Bools = NDArray[np.bool_]


class VectorReader:
    """Reads what each environment of a vector environment shows.

    Args:
        env: The vector environment; ``metadata["autoreset_mode"]`` says how it resets.
        task: Where instructions come from.

    Attributes:
        mode: How it resets.
        observation_space: Of one environment.
        stacked_spaces: Observation spaces of stacked frames in the sub-environments.

    Raises:
        ValueError: The autoreset mode is not known, or the task is an attribute of environments that cannot be asked.
        TypeError: The vector environment does not say what one of its environments observes.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], task: TaskSource) -> None:
        self._env = env
        self.observation_space = _single_observation_space(env)
        self.mode = _autoreset_mode(env)
        if isinstance(task, TaskFromAttribute) and not isinstance(env.unwrapped, (SyncVectorEnv, AsyncVectorEnv)):
            raise ValueError(f"{task} needs sub-environments to ask, a SyncVectorEnv or an AsyncVectorEnv, not {env}")
        self.stacked_spaces = _stacked_spaces(env)
        self._rendered: Sequence[Any] | None = None

    def forget_pictures(self) -> None:
        """To be called when the environments have moved."""
        self._rendered = None

    def views(self, observations: Any, infos: dict[str, Any], ended: Bools | None = None) -> Views:
        """What each environment shows; where it ``ended`` inside a step that has reset it, its last moment."""
        rows = list(iterate(self._env.observation_space, observations))
        readable = on_host(infos)
        was_reset = ended if self.mode is AutoresetMode.SAME_STEP else None

        @cache
        def view(index: int) -> View:
            if was_reset is not None and was_reset[index]:
                return View(index, _final_observation(infos, index), final_info(readable, index, self._env.num_envs))
            return View(index, rows[index], env_info(readable, index, self._env.num_envs))

        return view

    def render_camera(self, every: int) -> Camera:
        """The camera for ``frames="render"``, of which every ``every``-th picture is wanted.

        Raises:
            ValueError: This kind of vector environment cannot be rendered at the right moment.
        """
        base = self._env.unwrapped
        if isinstance(base, (SyncVectorEnv, AsyncVectorEnv)):
            wrapped = base.call("has_wrapper_attr", INTERVAL_ATTRIBUTE)
            if renders_to_info(wrapped, lambda: base.get_attr(INTERVAL_ATTRIBUTE), every):
                return info_camera(FRAME_KEY)
        if self.mode is AutoresetMode.SAME_STEP:
            raise ValueError(
                "frames='render' cannot work under autoreset mode SAME_STEP: after a done, render() shows the next "
                f"episode. Wrap each sub-environment in robometer_rl.wrappers.RenderToInfo(env, every={every})"
            )
        if isinstance(base, AsyncVectorEnv) and every > 1:
            raise ValueError(
                f"AsyncVectorEnv.render() renders all environments whenever one is scored, which every={every} is "
                f"meant to save. Wrap each sub-environment in robometer_rl.wrappers.RenderToInfo(env, every={every})"
            )
        require_rgb_array(self._env.render_mode)
        return Camera("render", self._render)

    def _render(self, view: View) -> Any:
        base = self._env.unwrapped
        if isinstance(base, SyncVectorEnv):
            return base.envs[view.index].render()
        if self._rendered is None:
            self._rendered = self._env.render()
            if self._rendered is None:
                raise FrameError(f"render() of {self._env} returned None; expected one RGB image per environment")
        return self._rendered[view.index]

    def read_attribute(self, name: str, indices: Sequence[int]) -> list[Any]:
        """Values of a named attribute of the chosen environments."""
        base = self._env.unwrapped
        assert isinstance(base, (SyncVectorEnv, AsyncVectorEnv)), "checked at construction"
        values = base.get_attr(name)
        return [values[index] for index in indices]


def _autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """How this environment resets, whatever others of its class do.

    Raises:
        ValueError: It does not say, or a recorder inside was made when something else was said.
    """
    mode = env.metadata.get("autoreset_mode")
    base = env.unwrapped
    if env.metadata is base.metadata:
        # Some write their mode into the metadata of their class, which another instance may change.
        try:
            own = base.autoreset_mode  # pyright: ignore[reportAttributeAccessIssue]
        except AttributeError:
            own = None
        mode = own if isinstance(own, AutoresetMode) else mode
    if not isinstance(mode, AutoresetMode):
        raise ValueError(
            f"metadata['autoreset_mode'] of {env} is {mode!r}; expected a gymnasium.vector."
            "AutoresetMode: which step shows the end of an episode depends on it. If you know, write it there"
        )
    for layer in vector_layers(env):
        if isinstance(layer, RecordEpisodeStatistics) and layer._autoreset_mode is not mode:
            raise ValueError(
                f"{layer} counts episodes as under autoreset_mode {layer._autoreset_mode.name}, and the environment "
                f"inside resets as under {mode.name}: another environment of its class has changed the metadata that "
                "they share. Make the recorder right after the environment, before another one is made"
            )
    return mode


def _single_observation_space(env: VectorEnv[Any, Any, Any]) -> spaces.Space[Any]:
    try:
        return env.single_observation_space
    except AttributeError as error:
        raise TypeError(
            f"{env} has no single_observation_space, as every gymnasium.vector.VectorEnv must (SuperSuit's adapters of "
            "PettingZoo environments have none): use SyncVectorEnv or AsyncVectorEnv around single environments, or "
            "give it single_observation_space, single_action_space and observation_space = "
            "gymnasium.vector.utils.batch_space(single_observation_space, num_envs)"
        ) from error


def _stacked_spaces(env: VectorEnv[Any, Any, Any]) -> list[spaces.Space[Any]]:
    """Observation spaces of stacked frames in the sub-environments."""
    base = env.unwrapped
    if isinstance(base, SyncVectorEnv):
        return scalar_stacks(base.envs[0])
    if isinstance(base, AsyncVectorEnv) and any(base.call("has_wrapper_attr", "stacked_obs")):
        return [base.single_observation_space]
    return []


def _final_observation(infos: Mapping[str, Any], index: int) -> Any:
    key = final_key(infos)
    if key not in infos:
        raise FrameError(
            f"environment {index} has ended an episode, and the infos have no 'final_obs' with its last observation, "
            f"nor 'final_observation'; they have {sorted(infos)}. Under autoreset mode SAME_STEP the observations are "
            "those of the next episode: use NEXT_STEP or DISABLED, or write the last ones into infos['final_obs']"
        )
    return batch_row(infos[key], index)
