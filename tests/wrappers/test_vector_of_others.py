"""Vector environments of other makers: tensors, what they say of the end of an episode, and how they reset."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from robometer_rl.frames import FrameError
from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers.vector import RobometerReward
from robometer_rl.wrappers.vector_infos import env_info
from tests.fixed_models import BrightnessModel
from tests.wrappers.worlds import TASK, BrightnessWorld, FlatWorld

MODES = list(AutoresetMode)
MODEL = BrightnessModel()


def step(env: RobometerReward) -> tuple[list[float], list[bool], dict[str, Any]]:
    """Rewards, terminations and infos of one step."""
    _, rewards, terminated, _, infos = env.step(np.zeros(env.num_envs, np.int64))
    return np.asarray(rewards, np.float64).round(6).tolist(), terminated.tolist(), infos


class Tensors(FlatWorld):
    """Speaks torch, as simulators on accelerators do; the first environment is solved at the end."""

    def __init__(self, mode: AutoresetMode) -> None:
        super().__init__(mode)
        self.single_observation_space = spaces.Box(0, 255, (4, 4, 3), np.uint8)
        self.observation_space = batch_space(self.single_observation_space, 2)

    def pictures(self) -> torch.Tensor:
        return torch.full((2, 4, 4, 3), 51 * self.t, dtype=torch.uint8)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        self.t = 0
        return self.pictures(), {"success": torch.zeros(2, dtype=torch.bool)}

    def step(self, actions: Any) -> Any:
        if self.t == 2:
            return (*self.reset()[:1], torch.zeros(2), *torch.zeros((2, 2), dtype=torch.bool), {})
        self.t += 1
        done = torch.full((2,), self.t == 2)
        infos: dict[str, Any] = {"success": done & torch.tensor([True, False])}
        observations = self.pictures()
        if self.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP and bool(done.all()):
            final, final_infos = observations, infos
            observations, infos = self.reset()
            infos |= {"final_obs": final, "final_info": final_infos}
        return observations, torch.ones(2), done, torch.zeros(2, dtype=torch.bool), infos


@pytest.mark.parametrize("mode", MODES)
def test_tensors_are_read_like_arrays(mode: AutoresetMode) -> None:
    env = RobometerReward(Tensors(mode), MODEL, TASK, RewardSpec(task_weight=1.0), frames="obs")
    env.reset()
    for _ in range(2):
        assert step(env)[0] == [1.2, 1.2]
        rewards, terminated, infos = step(env)
        assert (rewards, terminated) == ([1.2, 1.2], [True, True])
        assert infos["robometer/true_success"].tolist() == [True, False]
        assert infos["robometer/episode"]["task_return"].tolist() == [2.0, 2.0]
        if mode is AutoresetMode.NEXT_STEP:
            assert step(env)[0] == [0.0, 0.0]
        elif mode is AutoresetMode.DISABLED:
            env.reset()


class Final(FlatWorld):
    """Resets in the same step, and says of the end what it is told to."""

    def __init__(self, final: dict[str, Any], form: Any = dict) -> None:
        super().__init__(AutoresetMode.SAME_STEP)
        self.single_observation_space = spaces.Box(0, 255, (4, 4, 3), np.uint8)
        self.observation_space = batch_space(self.single_observation_space, 2)
        self.final, self.form = final, form

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        self.t = 0
        return np.zeros((2, 4, 4, 3), np.uint8), self.form({})

    def step(self, actions: Any) -> Any:
        self.t = (self.t + 1) % 2
        done = np.full(2, self.t == 0)
        observations = np.full((2, 4, 4, 3), 51 * self.t, np.uint8)
        return observations, np.zeros(2), done, np.zeros(2, bool), self.form(self.final if done.all() else {})


LAST = np.full((2, 4, 4, 3), 102, np.uint8)


class TestWhatOthersSayOfTheEnd:
    @pytest.mark.parametrize(
        ("said", "success"),
        [
            ({}, None),
            ({"final_info": {}}, None),
            ({"final_info": None}, None),
            ({"final_info": {"success": np.array([True, False])}}, [True, False]),
            ({"final_info": [{"success": True}, {"success": False}]}, [True, False]),
            ({"final_info": np.array([{"success": True}, None], object)}, [True, False]),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("ends", [False, True])
    def test_of_the_last_info(self, said: dict[str, Any], success: Any, ends: bool) -> None:
        spec = RewardSpec(terminate_on_success=ends, success_threshold=1.0)
        env = RobometerReward(Final({"final_obs": LAST, **said}), MODEL, TASK, spec, frames="obs")
        env.reset()
        for _ in range(2):
            assert step(env)[0] == [0.2, 0.2]
            rewards, terminated, infos = step(env)
            assert (rewards, terminated) == ([0.2, 0.2], [True, True])
            found = infos["robometer/true_success"].tolist() if success else infos.get("robometer/true_success")
            assert found == success
            np.testing.assert_allclose(infos["final_info"]["robometer/progress"], [0.4, 0.4])

    def test_without_a_last_observation_there_is_nothing_to_score(self) -> None:
        env = RobometerReward(Final({}), MODEL, TASK, frames="obs")
        env.reset()
        step(env)
        with pytest.raises(FrameError, match=r"no 'final_obs' with its last observation.*use NEXT_STEP or DISABLED"):
            step(env)

    def test_infos_in_a_list(self) -> None:
        def listed(infos: dict[str, Any]) -> list[dict[str, Any]]:
            final = infos.get("final_obs")
            return [{} if final is None else {"final_obs": final[index], "lives": index} for index in range(2)]

        env = RobometerReward(Final({"final_obs": LAST}, listed), MODEL, TASK, frames="obs")
        env.reset()
        step(env)
        rewards, _, infos = step(env)
        assert rewards == [0.2, 0.2]
        assert infos["lives"].tolist() == [0, 1]


class TestTheAutoresetMode:
    @pytest.mark.parametrize("mode", MODES)
    def test_is_that_of_the_instance(self, mode: AutoresetMode) -> None:
        shared: dict[str, Any] = {}
        inner = FlatWorld()
        inner.metadata, inner.autoreset_mode = shared, mode  # pyright: ignore[reportAttributeAccessIssue]
        shared["autoreset_mode"] = next(other for other in MODES if other is not mode)
        env = RobometerReward(inner, MODEL, TASK, frames=lambda observation, info: np.zeros((4, 4, 3)))
        assert env.metadata["autoreset_mode"] is mode
        # Wrappers outside ask the metadata, also those that are made later.
        assert RecordEpisodeStatistics(env)._autoreset_mode is mode

    def test_is_that_of_a_wrapper_that_states_another(self) -> None:
        class Restarts(VectorWrapper[Any, Any, Any, Any, Any]):
            def __init__(self, env: Any) -> None:
                super().__init__(env)
                self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}

        inner = Restarts(SyncVectorEnv([BrightnessWorld], autoreset_mode=AutoresetMode.DISABLED))
        env = RobometerReward(inner, MODEL, TASK, frames="obs")
        assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_an_environment_that_is_no_whole_vector_environment_is_refused() -> None:
    inner = FlatWorld()
    del inner.single_observation_space
    with pytest.raises(TypeError, match=r"no single_observation_space.*SuperSuit.*use SyncVectorEnv"):
        RobometerReward(inner, MODEL, TASK)


@pytest.mark.parametrize("values", [(True, np.nan), (False, [False]), (True, None)])
def test_what_is_unknown_or_listed_in_one_environment_is_not_true_because_of_another(values: Any) -> None:
    class World(BrightnessWorld):
        def __init__(self, said: Any) -> None:
            super().__init__((0, 51))
            self.said = said

        def step(self, action: int) -> Any:
            return (*super().step(action)[:4], {"success": self.said})

    for mode in MODES:
        env = RobometerReward(
            SyncVectorEnv([partial(World, said) for said in values], autoreset_mode=mode), MODEL, TASK, frames="obs"
        )
        env.reset()
        infos = step(env)[2]
        found = [env_info(infos, index, 2).get("robometer/true_success") for index in range(2)]
        assert found == [values[0], False if values[1] == [False] else None]
