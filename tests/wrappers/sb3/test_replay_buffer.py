from __future__ import annotations

import pickle
import threading
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from robometer_rl.wrappers import LabelledDictReplayBuffer, LabelledReplayBuffer
from robometer_rl.wrappers.sb3.replay_buffer import PENDING_KEY, PendingRewards
from robometer_rl.wrappers.scoring import ScoredStep

ENVS = 2
BOX = spaces.Box(-1e6, 1e6, (1,), np.float32)
ACTION = spaces.Discrete(2)


def make(rows: int = 4, *, dictionaries: bool = False, **kwargs: Any) -> LabelledReplayBuffer:
    space = spaces.Dict({"x": BOX}) if dictionaries else BOX
    kind = LabelledDictReplayBuffer if dictionaries else LabelledReplayBuffer
    return kind(rows * ENVS, space, ACTION, device="cpu", n_envs=ENVS, **kwargs)


def reward_of(transition: float) -> float:
    return transition * 0.5 + 0.25


def add(buffer: LabelledReplayBuffer, number: int) -> Future[Any]:
    """Adds one step of all environments, whose transitions have the numbers 2 n and 2 n + 1; its label comes later."""
    future: Future[Any] = Future()
    observations = np.array([[number * ENVS + index] for index in range(ENVS)], np.float32)
    batch: Any = {"x": observations} if isinstance(buffer, LabelledDictReplayBuffer) else observations
    infos: list[dict[str, Any]] = [{PENDING_KEY: PendingRewards(future)} for _ in range(ENVS)]
    buffer.add(batch, batch, np.zeros(ENVS), np.full(ENVS, np.nan), np.zeros(ENVS), infos)
    return future


def label(future: Future[Any], number: int) -> None:
    rewards = np.array([reward_of(number * ENVS + index) for index in range(ENVS)])
    future.set_result(ScoredStep(rewards, np.zeros(ENVS, bool), [{} for _ in range(ENVS)]))


def sampled(buffer: LabelledReplayBuffer, batch_size: int = 32) -> tuple[list[float], list[float]]:
    """Numbers and rewards of sampled transitions."""
    batch = buffer.sample(batch_size)
    observations = batch.observations["x"] if isinstance(batch.observations, dict) else batch.observations
    return observations.flatten().tolist(), batch.rewards.flatten().tolist()


