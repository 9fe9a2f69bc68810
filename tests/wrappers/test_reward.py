from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from robometer_rl.frames import FrameError, NestedFrames, TaskError, UniformFrames
from robometer_rl.prediction import NonFiniteOutputError, Prediction
from robometer_rl.rewards import NonFiniteRewardError, RewardSpec
from robometer_rl.wrappers import RenderToInfo, RobometerReward, TaskFromAttribute, TaskFromInfo, Tiles
from tests.fixed_models import BrightnessModel, PixelModel
from tests.wrappers.worlds import TASK, BrightnessWorld, NoiseWorld

LEVELS = (51, 0, 102, 255)
PROGRESS = [level / 255 for level in LEVELS]
CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "robometer_tiny" / "checkpoint"
MODEL = BrightnessModel()

gym.register("tests/Brightness-v0", entry_point="tests.wrappers.worlds:BrightnessWorld", max_episode_steps=50)


def make(reward: RewardSpec | None = None, world: gym.Env[Any, Any] | None = None, **kwargs: Any) -> RobometerReward:
    arguments: dict[str, Any] = {"model": MODEL, "task": TASK, "reward": reward or RewardSpec(), **kwargs}
    return RobometerReward(world or BrightnessWorld(LEVELS), **arguments)


def play(env: gym.Env[Any, Any]) -> tuple[dict[str, Any], list[float], list[dict[str, Any]]]:
    """Reset info, rewards and infos of one episode."""
    _, reset_info = env.reset(seed=0)
    rewards: list[Any] = []
    infos = []
    over = False
    while not over:
        _, reward, terminated, truncated, info = env.step(0)
        rewards.append(reward)
        infos.append(info)
        over = terminated or truncated
    return reset_info, rewards, infos


