from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import (
    AsyncVectorEnv,
    AutoresetMode,
    SyncVectorEnv,
    VectorObservationWrapper,
)
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics
from numpy.typing import NDArray

from robometer_rl.frames import FrameError, TaskError
from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers import RenderToInfo, TaskFromAttribute, TaskFromInfo
from robometer_rl.wrappers.vector import RobometerReward, env_info, forget_info
from tests.fixed_models import BrightnessModel, PixelModel
from tests.wrappers.drivers import VectorDriver, check_log, make_world
from tests.wrappers.worlds import TASK, BrightnessWorld, FlatWorld, NoiseWorld

MODES = list(AutoresetMode)
LONG, SHORT = (0, 51, 102, 153), (255, 102)
ENDS = RewardSpec(patience=1, success_threshold=0.1, terminate_on_success=True)
MODEL = BrightnessModel()


def make(
    mode: AutoresetMode, levels: tuple[tuple[int, ...], ...] = (LONG, SHORT), render: int | None = None, **kwargs: Any
) -> RobometerReward:
    """A wrapped vector environment, one sub-environment for each list of levels; frames are its observations."""

    def maker(shown: tuple[int, ...]) -> gym.Env[Any, Any]:
        return BrightnessWorld(shown) if render is None else RenderToInfo(BrightnessWorld(shown), render)

    makers = [partial(maker, shown) for shown in levels]
    arguments: dict[str, Any] = {"model": MODEL, "task": TASK, "frames": "obs", **kwargs}
    return RobometerReward(SyncVectorEnv(makers, autoreset_mode=mode), **arguments)


def step(env: RobometerReward) -> tuple[list[float], list[bool], list[bool], dict[str, Any], NDArray[Any]]:
    """Rewards, terminations, truncations, infos and the brightness of the observations of one step."""
    observations, rewards, terminated, truncated, infos = env.step(np.zeros(env.num_envs, np.int64))
    return (
        rewards.round(6).tolist(),
        terminated.tolist(),
        truncated.tolist(),
        infos,
        observations.reshape(env.num_envs, -1)[:, 0],
    )


def worlds(env: RobometerReward) -> list[BrightnessWorld]:
    return [world.unwrapped for world in env.unwrapped.envs]  # pyright: ignore[reportAttributeAccessIssue]


class TestAutoreset:
    """Two environments; the second is done after one step."""

    def test_next_step_pays_nothing_for_the_reset(self) -> None:
        env = make(AutoresetMode.NEXT_STEP)
        _, infos = env.reset()
        np.testing.assert_allclose(infos["robometer/reset_progress"], [0.0, 1.0])
        rewards, terminated, _, infos, seen = step(env)
        assert (rewards, terminated, seen.tolist()) == ([0.2, -0.6], [False, True], [51, 102])
        assert infos["_robometer/episode"].tolist() == [False, True]
        assert infos["robometer/episode"]["length"].tolist() == [0, 1]
        rewards, terminated, _, infos, seen = step(env)
        assert (rewards, terminated, seen.tolist()) == ([0.2, 0.0], [False, False], [102, 255])
        assert infos["_robometer/reward"].tolist() == [True, False]
        assert infos["_robometer/reset_progress"].tolist() == [False, True]
        assert infos["robometer/reset_progress"][1] == 1.0
        assert step(env)[0] == [0.2, -0.6]

    def test_same_step_describes_the_step_that_is_paid(self) -> None:
        env = make(AutoresetMode.SAME_STEP)
        env.reset()
        rewards, terminated, _, infos, seen = step(env)
        assert (rewards, terminated, seen.tolist()) == ([0.2, -0.6], [False, True], [51, 255])
        np.testing.assert_allclose(infos["robometer/progress"], [0.2, 0.4])
        np.testing.assert_allclose(infos["final_info"]["robometer/progress"], [0.0, 0.4])
        assert infos["final_info"]["_robometer/progress"].tolist() == [False, True]
        assert infos["final_info"]["robometer/episode"]["length"].tolist() == [0, 1]
        assert "robometer/reset_progress" not in infos["final_info"]
        assert infos["_robometer/reset_progress"].tolist() == [False, True]
        assert infos["robometer/reset_progress"][1] == 1.0
        assert step(env)[0] == [0.2, -0.6]

    def test_disabled_leaves_the_reset_to_the_caller(self) -> None:
        env = make(AutoresetMode.DISABLED)
        env.reset()
        assert step(env)[:2] == ([0.2, -0.6], [False, True])
        with pytest.raises(ResetNeeded, match=r"episodes of environments \[1\] have ended"):
            step(env)
        options = {"reset_mask": np.array([False, True])}
        _, infos = env.reset(options=options)
        assert set(options) == {"reset_mask"}
        assert infos["_robometer/reset_progress"].tolist() == [False, True]
        assert step(env)[0] == [0.2, -0.6]

    @pytest.mark.parametrize("mode", MODES)
    def test_a_masked_reset_restarts_those_histories_only(self, mode: AutoresetMode) -> None:
        env = make(mode, (LONG, LONG, LONG), reward=RewardSpec(mode="level"))
        env.reset()
        step(env)
        env.reset(options={"reset_mask": np.array([True, False, True])})
        assert step(env)[0] == [0.2, 0.4, 0.2]

    @pytest.mark.parametrize("mode", MODES)
    def test_a_reset_right_after_a_done(self, mode: AutoresetMode) -> None:
        env = make(mode)
        env.reset()
        step(env)
        env.reset()
        assert step(env)[0] == [0.2, -0.6]

    @pytest.mark.parametrize("mode", MODES)
    def test_options_reach_the_environments(self, mode: AutoresetMode) -> None:
        seen: list[Any] = []

        class World(BrightnessWorld):
            def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
                seen.append((seed, options))
                return super().reset(seed=seed)

        env = RobometerReward(SyncVectorEnv([World], autoreset_mode=mode), MODEL, TASK, frames="obs")
        env.reset(seed=5, options={"goal": 1})
        env.reset(seed=[6], options={"goal": 2, "reset_mask": np.array([True])})
        assert seen == [(5, {"goal": 1}), (6, {"goal": 2})]


