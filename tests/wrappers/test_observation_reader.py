"""What environments say, read alike by all wrappers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation, GrayscaleObservation, TransformObservation
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecTransposeImage

from robometer_rl.frames import FrameError
from robometer_rl.rewards import RewardSpec
from robometer_rl.true_success import TrueSuccessError
from robometer_rl.wrappers import (
    ActionChunk,
    AsyncVecRobometerReward,
    RenderToInfo,
    RobometerReward,
    VecRobometerReward,
)
from robometer_rl.wrappers.observation_reader import SharedBufferWarning
from robometer_rl.wrappers.sb3.callback import OutcomeCounter
from robometer_rl.wrappers.vector import RobometerReward as VectorRobometerReward
from robometer_rl.wrappers.vector_infos import env_info
from tests.fixed_models import BrightnessModel
from tests.wrappers.drivers import KINDS
from tests.wrappers.worlds import TASK, BrightnessWorld

MODEL = BrightnessModel()
UNKNOWN = None


def number(said: bool | None) -> float:
    return np.nan if said is None else float(said)


WORDS: dict[str, Callable[[bool | None], Any]] = {
    "bool": lambda said: said,
    "number": number,
    "numpy": lambda said: np.float32(number(said)),
    "list": lambda said: [said],
    "array": lambda said: np.array([number(said)]),
    "tensor": lambda said: torch.tensor(number(said), dtype=torch.bfloat16),
    "sub-goals": lambda said: {"task": said, "grasp": True},
}


class Sayer(gym.Env[Any, Any]):
    """Says after every step whether the task is done, in its own words, as scripted for every episode."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)
    render_mode = "rgb_array"

    def __init__(self, script: Sequence[bool | None], say: Callable[[bool | None], Any], key: str) -> None:
        self.script, self.say, self.key = script, say, key

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.t = 0
        # What was so before the first step does not count.
        return np.zeros(1, np.float32), {self.key: self.say(True)}

    def step(self, action: Any) -> Any:
        said = self.script[self.t]
        self.t += 1
        return np.zeros(1, np.float32), 1.0, False, self.t == len(self.script), {self.key: self.say(said)}

    def render(self) -> Any:
        return np.full((4, 4, 3), 10 * self.t, np.uint8)


def outcomes(kind: str, makes: list[Callable[[], Any]], action: Any, steps: int, **kwargs: Any) -> list[Any]:
    """What is said at the first end of an episode in each environment."""
    found: dict[int, Any] = {}
    arguments = {"model": MODEL, "task": TASK, **kwargs}
    if kind == "scalar":
        for index, make in enumerate(makes):
            env = RobometerReward(make(), **arguments)
            env.reset()
            over = False
            while not over:
                _, _, terminated, truncated, info = env.step(action)
                over = terminated or truncated
            found[index] = info.get("robometer/true_success")  # pyright: ignore[reportPossiblyUnboundVariable]
        return [found[index] for index in range(len(makes))]
    actions = np.stack([action] * len(makes))
    if kind == "sb3":
        venv = VecRobometerReward(DummyVecEnv([lambda make=make: RenderToInfo(make()) for make in makes]), **arguments)
        venv.reset()
        for _ in range(steps):
            _, _, dones, infos = venv.step(actions)
            for index in np.flatnonzero(dones).tolist():
                found.setdefault(index, infos[index].get("robometer/true_success"))
        return [found[index] for index in range(len(makes))]
    mode = AutoresetMode[kind.upper()]
    envs: Any = SyncVectorEnv([lambda make=make: RenderToInfo(make()) for make in makes], autoreset_mode=mode)
    envs = VectorRobometerReward(envs, **arguments)
    envs.reset()
    for _ in range(2 * steps):
        _, _, terminated, truncated, infos = envs.step(actions)
        for index in np.flatnonzero(terminated | truncated).tolist():
            found.setdefault(index, env_info(infos, index, len(makes)).get("robometer/true_success"))
        if mode is AutoresetMode.DISABLED and (terminated | truncated).any():
            envs.reset(options={"reset_mask": terminated | truncated})
    return [found[index] for index in range(len(makes))]


def truth(script: Sequence[bool | None]) -> bool | None:
    return UNKNOWN if all(said is UNKNOWN for said in script) else any(script)


