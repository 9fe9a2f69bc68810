"""What the recording wrappers write is what the environments showed, in every autoreset mode and order of resets."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from robometer_rl.data.store import StoreError, TrajectoryStore
from robometer_rl.data.trajectory import Trajectory
from robometer_rl.frames import FrameError, TaskError
from robometer_rl.rewards import RewardSpec
from robometer_rl.true_success import TrueSuccessError
from robometer_rl.wrappers import (
    RecordTrajectories,
    RenderToInfo,
    RobometerReward,
    TaskStages,
    Tiles,
    VecRecordTrajectories,
)
from robometer_rl.wrappers.measurements import MeasurementError
from robometer_rl.wrappers.tasks import TaskFromAttribute, TaskFromInfo
from robometer_rl.wrappers.vector import RecordTrajectories as VectorRecordTrajectories
from robometer_rl.wrappers.vector import env_info
from tests.fixed_models import BrightnessModel
from tests.wrappers.drivers import KINDS, make_world
from tests.wrappers.worlds import TASK, BrightnessWorld, NoiseEpisode, NoiseWorld


def number_of(observation: Any, info: Mapping[str, Any]) -> list[int]:
    """The number of an episode in two halves, which float32 holds exactly, and the step."""
    return [*divmod(int(info["number"]), 2**16), int(info["t"])]


STATE = {"number": number_of, "vector": "obs/state"}


@dataclass
class Player:
    """Plays one kind of wrapper; ``ended`` lists the numbers of the episodes that ended, by environment."""

    kind: str
    env: Any
    num_envs: int
    ended: list[int] = field(default_factory=list)
    over: set[int] = field(default_factory=set)

    def reset(self, seed: int | None = None, mask: NDArray[np.bool_] | None = None) -> None:
        if self.kind == "scalar":
            for index, env in enumerate(self.env):
                if mask is None or mask[index]:
                    env.reset(seed=None if seed is None else seed + index)
        elif self.kind == "sb3":
            if seed is not None:
                self.env.seed(seed)
            self.env.reset()
        else:
            self.env.reset(seed=seed, options=None if mask is None else {"reset_mask": mask})
        self.over -= set(range(self.num_envs)) if mask is None else set(np.flatnonzero(mask).tolist())

    def step(self, actions: Sequence[int] | None = None) -> None:
        chosen = np.zeros(self.num_envs, np.int64) if actions is None else np.array(actions)
        if self.kind == "scalar":
            for env, action in zip(self.env, chosen.tolist(), strict=True):
                *_, terminated, truncated, info = env.step(action)
                if terminated or truncated:
                    self.ended.append(info["number"])
                    env.reset()
        elif self.kind == "sb3":
            _, _, dones, infos = self.env.step(chosen)
            self.ended += [info["number"] for info, done in zip(infos, dones, strict=True) if done]
        else:
            self._step_vector(chosen)

    def _step_vector(self, actions: NDArray[np.int64]) -> None:
        _, _, terminated, truncated, infos = self.env.step(actions)
        done = terminated | truncated
        for index in np.flatnonzero(done).tolist():
            info = env_info(infos, index, self.num_envs)
            self.ended.append((info["final_info"] if self.kind == "same_step" else info)["number"])
        if self.kind == "disabled" and done.any():
            self.env.reset(options={"reset_mask": done})

    def close(self) -> None:
        for env in self.env if self.kind == "scalar" else [self.env]:
            env.close()


def make_player(kind: str, num_envs: int, store: Any, task: Any = TASK, every: int = 1, **options: Any) -> Player:
    needs_frames = options.get("frames", "render") == "render" and kind in ("same_step", "sb3")
    make: Callable[[], Any] = partial(make_world, every if needs_frames else None)
    options = {"state": STATE, "every": every, **options}
    if kind == "scalar":
        store = TrajectoryStore(store)
        return Player(kind, [RecordTrajectories(make(), store, task, **options) for _ in range(num_envs)], num_envs)
    if kind == "sb3":
        return Player(kind, VecRecordTrajectories(DummyVecEnv([make] * num_envs), store, task, **options), num_envs)
    envs = SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode[kind.upper()])
    return Player(kind, VectorRecordTrajectories(envs, store, task, **options), num_envs)


def episode_of(trajectory: Trajectory, size: int = 8) -> NoiseEpisode:
    assert trajectory.state is not None
    high, low = trajectory.state[0, :2].astype(int).tolist()
    return NoiseEpisode(high * 2**16 + low, 9, size)


def check(trajectory: Trajectory, every: int, camera: str = "render", task: str | None = TASK) -> int:
    """Compares a recording with the episode that it is of; returns the episode's number."""
    episode = episode_of(trajectory)
    steps = np.unique([*range(0, episode.length, every), episode.length])
    assert trajectory.steps.tolist() == steps.tolist()
    assert trajectory.state[:, 2].tolist() == steps.tolist()
    np.testing.assert_array_equal(trajectory.frames[:], np.stack([episode.frame(t, camera) for t in steps]))
    assert trajectory.task == (episode.task if task is None else task)
    assert trajectory.quality_label == ("successful" if episode.success else "failure")
    assert trajectory.success.tolist() == [episode.success and step > 0 for step in steps]
    expected = sum(episode.task_reward(t + 1) for t in range(episode.length))
    assert trajectory.metadata["return"] == pytest.approx(expected)
    if trajectory.seed is not None:
        assert episode.number == int(np_random(trajectory.seed)[0].integers(2**31))
    return episode.number


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(KINDS), every=st.integers(1, 4))
def test_any_order_of_steps_and_resets(data: st.DataObject, kind: str, every: int) -> None:
    num_envs = data.draw(st.integers(1, 3), label="num_envs")
    frames = data.draw(st.sampled_from(["render", "obs/image", "info/wrist"]), label="frames")
    seed = data.draw(st.one_of(st.none(), st.integers(0, 1000)), label="seed")
    masks = st.lists(st.booleans(), min_size=num_envs, max_size=num_envs).filter(any)
    moves = data.draw(st.lists(st.one_of(st.none(), st.none(), st.none(), masks), max_size=25), label="resets")
    with tempfile.TemporaryDirectory() as folder:
        player = make_player(kind, num_envs, Path(folder) / "store", every=every, frames=frames)
        player.reset(seed)
        for mask in moves:
            if mask is None:
                player.step()
            elif kind == "sb3" or all(mask):
                player.reset()
            else:
                player.reset(mask=np.array(mask))
        player.close()
        store = TrajectoryStore(Path(folder) / "store")
        recorded = store if player.ended else []
        assert Counter(check(trajectory, every, frames) for trajectory in recorded) == Counter(player.ended)
        assert len(store) == len(player.ended)


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_record_the_same(kind: str, tmp_path: Path) -> None:
    player = make_player(kind, 2, tmp_path / "store", skill="random", every=2)
    player.reset(seed=4)
    for _ in range(30):
        player.step()
    player.close()
    store = TrajectoryStore.open(tmp_path / "store")
    firsts = {trajectory.id for trajectory in store if trajectory.seed is not None}
    assert firsts == {f"NoiseWorld-open_the_drawer-random-train-seed{seed}" for seed in (4, 5)}
    assert "NoiseWorld-open_the_drawer-random-train-seed4.1" in store
    found = store["NoiseWorld-open_the_drawer-random-train-seed4"]
    assert (found.skill, found.seed, found.split, found.data_source) == ("random", 4, "train", "NoiseWorld")
    assert found.metadata["frame_interval"] == 2
    assert found.actions is None, "an action no longer leads from a frame to the next"
    assert found.metadata["state_parts"] == {"number": [0, 3], "vector": [3, 5]}