class TestEndOnPredictedSuccess:
    """The first environment succeeds at its second frame of four, brightness 102; the second never does."""

    LEVELS = ((0, 51, 102, 153), (0, 0, 0, 0, 0, 0))

    def test_next_step(self) -> None:
        env = make(AutoresetMode.NEXT_STEP, self.LEVELS, reward=ENDS)
        env.reset()
        step(env)
        rewards, terminated, _, infos, seen = step(env)
        assert (rewards, terminated, seen.tolist()) == ([0.2, 0.0], [True, False], [102, 0])
        assert infos["robometer/episode"]["length"].tolist() == [2, 0]
        assert [world.resets for world in worlds(env)] == [1, 1]
        rewards, terminated, truncated, infos, seen = step(env)
        assert (rewards, terminated, truncated, seen.tolist()) == ([0.0, 0.0], [False] * 2, [False] * 2, [0, 0])
        assert [(world.resets, world.t) for world in worlds(env)] == [(2, 0), (1, 3)]
        assert infos["_success"].tolist() == [False, True]
        assert infos["_robometer/reset_progress"].tolist() == [True, False]
        assert step(env)[0] == [0.2, 0.0]

    def test_next_step_when_the_discarded_step_ends_the_episode_inside(self) -> None:
        env = make(AutoresetMode.NEXT_STEP, ((*LONG[:3], 255), (0,) * 9), reward=ENDS)
        env.reset()
        step(env)
        assert step(env)[1] == [True, False]
        # Inside, the third step terminated and set success; nobody sees it.
        rewards, terminated, _, infos, seen = step(env)
        assert (rewards, terminated, seen.tolist()) == ([0.0, 0.0], [False, False], [0, 0])
        assert infos["success"].tolist() == [0.0, 0.0]
        assert "robometer/true_success" not in infos
        assert step(env)[0] == [0.2, 0.0]
        assert worlds(env)[0].resets == 2

    def test_same_step(self) -> None:
        env = make(AutoresetMode.SAME_STEP, self.LEVELS, reward=ENDS)
        env.reset()
        step(env)
        rewards, terminated, _, infos, seen = step(env)
        assert (rewards, terminated, seen.tolist()) == ([0.2, 0.0], [True, False], [0, 0])
        assert [(world.resets, world.t) for world in worlds(env)] == [(2, 0), (1, 2)]
        assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == [True, False]
        np.testing.assert_array_equal(infos["final_obs"][0], np.full((8, 8, 3), 102))
        assert infos["final_info"]["success"].tolist() == [0.0, 0.0]
        assert infos["final_info"]["_success"].tolist() == [True, False]
        assert infos["_success"].tolist() == [False, True]
        np.testing.assert_allclose(infos["final_info"]["robometer/progress"], [0.4, 0.0])
        assert infos["_robometer/reset_progress"].tolist() == [True, False]
        assert step(env)[0] == [0.2, 0.0]

    def test_same_step_together_with_an_end_inside(self) -> None:
        env = make(AutoresetMode.SAME_STEP, (LONG, (0, 255, 51)), reward=ENDS, frames="obs")
        env.reset()
        _, terminated, _, infos, seen = step(env)
        assert (terminated, seen.tolist()) == ([False, True], [51, 0])
        _, terminated, _, infos, seen = step(env)
        assert (terminated, seen.tolist()) == ([True, True], [0, 0])
        assert [final[0, 0, 0] for final in infos["final_obs"]] == [102, 255]

    def test_same_step_without_copies(self) -> None:
        makers = [partial(BrightnessWorld, shown) for shown in self.LEVELS]
        inner = SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
        env = RobometerReward(inner, MODEL, TASK, ENDS, frames="obs")
        env.reset()
        step(env)
        infos = step(env)[3]
        np.testing.assert_array_equal(infos["final_obs"][0], np.full((8, 8, 3), 102))

    def test_disabled(self) -> None:
        env = make(AutoresetMode.DISABLED, self.LEVELS, reward=ENDS)
        env.reset()
        step(env)
        assert step(env)[1] == [True, False]
        with pytest.raises(ResetNeeded):
            step(env)
        env.reset(options={"reset_mask": np.array([True, False])})
        assert [world.resets for world in worlds(env)] == [2, 1]
        assert step(env)[0] == [0.2, 0.0]

    def test_the_caller_may_reset_before_the_wrapper_does(self) -> None:
        env = make(AutoresetMode.NEXT_STEP, self.LEVELS, reward=ENDS)
        env.reset()
        step(env)
        assert step(env)[1] == [True, False]
        env.reset(options={"reset_mask": np.array([True, False])})
        assert step(env)[0] == [0.2, 0.0]
        assert worlds(env)[0].resets == 2

    def test_a_truncation_in_the_same_step_is_still_reported(self) -> None:
        makers = [partial(BrightnessWorld, (0, 255), terminates=False)]
        env = RobometerReward(SyncVectorEnv(makers), MODEL, TASK, ENDS, frames="obs")
        env.reset()
        assert step(env)[1:3] == ([True], [True])