SCRIPT = st.lists(st.sampled_from([True, False, UNKNOWN]), min_size=1, max_size=5)


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    scripts=st.lists(SCRIPT, min_size=2, max_size=3),
    words=st.lists(st.sampled_from(list(WORDS)), min_size=3, max_size=3),
    key=st.sampled_from(["is_success", "success", "opened"]),
    chunk=st.integers(0, 3),
)
def test_success_counts_after_any_step_in_any_words(
    kind: str, scripts: list[list[bool | None]], words: list[str], key: str, chunk: int
) -> None:
    success_key = key if key == "opened" else None

    def make(script: list[bool | None], word: str) -> gym.Env[Any, Any]:
        env = Sayer(script, WORDS[word], key)
        return ActionChunk(env, chunk, success_key=success_key) if chunk else env

    makes = [partial(make, script, word) for script, word in zip(scripts, words, strict=False)]
    action: Any = np.zeros(chunk, np.int64) if chunk else np.int64(0)
    assert outcomes(kind, makes, action, 6, success_key=success_key) == [truth(script) for script in scripts]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [{"grasp": True}, [True, False], [], "True", 0.5, 3, torch.tensor([1, 0])])
def test_what_is_neither_true_nor_false_names_the_environment_and_the_key(kind: str, value: Any) -> None:
    makes = [partial(Sayer, [False, False], lambda _, said=said: said, "success") for said in (False, value)]
    index = 0 if kind == "scalar" else 1
    with pytest.raises(TrueSuccessError, match=rf"environment {index}: info\['success'\].*Give success_key="):
        outcomes(kind, makes, np.int64(0), 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_success_key_that_never_appears_is_an_error(kind: str) -> None:
    make = partial(Sayer, [True], lambda said: said, "success")
    with pytest.raises(KeyError, match="has no success_key 'opened'"):
        outcomes(kind, [make], np.int64(0), 1, success_key="opened")


@settings(max_examples=40, deadline=None)
@given(script=SCRIPT, bright=st.lists(st.booleans(), min_size=5, max_size=5), size=st.integers(1, 4))
def test_the_outcome_of_an_episode_does_not_depend_on_chunks(
    script: list[bool | None], bright: list[bool], size: int
) -> None:
    class World(Sayer):
        def render(self) -> Any:
            return np.full((4, 4, 3), 250 if self.t and bright[self.t - 1] else 0, np.uint8)

    def outcome(chunk: int) -> Any:
        env: Any = RobometerReward(
            World([False, *script], WORDS["bool"], "success"), MODEL, TASK, RewardSpec(patience=1)
        )
        env = ActionChunk(env, chunk) if chunk else env
        venv, counter, found = DummyVecEnv([lambda: env]), OutcomeCounter(1), None
        venv.reset()
        while found is None:
            _, _, dones, infos = venv.step([np.zeros(chunk, np.int64) if chunk else 0])  # pyright: ignore[reportArgumentType]
            found = counter.step(0, infos[0], bool(dones[0]))
        return found.true_success, found.predicted_success, found.length

    bright = [False, *bright]
    expected = (any(script), any(bright[: len(script) + 1]), len(script) + 1)
    assert outcome(0) == expected
    assert outcome(size) == expected


class Webcam(BrightnessWorld):
    """Draws its observations, and what is in its info, into one buffer each."""

    def __init__(self, levels: Sequence[int] = (0, 85, 170, 255)) -> None:
        super().__init__(levels, terminates=False)
        self.picture = np.zeros((8, 8, 3), np.uint8)

    def _image(self) -> Any:
        self.picture[:] = super()._image()
        return self.picture

    def step(self, action: int) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "camera": self.picture}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, info = super().reset(seed=seed)
        return observation, {**info, "camera": self.picture}