@pytest.mark.parametrize("kind", KINDS)
def test_actions_are_those_that_led_to_each_frame(kind: str, tmp_path: Path) -> None:
    player = make_player(kind, 2, tmp_path / "store")
    player.reset(seed=4)
    for step in range(40):
        player.step([(step // 3 + index) % 2 for index in range(2)])
    player.close()
    store = TrajectoryStore.open(tmp_path / "store")
    assert len(store) >= 4
    for index in range(2):
        found = store[f"NoiseWorld-open_the_drawer-run-train-seed{4 + index}"]
        assert found.metadata["discrete_actions"] == 2
        # It is the first episode of its environment, so its steps are those of the player.
        assert found.actions[:, 0].tolist() == [(step // 3 + index) % 2 for step in range(len(found) - 1)]
    for each in store:
        assert each.actions.shape == (len(each) - 1, 1)


@pytest.mark.parametrize("task", [TaskFromInfo("instruction"), TaskFromAttribute("instruction")], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_task_of_each_episode(kind: str, task: Any, tmp_path: Path) -> None:
    player = make_player(kind, 2, tmp_path / "store", task, frames="obs/image")
    player.reset(seed=0)
    for _ in range(30):
        player.step()
    store = TrajectoryStore.open(tmp_path / "store")
    assert len({check(trajectory, 1, "obs/image", None) for trajectory in store}) == len(player.ended) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_that_was_interrupted_goes_on(kind: str, tmp_path: Path) -> None:
    def play(steps: int) -> TrajectoryStore:
        player = make_player(kind, 2, tmp_path / "store")
        player.reset(seed=0)
        for _ in range(steps):
            player.step()
        return TrajectoryStore.open(tmp_path / "store")

    some = play(12).ids()
    everything = play(25)
    assert 0 < len(some) < len(everything)
    assert set(some) < set(everything.ids())
    numbers = [check(trajectory, 1) for trajectory in everything]
    assert len(set(numbers)) == len(numbers)


class TestSeeds:
    def record(self, store: Path, seeds: list[int], **options: Any) -> list[int]:
        """Returns the seeds that were played."""
        env = RecordTrajectories(NoiseWorld(), store, TASK, **options)
        played = []
        for seed in seeds:
            if env.is_recorded(seed):
                continue
            played.append(seed)
            env.reset(seed=seed)
            while not any(env.step(0)[2:4]):
                pass
        env.close()
        return played

    def test_those_that_are_there_are_known(self, tmp_path: Path) -> None:
        assert self.record(tmp_path / "a", [3, 4]) == [3, 4]
        assert self.record(tmp_path / "a", [3, 4, 5]) == [5]
        assert self.record(tmp_path / "a", [3], skill="other") == [3]
        assert self.record(tmp_path / "a", [3], split="test") == [3]
        found = TrajectoryStore.open(tmp_path / "a")
        assert {(t.skill, t.split) for t in found if t.seed == 3} == {
            (None, "train"),
            ("other", "train"),
            (None, "test"),
        }
        assert len(found) == 5

    def test_twice_in_one_program_is_said(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        env = RecordTrajectories(NoiseWorld(), tmp_path / "a", TASK)
        for _ in range(2):
            env.reset(seed=0)
            while not any(env.step(0)[2:4]):
                pass
        assert "seed0 is recorded already, and not again: give another seed, or name the skill" in caplog.text
        assert len(env.store) == 1

    def test_without_a_seed_everything_is_new(self, tmp_path: Path) -> None:
        for _ in range(2):
            env = RecordTrajectories(NoiseWorld(), tmp_path / "a", TASK)
            for _ in range(2):
                env.reset()
                while not any(env.step(0)[2:4]):
                    pass
        assert len(TrajectoryStore.open(tmp_path / "a")) == 4

    def test_a_list_of_seeds(self, tmp_path: Path) -> None:
        envs = SyncVectorEnv([NoiseWorld] * 2)
        env = VectorRecordTrajectories(envs, tmp_path / "a", TASK, frames="obs/image", state=STATE)
        env.reset(seed=[7, None])
        for _ in range(30):
            env.step(np.zeros(2, np.int64))
        assert [trajectory.seed for trajectory in env.store if trajectory.seed is not None] == [7]

    def test_the_skill_may_change_between_episodes(self, tmp_path: Path) -> None:
        env = RecordTrajectories(NoiseWorld(), tmp_path / "a", TASK, skill="expert")
        for skill in ("expert", "random"):
            env.skill = skill
            env.reset(seed=0)
            while not any(env.step(0)[2:4]):
                pass
        assert [trajectory.skill for trajectory in env.store] == ["expert", "random"]


def test_an_episode_that_is_broken_off_is_not_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    env = RecordTrajectories(BrightnessWorld(), tmp_path / "a", TASK)
    env.reset(seed=0)
    env.reset(seed=1)
    assert caplog.text == ""
    env.step(0)
    env.reset(seed=2)
    assert "an episode of seed1 was broken off after 1 steps or more and is not recorded" in caplog.text
    env.step(0)
    env.close()
    assert "an episode of seed2" in caplog.text
    assert not (tmp_path / "a").exists()


def test_where_the_store_is_and_what_it_holds_is_said_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    env = RecordTrajectories(BrightnessWorld(), tmp_path / "a", TASK)
    env.reset(seed=0)
    while not any(env.step(0)[2:4]):
        pass
    env.close()
    assert f"{tmp_path / 'a'} holds 1 trajectories, 1 of them new" in caplog.text


def test_only_frames_that_are_kept_are_rendered(tmp_path: Path) -> None:
    world = BrightnessWorld(range(0, 250, 20))
    env = RecordTrajectories(world, tmp_path / "a", TASK, every=5)
    env.reset(seed=0)
    while not any(env.step(0)[2:4]):
        pass
    assert world.renders == 4
    (trajectory,) = env.store
    assert trajectory.frames[:][:, 0, 0, 0].tolist() == [0, 100, 200, 240]
    assert trajectory.success.tolist() == [False, False, False, True]


class ReportsDistance(gym.Wrapper[Any, Any, Any, Any]):
    """Overwrites one array with what is left to do, in every info."""

    left = np.zeros(1)

    def reset(self, **arguments: Any) -> Any:
        observation, info = self.env.reset(**arguments)
        self.left[:] = 5
        return observation, {**info, "left": self.left, "done": 0.0}

    def step(self, action: Any) -> Any:
        *rest, info = self.env.step(action)
        self.left -= 1
        return *rest, {**info, "left": self.left, "done": 1 - self.left[0] / 5}


def test_what_the_simulator_measures(tmp_path: Path) -> None:
    env = ReportsDistance(BrightnessWorld())
    env = RecordTrajectories(env, tmp_path / "a", TASK, state="info/left", distance="info/left", progress="info/done")
    env.reset(seed=0)
    while not any(env.step(0)[2:4]):
        pass
    (trajectory,) = env.store
    assert trajectory.distance.tolist() == [5, 4, 3, 2, 1, 0]
    assert trajectory.progress == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert trajectory.state.tolist() == [[5], [4], [3], [2], [1], [0]]


@pytest.mark.parametrize(("shape", "size", "expected"), [((40, 60, 3), 20, (20, 30)), ((40, 20, 3), 32, (40, 20))])
def test_frames_are_shrunk_and_never_enlarged(
    shape: tuple[int, ...], size: int, expected: tuple[int, int], tmp_path: Path
) -> None:
    env = RecordTrajectories(BrightnessWorld(shape=shape), tmp_path / "a", TASK, size=size)
    env.reset(seed=0)
    while not any(env.step(0)[2:4]):
        pass
    (trajectory,) = env.store
    assert trajectory.frames.shape == (6, *expected, 3)
    assert trajectory.frames[:][:, 0, 0, 0].tolist() == [0, 51, 102, 153, 204, 255]


def test_cameras_are_recorded_in_one_picture(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    world = ReportsDistance(BrightnessWorld(shape=(16, 16, 3)))
    env = RecordTrajectories(world, tmp_path / "a", TASK, frames=Tiles("render", lambda observation, info: observation))
    env.reset(seed=0)
    while not any(env.step(0)[2:4]):
        pass
    (trajectory,) = env.store
    assert trajectory.tiled
    assert trajectory.frames.shape == (6, 24, 16, 3)


def test_worker_processes(tmp_path: Path) -> None:
    make = partial(make_world, 1)
    envs = AsyncVectorEnv([make] * 2)
    vector = VectorRecordTrajectories(envs, tmp_path / "vector", TASK, state=STATE)
    venv = VecRecordTrajectories(SubprocVecEnv([make] * 2), tmp_path / "sb3", TASK, state=STATE)
    vector.reset(seed=0)
    venv.seed(0)
    venv.reset()
    for _ in range(12):
        vector.step(np.zeros(2, np.int64))
        venv.step(np.zeros(2, np.int64))
    vector.close()
    venv.close()
    for name in ("vector", "sb3"):
        store = TrajectoryStore.open(tmp_path / name)
        assert {check(trajectory, 1) for trajectory in store if trajectory.seed == 0} == {
            int(np_random(0)[0].integers(2**31))
        }
        for trajectory in store:
            check(trajectory, 1)


def test_the_environment_is_passed_on_as_it_is(tmp_path: Path) -> None:
    world = NoiseWorld()
    env = RecordTrajectories(world, tmp_path / "a", TASK)
    observation, info = env.reset(seed=0)
    alone = NoiseWorld()
    expected, expected_info = alone.reset(seed=0)
    for key in expected:
        np.testing.assert_array_equal(observation[key], expected[key])
    assert set(info) == set(expected_info)
    assert env.observation_space == world.observation_space


def test_a_reward_wrapper_inside_is_recorded_too(tmp_path: Path) -> None:
    """Its episodes end where it ends them."""
    spec = RewardSpec(success_threshold=0.5, patience=1, terminate_on_success=True)
    env = RobometerReward(BrightnessWorld(), BrightnessModel(), TASK, spec)
    env = RecordTrajectories(env, tmp_path / "a", TASK)
    env.reset(seed=0)
    while not any(env.step(0)[2:4]):
        pass
    (trajectory,) = env.store
    assert trajectory.steps.tolist() == [0, 1, 2, 3, 4]
    assert trajectory.quality_label == "failure"


class Silent(BrightnessWorld):
    def step(self, action: int) -> Any:
        *rest, _ = super().step(action)
        return *rest, {"speed": 1.0}


class TestRefused:
    def play(self, env: Any) -> None:
        env.reset(seed=0)
        while not any(env.step(0)[2:4]):
            pass

    def test_no_word_of_success(self, tmp_path: Path) -> None:
        env = RecordTrajectories(Silent(), tmp_path / "a", TASK)
        with pytest.raises(TrueSuccessError, match=r"nothing of success .* they have \['speed'\]. Give success_key="):
            self.play(env)
        with pytest.raises(ResetNeeded):
            env.step(0)

    def test_another_key(self, tmp_path: Path) -> None:
        env = RecordTrajectories(BrightnessWorld(), tmp_path / "a", TASK, success_key="solved")
        with pytest.raises(KeyError, match="success_key 'solved'"):
            self.play(env)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"state": "obs/block"}, r"state comes from 'obs/block', and the observation has \['image', 'state'\]"),
            ({"state": {"block": "obs/block"}}, "state 'block' comes from"),
            ({"state": "obs"}, r"keys \['image', 'state'\]; choose one, as in 'obs/KEY', or name the parts"),
            ({"distance": "info/distance"}, "the info has .* read after a reset as well as after a step"),
            ({"distance": "obs/state"}, "distance has 2 values; expected a single number"),
            ({"progress": lambda o, i: float("nan")}, "progress has NaN"),
            ({"progress": lambda o, i: "half"}, "progress is 'half' of type str; expected numbers"),
        ],
    )
    def test_measurements_that_are_none(self, options: Any, message: str, tmp_path: Path) -> None:
        env = RecordTrajectories(NoiseWorld(), tmp_path / "a", TASK, **options)
        with pytest.raises(MeasurementError, match=f"environment 0: .*{message}"):
            env.reset(seed=0)

    def test_a_state_that_changes_its_layout(self, tmp_path: Path) -> None:
        state = {"a": lambda o, i: np.zeros(1 + i["t"])}
        env = RecordTrajectories(NoiseWorld(), tmp_path / "a", TASK, state=state)
        env.reset(seed=0)
        with pytest.raises(MeasurementError, match=r"are now {'a': \(0, 2\)}, and were {'a': \(0, 1\)}"):
            env.step(0)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"every": 0}, ValueError, "every=0; expected a positive number of steps"),
            ({"every": True}, ValueError, "every=True"),
            ({"size": 8}, ValueError, "size=8; expected at least 16 pixels, or None"),
            ({"frames": ("render", "obs/image")}, ValueError, "names 2 cameras; a trajectory has one"),
            ({"frames": "obs/state"}, FrameError, "obs/state"),
            ({"frames": "pixels"}, ValueError, "unknown frames 'pixels'"),
            ({"state": {}}, ValueError, "has no parts"),
            ({"distance": "goal"}, ValueError, "unknown distance 'goal'; expected 'obs'"),
        ],
    )
    def test_options(self, options: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
        with pytest.raises(error, match=message):
            RecordTrajectories(NoiseWorld(), tmp_path / "a", TASK, **options)
        assert not (tmp_path / "a").exists()

    def test_tasks(self, tmp_path: Path) -> None:
        with pytest.raises(TaskError):
            RecordTrajectories(NoiseWorld(), tmp_path / "a", "")
        with pytest.raises(ValueError, match="record the stages as tasks"):
            RecordTrajectories(NoiseWorld(), tmp_path / "a", TaskStages((TASK, TASK)))

    def test_another_directory(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("")
        with pytest.raises(StoreError, match=r"is not empty and has no store\.json"):
            RecordTrajectories(NoiseWorld(), tmp_path, TASK)

    def test_environments_that_cannot_be_rendered(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="render_mode='rgb_array'"):
            RecordTrajectories(NoiseWorld(render_mode=None), tmp_path / "a", TASK)
        envs = SyncVectorEnv([NoiseWorld] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
        with pytest.raises(ValueError, match="RenderToInfo"):
            VectorRecordTrajectories(envs, tmp_path / "a", TASK)
        with pytest.raises(ValueError, match="RenderToInfo"):
            VecRecordTrajectories(DummyVecEnv([NoiseWorld]), tmp_path / "a", TASK)
        with pytest.raises(ValueError, match=r"renders every \[2\] steps, but frames are wanted with every=3"):
            RecordTrajectories(RenderToInfo(NoiseWorld(), 2), tmp_path / "a", TASK, every=3)

    def test_stacked_grey_frames(self, tmp_path: Path) -> None:
        world = BrightnessWorld(shape=(8, 8))
        world.observation_space = spaces.Box(0, 255, (8, 8), np.uint8)
        with pytest.raises(FrameError):
            RecordTrajectories(world, tmp_path / "a", TASK, frames="obs")


@pytest.mark.parametrize("kind", ["scalar", "disabled"])
def test_no_step_after_the_end(kind: str, tmp_path: Path) -> None:
    player = make_player(kind, 1, tmp_path / "a")
    env = player.env[0] if kind == "scalar" else player.env
    action = 0 if kind == "scalar" else np.zeros(1, np.int64)
    with pytest.raises(ResetNeeded):
        env.step(action)
    env.reset(seed=0)
    while not any(np.any(value) for value in env.step(action)[2:4]):
        pass
    with pytest.raises(ResetNeeded, match="have ended"):
        env.step(action)
