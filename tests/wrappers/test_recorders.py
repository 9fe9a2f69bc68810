"""Recorders inside the reward wrappers know of every episode, whoever has ended it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics
from gymnasium.wrappers.vector import RecordEpisodeStatistics as VectorRecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecMonitor

from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers import RobometerReward, VecRobometerReward
from robometer_rl.wrappers.vector import RobometerReward as VectorRobometerReward
from robometer_rl.wrappers.vector_infos import env_info
from tests.fixed_models import PixelModel
from tests.wrappers.worlds import TASK, NoiseWorld

MODES = list(AutoresetMode)
SPEC = RewardSpec(success_threshold=0.7, patience=1, terminate_on_success=True)
ARGUMENTS: dict[str, Any] = {"task": TASK, "reward": SPEC, "frames": "obs/image"}
SINGLE = {"monitor": Monitor, "statistics": RecordEpisodeStatistics}
Ends = list[tuple[int, dict[str, Any]]]


def world(wrapper: Callable[[Any], Any] | None = None) -> gym.Env[Any, Any]:
    return NoiseWorld() if wrapper is None else wrapper(NoiseWorld())


def play_scalar(env: RobometerReward[Any, Any], steps: int, seed: int) -> Ends:
    """The environment and the info of every end of an episode."""
    ends: Ends = []
    env.reset(seed=seed)
    for _ in range(steps):
        _, _, terminated, truncated, info = env.step(0)
        if terminated or truncated:
            ends.append((0, info))
            env.reset()
    return ends


def play_vector(env: VectorRobometerReward[Any, Any], steps: int, seed: int, masks: Any = None) -> Ends:
    """Likewise; under SAME_STEP the info is that of the end, with what a recorder around all environments adds."""
    ends: Ends = []
    mode = env.metadata["autoreset_mode"]
    env.reset(seed=seed)
    for number in range(steps):
        _, _, terminated, truncated, infos = env.step(np.zeros(env.num_envs, np.int64))
        done = terminated | truncated
        for index in np.flatnonzero(done).tolist():
            info = env_info(infos, index, env.num_envs)
            if mode is AutoresetMode.SAME_STEP:
                info = {key: info[key] for key in ("episode",) if key in info} | info["final_info"]
            ends.append((index, info))
        for key in ("episode", "_episode"):
            # Nobody is said to have ended an episode who has not.
            assert key != "_episode" or key not in infos or not (infos[key] & ~done).any()
        if mode is AutoresetMode.DISABLED and done.any():
            env.reset(options={"reset_mask": done})
        elif masks is not None and masks[number].any():
            env.reset(options={"reset_mask": masks[number]})
    return ends


def play_sb3(env: VecRobometerReward, steps: int, seed: int) -> Ends:
    ends: Ends = []
    env.seed(seed)
    env.reset()
    for _ in range(steps):
        _, _, dones, infos = env.step(np.zeros(env.num_envs, np.int64))
        ends += [(index, infos[index]) for index in np.flatnonzero(dones).tolist()]
        assert not any("episode" in info for info, done in zip(infos, dones, strict=True) if not done)
    return ends


def check(ends: Ends) -> list[tuple[float, int]]:
    """Every entry is that of its episode, and both kinds of ends have been seen; returns and lengths, in order."""
    for _, info in ends:
        ours = info["robometer/episode"]
        assert (info["episode"]["r"], info["episode"]["l"]) == (ours["task_return"], ours["length"])
        assert 0 <= info["episode"]["t"] < 300
    assert {info["robometer/success_detected"] for _, info in ends} == {False, True}
    return [(info["robometer/episode"]["task_return"], info["robometer/episode"]["length"]) for _, info in ends]


def of(ends: Ends, index: int) -> Ends:
    return [end for end in ends if end[0] == index]


def check_monitor(read: Callable[[str], Any], episodes: list[tuple[float, int]]) -> None:
    assert list(zip(read("episode_returns"), read("episode_lengths"), strict=True)) == episodes
    assert len(read("episode_times")) == len(episodes)


def check_statistics(read: Callable[[str], Any], episodes: list[tuple[float, int]]) -> None:
    assert read("episode_count") == len(episodes)
    kept = episodes[-100:]
    assert list(zip(read("return_queue"), read("length_queue"), strict=True)) == kept
    assert len(read("time_queue")) == len(kept)


CHECKS = {"monitor": check_monitor, "statistics": check_statistics}


@pytest.mark.parametrize("recorder", SINGLE)
class TestAroundOneEnvironment:
    def test_scalar(self, recorder: str) -> None:
        env = world(SINGLE[recorder])
        ends = play_scalar(RobometerReward(env, PixelModel(), **ARGUMENTS), 150, seed=0)
        CHECKS[recorder](partial(getattr, env), check(ends))

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
    def test_vector(self, recorder: str, kind: Any, mode: AutoresetMode) -> None:
        env = kind([partial(world, SINGLE[recorder])] * 3, autoreset_mode=mode)
        ends = play_vector(VectorRobometerReward(env, PixelModel(), **ARGUMENTS), 150, seed=0)
        check(ends)
        for index in range(3):
            CHECKS[recorder](lambda name, index=index: env.get_attr(name)[index], check(of(ends, index)))
        env.close()

    @pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
    def test_sb3(self, recorder: str, kind: Any) -> None:
        env = kind([partial(world, SINGLE[recorder])] * 3)
        ends = play_sb3(VecRobometerReward(env, PixelModel(), **ARGUMENTS), 150, seed=0)
        for index in range(3):
            CHECKS[recorder](lambda name, index=index: env.get_attr(name, [index])[0], check(of(ends, index)))
        env.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_statistics_around_a_vector_environment(kind: Any, mode: AutoresetMode) -> None:
    inside: VectorEnv[Any, Any, Any] = kind([world] * 3, autoreset_mode=mode)
    recorder = VectorRecordEpisodeStatistics(inside)
    ends = play_vector(VectorRobometerReward(recorder, PixelModel(), **ARGUMENTS), 90, seed=0)
    # Of one step it knows first the episodes that have ended by themselves.
    assert recorder.episode_count == len(ends)
    assert sorted(zip(recorder.return_queue, recorder.length_queue, strict=True)) == sorted(check(ends)[-100:])
    inside.close()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    mode=st.sampled_from([AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]),
    masks=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=40, max_size=40),
    batched=st.booleans(),
)
def test_partial_resets_by_the_caller_leave_the_counts_of_others_alone(
    seed: int, mode: AutoresetMode, masks: list[list[bool]], batched: bool
) -> None:
    make = world if batched else partial(world, RecordEpisodeStatistics)
    env: Any = SyncVectorEnv([make] * 3, autoreset_mode=mode)
    env = VectorRecordEpisodeStatistics(env) if batched else env
    thinned = np.array(masks) & (np.arange(40) % 3 == 0)[:, None]
    for _, info in play_vector(VectorRobometerReward(env, PixelModel(), **ARGUMENTS), 40, seed, thinned):
        ours = info["robometer/episode"]
        assert (info["episode"]["r"], info["episode"]["l"]) == (ours["task_return"], ours["length"])


def read_file(path: Path) -> list[tuple[float, int]]:
    # Below a line of JSON, as Stable-Baselines3's load_results reads it through pandas.
    rows = csv.DictReader(path.read_text().splitlines()[1:])
    return [(float(row["r"]), int(row["l"])) for row in rows]


class TestFiles:
    @pytest.mark.parametrize("kind", ["scalar", *MODES, "sb3"])
    def test_of_a_monitor_in_this_process(self, tmp_path: Path, kind: Any) -> None:
        make = partial(world, lambda env: Monitor(env, str(tmp_path / "log"), info_keywords=("number",)))
        if kind == "scalar":
            env: Any = RobometerReward(make(), PixelModel(), **ARGUMENTS)
            ends = play_scalar(env, 100, seed=0)
        elif kind == "sb3":
            env = VecRobometerReward(DummyVecEnv([make, world]), PixelModel(), **ARGUMENTS)
            ends = play_sb3(env, 100, seed=0)
        else:
            env = VectorRobometerReward(SyncVectorEnv([make, world], autoreset_mode=kind), PixelModel(), **ARGUMENTS)
            ends = play_vector(env, 100, seed=0)
        env.close()
        assert read_file(tmp_path / "log.monitor.csv") == check(of(ends, 0))

    def test_of_a_vec_monitor_around(self, tmp_path: Path) -> None:
        env: VecEnv = VecMonitor(DummyVecEnv([world] * 2), str(tmp_path / "log"))
        wrapped = VecRobometerReward(env, PixelModel(), **ARGUMENTS)
        episodes = check(play_sb3(wrapped, 100, seed=0))
        wrapped.close()
        assert sorted(read_file(tmp_path / "log.monitor.csv")) == sorted(episodes)


def test_two_recorders_in_one_environment_are_both_told() -> None:
    inner = RecordEpisodeStatistics(NoiseWorld(), stats_key="inner")
    outer = Monitor(inner)
    ends = play_scalar(RobometerReward(outer, PixelModel(), **ARGUMENTS), 150, seed=0)
    episodes = check(ends)
    check_monitor(partial(getattr, outer), episodes)
    check_statistics(partial(getattr, inner), episodes)
    assert [(info["inner"]["r"], info["inner"]["l"]) for _, info in ends] == episodes


@pytest.mark.parametrize("kind", ["vector", "sb3"])
def test_two_recorders_in_a_worker_cannot_be_told_apart(kind: str) -> None:
    makers = [partial(world, lambda env: Monitor(RecordEpisodeStatistics(env)))]
    env: Any = AsyncVectorEnv(makers) if kind == "vector" else SubprocVecEnv(makers)  # pyright: ignore[reportArgumentType]
    wrapper: Any = VectorRobometerReward if kind == "vector" else VecRobometerReward
    try:
        with pytest.raises(ValueError, match="cannot be told apart"):
            wrapper(env, PixelModel(), **ARGUMENTS)
        # Without episodes that end early nobody needs to be told.
        wrapper(env, PixelModel(), TASK, frames="obs/image")
    finally:
        env.close()


def test_a_recorder_that_was_made_for_another_autoreset_mode_is_refused() -> None:
    env = SyncVectorEnv([world], autoreset_mode=AutoresetMode.SAME_STEP)
    env.metadata["autoreset_mode"] = AutoresetMode.NEXT_STEP
    recorder = VectorRecordEpisodeStatistics(env)
    with pytest.raises(ValueError, match="counts episodes as under autoreset_mode NEXT_STEP"):
        VectorRobometerReward(recorder, PixelModel(), **ARGUMENTS)