class TestRewards:
    @pytest.mark.parametrize(
        ("spec", "expected"),
        [
            (RewardSpec(), [-0.2, 0.4, 0.6]),
            (RewardSpec(mode="level"), [0.0, 0.4, 1.0]),
            (RewardSpec(task_weight=2.0, scale=10.0), [0.0, 6.0, 8.0]),
            (RewardSpec(mode="potential", gamma=0.5, task_weight=1.0), [0.8, 1.2, 0.6]),
            (RewardSpec(mode="success", patience=1, success_threshold=0.1), [0.0, 1.0, 1.0]),
            (RewardSpec(scale=0.0, patience=1, success_threshold=0.1, success_bonus=3.0), [0.0, 3.0, 0.0]),
            (RewardSpec(every=2), [0.0, 0.2, 0.6]),
            (RewardSpec(mode="level", every=2), [0.2, 0.4, 1.0]),
            (RewardSpec(mode="level", every=2, unscored="zero"), [0.0, 0.4, 1.0]),
        ],
    )
    def test_values(self, spec: RewardSpec, expected: list[float]) -> None:
        env = make(spec)
        for _ in range(2):
            _, rewards, _ = play(env)
            np.testing.assert_allclose(rewards, expected, atol=1e-6)
            assert [type(reward) for reward in rewards] == [float] * 3

    def test_the_time_limit_keeps_the_potential(self) -> None:
        spec = RewardSpec(mode="potential", gamma=0.5, task_weight=1.0)
        _, rewards, _ = play(make(spec, TimeLimit(BrightnessWorld(LEVELS), 2)))
        np.testing.assert_allclose(rewards, [1 - 0.2, 1 + 0.5 * 0.4 - 0], atol=1e-6)

    def test_the_default_threshold_is_that_of_the_checkpoint(self) -> None:
        spec = RewardSpec(mode="success", patience=1)
        assert play(make(spec))[1] == [0.0, 0.0, 1.0]
        assert play(make(spec, model=BrightnessModel(success_threshold=0.15)))[1] == [0.0, 1.0, 1.0]
        low = RewardSpec(mode="success", patience=1, success_threshold=0.0)
        assert play(make(low, model=BrightnessModel(success_threshold=0.15)))[1] == [1.0, 1.0, 1.0]

    @pytest.mark.parametrize(("every", "renders"), [(1, 4), (2, 3), (3, 2), (9, 2)])
    def test_only_scored_frames_are_rendered(self, every: int, renders: int) -> None:
        world = BrightnessWorld(LEVELS)
        play(make(RewardSpec(every=every), world))
        assert world.renders == renders

    def test_observations_cost_no_rendering(self) -> None:
        world = BrightnessWorld(LEVELS, render_mode=None)
        _, rewards, _ = play(make(world=world, frames="obs"))
        np.testing.assert_allclose(rewards, [-0.2, 0.4, 0.6], atol=1e-6)
        assert world.renders == 0

    def test_cameras_are_averaged_before_shaping(self) -> None:
        env = make(frames=("render", lambda observation, info: 255 - observation))
        _, rewards, infos = play(env)
        np.testing.assert_allclose(rewards, [0, 0, 0], atol=1e-6)
        np.testing.assert_allclose(infos[1]["robometer/progress_per_camera"], [0.4, 0.6], atol=1e-6)
        np.testing.assert_allclose(infos[1]["robometer/success_per_camera"], [0.16, 0.36], atol=1e-6)
        assert infos[1]["robometer/progress"] == pytest.approx(0.5)

    def test_cameras_that_disagree_are_doubt(self) -> None:
        """One is sure that nothing is done, the other that all is."""
        cameras = (lambda observation, info: 0 * observation, lambda observation, info: 255 + 0 * observation)
        for frames, expected in ((cameras, 0.5), (cameras[:1], 0.0)):
            assert play(make(frames=frames))[2][0]["robometer/uncertainty"] == pytest.approx(expected)
        assert play(make(RewardSpec(mode="level", confidence=0.1), frames=cameras))[1] == [0.0] * 3
        assert play(make(RewardSpec(mode="level"), frames=cameras))[1] == [0.5] * 3

    def test_cameras_in_one_picture_are_one_history(self) -> None:
        pytest.importorskip("cv2")
        env = make(frames=Tiles("render", lambda observation, info: 255 - observation))
        _, _, infos = play(env)
        assert "robometer/progress_per_camera" not in infos[1] or len(infos[1]["robometer/progress_per_camera"]) == 1
        # Two thirds of the picture have the brightness 0.4, a third 0.6; the primary view is 8 pixels high of 12.
        assert infos[1]["robometer/progress"] == pytest.approx((2 * 0.4 + 0.6) / 3, abs=1e-6)
        with pytest.raises(ValueError, match="at least one other"):
            Tiles("render")
        with pytest.raises(ValueError, match="expected 'render', 'render/NAME', 'obs'"):
            make(frames=Tiles("render", "pixels"))

    def test_cameras_may_draw_into_one_buffer(self) -> None:
        buffer = np.zeros((8, 8, 3), np.uint8)

        def draw(level: int) -> Any:
            buffer[:] = level
            return buffer

        env = make(frames=(lambda observation, info: draw(0), lambda observation, info: draw(255)))
        np.testing.assert_allclose(play(env)[2][0]["robometer/progress_per_camera"], [0.0, 1.0])

    @pytest.mark.parametrize("protocol", [NestedFrames(3), "nested(3)", UniformFrames(2)])
    def test_the_protocol_is_used(self, protocol: Any) -> None:
        given = play(make(world=NoiseWorld(max_length=40), model=PixelModel(), protocol=protocol))
        parsed = NestedFrames(3) if isinstance(protocol, str) else protocol
        default = play(make(world=NoiseWorld(max_length=40), model=PixelModel(parsed)))
        other = play(make(world=NoiseWorld(max_length=40), model=PixelModel(UniformFrames(9))))
        assert len(given[1]) > 9
        assert given[1] == default[1] != other[1]

    def test_frames_rendered_inside_are_taken_and_removed(self) -> None:
        world = BrightnessWorld(LEVELS)
        env = make(RewardSpec(every=2), RenderToInfo(world, every=2))
        reset_info, rewards, infos = play(env)
        np.testing.assert_allclose(rewards, [0.0, 0.2, 0.6], atol=1e-6)
        assert world.renders == 3
        assert not any("robometer/frame" in info for info in [reset_info, *infos])

    def test_a_model_that_answers_nan_is_an_error(self) -> None:
        class Broken(BrightnessModel):
            def predict(self, clips: Any) -> list[Prediction]:
                nan = np.full(1, np.nan, np.float32)
                return [Prediction(nan, nan, nan[:, None], "given", "broken") for _ in clips]

        with pytest.raises(NonFiniteOutputError, match="progress that is not finite for frame 0"):
            make(model=Broken()).reset()


