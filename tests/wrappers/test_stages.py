"""Staged tasks: each stage is paid as an episode of its own that begins where the one before it was completed."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from hypothesis import given, settings
from hypothesis import strategies as st

from robometer_rl.frames import Clip, TaskError
from robometer_rl.models.reward_model import RewardModel
from robometer_rl.rewards import RewardSpec, episode_rewards
from robometer_rl.wrappers import RobometerReward, TaskStages
from robometer_rl.wrappers.tasks import parse_task
from tests.fixed_models import BrightnessModel, PixelModel
from tests.wrappers.drivers import KINDS, make_driver
from tests.wrappers.worlds import BrightnessWorld, NoiseEpisode

STAGES = ("reach the handle", "open the drawer", "put the bowl in the drawer")
ONE_FRAME = RewardSpec(success_threshold=0.15, patience=1)


def expected_rewards(
    episode: NoiseEpisode, model: RewardModel, spec: RewardSpec, stages: tuple[str, ...]
) -> tuple[list[float], int, bool]:
    """Rewards of an episode, how many stages it completes, and whether the last of them ends it."""
    rewards: list[float] = []
    for number, task in enumerate(stages):
        begin = len(rewards)
        frames = np.stack([episode.frame(t, "render") for t in range(begin, episode.length + 1)])
        (prediction,) = model.predict_steps([Clip(frames, task)], every=spec.every)
        task_rewards = [episode.task_reward(t + 1) for t in range(begin, episode.length)]
        threshold = spec.threshold(model.success_threshold)
        answers = (prediction.progress, prediction.success)
        paid = episode_rewards(
            spec,
            *answers,
            task_rewards,
            terminated=False,
            threshold=threshold,
            uncertainty=prediction.uncertainty,
        )
        is_last = number == len(stages) - 1
        if not paid.fires.any() or (is_last and not spec.terminate_on_success):
            return [*rewards, *paid.rewards.tolist()], number + int(paid.fires.any()), False
        rewards += paid.rewards[: int(paid.fires.argmax()) + 1].tolist()
        if len(rewards) == episode.length or is_last:
            return rewards, number + 1, is_last
    raise AssertionError("the last stage returns")


def check(kind: str, spec: RewardSpec, stages: tuple[str, ...], seed: int, steps: int, num_envs: int = 2) -> set[int]:
    """Compares everything that was paid; returns how many stages the episodes completed."""
    model = PixelModel()
    driver = make_driver(kind, num_envs, model, spec, task=TaskStages(stages))
    driver.reset(seed=seed)
    for _ in range(steps):
        driver.step()
    completed = set()
    for played in (played for index in range(num_envs) for played in driver.log[index]):
        rewards, count, completes = expected_rewards(NoiseEpisode(played.number, 9, 8), model, spec, stages)
        np.testing.assert_allclose(played.rewards, rewards[: len(played.rewards)], rtol=0, atol=1e-6)
        assert (played.end is not None) == (len(played.rewards) == len(rewards))
        if played.end is not None:
            assert played.summary["stages_completed"] == count
            assert played.end[0] or not completes
            completed.add(count)
    return completed


SPECS = {
    "delta": RewardSpec(success_threshold=0.5, patience=1),
    "delta-patience-bonus": RewardSpec(success_threshold=0.4, success_bonus=3.0, task_weight=0.5),
    "delta-every": RewardSpec(success_threshold=0.4, patience=1, every=2, success_bonus=1.0),
    "level": RewardSpec(mode="level", success_threshold=0.5, patience=1),
    "success": RewardSpec(mode="success", success_threshold=0.5, patience=1),
    "ends": RewardSpec(success_threshold=0.4, patience=1, terminate_on_success=True, success_bonus=1.0),
    "ends-every": RewardSpec(success_threshold=0.3, patience=1, terminate_on_success=True, every=2),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_wrapper_pays_stages_as_episodes(kind: str, spec: RewardSpec) -> None:
    completed = check(kind, spec, STAGES, seed=5, steps=45)
    assert len(completed) >= 2


@settings(max_examples=20)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 1000),
    stages=st.lists(st.sampled_from(STAGES), min_size=1, max_size=4),
    spec=st.builds(
        RewardSpec,
        mode=st.sampled_from(["level", "delta", "success"]),
        success_threshold=st.sampled_from([0.2, 0.5]),
        patience=st.integers(1, 2),
        success_bonus=st.sampled_from([0.0, 2.0]),
        terminate_on_success=st.booleans(),
        every=st.integers(1, 3),
        unscored=st.sampled_from(["hold", "zero"]),
    ),
)
def test_any_stages(kind: str, seed: int, stages: list[str], spec: RewardSpec) -> None:
    check(kind, spec, tuple(stages), seed, steps=20)


def play(spec: RewardSpec, levels: tuple[int, ...], **kwargs: Any) -> tuple[list[float], list[dict[str, Any]]]:
    env = RobometerReward(BrightnessWorld(levels), BrightnessModel(), TaskStages(("one", "two")), spec, **kwargs)
    env.reset(seed=0)
    rewards, infos, over = [], [], False
    while not over:
        _, reward, terminated, truncated, info = env.step(0)
        rewards.append(reward)
        infos.append(info)
        over = terminated or truncated
    return rewards, infos


class TestInfo:
    def test_the_stage_of_each_step(self) -> None:
        rewards, infos = play(ONE_FRAME, (0, 51, 102, 0, 51, 51))
        np.testing.assert_allclose(rewards, [0.2, 0.2, -0.4, 0.2, 0.0], atol=1e-6)
        assert [info["robometer/stage"] for info in infos] == [0, 0, 1, 1, 1]
        assert [info.get("robometer/next_stage_progress") for info in infos] == [None, pytest.approx(0.4), *[None] * 3]
        assert infos[1]["robometer/progress"] == pytest.approx(0.4)
        assert infos[-1]["robometer/episode"]["stages_completed"] == 1

    def test_the_frame_that_completes_a_stage_does_not_complete_the_next(self) -> None:
        _, infos = play(ONE_FRAME, (0, 255, 255, 255))
        assert [info["robometer/stage"] for info in infos] == [0, 1, 1]
        assert [info["robometer/success_detected"] for info in infos] == [True, True, True]
        assert infos[-1]["robometer/episode"]["stages_completed"] == 2

    def test_a_bonus_per_stage(self) -> None:
        spec = RewardSpec(success_threshold=0.15, patience=1, scale=0.0, success_bonus=1.0)
        assert play(spec, (0, 255, 255, 255))[0] == [1.0, 1.0, 0.0]

    def test_the_last_stage_ends_the_episode(self) -> None:
        spec = RewardSpec(success_threshold=0.15, patience=1, terminate_on_success=True)
        _, infos = play(spec, (0, 255, 255, 255, 255))
        assert len(infos) == 2
        assert infos[-1]["robometer/episode"]["stages_completed"] == 2

    def test_a_stage_completed_by_the_last_step_of_the_episode_is_counted(self) -> None:
        _, infos = play(ONE_FRAME, (0, 0, 255))
        assert infos[-1]["robometer/stage"] == 0
        assert "robometer/next_stage_progress" not in infos[-1]
        assert infos[-1]["robometer/episode"]["stages_completed"] == 1

    def test_a_task_without_stages_says_nothing_of_them(self) -> None:
        env = RobometerReward(BrightnessWorld((0, 255)), BrightnessModel(), "one", ONE_FRAME)
        env.reset()
        info = env.step(0)[4]
        assert "robometer/stage" not in info
        assert "stages_completed" not in info["robometer/episode"]


class TestInvalidArguments:
    @pytest.mark.parametrize("instructions", ["open it", (), [], None, 3, ("open it", ""), ("open it", None)])
    def test_instructions(self, instructions: Any) -> None:
        with pytest.raises(TaskError):
            TaskStages(instructions)

    def test_potential(self) -> None:
        spec = RewardSpec(mode="potential", gamma=0.9, task_weight=1.0)
        with pytest.raises(ValueError, match="mode='potential' does not go together with TaskStages"):
            RobometerReward(BrightnessWorld(), BrightnessModel(), TaskStages(STAGES), spec)


def test_the_specification_of_an_environment_holds_its_stages() -> None:
    gym.register("tests/Stages-v0", entry_point="tests.wrappers.worlds:BrightnessWorld")
    env = RobometerReward(gym.make("tests/Stages-v0", render_mode="rgb_array"), BrightnessModel(), TaskStages(STAGES))
    assert env.spec is not None
    kwargs = EnvSpec.from_json(env.spec.to_json()).additional_wrappers[-1].kwargs
    assert kwargs is not None
    assert parse_task(kwargs["task"], 1) == TaskStages(STAGES)
