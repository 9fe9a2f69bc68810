from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer, RolloutBuffer
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from robometer_rl.data.reading import SourceError
from robometer_rl.formats.dataset import DatasetOptions
from robometer_rl.formats.sb3 import ATTRIBUTE, BufferDataset, open_dataset
from robometer_rl.formats.table import detect_format
from robometer_rl.relabeling.buffers import relabel_buffer
from robometer_rl.relabeling.commands import relabel
from robometer_rl.relabeling.engine import Labeller
from robometer_rl.rewards import RewardSpec
from tests.fixed_models import PixelModel
from tests.relabeling.episodes import SPECS, TASK, Recorded, live_rewards, record, without_last_frame

IMAGE = spaces.Box(0, 255, (8, 8, 3), np.uint8)
DICT = spaces.Dict({"front": IMAGE, "wrist": IMAGE, "state": spaces.Box(-1, 1, (2,))})
ACTION = spaces.Discrete(2)


def runs(seed: int, lengths=(3, 1, 5, 2), cameras=("front",)) -> list[Recorded]:
    return [
        record(length, seed + number, cameras=cameras, terminated=number % 2 == 0)
        for number, length in enumerate(lengths)
    ]


def make(size: int, environments: int = 1, **options) -> ReplayBuffer:
    return ReplayBuffer(size * environments, IMAGE, ACTION, n_envs=environments, **options)


def fill(buffer: ReplayBuffer, columns: list[list[Recorded]], steps: int | None = None) -> None:
    """Adds steps of environments that play through their recordings one after the other."""
    moments = [[(run, t) for run in column for t in range(run.num_steps)] for column in columns]
    for row in list(zip(*moments, strict=True))[:steps]:
        dones = [t == run.num_steps - 1 for run, t in row]

        def stack(offset: int, row=row) -> Any:
            names = row[0][0].cameras
            images = {name: np.stack([run.cameras[name][t + offset] for run, t in row]) for name in names}
            state = {"state": np.zeros((len(row), 2), np.float32)}
            return images | state if isinstance(buffer, DictReplayBuffer) else images["front"]

        infos = [
            {"TimeLimit.truncated": done and not run.terminated} for (run, _), done in zip(row, dones, strict=True)
        ]
        rewards = np.array([run.rewards[t] for run, t in row])
        buffer.add(stack(0), stack(1), np.zeros((len(row), 1)), rewards, np.array(dones), infos)


def expected_rewards(column: list[Recorded], spec: RewardSpec) -> np.ndarray:
    return np.concatenate([live_rewards(run, PixelModel(), spec) for run in column])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.mode}-{spec.every}")