class TestEndOnPredictedSuccess:
    SPEC = RewardSpec(patience=1, success_threshold=0.1, terminate_on_success=True, success_bonus=1.0)

    def test_the_step_that_fires_terminates(self) -> None:
        env = make(self.SPEC)
        _, rewards, infos = play(env)
        np.testing.assert_allclose(rewards, [-0.2, 1.4], atol=1e-6)
        assert infos[-1]["robometer/success_detected"]
        assert infos[-1]["robometer/episode"]["length"] == 2
        assert play(env)[1] == rewards

    def test_it_terminates_the_potential_too(self) -> None:
        spec = RewardSpec(
            mode="potential", gamma=0.5, task_weight=1, patience=1, success_threshold=0.1, terminate_on_success=True
        )
        np.testing.assert_allclose(play(make(spec))[1], [0.8, 1.0], atol=1e-6)

    def test_stepping_on_is_refused(self) -> None:
        env = make(self.SPEC)
        play(env)
        with pytest.raises(ResetNeeded, match="have ended"):
            env.step(0)

    def test_without_it_the_episode_goes_on(self) -> None:
        spec = RewardSpec(patience=1, success_threshold=0.1, success_bonus=1.0)
        np.testing.assert_allclose(play(make(spec))[1], [-0.2, 1.4, 0.6], atol=1e-6)


class TestInfo:
    def test_keys(self) -> None:
        reset_info, rewards, infos = play(make(RewardSpec(task_weight=0.5)))
        assert reset_info == {"robometer/reset_progress": pytest.approx(0.2)}
        step = {"progress", "success", "success_detected", "uncertainty", "scored", "task_reward", "reward"}
        assert set(infos[0]) == {f"robometer/{key}" for key in step} | {"success"}
        assert set(infos[-1]) == set(infos[0]) | {"robometer/episode", "robometer/true_success"}
        np.testing.assert_allclose([info["robometer/progress"] for info in infos], PROGRESS[1:], atol=1e-6)
        np.testing.assert_allclose([info["robometer/success"] for info in infos], np.square(PROGRESS[1:]), atol=1e-6)
        assert [info["robometer/reward"] for info in infos] == rewards
        assert [info["robometer/task_reward"] for info in infos] == [1.0, 1.0, 1.0]
        assert infos[-1]["robometer/episode"] == {
            "return": pytest.approx(0.8 + 1.5),
            "task_return": 3.0,
            "progress": pytest.approx(1.0),
            "success": pytest.approx(1.0),
            "length": 3,
        }

    def test_values_are_held_between_scored_frames(self) -> None:
        _, _, infos = play(make(RewardSpec(every=2)))
        np.testing.assert_allclose([info["robometer/progress"] for info in infos], [0.2, 0.4, 1.0], atol=1e-6)
        assert [info["robometer/scored"] for info in infos] == [False, True, True]

    @pytest.mark.parametrize(
        ("given", "success_key", "expected"),
        [
            ({"success": 1.0}, None, True),
            ({"success": 1.0, "is_success": False}, None, False),
            ({"success": 1.0, "goal": np.bool_(False)}, "goal", False),
            ({}, None, None),
        ],
    )
    def test_true_success(self, given: dict[str, Any], success_key: str | None, expected: bool | None) -> None:
        class World(BrightnessWorld):
            def step(self, action: int) -> Any:
                return *super().step(action)[:4], given

        _, _, infos = play(make(world=World(LEVELS), success_key=success_key))
        assert infos[-1].get("robometer/true_success") is expected
        assert "robometer/true_success" not in infos[0]

    def test_a_named_key_must_be_there(self) -> None:
        with pytest.raises(KeyError, match=r"no success_key 'goal'; it has \['success'\]"):
            play(make(success_key="goal"))

    def test_the_info_of_the_environment_is_left_alone(self) -> None:
        kept: dict[str, Any] = {}

        class World(BrightnessWorld):
            def step(self, action: int) -> Any:
                return *super().step(action)[:4], kept

        play(make(world=World(LEVELS)))
        assert kept == {}


