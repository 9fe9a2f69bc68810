"""Instructions as users have them: one per environment, per episode, from anywhere; and what cannot be one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from robometer_rl.frames import TaskError
from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers import RecordTrajectories, RobometerReward, TaskFromInfo, TaskToInfo, VecRobometerReward
from robometer_rl.wrappers.tasks import TaskStages, parse_task
from robometer_rl.wrappers.vector import RobometerReward as VectorRobometerReward
from tests.fixed_models import BrightnessModel, PixelModel
from tests.wrappers.worlds import BrightnessWorld, NoiseWorld

TASKS = ["open it", "close it", "push it"]
SPEC = RewardSpec(success_threshold=0.9)


def batched(kind: str, model: PixelModel, task: Any, count: int) -> Any:
    make: list[Any] = [NoiseWorld] * count
    if kind == "sb3":
        return VecRobometerReward(DummyVecEnv(make), model, task, SPEC, "obs/image")
    envs = SyncVectorEnv(make, autoreset_mode=AutoresetMode[kind.upper()])
    return VectorRobometerReward(envs, model, task, SPEC, "obs/image")


@pytest.mark.parametrize("kind", ["next_step", "same_step", "sb3"])
def test_a_list_has_one_instruction_for_each_environment(kind: str) -> None:
    model = PixelModel()

    def first_rewards(task: Any, count: int) -> np.ndarray:
        envs = batched(kind, model, task, count)
        if kind == "sb3":
            envs.seed(3)
            envs.reset()
        else:
            envs.reset(seed=3)
        return np.asarray(envs.step(np.zeros(count, np.int64))[1])

    found = first_rewards(TASKS, 3)
    for index, task in enumerate(TASKS):
        np.testing.assert_allclose(found[index], first_rewards(task, 3)[index], atol=1e-6)
    assert len(set(found.round(6))) == 3
    with pytest.raises(TaskError, match=r"got 2 instructions for 3 environments.*TaskStages"):
        batched(kind, model, TASKS[:2], 3)


class Talking(gym.ObservationWrapper):
    """Says in its observation what is to be done."""

    def __init__(self, env: gym.Env, texts: tuple[Any, ...]) -> None:
        super().__init__(env)
        self.texts, self.resets = texts, 0
        self.observation_space = spaces.Dict({"pixels": env.observation_space, "mission": spaces.Text(50)})

    def reset(self, **kwargs: Any) -> Any:
        self.resets += 1
        return super().reset(**kwargs)

    def observation(self, observation: Any) -> Any:
        return {"pixels": observation, "mission": self.texts[(self.resets - 1) % len(self.texts)]}


def rewards(env: gym.Env, seed: int) -> list[float]:
    env.reset(seed=seed)
    found, over = [], False
    while not over:
        _, reward, terminated, truncated, _ = env.step(0)
        found.append(float(reward))
        over = terminated or truncated
    return found


def test_a_callable_reads_it_after_each_reset() -> None:
    model = PixelModel()
    env = RobometerReward(
        Talking(NoiseWorld(), ("open it", "close it")), model, lambda obs, info: obs["mission"], SPEC,
        "obs/pixels/image",
    )  # fmt: skip
    for task in ("open it", "close it", "open it"):
        assert rewards(env, 5) == rewards(RobometerReward(NoiseWorld(), model, task, SPEC, "obs/image"), 5)


def test_what_is_read_may_be_the_stages_of_an_episode() -> None:
    levels = (0, 100, 200, 250, 250)
    spec = RewardSpec(success_threshold=0.15, patience=1)
    world = Talking(BrightnessWorld(levels), (("one", "two"), "all"))
    env = RobometerReward(world, BrightnessModel(), lambda obs, info: obs["mission"], spec)
    stages = []
    for _ in range(2):
        env.reset(seed=0)
        infos = [env.step(0)[4] for _ in levels[1:]]
        stages.append([info.get("robometer/stage") for info in infos])
        assert infos[-1]["robometer/episode"].get("stages_completed") == (2 if len(stages) == 1 else 1)
    # What the first step has completed, the second is paid for.
    assert stages == [[0, 1, 1, 1], [0, 0, 0, 0]]


def test_stages_of_an_episode_are_refused_where_stages_are(tmp_path: Any) -> None:
    spec = RewardSpec(mode="potential", task_weight=1.0, gamma=0.9)
    env = RobometerReward(BrightnessWorld(), BrightnessModel(), lambda obs, info: ["one", "two"], spec)
    with pytest.raises(ValueError, match="TaskStages"):
        env.reset()
    recorded = RecordTrajectories(BrightnessWorld(), tmp_path / "store", lambda obs, info: ["one", "two"])
    with pytest.raises(ValueError, match="one instruction"):
        recorded.reset()


@pytest.mark.parametrize("value", ["", None, 3, [], ["one", ""], b"open"])
def test_what_is_no_instruction(value: Any) -> None:
    env = RobometerReward(NoiseWorld(), PixelModel(), lambda obs, info: value, SPEC)
    with pytest.raises(TaskError, match=r"environment 0: .* gave .*; expected a non-empty instruction"):
        env.reset()


class TestTaskToInfo:
    def test_the_options_of_a_reset_name_it_and_the_environment_does_not_see_that(self) -> None:
        seen = []

        class Strict(NoiseWorld):
            def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
                seen.append(options)
                return super().reset(seed=seed, options=options)

        env = TaskToInfo(Strict(), "open it")
        assert env.reset()[1]["task"] == "open it"
        assert env.reset(options={"task": "close it", "easy": True})[1]["task"] == "close it"
        assert env.reset(seed=1)[1]["task"] == "close it"
        assert seen == [None, {"easy": True}, None]
        with pytest.raises(TaskError):
            env.reset(options={"task": " "})

    def test_none_was_given(self) -> None:
        with pytest.raises(TaskError, match=r"reset with options=\{'task'"):
            TaskToInfo(NoiseWorld()).reset()
        with pytest.raises(TaskError):
            TaskToInfo(NoiseWorld(), "")

    def test_each_episode_is_paid_for_its_own(self) -> None:
        model = PixelModel()
        env = RobometerReward(TaskToInfo(NoiseWorld(), TASKS[0]), model, TaskFromInfo("task"), SPEC)
        env.reset(seed=2, options={"task": TASKS[1]})
        other = RobometerReward(NoiseWorld(), model, TASKS[1], SPEC)
        other.reset(seed=2)
        assert env.step(0)[1] == other.step(0)[1]

    def test_in_vector_environments(self) -> None:
        venv = DummyVecEnv([lambda: TaskToInfo(NoiseWorld(), "open it")] * 2)
        paid = VecRobometerReward(venv, PixelModel(), TaskFromInfo("task"), SPEC, "obs/image")
        paid.set_options([{"task": "close it"}, {}])
        paid.reset()
        assert [info["task"] for info in paid.reset_infos] == ["close it", "open it"]
        envs = SyncVectorEnv([lambda: TaskToInfo(NoiseWorld())] * 2)
        paid = VectorRobometerReward(envs, PixelModel(), TaskFromInfo("task"), SPEC, "obs/image")
        assert paid.reset(options={"task": "push it"})[1]["task"].tolist() == ["push it"] * 2

    def test_a_spec_can_be_made_again(self) -> None:
        gym.register("tests/Talking-v0", "tests.wrappers.worlds:NoiseWorld")
        spec = TaskToInfo(gym.make("tests/Talking-v0"), "open it", "mission").spec
        assert spec is not None
        again = EnvSpec.from_json(spec.to_json())
        assert gym.make(again).reset()[1]["mission"] == "open it"


@pytest.mark.parametrize("given", [TaskFromInfo("task"), TaskStages(("a", "b")), "open it"])
def test_what_is_parsed_is_itself(given: Any) -> None:
    assert parse_task(given, 2) == given