class TestBuffers:
    @staticmethod
    def paid(kind: str, make: Callable[[], Any], frames: Any, steps: int = 6, **kwargs: Any) -> list[float]:
        arguments: dict[str, Any] = {"model": MODEL, "task": TASK, "frames": frames, **kwargs}
        if kind in ("sb3", "asynchronous"):
            wrapper = VecRobometerReward if kind == "sb3" else AsyncVecRobometerReward
            env: Any = wrapper(DummyVecEnv([make]), **arguments)
        elif kind == "scalar":
            env = RobometerReward(make(), **arguments)
        else:
            env = VectorRobometerReward(SyncVectorEnv([make], autoreset_mode=AutoresetMode[kind.upper()]), **arguments)
        env.reset()
        rewards = []
        for _ in range(steps):
            answer = env.step(0 if kind == "scalar" else np.zeros(1, np.int64))
            if kind == "asynchronous":
                pending = answer[3][0]["robometer/pending"]
                pending.claimed = True
                rewards.append(pending.wait()[0])
                continue
            rewards.append(np.squeeze(answer[1]))
            if kind in ("scalar", "disabled") and np.any(answer[3]):
                env.reset()
        return np.round(rewards, 3).tolist()

    @pytest.mark.parametrize("frames", ["obs", "info/camera", lambda observation, info: observation])
    @pytest.mark.parametrize("kind", [*KINDS, "asynchronous"])
    def test_a_last_frame_that_was_drawn_over_is_warned_about_once(self, kind: str, frames: Any) -> None:
        # Gymnasium has copied arrays in infos before the reset.
        if kind in ("scalar", "next_step", "disabled") or (kind == "same_step" and frames == "info/camera"):
            with warnings.catch_warnings():
                warnings.simplefilter("error", SharedBufferWarning)
                rewards = self.paid(kind, Webcam, frames)
            assert sorted(rewards)[-4:] == [0.333] * 4
            return
        with pytest.warns(SharedBufferWarning, match="buffer") as caught:
            self.paid(kind, Webcam, frames)
        assert len(caught) == 1

    @pytest.mark.parametrize("kind", ["same_step", "sb3", "asynchronous"])
    def test_copies_are_paid_rightly_and_without_a_word(self, kind: str) -> None:
        def make() -> gym.Env[Any, Any]:
            env = Webcam()
            return TransformObservation(env, np.copy, env.observation_space)

        with warnings.catch_warnings():
            warnings.simplefilter("error", SharedBufferWarning)
            assert self.paid(kind, make, "obs") == [0.333] * 6
            assert self.paid(kind, lambda: RenderToInfo(Webcam()), "render") == [0.333] * 6

    @pytest.mark.parametrize("kind", ["same_step", "sb3"])
    def test_an_episode_that_predicted_success_ends_is_kept_before_the_reset_draws(self, kind: str) -> None:
        spec = RewardSpec(terminate_on_success=True, patience=1, success_threshold=0.4)  # at 170
        with warnings.catch_warnings():
            warnings.simplefilter("error", SharedBufferWarning)
            assert self.paid(kind, Webcam, "obs", reward=spec) == [0.333] * 6


def stack(env: gym.Env[Any, Any], depth: int = 3) -> gym.Env[Any, Any]:
    return FrameStackObservation(GrayscaleObservation(env), depth)


class TestStacks:
    """Three grey frames on top of each other have the shape of a colour image."""

    WORLD = partial(BrightnessWorld, (0, 50, 100, 150), shape=(16, 16, 3))

    def build(self, kind: str) -> Any:
        make = lambda: stack(self.WORLD())  # noqa: E731
        arguments: dict[str, Any] = {"model": MODEL, "task": TASK, "frames": "obs"}
        if kind == "scalar":
            return RobometerReward(make(), **arguments)
        if kind in ("sync", "async"):
            base: Any = SyncVectorEnv([make]) if kind == "sync" else AsyncVectorEnv([make])
            return VectorRobometerReward(base, **arguments)
        if kind == "inside sb3":
            return VecRobometerReward(DummyVecEnv([make]), **arguments)
        grey = DummyVecEnv([lambda: GrayscaleObservation(self.WORLD(), keep_dim=True)])
        stacked = VecFrameStack(grey, 3)
        return VecRobometerReward(VecTransposeImage(stacked) if kind == "transposed" else stacked, **arguments)

    @pytest.mark.parametrize("kind", ["scalar", "sync", "async", "inside sb3", "around sb3", "transposed"])
    def test_known_stacks_are_refused_when_the_wrapper_is_made(self, kind: str) -> None:
        with pytest.raises(FrameError, match="several frames on top of each other"):
            self.build(kind)

    def test_colour_that_was_taken_from_a_stack_is_welcome(self) -> None:
        stacked = FrameStackObservation(self.WORLD(), 4)
        newest = TransformObservation(stacked, lambda frames: frames[-1], self.WORLD().observation_space)
        env = RobometerReward(newest, MODEL, TASK, frames="obs")
        env.reset()
        assert env.step(0)[1] == pytest.approx(50 / 255)

    @pytest.mark.parametrize("axis", [0, -1])
    def test_others_are_recognised_by_what_they_show(self, axis: int) -> None:
        shown: list[Any] = []

        def stacked(observation: Any, info: Any) -> Any:
            shown.append(observation[..., 0])
            return np.stack((shown[:1] * 2 + shown)[-3:], axis)

        env = RobometerReward(self.WORLD(), MODEL, TASK, frames=stacked)
        env.reset()
        with pytest.raises(FrameError, match=r"environment 0, frames=.*three grey frames one after the other"):
            env.step(0)

    def test_grey_pictures_in_three_channels_are_no_stack(self) -> None:
        env = RobometerReward(self.WORLD(), MODEL, TASK, frames="obs")
        env.reset()
        for expected in (50, 50, 50):
            assert env.step(0)[1] == pytest.approx(expected / 255)