class TestTask:
    def test_from_info_and_from_an_attribute(self) -> None:
        model = PixelModel()
        world = NoiseWorld()
        world.reset(seed=0)
        fixed = play(make(world=NoiseWorld(), model=model, task=world.instruction))[1]
        assert play(make(world=NoiseWorld(), model=model, task=TaskFromInfo("instruction")))[1] == fixed
        assert play(make(world=NoiseWorld(), model=model, task=TaskFromAttribute("instruction")))[1] == fixed
        assert play(make(world=NoiseWorld(), model=model, task="another"))[1] != fixed

    def test_an_info_without_it(self) -> None:
        with pytest.raises(TaskError, match=r"environment 0: the reset info has no 'instruction'; it has \[\]"):
            make(task=TaskFromInfo("instruction")).reset()

    def test_an_environment_without_the_attribute(self) -> None:
        with pytest.raises(AttributeError, match="instruction"):
            make(task=TaskFromAttribute("instruction")).reset()

    @pytest.mark.parametrize("attribute", ["levels", "t"])
    def test_an_attribute_that_is_not_an_instruction(self, attribute: str) -> None:
        with pytest.raises(TaskError, match="expected a non-empty instruction"):
            make(task=TaskFromAttribute(attribute)).reset()


class TestInvalidArguments:
    @pytest.mark.parametrize("task", ["", "  ", None, 3, b"open", ["open", "close"], [""], {"key": "x"}])
    def test_task(self, task: Any) -> None:
        with pytest.raises(TaskError, match=r"got (the task|2 instructions)"):
            make(task=task)

    @pytest.mark.parametrize("render_mode", [None, "human"])
    def test_render_mode(self, render_mode: str | None) -> None:
        with pytest.raises(ValueError, match=f"render_mode='rgb_array', got {render_mode!r}"):
            make(world=BrightnessWorld(render_mode=render_mode))

    def test_interval_of_frames_rendered_inside(self) -> None:
        with pytest.raises(ValueError, match=r"renders every \[2\] steps, but frames are wanted with every=1"):
            make(world=RenderToInfo(BrightnessWorld(), every=2))

    @pytest.mark.parametrize("frames", ["pixels", "obs/", "info/", "rgb", "render/", 3, None, (), ("obs", "x")])
    def test_frames(self, frames: Any) -> None:
        with pytest.raises(ValueError, match="expected 'render', 'render/NAME', 'obs'"):
            make(frames=frames)

    def test_observation_keys(self) -> None:
        with pytest.raises(ValueError, match=r"the observation space has the keys \['image', 'state'\]"):
            make(world=NoiseWorld(), frames="obs/camera")
        with pytest.raises(ValueError, match="the observation space is Box"):
            make(frames="obs/image")
        with pytest.raises(FrameError, match=r"frames='obs/state'.*got one frame of shape \(2,\)"):
            make(world=NoiseWorld(), frames="obs/state")
        with pytest.raises(FrameError, match="needs image observations, a Box space"):
            make(world=NoiseWorld(), frames="obs")

    @pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 12), (5,)])
    def test_observations_that_are_not_rgb(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(FrameError, match="frames='obs', observation space"):
            make(world=BrightnessWorld(shape=shape), frames="obs")

    @pytest.mark.parametrize(("name", "value"), [("model", 3), ("reward", "delta"), ("protocol", 8)])
    def test_types(self, name: str, value: Any) -> None:
        with pytest.raises(TypeError, match=f"{name} must be a"):
            RobometerReward(BrightnessWorld(), **{"model": MODEL, "task": TASK, name: value})

    def test_an_unknown_protocol(self) -> None:
        with pytest.raises(ValueError, match="unknown frame protocol 'last'"):
            make(protocol="last")

    def test_an_unknown_model(self) -> None:
        with pytest.raises(ValueError, match=r"unknown model 'midi'.*mini"):
            make(model="midi")


class TestFramesThatAreNotThere:
    def test_an_info_without_the_key(self) -> None:
        with pytest.raises(FrameError, match=r"environment 0, frames='info/cam/left': the info has no 'cam/left'"):
            make(frames="info/cam/left").reset()

    def test_a_callable_that_returns_something_else(self) -> None:
        with pytest.raises(FrameError, match=r"environment 0, frames='<function.*got one frame of shape"):
            make(frames=lambda observation, info: info).reset()

    def test_inside_the_time_limit_the_last_frame_is_missed(self) -> None:
        env = make(RewardSpec(every=2), TimeLimit(RenderToInfo(BrightnessWorld(LEVELS), every=2), 1))
        env.reset()
        with pytest.raises(FrameError, match="is RenderToInfo outside TimeLimit"):
            env.step(0)


def test_step_before_reset() -> None:
    with pytest.raises(ResetNeeded, match="call reset"):
        make().step(0)


def test_two_environments_share_a_model_that_outlives_them() -> None:
    model = PixelModel()
    one, two = make(world=NoiseWorld(), model=model), make(world=NoiseWorld(), model=model)
    alone = play(make(world=NoiseWorld(), model=model))[1]
    one.reset(seed=0)
    two.reset(seed=3)
    rewards, over = [], False
    while not over:
        _, reward, terminated, truncated, _ = one.step(0)
        rewards.append(reward)
        over = terminated or truncated
        two.reset()
    assert rewards == alone
    one.close()
    assert play(two)[1] == alone


def test_pickling_says_what_to_do_instead() -> None:
    for copying in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match=r"wrap the vectorised environment outside with .*RenderToInfo"):
            copying(make())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "spec", [RewardSpec(), RewardSpec(terminate_on_success=True, success_threshold=0.0, patience=1)]
)
def test_checkers_find_nothing_wrong(spec: RewardSpec) -> None:
    check_env(make(spec))
    sb3_check_env(make(spec))
    check_env(make(spec, NoiseWorld(), model=PixelModel(), task=TaskFromInfo("instruction")))