def test_a_buffer_in_memory_gets_the_rewards_that_the_live_wrapper_pays(spec):
    columns = [runs(0), runs(10, (4, 4, 2, 1))]
    buffer = make(20, environments=2)
    fill(buffer, columns)
    rewards, pictures = buffer.rewards, buffer.observations.copy()
    original = rewards.copy()
    labels = relabel_buffer(buffer, Labeller(PixelModel(), spec), TASK)
    assert labels.skipped == ()
    assert buffer.rewards is rewards
    for environment, column in enumerate(columns):
        np.testing.assert_allclose(rewards[:11, environment], expected_rewards(column, spec), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(buffer.observations, pictures)
    stored = vars(buffer)[ATTRIBUTE]
    np.testing.assert_array_equal(stored["original_rewards"], original)
    assert stored["labelled"][:11].all()
    assert not stored["labelled"][11:].any()
    assert not stored["imputed"].any()


def test_progress_and_success_are_those_of_the_observation_after_the_step():
    buffer = make(4)
    (run,) = runs(0, (3,))
    fill(buffer, [[run]])
    labels = relabel_buffer(buffer, Labeller(PixelModel(), RewardSpec("level")), TASK)
    stored = vars(buffer)[ATTRIBUTE]
    np.testing.assert_array_equal(stored["progress"][:3, 0], next(iter(labels.episodes.values())).progress[1:])
    np.testing.assert_allclose(stored["progress"][:3, 0], buffer.rewards[:3, 0])


@pytest.mark.parametrize("extra", [0, 1, 4])
def test_the_oldest_episode_of_a_full_ring_is_listed_and_keeps_its_rewards(extra):
    column = runs(0, (5, 4, 3))
    buffer = make(12 - extra)
    fill(buffer, [column])
    original = buffer.rewards.copy()
    labels = relabel_buffer(buffer, Labeller(PixelModel()), TASK)
    assert [entry.name for entry in labels.skipped] == [
        f"environment 0, row {extra}" if extra else "environment 0, row 0"
    ]
    assert "overwritten" in labels.skipped[0].reason
    rows = np.arange(12) % (12 - extra)
    cut, whole = rows[extra:5], rows[5:]
    np.testing.assert_array_equal(buffer.rewards[cut], original[cut])
    expected = expected_rewards(column[1:], RewardSpec())
    np.testing.assert_allclose(buffer.rewards[whole, 0], expected, rtol=0, atol=1e-6)
    stored = vars(buffer)[ATTRIBUTE]
    assert not stored["labelled"][cut].any()
    assert np.isnan(stored["progress"][cut]).all()
    assert stored["labelled"][whole].all()


def test_the_newest_episode_may_still_be_going_on():
    (run,) = runs(0, (6,))
    buffer = make(10)
    fill(buffer, [[run]], steps=4)
    dataset = BufferDataset(buffer, DatasetOptions(Path("x"), tasks=(TASK,)))
    episode = dataset.episode(dataset.keys[0])
    assert (episode.num_steps, episode.num_frames, episode.terminated, episode.truncated) == (4, 5, False, True)
    relabel_buffer(buffer, Labeller(PixelModel()), TASK)
    np.testing.assert_allclose(buffer.rewards[:4, 0], live_rewards(run, PixelModel(), RewardSpec())[:4], atol=1e-6)


def test_a_reset_without_a_done_ends_an_episode():
    first, second = runs(0, (6, 3))
    buffer = make(20)
    fill(buffer, [[first]], steps=4)
    fill(buffer, [[second]])
    labels = relabel_buffer(buffer, Labeller(PixelModel()), TASK)
    assert [episode.num_steps for episode in labels.episodes.values()] == [4, 3]
    expected = [live_rewards(first, PixelModel(), RewardSpec())[:4], live_rewards(second, PixelModel(), RewardSpec())]
    np.testing.assert_allclose(buffer.rewards[:7, 0], np.concatenate(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_memory_efficient_buffer_loses_last_observations_and_imputes(wrapped):
    column = runs(0, (4, 5, 3))
    buffer = make(12 if wrapped else 20, optimize_memory_usage=True, handle_timeout_termination=False)
    fill(buffer, [column])
    labels = relabel_buffer(buffer, Labeller(PixelModel()), TASK)
    stored = vars(buffer)[ATTRIBUTE]
    # The newest episode still has its last observation; the oldest of a full ring is cut.
    assert np.flatnonzero(stored["imputed"][:, 0]).tolist() == ([8] if wrapped else [3, 8])
    assert len(labels.skipped) == int(wrapped)
    for start, run in zip((0, 4, 9), column, strict=True):
        if wrapped and start == 0:
            assert not stored["labelled"][:4].any()
            continue
        is_newest = start == 9
        seen = run if is_newest else without_last_frame(run)
        expected = live_rewards(seen, PixelModel(), RewardSpec())
        np.testing.assert_allclose(buffer.rewards[start : start + len(expected), 0], expected, rtol=0, atol=1e-6)
        if not is_newest:
            assert buffer.rewards[start + run.num_steps - 1, 0] == 0.0


def test_dictionary_buffers_have_a_camera_per_image():
    column = runs(0, cameras=("front", "wrist"))
    buffer = DictReplayBuffer(20, DICT, ACTION)
    fill(buffer, [column])
    with pytest.raises(SourceError, match="expected one of obs/front, obs/wrist"):
        relabel_buffer(buffer, Labeller(PixelModel()), TASK)
    relabel_buffer(buffer, Labeller(PixelModel()), TASK, cameras=("obs/front", "obs/wrist"))
    np.testing.assert_allclose(buffer.rewards[:11, 0], expected_rewards(column, RewardSpec()), rtol=0, atol=1e-6)


def test_channels_may_come_first():
    image = spaces.Box(0, 255, (3, 8, 8), np.uint8)
    (run,) = runs(0, (3,))
    buffer = ReplayBuffer(5, image, ACTION)
    turned = Recorded({"front": run.cameras["front"].transpose(0, 3, 1, 2)}, run.rewards)
    fill(buffer, [[turned]])
    relabel_buffer(buffer, Labeller(PixelModel()), TASK)
    np.testing.assert_allclose(buffer.rewards[:3, 0], expected_rewards([run], RewardSpec()), rtol=0, atol=1e-6)


class World(gym.Env):
    action_space = ACTION

    def __init__(self, size: int = 8):
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), 0.0, False, self.t == 5, {}


@pytest.mark.parametrize("mode", ["copy", "in_place"])
def test_a_saved_buffer_is_read_by_stable_baselines3_and_samples_the_new_rewards(tmp_path, mode):
    column = runs(0)
    buffer = make(20)
    fill(buffer, [column])
    path = tmp_path / "buffer.pkl"
    save_to_pkl(path, buffer)
    before = path.read_bytes()
    assert detect_format(path) == "sb3"
    dataset = open_dataset(DatasetOptions(path, tasks=(TASK,)))
    writer = dataset.writer(mode)
    assert writer.written() is None
    labeller = Labeller(PixelModel())
    relabel(dataset, labeller, writer)
    assert writer.destination == (path if mode == "in_place" else tmp_path / "buffer-robometer.pkl")
    assert (path.read_bytes() == before) is (mode == "copy")
    found = load_from_pkl(writer.destination)
    np.testing.assert_allclose(found.rewards[:11, 0], expected_rewards(column, RewardSpec()), rtol=0, atol=1e-6)
    for name in ("observations", "next_observations", "dones", "timeouts", "actions"):
        np.testing.assert_array_equal(getattr(found, name), getattr(buffer, name))
    assert set(found.sample(50).rewards.flatten().tolist()) <= set(found.rewards.flatten().tolist())
    assert open_dataset(DatasetOptions(writer.destination, tasks=(TASK,))).writer("in_place").written() == (
        labeller.provenance(dataset)
    )


def test_an_algorithm_loads_a_relabelled_buffer_and_learns_from_it(tmp_path):
    # The smallest pictures that this policy takes.
    algorithm = DQN("CnnPolicy", World(36), buffer_size=50, learning_starts=10, device="cpu", seed=0)
    algorithm.learn(20)
    algorithm.save_replay_buffer(tmp_path / "buffer.pkl")
    dataset = open_dataset(DatasetOptions(tmp_path / "buffer.pkl", tasks=(TASK,)))
    relabel(dataset, Labeller(PixelModel()), dataset.writer("copy"))
    algorithm.load_replay_buffer(tmp_path / "buffer-robometer.pkl")
    assert np.abs(algorithm.replay_buffer.rewards[:20]).min() > 0
    algorithm.learn(10, reset_num_timesteps=False)


def test_relabelling_again_starts_from_the_original_rewards_unless_the_buffer_has_grown():
    spec = RewardSpec("level", task_weight=1.0)
    buffer = make(20)
    fill(buffer, [runs(0)])
    relabel_buffer(buffer, Labeller(PixelModel(), spec), TASK)
    once = buffer.rewards.copy()
    relabel_buffer(buffer, Labeller(PixelModel(), spec), TASK)
    np.testing.assert_array_equal(buffer.rewards, once)
    fill(buffer, [runs(50)])
    with pytest.raises(SourceError, match="transitions were added"):
        relabel_buffer(buffer, Labeller(PixelModel(), spec), TASK)


def test_what_cannot_be_relabelled_says_why(tmp_path):
    labeller = Labeller(PixelModel())
    with pytest.raises(SourceError, match="expected a ReplayBuffer"):
        relabel_buffer(RolloutBuffer(5, IMAGE, ACTION), labeller, TASK)
    vectors = ReplayBuffer(5, spaces.Box(-1, 1, (4,)), ACTION)
    with pytest.raises(SourceError, match="holds no pictures"):
        relabel_buffer(vectors, labeller, TASK)
    goals = spaces.Dict({name: spaces.Box(-1, 1, (2,)) for name in ("observation", "achieved_goal", "desired_goal")})
    hindsight = HerReplayBuffer(5, goals, ACTION, env=DummyVecEnv([World]))
    with pytest.raises(SourceError, match="virtual transitions"):
        relabel_buffer(hindsight, labeller, TASK)
    save_to_pkl(tmp_path / "buffer.pkl", make(5))
    with pytest.raises(SourceError, match="does not hold the task"):
        open_dataset(DatasetOptions(tmp_path / "buffer.pkl"))