class Timings(RuleBasedStateMachine):
    """Labels arrive in any order, at any time, between any other events."""

    @initialize(
        rows=st.integers(1, 5),
        kind=st.sampled_from(["flat", "dictionaries", "memory-efficient"]),
    )
    def start(self, rows: int, kind: str) -> None:
        efficient = {"optimize_memory_usage": True, "handle_timeout_termination": False}
        self.efficient = kind == "memory-efficient"
        kwargs = efficient if self.efficient else {}
        self.buffer = make(rows, dictionaries=kind == "dictionaries", **kwargs)
        self.rows = rows
        self.added = 0
        self.unlabelled: dict[int, Future[Any]] = {}
        # By slot: the number of the step that it holds.
        self.held: dict[int, int] = {}

    @rule()
    def add(self) -> None:
        self.held[self.buffer.pos] = self.added
        self.unlabelled[self.added] = add(self.buffer, self.added)
        self.added += 1

    @precondition(lambda self: self.unlabelled)
    @rule(data=st.data())
    def a_label_arrives(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.unlabelled)))
        label(self.unlabelled.pop(number), number)

    def known_steps(self) -> set[int]:
        """What the buffer can know without waiting: steps held before the first whose label has not arrived."""
        first = min(self.unlabelled, default=self.added)
        overwritten_next = self.efficient and len(self.held) == self.rows
        return {n for slot, n in self.held.items() if n < first and not (overwritten_next and slot == self.buffer.pos)}

    @precondition(lambda self: self.known_steps())
    @rule()
    def sample(self) -> None:
        transitions, rewards = sampled(self.buffer)
        assert {int(number) // ENVS for number in transitions} <= self.known_steps()
        assert rewards == [reward_of(number) for number in transitions]

    @rule()
    def save_and_load(self) -> None:
        for number in list(self.unlabelled):
            label(self.unlabelled.pop(number), number)
        self.buffer = pickle.loads(pickle.dumps(self.buffer))
        assert self.buffer.labels_waiting == 0

    @rule()
    def reset(self) -> None:
        self.buffer.reset()
        self.held.clear()

    @invariant()
    def every_label_is_written_or_dropped_or_awaited(self) -> None:
        buffer = self.buffer
        assert buffer.labels_written + buffer.labels_dropped + buffer.labels_waiting == self.added * ENVS
        for slot, number in self.held.items():
            for index in range(ENVS):
                reward = buffer.rewards[slot, index]
                assert np.isnan(reward) or reward == reward_of(number * ENVS + index)

    def teardown(self) -> None:
        for number, future in self.unlabelled.items():
            label(future, number)
        self.buffer.drain()
        assert self.buffer.labels_written + self.buffer.labels_dropped == self.added * ENVS
        for slot, number in self.held.items():
            rewards = [reward_of(number * ENVS + index) for index in range(ENVS)]
            assert self.buffer.rewards[slot].tolist() == rewards


TestTimings = Timings.TestCase
TestTimings.settings = settings(max_examples=60, stateful_step_count=40)


def test_a_label_that_comes_after_its_slot_was_overwritten_is_counted_and_dropped() -> None:
    buffer = make(rows=2)
    futures = [add(buffer, number) for number in range(3)]
    for number, future in enumerate(futures):
        label(future, number)
    buffer.drain()
    assert (buffer.labels_written, buffer.labels_dropped) == (2 * ENVS, 1 * ENVS)
    assert buffer.rewards[0].tolist() == [reward_of(4), reward_of(5)]


def test_every_labelled_transition_is_sampled() -> None:
    buffer = make(rows=5)
    for number in range(5):
        future = add(buffer, number)
        if number < 4:
            label(future, number)
    assert set(sampled(buffer, 400)[0]) == set(range(8))


def test_sampling_waits_for_the_first_label() -> None:
    buffer = make()
    future = add(buffer, 0)
    timer = threading.Timer(0.05, label, (future, 0))
    timer.start()
    assert set(sampled(buffer)[0]) == {0.0, 1.0}
    timer.join()


def test_sampling_waits_again_when_what_was_labelled_is_overwritten() -> None:
    buffer = make(rows=1)
    label(add(buffer, 0), 0)
    assert set(sampled(buffer)[0]) == {0.0, 1.0}
    future = add(buffer, 1)
    timer = threading.Timer(0.05, label, (future, 1))
    timer.start()
    assert set(sampled(buffer)[0]) == {2.0, 3.0}
    timer.join()


def test_saving_waits_for_all_labels() -> None:
    buffer = make()
    futures = [add(buffer, number) for number in range(2)]
    timers = [threading.Timer(0.02 * n, label, (future, n)) for n, future in enumerate(futures, start=0)]
    for timer in timers:
        timer.start()
    saved = pickle.loads(pickle.dumps(buffer))
    assert saved.rewards[:2].tolist() == [[reward_of(0), reward_of(1)], [reward_of(2), reward_of(3)]]


@pytest.mark.parametrize("ask", [LabelledReplayBuffer.drain, pickle.dumps, sampled, lambda buffer: add(buffer, 1)])
def test_what_scoring_raised_is_raised_every_time(ask: Any) -> None:
    buffer = make()
    add(buffer, 0).set_exception(ZeroDivisionError("while scoring"))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="while scoring"):
            ask(buffer)


class TestInvalidArguments:
    def test_n_step_returns(self) -> None:
        with pytest.raises(TypeError, match="n-step returns need the rewards of following steps"):
            make(n_steps=3, gamma=0.99)

    def test_dictionaries_need_their_own_buffer(self) -> None:
        with pytest.raises(TypeError, match="LabelledDictReplayBuffer"):
            LabelledReplayBuffer(8, spaces.Dict({"x": BOX}), ACTION)

    def test_other_environments(self) -> None:
        row = np.zeros((ENVS, 1), np.float32)
        with pytest.raises(TypeError, match=r"they have \['success'\]. Around other environments"):
            make().add(row, row, np.zeros(ENVS), np.zeros(ENVS), np.zeros(ENVS), [{"success": 1.0}] * ENVS)

    def test_sampling_from_nothing(self) -> None:
        with pytest.raises(ValueError, match="empty"):
            make().sample(1)