class TestRendering:
    @pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
    def test_only_scored_frames_are_rendered(self, mode: AutoresetMode) -> None:
        env = make(mode, (LONG, SHORT, (9,) * 20), frames="render", reward=RewardSpec(every=2))
        env.reset()
        rendered = []
        for _ in range(4):
            over = step(env)[1]
            if mode is AutoresetMode.DISABLED and any(over):
                env.reset(options={"reset_mask": np.array(over)})
            rendered.append([world.renders for world in worlds(env)])
        expected = {
            # LONG: reset, 2, done 3, then its reset. SHORT: reset, done, reset, done, ... The last: reset, 2, 4.
            AutoresetMode.NEXT_STEP: [[1, 2, 1], [2, 3, 2], [3, 4, 2], [4, 5, 3]],
            AutoresetMode.DISABLED: [[1, 3, 1], [2, 5, 2], [4, 7, 2], [4, 9, 3]],
        }
        assert rendered == expected[mode]

    @pytest.mark.parametrize("mode", MODES)
    def test_frames_rendered_inside_are_taken_and_removed(self, mode: AutoresetMode) -> None:
        env = make(mode, render=2, frames="render", reward=RewardSpec(every=2))
        _, infos = env.reset()
        assert "robometer/frame" not in infos
        rewards, _, _, infos, _ = step(env)
        assert rewards == [0.0, -0.6]
        groups = [infos, infos.get("final_info", {})]
        assert not any(key in group for group in groups for key in ("robometer/frame", "_robometer/frame"))

    def test_same_step_needs_them_rendered_inside(self) -> None:
        with pytest.raises(ValueError, match=r"SAME_STEP.*RenderToInfo\(env, every=3\)"):
            make(AutoresetMode.SAME_STEP, frames="render", reward=RewardSpec(every=3))

    @pytest.mark.parametrize("mode", MODES)
    def test_the_interval_inside_must_be_that_of_the_spec(self, mode: AutoresetMode) -> None:
        with pytest.raises(ValueError, match=r"renders every \[2\] steps, but frames are wanted with every=1"):
            make(mode, render=2, frames="render")

    def test_all_or_none(self) -> None:
        makers = [NoiseWorld, lambda: RenderToInfo(NoiseWorld())]
        with pytest.raises(ValueError, match=r"or none of them; \[0\] are not"):
            RobometerReward(SyncVectorEnv(makers), MODEL, TASK)

    def test_the_environments_must_render_arrays(self) -> None:
        with pytest.raises(ValueError, match="render_mode='rgb_array', got None"):
            RobometerReward(SyncVectorEnv([partial(BrightnessWorld, render_mode=None)]), MODEL, TASK)


