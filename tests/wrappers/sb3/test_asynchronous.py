"""Rewards that arrive later are those that would have been paid at once, whatever the timing."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.wrappers import FilterObservation, FlattenObservation
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from robometer_rl.frames import Clip
from robometer_rl.prediction import Prediction
from robometer_rl.rewards import RewardSpec
from robometer_rl.wrappers import (
    AsyncVecRobometerReward,
    LabelledDictReplayBuffer,
    LabelledReplayBuffer,
    RenderToInfo,
    TaskFromAttribute,
    TaskStages,
    VecRobometerReward,
)
from robometer_rl.wrappers.sb3.asynchronous import ScoringThread, UnclaimedRewardError
from tests.fixed_models import PixelModel
from tests.wrappers.worlds import TASK, NoiseEpisode, NoiseWorld, expected_episode

# One object, so that what it expects is cached.
REFERENCE = PixelModel()
SPEC = RewardSpec(task_weight=0.5, success_threshold=0.5, success_bonus=2.0, every=2)


class SlowModel(PixelModel):
    """Takes its time: ``delays`` seconds, one after the other and then again from the first."""

    def __init__(self, delays: Sequence[float]) -> None:
        super().__init__()
        self.delays = delays

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        time.sleep(self.delays[self.calls % len(self.delays)])
        return super().predict(clips)


class FailingModel(PixelModel):
    """Fails at the call with this number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        if self.calls == self.number:
            raise ZeroDivisionError("the model failed")
        return super().predict(clips)