class TestSpec:
    ARGUMENTS: dict[str, Any] = {  # noqa: RUF012
        "task": TaskFromAttribute("instruction"),
        "reward": RewardSpec(mode="level", every=2),
        "frames": ("render", "obs"),
        "protocol": NestedFrames(4),
        "success_key": "success",
    }

    def test_it_records_the_source_of_the_model(self) -> None:
        world = gym.make("tests/Brightness-v0", render_mode="rgb_array")
        env = RobometerReward(world, MODEL, **self.ARGUMENTS)
        assert env.spec is not None
        wrapper = env.spec.additional_wrappers[-1]
        assert wrapper.entry_point == "robometer_rl.wrappers.reward:RobometerReward"
        assert wrapper.kwargs == {**self.ARGUMENTS, "model": MODEL.source, "protocol": "nested(4)"}

    @pytest.mark.parametrize("task", ["close it", TaskFromAttribute("render_mode"), TaskFromInfo("task")])
    @pytest.mark.parametrize("through_json", [False, True])
    def test_it_rebuilds_the_environment(self, task: Any, through_json: bool) -> None:
        world = gym.make("tests/Brightness-v0", render_mode="rgb_array")
        env = RobometerReward(world, str(CHECKPOINT), **{**self.ARGUMENTS, "task": task})
        assert env.spec is not None
        spec = EnvSpec.from_json(env.spec.to_json()) if through_json else env.spec
        rebuilt = gym.make(spec)
        assert isinstance(rebuilt, RobometerReward)
        assert rebuilt.reward_spec == env.reward_spec
        assert rebuilt.model.source == str(CHECKPOINT)
        if not isinstance(task, TaskFromInfo):
            assert play(rebuilt)[1] == pytest.approx(play(env)[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_task_reward_that_is_no_number_is_an_error_where_it_has_a_weight(value: float) -> None:
    class World(BrightnessWorld):
        def step(self, action: int) -> Any:
            observation, _, *rest = super().step(action)
            return (observation, value, *rest)

    env = make(RewardSpec(), World(LEVELS))
    env.reset()
    _, reward, _, _, info = env.step(0)
    assert reward == info["robometer/reward"]
    assert not np.isfinite(info["robometer/task_reward"])
    env = make(RewardSpec(task_weight=1.0), World(LEVELS))
    env.reset()
    with pytest.raises(NonFiniteRewardError, match=rf"own reward is {value} \(environment 0\)"):
        env.step(0)
    with pytest.raises(ResetNeeded):
        env.step(0)


@pytest.mark.filterwarnings("ignore:.*Monitor")
def test_stable_baselines_sees_the_end_of_episodes_that_predicted_success_ends() -> None:
    endless = tuple(range(0, 250, 10)) + (250,) * 10_000
    spec = RewardSpec(patience=1, success_threshold=0.1, terminate_on_success=True)
    venv = make_vec_env(
        lambda: BrightnessWorld(endless), 2, wrapper_class=lambda env: RobometerReward(env, MODEL, TASK, spec)
    )
    agent = PPO("MlpPolicy", venv, n_steps=16, batch_size=16, n_epochs=1, policy_kwargs={"net_arch": [4]})
    assert evaluate_policy(agent, venv, n_eval_episodes=4) == (9.0, 0.0)
    agent.learn(64)
    assert agent.ep_info_buffer
    assert {(episode["r"], episode["l"]) for episode in agent.ep_info_buffer} == {(9.0, 9)}