class TestOtherVectorEnvironments:
    def test_one_call_renders_all(self) -> None:
        inner = FlatWorld()
        env = RobometerReward(inner, MODEL, TASK)
        _, infos = env.reset()
        np.testing.assert_allclose(infos["robometer/reset_progress"], [0.0, 0.2])
        assert [step(env)[0] for _ in range(4)] == [[0.2, 0.2], [0.2, 0.2], [0.0, 0.0], [0.2, 0.2]]
        assert inner.calls == 5

    def test_infos_of_all_environments_are_passed_on(self) -> None:
        env = RobometerReward(FlatWorld(), MODEL, TASK, frames=lambda observation, info: np.zeros((4, 4, 3)))
        env.reset()
        assert step(env)[3]["speed"] == 3.0

    def test_rendering_nothing(self) -> None:
        with pytest.raises(FrameError, match="returned None"):
            RobometerReward(FlatWorld(renders=False), MODEL, TASK).reset()

    def test_no_sub_environments_to_ask_for_the_task(self) -> None:
        with pytest.raises(ValueError, match="needs sub-environments to ask"):
            RobometerReward(FlatWorld(), MODEL, TaskFromAttribute("task"))

    @pytest.mark.parametrize("mode", [None, "NextStep", "next_step", 1])
    def test_the_autoreset_mode_must_be_known(self, mode: Any) -> None:
        with pytest.raises(
            ValueError, match=r"metadata\['autoreset_mode'\].*expected a gymnasium.vector.AutoresetMode"
        ):
            RobometerReward(FlatWorld(mode), MODEL, TASK)


class TestInvalidArguments:
    def test_a_single_environment(self) -> None:
        with pytest.raises(TypeError, match="VectorEnv"):
            RobometerReward(BrightnessWorld(), MODEL, TASK)  # pyright: ignore[reportArgumentType]

    def test_task(self) -> None:
        with pytest.raises(TaskError, match="got the task"):
            make(AutoresetMode.NEXT_STEP, task=3)

    def test_frames(self) -> None:
        with pytest.raises(ValueError, match="expected 'render', 'render/NAME', 'obs'"):
            make(AutoresetMode.NEXT_STEP, frames="pixels")
        with pytest.raises(FrameError, match="needs image observations"):
            RobometerReward(SyncVectorEnv([NoiseWorld]), MODEL, TASK, frames="obs")

    @pytest.mark.parametrize("mode", MODES)
    def test_a_missing_info_key_names_the_environment(self, mode: AutoresetMode) -> None:
        with pytest.raises(FrameError, match="environment 0, frames='info/camera'"):
            make(mode, frames="info/camera").reset()
        with pytest.raises(TaskError, match="environment 0: the reset info has no 'task'"):
            make(mode, task=TaskFromInfo("task")).reset()

    @pytest.mark.parametrize("mode", MODES)
    def test_step_before_reset(self, mode: AutoresetMode) -> None:
        with pytest.raises(ResetNeeded, match="call reset"):
            step(make(mode))

    def test_the_first_reset_resets_all(self) -> None:
        env = RobometerReward(FlatWorld(), MODEL, TASK)
        with pytest.raises(ResetNeeded, match="must reset all environments"):
            env.reset(options={"reset_mask": np.array([True, False])})

    def test_pickling_says_what_to_do_instead(self) -> None:
        with pytest.raises(TypeError, match=r"wrap the vectorised environment outside with .*RenderToInfo"):
            pickle.dumps(make(AutoresetMode.NEXT_STEP))


