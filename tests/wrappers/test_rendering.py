from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit

from robometer_rl.wrappers import RenderToInfo
from robometer_rl.wrappers.rendering import renders_to_info
from tests.wrappers.worlds import BrightnessWorld, NoiseWorld

LEVELS = tuple(range(0, 110, 10))


def play(env: gym.Env[Any, Any]) -> dict[int, int]:
    """Brightness of the frames of one episode, by the step they came with."""
    _, info = env.reset(seed=0)
    frames, t, over = {0: info}, 0, False
    while not over:
        _, _, terminated, truncated, info = env.step(0)
        t, over = t + 1, terminated or truncated
        frames[t] = info
    return {t: int(info["robometer/frame"].mean()) for t, info in frames.items() if "robometer/frame" in info}


@pytest.mark.parametrize(
    ("every", "steps"), [(1, list(range(11))), (3, [0, 3, 6, 9, 10]), (5, [0, 5, 10]), (99, [0, 10])]
)
@pytest.mark.parametrize("terminates", [True, False])
def test_renders_the_frames_that_will_be_scored_and_no_other(every: int, steps: list[int], terminates: bool) -> None:
    world = BrightnessWorld(LEVELS, terminates=terminates)
    env = RenderToInfo(world, every)
    for _ in range(2):
        assert play(env) == {t: 10 * t for t in steps}
    assert world.renders == 2 * len(steps)


def test_outside_a_time_limit_the_last_frame_is_rendered() -> None:
    world = BrightnessWorld(LEVELS)
    assert play(RenderToInfo(TimeLimit(world, 4), every=3)) == {0: 0, 3: 30, 4: 40}


def test_frames_are_copies() -> None:
    env = RenderToInfo(NoiseWorld())
    _, info = env.reset(seed=0)
    first = info["robometer/frame"].copy()
    env.step(0)
    np.testing.assert_array_equal(info["robometer/frame"], first)


def test_nothing_else_changes() -> None:
    bare, wrapped = NoiseWorld(), RenderToInfo(NoiseWorld())
    for ours, theirs in ((wrapped.reset(seed=4), bare.reset(seed=4)), (wrapped.step(0), bare.step(0))):
        np.testing.assert_array_equal(ours[0]["image"], theirs[0]["image"])
        assert ours[1:-1] == theirs[1:-1]
        assert set(ours[-1]) - set(theirs[-1]) == {"robometer/frame"}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasium_finds_nothing_wrong() -> None:
    check_env(RenderToInfo(NoiseWorld()))


def test_the_spec_rebuilds_it() -> None:
    env = RenderToInfo(gym.make("CartPole-v1", render_mode="rgb_array"), every=3)
    assert env.spec is not None
    rebuilt = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(rebuilt, RenderToInfo)
    assert rebuilt.render_to_info_every == 3
    rebuilt.close()
    env.close()


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2"])
def test_every_must_be_a_positive_integer(every: Any) -> None:
    with pytest.raises(ValueError, match="every must be a positive integer"):
        RenderToInfo(BrightnessWorld(), every)


@pytest.mark.parametrize("render_mode", [None, "human", "rgb_array_list"])
def test_the_environment_must_render_arrays(render_mode: str | None) -> None:
    with pytest.raises(ValueError, match=f"render_mode='rgb_array', got {render_mode!r}"):
        RenderToInfo(BrightnessWorld(render_mode=render_mode))


def test_all_sub_environments_render_at_one_interval_or_none_does() -> None:
    assert renders_to_info([True, True], lambda: [2, 2], 2)
    assert not renders_to_info([False, False], lambda: pytest.fail("asked"), 2)
    with pytest.raises(ValueError, match=r"every sub-environment in RenderToInfo or none of them; \[1\] are not"):
        renders_to_info([True, False], lambda: pytest.fail("asked"), 2)
    with pytest.raises(ValueError, match=r"renders every \[1, 2\] steps, but frames are wanted with every=2"):
        renders_to_info([True, True], lambda: [1, 2], 2)


@pytest.mark.parametrize("module", ["robometer_rl.wrappers", "robometer_rl.wrappers.rendering"])
def test_workers_import_neither_torch_nor_transformers(module: str) -> None:
    code = f"import sys, {module}; assert not {{'torch', 'transformers', 'stable_baselines3'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_names_its_wrappers() -> None:
    import robometer_rl.wrappers as wrappers

    assert set(wrappers.__all__) <= set(dir(wrappers))
    assert all(getattr(wrappers, name).__name__ == name for name in wrappers.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Robometer'"):
        wrappers.Robometer  # noqa: B018
