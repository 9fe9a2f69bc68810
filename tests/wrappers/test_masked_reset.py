"""Vector environments that reset more than they should are found out before anything is paid wrongly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import NormalizeObservation, RecordEpisodeStatistics

from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers.masked_reset import ResetMaskError
from robometer_rl.wrappers.vector import RobometerReward
from tests.fixed_models import BrightnessModel
from tests.wrappers.worlds import TASK, BrightnessWorld

MODEL = BrightnessModel()
MODES = list(AutoresetMode)
ENDS = RewardSpec(patience=1, success_threshold=0.1, terminate_on_success=True)
GAINS = np.array([51, 5, 7])  # the first environment succeeds at its second step


class Lamps(VectorEnv[Any, Any, Any]):
    """Three lamps that get brighter, in one piece; ``reset`` is told by ``resets`` which of them to restart."""

    num_envs = 3
    single_observation_space = spaces.Box(0, 255, (4, 4, 3), np.uint8)
    single_action_space = spaces.Discrete(2)
    observation_space = batch_space(single_observation_space, 3)
    action_space = batch_space(single_action_space, 3)
    render_mode = "rgb_array"

    def __init__(
        self, mode: AutoresetMode, resets: Callable[[Any], Any], shows: bool = True, torch: bool = False
    ) -> None:
        self.metadata = {"autoreset_mode": mode}
        self.resets, self.shows, self.torch = resets, shows, torch
        self.t = np.zeros(3, np.int64)
        self.buffer = np.zeros((3, 4, 4, 3), np.uint8)

    def pictures(self) -> Any:
        return np.broadcast_to((self.t * GAINS)[:, None, None, None], (3, 4, 4, 3)).astype(np.uint8)

    def observations(self) -> Any:
        # One buffer, as simulators on accelerators have it.
        self.buffer[:] = self.pictures() if self.shows else 0
        return torch.from_numpy(self.buffer) if self.torch else self.buffer

    def render(self) -> Any:
        return tuple(self.pictures())

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        self.t[self.resets(options)] = 0
        return self.observations(), {}

    def step(self, actions: Any) -> Any:
        self.t += 1
        return self.observations(), np.ones(3), np.zeros(3, bool), np.zeros(3, bool), {}


ALL = np.ones(3, np.bool_)
HONEST: dict[str, Callable[[Any], Any]] = {
    "pop": lambda options: ALL if options is None or "reset_mask" not in options else options.pop("reset_mask"),
    "get": lambda options: (options or {}).get("reset_mask", ALL),
    "copy": lambda options: {**(options or {})}.get("reset_mask", ALL),
    "dict": lambda options: dict(options or {}).pop("reset_mask", ALL),
    "loop": lambda options: dict(item for item in (options or {}).items()).get("reset_mask", ALL),
}
DISHONEST: dict[str, Callable[[Any], Any]] = {
    "ignores all options": lambda options: ALL,
    "reads other options": lambda options: ALL | bool((options or {}).get("low")),
    "looks and does not care": lambda options: ALL | ("reset_mask" in (options or {})),
}


def refuse(options: Any) -> Any:
    if options:
        raise TypeError("unexpected options")
    return ALL


def play(env: RobometerReward[Any, Any], steps: int) -> list[list[float]]:
    paid = []
    for _ in range(steps):
        _, rewards, terminated, truncated, _ = env.step(np.zeros(env.num_envs, np.int64))
        paid.append(np.round(rewards * 255).tolist())
        if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED and (terminated | truncated).any():
            env.reset(options={"reset_mask": terminated | truncated})
    return paid


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ask", HONEST)
@pytest.mark.parametrize("torch", [False, True])
def test_whoever_honours_the_mask_is_welcome(mode: AutoresetMode, ask: str, torch: bool) -> None:
    env = RobometerReward(Lamps(mode, HONEST[ask], torch=torch), MODEL, TASK, ENDS, frames="obs")
    env.reset()
    paid = play(env, 6)
    assert [row[1:] for row in paid] == [[5, 7]] * 6
    first = [51, 51, 0] * 2 if mode is AutoresetMode.NEXT_STEP else [51] * 6
    assert [row[0] for row in paid] == first


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ask", DISHONEST)
@pytest.mark.parametrize("recorded", [False, True])
def test_whoever_resets_all_is_found_out(mode: AutoresetMode, ask: str, recorded: bool) -> None:
    inside: Any = Lamps(mode, DISHONEST[ask])
    inside = RecordEpisodeStatistics(inside) if recorded else inside
    env = RobometerReward(inside, MODEL, TASK, ENDS, frames="obs")
    env.reset()
    with pytest.raises(ResetMaskError, match="reset_mask"):
        play(env, 3)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(3, np.int64))
    env.reset()
    assert play(env, 1) == [[51, 5, 7]]


@pytest.mark.parametrize("ask", ["ignores all options", "reads other options"])
def test_observations_that_tell_nothing_do_not_hide_it(ask: str) -> None:
    env = RobometerReward(Lamps(AutoresetMode.NEXT_STEP, DISHONEST[ask], shows=False), MODEL, TASK, ENDS)
    env.reset()
    with pytest.raises(ResetMaskError, match="nobody has asked for it"):
        play(env, 3)


@pytest.mark.parametrize("mode", MODES)
def test_whoever_refuses_the_mask_is_named(mode: AutoresetMode) -> None:
    env = RobometerReward(Lamps(mode, refuse), MODEL, TASK, ENDS, frames="obs")
    env.reset()
    with pytest.raises(ResetMaskError, match=r"honour options=\{'reset_mask': mask\}.*TypeError: unexpected options"):
        play(env, 3)


def test_partial_resets_by_the_caller_are_watched_too() -> None:
    env = RobometerReward(
        Lamps(AutoresetMode.DISABLED, DISHONEST["looks and does not care"]), MODEL, TASK, frames="obs"
    )
    env.reset()
    play(env, 2)
    with pytest.raises(ResetMaskError, match=r"environments \[0, 2\], which it leaves out, have changed"):
        env.reset(options={"reset_mask": np.array([False, True, False])})


def test_what_proves_nothing_is_looked_at_again() -> None:
    env = RobometerReward(
        Lamps(AutoresetMode.DISABLED, DISHONEST["looks and does not care"]), MODEL, TASK, frames="obs"
    )
    env.reset()
    # All look as they do after a reset.
    env.reset(options={"reset_mask": np.array([False, True, False])})
    play(env, 2)
    with pytest.raises(ResetMaskError):
        env.reset(options={"reset_mask": np.array([False, True, False])})


class Drops(VectorWrapper[Any, Any, Any, Any, Any]):
    """Knows nothing of options."""

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        return self.env.reset(seed=seed)


def test_wrappers_in_between_that_drop_the_options_are_found_out() -> None:
    makers: list[Callable[[], gym.Env[Any, Any]]] = [partial(BrightnessWorld, (0, 51, 102, 153)), BrightnessWorld]
    env = RobometerReward(Drops(SyncVectorEnv(makers)), MODEL, TASK, ENDS, frames="obs")
    env.reset()
    with pytest.raises(ResetMaskError, match="nobody has asked for it"):
        play(env, 3)


def test_wrappers_in_between_that_refuse_the_mask_say_so() -> None:
    makers: list[Callable[[], gym.Env[Any, Any]]] = [partial(BrightnessWorld, (0, 51, 102, 153)), BrightnessWorld]
    normalised = NormalizeObservation(SyncVectorEnv(makers))
    env = RobometerReward(normalised, MODEL, TASK, frames="render")
    env.reset()
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(2, np.int64))


@pytest.mark.parametrize("mask", [[True, False, False], np.array([1, 0, 0])])
def test_a_mask_of_another_type_is_understood(mask: Any) -> None:
    env = RobometerReward(SyncVectorEnv([BrightnessWorld] * 3), MODEL, TASK, RewardSpec(mode="level"), frames="obs")
    env.reset()
    play(env, 2)
    env.reset(options={"reset_mask": mask})
    assert play(env, 1) == [[51, 153, 153]]


@pytest.mark.parametrize("mask", [[True, False], [False] * 3, np.ones((3, 1), bool)])
def test_a_mask_that_fits_nothing_is_refused(mask: Any) -> None:
    env = RobometerReward(SyncVectorEnv([BrightnessWorld] * 3), MODEL, TASK, frames="obs")
    env.reset()
    with pytest.raises(ValueError, match="expected 3 truth values, at least one of them True"):
        env.reset(options={"reset_mask": mask})
    play(env, 1)  # nothing was reset, so that nothing is broken