class TestAsync:
    """Worker processes render; the model stays here."""

    @pytest.mark.parametrize("mode", MODES)
    def test_frames_rendered_in_the_workers(self, mode: AutoresetMode) -> None:
        model = PixelModel()
        spec = RewardSpec(every=2, success_threshold=0.5, success_bonus=1.0, patience=1, terminate_on_success=True)
        inner = AsyncVectorEnv([partial(make_world, 2)] * 2, autoreset_mode=mode)
        driver = VectorDriver(RobometerReward(inner, model, TaskFromAttribute("instruction"), spec), 2)
        driver.reset(seed=5)
        for _ in range(40):
            driver.step()
        driver.env.close()
        assert check_log(driver, model, spec, task=None) > 40

    def test_every_step_rendered_by_call(self) -> None:
        model, spec = PixelModel(), RewardSpec()
        driver = VectorDriver(RobometerReward(AsyncVectorEnv([make_world_plain] * 2), model, TASK, spec), 2)
        driver.reset(seed=5)
        for _ in range(15):
            driver.step()
        driver.env.close()
        assert check_log(driver, model, spec) > 20

    def test_rendering_by_call_would_render_too_much(self) -> None:
        inner = AsyncVectorEnv([make_world_plain])
        with pytest.raises(ValueError, match=r"renders all environments.*RenderToInfo\(env, every=2\)"):
            RobometerReward(inner, MODEL, TASK, RewardSpec(every=2))
        inner.close()

    def test_single_resets_need_shared_memory(self) -> None:
        inner = AsyncVectorEnv([partial(make_world, 1)], shared_memory=False)
        with pytest.raises(ValueError, match="shared_memory=True"):
            RobometerReward(inner, MODEL, TASK, ENDS)
        RobometerReward(inner, MODEL, TASK).close()

    def test_workers_cannot_be_given_the_model(self) -> None:
        from robometer_rl.wrappers import RobometerReward as ScalarReward

        with pytest.raises(TypeError, match="cannot be pickled: it lives once, in the main process"):
            AsyncVectorEnv([lambda: ScalarReward(NoiseWorld(), MODEL, TASK)], context="spawn")


def make_world_plain() -> gym.Env[Any, Any]:
    return make_world(None)


class TestInfos:
    INFOS: dict[str, Any] = {  # noqa: RUF012
        "a": np.array([1.0, 2.0]),
        "_a": np.array([True, False]),
        "b": {"c": np.array([3, 4]), "_c": np.array([True, True]), "d": np.array([5, 6])},
        "_b": np.array([False, True]),
        "e": np.array([True, False]),
        "_private": np.array([7, 8]),
        "shared": "x",
    }

    def test_of_one_environment(self) -> None:
        assert env_info(self.INFOS, 0, 2) == {"a": 1.0, "e": True, "_private": 7, "shared": "x"}
        assert env_info(self.INFOS, 1, 2) == {"b": {"c": 4, "d": 6}, "e": False, "_private": 8, "shared": "x"}
        assert type(env_info(self.INFOS, 0, 2)["e"]) is bool

    def test_forgetting_one_environment(self) -> None:
        infos: dict[str, Any] = {
            "a": np.array([1.0, 2.0]),
            "_a": np.array([True, False]),
            "n": {"c": np.array([3, 4]), "_c": np.array([True, True])},
            "_n": np.array([True, True]),
            "o": np.array(["x", "y"], object),
            "_o": np.array([True, True]),
        }
        forget_info(infos, 0)
        assert "a" not in infos
        assert "_a" not in infos
        assert infos["n"]["c"].tolist() == [0, 4]
        assert infos["n"]["_c"].tolist() == [False, True]
        assert infos["_n"].tolist() == [False, True]
        assert infos["o"].tolist() == [None, "y"]


def test_wrappers_in_between_are_seen_through() -> None:
    class Inverted(VectorObservationWrapper[Any, Any, Any]):
        def observations(self, observations: Any) -> Any:
            return 255 - observations

    inner = Inverted(SyncVectorEnv([partial(BrightnessWorld, LONG)]))
    env = RobometerReward(inner, MODEL, TASK, frames="obs")
    env.reset()
    assert step(env)[0] == [-0.2]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_wrappers_outside_understand_its_infos(mode: AutoresetMode) -> None:
    env = RecordEpisodeStatistics(make(mode, ((0, 51, 102, 153), (0, 0, 0)), reward=ENDS))
    listed = DictInfoToList(env)
    listed.reset()
    listed.step(np.zeros(2, np.int64))
    infos = listed.step(np.zeros(2, np.int64))[4]
    assert [info["robometer/episode"]["length"] for info in infos] == [2, 2]
    assert [info["episode"]["l"] for info in infos] == [2, 2]
    np.testing.assert_allclose([info["episode"]["r"] for info in infos], [0.4, 0.0], atol=1e-6)
    assert ["robometer/reset_progress" in info for info in infos] == [mode is AutoresetMode.SAME_STEP] * 2


def test_the_model_outlives_the_environment() -> None:
    model = BrightnessModel()
    make(AutoresetMode.NEXT_STEP, model=model).close()
    env = make(AutoresetMode.NEXT_STEP, model=model)
    env.reset()
    assert step(env)[0] == [0.2, -0.6]
    assert env.model is model
    assert env.reward_spec == RewardSpec()