class GatedModel(PixelModel):
    """Answers while the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def predict(self, clips: Sequence[Clip]) -> list[Prediction]:
        assert self.gate.wait(300)
        return super().predict(clips)


def make(model: Any = None, num_envs: int = 2, spec: RewardSpec = SPEC, **kwargs: Any) -> AsyncVecRobometerReward:
    venv = DummyVecEnv([NoiseWorld] * num_envs)
    return AsyncVecRobometerReward(venv, model or PixelModel(), TASK, spec, "obs/image", **kwargs)


def make_learnable(model: Any = None, **kwargs: Any) -> AsyncVecRobometerReward:
    """With observations that a small network reads quickly."""
    venv = DummyVecEnv([lambda: FilterObservation(NoiseWorld(), ["state"])] * 2)
    return AsyncVecRobometerReward(venv, model or PixelModel(), TASK, SPEC, "info/wrist", **kwargs)


def make_buffer(venv: VecEnv, rows: int) -> LabelledDictReplayBuffer:
    space, num_envs = venv.observation_space, venv.num_envs
    return LabelledDictReplayBuffer(rows * num_envs, space, venv.action_space, device="cpu", n_envs=num_envs)


def make_agent(venv: VecEnv, buffer: Any = LabelledDictReplayBuffer, **kwargs: Any) -> DQN:
    arguments = {"learning_starts": 10, "batch_size": 8, "buffer_size": 400, "train_freq": 1, "seed": 3, **kwargs}
    arguments["policy_kwargs"] = {"net_arch": [4]}
    policy = "MultiInputPolicy" if isinstance(venv.observation_space, spaces.Dict) else "MlpPolicy"
    return DQN(policy, venv, replay_buffer_class=buffer, **arguments)


def labelled(agent: DQN) -> LabelledReplayBuffer:
    assert isinstance(agent.replay_buffer, LabelledReplayBuffer)
    return agent.replay_buffer


BEFORE = set(threading.enumerate())


@pytest.fixture(autouse=True)
def threads_of_earlier_tests() -> None:
    BEFORE.update(threading.enumerate())


def scoring_threads() -> list[str]:
    """Those of this test."""
    return [thread.name for thread in set(threading.enumerate()) - BEFORE if "robometer-scoring" in thread.name]


def step_and_store(venv: Any, buffer: ReplayBuffer, observations: Any) -> tuple[Any, list[dict[str, Any]]]:
    """What an off-policy algorithm does with one step; returns the next observations and the infos."""
    next_observations, rewards, dones, infos = venv.step(np.zeros(venv.num_envs, np.int64))
    assert np.isnan(rewards).all()
    stored = {key: batch.copy() for key, batch in next_observations.items()}
    for index in np.flatnonzero(dones):
        for key, batch in stored.items():
            batch[index] = infos[index]["terminal_observation"][key]
    buffer.add(observations, stored, np.zeros(venv.num_envs), rewards, dones, infos)  # pyright: ignore[reportArgumentType]
    return next_observations, infos


@settings(max_examples=30)
@given(
    delays=st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.004]), min_size=1, max_size=6),
    pauses=st.lists(st.sampled_from([0.0, 0.0, 0.002]), min_size=1, max_size=6),
    max_pending=st.integers(1, 6),
    rows=st.integers(1, 30),
    num_envs=st.integers(1, 3),
    samples=st.lists(st.booleans(), min_size=5, max_size=40),
    every=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_nothing_is_lost_or_doubled_whatever_the_timing(
    delays: list[float],
    pauses: list[float],
    max_pending: int,
    rows: int,
    num_envs: int,
    samples: list[bool],
    every: int,
    seed: int,
) -> None:
    model, spec = SlowModel(delays), RewardSpec(task_weight=0.5, success_threshold=0.5, success_bonus=2.0, every=every)
    venv = make(model, num_envs, spec=spec, max_pending=max_pending)
    buffer = make_buffer(venv, rows)
    venv.seed(seed)
    observations = venv.reset()
    # By the image after the step, which no other step has.
    expected: dict[bytes, float] = {}
    for step, samples_now in enumerate(samples):
        time.sleep(pauses[step % len(pauses)])
        observations, infos = step_and_store(venv, buffer, observations)
        for info in infos:
            episode = NoiseEpisode(info["number"], 9, 8)
            rewards = expected_episode(episode, REFERENCE, spec, ("obs/image",), TASK).rewards.tolist()
            expected[episode.frame(info["t"], "obs/image").tobytes()] = rewards[info["t"] - 1]
        if samples_now:
            batch: Any = buffer.sample(8)
            for image, reward in zip(batch.next_observations["image"].numpy(), batch.rewards.numpy(), strict=True):
                assert reward == pytest.approx(expected[image.tobytes()], abs=1e-6)
    buffer.drain()
    assert buffer.labels_written + buffer.labels_dropped == len(samples) * num_envs
    assert buffer.labels_written >= buffer.size() * num_envs
    for row in range(buffer.size()):
        for index in range(num_envs):
            image = buffer.next_observations["image"][row, index]
            assert buffer.rewards[row, index] == pytest.approx(expected[image.tobytes()], abs=1e-6)
    venv.close()


def test_labels_are_dropped_where_the_buffer_is_smaller_than_the_queue() -> None:
    model = GatedModel()
    venv = make(model, max_pending=20)
    buffer = make_buffer(venv, 4)
    observations = venv.reset()
    for _ in range(10):
        observations, _ = step_and_store(venv, buffer, observations)
    model.gate.set()
    buffer.drain()
    assert (buffer.labels_written, buffer.labels_dropped) == (4 * 2, 6 * 2)
    venv.close()


TASKS = {"one": TASK, "attribute": TaskFromAttribute("instruction"), "stages": TaskStages(("reach", "grasp", "lift"))}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("frames", ["info/wrist", ("render", "info/wrist")], ids=str)
def test_an_algorithm_stores_the_rewards_that_it_would_have_been_paid_at_once(task: Any, frames: Any) -> None:
    def learn(kind: Any, buffer: Any) -> tuple[DQN, Any]:
        def world() -> Any:
            return RenderToInfo(FilterObservation(NoiseWorld(), ["state"]), SPEC.every)

        venv = kind(DummyVecEnv([world] * 2), PixelModel(), task, SPEC, frames)
        agent = make_agent(venv, buffer).learn(120)
        venv.close()
        return agent, venv

    at_once, _ = learn(VecRobometerReward, DictReplayBuffer)
    later, venv = learn(AsyncVecRobometerReward, LabelledDictReplayBuffer)
    buffer, reference = labelled(later), at_once.replay_buffer
    assert isinstance(reference, DictReplayBuffer)
    buffer.drain()
    assert buffer.labels_written == 120
    np.testing.assert_array_equal(buffer.rewards, reference.rewards)
    np.testing.assert_array_equal(buffer.dones, reference.dones)
    ended = int(reference.dones.sum())
    assert len(venv.episodes) == ended > 5
    assert {entry["environment"] for entry in venv.episodes} == {0, 1}
    assert all({"robometer/episode", "robometer/true_success"} < set(entry) for entry in venv.episodes)
    for entry in venv.episodes:
        assert entry["robometer/episode"]["length"] <= 9


def test_flat_observations_and_normalised_ones() -> None:
    def world() -> Any:
        return Monitor(FlattenObservation(FilterObservation(NoiseWorld(max_length=1), ["state"])))

    reward = AsyncVecRobometerReward(DummyVecEnv([world] * 2), PixelModel(), TASK, RewardSpec(), "info/wrist")
    agent = make_agent(VecNormalize(reward, norm_reward=False), LabelledReplayBuffer).learn(80)
    buffer = labelled(agent)
    buffer.drain()
    assert buffer.rewards[:40].flatten().tolist() == pytest.approx(
        [entry["robometer/episode"]["return"] for entry in reward.episodes]
    )
    # True returns, from the monitors inside.
    assert agent.ep_info_buffer is not None
    true_returns = [entry["robometer/episode"]["task_return"] for entry in reward.episodes]
    assert [episode["r"] for episode in agent.ep_info_buffer] == true_returns
    reward.close()


class TestQueue:
    def test_it_blocks_when_it_is_full(self) -> None:
        model = GatedModel()
        venv = make(model, max_pending=3)
        buffer = make_buffer(venv, 50)
        stored: list[int] = []

        def act() -> None:
            observations = venv.reset()
            for number in range(8):
                observations, _ = step_and_store(venv, buffer, observations)
                stored.append(number)

        actor = threading.Thread(target=act)
        actor.start()
        # The reset and two steps wait to be scored; the third step waits for a place.
        while len(stored) < 2:
            time.sleep(0.005)
        time.sleep(0.1)
        assert stored == [0, 1]
        model.gate.set()
        actor.join()
        assert stored == list(range(8))
        buffer.drain()
        assert buffer.labels_written == 16
        venv.close()

    @pytest.mark.parametrize("value", [0, -1, 2.0, True, None])
    def test_capacity(self, value: Any) -> None:
        with pytest.raises(ValueError, match="max_pending must be a positive integer"):
            make(max_pending=value)


class TestShutdown:
    def test_closing_scores_what_is_queued_and_ends_the_thread(self) -> None:
        venv = make(SlowModel([0.01]))
        buffer = make_buffer(venv, 20)
        observations = venv.reset()
        assert scoring_threads()
        for _ in range(10):
            observations, _ = step_and_store(venv, buffer, observations)
        venv.close()
        venv.close()
        assert not scoring_threads()
        buffer.drain()
        assert buffer.labels_written == 20

    def test_a_wrapper_that_was_forgotten_ends_its_thread(self) -> None:
        make().reset()
        while scoring_threads():
            gc.collect()
            time.sleep(0.01)

    @pytest.mark.parametrize("number", [0, 3, 20])
    def test_what_the_model_raises_is_raised_in_the_training_thread(self, number: int) -> None:
        venv = make_learnable(FailingModel(number))
        with pytest.raises(ZeroDivisionError, match="the model failed"):
            make_agent(venv).learn(400)
        # And again, wherever the training goes on.
        for go_on in (lambda: venv.step(np.zeros(2, np.int64)), venv.reset):
            with pytest.raises(ZeroDivisionError, match="the model failed"):
                go_on()
        venv.close()
        assert not scoring_threads()

    def test_a_failure_that_nobody_met_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        venv = make(FailingModel(0))
        venv.reset()
        venv.close()
        assert "scoring had stopped with ZeroDivisionError('the model failed')" in caplog.text


class TestAlgorithm:
    def test_saving_drains_and_a_loaded_buffer_goes_on(self, tmp_path: Path) -> None:
        venv = make_learnable(SlowModel([0.003]))
        agent = make_agent(venv).learn(60)
        agent.save_replay_buffer(tmp_path / "buffer")
        assert labelled(agent).labels_waiting == 0
        before = labelled(agent).rewards.copy()
        agent.load_replay_buffer(tmp_path / "buffer")
        np.testing.assert_array_equal(labelled(agent).rewards, before)
        agent.learn(60, reset_num_timesteps=False)
        labelled(agent).drain()
        assert labelled(agent).labels_written == 120
        assert not np.isnan(labelled(agent).rewards[:60]).any()
        venv.close()

    def test_the_agent_is_saved_and_loaded(self, tmp_path: Path) -> None:
        venv = make_learnable()
        make_agent(venv).learn(20).save(tmp_path / "agent")
        agent = DQN.load(tmp_path / "agent", env=venv).learn(20)
        labelled(agent).drain()
        assert labelled(agent).labels_written == 20
        venv.close()

    def test_a_callback_may_stop_it_between_a_step_and_its_storage(self) -> None:
        venv = make_learnable()
        agent = make_agent(venv)
        agent.learn(400, callback=StopTrainingOnMaxEpisodes(1))
        # The step that stopped it was not stored; the next ones are.
        stored = labelled(agent).pos
        agent.learn(20, reset_num_timesteps=False)
        labelled(agent).drain()
        assert labelled(agent).labels_written == (stored + 10) * 2
        venv.close()

    def test_samples_are_labelled_from_the_first_gradient_step(self) -> None:
        class Watch(BaseCallback):
            def _on_step(self) -> bool:
                return True

            def _on_rollout_end(self) -> None:
                buffer = self.model.replay_buffer  # pyright: ignore[reportAttributeAccessIssue]
                assert not np.isnan(buffer.sample(16).rewards).any()

        venv = make_learnable(SlowModel([0.002]))
        make_agent(venv, learning_starts=0, train_freq=1).learn(40, callback=Watch())
        venv.close()


class TestRefusals:
    def test_an_on_policy_algorithm(self) -> None:
        agent = PPO("MultiInputPolicy", make_learnable(), n_steps=8, batch_size=8, policy_kwargs={"net_arch": [4]})
        with pytest.raises(UnclaimedRewardError, match=r"On-policy algorithms.*use VecRobometerReward"):
            agent.learn(40)

    def test_an_ordinary_buffer(self) -> None:
        with pytest.raises(UnclaimedRewardError, match="replay_buffer_class=LabelledReplayBuffer"):
            make_agent(make_learnable(), DictReplayBuffer).learn(40)

    def test_an_n_step_buffer(self) -> None:
        venv = DummyVecEnv([lambda: FlattenObservation(FilterObservation(NoiseWorld(), ["state"]))])
        reward = AsyncVecRobometerReward(venv, PixelModel(), TASK, frames="info/wrist")
        agent = make_agent(reward, None, n_steps=3)
        assert isinstance(agent.replay_buffer, NStepReplayBuffer)
        with pytest.raises(UnclaimedRewardError, match="n-step"):
            agent.learn(40)

    def test_normalised_rewards(self) -> None:
        venv = VecNormalize(make_learnable(), norm_obs=False)
        with pytest.raises(ValueError, match=r"VecNormalize\(norm_reward=False\)"):
            make_agent(venv).learn(40)

    def test_evaluation_in_the_same_environment(self) -> None:
        venv = make_learnable()
        agent = make_agent(venv).learn(20)
        with pytest.raises(UnclaimedRewardError, match="evaluation"):
            evaluate_policy(agent, venv, warn=False)

    def test_ending_episodes_on_predicted_success(self) -> None:
        with pytest.raises(ValueError, match="terminate_on_success needs the prediction before the next step"):
            make(spec=RewardSpec(terminate_on_success=True))

    def test_a_step_before_the_reset(self) -> None:
        with pytest.raises(ResetNeeded, match="call reset"):
            make().step(np.zeros(2, np.int64))


@pytest.mark.parametrize("call", ["reset", "step"])
def test_after_close_every_call_is_refused_at_once(call: str) -> None:
    env = AsyncVecRobometerReward(DummyVecEnv([lambda: RenderToInfo(NoiseWorld())]), PixelModel(), TASK, max_pending=2)
    env.reset()
    env.close()
    # More often than there are places in the queue.
    for _ in range(5):
        with pytest.raises(ClosedEnvironmentError, match="make another one"):
            env.reset() if call == "reset" else env.step(np.zeros(1, np.int64))


def test_who_waits_for_a_place_when_the_thread_is_closed_is_refused() -> None:
    gate, thread = threading.Event(), ScoringThread(1)
    running = thread.submit(gate.wait)
    refused: list[BaseException] = []

    def wait() -> None:
        try:
            thread.submit(lambda: None)
        except ClosedEnvironmentError as error:
            refused.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    closing = threading.Thread(target=thread.close)
    closing.start()
    while not thread._is_closed:
        time.sleep(0.001)
    gate.set()
    for each in (waiting, closing):
        each.join(30)
        assert not each.is_alive()
    assert running.result() is True
    assert len(refused) == 1
    with pytest.raises(ClosedEnvironmentError):
        thread.submit(lambda: None)


def test_task_rewards_that_the_environment_overwrites_are_those_of_their_step() -> None:
    class Reuses(DummyVecEnv):
        rewards = np.zeros(1)

        def step_wait(self) -> Any:
            observations, _, dones, infos = super().step_wait()
            self.rewards += 1.0
            return observations, self.rewards, dones, infos

    model = GatedModel()
    venv = Reuses([lambda: RenderToInfo(NoiseWorld(max_length=1))])
    env = AsyncVecRobometerReward(venv, model, TASK, RewardSpec(mode="success", task_weight=1.0, success_threshold=1.0))
    env.reset()
    pending = []
    for _ in range(3):
        pending.append(env.step(np.zeros(1, np.int64))[3][0]["robometer/pending"])
        pending[-1].claimed = True
    model.gate.set()
    assert [each.wait().tolist() for each in pending] == [[1.0], [2.0], [3.0]]
    env.close()
