"""What little work costs other threads and processes: nothing that outlasts a call."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pytest
import torch

from robometer_rl import Clip, NestedFrames, UniformFrames, load_reward_model
from robometer_rl.models.robometer.inference import Robometer
from robometer_rl.models.robometer.threads import (
    ONE_THREAD_WORK,
    ONE_THREAD_WORK_ASLEEP,
    at_most,
    threads_for,
)

T = TypeVar("T")

TASK = "open the top drawer of the cabinet"
EPISODE = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), np.uint8)
PAIR = (Clip(EPISODE[:4], TASK), Clip(EPISODE[4:8], TASK))


@pytest.fixture(autouse=True)
def _three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("robometer_rl.models.robometer.threads._ASLEEP", False)  # whatever tests are started with
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert (torch.get_num_threads(), mkl_threads()) == (3, 3)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def mini() -> Robometer:
    model = load_reward_model("mini")
    assert isinstance(model, Robometer)
    return model


def mkl_threads() -> int:
    """As many as MKL would start here; as many as torch where there is no MKL."""
    found = re.search(r"mkl_get_max_threads\(\) : (\d+)", torch.__config__.parallel_info())
    return int(found.group(1)) if found else torch.get_num_threads()


def elsewhere(work: Callable[[], T]) -> T:
    """What a thread finds that begins to compute now."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def watch(model: Robometer, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The numbers of threads that the network's passes run on, filled as they run."""
    seen: set[int] = set()
    for name in ("decode", "_decode_chosen"):
        decode = getattr(model.network, name)

        def watched(*args: object, decode: Callable[..., object] = decode, **kwargs: object) -> object:
            seen.add(torch.get_num_threads())
            return decode(*args, **kwargs)

        monkeypatch.setattr(model.network, name, watched)
    return seen


def test_at_most_limits_the_calling_thread_for_a_while() -> None:
    with at_most(1):
        assert (torch.get_num_threads(), mkl_threads()) == (1, 1)
        with at_most(2):  # no more than outside
            assert (torch.get_num_threads(), mkl_threads()) == (1, 1)
    assert (torch.get_num_threads(), mkl_threads()) == (3, 3)


@pytest.mark.parametrize("count", [None, 3, 8])
def test_at_most_never_raises_the_number(count: int | None) -> None:
    with at_most(count):
        assert (torch.get_num_threads(), mkl_threads()) == (3, 3)


def test_an_error_sets_the_number_back() -> None:
    with pytest.raises(KeyError), at_most(1):
        raise KeyError
    assert (torch.get_num_threads(), mkl_threads()) == (3, 3)


def test_a_thread_that_begins_to_compute_meanwhile_keeps_all_its_threads() -> None:
    with ThreadPoolExecutor(1) as pool, at_most(1):
        assert pool.submit(lambda: (torch.ones(9).sum(), torch.get_num_threads(), mkl_threads())).result()[1:] == (3, 3)
    assert elsewhere(torch.get_num_threads) == 3


def test_limits_of_several_threads_do_not_meet() -> None:
    barrier = threading.Barrier(4, timeout=120)

    def limited(count: int) -> tuple[int, int, int]:
        barrier.wait()
        with at_most(count):
            barrier.wait()
            inside, mkl = torch.get_num_threads(), mkl_threads()
            barrier.wait()
        barrier.wait()
        return inside, mkl, torch.get_num_threads()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(limited, [1, 2, 3, 1])) == [(1, 1, 3), (2, 2, 3), (3, 3, 3), (1, 1, 3)]


@pytest.mark.parametrize(("asleep", "limit"), [(False, ONE_THREAD_WORK), (True, ONE_THREAD_WORK_ASLEEP)])
def test_the_size_of_the_work_decides(asleep: bool, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robometer_rl.models.robometer.threads._ASLEEP", asleep)
    frame = 16 * 16 // 4 + 8  # tokens of 256 x 256 pixels
    assert threads_for(5_500_000, 0) == 1
    assert threads_for(5_500_000, 16 * frame // 4) == 1
    assert threads_for(5_500_000, 200 * frame) is None
    assert threads_for(4_000_000_000, frame) is None
    assert threads_for(1, int(limit)) == 1
    assert threads_for(1, int(limit) + 1) is None


@pytest.mark.parametrize("protocol", [NestedFrames(8), UniformFrames(8)])
def test_newest_frames_of_a_small_model_are_one_threads_work(
    mini: Robometer, protocol: NestedFrames | UniformFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(mini, monkeypatch)
    stream = mini.stream([TASK] * 3, protocol)
    for frame in EPISODE[:9]:
        stream.append([frame] * 3)
    assert seen == {1}
    assert torch.get_num_threads() == 3
    stream.reset()
    assert torch.get_num_threads() == 3


def test_so_are_single_questions(mini: Robometer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(mini, monkeypatch)
    mini.predict([PAIR[0]])
    mini.compare([PAIR])
    mini.predict_steps([PAIR[0]])
    assert seen == {1}


def test_many_frames_are_shared_among_all_threads(mini: Robometer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robometer_rl.models.robometer.threads.ONE_THREAD_WORK", 100 * 5.5e6)
    seen = watch(mini, monkeypatch)
    mini.predict_steps([Clip(EPISODE, TASK)])
    mini.predict([Clip(EPISODE[:8], TASK)] * 4)
    mini.compare([PAIR] * 4)
    mini.stream([TASK] * 40).append([EPISODE[0]] * 40)
    assert seen == {3}


@pytest.mark.parametrize(("asked", "used"), [(1, 1), (2, 2), (3, 3), (64, 3)])
def test_a_user_may_decide(mini: Robometer, asked: int, used: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mini, "threads", asked)
    seen = watch(mini, monkeypatch)
    mini.predict_steps([Clip(EPISODE, TASK)])
    mini.stream([TASK]).append([EPISODE[0]])
    assert seen == {used}


def test_a_pass_for_training_is_left_alone(mini: Robometer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(mini, monkeypatch)
    mini.network(mini.processor.progress_inputs([PAIR[0]]))
    assert seen == {3}


def test_a_frame_that_is_refused_sets_the_number_back(mini: Robometer) -> None:
    stream = mini.stream([TASK])
    stream.append([EPISODE[0]])
    with pytest.raises(ValueError, match="after frames of"):
        stream.append([np.zeros((32, 32, 3), np.uint8)])
    assert torch.get_num_threads() == 3


def test_threads_that_score_at_once_get_what_one_gets(mini: Robometer) -> None:
    def score(_: int) -> np.ndarray:
        stream = mini.stream([TASK])
        return np.concatenate([stream.append([frame]).progress for frame in EPISODE[:8]])

    alone = score(0)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(score, range(4)):
            np.testing.assert_allclose(found, alone, atol=1e-6)
    assert elsewhere(torch.get_num_threads) == 3
