from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.vec_env import DummyVecEnv

from robometer_rl.frames import FrameError
from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers import RenderToInfo, RobometerReward, VecRobometerReward
from robometer_rl.wrappers.rendering import renders_to_info
from robometer_rl.wrappers.vector import RobometerReward as VectorRobometerReward
from tests.fixed_models import PixelModel
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


class TestCameras:
    """Several cameras in sub-environments."""

    @staticmethod
    def draw(world: gym.Env[Any, Any], camera: str) -> Any:
        return world.unwrapped.episode.frame(world.unwrapped.t, camera)  # pyright: ignore[reportAttributeAccessIssue]

    def make(self, every: int = 1) -> gym.Env[Any, Any]:
        cameras = {"top": partial(self.draw, camera="obs/image"), "wrist": partial(self.draw, camera="info/wrist")}
        return RenderToInfo(NoiseWorld(render_mode=None), every, cameras)

    def test_each_has_its_key(self) -> None:
        _, info = self.make().reset(seed=0)
        np.testing.assert_array_equal(info["robometer/frame/wrist"], info["wrist"])
        assert "robometer/frame" not in info

    @pytest.mark.parametrize("kind", ["scalar", "next_step", "same_step", "sb3"])
    def test_they_are_scored_as_the_same_pictures_from_elsewhere(self, kind: str) -> None:
        model, spec = PixelModel(), RewardSpec(every=2)

        def paid(frames: Any) -> list[float]:
            if kind == "scalar":
                env = RobometerReward(self.make(2), model, "task 0", spec, frames)
                env.reset(seed=0)
                _, reward, _, _, info = env.step(0)
                assert not any(key.startswith("robometer/frame") for key in info)
                return [float(reward)]
            if kind == "sb3":
                venv = VecRobometerReward(DummyVecEnv([lambda: self.make(2)] * 2), model, "task 0", spec, frames)
                venv.seed(0)
                venv.reset()
                _, rewards, _, infos = venv.step(np.zeros(2, np.int64))
                assert not any(key.startswith("robometer/frame") for info in infos for key in info)
                return rewards.tolist()
            envs = SyncVectorEnv([lambda: self.make(2)] * 2, autoreset_mode=AutoresetMode[kind.upper()])
            vector = VectorRobometerReward(envs, model, "task 0", spec, frames)
            vector.reset(seed=0)
            _, rewards, _, _, infos = vector.step(np.zeros(2, np.int64))
            assert not any("robometer/frame" in key for key in infos)
            return rewards.tolist()

        assert paid(("render/top", "render/wrist")) == pytest.approx(paid(("obs/image", "info/wrist")), abs=1e-6)

    def test_wrong_ones(self) -> None:
        with pytest.raises(ValueError, match="cameras must have a callable"):
            RenderToInfo(NoiseWorld(), cameras={})
        with pytest.raises(ValueError, match="cameras must have a callable"):
            RenderToInfo(NoiseWorld(), cameras={"top": "front"})  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match=r"needs RenderToInfo.*'top'"):
            RobometerReward(NoiseWorld(), PixelModel(), "task 0", frames="render/top")
        with pytest.raises(FrameError, match=r"robometer/frame/front.*robometer/frame/top"):
            RobometerReward(self.make(), PixelModel(), "task 0", frames="render/front").reset()
